//! Seconds that work takes on a device.

use candle_core::Device;
use candle_core::Error;
use std::time::Instant;

/// The median of `repeats` runs of `work` after one that warms up.
///
/// # Errors
/// Those of `work`, and of a device that does not finish.
pub(crate) fn seconds<T, E: From<Error>>(
    device: &Device,
    repeats: usize,
    work: impl FnMut() -> Result<T, E>,
) -> Result<f64, E> {
    let times = sorted_seconds(device, repeats, work)?;
    Ok(times[times.len() / 2])
}

/// As [`seconds`], of each run, at least one; the fastest first.
///
/// # Errors
/// As there.
pub(crate) fn sorted_seconds<T, E: From<Error>>(
    device: &Device,
    repeats: usize,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<Vec<f64>, E> {
    let mut once = || -> Result<f64, E> {
        device.synchronize()?;
        let start = Instant::now();
        work()?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    let mut times = (0..repeats.max(1))
        .map(|_| once())
        .collect::<Result<Vec<_>, E>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}
