//! Benchmarks: questions in, `outputs.jsonl` and `scores.json` out. An interrupted evaluation continues where it was.

mod batches;
pub mod compare;
mod error;
mod files;
mod fingerprint;
pub mod grid;
pub mod judge;
mod log;
pub mod prediction;
pub mod prompt_format;
mod protocol;
pub mod responder;
mod run;
pub mod score;
mod score_file;
mod settings;
mod shard;
pub mod stored;
pub mod subtitles;
pub mod table;

pub use error::EvalError;
pub use protocol::ProtocolFile;
pub use run::Evaluation;
pub use run::RunningScore;
pub use score_file::ScoreFile;
pub use settings::Settings;
pub use shard::Shard;
