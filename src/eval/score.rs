//! From answered questions to numbers: means with confidence intervals, by every split, beside the best constant answer.

use super::extract;
use super::extract::Extracted;
use super::extract::Form;
use super::extract::Unreadable;
use super::judge::Verdict;
use crate::config::AccuracyRule;
use crate::config::Extraction;
use crate::config::QuestionKind;
use crate::data::Answer;
use crate::data::JudgeTask;
use crate::data::Question;
use crate::rl::reward;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// How many standard errors a 95 % confidence interval reaches to each side.
const NORMAL_95: f64 = 1.96;

/// Every subset of the letters in use is tried as a constant answer up to this many letters (2⁸ − 1 answers).
const MAX_LETTERS: usize = 8;

/// One completion of a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What the model wrote, without special tokens.
    pub completion: String,
    /// It ran into the length limit.
    pub truncated: bool,
    /// Tokens generated.
    pub tokens: usize,
}

/// One answered question with its scores: a line of `outputs.jsonl`. It holds all that scoring needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The question's id.
    pub id: String,
    /// Its clip as named in the question file; questions about one clip are not independent.
    pub video: String,
    /// The paper's split, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<QuestionKind>,
    /// What else it is sorted under: name and value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub splits: BTreeMap<String, String>,
    /// The texts of its options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The right answer, as in the question file.
    pub solution: String,
    /// What the model wrote, `eval.samples` times.
    pub samples: Vec<Sample>,
    /// What counts as its answer; empty when none could be read.
    #[serde(default)]
    pub answer: String,
    /// 1 when the answer is the truth, else 0.
    #[serde(default)]
    pub exact: f64,
    /// Partial credit for a non-empty subset of the truth.
    #[serde(default)]
    pub soft: f64,
    /// Share of the completions that have the training format.
    #[serde(default)]
    pub format: f64,
    /// Why no answer could be read as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<Unreadable>,
    /// What a judge is asked about the answer, where one may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeTask>,
    /// What a judge has said; its replies are in a file of their own.
    #[serde(skip)]
    pub verdict: Option<Verdict>,
}

impl Answered {
    /// What the model wrote to `question`, scored by `rule`.
    pub fn new(question: &Question, samples: Vec<Sample>, rule: Extraction) -> Self {
        let splits = question.splits();
        let mut one = Self {
            id: question.id.clone(),
            video: question.video.display().to_string(),
            kind: question.kind,
            splits: splits
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            options: question.choices(),
            solution: question.solution.clone(),
            samples,
            answer: String::new(),
            exact: 0.0,
            soft: 0.0,
            format: 0.0,
            unreadable: None,
            judge: question.judge_task(),
            verdict: None,
        };
        one.score(rule);
        one
    }

    /// Reads the samples anew and replaces the scores. A caption is whatever is said, and not right before a judge says so.
    pub fn score(&mut self, rule: Extraction) {
        self.verdict = None;
        let is_caption = self.is_caption();
        let (rule, form) = if is_caption {
            (Extraction::Strict, Form::Words)
        } else {
            (rule, Form::of(&self.options, &self.solution))
        };
        let read: Vec<Extracted> = self
            .samples
            .iter()
            .map(|sample| extract::extract(rule, &sample.completion, form))
            .collect();
        let (answer, unreadable) = match extract::vote(&read) {
            Some(chosen) => (chosen.answer, chosen.unreadable),
            None => (String::new(), Some(Unreadable::Empty)),
        };
        let accuracy = |credit| extract::accuracy(rule, &answer, &self.solution, form, credit);
        if is_caption {
            (self.exact, self.soft) = (0.0, 0.0);
        } else {
            self.exact = accuracy(AccuracyRule::Exact);
            self.soft = accuracy(AccuracyRule::Soft);
        }
        self.answer = answer;
        self.unreadable = unreadable;
        let formed = |sample: &&Sample| reward::has_format(&sample.completion);
        self.format =
            self.samples.iter().filter(formed).count() as f64 / self.samples.len().max(1) as f64;
    }

    /// Replaces the scores by a judge's.
    pub fn set_verdict(&mut self, verdict: Verdict) {
        let right = f64::from(u8::from(verdict == Verdict::Right));
        (self.exact, self.soft) = (right, right);
        self.verdict = Some(verdict);
    }

    /// Whether nobody can say if it is right: a caption before it is judged, or an answer whose judge said nothing clear.
    pub fn is_unjudged(&self) -> bool {
        match self.verdict {
            None => self.is_caption() && !self.answer.is_empty(),
            Some(verdict) => verdict == Verdict::Unread,
        }
    }

    fn is_caption(&self) -> bool {
        matches!(self.judge, Some(JudgeTask::Caption(_)))
    }

    /// The right answer without its tags.
    pub fn truth(&self) -> String {
        reward::answer_text(&self.solution).trim().to_owned()
    }

    /// Whether several options are right.
    fn has_several_right(&self) -> bool {
        Answer::parse(&self.solution).len() > 1
    }
}

/// A mean over questions and its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean; not a number (`null`) where no answer is judged.
    #[serde(deserialize_with = "number_or_null")]
    pub mean: f64,
    /// Half the width of the interval; absent when there are fewer than two clips.
    pub half_width: Option<f64>,
}

impl Mean {
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
    /// Accuracy over single options, where questions have several right ones (CLEVRER's per-option measure).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_option: Option<Mean>,
    /// Questions without a readable answer.
    pub unparsable: usize,
    /// Why, and how many each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unparsable_reasons: BTreeMap<Unreadable, usize>,
    /// Answers of which no judge has said whether they are right: captions before judging, and unclear replies. They never
    /// count as right; where none is judged there is no accuracy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unjudged: usize,
    /// Completions cut at the length limit.
    pub truncated: usize,
    /// Mean length in tokens.
    pub mean_tokens: f64,
    /// The best constant answer under the soft rule.
    pub best_constant_soft: Constant,
    /// The best constant answer under the exact rule.
    pub best_constant_exact: Constant,
}

/// Scores by split: `all`, each question kind that occurs, and `name/value` for what the source sorts questions under.
pub fn splits(answered: &[Answered]) -> BTreeMap<String, Split> {
    group(answered)
        .into_iter()
        .map(|(name, members)| (name, split(&members)))
        .collect()
}

/// The members of each split.
pub(super) fn group(answered: &[Answered]) -> BTreeMap<String, Vec<&Answered>> {
    let mut groups: BTreeMap<String, Vec<&Answered>> = BTreeMap::new();
    for one in answered {
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

fn split(members: &[&Answered]) -> Split {
    let videos: BTreeSet<&str> = members.iter().map(|one| one.video.as_str()).collect();
    let mean = |value: fn(&Answered) -> f64| {
        clustered_mean(members.iter().map(|one| (one.video.as_str(), value(one))))
    };
    let unjudged = members.iter().filter(|one| one.is_unjudged()).count();
    let unknown = is_unknown(members.iter().copied());
    let accuracy = |value| if unknown { Mean::UNKNOWN } else { mean(value) };
    let mut reasons = BTreeMap::new();
    for reason in members.iter().filter_map(|one| one.unreadable) {
        *reasons.entry(reason).or_default() += 1;
    }
    let samples = || members.iter().flat_map(|one| &one.samples);
    // No constant answer gets what a judge gives.
    let by_rule = members
        .iter()
        .filter(|one| one.verdict.is_none() && !one.is_caption());
    let solutions: Vec<&str> = by_rule.map(|one| one.solution.as_str()).collect();
    Split {
        questions: members.len(),
        videos: videos.len(),
        soft: accuracy(|one| one.soft),
        exact: accuracy(|one| one.exact),
        format: mean(|one| one.format),
        per_option: per_option(members),
        unparsable: reasons.values().sum(),
        unparsable_reasons: reasons,
        unjudged,
        truncated: samples().filter(|sample| sample.truncated).count(),
        mean_tokens: samples().map(|sample| sample.tokens as f64).sum::<f64>()
            / samples().count().max(1) as f64,
        best_constant_soft: best_constant(&solutions, AccuracyRule::Soft),
        best_constant_exact: best_constant(&solutions, AccuracyRule::Exact),
    }
}

/// Whether answers wait for a judge who has not said anything of any: there is no accuracy then.
pub(super) fn is_unknown<'a>(members: impl IntoIterator<Item = &'a Answered>) -> bool {
    let (mut waiting, mut judged) = (false, false);
    for one in members {
        waiting |= one.is_unjudged();
        judged |= matches!(one.verdict, Some(Verdict::Right | Verdict::Wrong));
    }
    waiting && !judged
}

fn per_option(members: &[&Answered]) -> Option<Mean> {
    if !members.iter().any(|one| one.has_several_right()) {
        return None;
    }
    let values: Vec<(&str, f64)> = members
        .iter()
        .flat_map(|one| {
            extract::per_option(&one.answer, &one.solution, one.options.len())
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
    let mut best = Constant {
        answer: String::new(),
        mean: 0.0,
    };
    for answer in candidates {
        let total: f64 = counts
            .iter()
            .map(|(solution, count)| *count as f64 * reward::accuracy(&answer, solution, rule))
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
            judge: None,
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
        let mut one = Answered::new(&question, samples.to_vec(), Extraction::Strict);
        assert_eq!((one.answer.as_str(), one.exact), ("B", 1.0));
        one.score(Extraction::Authors);
        assert_eq!((one.answer.as_str(), one.exact), ("A", 0.0));
        one.samples.clear();
        one.score(Extraction::Strict);
        assert_eq!((one.exact, one.unreadable), (0.0, Some(Unreadable::Empty)));
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
