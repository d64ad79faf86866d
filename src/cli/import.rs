//! `data import`: question lines from the files of other projects.

use super::BadArgument;
use super::Outcome;
use super::must_exist;
use super::output;
use crate::data::import::Counted;
use crate::data::import::Import;
use crate::data::import::Imported;
use crate::data::import::Source;
use crate::data::import::columns::Column;
use crate::data::import::import;
use crate::data::read_questions;
use crate::util::file;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `data import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Files to convert (.json, .jsonl, .parquet, .csv, .tsv), or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose files they are
    #[arg(long, value_enum, default_value_t)]
    from: Source,
    /// Question file to write, .json or .jsonl
    #[arg(long, value_name = "OUT.jsonl")]
    out: PathBuf,
    /// Fields that have other names in the files: problem=question,video=clip,solution=meta.truth,options=a0+a1+a2
    #[arg(long, value_name = "FIELD=NAME", value_delimiter = ',')]
    columns: Vec<Column>,
    /// Answers are numbers of options, the first being this one
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    first_option: Option<u8>,
    /// Keep what texts say about the form of the answer (LLaVA's "Answer with the option's letter …"); training asks for its own
    #[arg(long)]
    keep_instructions: bool,
    /// Write clips that stand in the files themselves (parquet) to this folder; it is the questions' video_root then
    #[arg(long, value_name = "DIR")]
    video_dir: Option<PathBuf>,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `data import`.
pub(super) fn run(args: &ImportArgs) -> Result<Outcome> {
    for file in &args.files {
        must_exist(file)?;
        if is_same(file, &args.out) {
            let problem = format!(
                "--out {} is one of the files to convert: name another",
                args.out.display()
            );
            return Err(BadArgument(problem).into());
        }
    }
    refuse_foreign(&args.out)?;
    let options = Import {
        files: &args.files,
        source: args.from,
        columns: &args.columns,
        first_option: args.first_option.map(usize::from),
        keep_instructions: args.keep_instructions,
        video_dir: args.video_dir.as_deref(),
    };
    let before = file::exists(&args.out)?
        .then(|| read_questions(&args.out))
        .transpose()?;
    let summary = import(&options, &args.out)?;
    if let Some(before) = before {
        tracing::info!(
            "{}: takes the place of the {} that stood there",
            args.out.display(),
            counted(before.len(), "question")
        );
    }
    if args.json {
        output::json(&summary)?;
    } else {
        output::text(&describe(&summary, args)?)?;
    }
    Ok(Outcome::Done)
}

/// Refuses to replace what is there and holds no questions, such as a run's records.
pub(super) fn refuse_foreign(out: &Path) -> Result<()> {
    if file::exists(out)? && read_questions(out).is_err() {
        let problem = format!(
            "--out {}: is there already and holds no questions: name another file, or remove it",
            out.display()
        );
        return Err(BadArgument(problem).into());
    }
    Ok(())
}

/// Whether both paths lead to one file.
pub(super) fn is_same(first: &Path, second: &Path) -> bool {
    let place = |path: &Path| path.canonicalize().ok();
    place(first).is_some_and(|first| place(second) == Some(first))
}

fn describe(summary: &Imported, args: &ImportArgs) -> Result<String> {
    let mut text = format!(
        "{}: {} of {}\n",
        args.out.display(),
        counted(summary.questions, "question"),
        counted(summary.records, "record")
    );
    let shapes: Vec<String> = summary
        .shapes
        .iter()
        .map(|(name, count)| format!("{count} with {name}"))
        .collect();
    writeln!(text, "records: {}", shapes.join(", "))?;
    writeln!(
        text,
        "multiple choice: {}, several right: {}, other answers: {}, worked answers: {}",
        summary.multiple_choice,
        summary.several_right,
        summary.questions - summary.multiple_choice,
        summary.worked
    )?;
    if let Some(folder) = &args.video_dir {
        writeln!(
            text,
            "clips written to {}: {} (data.video_root = \"{}\")",
            folder.display(),
            summary.clips_written,
            folder.display()
        )?;
    }
    describe_counts(&mut text, "left out", &summary.left_out)?;
    describe_counts(&mut text, "note", &summary.remarks)?;
    if let Some(sample) = &summary.sample {
        writeln!(text, "the first: {}", serde_json::to_string(sample)?)?;
    }
    Ok(text)
}

fn describe_counts(
    text: &mut String,
    what: &str,
    counts: &BTreeMap<&'static str, Counted>,
) -> Result<()> {
    for (reason, counted) in counts {
        let count = counted.count;
        writeln!(
            text,
            "{what}, {reason}: {count}; the first: {}",
            counted.first
        )?;
    }
    Ok(())
}
