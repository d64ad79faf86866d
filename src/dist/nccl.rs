//! Gradients of all ranks added up between GPUs.
#![expect(
    unsafe_code,
    reason = "NCCL's own functions, which take addresses on the device"
)]

use super::DistError;
use super::ProcessGroup;
use super::Result;
use super::all_reduce;
use super::link::Link;
use crate::model::ops::cuda::launch::device_address;
use candle_core::CudaDevice;
use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::nccl::result;
use candle_core::cuda_backend::cudarc::nccl::safe::Id;
use candle_core::cuda_backend::cudarc::nccl::sys;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::time::Duration;
use std::time::Instant;

/// Between two looks at whether the sums are there.
const PAUSE: Duration = Duration::from_micros(200);
/// Between two looks at whether the others are.
const LOOK: Duration = Duration::from_secs(1);

/// A communicator over all ranks' GPUs. It lasts as long as the process.
#[derive(Debug)]
pub(super) struct Nccl {
    comm: sys::ncclComm_t,
    device: CudaDevice,
}

// SAFETY: NCCL lets any thread use a communicator, one at a time; `add_up` is called by the training thread alone.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Connects the GPUs of all ranks.
    pub(super) fn connect(dist: &ProcessGroup, device: &Device) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Err(DistError::NoNccl);
        };
        let id = dist.is_first().then(new_id).transpose()?;
        let id = <[u8; 128]>::try_from(dist.broadcast(id)?)
            .map_err(|_| DistError::Tensor(candle_core::Error::msg("NCCL's id is 128 bytes")))?;
        let id = sys::ncclUniqueId {
            internal: id.map(|byte| byte as std::ffi::c_char),
        };
        let (size, rank) = (dist.size(), dist.rank());
        let device = device.clone();
        let connect = move || -> Result<Self> {
            // NCCL takes the GPU that is current in this thread.
            device.cuda_stream().context().bind_to_thread().w()?;
            let mut comm = MaybeUninit::uninit();
            // SAFETY: NCCL writes the communicator unless it fails.
            let comm = unsafe {
                result::comm_init_rank(comm.as_mut_ptr(), size as i32, id, rank as i32)
                    .map_err(in_words)?;
                comm.assume_init()
            };
            let nccl = Self { comm, device };
            // From 2.22 on it connects the GPUs only when they first add something up, for few values in another way than
            // for many.
            for values in [1, all_reduce::BUCKET] {
                nccl.add_up_zeros(values)?;
            }
            Ok(nccl)
        };
        // It waits for a rank that does not come without end.
        let Some(link) = &dist.link else {
            return Err(DistError::NoNccl);
        };
        match link.while_all_are_there(dist.patience, connect)? {
            Some(connected) => connected,
            None => Err(DistError::NotConnected {
                rank,
                ranks: size,
                address: dist.rendezvous.address(),
                seconds: dist.patience.as_secs(),
            }),
        }
    }

    /// Adds the ranks' gradients up in place, in f32. Those in host memory come to the GPU part by part and go back.
    pub(super) fn all_reduce(
        &self,
        link: &Link,
        gradients: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let device = Device::Cuda(self.device.clone());
        all_reduce::in_buckets(
            gradients.values_mut(),
            &device,
            all_reduce::BUCKET,
            |parts| {
                result::group_start().map_err(in_words)?;
                let queued = parts.iter().try_for_each(|part| self.queue(part));
                result::group_end().map_err(in_words)?;
                queued?;
                self.wait(|| link.lost())
            },
        )
    }

    fn add_up_zeros(&self, values: usize) -> Result<()> {
        let device = Device::Cuda(self.device.clone());
        self.queue(&Tensor::zeros(values, DType::F32, &device)?)?;
        self.wait(|| None)
    }

    fn queue(&self, tensor: &Tensor) -> Result<()> {
        if tensor.dtype() != DType::F32 {
            return Err(not_added(tensor.dtype()).into());
        }
        let address = device_address(tensor, &self.device)?;
        // SAFETY: a contiguous tensor of that many values; the stream orders this behind what computes them and before
        // what reads the sums.
        unsafe {
            result::all_reduce(
                address as *const c_void,
                address as *mut c_void,
                tensor.elem_count(),
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                self.comm,
                self.device.cuda_stream().cu_stream().cast(),
            )
        }
        .map_err(in_words)?;
        Ok(())
    }

    /// Until the sums are there. A rank that is lost meanwhile, or a connection, would be waited for without end: the
    /// operation is given up.
    fn wait(&self, lost: impl Fn() -> Option<DistError>) -> Result<()> {
        let done = self.device.cuda_stream().record_event(None).w()?;
        let mut looked = Instant::now();
        while !done.try_is_complete().w()? {
            std::thread::sleep(PAUSE);
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                let failed = self.failure().map(DistError::from);
                if let Some(error) = lost().or(failed) {
                    self.give_up();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What has gone wrong since work was queued.
    fn failure(&self) -> Option<candle_core::Error> {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: NCCL writes the state of a communicator, which lasts as long as the process.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &raw mut state) };
        asked.result().and(state.result()).err().map(in_words)
    }

    fn give_up(&self) {
        // SAFETY: NCCL stops the communicator's kernels; it is used no more, since the run ends.
        if let Err(error) = unsafe { result::comm_abort(self.comm) } {
            tracing::warn!("{}", in_words(error));
        }
    }
}

fn new_id() -> Result<Vec<u8>> {
    let id = Id::new().map_err(in_words)?;
    Ok(id.internal().iter().map(|byte| *byte as u8).collect())
}

/// What NCCL's codes say to a user; the bindings do not even print them.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn in_words(error: result::NcclError) -> candle_core::Error {
    use sys::ncclResult_t as Code;
    let words = match error.0 {
        Code::ncclUnhandledCudaError => "CUDA refused it something, often memory for its buffers",
        Code::ncclSystemError => {
            "the system or the network refused it something: NCCL_SOCKET_IFNAME must name the network between the machines, a \
             container needs shared memory (docker run --shm-size=1g)"
        }
        Code::ncclInvalidArgument | Code::ncclInvalidUsage => {
            "it was used in a way it does not take, as by two ranks with one GPU (CUDA_VISIBLE_DEVICES)"
        }
        Code::ncclRemoteError => "another rank has failed or cannot be reached any more",
        _ => "it failed by itself",
    };
    candle_core::Error::msg(format!(
        "NCCL: {words} ({:?}); NCCL_DEBUG=INFO makes it say more",
        error.0
    ))
}

fn not_added(dtype: DType) -> candle_core::Error {
    candle_core::Error::msg(format!("gradients of {dtype:?} are not added up"))
}

#[cfg(test)]
mod tests {
    use super::super::all_reduce::tests::{by_rank_0, flat, gradients};
    use super::super::launch::Children;
    use super::super::rendezvous::Rendezvous;
    use super::*;
    use std::net::TcpListener;
    use std::process::Command;

    const SOON: Duration = Duration::from_mins(2);
    /// What makes a process of this test one of its ranks: `RANK SIZE PORT`.
    const PLACE: &str = "VIDEOTHINKER_TEST_PLACE";

    /// What this rank gets, the second of its gradients being in host memory.
    fn sums(dist: &ProcessGroup, device: &Device, dtype: DType) -> BTreeMap<String, Tensor> {
        let mut gradients = gradients(dist.rank(), dtype);
        let first = gradients["a"].to_device(device).unwrap();
        gradients.insert("a".to_owned(), first);
        dist.all_reduce(&mut gradients).unwrap();
        gradients
    }

    fn compare(rendezvous: Rendezvous) {
        let (rank, size) = (rendezvous.rank, rendezvous.size);
        let link = Link::open(&rendezvous, SOON).unwrap();
        let mut dist = ProcessGroup::new(rendezvous, SOON, Some(link), Children::default());
        let device = Device::new_cuda_with_stream(rank).unwrap();
        dist.connect(&device).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let wanted = by_rank_0(size, dtype);
            for (name, sum) in sums(&dist, &device, dtype) {
                assert_eq!((sum.dtype(), sum.dims()), (dtype, wanted[&name].dims()));
                // In f32, values can be added in several orders.
                let bound = f32::EPSILON * size as f32;
                let pairs = flat(&sum).into_iter().zip(flat(&wanted[&name]));
                let most = pairs.map(|(got, want)| (got - want).abs());
                let most = most.fold(0.0, f32::max);
                assert!(most <= bound, "{dtype:?} of {size}, {name}: {most}");
            }
        }
    }

    #[test]
    #[ignore = "needs four GPUs, or the stand-in for them with SIM_DEVICES=4"]
    fn sums_are_those_of_the_cpus() {
        if let Ok(numbers) = std::env::var(PLACE) {
            let numbers: Vec<usize> = numbers
                .split(' ')
                .map(|number| number.parse().unwrap())
                .collect();
            return compare(Rendezvous {
                rank: numbers[0],
                size: numbers[1],
                port: numbers[2] as u16,
                ..Rendezvous::alone()
            });
        }
        for size in [2, 4] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let ranks: Vec<_> = (0..size)
                .map(|rank| {
                    Command::new(std::env::current_exe().unwrap())
                        .args(["--ignored", "nccl::tests::sums_are_those_of_the_cpus"])
                        .env(PLACE, format!("{rank} {size} {port}"))
                        .spawn()
                        .unwrap()
                })
                .collect();
            for mut rank in ranks {
                assert!(rank.wait().unwrap().success(), "of {size}");
            }
        }
    }
}
