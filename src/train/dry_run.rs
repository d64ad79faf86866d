//! A run that is only checked: everything it needs, what it would do, and what that takes.

use super::bias_answers::BiasAnswers;
use super::checkpoint::Checkpoints;
use super::checkpoint::DrawnQuestions;
use super::estimate::DurationEstimate;
use super::estimate::MemoryEstimate;
use super::objective_in_words;
use super::replay;
use super::rundir;
use super::starting_point;
use super::starting_point::RunOptions;
use super::starting_point::load_dataset;
use super::starting_point::plan_replay;
use super::starting_point::warn_before_training;
use crate::config::BadVideoPolicy;
use crate::config::Config;
use crate::config::QuestionOrder;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Question;
use crate::data::too_few;
use crate::model::hub;
use crate::model::spec::Spec;
use crate::model::weights;
use crate::model::weights::Depth;
use crate::prompt::Processor;
use crate::rl::honest;
use crate::util::words::counted;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;

/// Refuses a model whose tokenizer or template lets no answer be right, and a limit of prompts that the longest question exceeds
/// with the smallest clip that there may be.
fn check_prompts(
    config: &Config,
    verb: Verb,
    questions: &[Question],
    processor: &Processor,
    folder: &Path,
) -> Result<()> {
    let Some(longest) = questions
        .iter()
        .max_by_key(|question| question.text().len())
    else {
        return Ok(());
    };
    let clip = config.video.min_frames / 2 * (config.video.min_pixels / (28 * 28));
    if verb.is_rl() {
        honest::refuse_hopeless(questions, &config.reward, processor, folder)?;
    }
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

/// Checks the model folders that are there, `depth` deep, as loading them would.
fn check_models(config: &Config, depth: Depth) -> Result<()> {
    let model = hub::resolve(&config.model.path).context("model.path")?;
    // One that is still to be downloaded is checked when it is there.
    let bias_model = config.model.bias_model.as_ref().map(PathBuf::from);
    let bias_model = bias_model.filter(|name| name.is_dir());
    for (key, folder) in [
        ("model.path", Some(model)),
        ("model.bias_model", bias_model),
    ] {
        if let Some(folder) = folder {
            let spec = Spec::load(&folder).context(key)?;
            weights::inspect(&folder, &spec, depth).context(key)?;
        }
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
    depth: Depth,
) -> Result<String> {
    let dataset = load_dataset(config, verb)?;
    if config.data.on_bad_video == BadVideoPolicy::Error {
        starting_point::check_parts(dataset.questions())?;
    }
    warn_before_training(config, dataset.questions())?;
    let answers = BiasAnswers::load(config, dataset.questions())?;
    // What is still to be downloaded is compared when it is there.
    if let (Some(answers), Some(name)) = (&answers, &config.model.bias_model)
        && Path::new(name).is_dir()
    {
        answers.check_model(name, Path::new(name))?;
    }
    let state = starting_point::Run {
        config,
        checkpoints: &Checkpoints::look_into(&config.output_dir, &config.checkpoint),
        questions: DrawnQuestions::of(&dataset),
        answers: answers.as_ref(),
        options,
        is_dry: true,
        depth,
    };
    rundir::check_free(&config.output_dir)?;
    let (_, state) = state.starting_point()?;
    if let Some(path) = &options.replay {
        plan_replay(&dataset, replay::read(path)?, config)?;
    }
    check_models(config, depth)?;
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
    if state.step > 0 {
        writeln!(text, "{} of them are done.", state.step)?;
    }
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
    let folder = hub::resolve(&config.model.path).context("model.path")?;
    let processor = Processor::load(&folder)?;
    check_prompts(config, verb, dataset.questions(), &processor, &folder)?;
    text += match depth {
        Depth::Headers => {
            "Not looked at here: the clips' frames (`data check` does) and the weights' values (--deep does).\n"
        }
        Depth::Values => "Not looked at here: the clips' frames (`data check` does).\n",
    };
    text += &cost_in_words(config, verb, dataset.questions(), ranks, &processor)?;
    Ok(text)
}

/// The memory and time of one rank.
fn cost_in_words(
    config: &Config,
    verb: Verb,
    questions: &[Question],
    ranks: usize,
    processor: &Processor,
) -> Result<String> {
    let mut text = String::new();
    let mut config = config.clone();
    if ranks > 1 {
        config.train.questions_per_step = config.train.questions_per_step.div_ceil(ranks);
        writeln!(
            text,
            "{ranks} ranks, each with {} of a step's questions; memory and time are one rank's.",
            config.train.questions_per_step
        )?;
    }
    let memory = MemoryEstimate::before_start(&config, verb, questions, processor)?;
    writeln!(
        text,
        "Memory, at the longest prompts and completions:\n{memory}"
    )?;
    if verb.is_rl() {
        let duration = DurationEstimate::in_words(&config, questions, processor)?;
        writeln!(text, "{duration}")?;
    }
    Ok(text)
}
