//! Files of JSON objects, one a line, that grow by whole lines: readable after a kill at any moment.
//!
//! A last line without its end was being written when the process was killed: it is left out when the file is read, and
//! cut off when it is opened to grow. Any other line that is not as it should be is an error that names it.

use crate::util::atomic;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::json;
use crate::util::json::Unreadable;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// Why a file of lines cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinesError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A whole line holds something else than it should.
    #[error("{}:{line}: not what was written there ({reason}); mend the line, or remove it", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        /// What the reader says.
        reason: String,
    },
}

/// A file of lines, open to grow.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
    /// Bytes of the lines so far.
    length: u64,
}

/// A line as far as [`JsonLines::open_at`] reads it.
#[derive(Deserialize)]
struct OfStep {
    step: usize,
}

impl JsonLines {
    /// Opens or creates the file and returns what its lines hold.
    pub(crate) fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>), LinesError> {
        let bytes = read_if_there(path)?;
        let whole = whole_lines(&bytes);
        let values = parse(path, whole)?;
        let lines = Self::append_to(path, whole.len())?;
        if whole.len() < bytes.len() {
            lines
                .cut()
                .map_err(|error| FileError::writing(path, error))?;
        }
        Ok((lines, values))
    }

    /// Opens or creates the file without what was written after `step`: every line says its step.
    pub(crate) fn open_at(path: &Path, step: usize) -> Result<Self, LinesError> {
        let bytes = read_if_there(path)?;
        let whole = whole_lines(&bytes);
        let mut kept = Vec::with_capacity(whole.len());
        for (line, of) in split(whole).zip(parse::<OfStep>(path, whole)?) {
            if of.step <= step {
                kept.extend_from_slice(line);
            }
        }
        if kept.len() < bytes.len() {
            atomic::write(path, &kept)?;
        }
        Ok(Self::append_to(path, kept.len())?)
    }

    fn append_to(path: &Path, length: usize) -> Result<Self, FileError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| FileError::writing(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length: length as u64,
        })
    }

    /// Cuts off what is behind the whole lines.
    fn cut(&self) -> std::io::Result<()> {
        self.file.set_len(self.length)
    }

    /// Appends one object.
    pub(crate) fn append(&mut self, line: &impl Serialize) -> Result<(), FileError> {
        let line = serde_json::to_string(line)
            .map_err(|error| FileError::writing(&self.path, error.into()))?;
        self.append_line(&line)
    }

    /// Appends one object that is text already: the whole line or nothing of it.
    pub(crate) fn append_line(&mut self, line: &str) -> Result<(), FileError> {
        let line = format!("{line}\n");
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            if let Err(error) = self.cut() {
                let path = self.path.display();
                tracing::warn!("{path}: a line that is not whole cannot be cut off: {error}");
            }
            return Err(FileError::writing(&self.path, error));
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

/// What the lines of a file hold.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, LinesError> {
    parse(path, &read_bytes(path)?)
}

/// Hands `take` the lines of a file one after the other, for files that are too large to be held whole.
pub(crate) fn visit(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), serde_json::Error>,
) -> Result<(), LinesError> {
    let reading = |error| FileError::reading(path, error);
    let mut file = BufReader::new(File::open(path).map_err(reading)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        file.read_until(b'\n', &mut line).map_err(reading)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let line = line.trim_ascii_end();
        take(line).map_err(|error| LinesError::Line {
            path: path.to_owned(),
            line: number,
            reason: Unreadable::new(line, &error).problem,
        })?;
    }
    Ok(())
}

/// The lines of a file as they are in it.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = file::read(path)?;
    bytes.truncate(whole_lines(&bytes).len());
    Ok(bytes)
}

fn read_if_there(path: &Path) -> Result<Vec<u8>, FileError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| FileError::reading(path, error)),
    }
}

/// The lines that have their end.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    &bytes[..end.map_or(0, |end| end + 1)]
}

fn split(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split_inclusive(|byte| *byte == b'\n')
}

/// What whole lines of the file `path` hold.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, lines: &[u8]) -> Result<Vec<T>, LinesError> {
    let parsed = (1..).zip(split(lines)).map(|(number, line)| {
        json::read(line.trim_ascii_end()).map_err(|error| LinesError::Line {
            path: path.to_owned(),
            line: number,
            reason: error.problem,
        })
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::json;

    fn write(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn lines_are_cut_back_to_a_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut lines = JsonLines::open_at(&path, 0).unwrap();
        for step in 1..=4 {
            lines.append(&json!({ "step": step })).unwrap();
        }
        drop(lines);
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"step\": 2";
        std::fs::write(&path, torn).unwrap();
        let mut lines = JsonLines::open_at(&path, 2).unwrap();
        lines.append(&json!({ "step": 3 })).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n"
        );
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        // Cut inside a letter of two bytes.
        let (_folder, path) = write(b"{\"id\":\"a\"}\n{\"id\":\"\xc3");
        assert_eq!(read::<Value>(&path).unwrap(), [json!({ "id": "a" })]);
        let (mut lines, held) = JsonLines::open::<Value>(&path).unwrap();
        assert_eq!(held, [json!({ "id": "a" })]);
        lines.append(&json!({ "id": "ä" })).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"id\":\"a\"}\n{\"id\":\"ä\"}\n");
        let absent = path.with_extension("absent");
        assert!(read::<Value>(&absent).is_err());
        assert!(JsonLines::open::<Value>(&absent).unwrap().1.is_empty());
    }

    #[test]
    fn lines_are_visited_without_a_torn_last_one_and_named_when_refused() {
        let (_folder, path) = write("{\"step\":1}\r\n{\"step\":2}\n{\"ste");
        let mut steps = Vec::new();
        let take = |line: &[u8]| {
            steps.push(serde_json::from_slice::<OfStep>(line)?.step);
            Ok(())
        };
        visit(&path, take).unwrap();
        assert_eq!(steps, [1, 2]);
        let (_folder, path) = write("{\"step\":1}\n{}\n");
        let take = |line: &[u8]| serde_json::from_slice::<OfStep>(line).map(|_| ());
        let message = visit(&path, take).unwrap_err().to_string();
        assert!(message.contains("metrics.jsonl:2: "), "{message}");
    }

    #[test]
    fn lines_are_kept_byte_by_byte() {
        let kept = b"{\"step\":1,\"text\":\"not UTF-8: \xff\"}\r\n";
        let (_folder, path) = write([&kept[..], b"{\"step\":2}\n"].concat());
        JsonLines::open_at(&path, 1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), kept);
    }

    #[test]
    fn any_other_broken_line_is_named_and_nothing_is_lost() {
        let good = "{\"step\":1}\n";
        for broken in [
            &b"{\"step\":\n"[..],
            b"\n",
            b"{\"loss\":1}\n",
            b"{\"step\":1,\xff\n",
        ] {
            let text = [good.as_bytes(), broken, good.as_bytes()].concat();
            let (_folder, path) = write(&text);
            let message = JsonLines::open_at(&path, 0).unwrap_err().to_string();
            assert!(message.contains("metrics.jsonl:2: "), "{message}");
            assert_eq!(std::fs::read(&path).unwrap(), text);
        }
    }
}
