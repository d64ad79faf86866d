//! `data label`: kinds for questions that have none.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::eval::model_folder;
use super::import::is_same;
use super::import::refuse_foreign;
use super::output;
use crate::config::Config;
use crate::config::EvalConfig;
use crate::config::QuestionKind;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Dataset;
use crate::data::Question;
use crate::data::QuestionWriter;
use crate::data::label::FieldRule;
use crate::data::label::KindCounts;
use crate::data::label::field_names;
use crate::data::label::kind_of_answer;
use crate::data::read_questions;
use crate::data::shuffle::permutation;
use crate::data::write_questions;
use crate::eval::EvalError;
use crate::eval::Evaluation;
use crate::eval::ScoreFile;
use crate::eval::prediction::Prediction;
use crate::eval::responder::Responder;
use crate::eval::score::ConstantAnswer;
use crate::eval::shortcut::BlindAsker;
use crate::eval::shortcut::Without;
use crate::eval::stored;
use crate::util::console::Progress;
use crate::util::signals::StopRequest;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

/// Questions of each kind that are shown.
const SHOWN: usize = 3;

/// Arguments of `data label`.
#[derive(Debug, Args)]
pub(super) struct LabelArgs {
    /// Question file
    #[arg(value_name = "FILE")]
    questions: PathBuf,
    /// Question file to write, .json or .jsonl; answers of a model are kept in the folder OUT.answers
    #[arg(long, value_name = "OUT.jsonl")]
    out: PathBuf,
    /// What tells the kind
    #[arg(long, value_enum)]
    by: By,
    /// Give those that have a kind a new one too
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    field: FieldArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    settings: ConfigArgs,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

/// What tells the kind of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The value of a field (--field, --observational, --inferential)
    Field,
    /// Whether a model is right without the clip: observational
    Blind,
    /// Whether a model is right with the clip's frames in random order: observational
    Shuffled,
}

#[derive(Debug, Args)]
struct FieldArgs {
    /// --by field: its name; metadata.type for one inside another
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// --by field: values that mean observational, separated by commas
    #[arg(long, value_name = "VALUES", value_delimiter = ',')]
    observational: Vec<String>,
    /// --by field: values that mean inferential
    #[arg(long, value_name = "VALUES", value_delimiter = ',')]
    inferential: Vec<String>,
    /// --by field: questions with other values stay without a kind, and that is no failure
    #[arg(long)]
    keep_unlabelled: bool,
}

#[derive(Debug, Args)]
struct ModelArgs {
    /// --by blind, shuffled: the model to ask, usually the base model; a folder or a hub id
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// --by blind, shuffled: answers per question, the most frequent counts; 1 is the greedy answer, more are sampled as
    /// `sampling` says
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    samples: u16,
    /// --by blind, shuffled: which words follow the questions
    #[arg(long, value_enum, default_value = "training")]
    wording: Wording,
    /// --by shuffled: relative clip paths are resolved against this folder [default: `data.video_root`]
    #[arg(long, value_name = "DIR")]
    video_root: Option<PathBuf>,
    /// --by blind, shuffled: seed of the samples and of the order of frames [default: `seed`]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Labelled {
    questions: usize,
    /// Questions that had a kind and keep it.
    kept: usize,
    kinds: KindCounts,
    observational_share: Option<f64>,
    /// Values of the field that mean no kind, and how often they stand.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    other_values: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Answers>,
    /// Some questions of each kind.
    samples: Vec<Shown>,
}

/// How the model answered.
#[derive(Debug, Serialize)]
struct Answers {
    folder: PathBuf,
    asked: &'static str,
    answered: usize,
    /// Without a readable answer.
    unreadable: usize,
    /// The share that is right.
    accuracy: f64,
    /// What the best constant answer would have got.
    best_constant: ConstantAnswer,
}

/// A question to look at.
#[derive(Debug, Serialize)]
struct Shown {
    kind: &'static str,
    id: String,
    text: String,
    solution: String,
    /// What the model answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

/// Runs `data label`.
pub(super) fn run(args: &LabelArgs) -> Result<Outcome> {
    if is_same(&args.questions, &args.out) {
        let problem = "--out is the question file itself: name another, so that nothing is lost";
        return Err(BadArgument(problem.into()).into());
    }
    check_flags(args)?;
    refuse_foreign(&args.out)?;
    // Before a model is asked for hours.
    drop(QuestionWriter::create(&args.out)?);
    let mut questions = read_questions(&args.questions)?;
    if args.replace {
        for question in &mut questions {
            question.kind = None;
        }
    }
    let kept = questions.len() - KindCounts::of(&questions).without;
    let mut predictions = BTreeMap::new();
    let (mut other_values, mut answers) = (BTreeMap::new(), None);
    let seed = match args.by {
        By::Field => {
            other_values = by_field(args, &mut questions)?;
            0
        }
        By::Blind | By::Shuffled => {
            let config = config(args)?;
            if kept < questions.len() {
                let (scores, found) = by_model(args, &config, &mut questions)?;
                answers = Some(summary(args, scores)?);
                predictions = found;
            }
            config.seed
        }
    };
    write_questions(&args.out, &questions)?;
    let kinds = KindCounts::of(&questions);
    let labelled = Labelled {
        questions: questions.len(),
        kept,
        observational_share: kinds.observational_share(),
        other_values,
        answers,
        samples: samples(&questions, &predictions, seed),
        kinds,
    };
    if args.json {
        output::json(&labelled)?;
    } else {
        output::text(&describe(&labelled, args)?)?;
    }
    let is_done = labelled.kinds.without == 0 || args.field.keep_unlabelled;
    Ok(if is_done {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// Flags that belong to the other way of labelling are refused.
fn check_flags(args: &LabelArgs) -> Result<()> {
    let FieldArgs {
        field,
        observational,
        inferential,
        keep_unlabelled,
    } = &args.field;
    let has_values = !observational.is_empty() || !inferential.is_empty();
    let problem = if args.by == By::Field {
        let both = observational
            .iter()
            .find(|value| inferential.contains(value));
        if args.model.model.is_some() {
            Some("--by field asks no model: leave out --model, or take --by blind".to_owned())
        } else if field.is_none() || !has_values {
            Some(
                "--by field needs --field NAME, and --observational or --inferential VALUES".into(),
            )
        } else {
            both.map(|value| format!("{value} is both observational and inferential: name it once"))
        }
    } else if args.model.model.is_none() {
        Some("--by blind and --by shuffled need --model DIR".into())
    } else if field.is_some() || has_values || *keep_unlabelled {
        Some(
            "--field, --observational, --inferential and --keep-unlabelled belong to --by field"
                .into(),
        )
    } else {
        None
    };
    problem.map_or(Ok(()), |problem| Err(BadArgument(problem).into()))
}

/// Labels by a field; the values that mean no kind.
fn by_field(args: &LabelArgs, questions: &mut [Question]) -> Result<BTreeMap<String, usize>> {
    let rule = FieldRule {
        field: args.field.field.as_deref().unwrap_or_default(),
        observational: &args.field.observational,
        inferential: &args.field.inferential,
    };
    let (others, is_there) = rule.label(questions);
    if !is_there {
        let problem = format!(
            "--field {}: no question of {} has it; they have: {}",
            rule.field,
            args.questions.display(),
            field_names(questions).join(", ")
        );
        return Err(BadArgument(problem).into());
    }
    Ok(others)
}

/// The settings under which the model is asked: those of the config file but for what belongs to a benchmark or a run.
fn config(args: &LabelArgs) -> Result<Config> {
    let mut config = match &args.model.model {
        None => args.settings.load(Verb::Inspect)?,
        Some(model) => {
            let folder = model_folder(model)?;
            args.settings.load_for_model(Verb::Inspect, &folder)?
        }
    };
    config.data.questions.clone_from(&args.questions);
    if let Some(root) = &args.model.video_root {
        config.data.video_root.clone_from(root);
    }
    config.data.kinds.clear();
    config.data.samples = None;
    config.data.assume_kind = None;
    if let Some(seed) = args.model.seed {
        config.seed = seed.into();
    }
    let samples = usize::from(args.model.samples);
    config.eval = EvalConfig {
        wording: args.model.wording,
        samples,
        temperature: if samples == 1 {
            0.0
        } else {
            config.sampling.temperature
        },
        batch_size: config.eval.batch_size,
        template: config.eval.template.clone(),
        ..EvalConfig::default()
    };
    Ok(config)
}

/// Asks the model, or goes on asking it, and labels the questions that have no kind.
fn by_model(
    args: &LabelArgs,
    config: &Config,
    questions: &mut [Question],
) -> Result<(ScoreFile, BTreeMap<String, Prediction>)> {
    let model = args.model.model.as_deref().unwrap_or_default();
    let folder = model_folder(model)?;
    let without_kind = questions.iter().filter(|question| question.kind.is_none());
    let mut asked: Vec<Question> = without_kind.cloned().collect();
    let without = if args.by == By::Blind {
        Without::Clip
    } else {
        let dataset = Dataset::new(asked, &config.data, config.seed)?;
        asked = dataset.questions().to_vec();
        Without::Order
    };
    let missing = questions
        .iter()
        .filter(|question| question.kind.is_none())
        .count()
        - asked.len();
    let mut asker = BlindAsker::new(config, without)?;
    let settings = asker.settings(model, &folder, &asked)?;
    let answers = answers_folder(&args.out);
    let evaluation = Evaluation::open(&settings, &asked, config.eval.batch_size, None, &answers)?;
    let total = evaluation.len();
    let pending: usize = evaluation.pending().iter().map(|batch| batch.len()).sum();
    let progress = Progress::start(total - pending, total);
    let responder = if pending == 0 {
        tracing::info!(
            "all {total} questions are answered in {}",
            answers.display()
        );
        None
    } else {
        let (temperature, samples) = (config.eval.temperature, config.eval.samples);
        Some(Responder::load(&folder, config, temperature, samples)?)
    };
    let stop = StopRequest::listen_and_say(
        "the questions being answered are finished; once more stops at once",
    )?;
    let scores = evaluation.run(
        missing,
        |batch| match &responder {
            _ if stop.is_set() => Err(EvalError::Stopped.into()),
            Some(responder) => asker.answer(responder, batch),
            None => Ok(Vec::new()),
        },
        |running| {
            let right = 100.0 * running.accuracy.unwrap_or_default();
            let words = format!("questions {}, {right:.1} % right so far", without.words());
            progress.step(running.answered, &words);
        },
    )?;
    let (_, predictions) = stored::read(&answers)?;
    let predictions: BTreeMap<String, Prediction> = predictions
        .into_iter()
        .map(|one| (one.id.clone(), one))
        .collect();
    for question in questions
        .iter_mut()
        .filter(|question| question.kind.is_none())
    {
        let answered = predictions.get(&question.id);
        question.kind = answered.map(|one| kind_of_answer(one.exact > 0.5));
    }
    Ok((scores, predictions))
}

fn answers_folder(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".answers");
    name.into()
}

fn summary(args: &LabelArgs, mut scores: ScoreFile) -> Result<Answers> {
    let all = scores.splits.remove("all");
    let all = all.ok_or_else(|| anyhow::anyhow!("no question was answered"))?;
    Ok(Answers {
        folder: answers_folder(&args.out),
        asked: if args.by == By::Blind {
            Without::Clip.words()
        } else {
            Without::Order.words()
        },
        answered: scores.questions_answered,
        unreadable: all.unparsable,
        accuracy: all.exact.mean,
        best_constant: all.best_constant_exact,
    })
}

/// Some questions of each kind, drawn with `seed`.
fn samples(
    questions: &[Question],
    predictions: &BTreeMap<String, Prediction>,
    seed: u64,
) -> Vec<Shown> {
    let mut shown = Vec::new();
    for kind in [QuestionKind::Observational, QuestionKind::Inferential] {
        let of_kind: Vec<&Question> = questions
            .iter()
            .filter(|question| question.kind == Some(kind))
            .collect();
        let order = permutation(&[seed], of_kind.len());
        shown.extend(order.into_iter().take(SHOWN).map(|index| {
            let question = of_kind[index];
            Shown {
                kind: kind.as_str(),
                id: question.id.clone(),
                text: question.text(),
                solution: question.answer().to_string(),
                answer: predictions.get(&question.id).map(|one| one.answer.clone()),
            }
        }));
    }
    shown
}

fn describe(labelled: &Labelled, args: &LabelArgs) -> Result<String> {
    let kinds = &labelled.kinds;
    let share = labelled.observational_share.unwrap_or_default();
    let mut text = format!(
        "{}: {}, {} observational ({:.1} %), {} inferential\n",
        args.out.display(),
        counted(labelled.questions, "question"),
        kinds.observational,
        100.0 * share,
        kinds.inferential
    );
    if labelled.kept > 0 {
        writeln!(
            text,
            "left with the kind that they have: {} (--replace gives another)",
            counted(labelled.kept, "question")
        )?;
    }
    if kinds.without > 0 {
        writeln!(
            text,
            "without a kind: {}",
            counted(kinds.without, "question")
        )?;
    }
    for (value, count) in &labelled.other_values {
        let field = args.field.field.as_deref().unwrap_or_default();
        writeln!(
            text,
            "  {field} = {value}: {count}, neither --observational nor --inferential"
        )?;
    }
    if let Some(answers) = &labelled.answers {
        let best = &answers.best_constant;
        writeln!(
            text,
            "{}: {:.1} % of {} right, {} without a readable answer; always answering {} would be right in {:.1} %",
            answers.asked,
            100.0 * answers.accuracy,
            answers.answered,
            answers.unreadable,
            best.answer,
            100.0 * best.mean
        )?;
        if answers.accuracy <= best.mean {
            text.push_str(
                "the model is no better than that constant answer: where it was right may be chance, and the kinds say little\n",
            );
        }
        writeln!(
            text,
            "its answers: {}/outputs.jsonl",
            answers.folder.display()
        )?;
    }
    let mut kind = "";
    for one in &labelled.samples {
        if one.kind != kind {
            kind = one.kind;
            writeln!(text, "\n{kind}, for example:")?;
        }
        let answer = match one.answer.as_deref() {
            None => String::new(),
            Some("") => ", answered: nothing readable".into(),
            Some(answer) => format!(", answered: {answer}"),
        };
        let question = one.text.replace('\n', "\n    ");
        writeln!(
            text,
            "  {}\n    {question}\n    right: {}{answer}",
            one.id, one.solution
        )?;
    }
    Ok(text)
}
