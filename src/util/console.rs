//! What a person watching the run sees: the progress bar, and log lines that do not tear it.

use crate::util::file::FileError;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

/// What the bar of a run shows.
const STEPS: &str = "step {pos}/{len} {wide_bar} {msg} · {elapsed} gone, {eta} left";

/// What the bar of a transfer shows.
const BYTES: &str = "{wide_bar} {decimal_bytes}/{decimal_total_bytes} · {msg}";

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);
static LOG: Mutex<Option<File>> = Mutex::new(None);

/// Whether stderr is a terminal.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Writes log lines to stderr, above the progress bar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let write = || {
            // A closed stderr is no reason to stop a run, and there is nowhere left to say it.
            let _ = std::io::stderr().write_all(bytes);
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes log lines to the run directory's `log.txt`, once there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogFile;

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(file) = &mut *LOG.lock().unwrap_or_else(PoisonError::into_inner) {
            // A full disk is reported where results are written, not here.
            let _ = file.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From now on the log also goes to the end of the file `path`.
pub(crate) fn log_to(path: &Path) -> Result<(), FileError> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| FileError::writing(path, error))?;
    *LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(())
}

/// The run's progress bar on stderr; when stderr is no terminal, one log line per step instead.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    steps: usize,
}

impl Progress {
    /// A bar from `done` to `steps` steps.
    pub(crate) fn start(done: usize, steps: usize) -> Self {
        let bar = is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(steps as u64), target)
                .with_position(done as u64)
                .with_style(style(STEPS));
            bar.reset_eta();
            bar.enable_steady_tick(std::time::Duration::from_secs(1));
            bar
        });
        BAR.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&bar);
        Self { bar, steps }
    }

    /// Shows that `done` steps are done, with the numbers worth watching.
    pub(crate) fn step(&self, done: usize, words: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(words.to_owned());
        } else {
            tracing::info!("step {done}/{}: {words}", self.steps);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        *BAR.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A bar of bytes on stderr, above which log lines stand; hidden where stderr is no terminal. It is gone with this value.
#[derive(Debug)]
pub(crate) struct ByteBar(ProgressBar);

impl ByteBar {
    /// A bar from `done` to `total` bytes.
    pub(crate) fn start(done: u64, total: u64) -> Self {
        let target = if is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_position(done)
            .with_style(style(BYTES));
        bar.reset_eta();
        *BAR.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        Self(bar)
    }

    /// Moves the bar to `done` bytes and says `words` beside it.
    pub(crate) fn show(&self, done: u64, words: String) {
        self.0.set_position(done);
        self.0.set_message(words);
    }
}

impl Drop for ByteBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        *BAR.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A bar on stderr that counts up to `total` of `what`.
pub(crate) fn counter(what: &str, total: usize) -> ProgressBar {
    ProgressBar::new(total as u64).with_style(style(&counted(what)))
}

fn counted(what: &str) -> String {
    format!("{what} {{bar:32}} {{pos}}/{{len}} · {{eta}} left")
}

fn style(template: &str) -> ProgressStyle {
    // A template that is wrong is no reason to show nothing.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_right() {
        ProgressStyle::with_template(STEPS).unwrap();
        ProgressStyle::with_template(BYTES).unwrap();
        ProgressStyle::with_template(&counted("clips")).unwrap();
    }
}
