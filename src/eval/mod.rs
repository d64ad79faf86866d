//! Benchmarks: questions in, `outputs.jsonl` and `scores.json` out. An interrupted evaluation continues where it was.

mod batches;
pub(crate) mod compare;
pub(crate) mod error;
mod files;
pub(crate) mod fingerprint;
pub(crate) mod grid;
pub(crate) mod judge;
mod log;
pub(crate) mod prediction;
pub(crate) mod prompt_format;
mod protocol;
pub(crate) mod responder;
mod run;
pub(crate) mod score;
mod score_file;
mod settings;
mod shard;
pub(crate) mod shortcut;
pub mod stored;
pub(crate) mod subtitles;
pub(crate) mod table;

pub(crate) use error::EvalError;
pub(crate) use run::Evaluation;
pub(crate) use score_file::ScoreFile;
pub(crate) use settings::Settings;
pub(crate) use shard::Shard;
