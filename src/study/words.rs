//! What a study says, in words and in figures for people.

use super::comparison::Comparison;
use super::comparison::Verdict;
use super::file::Answers;
use super::file::Expected;
use super::interval::Covers;
use super::interval::Estimate;
use super::summary::RowSummary;

/// What stands where there is no value.
pub(super) const NONE: &str = "–";

/// A number with `digits` behind the point and a minus that is as wide as a plus.
pub(super) fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let is_zero = text.chars().all(|c| matches!(c, '-' | '0' | '.'));
    match text.strip_prefix('-') {
        Some(rest) if is_zero => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// The same with its sign.
pub(super) fn signed(value: f64, digits: usize) -> String {
    let text = number(value, digits);
    let is_zero = text.chars().all(|c| matches!(c, '0' | '.'));
    if is_zero || text.starts_with('−') {
        text
    } else {
        format!("+{text}")
    }
}

/// A mean with its interval, in units of 1 / `scale`; a star where it covers the choice of questions only.
pub(super) fn estimate(estimate: Option<&Estimate>, scale: f64, digits: usize) -> String {
    let Some(estimate) = estimate else {
        return NONE.to_owned();
    };
    // Equal values say nothing about others.
    let half = estimate.half_width.filter(|half| *half > 0.0);
    let half = half.map_or_else(String::new, |half| {
        let star = if estimate.covers == Covers::Questions {
            "*"
        } else {
            ""
        };
        format!(" ± {}{star}", number(scale * half, digits))
    });
    format!("{}{half}", number(scale * estimate.mean, digits))
}

/// The ends of an interval.
pub(super) fn interval(estimate: Option<&Estimate>) -> String {
    let ends = estimate.and_then(|one| Some((one.ends()?, one.covers)));
    ends.map_or_else(
        || NONE.to_owned(),
        |((low, high), covers)| {
            let star = if covers == Covers::Questions { "*" } else { "" };
            format!(
                "{} to {}{star}",
                signed(100.0 * low, 1),
                signed(100.0 * high, 1)
            )
        },
    )
}

/// A p value.
pub(super) fn p(p: Option<f64>) -> String {
    match p {
        None => NONE.to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) if p < 0.1 => number(p, 3),
        Some(p) => number(p, 2),
    }
}

/// What is claimed.
pub(super) fn expected(comparison: &Comparison) -> String {
    match comparison.expected {
        None => NONE.to_owned(),
        Some(Expected::Above) => "above".to_owned(),
        Some(Expected::Below) => "below".to_owned(),
        Some(Expected::NotBelow) => {
            format!("not below by {}", number(100.0 * comparison.margin, 1))
        }
    }
}

/// Whose difference it is, and of which answers.
pub(super) fn compared(comparison: &Comparison) -> String {
    let how = match comparison.answers {
        Answers::Greedy => "",
        Answers::Sampled => ", sampled",
    };
    format!("{} − {}{how}", comparison.first, comparison.second)
}

/// What the primary test says; `planned` are the seeds that there are to be.
pub(super) fn primary(
    comparison: Option<&Comparison>,
    rows: &[RowSummary],
    planned: Option<usize>,
) -> String {
    let Some(test) = comparison else {
        let evaluated = rows.iter().filter(|row| row.seeds > 0).count();
        return format!(
            "The study names no comparison, so there is no primary test; {evaluated} of {} rows have been evaluated.",
            rows.len()
        );
    };
    let (first, second) = (&test.first, &test.second);
    let questions = match test.kind {
        super::file::Kind::All => "all questions".to_owned(),
        kind => format!("{} questions", kind.as_str()),
    };
    let how = match test.answers {
        Answers::Greedy => "",
        Answers::Sampled => ", answers sampled",
    };
    let subject = format!("The primary test compares {first} with {second} on {questions}{how}.");
    let (Some(difference), Some(a), Some(b)) = (
        &test.difference,
        &test.first_accuracy,
        &test.second_accuracy,
    ) else {
        return format!(
            "{subject} No seed has finished evaluations of both, so nothing can be said yet."
        );
    };
    let seeds = match test.seeds {
        1 => "In the one seed that has both,".to_owned(),
        count => format!("Over {count} seeds"),
    };
    let found = format!(
        "{seeds} {first} answers {} % of {} exactly right and {second} {} %: {}{}.",
        number(100.0 * a.mean, 1),
        if test.unpaired > 0 {
            "those that both answered"
        } else {
            "them"
        },
        number(100.0 * b.mean, 1),
        apart(100.0 * difference.mean, first),
        certainty(difference, test.p)
    );
    let verdict = test
        .verdict
        .zip(test.expected)
        .map_or_else(String::new, |(verdict, expected)| {
            format!(" {}", judged(test, verdict, expected))
        });
    let interim =
        planned
            .filter(|planned| test.seeds < *planned)
            .map_or_else(String::new, |planned| {
                let seeds = test.seeds;
                format!(" This is an interim look at {seeds} of {planned} planned seeds.")
            });
    format!("{subject} {found}{verdict}{interim}")
}

fn apart(points: f64, first: &str) -> String {
    let size = number(points.abs(), 1);
    if size == "0.0" {
        format!("{first} is level with it")
    } else if points > 0.0 {
        format!("{first} is {size} points above")
    } else {
        format!("{first} is {size} points below")
    }
}

fn certainty(difference: &Estimate, p_value: Option<f64>) -> String {
    let Some((low, high)) = difference.ends() else {
        return String::new();
    };
    let ends = format!(
        "95 % interval of the difference {} to {}",
        signed(100.0 * low, 1),
        signed(100.0 * high, 1)
    );
    match difference.covers {
        Covers::Questions => {
            format!(
                " ({ends}, which covers the choice of questions only: one seed says nothing of other trainings)"
            )
        }
        Covers::Seeds => match p(p_value) {
            text if text == NONE => format!(" ({ends})"),
            text if text.starts_with('<') => format!(" ({ends}, p {text})"),
            text => format!(" ({ends}, p = {text})"),
        },
    }
}

fn judged(test: &Comparison, verdict: Verdict, expected: Expected) -> String {
    let (first, second) = (&test.first, &test.second);
    let claim = match expected {
        Expected::Above => format!("{first} was expected above {second}"),
        Expected::Below => format!("{first} was expected below {second}"),
        Expected::NotBelow => format!(
            "{first} was expected not to be below {second} by more than {} points",
            number(100.0 * test.margin, 1)
        ),
    };
    match verdict {
        Verdict::CannotBeTold => {
            format!("{claim}; whether that is so cannot be told from these runs.")
        }
        verdict => format!("{claim}: this {}.", verdict.in_words()),
    }
}
