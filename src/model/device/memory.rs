//! Device memory, as the driver counts it.
//!
//! Tensors come from the device's default memory pool; what a captured graph allocates comes from memory that the driver
//! keeps for graphs. Both have a high mark since the process began, or since it was reset. What CUDA takes for itself
//! (context, kernels, workspaces) is in neither.

use candle_core::{Device, Result};

/// The most bytes of `device`'s memory that tensors have taken at once since the process began or [`reset_peak`];
/// `None` on a CPU.
///
/// The marks of tensors and of graphs are added up, though their moments may differ: what a graph has taken once stays
/// its own.
#[cfg_attr(
    not(feature = "cuda"),
    expect(clippy::unnecessary_wraps, reason = "a driver may refuse")
)]
pub(crate) fn peak_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::peak_bytes(device).map(Some);
    }
    let _ = device;
    Ok(None)
}

/// Lets [`peak_bytes`] begin again at what is in use now, once all queued work is done.
#[cfg_attr(
    not(feature = "cuda"),
    expect(clippy::unnecessary_wraps, reason = "a driver may refuse")
)]
pub(crate) fn reset_peak(device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::reset_peak(device);
    }
    let _ = device;
    Ok(())
}

/// Bytes of `device`'s memory in use that are no tensors' nor kept for them: CUDA's own, and other processes'. `None` on
/// a CPU.
#[cfg_attr(
    not(feature = "cuda"),
    expect(clippy::unnecessary_wraps, reason = "a driver may refuse")
)]
pub(crate) fn other_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::other_bytes(device).map(Some);
    }
    let _ = device;
    Ok(None)
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::Result;
    use candle_core::cuda::CudaDevice;
    use candle_core::cuda::WrapErr;
    use candle_core::cuda::cudarc::driver::result::{device, mem_pool};
    use candle_core::cuda::cudarc::driver::sys;
    use candle_core::cuda::cudarc::driver::sys::CUgraphMem_attribute as OfGraphs;
    use candle_core::cuda::cudarc::driver::sys::CUmemPool_attribute as OfPool;

    pub(super) fn peak_bytes(device: &CudaDevice) -> Result<u64> {
        let of_tensors = pool(device, OfPool::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
        let of_graphs = graphs(device, OfGraphs::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)?;
        Ok(of_tensors + of_graphs)
    }

    pub(super) fn other_bytes(device: &CudaDevice) -> Result<u64> {
        let (free, total) = device.cuda_stream().context().mem_get_info().w()?;
        let kept = pool(device, OfPool::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?
            + graphs(device, OfGraphs::CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT)?;
        Ok(((total - free) as u64).saturating_sub(kept))
    }

    pub(super) fn reset_peak(device: &CudaDevice) -> Result<()> {
        let stream = device.cuda_stream();
        stream.synchronize().w()?;
        let ordinal = stream.context().cu_device();
        // Any other value is refused.
        let mut zero = 0u64;
        #[expect(unsafe_code, reason = "memory pools have no safe interface")]
        // SAFETY: the device belongs to a live context; both attributes are 64-bit integers, which `zero` is.
        unsafe {
            mem_pool::set_attribute(
                device::get_default_mem_pool(ordinal).w()?,
                OfPool::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
                (&raw mut zero).cast(),
            )
            .w()?;
            sys::cuDeviceSetGraphMemAttribute(
                ordinal,
                OfGraphs::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH,
                (&raw mut zero).cast(),
            )
            .result()
            .w()
        }
    }

    fn pool(device: &CudaDevice, attribute: OfPool) -> Result<u64> {
        let ordinal = device.cuda_stream().context().cu_device();
        let mut bytes = 0u64;
        #[expect(unsafe_code, reason = "memory pools have no safe interface")]
        // SAFETY: the device belongs to a live context; the attributes asked for are 64-bit integers, which `bytes` is.
        unsafe {
            let pool = device::get_default_mem_pool(ordinal).w()?;
            mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).w()?;
        }
        Ok(bytes)
    }

    fn graphs(device: &CudaDevice, attribute: OfGraphs) -> Result<u64> {
        let ordinal = device.cuda_stream().context().cu_device();
        let mut bytes = 0u64;
        #[expect(unsafe_code, reason = "the memory of graphs has no safe interface")]
        // SAFETY: as above.
        unsafe {
            sys::cuDeviceGetGraphMemAttribute(ordinal, attribute, (&raw mut bytes).cast())
                .result()
                .w()?;
        }
        Ok(bytes)
    }
}
