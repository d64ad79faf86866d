//! Passes of one model over different questions side by side.

use candle_core::Device;

/// Passes that run side by side: on a CPU one per core, since the operations of one small model do not divide well
/// among cores; on a GPU one.
pub(crate) fn passes_at_once(device: &Device) -> usize {
    passes_on(device.is_cpu())
}

/// As [`passes_at_once`], of a device that is a CPU or not.
pub(crate) fn passes_on(cpu: bool) -> usize {
    if cpu {
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    } else {
        1
    }
}

/// `pass` for each of `parts`, side by side on a CPU and in turn on a GPU; results in the order of the parts.
pub(crate) fn side_by_side<P: Sync, T: Send, E: Send>(
    device: &Device,
    parts: &[P],
    pass: impl Fn(&P) -> std::result::Result<T, E> + Sync,
) -> std::result::Result<Vec<T>, E> {
    if passes_at_once(device) == 1 || parts.len() < 2 {
        return parts.iter().map(pass).collect();
    }
    std::thread::scope(|scope| {
        let pass = &pass;
        let running: Vec<_> = parts
            .iter()
            .map(|part| scope.spawn(move || pass(part)))
            .collect();
        running
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}
