//! What a device can do: bytes it copies and products it adds up in a second.

use super::seconds;
use candle_core::{DType, Device, Result, Tensor};
use serde::Serialize;

/// Rates of one device, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Bytes a second, read and written ones together, of a copy from device memory to device memory.
    pub copy: f64,
    /// Floating-point operations a second (a multiplication and an addition count as two) of a large bf16 product.
    pub bf16: f64,
    /// The same in f32.
    pub f32: f64,
}

impl Rates {
    /// Takes about a second on a GPU, and sizes that a CPU works through in as much.
    pub fn measure(device: &Device) -> Result<Self> {
        let (bytes, side) = if device.is_cpu() {
            (64 << 20, 512)
        } else {
            (2 << 30, 8192)
        };
        Ok(Self {
            copy: copy_rate(device, bytes)?,
            bf16: product_rate(device, DType::BF16, side)?,
            f32: product_rate(device, DType::F32, side / 2)?,
        })
    }
}

fn copy_rate(device: &Device, bytes: usize) -> Result<f64> {
    let source = Tensor::zeros(bytes / DType::F32.size_in_bytes(), DType::F32, device)?;
    let time = seconds(device, 10, || source.copy())?;
    Ok(2.0 * bytes as f64 / time)
}

fn product_rate(device: &Device, dtype: DType, side: usize) -> Result<f64> {
    // Power, and with it the clock, depends on the values: zeros would be faster than any model.
    let random = || Tensor::randn(0f32, 1.0, (side, side), device)?.to_dtype(dtype);
    let (a, b) = (random()?, random()?);
    let time = seconds(device, 10, || a.matmul(&b))?;
    Ok(2.0 * (side as f64).powi(3) / time)
}
