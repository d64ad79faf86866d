//! `data mini | clevrer`: makes and converts question files.

use super::init::write_untrained;
use crate::data::clevrer;
use crate::data::clevrer::Counts;
use crate::data::read_questions;
use crate::world::Summary;
use crate::world::WorldOptions;
use crate::world::write_world;
use anyhow::Result;
use clap::Args;
use clap::Subcommand;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `data`.
#[derive(Debug, Args)]
pub(super) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Make the miniature world: clips, official CLEVRER files, questions, worked answers
    Mini(MiniArgs),
    /// Turn official CLEVRER files into questions labelled observational or inferential
    Clevrer(ClevrerArgs),
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
    /// Question file to write, .json or .jsonl
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `data`.
pub(super) fn run(args: &DataArgs) -> Result<()> {
    let text = match &args.command {
        DataCommand::Mini(args) => mini(args)?,
        DataCommand::Clevrer(args) => convert(args)?,
    };
    super::output::text(&text)
}

fn mini(args: &MiniArgs) -> Result<String> {
    let options = WorldOptions {
        train: args.train,
        validation: args.validation,
        sft: args.sft,
        questions_per_scene: args.questions_per_scene,
        seed: args.seed,
    };
    let bar = ProgressBar::new((args.train + args.validation + args.sft) as u64);
    bar.set_style(ProgressStyle::with_template(
        "scenes {bar:32} {pos}/{len} · {eta} left",
    )?);
    let summary = write_world(&options, &args.out, &|| bar.inc(1))?;
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

fn describe_world(summary: &Summary, out: &Path) -> Result<String> {
    let mut text = format!(
        "{}: {} clips, {:.1} kB each\n",
        out.display(),
        summary.clips,
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
        writeln!(text, "sft.jsonl: {} worked answers", summary.worked_answers)?;
    }
    Ok(text)
}

/// `1000 questions, 751 observational (75.1 %), 249 inferential, 612 with several right options`
fn describe_split(counts: &Counts) -> String {
    format!(
        "{} questions, {} observational ({:.1} %), {} inferential, {} with several right options",
        counts.written(),
        counts.observational,
        counts.observational_percent(),
        counts.inferential,
        counts.multiple
    )
}

fn convert(args: &ClevrerArgs) -> Result<String> {
    let counts = clevrer::convert(
        &args.questions,
        &args.annotations,
        args.video_prefix.as_deref().unwrap_or(Path::new("")),
        &args.out,
    )?;
    if args.json {
        let mut value = serde_json::to_value(&counts)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("rule".into(), clevrer::RULE.into());
        }
        return Ok(format!("{value}\n"));
    }
    let (observational, all) = clevrer::PAPER_COUNTS;
    let mut text = format!(
        "{}: {}\n\
         rule {}: observational when reading the unmodified video's collisions gives exactly the right options\n\
         the paper, on the official training set: {observational} of {all} observational ({:.1} %)\n\
         read {} scenes, {} counterfactual questions, {} of other types passed over\n",
        args.out.display(),
        describe_split(&counts),
        clevrer::RULE,
        100.0 * observational as f64 / all as f64,
        counts.scenes,
        counts.counterfactual,
        counts.other_types,
    );
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
    Ok(text)
}
