//! `data stats`: what a file of questions is like.

use super::BadArgument;
use super::ConfigArgs;
use super::Outcome;
use super::eval::read_all;
use super::must_exist;
use super::output;
use crate::config::AccuracyRule;
use crate::config::Verb;
use crate::data::Question;
use crate::data::answer::option::letter_index;
use crate::data::impossible_answers;
use crate::data::stats::Spread;
use crate::data::stats::Stats;
use crate::eval::score::ConstantAnswer;
use crate::eval::score::best_constant;
use crate::util::words::counted;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::fmt::Display;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

/// Lines that a table of types, splits or letters has at most.
const MOST_LINES: usize = 12;

/// Arguments of `data stats`.
#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// The questions: a file, or what `eval.benchmark` is published as [default: `data.questions`]
    #[arg(value_name = "FILE")]
    questions: Option<PathBuf>,
    #[command(flatten)]
    settings: ConfigArgs,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Printed {
    #[serde(flatten)]
    stats: Stats,
    /// The best answer that is always the same, all or nothing, of the multiple-choice questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    best_constant_exact: Option<ConstantAnswer>,
    /// The same with partial credit.
    #[serde(skip_serializing_if = "Option::is_none")]
    best_constant_soft: Option<ConstantAnswer>,
    /// Questions that no answer can be right for (`data check` says why).
    flawed: usize,
}

/// Runs `data stats`.
pub(super) fn run(args: &StatsArgs) -> Result<Outcome> {
    let mut config = args.settings.load(Verb::Inspect)?;
    if let Some(questions) = &args.questions {
        config.data.questions.clone_from(questions);
    }
    if config.data.questions.as_os_str().is_empty() {
        let problem = "no questions: give FILE, or --config FILE with data.questions";
        return Err(BadArgument(problem.into()).into());
    }
    must_exist(&config.data.questions)?;
    let questions = read_all(&config)?;
    let letters: Vec<&str> = questions
        .iter()
        .filter(|question| is_choice(question))
        .map(|question| question.solution.as_str())
        .collect();
    let constant = |rule| (!letters.is_empty()).then(|| best_constant(&letters, rule));
    let printed = Printed {
        stats: Stats::of(&questions),
        best_constant_exact: constant(AccuracyRule::Exact),
        best_constant_soft: constant(AccuracyRule::Soft),
        flawed: if config.eval.benchmark.is_some() {
            0
        } else {
            impossible_answers(&questions).len()
        },
    };
    if args.json {
        output::json(&printed)?;
    } else {
        output::text(&describe(&printed, &config.data.questions)?)?;
    }
    Ok(Outcome::Done)
}

fn is_choice(question: &Question) -> bool {
    !question.choices().is_empty()
        && question
            .answer()
            .items()
            .all(|item| letter_index(item).is_some())
}

fn describe(printed: &Printed, path: &Path) -> Result<String> {
    let stats = &printed.stats;
    let mut text = format!(
        "{}: {} about {}\n",
        path.display(),
        counted(stats.questions, "question"),
        counted(stats.clips, "clip")
    );
    let total = stats.questions;
    writeln!(
        text,
        "questions per clip: {}",
        spread(stats.questions_per_clip)
    )?;
    writeln!(text, "words per question: {}", spread(stats.words))?;
    let kinds = [
        ("observational", stats.kinds.observational),
        ("inferential", stats.kinds.inferential),
        ("none", stats.kinds.without),
    ];
    table(&mut text, "kind", kinds, total)?;
    table(&mut text, "problem_type", &stats.problem_types, total)?;
    for (name, values) in &stats.splits {
        table(&mut text, name, values, total)?;
    }
    let options = stats.options.iter().map(|(count, questions)| match count {
        0 => ("none".to_owned(), *questions),
        count => (count.to_string(), *questions),
    });
    table(&mut text, "options", options, total)?;
    if !stats.right_letters.is_empty() {
        table(&mut text, "right letter", &stats.right_letters, total)?;
        writeln!(text, "several right options: {}", stats.several_right)?;
    }
    if let Some(best) = &printed.best_constant_exact {
        write!(
            text,
            "best constant answer: {} ({:.1} %)",
            best.answer,
            100.0 * best.mean
        )?;
        match &printed.best_constant_soft {
            Some(soft) if stats.several_right > 0 => writeln!(
                text,
                ", with partial credit {} ({:.1} %)",
                soft.answer,
                100.0 * soft.mean
            )?,
            _ => text.push('\n'),
        }
    }
    if stats.worked > 0 {
        writeln!(text, "worked answers: {}", stats.worked)?;
    }
    if let Some(repeated) = &stats.repeated {
        let [first, second] = &repeated.first;
        writeln!(
            text,
            "repeated, the same question about the same clip as an earlier one: {}, {} of them with another answer; the first: \
             {second}, as {first}",
            counted(repeated.questions, "question"),
            repeated.contradicting
        )?;
    }
    if printed.flawed > 0 {
        writeln!(
            text,
            "wrong: {} in the questions themselves, which `data check` names",
            counted(printed.flawed, "thing")
        )?;
    }
    Ok(text)
}

fn spread(counts: Spread) -> String {
    format!(
        "{} to {}, median {}, mean {:.1}",
        counts.least, counts.most, counts.median, counts.mean
    )
}

/// A line for each value, the most frequent first where there are too many to show.
fn table<K: Display>(
    text: &mut String,
    name: &str,
    counts: impl IntoIterator<Item = (K, impl std::borrow::Borrow<usize>)>,
    total: usize,
) -> Result<()> {
    let counts = counts
        .into_iter()
        .map(|(key, count)| (key.to_string(), *count.borrow()));
    let mut counts: Vec<(String, usize)> = counts.filter(|(_, count)| *count > 0).collect();
    if counts.is_empty() {
        return Ok(());
    }
    let all = counts.len();
    if all > MOST_LINES {
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    }
    let width = counts
        .iter()
        .take(MOST_LINES)
        .map(|(key, _)| key.chars().count())
        .max()
        .unwrap_or(0);
    writeln!(text, "{name}:")?;
    for (key, count) in counts.iter().take(MOST_LINES) {
        let share = 100.0 * *count as f64 / total.max(1) as f64;
        writeln!(text, "  {key:<width$}  {count:>7}  {share:>5.1} %")?;
    }
    if all > MOST_LINES {
        let rest: usize = counts[MOST_LINES..].iter().map(|(_, count)| count).sum();
        writeln!(
            text,
            "  and {} more, {}",
            counted(all - MOST_LINES, "value"),
            counted(rest, "question")
        )?;
    }
    Ok(())
}
