//! `estimate`: the memory and time a run takes, before anything is loaded.

use super::ConfigArgs;
use super::Outcome;
use super::output;
use crate::config::Verb;
use crate::data::Dataset;
use crate::train::estimate::Memory;
use crate::train::measure::Duration;
use anyhow::Result;
use clap::Args;
use clap::ValueEnum;

/// Arguments of `estimate`.
#[derive(Debug, Args)]
pub(super) struct EstimateArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// The command that would run [default: train-cdpo with a bias model, else train-bias]
    #[arg(long = "for", value_name = "COMMAND")]
    command: Option<Training>,
    /// Print {weights, …, peak} in bytes
    #[arg(long)]
    json: bool,
}

/// A command that trains.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Training {
    #[value(name = "train-sft")]
    Sft,
    #[value(name = "train-bias")]
    Bias,
    #[value(name = "train-cdpo")]
    Cdpo,
}

/// Runs `estimate`. The question file may be missing: prompts are then taken to be as long as they may be.
pub(super) fn run(args: &EstimateArgs) -> Result<Outcome> {
    let config = args.settings.load(Verb::Inspect)?;
    let repels = config.model.bias_model.is_some();
    let verb = match args.command {
        Some(Training::Sft) => Verb::TrainSft,
        Some(Training::Cdpo) => Verb::TrainCdpo,
        None if repels => Verb::TrainCdpo,
        Some(Training::Bias) | None => Verb::TrainBias,
    };
    let dataset = if config.data.questions.is_file() {
        Some(Dataset::load(&config.data, config.seed)?)
    } else {
        None
    };
    let questions = dataset.as_ref().map_or(&[][..], Dataset::questions);
    let memory = Memory::before_start(&config, verb, questions)?;
    if args.json {
        output::json(&memory)?;
    } else {
        output::text(&format!("{memory}\n"))?;
        if verb.is_rl() {
            let duration = Duration::before_start(&config, questions)?;
            output::text(&format!("{duration}\n"))?;
        }
    }
    Ok(Outcome::Done)
}
