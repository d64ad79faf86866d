//! From answered questions to numbers: means with confidence intervals, by every split, beside the best constant answer.

use super::prediction::Prediction;
use crate::config::AccuracyRule;
use crate::data::Answer;
use crate::data::answer::ReadBy;
use crate::data::answer::Unreadable;
use crate::data::answer::authors;
use crate::data::answer::per_option;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// How many standard errors a 95 % confidence interval reaches to each side.
pub(crate) const NORMAL_95: f64 = 1.96;

/// Every subset of the letters in use is tried as a constant answer up to this many letters (2⁸ − 1 answers).
const MAX_LETTERS: usize = 8;

/// A mean over questions and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeanEstimate {
    /// The mean; not a number (`null`) where no answer is judged.
    #[serde(deserialize_with = "number_or_null")]
    pub(crate) mean: f64,
    /// Half the width of the interval; absent when there are fewer than two clips.
    pub(crate) half_width: Option<f64>,
}

impl MeanEstimate {
    /// Of what nobody knows.
    const UNKNOWN: Self = Self {
        mean: f64::NAN,
        half_width: None,
    };
}

fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The constant answer that scores best on the evaluated questions: what a model gets without looking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConstantAnswer {
    /// The answer, such as `A` or `A,B`.
    pub(crate) answer: String,
    /// Its mean score.
    pub(crate) mean: f64,
}

/// The scores of one set of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SplitScores {
    pub(crate) questions: usize,
    /// Different clips among them.
    pub(crate) videos: usize,
    /// Accuracy with partial credit.
    pub(crate) soft: MeanEstimate,
    /// Accuracy without.
    pub(crate) exact: MeanEstimate,
    /// Share of completions in the demanded format.
    pub(crate) format: MeanEstimate,
    /// Accuracy over single options, where questions have several right ones (CLEVRER's per-option measure).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) per_option: Option<MeanEstimate>,
    /// Questions without a readable answer.
    pub(crate) unparsable: usize,
    /// Why, and how many each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) unparsable_reasons: BTreeMap<Unreadable, usize>,
    /// Where answers were found or who says whether they are right, and how many each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) read_by: BTreeMap<ReadBy, usize>,
    /// Exact accuracy of the answers that could be read, where some could not: Video-MME's evaluator counts only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exact_of_read: Option<f64>,
    /// Answers of which no judge has said whether they are right: captions before judging, what a benchmark's own rule leaves
    /// to a judge, and unclear replies. They never count as right; where nothing else is decided there is no accuracy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unjudged: usize,
    /// Exact accuracy if all of these were wrong, and if all were right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bounds: Option<[f64; 2]>,
    /// Completions cut at the length limit.
    pub(crate) truncated: usize,
    /// Mean length in tokens.
    pub(crate) mean_tokens: f64,
    /// The best constant answer under the soft rule.
    pub(crate) best_constant_soft: ConstantAnswer,
    /// The best constant answer under the exact rule.
    pub(crate) best_constant_exact: ConstantAnswer,
}

/// Scores by split: `all`, each question kind that occurs, and `name/value` for what the source sorts questions under.
pub(crate) fn splits(predictions: &[Prediction]) -> BTreeMap<String, SplitScores> {
    by_split(predictions)
        .into_iter()
        .map(|(name, members)| (name, split(&members)))
        .collect()
}

/// The members of each split.
pub(super) fn by_split(predictions: &[Prediction]) -> BTreeMap<String, Vec<&Prediction>> {
    let mut groups: BTreeMap<String, Vec<&Prediction>> = BTreeMap::new();
    for one in predictions {
        let kind = one.kind.map(|kind| kind.as_str().to_owned());
        let others = one
            .splits
            .iter()
            .map(|(name, value)| format!("{name}/{value}"));
        for name in ["all".to_owned()].into_iter().chain(kind).chain(others) {
            groups.entry(name).or_default().push(one);
        }
    }
    groups
}

fn split(members: &[&Prediction]) -> SplitScores {
    let videos: BTreeSet<&str> = members.iter().map(|one| one.video.as_str()).collect();
    let mean = |value: fn(&Prediction) -> f64| {
        clustered_mean(members.iter().map(|one| (one.video.as_str(), value(one))))
    };
    let unjudged = members.iter().filter(|one| one.is_unjudged()).count();
    let unknown = is_unknown(members.iter().copied());
    let accuracy = |value| {
        if unknown {
            MeanEstimate::UNKNOWN
        } else {
            mean(value)
        }
    };
    let mut reasons = BTreeMap::new();
    for reason in members.iter().filter_map(|one| one.unreadable) {
        *reasons.entry(reason).or_default() += 1;
    }
    let mut read_by = BTreeMap::new();
    for one in members {
        *read_by.entry(one.reader()).or_default() += 1;
    }
    let samples = || members.iter().flat_map(|one| &one.samples);
    // No constant answer gets what a judge gives.
    let by_rule = members
        .iter()
        .filter(|one| one.verdict.is_none() && !one.is_caption());
    let solutions: Vec<&str> = by_rule.map(|one| one.solution.as_str()).collect();
    SplitScores {
        questions: members.len(),
        videos: videos.len(),
        soft: accuracy(|one| one.soft),
        exact: accuracy(|one| one.exact),
        format: mean(|one| one.format),
        per_option: option_accuracy(members),
        unparsable: reasons.values().sum(),
        unparsable_reasons: reasons,
        exact_of_read: exact_of_read(members),
        read_by,
        unjudged,
        bounds: (unjudged > 0).then(|| {
            let right: f64 = members.iter().map(|one| one.exact).sum();
            let count = members.len() as f64;
            [right / count, (right + unjudged as f64) / count]
        }),
        truncated: samples().filter(|sample| sample.truncated).count(),
        mean_tokens: samples().map(|sample| sample.tokens as f64).sum::<f64>()
            / samples().count().max(1) as f64,
        best_constant_soft: best_constant(&solutions, AccuracyRule::Soft),
        best_constant_exact: best_constant(&solutions, AccuracyRule::Exact),
    }
}

/// Whether answers wait for a judge and nothing else is decided: there is no accuracy then.
pub(super) fn is_unknown<'a>(members: impl IntoIterator<Item = &'a Prediction>) -> bool {
    let (mut waiting, mut decided) = (false, false);
    for one in members {
        waiting |= one.is_unjudged();
        decided |= one.is_decided();
    }
    waiting && !decided
}

/// Exact accuracy of the answers that could be read, where some could not.
fn exact_of_read(members: &[&Prediction]) -> Option<f64> {
    let read: Vec<f64> = members
        .iter()
        .filter(|one| one.is_decided())
        .map(|one| one.exact)
        .collect();
    (!read.is_empty() && read.len() < members.len())
        .then(|| read.iter().sum::<f64>() / read.len() as f64)
}

fn option_accuracy(members: &[&Prediction]) -> Option<MeanEstimate> {
    if !members.iter().any(|one| one.has_several_right()) {
        return None;
    }
    let values: Vec<(&str, f64)> = members
        .iter()
        .flat_map(|one| {
            per_option(&one.answer, &one.solution, one.options.len())
                .into_iter()
                .map(|right| (one.video.as_str(), f64::from(u8::from(right))))
        })
        .collect();
    (!values.is_empty()).then(|| clustered_mean(values.into_iter()))
}

/// Mean and 95 % interval with a standard error clustered by clip: questions about one clip stand and fall together.
///
/// With residuals e = x − mean summed per clip, SE² = C/(C − 1) · Σ_clips (Σ e)² / n² for C clips and n questions
/// (the ratio estimator of a cluster sample; for one question per clip it is the ordinary standard error).
pub(crate) fn clustered_mean<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> MeanEstimate {
    let values: Vec<(&str, f64)> = values.collect();
    let count = values.len() as f64;
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / count;
    let mut residuals: BTreeMap<&str, f64> = BTreeMap::new();
    for (video, value) in &values {
        *residuals.entry(video).or_default() += value - mean;
    }
    let clusters = residuals.len() as f64;
    let half_width = (residuals.len() > 1).then(|| {
        let squares: f64 = residuals.values().map(|sum| sum * sum).sum();
        NORMAL_95 * (clusters / (clusters - 1.0) * squares).sqrt() / count
    });
    MeanEstimate { mean, half_width }
}

/// The constant answer with the best mean score; among equals the shortest, then the first in the alphabet.
///
/// Up to [`MAX_LETTERS`] different answer parts every subset of them is tried, beyond that the single parts and the solutions.
pub(crate) fn best_constant(solutions: &[&str], rule: AccuracyRule) -> ConstantAnswer {
    // Thousands of questions have few different solutions: each is scored once.
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for solution in solutions {
        *counts
            .entry(Answer::parse(solution).to_string())
            .or_default() += 1;
    }
    let truths: Vec<BTreeSet<String>> = counts
        .keys()
        .map(|solution| Answer::parse(solution).items().map(str::to_owned).collect())
        .collect();
    let mut candidates: Vec<String> = candidates(&truths)
        .into_iter()
        .map(|parts| parts.into_iter().collect::<Vec<_>>().join(","))
        .collect();
    candidates.sort_by_key(String::len);
    let mut best = ConstantAnswer {
        answer: String::new(),
        mean: 0.0,
    };
    for answer in candidates {
        let total: f64 = counts
            .iter()
            .map(|(solution, count)| *count as f64 * authors::accuracy(&answer, solution, rule))
            .sum();
        let mean = total / solutions.len() as f64;
        if mean > best.mean {
            best = ConstantAnswer { answer, mean };
        }
    }
    best
}

/// The constant answers worth trying.
fn candidates(truths: &[BTreeSet<String>]) -> BTreeSet<BTreeSet<String>> {
    let parts: Vec<&String> = truths
        .iter()
        .flatten()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if parts.len() > MAX_LETTERS {
        let singles = parts.iter().map(|part| BTreeSet::from([(*part).clone()]));
        return singles.chain(truths.iter().cloned()).collect();
    }
    (1..1_usize << parts.len())
        .map(|mask| {
            let chosen = parts.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
            chosen.map(|(_, part)| (*part).clone()).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::prediction::JudgeNeed;
    use super::super::prediction::Sample;
    use super::*;
    use crate::config::Extraction;
    use crate::config::QuestionKind;
    use crate::data::Question;

    fn prediction(
        id: usize,
        video: &str,
        kind: QuestionKind,
        solution: &str,
        scores: (f64, f64),
    ) -> Prediction {
        Prediction {
            id: format!("q{id}"),
            video: video.into(),
            kind: Some(kind),
            splits: BTreeMap::from([("half".into(), ["first", "second"][id / 2].into())]),
            options: vec!["x".into(), "y".into(), "z".into()],
            samples: vec![Sample {
                completion: "<think>x</think><answer>A</answer>".into(),
                truncated: id == 3,
                tokens: 10 + id,
            }],
            answer: "A".into(),
            solution: format!("<answer>{solution}</answer>"),
            exact: scores.0,
            soft: scores.1,
            format: 1.0,
            unreadable: (id == 2).then_some(Unreadable::NoTags),
            question: "Why?".into(),
            read_by: Some(ReadBy::Tags),
            judge: None,
            judge_need: JudgeNeed::None,
            verdict: None,
        }
    }

    #[test]
    fn one_question_per_clip_gives_the_ordinary_standard_error() {
        let values = [("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 1.0)];
        let mean = clustered_mean(values.into_iter());
        let deviation = (0.75_f64 / 3.0).sqrt();
        assert!((mean.mean - 0.75).abs() < 1e-12);
        let half = mean.half_width.unwrap();
        assert!((half - 1.96 * deviation / 2.0).abs() < 1e-12, "{half}");
    }

    #[test]
    fn copies_of_a_question_add_no_certainty() {
        let once = clustered_mean([("a", 1.0), ("b", 0.0), ("c", 1.0)].into_iter());
        let values = [("a", 1.0), ("b", 0.0), ("c", 1.0)];
        let thrice = clustered_mean(values.into_iter().cycle().take(9));
        assert!((once.half_width.unwrap() - thrice.half_width.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn a_single_clip_has_no_interval() {
        let mean = clustered_mean([("a", 1.0), ("a", 0.0)].into_iter());
        assert_eq!(mean.half_width, None);
        assert!((mean.mean - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_best_constant_may_be_an_answer_that_is_never_right() {
        let solutions = ["A,B,C", "A,B,D", "A,B,C", "A,B,D"];
        let soft = best_constant(&solutions, AccuracyRule::Soft);
        assert_eq!(soft.answer, "A,B");
        assert!((soft.mean - 2.0 / 3.0).abs() < 1e-12);
        let exact = best_constant(&solutions, AccuracyRule::Exact);
        assert_eq!(exact.answer, "A,B,C");
        assert!((exact.mean - 0.5).abs() < 1e-12);
    }

    #[test]
    fn many_different_answers_are_still_searched() {
        let numbers: Vec<String> = (0..40).map(|i| i.to_string()).collect();
        let mut solutions: Vec<&str> = numbers.iter().map(String::as_str).collect();
        solutions.push("<answer> 7 </answer>");
        let best = best_constant(&solutions, AccuracyRule::Exact);
        assert_eq!(best.answer, "7");
        assert!((best.mean - 2.0 / 41.0).abs() < 1e-12);
    }

    #[test]
    fn the_majority_of_the_samples_is_scored() {
        let line = r#"{"id":"1","problem":"Why?\nA. x\nB. y","solution":"<answer>B</answer>","video":"v.mp4"}"#;
        let question: Question = serde_json::from_str(line).unwrap();
        let samples = ["<answer>A</answer>", "<answer>B</answer>", "b"].map(|text| Sample {
            completion: text.into(),
            truncated: false,
            tokens: 1,
        });
        let mut one = Prediction::new(&question, samples.to_vec(), Extraction::Strict.into());
        assert_eq!((one.answer.as_str(), one.exact), ("B", 1.0));
        one.score(Extraction::Authors.into());
        assert_eq!((one.answer.as_str(), one.exact), ("A", 0.0));
        one.samples.clear();
        one.score(Extraction::Strict.into());
        assert_eq!((one.exact, one.unreadable), (0.0, Some(Unreadable::Empty)));
    }

    #[test]
    fn splits_by_kind_and_counts() {
        use QuestionKind::{Inferential, Observational};
        let all = [
            prediction(0, "a", Observational, "A", (1.0, 1.0)),
            prediction(1, "a", Observational, "A,B", (0.0, 0.5)),
            prediction(2, "b", Inferential, "C", (0.0, 0.0)),
            prediction(3, "c", Inferential, "A", (1.0, 1.0)),
        ];
        let splits = splits(&all);
        assert_eq!(
            splits.keys().collect::<Vec<_>>(),
            [
                "all",
                "half/first",
                "half/second",
                "inferential",
                "observational"
            ]
        );
        let every = &splits["all"];
        assert_eq!((every.questions, every.videos), (4, 3));
        assert_eq!((every.unparsable, every.truncated), (1, 1));
        assert_eq!(every.unparsable_reasons[&Unreadable::NoTags], 1);
        // Of twelve options three are wrong: B of the second question, A and C of the third.
        assert!((every.per_option.unwrap().mean - 0.75).abs() < 1e-12);
        assert_eq!(splits["half/second"].per_option, None);
        assert!((every.soft.mean - 0.625).abs() < 1e-12);
        assert!((every.exact.mean - 0.5).abs() < 1e-12);
        assert!((every.mean_tokens - 11.5).abs() < 1e-12);
        assert_eq!(every.best_constant_soft.answer, "A");
        assert!((every.best_constant_soft.mean - 0.625).abs() < 1e-12);
        assert_eq!(splits["observational"].questions, 2);
        assert_eq!(splits["observational"].soft.half_width, None);
    }
}
