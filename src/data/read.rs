//! Question files: `.json` (an array) or `.jsonl` (an object a line). Nothing is dropped silently.

use super::Question;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What can be wrong with questions and their files, and what to do about it.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file name says neither `.json` nor `.jsonl`, nor `.parquet` where that is read.
    #[error(
        "question file {} must end in .json (an array) or .jsonl (an object a line), or be a benchmark's .parquet with \
         eval.benchmark set: rename or convert it",
        path.display()
    )]
    Extension {
        /// Which file.
        path: PathBuf,
    },
    /// Something in the file is not what it must be.
    #[error("{}, {place}: {problem}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Line or index.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No question is left to work with.
    #[error("{}: {problem}", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// Why nothing is left, and what to do.
        problem: String,
    },
    /// Clips that the questions name do not exist.
    #[error(
        "{missing} of {total} clips do not exist; the first: {} (question {question}). \
         Set data.video_root to the folder that the paths are relative to, fetch the clips, \
         or set data.on_bad_video = \"skip\"",
        path.display()
    )]
    MissingVideos {
        /// How many different clips are missing.
        missing: usize,
        /// How many different clips there are.
        total: usize,
        /// The first missing one.
        path: PathBuf,
        /// The question that names it.
        question: String,
    },
}

impl DataError {
    /// A failed read of `path`.
    pub fn reading(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }
    }

    /// A failed write of `path`.
    pub fn writing(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }
    }
}

/// Reads every question of a file, in file order, with ids filled in and checked to be different.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, DataError> {
    let format = Format::of(path)?;
    let text = std::fs::read_to_string(path).map_err(|error| DataError::reading(path, error))?;
    let questions = match format {
        Format::Array => parse_array(path, &text)?,
        Format::Lines => parse_lines(path, &text)?,
    };
    if questions.is_empty() {
        return Err(DataError::Empty {
            path: path.to_owned(),
            problem: "holds no question".into(),
        });
    }
    with_unique_ids(path, questions)
}

/// Gives the questions of a file that have no id one from their position, and checks that all differ. Each comes with its
/// place in the file.
pub(super) fn with_unique_ids(
    path: &Path,
    questions: Vec<(String, Question)>,
) -> Result<Vec<Question>, DataError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = Vec::with_capacity(questions.len());
    for (index, (place, mut question)) in questions.into_iter().enumerate() {
        if question.id.is_empty() {
            question.id = format!("{stem}/{index}");
        }
        if let Some(first) = places.insert(question.id.clone(), place.clone()) {
            return Err(DataError::Content {
                path: path.to_owned(),
                place,
                problem: format!(
                    "`id` {:?} is already used at {first}: ids must differ, or leave them out",
                    question.id
                ),
            });
        }
        checked.push(question);
    }
    Ok(checked)
}

#[derive(Clone, Copy)]
enum Format {
    Array,
    Lines,
}

impl Format {
    fn of(path: &Path) -> Result<Self, DataError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Ok(Self::Array),
            Some("jsonl") => Ok(Self::Lines),
            _ => Err(DataError::Extension {
                path: path.to_owned(),
            }),
        }
    }
}

fn parse_array(path: &Path, text: &str) -> Result<Vec<(String, Question)>, DataError> {
    let items: Vec<serde_json::Value> =
        serde_json::from_str(text).map_err(|error| DataError::Content {
            path: path.to_owned(),
            place: format!("line {}, column {}", error.line(), error.column()),
            problem: format!("not a JSON array of questions: {error}"),
        })?;
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let place = format!("question {index} (counted from 0)");
            let question = serde_json::from_value(item);
            Ok((place.clone(), checked(path, &place, question)?))
        })
        .collect()
}

fn parse_lines(path: &Path, text: &str) -> Result<Vec<(String, Question)>, DataError> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let place = format!("line {}", index + 1);
            let question = serde_json::from_str(line);
            Ok((place.clone(), checked(path, &place, question)?))
        })
        .collect()
}

/// A parsed question whose required fields say something.
fn checked(
    path: &Path,
    place: &str,
    question: serde_json::Result<Question>,
) -> Result<Question, DataError> {
    let content = |problem: String| DataError::Content {
        path: path.to_owned(),
        place: place.to_owned(),
        problem,
    };
    let question = question.map_err(|error| {
        content(format!(
            "{error}; a question is {{problem, solution: \"<answer>A,C</answer>\", video}}"
        ))
    })?;
    if question.problem.trim().is_empty() {
        return Err(content(
            "`problem` is empty: give the question's text".into(),
        ));
    }
    if question.answer().is_empty() {
        return Err(content(
            "`solution` names no answer: write \"<answer>A,C</answer>\"".into(),
        ));
    }
    if question.video.as_os_str().is_empty() {
        return Err(content("`video` is empty: give the clip's path".into()));
    }
    Ok(question)
}

/// Writes questions as an array (`.json`) or one a line (`.jsonl`).
pub fn write_questions(
    path: &Path,
    questions: impl IntoIterator<Item = Question>,
) -> Result<(), DataError> {
    let mut writer = QuestionWriter::create(path)?;
    for question in questions {
        writer.write(&question)?;
    }
    writer.finish()
}

/// A question file being written. It has another name until [`Self::finish`], and is removed without.
pub struct QuestionWriter {
    path: PathBuf,
    partial: PathBuf,
    writer: BufWriter<std::fs::File>,
    format: Format,
    written: usize,
}

impl QuestionWriter {
    /// Starts a file: an array (`.json`) or an object a line (`.jsonl`).
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let format = Format::of(path)?;
        let partial = path.with_extension("tmp");
        let file =
            std::fs::File::create(&partial).map_err(|error| DataError::writing(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            writer: BufWriter::new(file),
            format,
            written: 0,
        })
    }

    /// Questions written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Appends a question.
    pub fn write(&mut self, question: &Question) -> Result<(), DataError> {
        let open = match (self.format, self.written) {
            (Format::Array, 0) => "[\n",
            (Format::Array, _) => ",\n",
            (Format::Lines, 0) => "",
            (Format::Lines, _) => "\n",
        };
        self.written += 1;
        let writer = &mut self.writer;
        writer
            .write_all(open.as_bytes())
            .and_then(|()| Ok(serde_json::to_writer(writer, question)?))
            .map_err(|error| DataError::writing(&self.path, error))
    }

    /// Ends the file and gives it its name.
    pub fn finish(mut self) -> Result<(), DataError> {
        let close = match (self.format, self.written) {
            (Format::Array, 0) => "[\n\n]\n",
            (Format::Array, _) => "\n]\n",
            (Format::Lines, _) => "\n",
        };
        self.writer
            .write_all(close.as_bytes())
            .and_then(|()| self.writer.flush())
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(|error| DataError::writing(&self.path, error))
    }
}

impl Drop for QuestionWriter {
    fn drop(&mut self) {
        // Gone already when the file was finished.
        let _ = std::fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_questions(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn both_formats_give_the_same_questions() {
        let one = r#"{"problem":"Q?","solution":"<answer>A</answer>","video":"a.mp4","kind":"inferential","note":7}"#;
        let two = r#"{"id":12,"problem":"R?","solution":"<answer>B</answer>","video":"b.mp4"}"#;
        let array = read("q.json", &format!("[{one},\n{two}]")).unwrap();
        let lines = read("q.jsonl", &format!("{one}\n\n{two}\n")).unwrap();
        assert_eq!(array, lines);
        assert_eq!(array[0].id, "q/0");
        assert_eq!(array[1].id, "12");
        assert_eq!(array[0].extra["note"], 7);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let questions = read(
            "q.jsonl",
            r#"{"id":"x","problem":"Q?","solution":"<answer>A</answer>","video":"a.mp4","extra_field":[1]}"#,
        )
        .unwrap();
        for name in ["out.json", "out.jsonl"] {
            let path = folder.path().join(name);
            write_questions(&path, questions.clone()).unwrap();
            assert_eq!(read_questions(&path).unwrap(), questions);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn errors_name_place_field_and_remedy() {
        let good = r#"{"id":"x","problem":"Q?","solution":"<answer>A</answer>","video":"a.mp4"}"#;
        let cases = [
            (
                "q.jsonl",
                format!("{good}\n{{\"problem\":\"Q?\"}}"),
                vec!["q.jsonl", "line 2", "solution"],
            ),
            (
                "q.jsonl",
                format!("{good}\nnot json"),
                vec!["line 2", "expected"],
            ),
            (
                "q.jsonl",
                format!("{good}\n{good}"),
                vec!["line 2", "already used at line 1"],
            ),
            (
                "q.json",
                format!(
                    "[{good},{}]",
                    good.replace("inferential", "x")
                        .replace("\"A", "\"")
                        .replace("<answer>A</answer>", "<answer></answer>")
                ),
                vec!["question 1", "`solution`", "<answer>A,C</answer>"],
            ),
            ("q.json", good.to_owned(), vec!["not a JSON array"]),
            ("q.json", "[]".to_owned(), vec!["no question"]),
            (
                "q.json",
                format!("[{}]", good.replace("Q?", " ")),
                vec!["`problem` is empty"],
            ),
            (
                "q.json",
                format!("[{}]", good.replace("a.mp4", "")),
                vec!["`video` is empty"],
            ),
            (
                "q.json",
                format!(
                    "[{}]",
                    good.replace("\"video\"", "\"kind\":\"other\",\"video\"")
                ),
                vec!["question 0", "other", "observational"],
            ),
            ("q.txt", good.to_owned(), vec![".jsonl"]),
        ];
        for (name, text, wanted) in cases {
            let message = read(name, &text).unwrap_err();
            for part in wanted {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }
}
