//! Where tensors live and in which number format: chosen here and nowhere else.

use crate::config::DTypeName;
use crate::config::ModelConfig;
use crate::model::cuda_error;
use crate::model::cuda_error::Surroundings;
use candle_core::DType;
use candle_core::Device;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The program has no CUDA in it.
    #[error(
        "model.device = \"{0}\": this program was built without CUDA; build it with --features cuda, or set \"cpu\" or \"auto\""
    )]
    NotBuilt(String),
    /// The device does not answer. The CPU is not taken instead: what is meant for a GPU would go on there for weeks.
    #[error(
        "model.device = \"{name}\": this program is built for GPUs and cannot use this one ({source}); to run on the CPU, which is \
         for small models, set model.device = \"cpu\""
    )]
    Unavailable {
        name: String,
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

/// The device that `config.device` names; `auto` is the first GPU of a program built with CUDA, and else the CPU.
///
/// # Errors
/// A GPU that is asked for and cannot be used, by `auto` in a program built with CUDA too.
pub(crate) fn device(config: &ModelConfig) -> Result<Device, DeviceError> {
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
    open(ordinal).map_err(|source| DeviceError::Unavailable {
        name: name.to_owned(),
        source,
    })
}

/// As [`device`], for one of `ranks` processes: `choose` says which of that many visible GPUs is this one's.
pub(crate) fn of_rank(
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
    surroundings().gpus
}

/// `message` with error codes of the CUDA libraries in words, and with what can be done about them on this machine.
pub(crate) fn in_words(message: &str) -> String {
    cuda_error::in_words(message, surroundings)
}

#[cfg(feature = "cuda")]
fn surroundings() -> Surroundings {
    gpu::surroundings()
}

#[cfg(not(feature = "cuda"))]
fn surroundings() -> Surroundings {
    Surroundings::default()
}

#[cfg(feature = "cuda")]
use gpu::open;

#[cfg(not(feature = "cuda"))]
fn open(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda(ordinal)
}

/// Whether `config.device` is the CPU, without opening a device.
pub(crate) fn is_cpu(config: &ModelConfig) -> bool {
    match config.device.as_str() {
        "cpu" => true,
        "auto" => !candle_core::utils::cuda_is_available(),
        _ => false,
    }
}

/// What the device is called, for a record.
///
/// # Errors
/// A driver that does not tell.
#[cfg_attr(
    not(feature = "cuda"),
    expect(clippy::unnecessary_wraps, reason = "a driver may refuse")
)]
pub(crate) fn name(device: &Device) -> candle_core::Result<String> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return gpu::name(device);
    }
    Ok(if device.is_cpu() { "CPU" } else { "other" }.into())
}

/// The format of weights and activations.
pub(crate) fn dtype(config: &ModelConfig) -> DType {
    match config.dtype {
        DTypeName::Bf16 => DType::BF16,
        DTypeName::F32 => DType::F32,
    }
}

#[cfg(feature = "cuda")]
mod gpu;
pub(crate) mod memory;

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

    #[test]
    fn a_gpu_that_cannot_be_used_is_not_replaced_by_the_cpu() {
        let code = "DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")";
        let error = DeviceError::Unavailable {
            name: "auto".to_owned(),
            source: candle_core::Error::msg(code),
        };
        let text = in_words(&error.to_string());
        for words in [
            "model.device = \"auto\": this program is built for GPUs",
            "CUDA: no CUDA-capable device is detected (CUDA_ERROR_NO_DEVICE)",
            "set model.device = \"cpu\"",
            "nvidia-smi -L",
        ] {
            assert!(text.contains(words), "no `{words}` in {text}");
        }
        if candle_core::utils::cuda_is_available() && visible_gpus() == 0 {
            assert!(matches!(
                named("auto"),
                Err(DeviceError::Unavailable { .. })
            ));
        }
    }
}
