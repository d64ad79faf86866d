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
    match Device::new_cuda(ordinal) {
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

/// Whether `config.device` names the CPU, without asking any device.
pub fn is_cpu(config: &ModelConfig) -> bool {
    match config.device.as_str() {
        "cpu" => true,
        "auto" => !candle_core::utils::cuda_is_available(),
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
        if !candle_core::utils::cuda_is_available() {
            assert!(named("auto").unwrap().is_cpu());
            assert!(matches!(named("cuda:1"), Err(DeviceError::NotBuilt(_))));
        }
    }
}
