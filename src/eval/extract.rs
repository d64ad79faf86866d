//! What a model answered: from the text it wrote to option letters, by rules without chance.
//!
//! `strict`, the default, is in [`super::strict`]. `authors` is what `eval_bench.py` does: the trimmed text of the first tags,
//! or all that is written when there is none or it is empty, must be the solution's text. `training` is the reward's rule
//! ([`crate::rl::reward`]). `official` is the benchmark's own ([`super::official`]).

use super::official;
use super::official::Reading;
use super::strict;
use super::strict::letter_index;
use super::strict::normalised;
use super::strict::option_count;
use crate::config::AccuracyRule;
use crate::config::Benchmark;
use crate::config::Extraction;
use crate::data::Answer;
use crate::rl::reward;
use serde::Deserialize;
use serde::Serialize;

const OPEN: &str = "<answer>";
const CLOSE: &str = "</answer>";

/// Why no answer could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreadable {
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
pub enum ReadBy {
    /// Between the tags of an answer.
    Tags,
    /// All that is written, or a last line that announces an answer.
    Whole,
    /// The one option that a sentence names.
    Prose,
    /// The benchmark's own rule.
    BenchmarkRule,
    /// A judge.
    Judge,
    /// Nobody: there is no readable answer.
    Nobody,
}

/// How answers are read: the rule, and whose questions they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The rule.
    pub extraction: Extraction,
    /// The benchmark, whose own rule `official` is.
    pub benchmark: Option<Benchmark>,
}

impl From<Extraction> for Rule {
    fn from(extraction: Extraction) -> Self {
        Self {
            extraction,
            benchmark: None,
        }
    }
}

/// What an answer is read against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The question with its options, without the words of a protocol.
    pub question: &'a str,
    /// What kind of answer it wants.
    pub form: Form<'a>,
    /// The right answer, with tags or without.
    pub solution: &'a str,
}

/// What kind of answer a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Letters of these options; of any, when their texts are not known (empty).
    Options(&'a [String]),
    /// `yes` or `no`.
    YesNo,
    /// Words or a number.
    Words,
}

impl<'a> Form<'a> {
    /// The form of a question's answer, from its options and its solution.
    pub fn of(options: &'a [String], solution: &str) -> Self {
        let truth = Answer::parse(solution);
        let count = option_count(options);
        let is_letter = |item: &str| letter_index(item).is_some_and(|index| index < count);
        if !truth.is_empty() && truth.items().all(is_letter) {
            return Self::Options(options);
        }
        match normalised(reward::answer_text(solution)).as_str() {
            "yes" | "no" => Self::YesNo,
            _ => Self::Words,
        }
    }
}

/// What was read: the answer, empty when there is none, and why it is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extracted {
    /// The answer in the solution's spelling: `A,C`.
    pub answer: String,
    /// What was wrong with the text.
    pub unreadable: Option<Unreadable>,
    /// Where it was found.
    pub read_by: ReadBy,
    /// Whether a rule that compares as it reads takes it for right.
    pub right: Option<bool>,
}

impl Extracted {
    fn read(answer: String, read_by: ReadBy) -> Self {
        Self {
            answer,
            unreadable: None,
            read_by,
            right: None,
        }
    }

    pub(super) fn unread(problem: Unreadable) -> Self {
        Self {
            answer: String::new(),
            unreadable: Some(problem),
            read_by: ReadBy::Nobody,
            right: None,
        }
    }
}

/// Reads the answer in what a model wrote.
pub fn extract(rule: Rule, text: &str, asked: Asked) -> Extracted {
    match rule.extraction {
        Extraction::Strict => read_strictly(text, asked.form),
        Extraction::Official => read_officially(rule.benchmark, text, asked),
        Extraction::Authors | Extraction::Training => read_tags(rule.extraction, text),
    }
}

/// By the strict rule.
pub(super) fn read_strictly(text: &str, form: Form) -> Extracted {
    match strict::read_text(text, form) {
        Ok((answer, read_by)) => Extracted::read(answer, read_by),
        Err(problem) => Extracted::unread(problem),
    }
}

fn read_officially(benchmark: Option<Benchmark>, text: &str, asked: Asked) -> Extracted {
    let truth = reward::answer_text(asked.solution).trim();
    let reading = benchmark.map_or(Reading::NoRule, |benchmark| {
        official::read(benchmark, text, asked.question, asked.form, truth)
    });
    match reading {
        Reading::Read { answer, .. } if answer.is_empty() => Extracted::unread(Unreadable::NoMatch),
        Reading::Read { answer, right } => Extracted {
            right: Some(right),
            ..Extracted::read(answer, ReadBy::BenchmarkRule)
        },
        Reading::Left if text.trim().is_empty() => Extracted::unread(Unreadable::Empty),
        Reading::Left => Extracted::unread(Unreadable::NoMatch),
        Reading::NoRule => read_strictly(text, asked.form),
    }
}

/// The text of the first tags, else all.
fn read_tags(rule: Extraction, text: &str) -> Extracted {
    let tagged = text
        .split_once(OPEN)
        .and_then(|(_, rest)| Some(rest.split_once(CLOSE)?.0.trim()));
    let (answer, read_by) = match tagged {
        Some("") if rule == Extraction::Authors => (text.trim(), ReadBy::Whole),
        Some(inside) => (inside, ReadBy::Tags),
        None => (text.trim(), ReadBy::Whole),
    };
    Extracted {
        unreadable: match tagged {
            None => Some(Unreadable::NoTags),
            Some("") => Some(Unreadable::Empty),
            Some(_) => None,
        },
        ..Extracted::read(answer.to_owned(), read_by)
    }
}

/// How right an answer is, in 0…1. An empty one never is.
pub fn accuracy(rule: Rule, answer: &str, solution: &str, form: Form, credit: AccuracyRule) -> f64 {
    let same = |equal: bool| f64::from(u8::from(equal));
    match (rule.extraction, form, credit) {
        _ if answer.is_empty() => 0.0,
        (Extraction::Authors, _, AccuracyRule::Exact) => {
            same(answer == reward::answer_text(solution))
        }
        (Extraction::Strict | Extraction::Official, Form::YesNo | Form::Words, _) => {
            same(normalised(answer) == normalised(reward::answer_text(solution)))
        }
        _ => reward::accuracy(answer, solution, credit),
    }
}

/// The answer that most samples gave; among equally frequent ones that of the first sample. Unreadable ones do not vote.
pub fn vote(samples: &[Extracted]) -> Option<Extracted> {
    let key = |one: &Extracted| Answer::parse(&one.answer);
    let readable = || samples.iter().filter(|one| !one.answer.is_empty());
    let mut best: Option<(usize, &Extracted)> = None;
    for one in readable() {
        let votes = readable().filter(|other| key(other) == key(one)).count();
        if best.is_none_or(|(most, _)| votes > most) {
            best = Some((votes, one));
        }
    }
    best.map(|(_, one)| one).or(samples.first()).cloned()
}

/// For each option of an answered question, whether it was rightly taken or rightly left. Without an answer none was.
pub fn per_option(answer: &str, solution: &str, options: usize) -> Vec<bool> {
    let (answer, truth) = (Answer::parse(answer), Answer::parse(solution));
    let has = |set: &Answer, letter: char| set.items().any(|item| item == letter.to_string());
    ('A'..='Z')
        .take(options)
        .map(|letter| !answer.is_empty() && has(&answer, letter) == has(&truth, letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_rule_compares_texts() {
        let right = |text: &str, solution: &str| {
            let form = Form::of(&[], solution);
            let one = read_tags(Extraction::Authors, text);
            accuracy(
                Extraction::Authors.into(),
                &one.answer,
                solution,
                form,
                AccuracyRule::Exact,
            ) > 0.5
        };
        let truth = "<answer>A,C</answer>";
        assert!(right("<answer> A,C </answer>", truth));
        assert!(!right("<answer>C,A</answer>", truth));
        assert!(!right("<answer>A, C</answer>", truth));
        assert!(right("<answer>A,C</answer><answer>B</answer>", truth));
        assert!(right("A,C", truth));
        assert!(!right("<answer></answer>", truth));
        assert!(!right("", ""));
    }

    #[test]
    fn the_majority_counts_and_the_first_of_equals() {
        let one = |answer: &str| match answer {
            "" => Extracted::unread(Unreadable::Empty),
            answer => Extracted::read(answer.into(), ReadBy::Tags),
        };
        let winner = |answers: &[&str]| {
            let all: Vec<Extracted> = answers.iter().map(|answer| one(answer)).collect();
            vote(&all).unwrap().answer
        };
        assert_eq!(winner(&["B", "A", "A"]), "A");
        assert_eq!(winner(&["B", "A", "A", "B"]), "B");
        assert_eq!(winner(&["", "", "C"]), "C");
        assert_eq!(winner(&["A,C", "B", "C,A"]), "A,C");
        assert_eq!(winner(&["", ""]), "");
        assert_eq!(vote(&[]), None);
    }

    #[test]
    fn options_are_right_when_taken_or_left_rightly() {
        assert_eq!(
            per_option("A,B", "<answer>A,C</answer>", 4),
            [true, false, false, true]
        );
        assert_eq!(per_option("", "<answer>A</answer>", 2), [false, false]);
    }
}
