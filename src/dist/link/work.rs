//! Work inside a library that cannot be given up, done while the other ranks are watched.

use super::Link;
use super::PAUSE;
use crate::dist::LEFT_BEHIND;
use crate::dist::Result;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

impl Link {
    /// What `work` gives on a thread of its own, which is left behind where it takes longer than `patience`: `None`. It is
    /// for work that cannot be given up, and the process is to end.
    ///
    /// # Errors
    /// [`DistError::Left`](crate::dist::DistError::Left) where another rank is lost meanwhile.
    pub(in crate::dist) fn while_all_are_there<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            // Nobody waits any more where this fails.
            let _ = sender.send(work());
        });
        let start = Instant::now();
        LEFT_BEHIND.store(true, Ordering::Relaxed);
        loop {
            match receiver.recv_timeout(PAUSE) {
                Ok(value) => {
                    LEFT_BEHIND.store(false, Ordering::Relaxed);
                    return Ok(Some(value));
                }
                Err(RecvTimeoutError::Disconnected) => match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Ok(None),
                },
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(left) = self.lost() {
                return Err(left);
            }
            if start.elapsed() > patience {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::SOON;
    use super::super::tests::ranks;
    use super::PAUSE;
    use std::time::Instant;

    #[test]
    fn work_that_waits_for_ever_is_left_behind() {
        let for_ever = || std::thread::sleep(SOON * 100);
        let seen = ranks(2, move |link| {
            let soon = link.while_all_are_there(SOON, || 3).unwrap();
            assert_eq!(soon, Some(3));
            let start = Instant::now();
            let patience = if link.rank == 0 { SOON } else { PAUSE * 4 };
            let ended = link.while_all_are_there(patience, for_ever);
            assert!(start.elapsed() < SOON / 2, "it was waited for");
            if link.rank == 1 {
                link.fail(1, "it has waited long enough");
            }
            ended.map_err(|error| error.to_string())
        });
        // The impatient one gives up, and the other hears of it at once.
        assert_eq!(seen[1], Ok(None));
        let told = "rank 1 failed: it has waited long enough";
        assert_eq!(seen[0].as_ref().unwrap_err(), told);
    }
}
