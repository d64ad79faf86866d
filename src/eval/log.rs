//! `outputs.jsonl`, a line per answered question, and `judgements.jsonl`, one per reply of a judge: appended as they come,
//! readable after a kill at any moment.

use super::error::EvalError;
use super::prediction::Prediction;
use super::score_file::ScoreFile;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
}

/// The whole lines of a log. A last line without its end was being written when the process was killed: it is left out.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalError> {
    let bytes = std::fs::read(path).map_err(|source| EvalError::File {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &bytes[..whole_lines(&bytes)])
}

/// The answers of a finished evaluation: those that its scores are about, each once.
pub(super) fn read_finished(out: &Path, scores: &ScoreFile) -> Result<Vec<Prediction>, EvalError> {
    let path = out.join("outputs.jsonl");
    let predictions: Vec<Prediction> = read(&path)?;
    let ids: BTreeSet<&str> = predictions.iter().map(|one| one.id.as_str()).collect();
    let (found, lines, scored) = (ids.len(), predictions.len(), scores.questions_answered);
    if found != lines || found != scored {
        return Err(EvalError::OtherAnswers {
            path,
            found,
            lines,
            scored,
        });
    }
    Ok(predictions)
}

/// Length of the lines that have their end.
fn whole_lines(bytes: &[u8]) -> usize {
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    end.map_or(0, |end| end + 1)
}

fn parse<T: DeserializeOwned>(path: &Path, lines: &[u8]) -> Result<Vec<T>, EvalError> {
    lines
        .split_inclusive(|byte| *byte == b'\n')
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|error| EvalError::Line {
                path: path.to_owned(),
                line: index + 1,
                reason: error.to_string(),
            })
        })
        .collect()
}

impl Log {
    /// Opens or creates the log and returns what it holds. A last line without its end was being written when the
    /// process was killed: it is cut off.
    pub(super) fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>), EvalError> {
        let failed = |source| EvalError::File {
            path: path.to_owned(),
            source,
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let whole = whole_lines(&bytes);
        let predictions = parse(path, &bytes[..whole])?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed)?;
        file.set_len(whole as u64).map_err(failed)?;
        Ok((Self { file }, predictions))
    }

    /// Appends a line in one write.
    pub(super) fn append(&mut self, line: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_string(line)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }
}
