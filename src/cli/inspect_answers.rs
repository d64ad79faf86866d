//! `inspect answers`: how given answers are read and scored, to be held against another evaluator.

use super::BadArgument;
use super::output;
use crate::config::Benchmark;
use crate::config::Extraction;
use crate::data::answer::AnswerRule;
use crate::data::answer::ReadBy;
use crate::data::answer::Unreadable;
use crate::data::benchmark;
use crate::eval::prediction::Prediction;
use crate::eval::prediction::Sample;
use crate::util::file;
use crate::util::json;
use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use clap::Args;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// Arguments of `inspect answers`.
#[derive(Debug, Args)]
pub(super) struct AnswersArgs {
    /// An array, or lines: question (or problem), options where they stand apart, answer (or solution), completion (or
    /// prediction, response)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The rule that reads
    #[arg(long, value_name = "RULE", default_value = "strict")]
    extraction: Extraction,
    /// Whose questions they are; `official` is its rule
    #[arg(long, value_name = "NAME")]
    benchmark: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Given {
    #[serde(alias = "problem")]
    question: String,
    #[serde(default)]
    options: Option<Vec<String>>,
    #[serde(alias = "solution", alias = "gt-answer")]
    answer: String,
    #[serde(
        alias = "prediction",
        alias = "response",
        alias = "video-llm-prediction"
    )]
    completion: Option<String>,
}

/// A line of its output.
#[derive(Debug, Serialize)]
struct Line {
    answer: String,
    exact: f64,
    soft: f64,
    read_by: ReadBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<Unreadable>,
    /// Only a judge can say whether it is right.
    for_a_judge: bool,
}

pub(super) fn run(args: &AnswersArgs) -> Result<()> {
    let benchmark = args.benchmark.as_deref().map(named).transpose()?;
    if args.extraction == Extraction::Official && benchmark.is_none() {
        let problem = "--extraction official is a benchmark's own rule: name it with --benchmark";
        return Err(BadArgument(problem.into()).into());
    }
    let rule = AnswerRule {
        extraction: args.extraction,
        benchmark,
    };
    for (place, value) in records(&args.file)? {
        let line = serde_json::from_value(value)
            .map_err(|error| anyhow!(json::in_words(&error)))
            .and_then(|given| score(given, rule))
            .with_context(|| format!("{}, {place}", args.file.display()))?;
        output::json(&line)?;
    }
    Ok(())
}

fn named(name: &str) -> Result<Benchmark> {
    Benchmark::named(name).ok_or_else(|| {
        let known = Benchmark::ALL.map(Benchmark::as_str).join(", ");
        BadArgument(format!(
            "--benchmark {name}: there is none; known are {known}"
        ))
        .into()
    })
}

fn records(path: &std::path::Path) -> Result<Vec<(String, Value)>> {
    let text = file::read_to_string(path)?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('[') {
        let all: Vec<Value> =
            json::read(text.as_bytes()).map_err(|error| anyhow!("{}, {error}", path.display()))?;
        let numbered = all.into_iter().enumerate();
        return Ok(numbered
            .map(|(index, value)| (format!("answer {index} (counted from 0)"), value))
            .collect());
    }
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(line, number)| {
            let value = json::read(line.as_bytes())
                .map_err(|error| anyhow!("{}:{number}: {}", path.display(), error.problem))?;
            Ok((format!("line {number}"), value))
        })
        .collect()
}

fn score(given: Given, rule: AnswerRule) -> Result<Line> {
    let options = given.options.unwrap_or_default();
    let question = benchmark::question_of(given.question, options, &given.answer)
        .map_err(anyhow::Error::msg)?;
    let sample = Sample {
        completion: given.completion.unwrap_or_default(),
        truncated: false,
        tokens: 0,
    };
    let one = Prediction::new(&question, vec![sample], rule);
    Ok(Line {
        exact: one.exact,
        soft: one.soft,
        read_by: one.reader(),
        unreadable: one.unreadable,
        for_a_judge: one.is_unjudged(),
        answer: one.answer,
    })
}
