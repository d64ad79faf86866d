//! What a person watching the run sees: the progress bar, log lines that do not tear it, and text that fits the terminal.

use crate::util::file::FileError;
use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use std::borrow::Cow;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The target of log lines that a terminal, which shows a bar instead, does not get.
pub(crate) const FILE_ONLY: &str = "videothinker::progress";

/// What the bar of a transfer shows.
const BYTES: &str = "{wide_bar} {decimal_bytes}/{decimal_total_bytes} · {msg}";

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);
static LOG: Mutex<Option<File>> = Mutex::new(None);

/// Whether stderr is a terminal.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether log lines have colours: in a terminal, unless NO_COLOR says no; elsewhere where CLICOLOR_FORCE says yes.
pub(crate) fn has_colours() -> bool {
    let set =
        |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && (is_terminal() || set("CLICOLOR_FORCE"))
}

/// Columns of the terminal that results go to; `None` where they go into a file or a pipe.
pub(crate) fn result_columns() -> Option<usize> {
    let stdout = std::io::stdout();
    stdout.is_terminal().then(|| columns(libc::STDOUT_FILENO))?
}

/// Columns of the terminal that logs go to.
pub(crate) fn log_columns() -> Option<usize> {
    is_terminal().then(|| columns(libc::STDERR_FILENO))?
}

fn columns(terminal: i32) -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    #[expect(
        unsafe_code,
        reason = "the standard library does not know how wide a terminal is"
    )]
    // SAFETY: the call writes one `winsize`, which it is given.
    let failed = unsafe { libc::ioctl(terminal, libc::TIOCGWINSZ, &raw mut size) } != 0;
    (!failed && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// `text` in lines of at most `columns` characters, broken at blanks; what goes on is indented a little more. A word that is
/// longer stays whole.
pub(crate) fn wrapped(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else {
        return text.to_owned();
    };
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.trim_end().chars().count() <= columns {
            out.push_str(line);
            continue;
        }
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let mut used = 0;
        for (index, word) in line.trim_end().split(' ').enumerate() {
            let length = word.chars().count();
            if index > 0 && used > indent && used + 1 + length > columns {
                out.push('\n');
                out.push_str(&" ".repeat(indent + 2));
                used = indent + 2;
            } else if index > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += length;
        }
        if line.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

/// A text without what a terminal takes for orders, such as to move or to hide what was written: servers, files and models say
/// what they like. Such characters are shown as Rust writes them, `\u{1b}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let is_order = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_order) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_order(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A time as people say it: `12 s`, `3 min 20 s`, `1 h 05 min`, `2 d 3 h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds > 1e9 {
        return "longer than can be said".to_owned();
    }
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
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

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Steps of a training; each is a line of the log.
    Steps,
    /// Questions and the like; the log gets a line every so many percent, and one at the end.
    Items,
}

/// Percent of the items between two lines of a log.
const PERCENT: usize = 5;

/// How far a run is: a bar on stderr, or lines where stderr is no terminal. Each step of a training is a line of `log.txt` in
/// either case.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    unit: Unit,
    total: usize,
    before: usize,
    done: AtomicUsize,
    /// Items done when the log had its last line.
    logged: AtomicUsize,
    /// What the items are, once it is known.
    noun: Mutex<String>,
    start: Instant,
}

impl Progress {
    /// From `done` to `steps` steps of a training.
    pub(crate) fn training(done: usize, steps: usize) -> Self {
        Self::new(Unit::Steps, done, steps)
    }

    /// From `done` to `total` items; the words of [`Self::step`] begin with what they are.
    pub(crate) fn start(done: usize, total: usize) -> Self {
        Self::new(Unit::Items, done, total)
    }

    fn new(unit: Unit, done: usize, total: usize) -> Self {
        let bar = is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(total as u64), target)
                .with_position(done as u64)
                .with_style(style(&template(unit, log_columns().unwrap_or(80))));
            bar.reset_eta();
            bar.enable_steady_tick(std::time::Duration::from_secs(1));
            bar
        });
        BAR.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&bar);
        Self {
            bar,
            unit,
            total,
            before: done,
            done: AtomicUsize::new(done),
            logged: AtomicUsize::new(done),
            noun: Mutex::new(String::new()),
            start: Instant::now(),
        }
    }

    /// Shows that `done` steps or items are done, with the numbers worth watching, parted by ` · `, the first one first.
    pub(crate) fn step(&self, done: usize, words: &str) {
        self.done.store(done, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            let columns = log_columns().unwrap_or(80);
            bar.set_style(style(&template(self.unit, columns)));
            bar.set_position(done as u64);
            bar.set_message(shortened(words, room(self.unit, columns, done, self.total)));
        }
        let total = self.total;
        match (self.unit, &self.bar) {
            (Unit::Steps, None) => tracing::info!("step {done}/{total}: {words}"),
            (Unit::Steps, Some(_)) => {
                tracing::info!(target: FILE_ONLY, "step {done}/{total}: {words}");
            }
            (Unit::Items, None) if self.is_due(done) => tracing::info!("{done}/{total} {words}"),
            (Unit::Items, _) => {}
        }
        let noun = words.split(',').next().unwrap_or_default();
        noun.clone_into(&mut self.noun.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the log is to have a line now.
    fn is_due(&self, done: usize) -> bool {
        let since = done.saturating_sub(self.logged.load(Ordering::Relaxed));
        let due = 100 * since >= PERCENT * self.total || done >= self.total;
        if due {
            self.logged.store(done, Ordering::Relaxed);
        }
        due
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
        *BAR.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let done = self.done.load(Ordering::Relaxed);
        if self.unit == Unit::Items && done > self.before && done >= self.total {
            let noun = self.noun.lock().unwrap_or_else(PoisonError::into_inner);
            let time = duration(self.start.elapsed().as_secs_f64());
            tracing::info!("{} {noun} in {time}", done - self.before);
        }
    }
}

/// Below so many columns there is no bar.
const FOR_A_BAR: usize = 70;
/// Below so many columns only the time that is left is shown.
const FOR_BOTH_TIMES: usize = 100;
/// The longest that a time of the bar is: `59 minutes`.
const TIME: usize = 10;

/// The line for a terminal of this width.
fn template(unit: Unit, columns: usize) -> String {
    let count = match unit {
        Unit::Steps => "step {pos}/{len}",
        Unit::Items => "{pos}/{len}",
    };
    let bar = if columns < FOR_A_BAR {
        ""
    } else {
        " {wide_bar}"
    };
    let gone = if columns < FOR_BOTH_TIMES {
        ""
    } else {
        " · {elapsed} gone"
    };
    format!("{count}{bar} {{msg}}{gone} · {{eta}} left")
}

/// Characters that the words may take in a line of this width.
fn room(unit: Unit, columns: usize, done: usize, total: usize) -> usize {
    let count = format!("{done}/{total}").len() + if unit == Unit::Steps { 5 } else { 0 };
    let bar = if columns < FOR_A_BAR { 0 } else { 11 };
    let left = " ·  left".chars().count() + TIME;
    let gone = if columns < FOR_BOTH_TIMES {
        0
    } else {
        " ·  gone".chars().count() + TIME
    };
    // The last column stays free: some terminals break the line when it is written to.
    columns.saturating_sub(count + bar + 1 + left + gone + 1)
}

/// The first parts of `words` that fit; at least one, for a number is never cut.
fn shortened(words: &str, room: usize) -> String {
    let mut kept = String::new();
    for part in words.split(" · ") {
        let next = if kept.is_empty() {
            part.to_owned()
        } else {
            format!("{kept} · {part}")
        };
        if !kept.is_empty() && next.chars().count() > room {
            break;
        }
        kept = next;
    }
    kept
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
    format!("{what} {{wide_bar}} {{pos}}/{{len}} · {{eta}} left")
}

fn style(template: &str) -> ProgressStyle {
    // A template that is wrong is no reason to show nothing.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(
            visible("\u{1b}[2Ja\u{9b}1m\r\n\tü"),
            "\\u{1b}[2Ja\\u{9b}1m\\r\n\tü"
        );
        assert!(matches!(visible("plain\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn templates_are_right() {
        for columns in [60, 80, 100, 200] {
            for unit in [Unit::Steps, Unit::Items] {
                ProgressStyle::with_template(&template(unit, columns)).unwrap();
            }
        }
        ProgressStyle::with_template(BYTES).unwrap();
        ProgressStyle::with_template(&counted("clips")).unwrap();
    }

    #[test]
    fn a_line_fits_its_terminal() {
        let words = "reward 1.234 · accuracy 0.456 · format 0.789 · KL 0.0123 · length 123";
        for (columns, parts) in [(60, 1), (80, 2), (100, 2), (120, 4), (200, 5)] {
            let room = room(Unit::Steps, columns, 1000, 1000);
            let shown = shortened(words, room);
            assert!(
                shown.chars().count() <= room,
                "{columns}: {shown} in {room}"
            );
            assert_eq!(
                shown.split(" · ").count(),
                parts,
                "{columns}: {shown} in {room}"
            );
            assert!(words.starts_with(&shown));
        }
        assert_eq!(shortened("reward 1.234 · x", 3), "reward 1.234");
    }

    #[test]
    fn a_log_has_a_line_every_five_percent() {
        let progress = Progress {
            bar: None,
            unit: Unit::Items,
            total: 1000,
            before: 0,
            done: AtomicUsize::new(0),
            logged: AtomicUsize::new(0),
            noun: Mutex::new(String::new()),
            start: Instant::now(),
        };
        let due = (8..=1000).step_by(8).filter(|done| progress.is_due(*done));
        let due: Vec<usize> = due.collect();
        assert_eq!(due.len(), 18, "{due:?}");
        assert_eq!((due[0], due[17]), (56, 1000));
    }

    #[test]
    fn text_is_broken_at_blanks() {
        let text = "  one two three four\nshort\n";
        assert_eq!(
            wrapped(text, Some(12)),
            "  one two\n    three\n    four\nshort\n"
        );
        assert_eq!(wrapped(text, None), text);
        assert_eq!(wrapped("abcdefgh ij", Some(4)), "abcdefgh\n  ij");
    }

    #[test]
    fn times_are_said_in_their_units() {
        let said = [3.25, 59.0, 200.0, 3900.0, 200_000.0].map(duration);
        assert_eq!(
            said,
            ["3.2 s", "59 s", "3 min 20 s", "1 h 05 min", "2 d 7 h"]
        );
        assert_eq!(duration(f64::INFINITY), "longer than can be said");
    }
}
