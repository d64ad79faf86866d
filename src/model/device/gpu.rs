//! Opening a GPU, and what it says of itself.
#![expect(
    unsafe_code,
    reason = "the driver's own functions; what they write are numbers of the types given to them"
)]

use crate::model::cuda_error::Gpu;
use crate::model::cuda_error::Surroundings;
use candle_core::CudaDevice;
use candle_core::Device;
use candle_core::Error;
use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaContext;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

/// The GPU that was opened last, to tell of it when something fails; -1 before.
static OPENED: AtomicI32 = AtomicI32::new(-1);

/// The GPU `ordinal` with one stream for all threads, on which work runs in the order in which it is queued.
pub(super) fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    OPENED.store(ordinal as i32, Ordering::Relaxed);
    if let Device::Cuda(cuda) = &device {
        // SAFETY: events would order the use of a tensor on several streams; there is one.
        unsafe {
            cuda.disable_event_tracking();
        }
        if let Err(error) = keep_freed_memory(cuda) {
            tracing::warn!(
                "the driver takes freed GPU memory back at every synchronisation: {error}"
            );
        }
    }
    Ok(device)
}

/// Lets the device's memory pool keep what is freed: by default it gives all back whenever the host waits for the
/// device, and the next step pays for mapping it again.
fn keep_freed_memory(cuda: &CudaDevice) -> Result<()> {
    let mut threshold = u64::MAX;
    let device = cuda.cuda_stream().context().cu_device();
    // SAFETY: this attribute is a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(device).w()?;
        result::mem_pool::set_attribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .w()
    }
}

/// What is known when something has failed; whatever does not answer is left out.
pub(super) fn surroundings() -> Surroundings {
    Surroundings {
        gpu: describe(OPENED.load(Ordering::Relaxed).max(0)),
        gpus: CudaContext::device_count().map_or(0, |count| count.max(0) as usize),
        driver: driver(),
        built_for: env!("KERNELS_BUILT_FOR").to_owned(),
    }
}

/// What the driver calls it.
pub(super) fn name(device: &CudaDevice) -> Result<String> {
    device.cuda_stream().context().name().map_err(Error::wrap)
}

fn describe(ordinal: i32) -> Option<Gpu> {
    use sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR;
    use sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR;
    result::init().ok()?;
    let device = result::device::get(ordinal).ok()?;
    let mut most_used = 0_u64;
    // SAFETY: a device that the driver just named; the pool's mark is a 64-bit number.
    unsafe {
        let attribute = |which| result::device::get_attribute(device, which).ok();
        if let Ok(pool) = result::device::get_default_mem_pool(device) {
            let mark = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            let _ = result::mem_pool::get_attribute(pool, mark, (&raw mut most_used).cast());
        }
        Some(Gpu {
            name: result::device::get_name(device).ok()?,
            capability: [attribute(MAJOR)?, attribute(MINOR)?],
            bytes: result::device::total_mem(device).ok()? as u64,
            most_used,
        })
    }
}

/// The newest CUDA that the driver knows.
fn driver() -> Option<[i32; 2]> {
    let mut version = 0;
    // SAFETY: the driver writes one number, and needs no initialisation for it.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .ok()?;
    Some([version / 1000, version % 1000 / 10])
}
