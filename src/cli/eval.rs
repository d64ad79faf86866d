//! `eval`: answers a benchmark and scores it, or works on the answers of finished evaluations.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::eval_grid;
use super::output;
use crate::config::Config;
use crate::config::Extraction;
use crate::config::Verb;
use crate::config::is_hub_id;
use crate::data::DataError;
use crate::data::Dataset;
use crate::data::Question;
use crate::data::benchmark;
use crate::data::read_questions;
use crate::eval::Evaluation;
use crate::eval::Scores;
use crate::eval::Settings;
use crate::eval::Shard;
use crate::eval::asking::Asking;
use crate::eval::compare;
use crate::eval::grid;
use crate::eval::judge;
use crate::eval::judge::client::Client;
use crate::eval::respond::Respondent;
use crate::eval::stored;
use crate::eval::subtitles::Subtitles;
use crate::eval::table;
use crate::eval::table::Row;
use crate::eval::table::Style;
use crate::model::hub;
use crate::train::console::Progress;
use crate::video::ClipLoader;
use crate::video::Prefetcher;
use anyhow::Context;
use anyhow::Result;
use clap::ArgGroup;
use clap::Args;
use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::Path;
use std::path::PathBuf;

use preview::PreviewArgs;

mod preview;

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("job").required(true).multiple(true).args(["model", "dry_run", "table", "rescore", "judge", "merge", "compare", "grid"]))]
pub(super) struct EvalArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// The model to ask: a folder or a hub id
    #[arg(long, value_name = "DIR", conflicts_with_all = ["table", "grid", "rescore", "judge", "merge", "compare"])]
    model: Option<String>,
    #[command(flatten)]
    preview: PreviewArgs,
    /// Folder for outputs.jsonl and scores.json; an evaluation found there is continued [default: output_dir]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Answer the I-th of N parts only, into files of its own; --merge puts the parts together
    #[arg(long, value_name = "I/N", conflicts_with_all = ["table", "rescore", "merge", "compare"])]
    shard: Option<Shard>,
    /// Show finished evaluations side by side: folders or scores.json files, each with a label or without
    #[arg(long, value_name = "[LABEL=]PATH", num_args = 1.., conflicts_with_all = ["out", "config", "overrides"])]
    table: Vec<String>,
    /// One table of several models on several benchmarks; a number in the place of a path stands as it is
    #[arg(long, value_name = "MODEL/BENCHMARK=PATH", num_args = 1.., conflicts_with_all = ["out", "config", "overrides", "json"])]
    grid: Vec<String>,
    /// Score the stored answers of a folder anew, without a model
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "overrides"])]
    rescore: Option<PathBuf>,
    /// Read the stored answers by another rule than that of the evaluation; writes scores-RULE.json
    #[arg(long, value_name = "RULE", conflicts_with_all = ["model", "dry_run", "table", "judge", "merge", "compare"])]
    extraction: Option<Extraction>,
    /// Have another language model judge the stored answers of a folder: captions and open answers
    #[arg(long, value_name = "DIR", requires_all = ["judge_url", "judge_model"], conflicts_with_all = ["out", "config", "overrides"])]
    judge: Option<PathBuf>,
    /// The judge's OpenAI-compatible endpoint, such as http://localhost:8000/v1; OPENAI_API_KEY is its key, if it wants one
    #[arg(long, value_name = "URL", requires = "judge")]
    judge_url: Option<String>,
    /// The judge's name there
    #[arg(long, value_name = "NAME", requires = "judge")]
    judge_model: Option<String>,
    /// How many answers the judge reads at once
    #[arg(long, value_name = "N", default_value = "8", requires = "judge")]
    judge_at_once: NonZero<usize>,
    /// Put the finished shards of a folder together
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "config", "overrides"])]
    merge: Option<PathBuf>,
    /// Compare two evaluations question by question
    #[arg(long, value_names = ["DIR", "DIR"], num_args = 2, conflicts_with_all = ["out", "config", "overrides"])]
    compare: Vec<PathBuf>,
    /// Compare evaluations that were made under different conditions all the same
    #[arg(long, conflicts_with_all = ["model", "table", "rescore", "merge"])]
    across_protocols: bool,
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
    if args.preview.dry_run {
        // Questions can be looked at before the clips are here.
        let config = args.settings.load(Verb::Inspect)?;
        preview::preview(&config, args.model.as_deref(), args.preview.show, args.json)?;
    } else if let Some(model) = &args.model {
        evaluate(args, model)?;
    } else if let Some(folder) = &args.rescore {
        require_folder("--rescore", folder)?;
        let (scores, path) = stored::rescore(folder, args.extraction)?;
        show(args, &scores, &path)?;
    } else if let Some(folder) = &args.judge {
        judge_stored(args, folder)?;
    } else if let Some(folder) = &args.merge {
        require_folder("--merge", folder)?;
        show(args, &stored::merge(folder)?, &folder.join("scores.json"))?;
    } else if let [first, second] = args.compare.as_slice() {
        compare_two(args, first, second)?;
    } else if !args.grid.is_empty() {
        let cells = eval_grid::cells(&args.grid)?;
        output::text(&grid::grid(&cells, args.style()))?;
    } else {
        side_by_side(args)?;
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
    let questions = read_askable(&config)?;
    let dataset = Dataset::new(questions, &config.data, config.seed)?;
    let out = args.out.as_deref().unwrap_or(&config.output_dir);
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
    let respondent = if jobs.is_empty() {
        None
    } else {
        Some(Respondent::load(
            &folder,
            &config,
            eval.temperature,
            eval.samples,
        )?)
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let bytes = config.train.prefetch_mib << 20;
    let loader = ClipLoader::new(&config.video, &config.data).context("data.cache_dir")?;
    let mut clips = Prefetcher::new(jobs, loader, bytes, threads)?;
    let asking = Asking::new(eval)?;
    let subtitles = eval.subtitles.as_deref().map(Subtitles::new);
    let answer = |batch: &[&Question]| match &respondent {
        Some(respondent) => respondent.answer_batch(
            batch,
            &mut clips,
            &asking,
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
    if let Some(words) = respondent.as_ref().and_then(Respondent::decoding_in_words) {
        tracing::info!("{words}");
    }
    let file = args
        .shard
        .map_or_else(|| "scores.json".into(), |shard| shard.scores_file());
    show(args, &scores, &out.join(file))
}

/// The questions of the benchmark, or of an ordinary question file.
pub(super) fn read_all(config: &Config) -> Result<Vec<Question>, DataError> {
    let path = &config.data.questions;
    let Some(name) = config.eval.benchmark else {
        return read_questions(path);
    };
    let mut questions = benchmark::read(name, path, config.eval.clip_bounds)?;
    benchmark::refuse_too_many(name, questions.len(), path)?;
    benchmark::find_clips(name, &mut questions, &config.data.video_root);
    let published = name
        .published_questions()
        .map_or_else(String::new, |count| format!(" of {count} published"));
    tracing::info!(
        "{}: {}{published} questions",
        name.as_str(),
        questions.len()
    );
    Ok(questions)
}

/// The same, if each can be asked.
pub(super) fn read_askable(config: &Config) -> Result<Vec<Question>, DataError> {
    let questions = read_all(config)?;
    match questions.iter().find(|question| question.lacks_options()) {
        None => Ok(questions),
        Some(question) => Err(DataError::Content {
            path: config.data.questions.clone(),
            place: format!("question {}", question.id),
            problem: "is multiple choice, but has no options: give them in a list `options` or as lines `A. …` of `problem`; if \
                      the letter is the answer itself, say so by `\"problem_type\": \"free-form\"`"
                .into(),
        }),
    }
}

fn judge_stored(args: &EvalArgs, folder: &Path) -> Result<()> {
    require_folder("--judge", folder)?;
    let (Some(url), Some(model)) = (&args.judge_url, &args.judge_model) else {
        return Err(BadArgument("--judge needs --judge-url and --judge-model".into()).into());
    };
    let key = std::env::var("OPENAI_API_KEY").ok();
    let client = Client::new(url, model, key.filter(|key| !key.is_empty()))?;
    let mut progress = None;
    let tell = |done: usize, due: usize| {
        let progress = progress.get_or_insert_with(|| Progress::start(0, due));
        // A hundred lines are enough in a log.
        if done == due || done.is_multiple_of(due.div_ceil(100)) {
            progress.step(done, "answers judged");
        }
    };
    let (scores, path) = judge::judge(folder, &client, args.judge_at_once.get(), tell)?;
    show(args, &scores, &path)
}

/// Prints scores and says where they are.
fn show(args: &EvalArgs, scores: &Scores, path: &Path) -> Result<()> {
    if args.json {
        return output::json(scores);
    }
    let mut text = table::details(scores, args.style());
    text.push('\n');
    text.push_str(&table::how_read(scores));
    let unjudged = scores.splits.get("all").map_or(0, |all| all.unjudged);
    if let Some(judge) = &scores.settings.judge {
        text.push_str(&format!("judged by {}", judge.model));
        if unjudged > 0 {
            text.push_str(&format!(
                ", which said nothing clear of {unjudged} answers: they count as wrong"
            ));
        }
        text.push('\n');
    } else if unjudged > 0 {
        let folder = path.parent().unwrap_or(path);
        text.push_str(&format!(
            "{unjudged} answers wait for a judge: videothinker eval --judge {} --judge-url URL --judge-model NAME\n",
            folder.display()
        ));
    }
    output::text(&format!("{text}\nscores: {}\n", path.display()))
}

fn require_folder(option: &str, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        let problem = format!("{option} {0}: there is no folder {0}", folder.display());
        return Err(BadArgument(problem).into());
    }
    Ok(())
}

fn compare_two(args: &EvalArgs, first: &Path, second: &Path) -> Result<()> {
    require_folder("--compare", first)?;
    require_folder("--compare", second)?;
    let comparison = compare::compare(first, second, args.across_protocols)?;
    for difference in &comparison.differences {
        tracing::warn!("compared across protocols: {difference}");
    }
    if args.json {
        return output::json(&comparison);
    }
    let text = table::paired(&comparison, args.style());
    output::text(&format!(
        "{text}\nfirst: {} (model {})\nsecond: {} (model {})\nanswered in one only: {}\n",
        first.display(),
        comparison.first,
        second.display(),
        comparison.second,
        comparison.unpaired
    ))
}

fn side_by_side(args: &EvalArgs) -> Result<()> {
    let rows = args
        .table
        .iter()
        .map(|entry| row(entry))
        .collect::<Result<Vec<Row>>>()?;
    check_rows(&rows)?;
    if args.json {
        let scores: serde_json::Map<String, serde_json::Value> = rows
            .into_iter()
            .map(|row| Ok((row.label, serde_json::to_value(row.scores)?)))
            .collect::<Result<_>>()?;
        return output::json(&scores);
    }
    output::text(&table::comparison(&rows, args.style()))
}

/// No label stands twice; a row that cannot be compared with the first is warned of.
fn check_rows(rows: &[Row]) -> Result<()> {
    let mut labels = BTreeSet::new();
    if let Some(twice) = rows.iter().find(|row| !labels.insert(&row.label)) {
        let label = &twice.label;
        let problem = format!(
            "--table: two rows are called {label}: name them, as in --table first=DIR second=DIR"
        );
        return Err(BadArgument(problem).into());
    }
    if let Some((first, others)) = rows.split_first() {
        for row in others {
            let differences = first.scores.settings.differences(&row.scores.settings)?;
            if !differences.is_empty() {
                let (label, first) = (&row.label, &first.label);
                tracing::warn!(
                    "{label} and {first} cannot be compared: {}",
                    differences.join(", ")
                );
            }
        }
    }
    Ok(())
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
