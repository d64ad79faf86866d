//! Signals that ask a run to stop: the first finishes the step and saves, the second ends the process.

use signal_hook::SigId;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::consts::SIGUSR1;
use signal_hook::flag;
use signal_hook::low_level;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];
/// How long a thread that may be waiting for a server is waited for, once a signal has come.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);

/// Whether the process listens, and what ends it after an [`Interlude`].
static LISTENING: Mutex<Listening> = Mutex::new(Listening {
    stop: None,
    defaults: Vec::new(),
});

struct Listening {
    stop: Option<StopRequest>,
    defaults: Vec<SigId>,
}

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
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        set_when_asked(&stop)?;
        for id in listening.defaults.drain(..) {
            low_level::unregister(id);
        }
        listening.stop = Some(Self(Arc::clone(&stop)));
        drop(listening);
        let mut signals = signal_hook::iterator::Signals::new(SIGNALS)?;
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

    /// What `work` comes to, or nothing when a signal comes: then a thread that goes on waiting, for a server that says
    /// nothing, ends with the process. `meanwhile` is called many times a second.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn unless_stopped<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        mut meanwhile: impl FnMut(),
    ) -> std::io::Result<Option<T>> {
        let (sender, done) = mpsc::channel();
        let named = std::thread::Builder::new().name("server".to_owned());
        let worker = named.spawn(move || {
            // Nobody listens once a signal has come.
            let _ = sender.send(work());
        })?;
        let mut since = None;
        loop {
            match done.recv_timeout(TICK) {
                Ok(result) => return Ok(Some(result)),
                Err(RecvTimeoutError::Timeout) => meanwhile(),
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Ok(None),
                },
            }
            if self.is_set() && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                return Ok(None);
            }
        }
    }
}

/// Sets the flag at the first signal; the second ends the process at once.
fn set_when_asked(stop: &Arc<AtomicBool>) -> std::io::Result<Vec<SigId>> {
    let mut actions = Vec::with_capacity(2 * SIGNALS.len());
    for signal in SIGNALS {
        // In this order: a signal that finds the flag set already ends the process.
        let (code, set) = (128 + signal, Arc::clone(stop));
        actions.push(flag::register_conditional_shutdown(signal, code, set)?);
        actions.push(flag::register(signal, Arc::clone(stop))?);
    }
    Ok(actions)
}

/// Listens for as long as it lasts, in a process that may not listen before and after.
#[derive(Debug)]
pub(crate) struct Interlude {
    stop: StopRequest,
    actions: Vec<SigId>,
}

impl Interlude {
    /// Listens, or hears what the process listens to anyway.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub(crate) fn begin() -> std::io::Result<Self> {
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = listening.stop.clone() {
            let actions = Vec::new();
            return Ok(Self { stop, actions });
        }
        let stop = Arc::new(AtomicBool::new(false));
        let actions = set_when_asked(&stop)?;
        for id in listening.defaults.drain(..) {
            low_level::unregister(id);
        }
        let stop = StopRequest(stop);
        Ok(Self { stop, actions })
    }

    pub(crate) fn stop(&self) -> &StopRequest {
        &self.stop
    }
}

impl Drop for Interlude {
    fn drop(&mut self) {
        if self.actions.is_empty() {
            return;
        }
        let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.stop.is_none() {
            for signal in SIGNALS {
                // Without actions a signal would do nothing any more.
                let always = Arc::new(AtomicBool::new(true));
                match flag::register_conditional_default(signal, always) {
                    Ok(id) => listening.defaults.push(id),
                    Err(error) => tracing::warn!("a signal will not end the process: {error}"),
                }
            }
        }
        for id in self.actions.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_ever_is_left_when_a_signal_comes() {
        let stop = StopRequest::default();
        assert_eq!(stop.unless_stopped(|| 3, || {}).unwrap(), Some(3));
        let (_never, silence) = mpsc::channel::<()>();
        let (asked, started) = (stop.clone(), Instant::now());
        let ended = stop.unless_stopped(
            move || silence.recv(),
            || asked.0.store(true, Ordering::SeqCst),
        );
        assert!(ended.unwrap().is_none());
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
