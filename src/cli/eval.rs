//! `eval`: answers a benchmark and scores it, or works on the answers of finished evaluations.

use super::Outcome;
use anyhow::Result;
use clap::Args;
use flags::OldFlags;
use verb::EvalVerb;

mod compare;
mod flags;
mod grid;
mod judge;
mod merge;
mod preview;
mod rescore;
mod run;
mod shared;
mod table;
mod verb;

pub(super) use shared::model_folder;
pub(super) use shared::read_all;

#[derive(Debug, Args)]
#[command(
    override_usage = "videothinker eval <COMMAND>",
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
pub(super) struct EvalArgs {
    #[command(subcommand)]
    verb: Option<EvalVerb>,
    #[command(flatten)]
    flags: OldFlags,
}

pub(super) fn run(args: EvalArgs) -> Result<Outcome> {
    let verb = match args.verb {
        Some(verb) => verb,
        None => args.flags.into_verb()?,
    };
    verb.run()?;
    Ok(Outcome::Done)
}
