//! `data split`: training and validation questions from one file, whole clips on either side.

use super::BadArgument;
use super::Outcome;
use super::output;
use crate::data::Question;
use crate::data::read_questions;
use crate::data::split_by_clip;
use crate::data::write_questions;
use crate::util::file;
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
    file::create_folders(&args.out)?;
    let parts = [
        write(
            &args.out.join("train.jsonl"),
            &split.train,
            split.train_clips,
        )?,
        write(
            &args.out.join("validation.jsonl"),
            &split.validation,
            split.validation_clips,
        )?,
    ];
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
                "{}: {questions} questions about {clips} clips\n",
                file.display()
            )
        };
        output::text(&parts.iter().map(line).collect::<String>())?;
    }
    Ok(Outcome::Done)
}

/// Writes one of the two; a file with other questions is never replaced.
fn write(path: &Path, questions: &[Question], clips: usize) -> Result<Part> {
    if file::exists(path)? && read_questions(path).ok().as_deref() != Some(questions) {
        let problem = format!(
            "{} is there already, with other questions: remove it, or choose another --out",
            path.display()
        );
        return Err(BadArgument(problem).into());
    }
    write_questions(path, questions)?;
    Ok(Part {
        file: path.to_owned(),
        questions: questions.len(),
        clips,
    })
}
