//! `eval`: answers a benchmark and scores it, or shows finished scores side by side.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::output;
use crate::config::Verb;
use crate::config::is_hub_id;
use crate::data::Dataset;
use crate::data::Question;
use crate::eval::Evaluation;
use crate::eval::Scores;
use crate::eval::Settings;
use crate::eval::respond::Respondent;
use crate::eval::table;
use crate::eval::table::Row;
use crate::eval::table::Style;
use crate::model::hub;
use crate::train::console::Progress;
use crate::video::ClipLoader;
use crate::video::Prefetcher;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use std::num::NonZero;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// The model to ask: a folder or a hub id
    #[arg(long, value_name = "DIR", required_unless_present = "table")]
    model: Option<String>,
    /// Folder for outputs.jsonl and scores.json; an evaluation found there is continued [default: output_dir]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Show finished evaluations side by side: folders or scores.json files, each with a label or without
    #[arg(long, value_name = "[LABEL=]PATH", num_args = 1.., conflicts_with_all = ["model", "out", "config"])]
    table: Vec<String>,
    /// Write tables as Markdown
    #[arg(long)]
    markdown: bool,
    /// Print the scores as JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
}

impl EvalArgs {
    fn style(&self) -> Style {
        if self.markdown {
            Style::Markdown
        } else {
            Style::Text
        }
    }
}

/// Runs `eval`.
pub(super) fn run(args: &EvalArgs) -> Result<Outcome> {
    match &args.model {
        Some(model) => evaluate(args, model)?,
        None => compare(args)?,
    }
    Ok(Outcome::Done)
}

/// The folder of `--model`: a folder as it is, a hub id downloaded.
pub(super) fn model_folder(name: &str) -> Result<PathBuf> {
    if !Path::new(name).is_dir() && !is_hub_id(name) {
        let problem =
            format!("--model {name}: there is no such folder, and it is no hub id (owner/name)");
        return Err(BadArgument(problem).into());
    }
    Ok(hub::resolve(name)?)
}

fn evaluate(args: &EvalArgs, model: &str) -> Result<()> {
    let config = args.settings.load(Verb::Eval)?;
    let folder = model_folder(model)?;
    let dataset = Dataset::load(&config.data, config.seed)?;
    let out = args.out.as_deref().unwrap_or(&config.output_dir);
    let settings = Settings::new(&config, model, &folder)?;
    let evaluation = Evaluation::open(&settings, dataset.questions(), config.eval.batch_size, out)?;
    let jobs: Vec<PathBuf> = evaluation
        .pending()
        .into_iter()
        .flatten()
        .map(|question: &Question| question.video.clone())
        .collect();
    let progress = Progress::start(dataset.len() - jobs.len(), dataset.len());
    let respondent = if jobs.is_empty() {
        None
    } else {
        Some(Respondent::load(&folder, &config, config.eval.temperature)?)
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let bytes = config.train.prefetch_mib << 20;
    let loader = ClipLoader::new(&config.video, &config.data).context("data.cache_dir")?;
    let mut clips = Prefetcher::new(jobs, loader, bytes, threads)?;
    let answer = |batch: &[Question]| match &respondent {
        Some(respondent) => respondent.answer_batch(
            batch,
            &mut clips,
            config.eval.wording,
            config.data.on_bad_video,
        ),
        None => Ok(Vec::new()),
    };
    let scores = evaluation.run(answer, |answered| progress.step(answered, "questions"))?;
    if args.json {
        return output::json(&scores);
    }
    let text = table::details(&scores, args.style());
    output::text(&format!(
        "{text}\nscores: {}\n",
        out.join("scores.json").display()
    ))
}

fn compare(args: &EvalArgs) -> Result<()> {
    let rows = args
        .table
        .iter()
        .map(|entry| row(entry))
        .collect::<Result<Vec<Row>>>()?;
    if args.json {
        let scores: serde_json::Map<String, serde_json::Value> = rows
            .into_iter()
            .map(|row| Ok((row.label, serde_json::to_value(row.scores)?)))
            .collect::<Result<_>>()?;
        return output::json(&scores);
    }
    output::text(&table::comparison(&rows, args.style()))
}

/// `LABEL=PATH`, or a path, whose folder's name is then the label.
fn row(entry: &str) -> Result<Row> {
    let (label, path) = match entry.split_once('=') {
        Some((label, path)) if !Path::new(entry).exists() => (label.to_owned(), Path::new(path)),
        _ => {
            let path = Path::new(entry);
            let folder = if path.is_dir() {
                Some(path)
            } else {
                path.parent()
            };
            let name = folder.and_then(Path::file_name).unwrap_or_default();
            (name.to_string_lossy().into_owned(), path)
        }
    };
    if !path.exists() {
        let problem = format!("--table {entry}: there is nothing at {}", path.display());
        return Err(BadArgument(problem).into());
    }
    Ok(Row {
        label,
        scores: Scores::read(path)?,
    })
}
