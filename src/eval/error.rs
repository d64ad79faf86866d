//! Why an evaluation fails.

use super::shard::Shard;
use crate::util::file::FileError;
use crate::util::json_lines::LinesError;
use std::path::PathBuf;

/// Why an evaluation could not be run or read.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A signal has come between two batches.
    #[error("stopped: what was answered is kept, and the same command goes on from there")]
    Stopped,
    /// A file holds something else than it should.
    #[error("{}: not what `eval` writes ({reason}): restore it, or run the evaluation again", path.display())]
    Json {
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// A line of the log is broken, and it is not the last.
    #[error("{}:{line}: not an answered question ({reason}); remove the line to have it answered again", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        /// What the reader says.
        reason: String,
    },
    /// The folder is no evaluation's.
    #[error("{} is not the folder of an evaluation (it has no scores.json): name the --out of a finished one", path.display())]
    NotAnEvaluation { path: PathBuf },
    /// The evaluation has not come to its end.
    #[error(
        "the evaluation in {} is not finished (it has no scores.json): run it again, it continues where it was, or put its \
         shards together with eval merge",
        path.display()
    )]
    NotFinished { path: PathBuf },
    /// The log does not hold the answers that were scored.
    #[error(
        "{} holds {found} different answers in {lines} lines, scores.json counts {scored}: remove lines that stand twice, or \
         run the evaluation again to have missing ones answered",
        path.display()
    )]
    OtherAnswers {
        path: PathBuf,
        /// Different questions in it.
        found: usize,
        lines: usize,
        scored: usize,
    },
    /// The folder holds answers that were given under other conditions.
    #[error(
        "{} holds answers given under other conditions, then / now: {}; name another folder with --out, or remove this one",
        path.display(),
        differences.join(", ")
    )]
    OtherSettings {
        path: PathBuf,
        /// Each setting that differs, with both values.
        differences: Vec<String>,
    },
    /// The two evaluations were made under different conditions.
    #[error(
        "the two evaluations differ in {}: their scores cannot be compared (--across-protocols compares them all the same)",
        differences.join(", ")
    )]
    NotComparable {
        /// Each setting that differs, with both values.
        differences: Vec<String>,
    },
    /// No question was answered in both.
    #[error("{} and {} have no question in common", first.display(), second.display())]
    NothingInCommon { first: PathBuf, second: PathBuf },
    /// There is nothing to merge.
    #[error("{} holds no outputs-I-of-N.jsonl: run `eval run --shard I/N --out` with this folder first", path.display())]
    NoShards { path: PathBuf },
    /// The folder holds shards of two divisions.
    #[error("{} holds shards of {one} and of {other}: remove those of one division", path.display())]
    MixedShards {
        path: PathBuf,
        /// Number of shards of one division.
        one: usize,
        other: usize,
    },
    /// A shard has not come to its end.
    #[error("shard {shard} is not finished ({} is missing): run it again, it continues where it was", path.display())]
    Unfinished {
        /// The file that a finished shard has.
        path: PathBuf,
        shard: Shard,
    },
    /// The shards do not hold every question once.
    #[error(
        "the shards in {} hold {found} of {asked} questions: remove the logs of a shard that does not belong and run it again",
        path.display()
    )]
    Incomplete {
        path: PathBuf,
        found: usize,
        asked: usize,
    },
    /// The shards were put together before.
    #[error("{} is there already: remove it to merge again", path.display())]
    Merged {
        /// The log of the whole evaluation.
        path: PathBuf,
    },
    /// A subtitle file is not in the SubRip format.
    #[error("{}:{line}: not a time such as `00:00:01,000 --> 00:00:02,500`; mend the file, or move it away", path.display())]
    Subtitles { path: PathBuf, line: usize },
    /// No answer of the evaluation is for a judge.
    #[error("the answers in {} are scored by rule: eval judge reads captions (tempcompass_captioning) and open answers (mmvu_open)", path.display())]
    NothingToJudge { path: PathBuf },
    /// Captions that nobody has judged.
    #[error("the answers in {} are not judged: eval judge DIR --url URL --model NAME does that", path.display())]
    Unjudged { path: PathBuf },
    /// Another process writes to the same folder.
    #[error(
        "{}: the questions are being answered by {holder}: wait for it, or name another folder with --out", path.display()
    )]
    InUse {
        path: PathBuf,
        /// What that process says of itself.
        holder: String,
    },
    /// Another process has the same answers judged.
    #[error("the answers in {} are being judged by another process: wait for it, or stop it", path.display())]
    Judging { path: PathBuf },
    /// The judge was asked in words that are no longer used.
    #[error("the answers in {} were judged by another version of this program, in other words: judge them again (eval judge)", path.display())]
    OtherWords { path: PathBuf },
    /// A judge does not answer.
    #[error(
        "the judge at {url} does not answer: {reason}; replies that came are kept, the same command goes on"
    )]
    Judge {
        url: String,
        /// What it or the system says.
        reason: String,
    },
    /// The words of a protocol are not where they should be.
    #[error("eval.protocol_from: {}: {wanted}", path.display())]
    NoProtocolWords {
        /// The clone, or the file in it.
        path: PathBuf,
        /// What is missing and what to do.
        wanted: String,
    },
    /// A rule that belongs to a benchmark, for questions of none.
    #[error(
        "the questions in {} are no benchmark's, so there is no official rule to read their answers: use strict, authors or training",
        path.display()
    )]
    NoOfficialRule { path: PathBuf },
    /// There is nothing to score.
    #[error("no question was answered: every clip was skipped")]
    Nothing,
}

impl From<LinesError> for EvalError {
    fn from(error: LinesError) -> Self {
        match error {
            LinesError::File(error) => error.into(),
            LinesError::Line { path, line, reason } => Self::Line { path, line, reason },
        }
    }
}
