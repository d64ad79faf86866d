//! Where tensors live and in which number format: chosen here and nowhere else.

use crate::config::DTypeName;
use crate::config::ModelConfig;
use candle_core::DType;
use candle_core::Device;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program has no CUDA in it.
    #[error(
        "model.device = \"{0}\": this program was built without CUDA; build it with --features cuda, or set \"cpu\" or \"auto\""
    )]
    NotBuilt(String),
    /// The device does not answer.
    #[error("model.device = \"{name}\": {source}")]
    Unavailable {
        /// As configured.
        name: String,
        /// What candle says.
        source: candle_core::Error,
    },
    /// One GPU for several processes.
    #[error(
        "model.device = \"{0}\" names one GPU for {1} ranks; set \"auto\" or \"cuda\": each takes the one of its number (CUDA_VISIBLE_DEVICES \
         chooses which there are)"
    )]
    OneForAll(String, usize),
    /// More processes on a machine than GPUs.
    #[error(
        "{ranks} ranks, and a machine with {gpus} GPUs for its part of them: start as many on a machine as it has GPUs"
    )]
    TooFew {
        /// Processes of the run.
        ranks: usize,
        /// GPUs that this one sees.
        gpus: usize,
    },
    /// Not a device's name.
    #[error("model.device = \"{0}\": expected \"auto\", \"cpu\" or \"cuda:N\"")]
    Unknown(String),
}

/// The device that `config.device` names; `auto` is the first GPU where the program can use one, else the CPU.
pub fn device(config: &ModelConfig) -> Result<Device, DeviceError> {
    let name = config.device.as_str();
    let built = candle_core::utils::cuda_is_available();
    let ordinal = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" if !built => return Ok(Device::Cpu),
        "auto" | "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|ordinal| ordinal.parse().ok())
            .ok_or_else(|| DeviceError::Unknown(name.to_owned()))?,
    };
    if !built {
        return Err(DeviceError::NotBuilt(name.to_owned()));
    }
    match open(ordinal) {
        Ok(device) => Ok(device),
        Err(error) if name == "auto" => {
            tracing::warn!("no usable GPU ({error}): running on the CPU");
            Ok(Device::Cpu)
        }
        Err(source) => Err(DeviceError::Unavailable {
            name: name.to_owned(),
            source,
        }),
    }
}

/// As [`device`], for one of `ranks` processes: `choose` says which of that many visible GPUs is this one's.
pub fn of_rank(
    config: &ModelConfig,
    ranks: usize,
    choose: impl FnOnce(usize) -> Option<usize>,
) -> Result<Device, DeviceError> {
    let name = config.device.as_str();
    if ranks == 1 || name == "cpu" {
        return device(config);
    }
    if !matches!(name, "auto" | "cuda") {
        return Err(DeviceError::OneForAll(name.to_owned(), ranks));
    }
    let gpus = visible_gpus();
    if gpus == 0 {
        return device(config);
    }
    let ordinal = choose(gpus).ok_or(DeviceError::TooFew { ranks, gpus })?;
    device(&ModelConfig {
        device: format!("cuda:{ordinal}"),
        ..config.clone()
    })
}

/// GPUs this process may use.
fn visible_gpus() -> usize {
    #[cfg(feature = "cuda")]
    {
        use candle_core::cuda_backend::cudarc::driver::CudaContext;
        CudaContext::device_count().map_or(0, |count| count.max(0) as usize)
    }
    #[cfg(not(feature = "cuda"))]
    0
}

/// The GPU `ordinal` with one stream for all threads, on which work runs in the order in which it is queued.
#[cfg(feature = "cuda")]
fn open(ordinal: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        #[expect(
            unsafe_code,
            reason = "events would order the use of a tensor on several streams; there is one"
        )]
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

#[cfg(not(feature = "cuda"))]
fn open(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda(ordinal)
}

/// Lets the device's memory pool keep what is freed: by default it gives all back whenever the host waits for the
/// device, and the next step pays for mapping it again.
#[cfg(feature = "cuda")]
fn keep_freed_memory(cuda: &candle_core::CudaDevice) -> candle_core::Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::result;
    use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;

    let mut threshold = u64::MAX;
    let device = cuda.cuda_stream().context().cu_device();
    #[expect(
        unsafe_code,
        reason = "the driver's own functions; this attribute is a 64-bit number"
    )]
    unsafe {
        let pool = result::device::get_default_mem_pool(device).w()?;
        result::mem_pool::set_attribute(
            pool,
            CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .w()
    }
}

/// Whether `config.device` is the CPU on this machine, without opening a device.
pub fn is_cpu(config: &ModelConfig) -> bool {
    match config.device.as_str() {
        "cpu" => true,
        "auto" => visible_gpus() == 0,
        _ => false,
    }
}

/// The format of weights and activations.
pub fn dtype(config: &ModelConfig) -> DType {
    match config.dtype {
        DTypeName::Bf16 => DType::BF16,
        DTypeName::F32 => DType::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Result<Device, DeviceError> {
        device(&ModelConfig {
            device: name.into(),
            ..ModelConfig::default()
        })
    }

    #[test]
    fn devices_are_found_by_name() {
        assert!(named("cpu").unwrap().is_cpu());
        assert!(matches!(named("gpu"), Err(DeviceError::Unknown(_))));
        let two = |name: &str| {
            let config = ModelConfig {
                device: name.into(),
                ..ModelConfig::default()
            };
            of_rank(&config, 2, |_| None)
        };
        assert!(two("cpu").unwrap().is_cpu());
        assert!(matches!(two("cuda:0"), Err(DeviceError::OneForAll(_, 2))));
        if !candle_core::utils::cuda_is_available() {
            assert!(two("auto").unwrap().is_cpu());
            assert!(matches!(two("cuda"), Err(DeviceError::NotBuilt(_))));
            assert!(named("auto").unwrap().is_cpu());
            assert!(matches!(named("cuda:1"), Err(DeviceError::NotBuilt(_))));
        }
    }
}
