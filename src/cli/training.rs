//! `train-sft`, `train-bias`, `train-cdpo`: the same trainer with another objective.

use super::ConfigArgs;
use super::Outcome;
use crate::config::Verb;
use crate::train;
use crate::train::Ending;
use crate::train::Resume;
use crate::train::RunOptions;
use anyhow::Result;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of every training verb.
#[derive(Debug, Clone, Args)]
pub(super) struct TrainingArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// auto: go on from the run's last checkpoint if there is one; never: start anew; or a checkpoint folder
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    resume: Resume,
    /// Resolve and check everything, print the objective in words and the memory it takes, then stop
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `train-cdpo`.
#[derive(Debug, Clone, Args)]
pub(super) struct CdpoArgs {
    #[command(flatten)]
    training: TrainingArgs,
    /// Take each step's completions from this file instead of sampling: lines {question_id, completions:[{text, finish}]}
    #[arg(long, value_name = "FILE.jsonl")]
    replay: Option<PathBuf>,
}

pub(super) fn sft(args: &TrainingArgs) -> Result<Outcome> {
    start(args, Verb::TrainSft, None)
}

pub(super) fn bias(args: &TrainingArgs) -> Result<Outcome> {
    start(args, Verb::TrainBias, None)
}

pub(super) fn cdpo(args: &CdpoArgs) -> Result<Outcome> {
    start(&args.training, Verb::TrainCdpo, args.replay.clone())
}

fn start(args: &TrainingArgs, verb: Verb, replay: Option<PathBuf>) -> Result<Outcome> {
    let config = args.settings.load(verb)?;
    let options = RunOptions {
        resume: args.resume.clone(),
        replay,
    };
    if args.dry_run {
        let text = train::dry_run(&config, verb, &options)?;
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(Outcome::Done);
    }
    Ok(match train::run(&config, verb, &options)? {
        Ending::Finished => Outcome::Done,
        Ending::Stopped => Outcome::Stopped,
    })
}
