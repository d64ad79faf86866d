//! From answered questions to numbers: means with confidence intervals, by question kind, beside the best constant answer.

use crate::config::AccuracyRule;
use crate::config::QuestionKind;
use crate::data::Answer;
use crate::data::Question;
use crate::policy::generate::Finish;
use crate::rl::reward;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// How many standard errors a 95 % confidence interval reaches to each side.
const NORMAL_95: f64 = 1.96;

/// Every subset of the letters in use is tried as a constant answer up to this many letters (2⁸ − 1 answers).
const MAX_LETTERS: usize = 8;

/// One answered question with its scores: a line of `outputs.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The question's id.
    pub id: String,
    /// Its clip as named in the question file; questions about one clip are not independent.
    pub video: String,
    /// The paper's split, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<QuestionKind>,
    /// What the model wrote.
    pub completion: String,
    /// What counts as its answer.
    pub answer: String,
    /// The right answer, as in the question file.
    pub solution: String,
    /// 1 when the answer is the truth, else 0.
    pub exact: f64,
    /// Partial credit for a non-empty subset of the truth.
    pub soft: f64,
    /// 1 when the completion has the demanded format, else 0.
    pub format: f64,
    /// The completion has an `<answer>` to read.
    pub parsed: bool,
    /// The completion ran into the length limit.
    pub truncated: bool,
    /// Tokens generated.
    pub tokens: usize,
}

impl Answered {
    /// Scores what the model wrote to `question`.
    pub fn new(question: &Question, completion: String, finish: Finish, tokens: usize) -> Self {
        let accuracy = |rule| reward::accuracy(&completion, &question.solution, rule);
        Self {
            id: question.id.clone(),
            video: question.video.display().to_string(),
            kind: question.kind,
            answer: reward::answer_text(&completion).to_owned(),
            solution: question.solution.clone(),
            exact: accuracy(AccuracyRule::Exact),
            soft: accuracy(AccuracyRule::Soft),
            format: f64::from(u8::from(reward::has_format(&completion))),
            parsed: completion
                .split_once("<answer>")
                .is_some_and(|(_, rest)| rest.contains("</answer>")),
            truncated: finish == Finish::Length,
            tokens,
            completion,
        }
    }
}

/// A mean over questions and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval; absent when there are fewer than two clips.
    pub half_width: Option<f64>,
}

/// The constant answer that scores best on the evaluated questions: what a model gets without looking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// The answer, such as `A` or `A,B`.
    pub answer: String,
    /// Its mean score.
    pub mean: f64,
}

/// The scores of one set of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// Questions.
    pub questions: usize,
    /// Different clips among them.
    pub videos: usize,
    /// Accuracy with partial credit.
    pub soft: Mean,
    /// Accuracy without.
    pub exact: Mean,
    /// Share of completions in the demanded format.
    pub format: Mean,
    /// Completions without an `<answer>`.
    pub unparsable: usize,
    /// Completions cut at the length limit.
    pub truncated: usize,
    /// Mean length in tokens.
    pub mean_tokens: f64,
    /// The best constant answer under the soft rule.
    pub best_constant_soft: Constant,
    /// The best constant answer under the exact rule.
    pub best_constant_exact: Constant,
}

/// Scores by split: `all`, then each question kind that occurs.
pub fn splits(answered: &[Answered]) -> BTreeMap<String, Split> {
    let mut groups: BTreeMap<String, Vec<&Answered>> = BTreeMap::new();
    for one in answered {
        groups.entry("all".into()).or_default().push(one);
        if let Some(kind) = one.kind {
            groups.entry(kind.as_str().into()).or_default().push(one);
        }
    }
    groups
        .into_iter()
        .map(|(name, members)| (name, split(&members)))
        .collect()
}

fn split(members: &[&Answered]) -> Split {
    let videos: BTreeSet<&str> = members.iter().map(|one| one.video.as_str()).collect();
    let mean = |value: fn(&Answered) -> f64| {
        clustered_mean(members.iter().map(|one| (one.video.as_str(), value(one))))
    };
    let solutions: Vec<&str> = members.iter().map(|one| one.solution.as_str()).collect();
    Split {
        questions: members.len(),
        videos: videos.len(),
        soft: mean(|one| one.soft),
        exact: mean(|one| one.exact),
        format: mean(|one| one.format),
        unparsable: members.iter().filter(|one| !one.parsed).count(),
        truncated: members.iter().filter(|one| one.truncated).count(),
        mean_tokens: members.iter().map(|one| one.tokens as f64).sum::<f64>()
            / members.len() as f64,
        best_constant_soft: best_constant(&solutions, AccuracyRule::Soft),
        best_constant_exact: best_constant(&solutions, AccuracyRule::Exact),
    }
}

/// Mean and 95 % interval with a standard error clustered by clip: questions about one clip stand and fall together.
///
/// With residuals e = x − mean summed per clip, SE² = C/(C − 1) · Σ_clips (Σ e)² / n² for C clips and n questions
/// (the ratio estimator of a cluster sample; for one question per clip it is the ordinary standard error).
pub fn clustered_mean<'a>(values: impl Iterator<Item = (&'a str, f64)>) -> Mean {
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
    Mean { mean, half_width }
}

/// The constant answer with the best mean score; among equals the shortest, then the first in the alphabet.
///
/// Up to [`MAX_LETTERS`] different answer parts every subset of them is tried, beyond that the single parts and the solutions.
fn best_constant(solutions: &[&str], rule: AccuracyRule) -> Constant {
    let truths: Vec<BTreeSet<String>> = solutions
        .iter()
        .map(|solution| {
            let answer = Answer::parse(solution);
            answer.items().map(str::to_owned).collect()
        })
        .collect();
    let mut candidates: Vec<String> = candidates(&truths)
        .into_iter()
        .map(|parts| parts.into_iter().collect::<Vec<_>>().join(","))
        .collect();
    candidates.sort_by_key(String::len);
    let mut best = Constant {
        answer: String::new(),
        mean: 0.0,
    };
    for answer in candidates {
        let total: f64 = solutions
            .iter()
            .map(|solution| reward::accuracy(&answer, solution, rule))
            .sum();
        let mean = total / solutions.len() as f64;
        if mean > best.mean {
            best = Constant { answer, mean };
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
    use super::*;

    fn answered(
        id: usize,
        video: &str,
        kind: QuestionKind,
        solution: &str,
        scores: (f64, f64),
    ) -> Answered {
        Answered {
            id: format!("q{id}"),
            video: video.into(),
            kind: Some(kind),
            completion: "<think>x</think><answer>A</answer>".into(),
            answer: "A".into(),
            solution: format!("<answer>{solution}</answer>"),
            exact: scores.0,
            soft: scores.1,
            format: 1.0,
            parsed: id != 2,
            truncated: id == 3,
            tokens: 10 + id,
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
    fn splits_by_kind_and_counts() {
        use QuestionKind::{Inferential, Observational};
        let all = [
            answered(0, "a", Observational, "A", (1.0, 1.0)),
            answered(1, "a", Observational, "A,B", (0.0, 0.5)),
            answered(2, "b", Inferential, "C", (0.0, 0.0)),
            answered(3, "c", Inferential, "A", (1.0, 1.0)),
        ];
        let splits = splits(&all);
        assert_eq!(
            splits.keys().collect::<Vec<_>>(),
            ["all", "inferential", "observational"]
        );
        let every = &splits["all"];
        assert_eq!((every.questions, every.videos), (4, 3));
        assert_eq!((every.unparsable, every.truncated), (1, 1));
        assert!((every.soft.mean - 0.625).abs() < 1e-12);
        assert!((every.exact.mean - 0.5).abs() < 1e-12);
        assert!((every.mean_tokens - 11.5).abs() < 1e-12);
        assert_eq!(every.best_constant_soft.answer, "A");
        assert!((every.best_constant_soft.mean - 0.625).abs() < 1e-12);
        assert_eq!(splits["observational"].questions, 2);
        assert_eq!(splits["observational"].soft.half_width, None);
    }
}
