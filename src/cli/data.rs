//! `data mini | clevrer | import | split | label | stats | check | download`: makes, converts, labels and checks question files.

use super::BadArgument;
use super::Outcome;
use super::check;
use super::download;
use super::import;
use super::init::write_untrained;
use super::label;
use super::split;
use super::stats;
use crate::data::clevrer;
use crate::data::clevrer::Conversion;
use crate::data::clevrer::Counts;
use crate::data::clevrer::KindRule;
use crate::data::clevrer::Labels;
use crate::data::clevrer::QuestionType;
use crate::data::read_questions;
use crate::synthetic::Summary;
use crate::synthetic::WorkedCounts;
use crate::synthetic::WorkedStyle;
use crate::synthetic::WorldError;
use crate::synthetic::WorldOptions;
use crate::synthetic::write_world;
use crate::util::console;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use clap::Subcommand;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Make the miniature world: clips, official CLEVRER files, questions, worked answers
    Mini(MiniArgs),
    /// Turn official CLEVRER files into questions, counterfactual ones labelled observational or inferential
    Clevrer(ClevrerArgs),
    /// Turn question files of other projects (LLaVA, ShareGPT, ms-swift, Video-R1, TRL, verl, parquet) into question lines
    Import(import::ImportArgs),
    /// Divide a question file into training and validation questions, whole clips on either side
    Split(split::SplitArgs),
    /// Give every question its kind, observational or inferential
    Label(Box<label::LabelArgs>),
    /// Count questions, clips, kinds, options, right letters, repetitions
    Stats(stats::StatsArgs),
    /// Decode every clip of a question file and check every budget, before any GPU time is spent
    Check(check::CheckArgs),
    /// Download datasets into the layout that the configs read
    Download(download::DownloadArgs),
}

#[derive(Debug, Args)]
struct MiniArgs {
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Scenes to train on
    #[arg(long, value_name = "N", default_value_t = WorldOptions::default().train)]
    train: usize,
    /// Scenes to validate on
    #[arg(long, value_name = "N", default_value_t = WorldOptions::default().validation)]
    validation: usize,
    /// Scenes with worked answers, from which `train-sft` makes the base model
    #[arg(long, value_name = "N", default_value_t = WorldOptions::default().sft)]
    sft: usize,
    /// Questions asked about a training or validation scene, where it has as many
    #[arg(long, value_name = "N", default_value_t = WorldOptions::default().questions_per_scene)]
    questions_per_scene: usize,
    /// Share of inferential questions where a scene has one question
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = WorldOptions::default().inferential_share)]
    inferential_share: f64,
    /// Share of worked answers that think the object away, whatever the kind of question
    /// [default: 0.35 on observational, 0.8 on inferential questions]
    #[arg(
        long,
        value_name = "SHARE",
        allow_negative_numbers = true,
        requires = "sft"
    )]
    thinker_share: Option<f64>,
    /// Probability with which each verdict that a worked answer imagines is wrong; the answer follows it
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = WorkedStyle::DEFAULT.thinker_noise, requires = "sft")]
    thinker_noise: f64,
    /// Ask the second worked question of a scene, where it is observational, without its condition ("What will happen?")
    #[arg(long, requires = "sft")]
    strip_condition: bool,
    /// Seed of everything
    #[arg(long, default_value_t = WorldOptions::default().seed)]
    seed: u64,
    /// Also write an untrained miniature model here, its tokenizer made from the worked answers (needs --sft)
    #[arg(long, value_name = "DIR", requires = "sft")]
    model: Option<PathBuf>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ClevrerArgs {
    /// Official question file, such as train.json
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// Folder of the official annotations of the same split
    #[arg(long, value_name = "DIR")]
    annotations: PathBuf,
    /// Put before every clip's path `video_00000-01000/video_00000.mp4`
    #[arg(long, value_name = "DIR")]
    video_prefix: Option<PathBuf>,
    /// Types of questions to write, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "counterfactual"
    )]
    types: Vec<QuestionType>,
    /// When a counterfactual question is observational; both rules are counted
    #[arg(long, value_enum, default_value_t)]
    rule: KindRule,
    /// Write observational questions without their condition, as the paper's stage 1 asks them; `original_problem` keeps it
    #[arg(long)]
    strip_condition: bool,
    /// Write this question file instead, such as the authors' training file, with the kinds and ids of the official
    /// questions that its records are (found by the clip's number, text and options)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["strip_condition", "types", "video_prefix"])]
    label: Option<PathBuf>,
    /// Question file to write, .json or .jsonl
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DataArgs) -> Result<Outcome> {
    let text = match &args.command {
        DataCommand::Mini(args) => mini(args)?,
        DataCommand::Clevrer(args) => convert(args)?,
        DataCommand::Import(args) => return import::run(args),
        DataCommand::Split(args) => return split::run(args),
        DataCommand::Label(args) => return label::run(args),
        DataCommand::Stats(args) => return stats::run(args),
        DataCommand::Check(args) => return check::run(args),
        DataCommand::Download(args) => return download::run(args),
    };
    super::output::text(&text)?;
    Ok(Outcome::Done)
}

fn mini(args: &MiniArgs) -> Result<String> {
    let options = WorldOptions {
        train: args.train,
        validation: args.validation,
        sft: args.sft,
        questions_per_scene: args.questions_per_scene,
        inferential_share: args.inferential_share,
        worked: WorkedStyle {
            thinker_share: args.thinker_share,
            thinker_noise: args.thinker_noise,
            strip_condition: args.strip_condition,
        },
        seed: args.seed,
    };
    let bar = console::counter("scenes", args.train + args.validation + args.sft);
    let summary = write_world(&options, &args.out, &|| bar.inc(1)).map_err(refused)?;
    bar.finish_and_clear();
    if let Some(folder) = &args.model {
        let worked = read_questions(&args.out.join("sft.jsonl"))?;
        let corpus = worked
            .into_iter()
            .flat_map(|question| [question.text(), question.response.unwrap_or_default()]);
        write_untrained(folder, corpus, args.seed)?;
    }
    if args.json {
        return Ok(serde_json::to_string(&summary)? + "\n");
    }
    describe_world(&summary, &args.out)
}

/// What was asked for cannot be made: the argument's fault, not the disk's.
fn refused(error: WorldError) -> anyhow::Error {
    match error {
        WorldError::TooMany { .. } | WorldError::QuestionsPerScene | WorldError::Share { .. } => {
            BadArgument(error.to_string()).into()
        }
        error => error.into(),
    }
}

fn describe_world(summary: &Summary, out: &Path) -> Result<String> {
    let mut text = format!(
        "{}: {}, {:.1} kB each\n",
        out.display(),
        counted(summary.clips, "clip"),
        summary.clip_bytes as f64 / 1000.0 / summary.clips.max(1) as f64
    );
    for (name, counts) in [
        ("train", &summary.train),
        ("validation", &summary.validation),
    ] {
        if counts.written() > 0 {
            writeln!(text, "{name}_questions.json: {}", describe_split(counts))?;
        }
    }
    if summary.worked_answers > 0 {
        writeln!(
            text,
            "sft.jsonl: {}",
            counted(summary.worked_answers, "worked answer")
        )?;
        for (kind, counts) in [
            ("observational", &summary.worked_observational),
            ("inferential", &summary.worked_inferential),
        ] {
            if counts.answers > 0 {
                writeln!(text, "  {}", describe_worked(kind, counts))?;
            }
        }
    }
    Ok(text)
}

/// `500 to observational questions, of which 300 think (60.0 %), 210 of these right`
fn describe_worked(kind: &str, counts: &WorkedCounts) -> String {
    format!(
        "{} to {kind} questions, of which {} think ({:.1} %), {} of these right",
        counts.answers,
        counts.thinkers,
        100.0 * counts.thinkers as f64 / counts.answers.max(1) as f64,
        counts.thinkers_right
    )
}

/// `1000 questions, 751 observational (75.1 %), 249 inferential, 612 with several right options`
fn describe_split(counts: &Counts) -> String {
    format!(
        "{}, {} observational ({:.1} %), {} inferential, {} with several right options",
        counted(counts.written(), "question"),
        counts.observational,
        counts.observational_percent(),
        counts.inferential,
        counts.multiple
    )
}

fn convert(args: &ClevrerArgs) -> Result<String> {
    if args.strip_condition && args.rule != KindRule::AnswersAsSeen {
        let problem = format!(
            "--strip-condition with --rule {}: without its condition a question asks what is seen, and only by the rule {} \
             is the official answer what is seen",
            args.rule.as_str(),
            KindRule::AnswersAsSeen.as_str()
        );
        return Err(BadArgument(problem).into());
    }
    let conversion = Conversion {
        types: args.types.clone(),
        rule: args.rule,
        strip_condition: args.strip_condition,
    };
    if let Some(file) = &args.label {
        let labels = conversion.label(file, &args.questions, &args.annotations, &args.out)?;
        if args.json {
            return Ok(serde_json::to_string(&labels)? + "\n");
        }
        return describe_labels(&labels, args);
    }
    let counts = conversion.convert(
        &args.questions,
        &args.annotations,
        args.video_prefix.as_deref().unwrap_or(Path::new("")),
        &args.out,
    )?;
    if args.json {
        return Ok(serde_json::to_string(&counts)? + "\n");
    }
    describe_conversion(&counts, &args.out)
}

fn describe_labels(labels: &Labels, args: &ClevrerArgs) -> Result<String> {
    let mut text = format!(
        "{}: {} records, {} found among the questions of {}: {} observational, {} inferential (rule {}: observational when {})\n",
        args.out.display(),
        labels.records,
        labels.matched(),
        args.questions.display(),
        labels.observational,
        labels.inferential,
        args.rule.as_str(),
        args.rule.words()
    );
    if labels.with_kind > 0 {
        writeln!(
            text,
            "left as they are: {} records that have a kind",
            labels.with_kind
        )?;
    }
    for (reason, count) in &labels.unmatched {
        writeln!(text, "without a kind: {count} records: {reason}")?;
    }
    if let Some(first) = &labels.first_unmatched {
        writeln!(text, "the first of them: {first}")?;
    }
    if let Some(first) = &labels.first_other_answer {
        writeln!(
            text,
            "{} solutions are not the official answers (they are kept); the first: {first}",
            labels.other_answers
        )?;
    }
    Ok(text)
}

fn describe_conversion(counts: &Counts, out: &Path) -> Result<String> {
    let mut text = format!("{}: {}\n", out.display(), describe_split(counts));
    if counts.without_kind > 0 {
        writeln!(
            text,
            "{} questions of types without kinds",
            counts.without_kind
        )?;
    }
    if counts.counterfactual > 0 {
        describe_kinds(&mut text, counts)?;
    }
    writeln!(
        text,
        "read {} scenes, {} counterfactual questions; {} questions of other types passed over",
        counts.scenes, counts.counterfactual, counts.other_types,
    )?;
    if counts.without_right_option > 0 {
        writeln!(
            text,
            "left out: {} questions without a right option",
            counts.without_right_option
        )?;
    }
    if let Some(first) = &counts.first_unresolved {
        writeln!(
            text,
            "left out: {} questions whose program could not be resolved; the first: {first}",
            counts.unresolved
        )?;
    }
    if counts.stripped > 0 {
        writeln!(
            text,
            "written without their condition: {} observational questions",
            counts.stripped
        )?;
    }
    if let Some(first) = &counts.first_unstripped {
        writeln!(
            text,
            "left out: {} observational questions whose condition could not be taken out; the first: {first}",
            counts.unstripped
        )?;
    }
    let checked = counts.confirmed + counts.contradicted;
    if checked > 0 {
        writeln!(
            text,
            "programs run on the annotations give {} of {checked} official answers of descriptive and explanatory questions",
            counts.confirmed
        )?;
    }
    if let Some(first) = &counts.first_contradicted {
        writeln!(text, "the first that differs: {first}")?;
    }
    Ok(text)
}

/// What both rules say, beside the paper's count.
fn describe_kinds(text: &mut String, counts: &Counts) -> Result<()> {
    let with_kind = counts.observational + counts.inferential;
    let share = |number: usize, all: usize| 100.0 * number as f64 / all.max(1) as f64;
    for (rule, number) in [
        (KindRule::AnswersAsSeen, counts.answers_as_seen),
        (
            KindRule::RemovedObjectUninvolved,
            counts.removed_object_uninvolved,
        ),
    ] {
        writeln!(
            text,
            "{} rule {}: {number} of {with_kind} observational ({:.1} %): {}",
            if rule == counts.rule { "*" } else { " " },
            rule.as_str(),
            share(number, with_kind),
            rule.words()
        )?;
    }
    let (observational, all) = clevrer::PAPER_COUNTS;
    writeln!(
        text,
        "  the paper, on the official training set: {observational} of {all} observational ({:.1} %)",
        share(observational, all),
    )?;
    Ok(())
}
