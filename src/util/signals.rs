//! Signals that ask a run to stop: the first finishes the step and saves, the second ends the process.

use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGUSR1;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Whether a signal has asked the run to stop. The default listens to none.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Listens to SIGINT (Ctrl-C), SIGTERM (`kill`, clusters) and SIGUSR1 (SLURM's early warning).
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Self::listen_and_say(
            "finishing this step and saving; once more stops at once, without saving",
        )
    }

    /// The same for another work than training: `what` is said of it when a signal comes.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn listen_and_say(what: &'static str) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            // In this order: a signal that finds the flag set already ends the process at once.
            let code = 128 + signal;
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&stop))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                    tracing::warn!("{name}: {what}");
                }
            })?;
        Ok(Self(stop))
    }

    /// Whether the run should stop after this step.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
