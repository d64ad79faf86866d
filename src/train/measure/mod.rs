//! What a device computes and how fast: against the CPU, and against what the device itself could do.
//!
//! Speeds are compared with rates measured on the same device just before ([`Rates`]), never with a data sheet; only
//! estimates for a card that is not here start from one ([`Card`]).

use candle_core::{Device, Result};
use serde::Serialize;
use std::time::Instant;

mod card;
mod decode;
mod duration;
mod flops;
mod learning;
mod memory;
mod parity;
mod rates;
mod record;
mod workload;

pub use card::Card;
pub use decode::{DecodeSpeed, decode_speed};
pub use duration::Duration;
pub use flops::Flops;
pub use learning::{LearningSpeed, learning_speed};
pub use memory::{other_bytes, peak_bytes, reset_peak};
pub use parity::{Difference, Differences, differences};
pub use rates::Rates;
pub use workload::Workload;

/// Seconds that `work` takes on `device`: the median of `repeats` runs after one that warms up.
pub fn seconds<T, E: From<candle_core::Error>>(
    device: &Device,
    repeats: usize,
    work: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<f64, E> {
    let times = sorted_times(device, repeats, work)?;
    Ok(times[times.len() / 2])
}

/// Seconds of each of `repeats` runs of `work` on `device`, at least one, after one that warms up; the fastest first.
fn sorted_times<T, E: From<candle_core::Error>>(
    device: &Device,
    repeats: usize,
    mut work: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<Vec<f64>, E> {
    let mut once = || -> std::result::Result<f64, E> {
        device.synchronize()?;
        let start = Instant::now();
        work()?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    let mut times = (0..repeats.max(1))
        .map(|_| once())
        .collect::<std::result::Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// A measured number beside what it is held to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// As measured.
    pub measured: f64,
    /// What the device's own rates allow.
    pub possible: f64,
    /// `measured / possible`.
    pub share: f64,
}

impl Share {
    /// `measured` of `possible`.
    pub fn of(measured: f64, possible: f64) -> Self {
        Self {
            measured,
            possible,
            share: measured / possible,
        }
    }
}

/// The name of a device, for a record.
pub fn name_of(device: &Device) -> Result<String> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return memory::gpu_name(device);
    }
    Ok(if device.is_cpu() { "CPU" } else { "other" }.into())
}
