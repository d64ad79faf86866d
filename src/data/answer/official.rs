//! How the benchmarks' own evaluators read an answer.
//!
//! | benchmark | rule | what it leaves open |
//! |---|---|---|
//! | TempCompass | `eval_multi-choice.py`, `eval_yes_no.py`, `eval_caption_matching.py` | goes to a judge |
//! | MVBench | `check_ans` of `mvbench.ipynb`, on the first line | is wrong |
//! | Video-MME | `eval_your_results.py`: the first of A to D behind the usual phrases | is not counted officially, wrong here |
//! | Video-Holmes | `evaluate.py`: the last `<answer>`, else all | is wrong |
//! | MMVU | none: officially a judge reads all; here the letter, or the words, that the strict rule reads | goes to a judge |
//! | CLEVRER | none for texts; the strict rule | is wrong |
//!
//! Faults of these rules are kept, with one exception: an empty answer, right by MVBench's rule, is wrong here.

use super::option::is_option_word;
use super::option::letter;
use super::option::letters;
use super::parsed::AnswerForm;
use super::parsed::Expected;
use super::set::CLOSE;
use super::set::OPEN;
use super::set::answer_text;
use crate::config::Benchmark;

/// What a benchmark's rule makes of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleVerdict {
    /// An answer in the solution's spelling, and whether the rule takes it for right.
    Read {
        /// A letter, or `yes` or `no`.
        answer: String,
        /// As the rule compares.
        right: bool,
    },
    /// The rule cannot say.
    Open,
    /// There is no rule for texts: the strict one reads.
    NoRule,
}

/// Reads `text` by the rule of `benchmark`.
pub(super) fn read(benchmark: Benchmark, text: &str, expected: Expected) -> RuleVerdict {
    if text.trim().is_empty() {
        return RuleVerdict::Open;
    }
    let truth = answer_text(expected.solution);
    match (benchmark, expected.form) {
        (Benchmark::Tempcompass | Benchmark::TempcompassFlat, AnswerForm::YesNo) => {
            yes_no(text.replace("</s>", "").trim(), truth)
        }
        (Benchmark::Tempcompass | Benchmark::TempcompassFlat, AnswerForm::Options(_)) => {
            let text = text.replace("</s>", "");
            tempcompass(text.trim(), expected.question, truth)
        }
        (Benchmark::Mvbench, AnswerForm::Options(options)) => {
            mvbench(text.trim(), options.len(), truth)
        }
        (Benchmark::Videomme, AnswerForm::Options(_)) => compared(videomme(text), truth),
        (Benchmark::VideoHolmes, AnswerForm::Options(_)) => compared(video_holmes(text), truth),
        _ => RuleVerdict::NoRule,
    }
}

/// Whether the benchmark has a language model read what its rule leaves open.
pub(crate) fn has_judge(benchmark: Benchmark) -> bool {
    matches!(
        benchmark,
        Benchmark::Tempcompass
            | Benchmark::TempcompassCaptioning
            | Benchmark::Mmvu
            | Benchmark::MmvuOpen
    )
}

fn compared(found: Option<char>, truth: &str) -> RuleVerdict {
    found.map_or(RuleVerdict::Open, |letter| {
        let answer = letter.to_string();
        let right = answer == truth;
        RuleVerdict::Read { answer, right }
    })
}

fn yes_no(text: &str, truth: &str) -> RuleVerdict {
    let lower = text.to_lowercase();
    let Some(answer) = ["yes", "no"]
        .into_iter()
        .find(|word| lower.starts_with(word))
    else {
        return RuleVerdict::Open;
    };
    RuleVerdict::Read {
        answer: answer.to_owned(),
        right: answer == truth,
    }
}

/// Multiple choice, or caption matching, whose options have a word before their mark.
fn tempcompass(text: &str, question: &str, truth: &str) -> RuleVerdict {
    let options: Vec<&str> = question.trim_end().lines().skip(1).collect();
    let has_word = |line: &&str| line.split(' ').next().is_some_and(is_option_word);
    if !options.is_empty() && options.iter().all(has_word) {
        return compared(caption_matching(text, &options), truth);
    }
    let whole = options.iter().position(|line| *line == text);
    let marked = || {
        let (letter, rest) = text.split_at_checked(1)?;
        let index = "ABCD".find(letter)?;
        (rest.is_empty() || rest.starts_with(['.', ')'])).then_some(index)
    };
    compared(whole.or_else(marked).and_then(letter), truth)
}

/// An option's line, its sentence or its mark, each by itself. What is compared later has the last word.
fn caption_matching(text: &str, options: &[&str]) -> Option<char> {
    let behind_bracket = text.split(") ").nth(1);
    let undotted = text.replace('.', "");
    let mut found = None;
    let mut look = |matches: &dyn Fn(&str, &str, &str) -> bool| {
        for (index, line) in options.iter().enumerate() {
            let mut parts = line.split(": ");
            let (mark, sentence) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            if matches(line, mark, sentence) {
                found = letter(index);
            }
        }
    };
    let is_mark = |mark: &str| mark == text || mark == undotted;
    look(&|line, _, _| line == text);
    look(&|_, _, sentence| sentence == text || Some(sentence) == behind_bracket);
    look(&|_, mark, _| is_mark(mark));
    look(&|_, mark, _| {
        let short = ["Sentence ", "Option ", "Caption "]
            .iter()
            .fold(mark.to_owned(), |mark, word| mark.replace(word, ""));
        is_mark(&short)
    });
    found
}

/// The first word of the first line, behind the bracket that the answer was begun with, against the right option's mark
/// `(b)`: either may be part of the other.
fn mvbench(text: &str, options: usize, truth: &str) -> RuleVerdict {
    let written = text.strip_prefix('(').unwrap_or(text).trim_start();
    let line = written.lines().next().unwrap_or("").to_lowercase();
    let word = format!("({}", line.split(' ').next().unwrap_or(""));
    let undotted = word.replace('.', "");
    if !undotted.contains(|c: char| c.is_alphanumeric()) {
        return RuleVerdict::Open;
    }
    let is = |letter: char| {
        let mark = format!("({})", letter.to_ascii_lowercase());
        mark.contains(&undotted) || word.contains(&mark)
    };
    let answer = letters().take(options).find(|letter| is(*letter));
    RuleVerdict::Read {
        answer: answer.map(String::from).unwrap_or_default(),
        right: truth.chars().next().is_some_and(is),
    }
}

/// The phrases that `eval_your_results.py` takes out; two of them stand together for want of a comma there.
const VIDEOMME_PHRASES: [&str; 10] = [
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
];

fn videomme(text: &str) -> Option<char> {
    let rest = VIDEOMME_PHRASES
        .iter()
        .fold(text.to_owned(), |text, phrase| text.replace(phrase, ""));
    rest.chars().find(|c| ('A'..='D').contains(c))
}

fn video_holmes(text: &str) -> Option<char> {
    let chosen = last_tagged(text).unwrap_or(text);
    let marked = |letter: &char| {
        [
            format!("{letter} "),
            format!("{letter}:"),
            format!("[{letter}"),
        ]
        .iter()
        .any(|mark| chosen.contains(mark.as_str()))
    };
    let possible = || 'A'..='F';
    possible()
        .find(marked)
        .or_else(|| possible().find(|letter| chosen.contains(*letter)))
}

/// What stands in the last pair of tags, pairs being found from the front and not overlapping.
fn last_tagged(text: &str) -> Option<&str> {
    let (mut rest, mut last) = (text, None);
    while let Some((_, behind)) = rest.split_once(OPEN)
        && let Some((inside, after)) = behind.split_once(CLOSE)
    {
        last = Some(inside.trim());
        rest = after;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::AnswerRule;
    use super::super::read as read_by;
    use super::*;
    use crate::config::Extraction;
    use crate::data::benchmark::question_of;
    use serde_json::Value;

    /// What the benchmarks' own programs say (`scripts/make_golden_rules.py`).
    const GOLDEN: &str = include_str!("../../../tests/golden/benchmark/official_rules.json");

    #[test]
    fn verdicts_are_those_of_the_benchmarks_own_programs() {
        let golden: Value = serde_json::from_str(GOLDEN).unwrap();
        let mut compared = 0;
        for case in golden["cases"].as_array().unwrap() {
            let text = |name: &str| case[name].as_str().unwrap();
            let benchmark = Benchmark::named(text("benchmark")).unwrap();
            let question =
                question_of(text("question").into(), Vec::new(), text("answer")).unwrap();
            let options = question.choices();
            let asked = Expected {
                question: &question.text(),
                form: AnswerForm::of(&options, &question.solution),
                solution: &question.solution,
            };
            let rule = AnswerRule {
                extraction: Extraction::Official,
                benchmark: Some(benchmark),
            };
            for verdict in case["verdicts"].as_array().unwrap() {
                let (said, wanted) = (verdict[0].as_str().unwrap(), verdict[1].as_str().unwrap());
                let found = read_by(rule, said, asked);
                let verdict = match found.right {
                    Some(true) => "right",
                    Some(false) => "wrong",
                    None => "left",
                };
                let is_word = said.contains(|c: char| c.is_alphanumeric());
                let wanted = match (benchmark, wanted) {
                    // Nothing at all is a part of every option's mark there.
                    (Benchmark::Mvbench, _) if !is_word => "left",
                    // No letter of an option in it: officially compared, and wrong.
                    (Benchmark::Mvbench, "wrong") if verdict == "left" => "left",
                    (_, wanted) => wanted,
                };
                assert_eq!(verdict, wanted, "{benchmark:?}, {said:?} to {asked:?}");
                compared += 1;
            }
        }
        assert!(compared > 800, "{compared}");
    }
}
