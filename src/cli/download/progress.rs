//! What a person sees of a download: a bar on a terminal, lines in a log, and a line for each file in
//! `.download/log.txt`.

use crate::util::console;
use crate::util::console::ByteBar;
use crate::util::file::FileError;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// How often a log that is no terminal says how far the download is, where no file is finished meanwhile.
const QUIET: Duration = Duration::from_secs(30);
/// The rate is that of so long.
const WINDOW: Duration = Duration::from_secs(10);

/// How far the download is; its clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Bytes that are there.
    done: Arc<AtomicU64>,
    /// Bytes that have come since the start.
    came: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn came(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.came.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were there before.
    pub(super) fn was_there(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that are thrown away.
    pub(super) fn forget(&self, bytes: u64) {
        let less = bytes.min(self.done.load(Ordering::Relaxed));
        self.done.fetch_sub(less, Ordering::Relaxed);
    }
}

/// Shows how far a download is.
#[derive(Debug)]
pub(super) struct Display {
    progress: Progress,
    bar: ByteBar,
    log: Mutex<File>,
    files: usize,
    finished: usize,
    total: u64,
    /// Times and bytes of the last seconds.
    recent: Vec<(Instant, u64)>,
    said: Instant,
}

impl Display {
    /// Of `files` files with `total` bytes together; lines of files go to `log`.
    pub(super) fn start(
        progress: Progress,
        files: usize,
        total: u64,
        log: &Path,
    ) -> Result<Self, FileError> {
        let opened = OpenOptions::new().create(true).append(true).open(log);
        let log = opened.map_err(|error| FileError::writing(log, error))?;
        let done = progress.done.load(Ordering::Relaxed);
        Ok(Self {
            progress,
            bar: ByteBar::start(done, total),
            log: Mutex::new(log),
            files,
            finished: 0,
            total,
            recent: vec![(Instant::now(), 0)],
            said: Instant::now(),
        })
    }

    /// A file is there, or an archive unpacked.
    pub(super) fn finished(&mut self, words: &str, counts: bool) {
        self.finished += usize::from(counts);
        let words = console::visible(words);
        let line = format!("{}/{} {words}", self.finished, self.files);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written is no reason to stop; a full disk is said where files are written.
        let _ = writeln!(log, "{line}");
        drop(log);
        if !console::is_terminal() {
            tracing::info!("{line} · {}", self.rate_in_words());
            self.said = Instant::now();
        }
    }

    /// Shows the present state.
    pub(super) fn refresh(&mut self) {
        let now = Instant::now();
        let came = self.progress.came.load(Ordering::Relaxed);
        self.recent.push((now, came));
        while self.recent.len() > 2 && now - self.recent[1].0 > WINDOW {
            self.recent.remove(0);
        }
        let done = self.progress.done.load(Ordering::Relaxed);
        let words = self.rate_in_words();
        if !console::is_terminal() && self.said.elapsed() > QUIET {
            tracing::info!("{} of {} · {words}", size(done), size(self.total));
            self.said = now;
        }
        let files = format!("file {} of {}", self.finished, self.files);
        self.bar.show(done, format!("{files} · {words}"));
    }

    /// `12.3 MB/s · 4 min left`
    fn rate_in_words(&self) -> String {
        let (since, before) = self.recent[0];
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        let came = self.progress.came.load(Ordering::Relaxed);
        let rate = came.saturating_sub(before) as f64 / seconds;
        let done = self.progress.done.load(Ordering::Relaxed);
        let left = self.total.saturating_sub(done) as f64;
        let mut words = format!("{}/s", size(rate as u64));
        if left > 0.0 && rate > 0.0 {
            words.push_str(&format!(" · {} left", duration(left / rate)));
        }
        words
    }
}

/// `1.2 GB`
pub(super) fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$} {}", units[unit])
}

/// `40 s`, `12 min`, `3.5 h`
fn duration(seconds: f64) -> String {
    if seconds < 90.0 {
        format!("{seconds:.0} s")
    } else if seconds < 90.0 * 60.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, words) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (123_456, "123 kB"),
            (999_600, "1.0 MB"),
            (19_000_000_000, "19.0 GB"),
        ] {
            assert_eq!(size(bytes), words);
        }
        assert_eq!(duration(40.0), "40 s");
        assert_eq!(duration(600.0), "10 min");
        assert_eq!(duration(9000.0), "2.5 h");
    }
}
