//! Question files: `.json` (an array) or `.jsonl` (an object a line). Nothing is dropped silently.
//! Fields may have the names that [`super::shapes`] lists, and a byte order mark may stand in front.

use super::Question;
use super::import::series::options_in_fields;
use super::shapes;
use super::shapes::holds_lines;
use super::solutions;
use super::unused;
use crate::util::atomic;
use crate::util::atomic::AtomicFile;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::json;
use crate::util::json::Distinct;
use crate::util::json::NotANumber;
use crate::util::json::Unreadable;
use crate::util::words::counted;
use serde_json::Value;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What can be wrong with questions and their files, and what to do about it.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum DataError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file name says neither `.json` nor `.jsonl`, nor `.parquet` where that is read.
    #[error("{}: its name must end in {known}", path.display())]
    Extension {
        path: PathBuf,
        /// Which ends are known, and what to do.
        known: String,
    },
    /// Something in the file is not what it must be.
    #[error("{}, {place}: {problem}", path.display())]
    Content {
        path: PathBuf,
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// No question is left to work with.
    #[error("{}: {problem}", path.display())]
    Empty {
        path: PathBuf,
        /// Why nothing is left, and what to do.
        problem: String,
    },
    /// Questions that no answer can be right for.
    #[error(
        "{}: no answer can be right for {unanswerable} of {total} questions; the first, question {question}: {reason}. \
         `videothinker data check --json` names all; data.on_bad_question = \"skip\" leaves them out", path.display()
    )]
    Unanswerable {
        path: PathBuf,
        /// How many of `total`.
        unanswerable: usize,
        /// All that the file holds.
        total: usize,
        /// The first.
        question: String,
        /// Why none is.
        reason: String,
    },
    /// Clips that the questions name do not exist.
    #[error(
        "{missing} of {total} clips do not exist; the first: {} (question {question}){}",
        path.display(),
        if *skipped {
            ""
        } else {
            ". Set data.video_root to the folder that the paths are relative to (of a path of another machine, an end that \
             exists below it is found, or set data.video_strip), fetch the clips, or set data.on_bad_video = \"skip\""
        }
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
        /// Whether they are left out (`data.on_bad_video = "skip"`).
        skipped: bool,
    },
}

/// Reads every question of a file, in file order, with ids filled in and checked to be different. Questions about images
/// are left out, and it is said how many.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, DataError> {
    let by_name = matches!(Format::of(path)?, Format::Lines);
    let (text, nan) = read_json_text(path)?;
    if text.trim().is_empty() {
        return Err(DataError::Empty {
            path: path.to_owned(),
            problem: "holds no question, for it is empty: the copy or the download failed, or it is not written yet"
                .into(),
        });
    }
    let mut reader = Reader {
        path,
        nan,
        questions: Vec::new(),
        images: 0,
        answers: BTreeMap::new(),
        placeholders: Said::default(),
        unused: BTreeMap::new(),
    };
    if holds_lines(&text, by_name) {
        reader.lines(&text)?;
    } else if !text.trim().is_empty() {
        reader.array(&text)?;
    }
    reader.say_what_is_not_used();
    let Reader {
        questions,
        images,
        answers,
        ..
    } = reader;
    for (name, count) in answers {
        tracing::info!(
            "{}: {} without a `solution`; it is taken from `{name}`",
            path.display(),
            counted(count, "question")
        );
    }
    if images > 0 {
        tracing::info!(
            "{}: left out, for being about images (data_type): {}",
            path.display(),
            counted(images, "record")
        );
    }
    if questions.is_empty() {
        let but = if images > 0 { " about a video" } else { "" };
        return Err(DataError::Empty {
            path: path.to_owned(),
            problem: format!("holds no question{but}"),
        });
    }
    let mut questions = with_unique_ids(path, questions)?;
    solutions::spell(path, &mut questions);
    Ok(questions)
}

/// A text without the byte order mark that some editors put in front.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A file of JSON without its byte order mark, null in the place of Python's `NaN` and `Infinity`; says that there are such,
/// and where.
pub(super) fn read_json_text(path: &Path) -> Result<(String, Vec<NotANumber>), DataError> {
    let mut text = file::read_to_string(path)?;
    let mark = text.len() - without_mark(&text).len();
    text.drain(..mark);
    let (text, nan) = json::without_nan(text);
    if let Some(first) = nan.first() {
        tracing::warn!(
            "{}: NaN or Infinity, which JSON does not have, is read as null: {}; the first: line {}, `{}`",
            path.display(),
            counted(nan.len(), "value"),
            first.line,
            first.field
        );
    }
    Ok((text, nan))
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
            other => Err(DataError::Extension {
                path: path.to_owned(),
                known: format!(
                    ".json (an array) or .jsonl (an object a line){}",
                    match other {
                        Some("parquet") =>
                            ", or eval.benchmark be set to the benchmark that this .parquet is of; of other .parquet files \
                             `videothinker data import` makes such a file",
                        Some("csv" | "tsv") => json::TABLE_AS_LINES,
                        Some("gz" | "zip" | "zst" | "xz" | "bz2") => ": unpack it",
                        _ => "",
                    }
                ),
            }),
        }
    }
}

/// Reads the records of one file.
struct Reader<'a> {
    path: &'a Path,
    /// What is read as null.
    nan: Vec<NotANumber>,
    /// With their places.
    questions: Vec<(String, Question)>,
    /// Records left out.
    images: usize,
    /// Solutions that have another name, by that.
    answers: BTreeMap<&'static str, usize>,
    /// Placeholders of the clip that are taken out.
    placeholders: Said,
    /// Fields by which other programs change what they do.
    unused: BTreeMap<&'static str, Said>,
}

/// How often something was met, and where first.
#[derive(Debug, Default)]
struct Said {
    count: usize,
    first: String,
}

impl Said {
    fn meet(&mut self, place: &str) {
        self.count += 1;
        if self.count == 1 {
            place.clone_into(&mut self.first);
        }
    }
}

impl Reader<'_> {
    fn array(&mut self, text: &str) -> Result<(), DataError> {
        let items: Vec<Distinct> = json::read(text.as_bytes()).map_err(|error| {
            let error = why_no_list(text, error);
            DataError::Content {
                path: self.path.to_owned(),
                place: error.place(),
                problem: format!("not a JSON array of questions: {}", error.problem),
            }
        })?;
        for (index, Distinct(item)) in items.into_iter().enumerate() {
            let place = format!("question {index} (counted from 0)");
            self.record(index, place, Ok(item))?;
        }
        Ok(())
    }

    fn lines(&mut self, text: &str) -> Result<(), DataError> {
        let lines = text.lines().enumerate();
        let written = lines.filter(|(_, line)| !line.trim().is_empty());
        for (position, (index, line)) in written.enumerate() {
            let place = format!("line {}", index + 1);
            let record = json::read(line.as_bytes()).map(|Distinct(record)| record);
            let record = record.map_err(|error| {
                let whole = json::no_json(text.as_bytes());
                whole.map_or(error.problem, str::to_owned)
            });
            self.record(position, place, record)?;
        }
        Ok(())
    }

    /// One record, at `position` among those of the file.
    fn record(
        &mut self,
        position: usize,
        place: String,
        record: Result<Value, String>,
    ) -> Result<(), DataError> {
        let mut record = record;
        if let Ok(Value::Object(fields)) = &mut record {
            if fields.get("data_type").and_then(Value::as_str) == Some("image") {
                self.images += 1;
                return Ok(());
            }
            for name in unused::fields(fields) {
                self.unused.entry(name).or_default().meet(&place);
            }
            match shapes::to_question(fields) {
                Ok(named) => {
                    if let Some(name) = named.answer {
                        *self.answers.entry(name).or_default() += 1;
                    }
                    if named.had_placeholder {
                        self.placeholders.meet(&place);
                    }
                }
                Err(problem) => record = Err(problem),
            }
        }
        if let Ok(Value::Object(fields)) = &mut record {
            // What must be there and is null is as good as missing, and is named then.
            for name in ["problem", "solution", "video"] {
                shapes::taken_if_null(fields, name);
            }
        }
        let record = record.map_err(|problem| self.with_nan(problem));
        let question = record.and_then(|record| {
            serde_json::from_value(record)
                .map_err(|error| incomplete(self.with_nan(json::in_words(&error))))
        });
        let mut question = checked(self.path, &place, question)?;
        if question.id.is_empty() {
            // What is left out counts, so that a question keeps its id.
            let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
            question.id = format!("{stem}/{position}");
        }
        self.questions.push((place, question));
        Ok(())
    }

    /// A problem with a field, and that it is so because the field is no number.
    fn with_nan(&self, problem: String) -> String {
        let is_it = |nan: &&NotANumber| problem.contains(&format!("the field `{}`", nan.field));
        match self.nan.iter().find(is_it) {
            Some(nan) => format!("{problem} (NaN in line {})", nan.line),
            None => problem,
        }
    }

    /// Says once for the whole file what is taken out and what is left aside.
    fn say_what_is_not_used(&self) {
        let path = self.path.display();
        if self.placeholders.count > 0 {
            let Said { count, first } = &self.placeholders;
            tracing::info!(
                "{path}: taken out, placeholders of the clip in the text: {}; the first: {first}",
                counted(*count, "question")
            );
        }
        for (name, Said { count, first }) in &self.unused {
            tracing::warn!(
                "{path}: `{name}` {}: {}; the first: {first}",
                unused::advice(name),
                counted(*count, "record")
            );
        }
    }
}

/// Why a text is no list, and what to do; `error` is what a reader of lists says.
pub(super) fn why_no_list(text: &str, error: Unreadable) -> Unreadable {
    let fields = match json::read(text.as_bytes()) {
        Ok(Distinct(Value::Object(fields))) => fields,
        Ok(_) => return error,
        // What stands in the place of a list may be followed by what is no JSON.
        Err(error) => return error,
    };
    let is_list = |value: &Value| {
        let list = value.as_array();
        list.is_some_and(|list| list.first().is_some_and(Value::is_object))
    };
    let is_one = ["problem", "question"]
        .into_iter()
        .any(|name| fields.contains_key(name));
    let wrapped = fields.iter().find(|(_, value)| !is_one && is_list(value));
    let problem = match wrapped {
        Some((name, _)) => format!(
            "the list stands under `{name}` in an object: write the list alone into the file (`jq '.{name}' OLD.json > NEW.json`)"
        ),
        None => "it is one object, not a list: put [ and ] around it".into(),
    };
    Unreadable {
        line: 1,
        column: 1,
        problem,
    }
}

/// What is wrong with a record that is no question, and what would be one.
fn incomplete(problem: String) -> String {
    problem
        + "; a question is {problem, solution: \"<answer>A,C</answer>\", video}, and `videothinker data import` makes it of \
           other shapes"
}

/// A parsed question whose required fields say something.
fn checked(
    path: &Path,
    place: &str,
    question: Result<Question, String>,
) -> Result<Question, DataError> {
    let content = |problem: String| DataError::Content {
        path: path.to_owned(),
        place: place.to_owned(),
        problem,
    };
    let question = question.map_err(content)?;
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
    if question.choices().is_empty()
        && let Some(names) = options_in_fields(&question.extra)
    {
        return Err(content(format!(
            "its options stand in fields of their own and would not be asked: `videothinker data import FILE --columns options={} --out \
             NEW.jsonl` takes them along",
            names.join("+")
        )));
    }
    if question.video.as_os_str().is_empty() {
        return Err(content("`video` is empty: give the clip's path".into()));
    }
    Ok(question)
}

/// Writes questions as an array (`.json`) or one a line (`.jsonl`).
pub fn write_questions(
    path: &Path,
    questions: impl IntoIterator<Item = impl Borrow<Question>>,
) -> Result<(), DataError> {
    let mut writer = QuestionWriter::create(path)?;
    for question in questions {
        writer.write(question.borrow())?;
    }
    writer.finish()
}

/// A question file being written. It has another name until [`Self::finish`], and is removed without.
pub struct QuestionWriter {
    file: AtomicFile,
    format: Format,
    written: usize,
}

impl QuestionWriter {
    /// Starts a file: an array (`.json`) or an object a line (`.jsonl`).
    pub(crate) fn create(path: &Path) -> Result<Self, DataError> {
        atomic::remove_abandoned(atomic::folder_of(path));
        Ok(Self {
            format: Format::of(path)?,
            file: AtomicFile::create(path)?,
            written: 0,
        })
    }

    /// Questions written so far.
    pub(crate) fn written(&self) -> usize {
        self.written
    }

    /// Appends a question.
    pub(crate) fn write(&mut self, question: &Question) -> Result<(), DataError> {
        let open = match (self.format, self.written) {
            (Format::Array, 0) => "[\n",
            (Format::Array, _) => ",\n",
            (Format::Lines, 0) => "",
            (Format::Lines, _) => "\n",
        };
        self.written += 1;
        let written = self.file.write_all(open.as_bytes());
        let written = written.and_then(|()| Ok(serde_json::to_writer(&mut self.file, question)?));
        self.checked(written)
    }

    /// Ends the file and gives it its name.
    pub(crate) fn finish(mut self) -> Result<(), DataError> {
        let close = match (self.format, self.written) {
            (Format::Array, 0) => "[\n\n]\n",
            (Format::Array, _) => "\n]\n",
            (Format::Lines, _) => "\n",
        };
        let written = self.file.write_all(close.as_bytes());
        self.checked(written)?;
        Ok(self.file.finish()?)
    }

    fn checked(&self, written: io::Result<()>) -> Result<(), DataError> {
        Ok(written.map_err(|error| FileError::writing(self.file.path(), error))?)
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
    fn records_with_written_thinking_are_worked_answers() {
        let record = |more: Value| {
            let mut record = serde_json::json!({
                "problem_id": 7, "problem": "Which lamp goes out first?", "data_type": "video", "problem_type": "multiple choice",
                "options": ["A. The left one", "B. The right one"], "process": "<think>The right one goes out.</think>",
                "solution": "<answer>B</answer>", "path": "./LLaVA-Video-178K/x/1.mp4", "data_source": "LLaVA-Video-178K",
            });
            record
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            record
        };
        let records = serde_json::json!([
            record(serde_json::json!({"data_type": "image", "path": "./Math/1.png"})),
            record(serde_json::json!({})),
            record(serde_json::json!({"process": " ", "video": "/x/2.mp4"})),
        ]);
        let questions = read("cot.json", &records.to_string()).unwrap();
        assert_eq!(questions.len(), 2);
        let first = &questions[0];
        assert_eq!(first.id, "cot/1", "its place in the file");
        assert_eq!(first.video, Path::new("LLaVA-Video-178K/x/1.mp4"));
        assert_eq!(
            first.response.as_deref(),
            Some("<think>The right one goes out.</think>\n<answer>B</answer>")
        );
        assert_eq!(
            first.text(),
            "Which lamp goes out first?\nA. The left one\nB. The right one"
        );
        assert_eq!(questions[1].video, Path::new("/x/2.mp4"));
        assert_eq!(questions[1].response, None);
        let lines: Vec<String> = records
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        assert_eq!(read("cot.jsonl", &lines.join("\n")).unwrap(), questions);
        let images = read("cot.jsonl", &lines[0]).unwrap_err();
        assert!(images.contains("no question about a video"), "{images}");
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
                vec!["line 2", "no JSON at `not json`"],
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
        refused(cases);
    }

    fn refused<const N: usize>(cases: [(&str, String, Vec<&str>); N]) {
        for (name, text, wanted) in cases {
            let message = read(name, &text).unwrap_err();
            for part in wanted {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn broken_files_and_contradictions_are_told_in_words() {
        let good = r#"{"id":"x","problem":"Q?","solution":"<answer>A</answer>","video":"a.mp4"}"#;
        refused([
            ("q.csv", good.to_owned(), vec!["data import OLD.csv"]),
            (
                "q.jsonl",
                format!(
                    "{good}\n{}",
                    good.replace("\"video\"", "\"solution\":\"B\",\"video\"")
                ),
                vec![
                    "line 2",
                    "`solution` stands twice",
                    "\"<answer>A</answer>\"",
                    "\"B\"",
                    "keep one",
                ],
            ),
            (
                "q.json",
                format!(
                    "[{good},\n{}]",
                    good.replace("\"video\"", "\"solution\":\"B\",\"video\"")
                ),
                vec!["line 2, column", "`solution` stands twice"],
            ),
            (
                "q.jsonl",
                good.replace("\"video\"", "\"answer\":\"B\",\"video\""),
                vec!["line 1", "`answer` says \"B\"", "keep the right one"],
            ),
            (
                "q.jsonl",
                format!("{good}\n{}", &good[..30]),
                vec!["line 2: breaks off"],
            ),
            (
                "q.jsonl",
                "problem,video\nWhy?,a.mp4\n".into(),
                vec!["a table (CSV)"],
            ),
            (
                "q.json",
                "<!DOCTYPE html>\n<html></html>".into(),
                vec!["a web page"],
            ),
            (
                "q.jsonl",
                good.replace('"', "'"),
                vec!["line 1", "single quotes"],
            ),
            (
                "q.jsonl",
                good.replace("\"Q?\"", "3"),
                vec!["line 1: the number 3 stands where a text belongs"],
            ),
        ]);
    }
}
