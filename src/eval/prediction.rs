//! One answered question: what was asked, what the model wrote, what that is worth.

use crate::config::AccuracyRule;
use crate::config::Extraction;
use crate::config::QuestionKind;
use crate::data::Answer;
use crate::data::JudgeTask;
use crate::data::Question;
use crate::data::answer;
use crate::data::answer::AnswerForm;
use crate::data::answer::AnswerRule;
use crate::data::answer::Expected;
use crate::data::answer::ParsedAnswer;
use crate::data::answer::ReadBy;
use crate::data::answer::Unreadable;
use crate::data::answer::answer_text;
use crate::data::answer::official;
use crate::data::answer::option::letter_index;
use crate::rl::reward;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;

/// One completion of a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// What the model wrote, without special tokens, behind the words that a protocol begins the answer with.
    pub(crate) completion: String,
    /// It ran into the length limit.
    pub(crate) truncated: bool,
    /// Tokens generated.
    pub(crate) tokens: usize,
}

/// What a model wrote to the questions of a batch; `None` where the clip is to be skipped.
pub(crate) type BatchReplies = Vec<Option<Vec<Sample>>>;

/// One answered question with its scores: a line of `outputs.jsonl`. It holds all that scoring needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prediction {
    /// The question's id.
    pub(crate) id: String,
    /// Its clip as named in the question file; questions about one clip are not independent.
    pub(crate) video: String,
    /// The paper's split, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<QuestionKind>,
    /// What else it is sorted under: name and value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) splits: BTreeMap<String, String>,
    /// The question with its options, without the words of a protocol.
    #[serde(default)]
    pub(crate) question: String,
    /// The texts of its options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) options: Vec<String>,
    /// The right answer, as in the question file.
    pub(crate) solution: String,
    /// What the model wrote, `eval.samples` times.
    pub(crate) samples: Vec<Sample>,
    /// What counts as its answer; empty when none could be read.
    #[serde(default)]
    pub(crate) answer: String,
    /// 1 when the answer is the truth, else 0.
    #[serde(default)]
    pub(crate) exact: f64,
    /// Partial credit for a non-empty subset of the truth.
    #[serde(default)]
    pub(crate) soft: f64,
    /// Share of the completions that have the training format.
    #[serde(default)]
    pub(crate) format: f64,
    /// Why no answer could be read as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unreadable: Option<Unreadable>,
    /// Where the answer was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read_by: Option<ReadBy>,
    /// What a judge is asked about the answer, where one may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) judge: Option<JudgeTask>,
    /// What a judge is for.
    #[serde(skip)]
    pub(crate) judge_need: JudgeNeed,
    /// What a judge has said; its replies are in a file of their own.
    #[serde(skip)]
    pub(crate) verdict: Option<JudgeVerdict>,
}

/// What a judge says of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JudgeVerdict {
    Right,
    Wrong,
    /// The reply says neither.
    Unread,
}

/// What a judge has to say about an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum JudgeNeed {
    /// Nothing: a rule decides.
    #[default]
    None,
    /// It may take the place of a rule.
    Optional,
    /// Only a judge can say whether it is right.
    Needed,
}

impl Prediction {
    /// What the model wrote to `question`, scored by `rule`.
    pub(crate) fn new(question: &Question, samples: Vec<Sample>, rule: AnswerRule) -> Self {
        let splits = question.splits();
        let mut one = Self {
            id: question.id.clone(),
            video: question.video.display().to_string(),
            kind: question.kind,
            splits: splits
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            question: question.text(),
            options: question.choices(),
            solution: question.solution.clone(),
            samples,
            answer: String::new(),
            exact: 0.0,
            soft: 0.0,
            format: 0.0,
            unreadable: None,
            read_by: None,
            judge: question.judge.clone(),
            judge_need: JudgeNeed::None,
            verdict: None,
        };
        one.score(rule);
        one
    }

    /// Reads the samples anew and replaces the scores. A caption is whatever is said, and not right before a judge says so.
    pub(crate) fn score(&mut self, rule: AnswerRule) {
        self.verdict = None;
        let is_caption = self.is_caption();
        let (rule, form) = if is_caption {
            (Extraction::Strict.into(), AnswerForm::Words)
        } else {
            (rule, AnswerForm::of(&self.options, &self.solution))
        };
        let expected = Expected {
            question: &self.question,
            form,
            solution: &self.solution,
        };
        let read: Vec<ParsedAnswer> = self
            .samples
            .iter()
            .map(|sample| answer::read(rule, &sample.completion, expected))
            .collect();
        let chosen = answer::vote(&read).unwrap_or_else(|| ParsedAnswer::unread(Unreadable::Empty));
        let accuracy = |credit| match chosen.right {
            Some(right) => f64::from(u8::from(right)),
            None => answer::accuracy(rule, &chosen.answer, &self.solution, form, credit),
        };
        (self.exact, self.soft) = if is_caption {
            (0.0, 0.0)
        } else {
            (accuracy(AccuracyRule::Exact), accuracy(AccuracyRule::Soft))
        };
        self.judge_need = if is_caption {
            if chosen.answer.is_empty() {
                JudgeNeed::None
            } else {
                JudgeNeed::Needed
            }
        } else if rule.extraction != Extraction::Official {
            match self.judge {
                Some(_) => JudgeNeed::Optional,
                None => JudgeNeed::None,
            }
        } else if self.exact < 0.5 && is_left_to_a_judge(rule, &chosen, form) && self.has_words() {
            JudgeNeed::Needed
        } else {
            JudgeNeed::None
        };
        self.answer = chosen.answer;
        self.unreadable = chosen.unreadable;
        self.read_by = Some(chosen.read_by);
        let formed = |sample: &&Sample| reward::has_format(&sample.completion);
        self.format =
            self.samples.iter().filter(formed).count() as f64 / self.samples.len().max(1) as f64;
    }

    /// Replaces the scores by a judge's.
    pub(crate) fn set_verdict(&mut self, verdict: JudgeVerdict) {
        let right = f64::from(u8::from(verdict == JudgeVerdict::Right));
        (self.exact, self.soft) = (right, right);
        self.verdict = Some(verdict);
    }

    /// Whether nobody can say if it is right: what waits for a judge, or an answer whose judge said nothing clear.
    pub(crate) fn is_unjudged(&self) -> bool {
        match self.verdict {
            None => self.judge_need == JudgeNeed::Needed,
            Some(verdict) => verdict == JudgeVerdict::Unread,
        }
    }

    /// Whether a rule or a judge has read it and says if it is right.
    pub(crate) fn is_decided(&self) -> bool {
        match self.verdict {
            None => self.judge_need != JudgeNeed::Needed && !self.answer.is_empty(),
            Some(verdict) => verdict != JudgeVerdict::Unread,
        }
    }

    /// Who has read it.
    pub(crate) fn reader(&self) -> ReadBy {
        match self.verdict {
            Some(JudgeVerdict::Right | JudgeVerdict::Wrong) => ReadBy::Judge,
            Some(JudgeVerdict::Unread) => ReadBy::Nobody,
            None if self.judge_need == JudgeNeed::Needed => ReadBy::Nobody,
            None => self.read_by.unwrap_or(ReadBy::Nobody),
        }
    }

    /// What a judge is asked about it, if it is for one: as the benchmark says, or whether it means the right answer where the
    /// benchmark's own rule leaves that open.
    pub(crate) fn judge_task(&self) -> Option<JudgeTask> {
        if self.judge_need == JudgeNeed::None {
            return None;
        }
        let left = || {
            let question = Some(&self.question).filter(|question| !question.is_empty())?;
            Some(JudgeTask::Open(question.clone()))
        };
        self.judge.clone().or_else(left)
    }

    /// What a judge reads: the answer, or all that is written where no rule finds one.
    pub(crate) fn judged_text(&self) -> &str {
        if !self.answer.is_empty() || self.judge_need != JudgeNeed::Needed {
            return &self.answer;
        }
        self.samples
            .first()
            .map_or("", |sample| sample.completion.trim())
    }

    /// A caption: only a judge can say whether it is right.
    pub(super) fn is_caption(&self) -> bool {
        matches!(self.judge, Some(JudgeTask::Caption(_)))
    }

    /// The right answer without its tags.
    pub(crate) fn truth(&self) -> String {
        answer_text(&self.solution).to_owned()
    }

    /// The right answer in words: `B. rising`, as the question has it.
    pub(super) fn truth_in_words(&self) -> String {
        let truth = self.truth();
        let option = letter_index(&truth).and_then(|index| self.options.get(index));
        match option {
            Some(text) => format!("{truth}. {text}"),
            None => truth,
        }
    }

    /// Whether several options are right.
    pub(super) fn has_several_right(&self) -> bool {
        Answer::parse(&self.solution).len() > 1
    }

    fn has_words(&self) -> bool {
        self.samples
            .iter()
            .any(|sample| !sample.completion.trim().is_empty())
    }
}

/// Whether the benchmark has a language model read what its own rule cannot, or words that are not the right ones.
fn is_left_to_a_judge(rule: AnswerRule, chosen: &ParsedAnswer, form: AnswerForm) -> bool {
    let has_judge = rule.benchmark.is_some_and(official::has_judge);
    let is_open = chosen.answer.is_empty() || form == AnswerForm::Words;
    rule.extraction == Extraction::Official && has_judge && is_open
}
