//! Gradients of all ranks added up between GPUs.
#![expect(
    unsafe_code,
    reason = "NCCL's own functions, which take addresses on the device"
)]

use super::Cluster;
use super::ClusterError;
use super::Result;
use super::link::Link;
use crate::kernels::launch::device_address;
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
    pub(super) fn connect(cluster: &Cluster, device: &Device) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Err(ClusterError::NoNccl);
        };
        let id = cluster.is_first().then(new_id).transpose()?;
        let id = <[u8; 128]>::try_from(cluster.first(id)?)
            .map_err(|_| ClusterError::Tensor(candle_core::Error::msg("NCCL's id is 128 bytes")))?;
        let id = sys::ncclUniqueId {
            internal: id.map(|byte| byte as std::ffi::c_char),
        };
        // NCCL takes the GPU that is current in this thread.
        device.cuda_stream().context().bind_to_thread().w()?;
        let mut comm = MaybeUninit::uninit();
        // SAFETY: NCCL writes the communicator unless it fails.
        let comm = unsafe {
            result::comm_init_rank(
                comm.as_mut_ptr(),
                cluster.size() as i32,
                id,
                cluster.rank() as i32,
            )
            .map_err(in_words)?;
            comm.assume_init()
        };
        Ok(Self {
            comm,
            device: device.clone(),
        })
    }

    /// Adds the ranks' gradients up in place. Those in host memory come to the GPU one by one and go back.
    pub(super) fn add_up(
        &self,
        link: &Link,
        gradients: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let device = Device::Cuda(self.device.clone());
        let (away, here): (Vec<_>, Vec<_>) = gradients
            .values_mut()
            .partition(|gradient| gradient.device().is_cpu());
        result::group_start().map_err(in_words)?;
        let queued = here.into_iter().try_for_each(|gradient| {
            *gradient = gradient.contiguous()?;
            self.queue(gradient)
        });
        result::group_end().map_err(in_words)?;
        queued?;
        self.wait(link)?;
        for gradient in away {
            let sum = gradient.contiguous()?.to_device(&device)?;
            self.queue(&sum)?;
            self.wait(link)?;
            *gradient = sum.to_device(&Device::Cpu)?;
        }
        Ok(())
    }

    fn queue(&self, tensor: &Tensor) -> Result<()> {
        let dtype = match tensor.dtype() {
            DType::BF16 => sys::ncclDataType_t::ncclBfloat16,
            DType::F32 => sys::ncclDataType_t::ncclFloat32,
            other => return Err(not_added(other).into()),
        };
        let address = device_address(tensor, &self.device)?;
        // SAFETY: a contiguous tensor of that many values; the stream orders this behind what computes them and before
        // what reads the sums.
        unsafe {
            result::all_reduce(
                address as *const c_void,
                address as *mut c_void,
                tensor.elem_count(),
                dtype,
                sys::ncclRedOp_t::ncclSum,
                self.comm,
                self.device.cuda_stream().cu_stream().cast(),
            )
        }
        .map_err(in_words)?;
        Ok(())
    }

    /// Until the sums are there. A rank that is lost meanwhile would be waited for without end: the operation is given up.
    fn wait(&self, link: &Link) -> Result<()> {
        let done = self.device.cuda_stream().record_event(None).w()?;
        let mut looked = Instant::now();
        while !done.try_is_complete().w()? {
            std::thread::sleep(PAUSE);
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if let Some(left) = link.lost() {
                    self.give_up();
                    return Err(left);
                }
            }
        }
        Ok(())
    }

    fn give_up(&self) {
        // SAFETY: NCCL stops the communicator's kernels; it is used no more, since the run ends.
        if let Err(error) = unsafe { result::comm_abort(self.comm) } {
            tracing::warn!("NCCL: {error:?}");
        }
    }
}

fn new_id() -> Result<Vec<u8>> {
    let id = Id::new().map_err(in_words)?;
    Ok(id.internal().iter().map(|byte| *byte as u8).collect())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn in_words(error: result::NcclError) -> candle_core::Error {
    candle_core::Error::msg(format!(
        "NCCL: {error:?} (NCCL_DEBUG=INFO makes it say more)"
    ))
}

fn not_added(dtype: DType) -> candle_core::Error {
    candle_core::Error::msg(format!("gradients of {dtype:?} are not added up"))
}
