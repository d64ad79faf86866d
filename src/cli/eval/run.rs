//! `eval run`: answers a benchmark and scores it.

use super::preview::PreviewArgs;
use super::preview::preview;
use super::shared::PrintArgs;
use super::shared::model_folder;
use super::shared::read_askable;
use super::shared::show;
use crate::cli::BadArgument;
use crate::cli::ConfigArgs;
use crate::cli::setup::shell_path;
use crate::config::Verb;
use crate::data::Dataset;
use crate::data::Question;
use crate::eval::EvalError;
use crate::eval::Evaluation;
use crate::eval::Settings;
use crate::eval::Shard;
use crate::eval::prompt_format::PromptFormat;
use crate::eval::responder::Responder;
use crate::eval::subtitles::Subtitles;
use crate::util::console::Progress;
use crate::util::file;
use crate::util::signals::StopRequest;
use crate::video::ClipLoader;
use crate::video::Prefetcher;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use std::num::NonZero;
use std::path::PathBuf;

/// Arguments of `eval run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) settings: ConfigArgs,
    /// The model to ask: a folder or a hub id
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) preview: PreviewArgs,
    /// Folder for outputs.jsonl and scores.json; an evaluation found there is continued [default: output_dir]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Answer the I-th of N parts only, into files of its own; `eval merge` puts the parts together
    #[arg(long, value_name = "I/N", conflicts_with = "dry_run")]
    pub(super) shard: Option<Shard>,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

pub(super) fn run(args: &RunArgs) -> Result<()> {
    if args.preview.dry_run {
        // Questions can be looked at before the clips are here.
        let mut config = args.settings.load(Verb::Inspect)?;
        let folder = args.model.as_deref().map(model_folder).transpose()?;
        if let Some(folder) = &folder {
            config = args.settings.load_for_model(Verb::Inspect, folder)?;
        }
        return preview(
            &config,
            folder.as_deref(),
            args.preview.show,
            args.print.json,
        );
    }
    match &args.model {
        Some(model) => evaluate(args, model),
        None => Err(BadArgument("eval run needs --model DIR".into()).into()),
    }
}

fn evaluate(args: &RunArgs, model: &str) -> Result<()> {
    // What is wrong with the settings is said before a model is downloaded.
    args.settings.load(Verb::Eval)?;
    let folder = model_folder(model)?;
    let config = args.settings.load_for_model(Verb::Eval, &folder)?;
    let questions = read_askable(&config)?;
    let dataset = Dataset::new(questions, &config.data, config.seed)?;
    let out = match &args.out {
        Some(out) => out,
        None if file::exists(&config.output_dir.join("checkpoints"))? => {
            let problem = format!(
                "output_dir = {} is a training run: say where the answers go, such as --out {}",
                config.output_dir.display(),
                shell_path(&config.output_dir.join("eval"))
            );
            return Err(BadArgument(problem).into());
        }
        None => &config.output_dir,
    };
    let settings = Settings::new(&config, model, &folder, &dataset)?;
    for remark in &settings.remarks {
        tracing::info!("protocol {}: {remark}", settings.protocol);
    }
    let (questions, size) = (dataset.questions(), config.eval.batch_size);
    let evaluation = Evaluation::open(&settings, questions, size, args.shard, out)?;
    let jobs: Vec<PathBuf> = evaluation
        .pending()
        .into_iter()
        .flatten()
        .map(|question| question.video.clone())
        .collect();
    let progress = Progress::start(evaluation.len() - jobs.len(), evaluation.len());
    let eval = &config.eval;
    let responder = if jobs.is_empty() {
        tracing::info!(
            "all {} questions are answered already in {}",
            evaluation.len(),
            out.display()
        );
        None
    } else {
        let responder = Responder::load(&folder, &config, eval.temperature, eval.samples)?;
        responder.warn_of_hindrances(dataset.questions(), &folder)?;
        Some(responder)
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let bytes = config.train.prefetch_mib << 20;
    let loader = ClipLoader::new(&config.video, &config.data).context("data.cache_dir")?;
    let mut clips = Prefetcher::new(jobs, loader, bytes, threads)?;
    let format = PromptFormat::new(eval)?;
    let subtitles = eval.subtitles.as_deref().map(Subtitles::new);
    let stop = StopRequest::listen_and_say(
        "the questions being answered are finished; once more stops at once",
    )?;
    let answer = |batch: &[&Question]| match &responder {
        _ if stop.is_set() => Err(EvalError::Stopped.into()),
        Some(responder) => responder.answer_batch(
            batch,
            &mut clips,
            &format,
            subtitles.as_ref(),
            config.data.on_bad_video,
        ),
        None => Ok(Vec::new()),
    };
    let scores = evaluation.run(dataset.num_skipped(), answer, |running| {
        let words = running.accuracy.map_or_else(
            || "questions".to_owned(),
            |accuracy| format!("questions, {:.1} % right so far", 100.0 * accuracy),
        );
        progress.step(running.answered, &words);
    })?;
    if let Some(words) = responder.as_ref().and_then(Responder::decoding_in_words) {
        tracing::info!("{words}");
    }
    let file = args
        .shard
        .map_or_else(|| "scores.json".into(), |shard| shard.scores_file());
    show(args.print, &scores, &out.join(file))
}
