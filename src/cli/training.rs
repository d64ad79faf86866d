//! `train-sft`, `train-bias`, `train-grpo`, `train-cdpo`: the same trainer with another objective.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::output;
use crate::config::Config;
use crate::config::Verb;
use crate::dist::DistError;
use crate::dist::ProcessGroup;
use crate::dist::rendezvous::Rendezvous;
use crate::model::weights::Depth;
use crate::train;
use crate::train::Ending;
use crate::train::Resume;
use crate::train::RunOptions;
use anyhow::Result;
use clap::Args;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of every training verb.
#[derive(Debug, Clone, Args)]
pub(super) struct TrainingArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// auto: go on from the run's last checkpoint if there is one; never: only start a new run; or a checkpoint folder
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    resume: Resume,
    /// Go on from a checkpoint although the questions have changed since it was saved
    #[arg(long)]
    accept_changed_data: bool,
    /// Train with N processes on this machine, one on each GPU (or all on its CPU); torchrun and srun start ranks on several
    #[arg(long, value_name = "N")]
    ranks: Option<NonZero<usize>>,
    /// Resolve and check everything, print the objective in words and the memory it takes, then stop
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: read every weight of the models too; one that is not finite is an error
    #[arg(long, requires = "dry_run")]
    deep: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    training: TrainingArgs,
    /// Take each step's completions from this file instead of sampling: lines {question_id, completions:[{text, finish}]}; the
    /// run ends with the file where that has fewer steps than train.steps
    #[arg(long, value_name = "FILE.jsonl")]
    replay: Option<PathBuf>,
}

pub(super) fn sft(args: &TrainingArgs) -> Result<Outcome> {
    start(args, Verb::TrainSft, None)
}

pub(super) fn bias(args: &TrainingArgs) -> Result<Outcome> {
    start(args, Verb::TrainBias, None)
}

pub(super) fn grpo(args: &ReplayArgs) -> Result<Outcome> {
    start(&args.training, Verb::TrainGrpo, args.replay.clone())
}

pub(super) fn cdpo(args: &ReplayArgs) -> Result<Outcome> {
    start(&args.training, Verb::TrainCdpo, args.replay.clone())
}

fn start(args: &TrainingArgs, verb: Verb, replay: Option<PathBuf>) -> Result<Outcome> {
    let config = args.settings.load(verb)?;
    let options = RunOptions {
        resume: args.resume.clone(),
        replay,
        accept_changed_data: args.accept_changed_data,
    };
    let rendezvous = Rendezvous::from_environment(|name| std::env::var(name).ok())?;
    let ranks = ranks(args, &config, rendezvous.as_ref())?;
    if args.dry_run {
        let depth = if args.deep {
            Depth::Values
        } else {
            Depth::Headers
        };
        let text = train::dry_run(&config, verb, &options, ranks, depth)?;
        output::lines(&text)?;
        return Ok(Outcome::Done);
    }
    let launched = rendezvous
        .as_ref()
        .is_some_and(|rendezvous| rendezvous.launched);
    let rank = rendezvous.as_ref().map_or(0, |rendezvous| rendezvous.rank);
    let _span = (rank > 0).then(|| tracing::error_span!("rank", n = rank).entered());
    let patience = Duration::from_secs(config.train.rank_timeout);
    let dist = match rendezvous {
        Some(rendezvous) => ProcessGroup::join(rendezvous, patience)?,
        None => ProcessGroup::launch(ranks, patience)?,
    };
    match train::run(&config, verb, &options, dist) {
        Ok(Ending::Finished) => Ok(Outcome::Done),
        Ok(Ending::Stopped) => Ok(Outcome::Stopped),
        // On this terminal the one that failed says it.
        Err(error) if launched && matches!(error.downcast_ref(), Some(DistError::Left { .. })) => {
            Ok(Outcome::Failed)
        }
        Err(error) if rank > 0 => Err(error.context(format!("rank {rank} of {ranks} ended"))),
        Err(error) => Err(error),
    }
}

/// How many processes train together.
fn ranks(args: &TrainingArgs, config: &Config, rendezvous: Option<&Rendezvous>) -> Result<usize> {
    let asked = args.ranks.map(NonZero::get);
    let ranks = match (rendezvous, asked) {
        (Some(rendezvous), Some(asked)) if asked != rendezvous.size => {
            let problem = format!(
                "--ranks {asked}: torchrun or srun has started {} processes; leave --ranks out",
                rendezvous.size
            );
            return Err(BadArgument(problem).into());
        }
        (Some(rendezvous), _) => rendezvous.size,
        (None, asked) => asked.unwrap_or(1),
    };
    let questions = config.train.questions_per_step;
    if ranks > questions {
        let problem = format!(
            "{ranks} ranks share train.questions_per_step = {questions} questions: start fewer, or ask more a step"
        );
        return Err(BadArgument(problem).into());
    }
    Ok(ranks)
}
