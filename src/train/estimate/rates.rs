//! What a device can do: bytes it copies and products it adds up in a second.

use super::timing::seconds;
use candle_core::{DType, Device, Result, Tensor};
use serde::Serialize;

/// What one device was measured to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct DeviceRates {
    /// Bytes a second, read and written ones together, of a copy from device memory to device memory.
    pub(crate) copy: f64,
    /// Floating-point operations a second (a multiplication and an addition count as two) of a large bf16 product.
    pub(crate) bf16: f64,
    /// The same in f32.
    pub(crate) f32: f64,
}

/// Runs of each measurement that are timed.
const REPEATS: usize = 10;
/// Seconds that a measurement at its full size may take.
const PATIENCE: f64 = 5.0;

impl DeviceRates {
    /// Takes about a second. A CPU, which needs no sizes that fill a GPU, gets small ones, and so does a device that would
    /// need long for them.
    pub(crate) fn measure(device: &Device) -> Result<Self> {
        let product = |dtype: DType, side: usize| {
            let operations = |side: usize| 2.0 * (side as f64).powi(3);
            at_size(device, [512, side], operations, |side| {
                product_seconds(device, dtype, side)
            })
        };
        let copied = |bytes: usize| 2.0 * bytes as f64;
        Ok(Self {
            copy: at_size(device, [64 << 20, 2 << 30], copied, |bytes| {
                copy_seconds(device, bytes)
            })?,
            bf16: product(DType::BF16, 8192)?,
            f32: product(DType::F32, 4096)?,
        })
    }
}

/// The rate at the larger size; at the smaller one on a CPU, and where that says that the larger would take too long.
fn at_size(
    device: &Device,
    [small, large]: [usize; 2],
    work: impl Fn(usize) -> f64,
    seconds: impl Fn(usize) -> Result<f64>,
) -> Result<f64> {
    let rate = work(small) / seconds(small)?;
    if device.is_cpu() || (REPEATS + 1) as f64 * work(large) / rate > PATIENCE {
        return Ok(rate);
    }
    Ok(work(large) / seconds(large)?)
}

fn copy_seconds(device: &Device, bytes: usize) -> Result<f64> {
    let source = Tensor::zeros(bytes / DType::F32.size_in_bytes(), DType::F32, device)?;
    seconds(device, REPEATS, || source.copy())
}

fn product_seconds(device: &Device, dtype: DType, side: usize) -> Result<f64> {
    // Power, and with it the clock, depends on the values: zeros would be faster than any model.
    let random = || Tensor::randn(0f32, 1.0, (side, side), device)?.to_dtype(dtype);
    let (a, b) = (random()?, random()?);
    seconds(device, REPEATS, || a.matmul(&b))
}
