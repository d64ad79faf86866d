//! The training loop and the one enum in which the stages differ.

use crate::config::Config;
use crate::config::Verb;
use anyhow::Result;
use std::path::PathBuf;
use std::str::FromStr;

pub mod backward;
pub mod checkpoint;
pub mod console;
pub mod files;
pub mod metrics;
pub mod optimizer;
pub mod rundir;
pub mod signals;
pub mod tensorboard;
mod words;

pub use words::objective_in_words;

/// How a training run is started.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// From where to go on.
    pub resume: Resume,
    /// Check everything, load nothing, train nothing.
    pub dry_run: bool,
    /// Completions of each step, instead of sampling (`train-cdpo`).
    pub replay: Option<PathBuf>,
}

/// From where a run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Resume {
    /// The run directory's last checkpoint, if it has one.
    #[default]
    Auto,
    /// Start anew; a run directory with checkpoints in it is an error.
    Never,
    /// This checkpoint folder.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" => Self::Never,
            path => Self::From(PathBuf::from(path)),
        })
    }
}

/// How a run ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// A signal asked it to stop; a checkpoint is saved.
    Stopped,
}

/// Runs one training verb from its config to its last checkpoint.
///
/// # Errors
/// Bad input, a full disk, another process on the same run directory, too many bad steps in a row.
pub fn run(config: &Config, verb: Verb, options: &RunOptions) -> Result<Ending> {
    for line in objective_in_words(config, verb) {
        tracing::info!("{line}");
    }
    if options.dry_run {
        return Ok(Ending::Finished);
    }
    anyhow::bail!("{} is being wired", verb.as_str())
}
