//! Questions that no answer can be right for, or that do not say what they mean: found before anything is decoded or trained.
//!
//! A reward compares letters with the solution's letters. A solution that is spelled otherwise is taken as it stands, and no
//! answer earns anything.

use super::Question;
use super::answer::Unreadable;
use super::answer::answer_text;
use super::answer::option::choices_in;
use super::answer::option::letter;
use super::answer::option::letter_index;
use super::answer::option::option_mark;
use super::answer::solution;
use super::solutions::option_within;
use serde::Serialize;
use std::collections::BTreeSet;

/// What is wrong with a question by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// The solution is none of the options.
    NoOption,
    /// The solution is an option, but not spelled as its letter.
    Spelling,
    /// The solution names an option twice.
    Twice,
    /// An option has no text.
    EmptyOption,
    /// Two options are the same.
    EqualOptions,
    /// The text and the field `options` list different options.
    OtherOptions,
    /// It is multiple choice and has no options.
    NoOptions,
    /// A placeholder stands in the text.
    Placeholder,
}

impl Flaw {
    /// The word in tables and JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoOption => "no-option",
            Self::Spelling => "spelling",
            Self::Twice => "twice",
            Self::EmptyOption => "empty-option",
            Self::EqualOptions => "equal-options",
            Self::OtherOptions => "other-options",
            Self::NoOptions => "no-options",
            Self::Placeholder => "placeholder",
        }
    }
}

/// One thing that is wrong with a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The question's id.
    pub question: String,
    /// What kind of thing it is.
    pub flaw: Flaw,
    /// What exactly, and what to do.
    pub reason: String,
}

/// What other programs put where a clip or an image belongs. Here it would be read as it stands.
pub(super) const PLACEHOLDERS: [&str; 6] = [
    "<video>",
    "<image>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<|image_pad|>",
];

/// Tokens that begin and end a turn: in a text they are plain words, which nobody means.
pub(super) const CHAT_TOKENS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// Everything that is wrong with the questions by themselves, in their order.
pub fn impossible_answers(questions: &[Question]) -> Vec<Finding> {
    questions.iter().flat_map(of_question).collect()
}

/// Why no answer to a question can be right, if none can: its solution is none of its options.
pub(crate) fn unanswerable(question: &Question) -> Option<Finding> {
    let choices = question.choices();
    let found = |flaw, reason| Finding {
        question: question.id.clone(),
        flaw,
        reason,
    };
    if question.judge.is_some() {
        return None;
    }
    if !has_letters(question, &choices) {
        let reason = option_of_none(question, &choices)?;
        return Some(found(Flaw::NoOptions, reason));
    }
    let (flaw, mut reason) = of_solution(&question.solution, &choices)?;
    if question.options.as_ref().is_none_or(Vec::is_empty) {
        reason += "; where the lines of the text are no options, say so by `\"problem_type\": \"free-form\"`";
    }
    matches!(flaw, Flaw::NoOption | Flaw::Spelling).then(|| found(flaw, reason))
}

/// Says that a solution stands in the question's text behind a mark, as an option does that cannot be told.
fn text_within(question: &Question, choices: &[String]) -> Option<String> {
    if !choices.is_empty() || is_open(question) {
        return None;
    }
    let inside = answer_text(&question.solution);
    let (letter, false) = option_within(&question.problem, inside)? else {
        return None;
    };
    Some(format!(
        "the solution {inside:?} stands in the text behind {letter}, and a model that answers {letter} earns nothing: give the options in a \
         list `options` or as lines `A. …` of `problem`; if they are none, say so by `\"problem_type\": \"free-form\"`"
    ))
}

/// Says that a solution is written as an option is, of a question that has none.
fn option_of_none(question: &Question, choices: &[String]) -> Option<String> {
    let inside = answer_text(&question.solution);
    option_mark(inside)?;
    (choices.is_empty() && !is_open(question)).then(|| {
        format!(
            "the solution {inside:?} is written as an option, and the question has none that can be told: give them in a list `options` or as \
             lines `A. …` of `problem`; if it is free text, say so by `\"problem_type\": \"free-form\"`"
        )
    })
}

fn of_question(question: &Question) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |flaw, reason| {
        found.push(Finding {
            question: question.id.clone(),
            flaw,
            reason,
        });
    };
    let stands = |word: &&str| question.problem.contains(word);
    if let Some(word) = CHAT_TOKENS.into_iter().find(stands) {
        let reason = format!(
            "`{word}` stands in the text: the model reads it as these letters, and not as a token that ends its turn; remove it"
        );
        add(Flaw::Placeholder, reason);
    } else if let Some(word) = PLACEHOLDERS.into_iter().find(stands) {
        let reason = format!(
            "`{word}` stands in the text: remove it (`videothinker data import` does); the clip comes before the text anyway"
        );
        add(Flaw::Placeholder, reason);
    }
    if question.lacks_options() {
        let reason = "is multiple choice, but has no options: give them in a list `options` or as lines `A. …` of `problem`; if the \
                      letter is the answer itself, say so by `\"problem_type\": \"free-form\"`";
        add(Flaw::NoOptions, reason.into());
    }
    let choices = question.choices();
    if question.judge.is_none()
        && let Some(reason) =
            option_of_none(question, &choices).or_else(|| text_within(question, &choices))
    {
        add(Flaw::NoOptions, reason);
    }
    if question.judge.is_some() || !has_letters(question, &choices) {
        return found;
    }
    if let Some(reason) = other_options(question, &choices) {
        add(Flaw::OtherOptions, reason);
    }
    if let Some(empty) = choices.iter().position(|text| text.trim().is_empty()) {
        let name = named(empty);
        add(
            Flaw::EmptyOption,
            format!("option {name} has no text: give it one, or leave it out"),
        );
    }
    if let Some((first, second)) = equal_pair(&choices) {
        let reason = format!(
            "options {} and {} are the same, {:?}: nothing tells them apart",
            named(first),
            named(second),
            choices[first]
        );
        add(Flaw::EqualOptions, reason);
    }
    if let Some((flaw, reason)) = of_solution(&question.solution, &choices) {
        add(flaw, reason);
    }
    found
}

/// Whether its answer is a letter: it has options, and where only lines of its text look like some, nothing says otherwise.
pub(super) fn has_letters(question: &Question, choices: &[String]) -> bool {
    let own = question
        .options
        .as_ref()
        .is_some_and(|options| !options.is_empty());
    own || choices.len() > 1 && !is_open(question)
}

/// Whether a question's type says that no option is asked for.
pub(super) fn is_open(question: &Question) -> bool {
    let kind = question.problem_type.as_deref().unwrap_or_default();
    ["free-form", "open-ended", "numerical", "regression", "ocr"]
        .iter()
        .any(|open| kind.eq_ignore_ascii_case(open))
}

/// What is wrong with a solution where letters of `choices` are asked for.
fn of_solution(text: &str, choices: &[String]) -> Option<(Flaw, String)> {
    let count = choices.len();
    let inside = answer_text(text);
    let items: Vec<&str> = inside
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect();
    let is_option = |item: &&str| letter_index(item).is_some_and(|index| index < count);
    if !items.is_empty() && items.iter().all(is_option) {
        let different: BTreeSet<&&str> = items.iter().collect();
        let written = different
            .iter()
            .map(|item| **item)
            .collect::<Vec<_>>()
            .join(",");
        return (different.len() < items.len()).then(|| {
            (
                Flaw::Twice,
                format!("the solution {inside:?} names an option twice: write <answer>{written}</answer>"),
            )
        });
    }
    let read = solution::letters_of(text, choices);
    Some(match read.unreadable {
        None => (
            Flaw::Spelling,
            format!(
                "the solution {text:?} is not spelled as a letter, so no answer is right: write <answer>{}</answer>",
                read.answer
            ),
        ),
        Some(Unreadable::Unclosed) => (
            Flaw::Spelling,
            format!(
                "the solution {text:?} opens <answer> and does not close it: write <answer>LETTER</answer>"
            ),
        ),
        Some(Unreadable::Contradiction) => (
            Flaw::NoOption,
            format!(
                "the solution {inside:?} contradicts itself, or may be several options: write the letter of the right one, \
                 <answer>LETTER</answer>, or all of them, <answer>A,C</answer>"
            ),
        ),
        Some(_) => (
            Flaw::NoOption,
            format!(
                "the solution {inside:?} is not among the {count} options ({} to {}): write the letter of the right one, <answer>LETTER</answer>, or several with commas between them{}",
                named(0),
                named(count.saturating_sub(1)),
                if inside.trim().parse::<usize>().is_ok() {
                    "; where it is the option's number, `videothinker data import FILE --first-option 0 --out NEW.jsonl` (or 1) makes it the letter"
                } else {
                    ""
                }
            ),
        ),
    })
}

fn named(index: usize) -> String {
    letter(index).map_or_else(|| (index + 1).to_string(), String::from)
}

/// The first two options with the same words.
fn equal_pair(choices: &[String]) -> Option<(usize, usize)> {
    let words = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words: Vec<String> = choices.iter().map(words).collect();
    (0..words.len()).find_map(|second| {
        let first = words[..second]
            .iter()
            .position(|other| *other == words[second])?;
        (!words[second].is_empty()).then_some((first, second))
    })
}

/// Whether the text lists other options than the field `options`. Lines of a dialogue ("A: who is it?") are none.
fn other_options(question: &Question, choices: &[String]) -> Option<String> {
    let own = question
        .options
        .as_ref()
        .is_some_and(|options| !options.is_empty());
    if !own || question.lists_options() {
        return None;
    }
    let listed = choices_in(&question.problem);
    if listed.len() < 2 {
        return None;
    }
    let is_speech = |line: &str| {
        let start = line.trim_start().trim_start_matches('(');
        start.get(1..2) == Some(":")
    };
    let marked = question
        .problem
        .lines()
        .filter(|line| option_mark(line).is_some());
    let shares = listed.iter().any(|text| choices.contains(text));
    let is_list = shares || !marked.clone().all(is_speech);
    is_list.then(|| {
        format!(
            "the text lists {listed:?}, the field `options` {choices:?}: leave them in one place, or make them the same"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::json;

    fn flaws(more: &Value) -> Vec<(Flaw, String)> {
        let mut record = json!({"id": "q", "problem": "Where?", "solution": "<answer>A</answer>", "video": "a.mp4"});
        record
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let question: Question = serde_json::from_value(record).unwrap();
        let found = impossible_answers(&[question]);
        found
            .into_iter()
            .map(|one| (one.flaw, one.reason))
            .collect()
    }

    #[test]
    fn options_that_cannot_be_told_are_named() {
        for (problem, solution, part) in [
            ("What? red or blue", "B. blue", "is written as an option"),
            ("What? red or blue", "(B)", "is written as an option"),
            (
                "What color? (A) red (B) blue",
                "blue",
                "stands in the text behind B",
            ),
        ] {
            let found = flaws(&json!({"problem": problem, "solution": solution}));
            assert_eq!(found[0].0, Flaw::NoOptions, "{found:?}");
            assert!(found[0].1.contains(part), "{found:?}");
            let open =
                json!({"problem": problem, "solution": solution, "problem_type": "free-form"});
            assert_eq!(flaws(&open), []);
        }
    }

    #[test]
    fn what_can_be_answered_passes() {
        for fine in [
            json!({"options": ["left", "right"]}),
            json!({"problem": "Where?\nA. left\nB. right", "solution": "A,B,"}),
            json!({"problem": "Where?\nA. left\nB. right", "options": ["left", "B. right"]}),
            json!({"problem": "How many?", "solution": "12"}),
            json!({"problem": "A: who is it?\nB: me. Who speaks first?", "solution": "the man", "problem_type": "free-form"}),
            json!({"problem": "A: who is it?\nB: me.", "options": ["left", "right"]}),
            json!({"options": ["M", "m"]}),
            json!({"problem": "Describe it.", "solution": "A long walk, and B roll.", "judge": {"open": "Describe it."}}),
        ] {
            assert_eq!(flaws(&fine), [], "{fine}");
        }
    }

    #[test]
    fn what_cannot_says_which_spelling_counts() {
        let four = json!(["left", "right", "up", "down"]);
        for (solution, flaw, part) in [
            (
                "<answer>E</answer>",
                Flaw::NoOption,
                "not among the 4 options (A to D)",
            ),
            ("<answer>purple</answer>", Flaw::NoOption, "\"purple\""),
            ("left", Flaw::Spelling, "write <answer>A</answer>"),
            (
                "<answer>B. right</answer>",
                Flaw::Spelling,
                "write <answer>B</answer>",
            ),
            (
                "<answer>(A),(C)</answer>",
                Flaw::Spelling,
                "write <answer>A,C</answer>",
            ),
            (
                "<answer>b</answer>",
                Flaw::Spelling,
                "write <answer>B</answer>",
            ),
            ("<answer>B", Flaw::Spelling, "does not close"),
            ("\\boxed{D}", Flaw::Spelling, "write <answer>D</answer>"),
            (
                "<answer>B,B,A</answer>",
                Flaw::Twice,
                "write <answer>A,B</answer>",
            ),
        ] {
            let found = flaws(&json!({"options": four, "solution": solution}));
            assert_eq!(found.len(), 1, "{solution}: {found:?}");
            assert_eq!(found[0].0, flaw, "{solution}");
            assert!(found[0].1.contains(part), "{found:?}");
        }
        for (fields, flaw) in [
            (json!({"options": ["left", " "]}), Flaw::EmptyOption),
            (
                json!({"options": ["left", "up", "A  b", "A b"]}),
                Flaw::EqualOptions,
            ),
            (
                json!({"problem": "Where?\nA. left\nB. up", "options": ["left", "right"]}),
                Flaw::OtherOptions,
            ),
            (json!({"problem_type": "multiple choice"}), Flaw::NoOptions),
            (
                json!({"problem": "<video>\nWhere?", "options": ["left", "up"]}),
                Flaw::Placeholder,
            ),
        ] {
            let found = flaws(&fields);
            assert_eq!(
                found.iter().map(|one| one.0).collect::<Vec<_>>(),
                [flaw],
                "{found:?}"
            );
        }
    }
}
