//! What a rule reads, and what it reads against.

use super::option::letter_index;
use super::set::Answer;
use super::set::answer_text;
use super::spelling::normalised;
use serde::Deserialize;
use serde::Serialize;

/// Why no answer could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unreadable {
    /// Nothing is written where the answer belongs.
    Empty,
    /// There are no tags.
    NoTags,
    /// The tag is opened and never closed.
    Unclosed,
    /// The thinking does not end.
    Thinking,
    /// Two answers that differ.
    Contradiction,
    /// It is none of the options.
    NoOption,
    /// The benchmark's own rule finds no answer in it.
    NoMatch,
}

/// Where an answer was found, or who says whether it is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadBy {
    /// Between the tags of an answer.
    Tags,
    /// All that is written, or a last line that announces an answer.
    Whole,
    /// The one option that a sentence names.
    Prose,
    /// The benchmark's own rule.
    BenchmarkRule,
    Judge,
    /// Nobody: there is no readable answer.
    Nobody,
}

/// What an answer is read against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected<'a> {
    /// The question with its options, without the words of a protocol.
    pub(crate) question: &'a str,
    /// What kind of answer it wants.
    pub(crate) form: AnswerForm<'a>,
    /// The right answer, with tags or without.
    pub(crate) solution: &'a str,
}

/// What kind of answer a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerForm<'a> {
    /// Letters of these options; of any, when their texts are not known (empty).
    Options(&'a [String]),
    /// `yes` or `no`.
    YesNo,
    /// Words or a number.
    Words,
}

impl<'a> AnswerForm<'a> {
    /// The form of a question's answer, from its options and its solution.
    pub(crate) fn of(options: &'a [String], solution: &str) -> Self {
        let truth = Answer::parse(solution);
        let count = option_count(options);
        let is_letter = |item: &str| letter_index(item).is_some_and(|index| index < count);
        if !truth.is_empty() && truth.items().all(is_letter) {
            return Self::Options(options);
        }
        match normalised(answer_text(solution)).as_str() {
            "yes" | "no" => Self::YesNo,
            _ => Self::Words,
        }
    }
}

/// How many options there can be: as many as are known, or as there are letters.
pub(super) fn option_count(options: &[String]) -> usize {
    match options.len() {
        0 => 26,
        count => count,
    }
}

/// What was read: the answer, empty when there is none, and why it is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParsedAnswer {
    /// The answer in the solution's spelling: `A,C`.
    pub(crate) answer: String,
    /// What was wrong with the text.
    pub(crate) unreadable: Option<Unreadable>,
    /// Where it was found.
    pub(crate) read_by: ReadBy,
    /// Whether a rule that compares as it reads takes it for right.
    pub(crate) right: Option<bool>,
}

impl ParsedAnswer {
    pub(super) fn read(answer: String, read_by: ReadBy) -> Self {
        Self {
            answer,
            unreadable: None,
            read_by,
            right: None,
        }
    }

    /// No answer, and why.
    pub(crate) fn unread(problem: Unreadable) -> Self {
        Self {
            answer: String::new(),
            unreadable: Some(problem),
            read_by: ReadBy::Nobody,
            right: None,
        }
    }
}
