//! Answers: from the text that a model wrote, or that a file gives as the solution, to what is answered, by rules without
//! chance. All that reads an answer reads it here.
//!
//! | reader | what it takes for an answer |
//! |---|---|
//! | a solution ([`Answer::parse`]) | the text in the first `<answer>` tags, else all, as a set of items between commas |
//! | a benchmark's solution | an option's letter, mark and text, or text; becomes its letter |
//! | `training` ([`authors`]) | as the authors' reward: the same set of what a model wrote, every stray sign part of an item |
//! | `authors` ([`authors`]) | as the authors' `eval_bench.py`: that text itself |
//! | `official` | as the benchmark's own program |
//! | `strict` | an option in any usual spelling, and nothing that is not clearly one |
//!
//! Of the spellings of option B with B right, `training` and `authors` take only `B` for right, and a set that says it twice
//! (`B,B`) only `training`. `strict` takes `B,`, `B.`, `B。`, `Ｂ`, `- B`, `b` and `(B)` too. A solution is B as `B`, `B,` and
//! `B,B`; any other spelling there is refused or is no option's letter. A test below states all of it, reader by reader.

use crate::config::AccuracyRule;
use crate::config::Benchmark;
use crate::config::Extraction;
use official::RuleVerdict;
use option::letters;
use spelling::normalised;

pub(crate) mod authors;
pub(crate) mod official;
pub(crate) mod option;
mod parsed;
pub(crate) mod prose;
mod set;
pub(in crate::data) mod solution;
pub(in crate::data) mod spelling;
pub(crate) mod strict;

pub(crate) use parsed::AnswerForm;
pub(crate) use parsed::Expected;
pub(crate) use parsed::ParsedAnswer;
pub(crate) use parsed::ReadBy;
pub(crate) use parsed::Unreadable;
pub use set::Answer;
pub(crate) use set::answer_text;
pub(in crate::data) use set::solution_text;

/// How answers are read: the reader, and whose questions they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswerRule {
    /// The reader.
    pub(crate) extraction: Extraction,
    /// The benchmark, whose own rule `official` is.
    pub(crate) benchmark: Option<Benchmark>,
}

impl From<Extraction> for AnswerRule {
    fn from(extraction: Extraction) -> Self {
        Self {
            extraction,
            benchmark: None,
        }
    }
}

/// Reads the answer in what a model wrote.
pub(crate) fn read(rule: AnswerRule, text: &str, expected: Expected) -> ParsedAnswer {
    match rule.extraction {
        Extraction::Strict => strict::read(text, expected.form),
        Extraction::Official => read_officially(rule.benchmark, text, expected),
        Extraction::Authors => authors::read_as_evaluated(text),
        Extraction::Training => authors::read_as_trained(text),
    }
}

fn read_officially(benchmark: Option<Benchmark>, text: &str, expected: Expected) -> ParsedAnswer {
    let verdict = benchmark.map_or(RuleVerdict::NoRule, |benchmark| {
        official::read(benchmark, text, expected)
    });
    match verdict {
        RuleVerdict::Read { answer, .. } if answer.is_empty() => {
            ParsedAnswer::unread(Unreadable::NoMatch)
        }
        RuleVerdict::Read { answer, right } => ParsedAnswer {
            right: Some(right),
            ..ParsedAnswer::read(answer, ReadBy::BenchmarkRule)
        },
        RuleVerdict::Open if text.trim().is_empty() => ParsedAnswer::unread(Unreadable::Empty),
        RuleVerdict::Open => ParsedAnswer::unread(Unreadable::NoMatch),
        RuleVerdict::NoRule => strict::read(text, expected.form),
    }
}

/// How right an answer is, in 0…1. An empty one never is.
pub(crate) fn accuracy(
    rule: AnswerRule,
    answer: &str,
    solution: &str,
    form: AnswerForm,
    credit: AccuracyRule,
) -> f64 {
    let same = |equal: bool| f64::from(u8::from(equal));
    match (rule.extraction, form, credit) {
        _ if answer.is_empty() => 0.0,
        (Extraction::Authors, _, AccuracyRule::Exact) => same(answer == answer_text(solution)),
        (Extraction::Strict | Extraction::Official, AnswerForm::YesNo | AnswerForm::Words, _) => {
            same(normalised(answer) == normalised(answer_text(solution)))
        }
        _ => authors::accuracy(answer, solution, credit),
    }
}

/// The answer that most samples gave; among equally frequent ones that of the first sample. Unreadable ones do not vote.
pub(crate) fn vote(samples: &[ParsedAnswer]) -> Option<ParsedAnswer> {
    let key = |one: &ParsedAnswer| Answer::parse(&one.answer);
    let readable = || samples.iter().filter(|one| !one.answer.is_empty());
    let mut best: Option<(usize, &ParsedAnswer)> = None;
    for one in readable() {
        let votes = readable().filter(|other| key(other) == key(one)).count();
        if best.is_none_or(|(most, _)| votes > most) {
            best = Some((votes, one));
        }
    }
    best.map(|(_, one)| one).or(samples.first()).cloned()
}

/// For each option of an answered question, whether it was rightly taken or rightly left. Without an answer none was.
pub(crate) fn per_option(answer: &str, solution: &str, options: usize) -> Vec<bool> {
    let (answer, truth) = (Answer::parse(answer), Answer::parse(solution));
    let has = |set: &Answer, letter: char| set.contains(&letter.to_string());
    letters()
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
            let form = AnswerForm::of(&[], solution);
            let one = authors::read_as_evaluated(text);
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

    /// How every reader takes a spelling: whether it is right by the benchmark's own rules, and by the others its set.
    struct Spelling {
        text: &'static str,
        /// As a question file's solution.
        solution: &'static str,
        /// As the solution in a benchmark's record with the options red, blue, green.
        record: Option<&'static str>,
        /// Read by the strict rule; empty where it is no answer.
        strict: &'static str,
        /// What the training reward gives it.
        training: f64,
        /// What the authors' evaluation gives it.
        authors: f64,
        /// What TempCompass, MVBench, Video-MME and Video-Holmes give it; 0 also where the rule leaves it open.
        official: [u8; 4],
    }

    const fn spelling(
        text: &'static str,
        solution: &'static str,
        record: Option<&'static str>,
        strict: &'static str,
        (training, authors): (f64, f64),
        official: [u8; 4],
    ) -> Spelling {
        Spelling {
            text,
            solution,
            record,
            strict,
            training,
            authors,
            official,
        }
    }

    /// The right answer is B.
    const ONE_RIGHT: [Spelling; 22] = [
        spelling("B", "B", Some("B"), "B", (1.0, 1.0), [1, 1, 1, 1]),
        spelling(" B ", "B", Some("B"), "B", (1.0, 1.0), [1, 1, 1, 1]),
        spelling("B,", "B", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling(",B", "B", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("B.", "B.", Some("B"), "B", (0.0, 0.0), [1, 1, 1, 1]),
        spelling("B。", "B。", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("B!", "B!", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("Ｂ", "Ｂ", None, "B", (0.0, 0.0), [0, 0, 0, 0]),
        spelling("ｂ", "ｂ", None, "B", (0.0, 0.0), [0, 0, 0, 0]),
        spelling("b", "b", None, "B", (0.0, 0.0), [0, 1, 0, 0]),
        spelling("- B", "-B", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("* B", "*B", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("(B)", "(B)", Some("B"), "B", (0.0, 0.0), [0, 1, 1, 1]),
        spelling("（B）", "（B）", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("**B**", "**B**", None, "B", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("B,B", "B", None, "B", (1.0, 0.0), [0, 0, 1, 1]),
        spelling(
            "B. blue",
            "B.blue",
            Some("B"),
            "B",
            (0.0, 0.0),
            [1, 1, 1, 1],
        ),
        spelling("blue", "blue", Some("B"), "B", (0.0, 0.0), [0, 0, 0, 0]),
        spelling("-B", "-B", None, "", (0.0, 0.0), [0, 0, 1, 1]),
        spelling("A,B", "A,B", None, "A,B", (0.0, 0.0), [0, 0, 0, 0]),
        spelling("E", "E", None, "", (0.0, 0.0), [0, 0, 0, 0]),
        spelling("", "", None, "", (0.0, 0.0), [0, 0, 0, 0]),
    ];

    /// The right answers are A and C. The benchmarks' own rules know questions with one right option only.
    const TWO_RIGHT: [Spelling; 9] = [
        spelling("A,C", "A,C", None, "A,C", (1.0, 1.0), [0; 4]),
        spelling("C, A", "A,C", None, "A,C", (1.0, 0.0), [0; 4]),
        spelling("A,A,C", "A,C", None, "A,C", (1.0, 0.0), [0; 4]),
        spelling("A,", "A", None, "A", (0.0, 0.0), [0; 4]),
        spelling("A", "A", Some("A"), "A", (0.5, 0.0), [0; 4]),
        spelling("A，C", "A，C", None, "A,C", (0.0, 0.0), [0; 4]),
        spelling("A and C", "AandC", None, "A,C", (0.0, 0.0), [0; 4]),
        spelling("- A\n- C", "-A-C", None, "A,C", (0.0, 0.0), [0; 4]),
        spelling("AC", "AC", None, "", (0.0, 0.0), [0; 4]),
    ];

    const OFFICIAL: [Benchmark; 4] = [
        Benchmark::Tempcompass,
        Benchmark::Mvbench,
        Benchmark::Videomme,
        Benchmark::VideoHolmes,
    ];

    #[test]
    #[expect(clippy::float_cmp, reason = "exact values are meant")]
    fn every_reader_takes_every_spelling_as_stated() {
        let options = ["red", "blue", "green"].map(String::from);
        let question = "Which?\nA. red\nB. blue\nC. green";
        for (truth, table) in [("B", &ONE_RIGHT[..]), ("A,C", &TWO_RIGHT[..])] {
            let expected = Expected {
                question,
                form: AnswerForm::of(&options, truth),
                solution: truth,
            };
            for row in table {
                let Spelling { text, .. } = *row;
                let read_by = |rule: AnswerRule| read(rule, text, expected);
                let scored = |rule: AnswerRule, credit| {
                    let one = read_by(rule);
                    let by_text = || accuracy(rule, &one.answer, truth, expected.form, credit);
                    one.right
                        .map_or_else(by_text, |right| f64::from(u8::from(right)))
                };
                assert_eq!(Answer::parse(text).to_string(), row.solution, "{text:?}");
                let record = option::letter_of(text, &options).ok();
                assert_eq!(record.as_deref(), row.record, "{text:?}");
                let strict = read_by(Extraction::Strict.into());
                assert_eq!(strict.answer, row.strict, "{text:?}");
                let training = scored(Extraction::Training.into(), AccuracyRule::Soft);
                assert_eq!(training, row.training, "{text:?}");
                let rewarded = authors::accuracy(text, truth, AccuracyRule::Soft);
                assert_eq!(rewarded, row.training, "{text:?}");
                let authors = scored(Extraction::Authors.into(), AccuracyRule::Exact);
                assert_eq!(authors, row.authors, "{text:?}");
                if truth != "B" {
                    continue;
                }
                let official = OFFICIAL.map(|benchmark| {
                    let rule = AnswerRule {
                        extraction: Extraction::Official,
                        benchmark: Some(benchmark),
                    };
                    u8::from(scored(rule, AccuracyRule::Exact) > 0.5)
                });
                assert_eq!(official, row.official, "{text:?}");
            }
        }
    }

    #[test]
    fn the_majority_counts_and_the_first_of_equals() {
        let one = |answer: &str| match answer {
            "" => ParsedAnswer::unread(Unreadable::Empty),
            answer => ParsedAnswer::read(answer.into(), ReadBy::Tags),
        };
        let winner = |answers: &[&str]| {
            let all: Vec<ParsedAnswer> = answers.iter().map(|answer| one(answer)).collect();
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
