//! Device memory, as the driver counts it.

use candle_core::{Device, Result};

/// The most bytes of `device`'s memory that tensors have taken at once since the process began; `None` on a CPU.
///
/// Tensors come from the device's default memory pool, which keeps this mark; what the libraries and the driver take
/// for themselves is not in it.
pub fn peak_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::peak_bytes(device).map(Some);
    }
    let _ = device;
    Ok(None)
}

#[cfg(feature = "cuda")]
pub(super) use cuda::gpu_name;

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda::CudaDevice;
    use candle_core::cuda::WrapErr;
    use candle_core::cuda::cudarc::driver::{result, sys};
    use candle_core::{Error, Result};

    pub(super) fn peak_bytes(device: &CudaDevice) -> Result<u64> {
        let stream = device.cuda_stream();
        let ordinal = stream.context().cu_device();
        let mut bytes = 0u64;
        #[expect(unsafe_code, reason = "the memory pool has no safe interface")]
        // SAFETY: the device belongs to a live context; this attribute is a 64-bit integer, which `bytes` is.
        unsafe {
            let pool = result::device::get_default_mem_pool(ordinal).w()?;
            result::mem_pool::get_attribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
                (&raw mut bytes).cast(),
            )
            .w()?;
        }
        Ok(bytes)
    }

    pub(in super::super) fn gpu_name(device: &CudaDevice) -> Result<String> {
        device.cuda_stream().context().name().map_err(Error::wrap)
    }
}
