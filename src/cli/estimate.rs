//! `estimate`: the memory and time a run takes, before anything is loaded.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::output;
use crate::config::Config;
use crate::config::Verb;
use crate::data::Dataset;
use crate::data::read_questions;
use crate::model::hub;
use crate::prompt::Processor;
use crate::train::estimate::DurationEstimate;
use crate::train::estimate::MemoryEstimate;
use crate::train::estimate::PlannedGpu;
use crate::train::estimate::RunEstimate;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use clap::ValueEnum;
use std::num::NonZero;

#[derive(Debug, Args)]
pub(super) struct EstimateArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// The command that would run [default: train-cdpo with a bias model, else train-grpo]
    #[arg(long = "for", value_name = "COMMAND")]
    command: Option<Training>,
    /// For GPUs that need not be here, nor need models: h200, h100, a100 or a6000, from their data sheets, or their memory, such as
    /// 24GB
    #[arg(long, value_name = "CARD")]
    card: Option<PlannedGpu>,
    /// For so many of them, which share a step's questions
    #[arg(long, value_name = "N", default_value = "1", requires = "card")]
    ranks: NonZero<usize>,
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
    #[value(name = "train-grpo")]
    Grpo,
    #[value(name = "train-cdpo")]
    Cdpo,
}

/// Whether there are questions to count prompts by; without, prompts are taken to be as long as they may be.
fn has_questions(config: &Config) -> bool {
    let file = &config.data.questions;
    if !file.is_file() && !file.as_os_str().is_empty() {
        tracing::warn!(
            "there is no question file {} (data.questions): every prompt counts as the longest that may be",
            file.display()
        );
    }
    file.is_file()
}

pub(super) fn run(args: &EstimateArgs) -> Result<Outcome> {
    let mut config = args.settings.load(Verb::Inspect)?;
    let repels = config.model.bias_model.is_some();
    let verb = match args.command {
        Some(Training::Sft) => Verb::TrainSft,
        Some(Training::Cdpo) => Verb::TrainCdpo,
        None if repels => Verb::TrainCdpo,
        Some(Training::Bias) => Verb::TrainBias,
        Some(Training::Grpo) | None => Verb::TrainGrpo,
    };
    if verb != Verb::TrainCdpo {
        // The others load none.
        config.model.bias_model = None;
    }
    if let Some(card) = args.card {
        return plan(args, &config, verb, card);
    }
    let dataset = if has_questions(&config) {
        Some(Dataset::load(&config.data, config.seed)?)
    } else {
        None
    };
    let questions = dataset.as_ref().map_or(&[][..], Dataset::questions);
    let folder = hub::resolve(&config.model.path).context("model.path")?;
    let processor = Processor::load(&folder)?;
    let memory = MemoryEstimate::before_start(&config, verb, questions, &processor)?;
    if args.json {
        output::json(&memory)?;
    } else {
        output::lines(&format!("{memory}\n"))?;
        if verb.is_rl() {
            let duration = DurationEstimate::in_words(&config, questions, &processor)?;
            output::lines(&format!("{duration}\n"))?;
        }
    }
    Ok(Outcome::Done)
}

/// The estimate for a card that need not be here; nor need clips be.
fn plan(args: &EstimateArgs, config: &Config, verb: Verb, card: PlannedGpu) -> Result<Outcome> {
    let (ranks, asked) = (args.ranks.get(), config.train.questions_per_step);
    if ranks > asked {
        let problem = format!(
            "--ranks {ranks}: a step has train.questions_per_step = {asked} questions to share"
        );
        return Err(BadArgument(problem).into());
    }
    let questions = if has_questions(config) {
        read_questions(&config.data.questions)?
    } else {
        Vec::new()
    };
    let plan = RunEstimate::new(config, verb, &questions, card, ranks)?;
    if args.json {
        output::json(&plan)?;
    } else {
        output::lines(&format!("{plan}\n"))?;
    }
    Ok(Outcome::Done)
}
