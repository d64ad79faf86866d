//! `data check`: would a run over this question file meet anything that it cannot use?

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::eval::model_folder;
use super::eval::read_all;
use super::output;
use crate::config::Config;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Manifest;
use crate::data::draw;
use crate::data::locate;
use crate::data::read_questions;
use crate::prompt::Processor;
use crate::prompt::preflight;
use crate::prompt::preflight::AskedClip;
use crate::prompt::preflight::Preflight;
use crate::prompt::preflight::Report;
use crate::prompt::preflight::Span;
use crate::util::console;
use anyhow::Result;
use clap::Args;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Arguments of `data check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The questions: a file, or what `eval.benchmark` is published as [default: `data.questions`]
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Relative clip paths are resolved against this folder [default: `data.video_root`]
    #[arg(long, value_name = "DIR")]
    video_root: Option<PathBuf>,
    /// Check only the questions that a run draws (`data.kinds`, `data.samples`, `seed`)
    #[arg(long)]
    drawn: bool,
    #[command(flatten)]
    settings: ConfigArgs,
    /// Count whole prompts with the tokenizer of this folder or hub id [default: `model.path` where --config is given]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Which words follow the questions
    #[arg(long, value_enum, default_value = "training")]
    wording: Wording,
    /// Questions whose clips must not be among those checked, such as an evaluation's (repeatable)
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// Relative clip paths of --against are resolved against this folder [default: as for the questions]
    #[arg(long, value_name = "DIR", requires = "against")]
    against_root: Option<PathBuf>,
    /// Write sizes, times and hashes of the clips to this file when nothing is wrong (for `data.manifest` and --verify)
    #[arg(long, value_name = "OUT.json")]
    manifest: Option<PathBuf>,
    /// Decode nothing: compare the clips with a manifest, by size and time, by content where only the time differs
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["manifest", "against", "model"])]
    verify: Option<PathBuf>,
    /// With --verify: compare every clip's content
    #[arg(long, requires = "verify")]
    hash: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `data check`; the command fails when anything is wrong.
pub(super) fn run(args: &CheckArgs) -> Result<Outcome> {
    let mut config = args.settings.load(Verb::Inspect)?;
    if let Some(questions) = &args.questions {
        config.data.questions.clone_from(questions);
    }
    if let Some(root) = &args.video_root {
        config.data.video_root.clone_from(root);
    }
    if config.data.questions.as_os_str().is_empty() {
        let problem =
            "nothing to check: give --questions FILE, or --config FILE with data.questions";
        return Err(BadArgument(problem.into()).into());
    }
    let mut questions = read_all(&config)?;
    if args.drawn {
        questions = draw(questions, &config.data, config.seed)?;
    }
    locate(&mut questions, &config.data)?;
    let clips = preflight::asked_clips(&questions, &config.data.video_root);
    let report = match &args.verify {
        Some(manifest) => Report {
            questions: questions.len(),
            clips: clips.len(),
            findings: preflight::changes(&clips, &Manifest::read(manifest)?, args.hash),
            ..Report::default()
        },
        None => decode(args, &config, &clips)?,
    };
    if args.json {
        output::json(&report)?;
    } else {
        output::text(&describe(&report, &config)?)?;
    }
    Ok(if report.findings.is_empty() {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// Decodes everything, looks for duplicates and writes the manifest.
fn decode(args: &CheckArgs, config: &Config, clips: &[AskedClip]) -> Result<Report> {
    let with_config = args.settings.config.is_some().then_some(&config.model.path);
    let processor = match args.model.as_ref().or(with_config) {
        Some(model) => Some(Processor::load(&model_folder(model)?)?),
        None => None,
    };
    let check = Preflight {
        video: &config.video,
        processor: processor.as_ref(),
        wording: args.wording,
        max_prompt_tokens: config.sampling.max_prompt_tokens,
    };
    let bar = console::counter("clips", clips.len());
    let mut report = check.run(clips, &|| bar.inc(1));
    bar.finish_and_clear();
    if args.manifest.is_none() && args.against.is_empty() {
        return Ok(report);
    }
    let records = preflight::record(clips);
    for path in &args.against {
        let mut questions = read_questions(path)?;
        let mut theirs = config.data.clone();
        theirs.questions.clone_from(path);
        if let Some(root) = &args.against_root {
            theirs.video_root.clone_from(root);
        }
        locate(&mut questions, &theirs)?;
        let others = preflight::asked_clips(&questions, &theirs.video_root);
        let others = preflight::record(&others);
        let name = path.display().to_string();
        let found = preflight::duplicates(clips, &records, &others, &name);
        report.findings.extend(found);
    }
    if let Some(path) = &args.manifest {
        if report.findings.is_empty() {
            records.write(path)?;
        } else {
            tracing::warn!("{} is not written: not every clip is fine", path.display());
        }
    }
    Ok(report)
}

fn describe(report: &Report, config: &Config) -> Result<String> {
    let mut text = format!(
        "{}: {} questions about {} clips\n",
        config.data.questions.display(),
        report.questions,
        report.clips
    );
    let mut line = |what: &str, span: Option<Span>| match span {
        Some(span) => writeln!(
            text,
            "{what}: {} to {}, mean {:.1}",
            span.least, span.most, span.mean
        ),
        None => Ok(()),
    };
    line("video tokens of a clip", report.video_tokens)?;
    line("tokens of a prompt", report.prompt_tokens)?;
    if report.video_tokens.is_some() {
        let limit = config.sampling.max_prompt_tokens;
        let counted = if report.prompt_tokens.is_some() {
            ""
        } else {
            " (the questions' text is not counted: give --model)"
        };
        writeln!(text, "allowed in a prompt: {limit}{counted}")?;
    }
    if report.findings.is_empty() {
        text.push_str("nothing is wrong\n");
        return Ok(text);
    }
    let videos: Vec<String> = report
        .findings
        .iter()
        .map(|finding| finding.video.display().to_string())
        .collect();
    let width = videos.iter().map(String::len).max().unwrap_or(0);
    writeln!(
        text,
        "\n{:<10}  {:<width$}  {:>9}  reason",
        "problem", "clip", "questions"
    )?;
    for (finding, video) in report.findings.iter().zip(&videos) {
        writeln!(
            text,
            "{:<10}  {video:<width$}  {:>9}  {}",
            finding.problem.as_str(),
            finding.questions.len(),
            finding.reason
        )?;
    }
    let clips: BTreeSet<&PathBuf> = report.findings.iter().map(|f| &f.video).collect();
    let questions: BTreeSet<&String> = report.findings.iter().flat_map(|f| &f.questions).collect();
    writeln!(
        text,
        "\n{} of {} clips and {} of {} questions are concerned",
        clips.len(),
        report.clips,
        questions.len(),
        report.questions
    )?;
    Ok(text)
}
