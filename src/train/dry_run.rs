//! A run that is only checked: everything it needs, what it would do, and what that takes.

use super::bias_answers::BiasAnswers;
use super::estimate::DurationEstimate;
use super::estimate::MemoryEstimate;
use super::objective_in_words;
use super::replay;
use super::starting_point::RunOptions;
use super::starting_point::load_dataset;
use super::starting_point::plan_replay;
use super::starting_point::warn_before_training;
use crate::config::Config;
use crate::config::QuestionOrder;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Question;
use crate::data::too_few;
use crate::model::hub;
use crate::prompt::Processor;
use crate::util::words::counted;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use std::fmt::Write;
use std::path::Path;

/// Refuses a limit of prompts that the longest question exceeds with the smallest clip that there may be.
fn check_prompts(config: &Config, questions: &[Question]) -> Result<()> {
    let Some(longest) = questions
        .iter()
        .max_by_key(|question| question.text().len())
    else {
        return Ok(());
    };
    let folder = hub::resolve(&config.model.path).context("model.path")?;
    let clip = config.video.min_frames / 2 * (config.video.min_pixels / (28 * 28));
    let processor = Processor::load(&folder)?;
    let tokens = processor.count_tokens(&longest.text(), Wording::Training, clip)?;
    let limit = config.sampling.max_prompt_tokens;
    if tokens > limit {
        bail!(
            "sampling.max_prompt_tokens = {limit}: question {} has {tokens} tokens with the smallest clip that video allows; raise the \
             limit, or lower video.max_frames and video.max_pixels (`data check` counts every prompt)",
            longest.id
        );
    }
    Ok(())
}

/// Checks everything a run needs without loading a model, and says in words what it would do.
///
/// # Errors
/// Whatever would stop the run before its first step.
pub(crate) fn dry_run(
    config: &Config,
    verb: Verb,
    options: &RunOptions,
    ranks: usize,
) -> Result<String> {
    let dataset = load_dataset(config, verb)?;
    warn_before_training(config, dataset.questions())?;
    let answers = BiasAnswers::load(config, dataset.questions())?;
    // What is still to be downloaded is compared when it is there.
    if let (Some(answers), Some(name)) = (answers, &config.model.bias_model)
        && Path::new(name).is_dir()
    {
        answers.check_model(name, Path::new(name))?;
    }
    if let Some(path) = &options.replay {
        plan_replay(&dataset, replay::read(path)?, config)?;
    }
    let mut text = String::new();
    for line in objective_in_words(config, verb) {
        writeln!(text, "{line}")?;
    }
    let train = &config.train;
    let stops = match train.stop_after {
        Some(stop) if stop < train.steps => format!("The first {stop} of "),
        _ => String::new(),
    };
    writeln!(
        text,
        "{stops}{} of {} from {} ({} left out), output in {}.",
        counted(train.steps, "step"),
        config.train.questions_per_step,
        counted(dataset.len(), "question"),
        dataset.num_skipped(),
        config.output_dir.display()
    )?;
    let available = dataset.len() + dataset.num_skipped();
    if let Some(message) = config
        .data
        .samples
        .and_then(|samples| too_few(samples, available))
    {
        writeln!(text, "{message}.")?;
    }
    let last = config.train.last_step();
    let keep = &config.checkpoint.keep_steps;
    if let Some(step) = keep.iter().find(|step| **step > last) {
        writeln!(
            text,
            "checkpoint.keep_steps names step {step}, but the run ends at {last}: there will be no such checkpoint."
        )?;
    }
    if verb.is_rl() && config.data.order == QuestionOrder::Trainer {
        writeln!(text, "They come in the order of transformers' Trainer.")?;
    }
    check_prompts(config, dataset.questions())?;
    let mut config = config.clone();
    if ranks > 1 {
        config.train.questions_per_step = config.train.questions_per_step.div_ceil(ranks);
        writeln!(
            text,
            "{ranks} ranks, each with {} of a step's questions; memory and time are one rank's.",
            config.train.questions_per_step
        )?;
    }
    let memory = MemoryEstimate::before_start(&config, verb, dataset.questions())?;
    writeln!(
        text,
        "Memory, at the longest prompts and completions:\n{memory}"
    )?;
    if verb.is_rl() {
        let duration = DurationEstimate::in_words(&config, dataset.questions())?;
        writeln!(text, "{duration}")?;
    }
    Ok(text)
}
