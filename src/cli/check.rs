//! `data check`: would a run over this question file meet anything that it cannot use?

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::eval::model_folder;
use super::eval::read_all;
use super::must_exist;
use super::output;
use crate::config::Config;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Finding;
use crate::data::Flaw;
use crate::data::Manifest;
use crate::data::Question;
use crate::data::WITHOUT_KIND;
use crate::data::draw;
use crate::data::impossible_answers;
use crate::data::label::KindCounts;
use crate::data::locate;
use crate::data::read_questions;
use crate::prompt::Processor;
use crate::prompt::preflight;
use crate::prompt::preflight::AskedClip;
use crate::prompt::preflight::Finding as ClipFinding;
use crate::prompt::preflight::Preflight;
use crate::prompt::preflight::Problem;
use crate::prompt::preflight::Report;
use crate::prompt::preflight::Span;
use crate::rl::honest;
use crate::rl::honest::Hindrance;
use crate::rl::honest::Obstacle;
use crate::util::console;
use crate::util::file;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
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

/// What a check found in questions and clips.
#[derive(Debug, Serialize)]
struct Checked {
    #[serde(flatten)]
    report: Report,
    /// What is wrong with the questions by themselves.
    flaws: Vec<Finding>,
    /// What of tokenizer and template keeps right answers from their reward.
    hindrances: Vec<Hindrance>,
    /// Questions that have no kind, nor one by `data.assume_kind`.
    without_kind: usize,
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
    if let Some(manifest) = &args.manifest
        && file::exists(manifest)?
        && Manifest::read(manifest).is_err()
    {
        let problem = format!(
            "--manifest {}: is there already and is no manifest: name another file, or remove it",
            manifest.display()
        );
        return Err(BadArgument(problem).into());
    }
    must_exist(&config.data.questions)?;
    let mut questions = read_all(&config)?;
    let kinds = KindCounts::of(&questions);
    if args.drawn {
        questions = draw(questions, &config.data, config.seed)?;
    }
    locate(&mut questions, &config.data)?;
    let clips = preflight::asked_clips(&questions, &config.data.video_root);
    let (report, flaws, hindrances) = if let Some(manifest) = &args.verify {
        let report = Report {
            questions: questions.len(),
            clips: clips.len(),
            findings: preflight::changes(&clips, &Manifest::read(manifest)?, args.hash),
            ..Report::default()
        };
        (report, Vec::new(), Vec::new())
    } else {
        let flaws = flaws_of(&questions, &config);
        let model = processor(args, &config)?;
        let model = model
            .as_ref()
            .map(|(processor, folder)| (processor, folder.as_path()));
        // Flaws of solutions are among those of the questions.
        let mut hindrances = honest::hindrances(&questions, &config.reward, model)?;
        hindrances.retain(|one| one.obstacle != Obstacle::Solution);
        let is_sound = flaws.is_empty() && hindrances.is_empty();
        let report = decode(
            args,
            &config,
            &clips,
            model.map(|(processor, _)| processor),
            is_sound,
        )?;
        (report, flaws, hindrances)
    };
    let assumed = config.data.assume_kind.is_some();
    let checked = Checked {
        report,
        flaws,
        hindrances,
        without_kind: if assumed { 0 } else { kinds.without },
    };
    if args.json {
        output::json(&checked)?;
    } else {
        let mut text = describe(&checked, &config)?;
        let asks_kinds = args.settings.config.is_some() || !config.data.kinds.is_empty();
        if checked.without_kind > 0 && asks_kinds && config.eval.benchmark.is_none() {
            let count = format!("{} of {}", checked.without_kind, kinds.total());
            writeln!(
                text,
                "{count} questions have no kind{}",
                kinds_advice(args, &config)
            )?;
        }
        output::text(&text)?;
    }
    let leaves_none = !config.data.kinds.is_empty() && checked.without_kind == kinds.total();
    let is_fine = checked.report.findings.is_empty()
        && checked.flaws.is_empty()
        && checked.hindrances.is_empty()
        && !leaves_none;
    Ok(if is_fine {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// Where questions get kinds from, unless the draw has said it.
fn kinds_advice(args: &CheckArgs, config: &Config) -> String {
    if args.drawn && !config.data.kinds.is_empty() {
        return String::new();
    }
    format!(". {WITHOUT_KIND}")
}

/// What is wrong with the questions by themselves; said at once, for the clips take a while.
fn flaws_of(questions: &[Question], config: &Config) -> Vec<Finding> {
    // What a benchmark is published with is checked as it is read.
    if config.eval.benchmark.is_some() {
        return Vec::new();
    }
    let flaws = impossible_answers(questions);
    if let Some(first) = flaws.first() {
        tracing::warn!(
            "{} wrong with the questions themselves; the first, question {}: {}",
            match flaws.len() {
                1 => "1 thing is".to_owned(),
                several => format!("{several} things are"),
            },
            first.question,
            first.reason
        );
    }
    flaws
}

/// The model's processor and folder, where a model is given.
fn processor(args: &CheckArgs, config: &Config) -> Result<Option<(Processor, PathBuf)>> {
    let with_config = args.settings.config.is_some().then_some(&config.model.path);
    let Some(model) = args.model.as_ref().or(with_config) else {
        return Ok(None);
    };
    let folder = model_folder(model)?;
    Ok(Some((Processor::load(&folder)?, folder)))
}

/// Decodes everything, looks for duplicates and writes the manifest.
fn decode(
    args: &CheckArgs,
    config: &Config,
    clips: &[AskedClip],
    processor: Option<&Processor>,
    no_flaws: bool,
) -> Result<Report> {
    let check = Preflight {
        video: &config.video,
        processor,
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
        if found.is_empty() {
            tracing::info!("{name}: none of its clips is among those checked");
        }
        report.findings.extend(found);
    }
    if let Some(path) = &args.manifest {
        if report.findings.is_empty() && no_flaws {
            records.write(path)?;
        } else {
            tracing::warn!(
                "{} is not written: not every clip and question is fine",
                path.display()
            );
        }
    }
    Ok(report)
}

fn describe(checked: &Checked, config: &Config) -> Result<String> {
    let report = &checked.report;
    let mut text = format!(
        "{}: {} about {}\n",
        config.data.questions.display(),
        counted(report.questions, "question"),
        counted(report.clips, "clip")
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
    if let Some(first) = report.beyond_end.first() {
        writeln!(
            text,
            "{} later than the clip does, and then with it; the first: {first}",
            match report.beyond_end.len() {
                1 => "1 part of a clip ends".to_owned(),
                several => format!("{several} parts of clips end"),
            }
        )?;
    }
    describe_flaws(&mut text, &checked.flaws)?;
    for one in &checked.hindrances {
        writeln!(text, "\n{one}")?;
    }
    if !report.findings.is_empty() {
        describe_clips(&mut text, checked, config)?;
    } else if checked.flaws.is_empty() && checked.hindrances.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    Ok(text)
}

/// A line for each kind of flaw: a file that is spelled wrongly is so throughout.
fn describe_flaws(text: &mut String, flaws: &[Finding]) -> Result<()> {
    if flaws.is_empty() {
        return Ok(());
    }
    let mut by_kind: BTreeMap<Flaw, Vec<&Finding>> = BTreeMap::new();
    for finding in flaws {
        by_kind.entry(finding.flaw).or_default().push(finding);
    }
    let header = ("problem", "questions");
    writeln!(
        text,
        "\n{:<13}  {:>9}  the first, and why",
        header.0, header.1
    )?;
    for (flaw, found) in by_kind {
        let (name, count, first) = (flaw.as_str(), found.len(), found[0]);
        writeln!(
            text,
            "{name:<13}  {count:>9}  {}: {}",
            first.question, first.reason
        )?;
    }
    Ok(())
}

fn describe_clips(text: &mut String, checked: &Checked, config: &Config) -> Result<()> {
    let report = &checked.report;
    // A wrong folder loses every clip: one line says it.
    let (missing, others): (Vec<&ClipFinding>, Vec<&ClipFinding>) = report
        .findings
        .iter()
        .partition(|finding| finding.problem == Problem::Missing);
    let several = missing.len() > 1;
    let listed = if several {
        others
    } else {
        report.findings.iter().collect()
    };
    let videos: Vec<String> = listed
        .iter()
        .map(|finding| finding.video.display().to_string())
        .collect();
    let width = videos.iter().map(String::len).max().unwrap_or(0).max(4);
    if !listed.is_empty() {
        writeln!(
            text,
            "\n{:<10}  {:<width$}  {:>9}  reason",
            "problem", "clip", "questions"
        )?;
    }
    for (finding, video) in listed.iter().zip(&videos) {
        writeln!(
            text,
            "{:<10}  {video:<width$}  {:>9}  {}",
            finding.problem.as_str(),
            finding.questions.len(),
            finding.reason
        )?;
    }
    if several {
        let asked: usize = missing.iter().map(|finding| finding.questions.len()).sum();
        writeln!(
            text,
            "\nmissing: {} of {} clips, which {asked} questions are about; the first: {} ({}). Paths are relative to \
             data.video_root, now \"{}\"",
            missing.len(),
            report.clips,
            missing[0].video.display(),
            missing[0].reason,
            config.data.video_root.display()
        )?;
    }
    let clips: BTreeSet<&PathBuf> = report.findings.iter().map(|f| &f.video).collect();
    let flawed = checked.flaws.iter().map(|flaw| &flaw.question);
    let questions = report.findings.iter().flat_map(|f| &f.questions);
    let questions: BTreeSet<&String> = questions.chain(flawed).collect();
    writeln!(
        text,
        "\n{} of {} clips and {} of {} questions are concerned",
        clips.len(),
        report.clips,
        questions.len(),
        report.questions
    )?;
    Ok(())
}
