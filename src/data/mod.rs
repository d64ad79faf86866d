//! Questions: what is asked about which clip, the right answer, and the order a run takes them in.

use crate::config::QuestionKind;
use crate::config::Wording;
use answer::option::choices_in;
use answer::option::letter_index;
use answer::option::letters;
use answer::option::lines_with_starts;
use answer::option::listed_choices;
use answer::option::option_mark;
use serde::{Deserialize, Deserializer, Serialize};
use std::path::PathBuf;

pub(crate) mod answer;
mod answer_field;
pub mod benchmark;
pub mod clevrer;
mod clip_field;
mod clip_file;
mod clip_paths;
mod dataset;
mod draw;
mod fragment;
pub(crate) mod import;
mod impossible;
pub(crate) mod label;
mod manifest;
pub(crate) mod mersenne;
pub(crate) mod placeholder;
mod read;
mod shapes;
pub(crate) mod shuffle;
mod solutions;
mod split;
pub(crate) mod stats;
mod unused;

pub use answer::Answer;
pub(crate) use clip_field::{is_elsewhere, local_path};
pub(crate) use clip_file::{ClipFacts, folder_images};
pub(crate) use clip_paths::locate;
pub use dataset::Dataset;
pub(crate) use draw::WITHOUT_KIND;
pub use draw::{draw, too_few};
pub(crate) use fragment::{Fragment, Span};
pub(crate) use impossible::unanswerable;
pub use impossible::{Finding, Flaw, impossible_answers};
pub use manifest::{Change, ClipRecord, Manifest};
pub use read::{DataError, QuestionWriter, read_questions, write_questions};
pub(crate) use split::split_by_clip;

/// One question about one clip, as it stands in a question file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    pub(crate) options: Option<Vec<String>>,
    /// The source's name for the kind of question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<String>,
    /// A worked answer to learn from (`train-sft` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The text put around the problem when it is not the training wording (`train-sft` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wording: Option<Wording>,
    /// What single video tokens show (`train-sft` only): index of the token in its order of grids, rows
    /// and columns, and its words. Tokens that are not named show nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding: Option<Vec<(usize, String)>>,
    /// What a judge is asked about an answer, where one may be.
    #[serde(
        default,
        deserialize_with = "judge_task",
        skip_serializing_if = "Option::is_none"
    )]
    pub judge: Option<JudgeTask>,
    /// Whatever else the source has: kept, not interpreted.
    #[serde(flatten)]
    pub(crate) extra: serde_json::Map<String, serde_json::Value>,
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
        for (index, (option, letter)) in options.iter().zip(letters()).enumerate() {
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
    pub(crate) fn lists_options(&self) -> bool {
        self.start_of_options().is_some()
    }

    /// Whether this is multiple choice, by its type or, if it has none, by its answer, a letter, and has no options: it cannot
    /// be asked. What a judge answers has its options elsewhere.
    pub(crate) fn lacks_options(&self) -> bool {
        let is_letter = |item: &str| letter_index(item).is_some();
        let is_choice = match self.problem_type.as_deref() {
            Some(kind) => kind.eq_ignore_ascii_case("multiple choice"),
            None => self.answer().items().all(is_letter),
        };
        // A single line `A. …` in a text is no choice.
        let least = if self.options.as_ref().is_some_and(|own| !own.is_empty()) {
            1
        } else {
            2
        };
        is_choice && self.choices().len() < least && self.judge.is_none()
    }

    /// Names the question whose clip cannot be used, and the ways out.
    pub(crate) fn with_bad_clip(&self) -> String {
        format!(
            "question {}: its clip cannot be used (`videothinker data check` names every such clip; data.on_bad_video = \"skip\" \
             leaves their questions out)",
            self.id
        )
    }

    /// The problem without the options that it lists.
    pub(crate) fn stem(&self) -> &str {
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

    /// What the source sorts the question under besides its kind, as `(name, value)`: the texts in the field `splits`,
    /// such as `{"duration": "short"}`.
    pub(crate) fn splits(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self
            .extra
            .get("splits")
            .and_then(|splits| splits.as_object());
        fields
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
    }

    /// Writes the solution as a reward compares it, where it is spelled otherwise and clear.
    pub(crate) fn spell_solution(&mut self) {
        if let Some(solution) = solutions::respelling(self) {
            self.solution = solution;
        }
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

/// A judge's task, or why it is none.
fn judge_task<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<JudgeTask>, D::Error> {
    let task = Option::<serde_json::Value>::deserialize(deserializer)?;
    task.map(serde_json::from_value)
        .transpose()
        .map_err(|error| {
            serde::de::Error::custom(format!(
                "`judge`: {error}: write {{\"open\": QUESTION}} or {{\"caption\": QUESTION WITH OPTIONS}}, or leave it out"
            ))
        })
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
            judge: None,
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
    fn a_judge_task_that_is_none_is_refused() {
        let read = |judge: &str| {
            let line = format!(r#"{{"problem":"Why?","solution":"x","video":"a.mp4"{judge}}}"#);
            serde_json::from_str::<Question>(&line).map(|question| question.judge)
        };
        let open = r#","judge":{"open":"Why?"}"#;
        assert_eq!(read(open).unwrap(), Some(JudgeTask::Open("Why?".into())));
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read(r#","judge":null"#).unwrap(), None);
        for bad in [
            r#","judge":"me""#,
            r#","judge":{"oepn":"Why?"}"#,
            r#","judge":{"open":3}"#,
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(
                error.contains("`judge`: ") && error.contains("leave it out"),
                "{error}"
            );
        }
    }
}
