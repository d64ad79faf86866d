//! Questions: what is asked about which clip, the right answer, and the order a run takes them in.

use crate::config::QuestionKind;
use crate::config::Wording;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

pub mod benchmark;
pub mod clevrer;
mod clip_file;
mod clip_paths;
mod dataset;
pub mod fnv;
mod fragment;
mod manifest;
pub mod mersenne;
mod read;
pub mod shuffle;

pub use clip_file::{ClipFacts, folder_images};
pub use clip_paths::locate;
pub use dataset::{Dataset, draw, too_few};
pub use fragment::{Fragment, Span};
pub use manifest::{Change, ClipRecord, Manifest};
pub use read::{DataError, QuestionWriter, read_questions, write_questions};

/// One question about one clip, as it stands in a question file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Stable name; filled from the position in the file when the source has none.
    #[serde(default, deserialize_with = "text_or_number")]
    pub id: String,
    /// The question's text, options included as lines `A. …` unless `options` has them.
    pub problem: String,
    /// The right answer, `<answer>A,C</answer>`.
    pub solution: String,
    /// Path of the clip, relative to `video_root` or absolute.
    pub video: PathBuf,
    /// The paper's split, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<QuestionKind>,
    /// Options that are not part of `problem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
    /// The source's name for the kind of question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<String>,
    /// A worked answer to learn from (`train-sft` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The text put around the problem when it is not the training wording (`train-sft` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wording: Option<Wording>,
    /// What single video tokens show (`train-sft` only): index of the token in its order of grids, rows
    /// and columns, and its words. Tokens that are not named show nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding: Option<Vec<(usize, String)>>,
    /// Whatever else the source has: kept, not interpreted.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// What a judge, another language model, is asked about an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeTask {
    /// Which option of this question the answer, a caption, implies. Nothing else can score it.
    Caption(String),
    /// Whether the answer to this question means the same as the right one.
    Open(String),
}

impl Question {
    /// The problem with its options as lines `A. …`. Options that the problem already lists are not
    /// repeated, and an option that brings its letter keeps it.
    pub fn text(&self) -> String {
        let mut text = self.problem.clone();
        let options = self.options.as_deref().unwrap_or_default();
        if self.lists_options() {
            return text;
        }
        for (index, (option, letter)) in options.iter().zip('A'..='Z').enumerate() {
            text.push('\n');
            if !starts_option(option, index) {
                text.push(letter);
                text.push_str(". ");
            }
            text.push_str(option.trim());
        }
        text
    }

    /// Whether the problem lists the options itself, as lines with marks.
    pub fn lists_options(&self) -> bool {
        self.start_of_options().is_some()
    }

    /// Whether this is multiple choice, by its type or, if it has none, by its answer, a letter, and has no options: it cannot
    /// be asked. What a judge answers has its options elsewhere.
    pub fn lacks_options(&self) -> bool {
        let is_letter = |item: &str| matches!(item.as_bytes(), [b'A'..=b'Z']);
        let is_choice = match self.problem_type.as_deref() {
            Some(kind) => kind.eq_ignore_ascii_case("multiple choice"),
            None => self.answer().items().all(is_letter),
        };
        is_choice && self.choices().is_empty() && self.judge_task().is_none()
    }

    /// The problem without the options that it lists.
    pub fn stem(&self) -> &str {
        let Some(start) = self.start_of_options() else {
            return &self.problem;
        };
        // Some put a blank before the line break; any other belongs to the question.
        let stem = self.problem[..start].trim_end_matches(['\n', '\r']);
        stem.strip_suffix(' ').unwrap_or(stem)
    }

    /// Where the options begin in the problem. An option may have several lines.
    fn start_of_options(&self) -> Option<usize> {
        if self.options.as_ref().is_none_or(Vec::is_empty) {
            return listed_choices(&self.problem).map(|(start, _)| start);
        }
        let plain = |text: &str| text.trim().trim_end_matches('.').to_lowercase();
        let mut lines = lines_with_starts(&self.problem);
        let mut first = None;
        for (index, option) in self.choices().iter().enumerate() {
            let is_listed = |&(start, line): &(usize, &str)| {
                let Some((_, text)) = option_mark(line).filter(|(found, _)| *found == index) else {
                    return false;
                };
                let behind = &self.problem[start + line.len() - text.len()..];
                plain(behind).starts_with(&plain(option))
            };
            let (start, _) = lines.find(is_listed)?;
            first.get_or_insert(start);
        }
        first
    }

    /// The options without their letters, from `options` or from the lines of the problem; none for an open question.
    pub fn choices(&self) -> Vec<String> {
        let bare = |line: &str, index| match option_mark(line) {
            Some((found, text)) if found == index => text.to_owned(),
            _ => line.trim().to_owned(),
        };
        if let Some(options) = self.options.as_deref().filter(|all| !all.is_empty()) {
            let numbered = options.iter().enumerate();
            return numbered.map(|(index, line)| bare(line, index)).collect();
        }
        choices_in(&self.problem)
    }

    /// What a judge is asked about an answer, where one may be: the field `judge`.
    pub fn judge_task(&self) -> Option<JudgeTask> {
        let task = self.extra.get("judge")?;
        serde_json::from_value(task.clone()).ok()
    }

    /// What the source sorts the question under besides its kind, as `(name, value)`: the texts in the field `splits`,
    /// such as `{"duration": "short"}`.
    pub fn splits(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self
            .extra
            .get("splits")
            .and_then(|splits| splits.as_object());
        fields
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }

    /// The right answer as a set.
    pub fn answer(&self) -> Answer {
        Answer::parse(&self.solution)
    }
}

/// Whether a line is the `index`-th option with its mark.
fn starts_option(line: &str, index: usize) -> bool {
    option_mark(line).is_some_and(|(found, _)| found == index)
}

/// Words that stand before an option's letter or number in some sources: `Option 1: …`, `Caption A: …`.
const OPTION_WORDS: [&str; 6] = [
    "option",
    "choice",
    "caption",
    "sentence",
    "description",
    "information",
];

/// Whether `word` announces an option's letter or number.
pub fn is_option_word(word: &str) -> bool {
    OPTION_WORDS
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

/// The index of the option that a line starts with, counted from 0, and what follows its mark: `A. …`, `A) …`, `(A) …`,
/// `A: …`, and with a word before it also `Option 1: …`.
pub fn option_mark(line: &str) -> Option<(usize, &str)> {
    let line = line.trim_start();
    let (named, line) = match line.split_once(char::is_whitespace) {
        Some((word, rest)) if is_option_word(word) => (true, rest.trim_start()),
        _ => (false, line),
    };
    let line = line.strip_prefix('(').unwrap_or(line);
    let first = line.chars().next()?;
    let index = match first {
        'A'..='Z' => first as usize - 'A' as usize,
        '1'..='9' if named => first as usize - '1' as usize,
        _ => return None,
    };
    let rest = line[1..].strip_prefix(['.', ')', ':'])?;
    Some((index, rest.trim()))
}

/// The options among a text's lines, without their letters.
pub fn choices_in(text: &str) -> Vec<String> {
    listed_choices(text).map_or_else(Vec::new, |(_, choices)| choices)
}

/// Where the last list of options in a text begins, and its options without their letters.
fn listed_choices(text: &str) -> Option<(usize, Vec<String>)> {
    let mut listed: Option<(usize, Vec<String>)> = None;
    for (start, line) in lines_with_starts(text) {
        match (option_mark(line), &mut listed) {
            (Some((0, text)), _) => listed = Some((start, vec![text.to_owned()])),
            (Some((index, text)), Some((_, choices))) if index == choices.len() => {
                choices.push(text.to_owned());
            }
            _ => {}
        }
    }
    listed
}

/// Each line without white space at its end, and where it begins.
fn lines_with_starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = next;
        next += line.len();
        (start, line.trim_end())
    })
}

/// An id is text; sources that number their questions are accepted.
fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) => Ok(number.to_string()),
        serde_json::Value::Null => Ok(String::new()),
        _ => Err(serde::de::Error::custom(
            "`id` must be a text or a number: quote it or leave it out",
        )),
    }
}

/// An answer: the set of items between the tags, normalised so that equal answers are equal sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Answer {
    items: BTreeSet<String>,
}

impl Answer {
    /// Reads an answer: inside the first `<answer>` tags, else the whole text; white space is
    /// removed, commas separate, numbers take one spelling. Empty items do not count.
    pub fn parse(text: &str) -> Self {
        let body = tagged(text).unwrap_or(text);
        let items = body
            .split(',')
            .map(|item| item.split_whitespace().collect::<String>())
            .filter(|item| !item.is_empty())
            .map(|item| normalised(&item))
            .collect();
        Self { items }
    }

    /// The items, sorted.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(String::as_str)
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is answered.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether every item is an item of `truth`.
    pub fn is_subset(&self, truth: &Self) -> bool {
        self.items.is_subset(&truth.items)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items: Vec<&str> = self.items().collect();
        formatter.write_str(&items.join(","))
    }
}

/// The text inside the first `<answer>…</answer>`.
fn tagged(text: &str) -> Option<&str> {
    let start = text.find("<answer>")? + "<answer>".len();
    let length = text[start..].find("</answer>")?;
    Some(&text[start..start + length])
}

/// `3`, `3.0` and `+3` are one number; anything else stays as it is.
fn normalised(item: &str) -> String {
    let looks_numeric = item
        .trim_start_matches(['+', '-'])
        .starts_with(|first: char| first.is_ascii_digit() || first == '.');
    match item.parse::<f64>() {
        Ok(number) if looks_numeric && number.is_finite() => {
            // Adding zero turns −0 into 0.
            (number + 0.0).to_string()
        }
        _ => item.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(problem: &str, options: Option<&[&str]>) -> Question {
        Question {
            id: "1".into(),
            problem: problem.into(),
            solution: "<answer>A</answer>".into(),
            video: "a.mp4".into(),
            kind: None,
            options: options.map(|texts| texts.iter().map(ToString::to_string).collect()),
            problem_type: None,
            response: None,
            wording: None,
            grounding: None,
            extra: serde_json::Map::new(),
        }
    }

    #[test]
    fn options_become_lines_once() {
        assert_eq!(
            question("Why?", Some(&["red", "B. blue"])).text(),
            "Why?\nA. red\nB. blue"
        );
        let listed = "Why?\nA. red\nB. blue";
        assert_eq!(question(listed, Some(&["red", "blue"])).text(), listed);
        assert_eq!(question(listed, None).text(), listed);
    }

    #[test]
    fn options_are_found_with_or_without_marks() {
        let bare = ["red", "blue"];
        for question in [
            question("Why?", Some(&["red", "B. blue"])),
            question("Why?\nA. red\nB. blue", None),
            question("Why?\n(A) red\n(B) blue\nOnly one is right.", None),
            question("Which fits?\nOption 1: red\nOption 2: blue", None),
            question("Which fits?\nCaption A: red\nCaption B: blue", None),
        ] {
            assert_eq!(question.choices(), bare, "{}", question.problem);
        }
        assert!(
            question("Why?\nB. no first option", None)
                .choices()
                .is_empty()
        );
        assert_eq!(
            question("Which fits?\nOption 1: red", Some(&["red"])).text(),
            "Which fits?\nOption 1: red"
        );
    }

    #[test]
    fn options_apart_from_the_question_and_within() {
        let listed = question("Why?\n\nA. red\nB. blue", Some(&["A. Red.", "blue"]));
        assert!(listed.lists_options() && !listed.lacks_options());
        assert_eq!(listed.stem(), "Why?");
        let blank = question("Which of these  \nA. red\nB. blue", Some(&["red", "blue"]));
        assert_eq!(blank.stem(), "Which of these ");
        let long = question(
            "Why? \nA. red\n\nand green\nB. blue",
            Some(&["red\n\nand green", "blue"]),
        );
        assert!(long.lists_options());
        assert_eq!((long.stem(), long.text()), ("Why?", long.problem.clone()));
        // A line that looks like an option is none of them.
        let talk = question("A: who is it?\nB: me.", Some(&["red", "blue"]));
        assert_eq!(talk.stem(), "A: who is it?\nB: me.");
        assert_eq!(talk.text(), "A: who is it?\nB: me.\nA. red\nB. blue");
        let bare = question("Why?", None);
        assert!(bare.lacks_options());
        let open = |kind: &str| Question {
            problem_type: Some(kind.into()),
            ..bare.clone()
        };
        assert!(open("multiple choice").lacks_options() && !open("free-form").lacks_options());
    }

    #[test]
    fn answers_are_sets() {
        let truth = Answer::parse("<answer>C, A</answer>");
        assert_eq!(truth.to_string(), "A,C");
        assert_eq!(
            truth,
            Answer::parse("so <answer> A ,C,</answer> <answer>B</answer>")
        );
        assert!(Answer::parse("A").is_subset(&truth));
        assert!(!Answer::parse("A,B").is_subset(&truth));
        assert!(Answer::parse("<answer> </answer>").is_empty());
        assert_eq!(Answer::parse("3.0"), Answer::parse("3"));
        assert_eq!(Answer::parse("-0.0"), Answer::parse("0"));
        assert_ne!(Answer::parse("inf"), Answer::parse("infinity"));
    }
}
