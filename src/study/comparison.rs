//! Two rows compared: paired by question within a seed, then over seeds.

use super::error::StudyError;
use super::file::Answers;
use super::file::ComparisonPlan;
use super::file::Expected;
use super::file::Kind;
use super::file::StudyFile;
use super::interval::Covers;
use super::interval::Estimate;
use super::runs::Evaluation;
use super::runs::Runs;
use crate::eval::score;
use serde::Serialize;
use std::collections::BTreeMap;

/// A test and what it says. Accuracies and differences are shares, not percentage points.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    pub(crate) first: String,
    pub(crate) second: String,
    pub(crate) kind: Kind,
    pub(crate) answers: Answers,
    pub(crate) primary: bool,
    pub(crate) expected: Option<Expected>,
    /// How far below is not yet below.
    pub(crate) margin: f64,
    /// Seeds that both have.
    pub(crate) seeds: usize,
    /// Questions that both answered, of all these seeds.
    pub(crate) questions: usize,
    /// Questions of any kind that only one of them answered, and that are left out.
    pub(crate) unpaired: usize,
    /// Accuracies on these questions.
    pub(crate) first_accuracy: Option<Estimate>,
    pub(crate) second_accuracy: Option<Estimate>,
    /// First less second.
    pub(crate) difference: Option<Estimate>,
    /// Two-sided.
    pub(crate) p: Option<f64>,
    /// The standard deviation that the choice of questions alone gives a seed's difference.
    pub(crate) deviation_questions: Option<f64>,
    /// The rest of the deviation over seeds: trainings and worlds.
    pub(crate) deviation_seeds: Option<f64>,
    pub(crate) verdict: Option<Verdict>,
}

/// Whether what was expected is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Holds,
    DoesNotHold,
    CannotBeTold,
}

impl Verdict {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::CannotBeTold => "cannot be told",
        }
    }

    /// An expectation holds where the whole interval agrees with it, and does not where none of it does. A single seed's
    /// interval says nothing of other trainings.
    fn of(expected: Expected, margin: f64, difference: Option<&Estimate>) -> Self {
        // Equal values of seeds say nothing about others either.
        let over_seeds = difference.filter(|one| {
            one.covers == Covers::Seeds && one.deviation.is_some_and(|deviation| deviation > 0.0)
        });
        let Some((low, high)) = over_seeds.and_then(Estimate::ends) else {
            return Self::CannotBeTold;
        };
        let (holds, refuted) = match expected {
            Expected::Above => (low > 0.0, high < 0.0),
            Expected::Below => (high < 0.0, low > 0.0),
            Expected::NotBelow => (low > -margin, high < -margin),
        };
        match (holds, refuted) {
            (true, _) => Self::Holds,
            (_, true) => Self::DoesNotHold,
            _ => Self::CannotBeTold,
        }
    }
}

/// One seed's pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pairs {
    questions: usize,
    first: f64,
    second: f64,
    difference: f64,
    /// Half a 95 % interval of the difference over questions, clustered by clip.
    half_width: Option<f64>,
    unpaired: usize,
}

/// Makes the comparisons of a study; what readers should know of them is added to `notes`.
///
/// # Errors
/// [`StudyError::OtherQuestions`] where two rows of a seed have no question in common.
pub(super) fn comparisons(
    study: &StudyFile,
    runs: &Runs,
    notes: &mut Vec<String>,
) -> Result<Vec<Comparison>, StudyError> {
    let plans = study.comparisons.iter().enumerate();
    plans
        .map(|(index, plan)| compare(study, plan, index == 0, runs, notes))
        .collect()
}

fn compare(
    study: &StudyFile,
    plan: &ComparisonPlan,
    primary: bool,
    runs: &Runs,
    notes: &mut Vec<String>,
) -> Result<Comparison, StudyError> {
    let (first, second) = (study.label(&plan.first), study.label(&plan.second));
    let rows = (study.index(&plan.first), study.index(&plan.second));
    let mut seeds: BTreeMap<u64, Pairs> = BTreeMap::new();
    for (seed, row) in &runs.seeds {
        let of = |place: usize| match plan.answers {
            Answers::Greedy => row[place].greedy.as_ref(),
            Answers::Sampled => row[place].sampled.as_ref(),
        };
        let (Some(a), Some(b)) = (of(rows.0), of(rows.1)) else {
            continue;
        };
        let mut note = |text: String| {
            let note = format!("seed {seed}, {first} and {second}: {text}");
            if !notes.contains(&note) {
                notes.push(note);
            }
        };
        let differences = a.settings.differences(&b.settings)?;
        if !differences.is_empty() {
            note(format!(
                "evaluated under different conditions ({})",
                differences.join(", ")
            ));
        }
        let pairs = pair(a, b, plan.kind)?;
        if let Some(Pairs { unpaired: 1.., .. }) = pairs {
            note(format!(
                "{} questions answered by only one of them are left out",
                pairs.map_or(0, |pairs| pairs.unpaired)
            ));
        }
        seeds.extend(pairs.map(|pairs| (*seed, pairs)));
    }
    Ok(summarise(plan, (first, second), primary, &seeds))
}

fn summarise(
    plan: &ComparisonPlan,
    (first, second): (&str, &str),
    primary: bool,
    seeds: &BTreeMap<u64, Pairs>,
) -> Comparison {
    let within = seeds.values().next().and_then(|pairs| pairs.half_width);
    let over = |value: fn(&Pairs) -> f64| {
        Estimate::over_seeds(seeds.iter().map(|(seed, pairs)| (*seed, value(pairs))))
    };
    let differences = seeds.iter().map(|(seed, pairs)| (*seed, pairs.difference));
    let difference = Estimate::over_seeds_or_questions(differences, within);
    let variance = difference
        .as_ref()
        .and_then(|one| one.deviation)
        .map(|one| one * one);
    let errors: Option<Vec<f64>> = seeds
        .values()
        .map(|pairs| Some(pairs.half_width? / score::NORMAL_95))
        .collect();
    let of_questions = errors
        .filter(|errors| !errors.is_empty())
        .map(|errors| errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64);
    let margin = plan.margin.unwrap_or(0.0) / 100.0;
    let expected = plan.expected();
    Comparison {
        first: first.to_owned(),
        second: second.to_owned(),
        kind: plan.kind,
        answers: plan.answers,
        primary,
        expected,
        margin,
        seeds: seeds.len(),
        questions: seeds.values().map(|pairs| pairs.questions).sum(),
        unpaired: seeds.values().map(|pairs| pairs.unpaired).sum(),
        first_accuracy: over(|pairs| pairs.first),
        second_accuracy: over(|pairs| pairs.second),
        p: difference.as_ref().and_then(Estimate::p),
        deviation_questions: of_questions.map(f64::sqrt),
        deviation_seeds: variance
            .zip(of_questions)
            .map(|(all, questions)| (all - questions).max(0.0).sqrt()),
        verdict: expected.map(|expected| Verdict::of(expected, margin, difference.as_ref())),
        difference,
    }
}

/// Pairs the answers to the questions of `kind`; none where there are no such questions.
fn pair(a: &Evaluation, b: &Evaluation, kind: Kind) -> Result<Option<Pairs>, StudyError> {
    let (first, second) = (by_question(a), by_question(b));
    let both: Vec<(&str, bool, f64, f64)> = first
        .iter()
        .filter_map(|(id, one)| {
            let other = second.get(id)?;
            Some((one.video, one.is(kind), one.mean(), other.mean()))
        })
        .collect();
    if both.is_empty() {
        return Err(StudyError::OtherQuestions {
            first: a.path.clone(),
            second: b.path.clone(),
        });
    }
    let unpaired = first.len() + second.len() - 2 * both.len();
    let of_kind: Vec<_> = both
        .into_iter()
        .filter(|(_, is_of_kind, ..)| *is_of_kind)
        .collect();
    if of_kind.is_empty() {
        return Ok(None);
    }
    let count = of_kind.len() as f64;
    let difference = score::clustered_mean(of_kind.iter().map(|(video, _, a, b)| (*video, a - b)));
    Ok(Some(Pairs {
        questions: of_kind.len(),
        first: of_kind.iter().map(|(.., a, _)| a).sum::<f64>() / count,
        second: of_kind.iter().map(|(.., b)| b).sum::<f64>() / count,
        difference: difference.mean,
        half_width: difference.half_width,
        unpaired,
    }))
}

/// What was answered to a question.
struct OfQuestion<'a> {
    video: &'a str,
    kinds: [bool; 3],
    right: f64,
    answers: f64,
}

impl OfQuestion<'_> {
    fn is(&self, kind: Kind) -> bool {
        self.kinds[kind.place()]
    }

    fn mean(&self) -> f64 {
        self.right / self.answers
    }
}

fn by_question(evaluation: &Evaluation) -> BTreeMap<&str, OfQuestion<'_>> {
    let mut questions = BTreeMap::new();
    for one in &evaluation.answers {
        let question = questions.entry(one.id.as_str()).or_insert(OfQuestion {
            video: &one.video,
            kinds: Kind::EVERY.map(|kind| kind.includes(one.kind)),
            right: 0.0,
            answers: 0.0,
        });
        question.right += one.exact;
        question.answers += 1.0;
    }
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two seeds, whose interval reaches 12.706 · 0.5 · |a − b| to each side.
    fn difference(mean: f64, half: f64) -> Estimate {
        let apart = half / 12.706_204_736_174_694;
        Estimate::over_seeds([(1, mean - apart), (2, mean + apart)]).unwrap()
    }

    #[test]
    fn a_claim_holds_where_the_whole_interval_agrees() {
        use Expected::{Above, Below, NotBelow};
        use Verdict::{CannotBeTold, DoesNotHold, Holds};
        for (expected, mean, half, verdict) in [
            (Above, 0.05, 0.04, Holds),
            (Above, 0.05, 0.06, CannotBeTold),
            (Above, -0.05, 0.04, DoesNotHold),
            (Below, -0.05, 0.04, Holds),
            (Below, 0.05, 0.04, DoesNotHold),
            (NotBelow, -0.01, 0.005, Holds),
            (NotBelow, 0.0, 0.03, CannotBeTold),
            (NotBelow, -0.05, 0.02, DoesNotHold),
        ] {
            let told = Verdict::of(expected, 0.02, Some(&difference(mean, half)));
            assert_eq!(told, verdict, "{expected:?} {mean} ± {half}");
        }
        let alone = Estimate::over_seeds_or_questions([(1, 0.3)], Some(0.01));
        assert_eq!(Verdict::of(Above, 0.0, alone.as_ref()), CannotBeTold);
        assert_eq!(Verdict::of(Above, 0.0, None), CannotBeTold);
    }
}
