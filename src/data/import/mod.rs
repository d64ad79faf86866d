//! Question lines from the files of other projects. What cannot become a question is left out, counted, and said.

use super::DataError;
use super::Question;
use super::answer::Answer;
use super::answer::option::letter_index;
use super::benchmark::parquet::Bytes;
use super::benchmark::records;
use super::benchmark::records::Record;
use super::read::QuestionWriter;
use crate::util::atomic;
use crate::util::words::counted;
use columns::Column;
use record::LeftOut;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

mod clips;
pub(crate) mod columns;
mod instructions;
mod question;
mod record;
pub(in crate::data) mod series;
mod turns;

/// Whose files they are. Each record is looked at by itself, so that a file may hold several shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Source {
    /// By the fields of each record
    #[default]
    Auto,
    /// LLaVA: {id, video, conversations: [{from, value}]}
    Llava,
    /// ShareGPT and ms-swift: {messages: [{role, content}] or conversations, videos}
    Sharegpt,
    /// Video-R1 and EasyR1: {problem, options, solution or answer, path or videos}
    VideoR1,
    /// Columns of a parquet file, named as above or by --columns
    HfParquet,
    /// TRL and verl: {prompt, solution or answer or `reward_model`, videos}
    Trl,
}

/// What is to be converted, and how.
#[derive(Debug)]
pub(crate) struct Import<'a> {
    /// Files, or folders of them.
    pub(crate) files: &'a [PathBuf],
    pub(crate) source: Source,
    /// Fields under other names.
    pub(crate) columns: &'a [Column],
    /// The number of the first option, where answers are numbers.
    pub(crate) first_option: Option<usize>,
    /// Whether what a text says about the form of its answer stays in it.
    pub(crate) keep_instructions: bool,
    /// Where clips that stand in the files themselves are written.
    pub(crate) video_dir: Option<&'a Path>,
}

/// Records left out for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    pub(crate) count: usize,
    /// Place and detail of the first one.
    pub(crate) first: String,
}

/// What came of a conversion.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Imported {
    /// Records read.
    pub(crate) records: usize,
    /// Questions written.
    pub(crate) questions: usize,
    /// Of them: with options.
    pub(crate) multiple_choice: usize,
    /// With several right options.
    pub(crate) several_right: usize,
    /// With a worked answer.
    pub(crate) worked: usize,
    /// How many records had which shape.
    pub(crate) shapes: BTreeMap<&'static str, usize>,
    /// What is no question, by reason.
    pub(crate) left_out: BTreeMap<&'static str, Counted>,
    /// What was done that may not be expected, by kind.
    pub(crate) remarks: BTreeMap<&'static str, Counted>,
    /// Clips written to `--video-dir`.
    pub(crate) clips_written: usize,
    /// The first question.
    pub(crate) sample: Option<Question>,
}

impl Imported {
    /// Counts what is left out.
    fn leave_out(&mut self, place: &str, left: &LeftOut) {
        count(&mut self.left_out, left.reason, place, &left.detail);
    }

    fn remark(&mut self, what: &'static str, place: &str, detail: &str) {
        count(&mut self.remarks, what, place, detail);
    }
}

fn count(
    counts: &mut BTreeMap<&'static str, Counted>,
    reason: &'static str,
    place: &str,
    detail: &str,
) {
    let counted = counts.entry(reason).or_default();
    counted.count += 1;
    if counted.count == 1 {
        counted.first = if detail.is_empty() {
            place.to_owned()
        } else {
            format!("{place}: {detail}")
        };
    }
}

/// Writes what becomes of the files into the question file `out`.
///
/// # Errors
/// A file cannot be read, holds clips that have no place to go, or nothing is left to write.
pub(crate) fn import(import: &Import, out: &Path) -> Result<Imported, DataError> {
    let mut writer = QuestionWriter::create(out)?;
    if let Some(folder) = import.video_dir {
        atomic::remove_abandoned(folder);
    }
    let mut summary = Imported::default();
    let mut ids = BTreeSet::new();
    for file in import.files {
        let mut failure = None;
        let before = summary.records;
        let read = records::for_each_with(file, Bytes::Keep, &mut |record| {
            take(import, record, &mut ids, &mut summary, &mut writer).map_err(|error| {
                let problem = error.to_string();
                if let Refused::Data(error) = error {
                    failure = Some(error);
                }
                problem
            })
        });
        // A disk that is full is no fault of a record's.
        read.map_err(|error| failure.unwrap_or(error))?;
        if summary.records == before {
            return Err(DataError::Empty {
                path: file.clone(),
                problem: "holds no record".into(),
            });
        }
    }
    if summary.questions == 0 {
        let reasons = summary.left_out.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, counted)| format!("{reason}: {} ({})", counted.count, counted.first))
            .collect();
        return Err(DataError::Empty {
            path: import.files[0].clone(),
            problem: format!(
                "none of {} became a question: {}. `--columns problem=…,solution=…,video=…` names fields that have \
                 other names",
                counted(summary.records, "record"),
                reasons.join("; ")
            ),
        });
    }
    writer.finish()?;
    Ok(summary)
}

/// Why a conversion stops.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Record(String),
    #[error("{0}")]
    Data(DataError),
}

/// Writes the questions of one record.
fn take(
    import: &Import,
    record: Record,
    ids: &mut BTreeSet<String>,
    summary: &mut Imported,
    writer: &mut QuestionWriter,
) -> Result<(), Refused> {
    summary.records += 1;
    let stem = record.stem();
    let place = format!(
        "{}, record {} (counted from 0)",
        record.path.display(),
        record.index
    );
    let index = record.index;
    let found = record::questions(import, record, &place, summary).map_err(Refused::Record)?;
    let found = match found {
        Ok(found) => found,
        Err(left) => {
            summary.leave_out(&place, &left);
            return Ok(());
        }
    };
    let several = found.len() > 1;
    for (turn, question) in found.into_iter().enumerate() {
        let mut question = match question {
            Ok(question) => question,
            Err(left) => {
                summary.leave_out(&place, &left);
                continue;
            }
        };
        if question.id.is_empty() {
            question.id = format!("{stem}/{index}");
        }
        if several {
            question.id = format!("{}/{}", question.id, turn + 1);
        }
        if ids.contains(&question.id) {
            summary.remark("ids that stood twice, now numbered", &place, &question.id);
            question.id = free_id(&question.id, ids);
        }
        ids.insert(question.id.clone());
        writer.write(&question).map_err(Refused::Data)?;
        tally(summary, question);
    }
    Ok(())
}

/// The id with the first number that makes it another one.
fn free_id(id: &str, ids: &BTreeSet<String>) -> String {
    let mut number = 2;
    loop {
        let numbered = format!("{id}#{number}");
        if !ids.contains(&numbered) {
            return numbered;
        }
        number += 1;
    }
}

fn tally(summary: &mut Imported, question: Question) {
    let answer: Answer = question.answer();
    let is_choice =
        !question.choices().is_empty() && answer.items().all(|item| letter_index(item).is_some());
    summary.questions += 1;
    summary.multiple_choice += usize::from(is_choice);
    summary.several_right += usize::from(is_choice && answer.len() > 1);
    summary.worked += usize::from(question.response.is_some());
    summary.sample.get_or_insert(question);
}

#[cfg(test)]
mod tests;
