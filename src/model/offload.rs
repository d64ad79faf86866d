//! Tensors that wait in host memory for their turn on the device, tensors that leave it, and new values for those on it.
//!
//! On CUDA both directions use page-locked memory and a stream of their own, so that copies and computing overlap; events
//! order the two streams. On a CPU the same code copies at once.

use crate::model::weights::NamedTensors;
use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};

#[cfg(feature = "cuda")]
mod cuda;

/// A layer's tensors begin at multiples of so many values: products and wide loads are slower at other addresses.
const ALIGNMENT: usize = 128;

/// The tensors of one layer behind each other in host memory.
#[derive(Debug)]
pub(crate) struct HostLayer {
    memory: HostMemory,
    parts: Vec<TensorSpan>,
    /// Values, what lies between the tensors included.
    len: usize,
    dtype: DType,
}

/// Where a tensor lies in its layer.
#[derive(Debug, Clone)]
struct TensorSpan {
    name: String,
    start: usize,
    shape: Shape,
}

#[derive(Debug)]
enum HostMemory {
    /// Flat, on the CPU.
    Plain(Tensor),
    #[cfg(feature = "cuda")]
    Pinned(cuda::Pinned),
}

impl HostLayer {
    /// Takes over `tensors`, all of one format and on the CPU, for use on `device`.
    pub(crate) fn new(tensors: NamedTensors, device: &Device) -> Result<Self> {
        let (mut parts, mut flat) = (Vec::new(), Vec::new());
        let mut start = 0;
        for (name, tensor) in tensors {
            parts.push(TensorSpan {
                name,
                start,
                shape: tensor.shape().clone(),
            });
            let count = tensor.elem_count();
            let gap = count.next_multiple_of(ALIGNMENT) - count;
            start += count + gap;
            flat.push(tensor.flatten_all()?.pad_with_zeros(0, 0, gap)?);
        }
        let flat = Tensor::cat(&flat, 0)?;
        Ok(Self {
            parts,
            len: flat.elem_count(),
            dtype: flat.dtype(),
            memory: match device {
                #[cfg(feature = "cuda")]
                Device::Cuda(device) => HostMemory::Pinned(cuda::Pinned::holding(&flat, device)?),
                _ => HostMemory::Plain(flat),
            },
        })
    }

    /// The layer's tensors as views of `slot`, into which it was copied.
    fn views(&self, slot: &Tensor) -> Result<NamedTensors> {
        let view = |part: &TensorSpan| {
            let values = slot.narrow(0, part.start, part.shape.elem_count())?;
            Ok((part.name.clone(), values.reshape(&part.shape)?))
        };
        self.parts.iter().map(view).collect()
    }
}

/// Calls `each` with the tensors of one layer after another on `device`, while the next one is copied there.
///
/// Two layers are on the device at a time. The tensors are overwritten after `each`, which must not keep them.
pub(crate) fn stream(
    layers: &[HostLayer],
    device: &Device,
    mut each: impl FnMut(&NamedTensors) -> Result<()>,
) -> Result<()> {
    let Some(first) = layers.first() else {
        return Ok(());
    };
    let longest = layers.iter().map(|layer| layer.len).max().unwrap_or(0);
    let slots = [0, 1].map(|_| Tensor::zeros(longest, first.dtype, device));
    let [even, odd] = slots;
    let slots = [even?, odd?];
    let mut copies = Copies::new(device)?;
    copies.start(first, &slots[0])?;
    for (index, layer) in layers.iter().enumerate() {
        copies.wait()?;
        if let Some(next) = layers.get(index + 1) {
            // Its slot is that of the layer before this one, whose work is queued.
            copies.start(next, &slots[(index + 1) % 2])?;
        }
        each(&layer.views(&slots[index % 2])?)?;
    }
    Ok(())
}

/// Copies to the device, one on its way at a time.
enum Copies {
    /// They are done when `start` returns.
    Immediate,
    #[cfg(feature = "cuda")]
    Queued(cuda::Copies),
}

#[cfg_attr(
    not(feature = "cuda"),
    expect(clippy::unnecessary_wraps, reason = "only copies to a GPU can fail")
)]
impl Copies {
    fn new(device: &Device) -> Result<Self> {
        Ok(match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => Self::Queued(cuda::Copies::new(device)?),
            _ => Self::Immediate,
        })
    }

    /// Copies `layer` to the beginning of `slot` once the work queued so far is done.
    fn start(&mut self, layer: &HostLayer, slot: &Tensor) -> Result<()> {
        match (self, &layer.memory) {
            (Self::Immediate, HostMemory::Plain(flat)) => slot.slice_set(flat, 0, 0),
            #[cfg(feature = "cuda")]
            (Self::Queued(copies), HostMemory::Pinned(pinned)) => copies.start(pinned, slot),
            #[cfg(feature = "cuda")]
            _ => bail!("a layer in memory of another device"),
        }
    }

    /// Work queued from now on sees the copy.
    fn wait(&self) -> Result<()> {
        match self {
            Self::Immediate => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Queued(copies) => copies.wait(),
        }
    }
}

/// A tensor whose values are known to be complete when the work queued before is.
#[derive(Debug)]
pub(crate) struct PendingDownload {
    tensor: Tensor,
    #[cfg(feature = "cuda")]
    ready: Option<candle_core::cuda_backend::cudarc::driver::CudaEvent>,
}

impl PendingDownload {
    /// Notes where the work on `tensor` stands; to be called where that work is queued.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        let tensor = tensor.contiguous()?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            ready: cuda::ready(tensor.device())?,
            tensor,
        })
    }
}

/// Brings tensors to host memory; for a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Download {
    #[cfg(feature = "cuda")]
    cuda: Option<cuda::Download>,
}

impl Download {
    /// The tensor in host memory, once it is there.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unused_self, reason = "a GPU's copies have a stream")
    )]
    pub(crate) fn fetch(&mut self, pending: PendingDownload) -> Result<Tensor> {
        match (pending.tensor.device(), pending.tensor.dtype()) {
            (Device::Cpu, _) => Ok(pending.tensor),
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), DType::BF16 | DType::F32) => {
                let download = match &mut self.cuda {
                    Some(download) => download,
                    none => none.insert(cuda::Download::new(device)?),
                };
                download.fetch(&pending.tensor, pending.ready.as_ref())
            }
            (_, dtype) => bail!("gradients of {dtype:?} do not go to host memory"),
        }
    }
}

/// Brings new values to tensors on the device; for a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    #[cfg(feature = "cuda")]
    cuda: Option<cuda::Upload>,
}

impl Upload {
    /// Replaces the values of `target` by those of `tensor`, a contiguous one on the CPU. Work queued before still sees the
    /// old ones, work queued after this returns the new ones.
    ///
    /// # Errors
    /// Shapes or formats that differ.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unused_self, reason = "a GPU's copies have a stream")
    )]
    pub(crate) fn put(&mut self, tensor: &Tensor, target: &Var) -> Result<()> {
        if tensor.shape() != target.shape() || tensor.dtype() != target.dtype() {
            bail!("new values {tensor:?} for {target:?}");
        }
        match target.device() {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let upload = match &mut self.cuda {
                    Some(upload) => upload,
                    none => none.insert(cuda::Upload::new(device)?),
                };
                upload.put(tensor, target)
            }
            _ => target.set(tensor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_comes_in_its_turn_and_as_it_was() -> Result<()> {
        let device = Device::Cpu;
        let tensors = |layer: usize| -> Result<NamedTensors> {
            let of = |shape: &[usize]| Tensor::randn(layer as f32, 1f32, shape, &Device::Cpu);
            let mut tensors = NamedTensors::default();
            tensors.insert("a", of(&[3, 4 + layer])?);
            tensors.insert("b", of(&[5])?);
            Ok(tensors)
        };
        let layers: Vec<NamedTensors> = (0..5).map(tensors).collect::<Result<_>>()?;
        let host: Vec<HostLayer> = layers
            .iter()
            .map(|layer| HostLayer::new(layer.clone(), &device))
            .collect::<Result<_>>()?;
        let mut turn = 0;
        stream(&host, &device, |got| {
            for (name, want) in layers[turn].iter() {
                let (got, want) = (got.get(name)?, want);
                assert_eq!(got.shape(), want.shape());
                let values = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
                assert_eq!(values(&got)?, values(want)?);
            }
            turn += 1;
            Ok(())
        })?;
        assert_eq!(turn, 5);
        Ok(())
    }

    #[test]
    fn tensors_of_a_layer_begin_where_wide_loads_may() -> Result<()> {
        let mut tensors = NamedTensors::default();
        for (name, len) in [("a", 3), ("b", 128), ("c", 129), ("d", 1)] {
            tensors.insert(name, Tensor::zeros(len, DType::BF16, &Device::Cpu)?);
        }
        let layer = HostLayer::new(tensors, &Device::Cpu)?;
        let starts: Vec<usize> = layer.parts.iter().map(|part| part.start).collect();
        assert_eq!(starts, [0, 128, 256, 512]);
        Ok(())
    }

    #[test]
    fn new_values_arrive_and_others_are_refused() -> Result<()> {
        let var = Var::zeros((2, 3), DType::F32, &Device::Cpu)?;
        let view = var.as_detached_tensor();
        Upload::default().put(&Tensor::ones((2, 3), DType::F32, &Device::Cpu)?, &var)?;
        assert_eq!(view.flatten_all()?.to_vec1::<f32>()?, [1.0; 6]);
        for (shape, dtype) in [((3, 2), DType::F32), ((2, 3), DType::BF16)] {
            let other = Tensor::zeros(shape, dtype, &Device::Cpu)?;
            assert!(Upload::default().put(&other, &var).is_err());
        }
        Ok(())
    }
}
