//! `data split`: training and validation questions from one file, whole clips on either side.

use super::BadArgument;
use super::Outcome;
use super::output;
use crate::data::Question;
use crate::data::read_questions;
use crate::data::split_by_clip;
use crate::data::write_questions;
use crate::util::file;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `data split`.
#[derive(Debug, Args)]
pub(super) struct SplitArgs {
    /// The questions
    #[arg(value_name = "FILE")]
    questions: PathBuf,
    /// Folder for train.jsonl and validation.jsonl
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Share of the clips that are for validation
    #[arg(long, value_name = "SHARE", default_value = "0.2", value_parser = share)]
    validation: f64,
    /// Which clips these are
    #[arg(long, default_value = "42")]
    seed: u64,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, &'static str> {
    let number = text
        .parse()
        .ok()
        .filter(|number| *number > 0.0 && *number < 1.0);
    number.ok_or("must be a number between 0 and 1")
}

/// One of the two files.
#[derive(Debug, Serialize)]
struct Part {
    file: PathBuf,
    questions: usize,
    clips: usize,
}

pub(super) fn run(args: &SplitArgs) -> Result<Outcome> {
    let questions = read_questions(&args.questions)?;
    let Some(split) = split_by_clip(questions, args.validation, args.seed) else {
        let problem = format!(
            "{}: all questions are about one clip, and a clip is for training or for validation",
            args.questions.display()
        );
        return Err(BadArgument(problem).into());
    };
    let parts = [
        ("train.jsonl", &split.train, split.train_clips),
        (
            "validation.jsonl",
            &split.validation,
            split.validation_clips,
        ),
    ];
    for (name, questions, _) in &parts {
        refuse_others(&args.out.join(name), questions)?;
    }
    file::create_folders(&args.out)?;
    let write = |(name, questions, clips): &(&str, &Vec<Question>, usize)| -> Result<Part> {
        let file = args.out.join(name);
        write_questions(&file, questions.iter())?;
        Ok(Part {
            file,
            questions: questions.len(),
            clips: *clips,
        })
    };
    let parts = parts.iter().map(write).collect::<Result<Vec<Part>>>()?;
    if args.json {
        output::json(&parts)?;
    } else {
        let line = |part: &Part| {
            let Part {
                file,
                questions,
                clips,
            } = part;
            format!(
                "{}: {} about {}\n",
                file.display(),
                counted(*questions, "question"),
                counted(*clips, "clip")
            )
        };
        output::text(&parts.iter().map(line).collect::<String>())?;
    }
    Ok(Outcome::Done)
}

/// A file with other questions is never replaced, and neither is half of an earlier division.
fn refuse_others(path: &Path, questions: &[Question]) -> Result<()> {
    if file::exists(path)? && read_questions(path).ok().as_deref() != Some(questions) {
        let problem = format!(
            "{} is there already, with other questions: remove it, or choose another --out",
            path.display()
        );
        return Err(BadArgument(problem).into());
    }
    Ok(())
}
