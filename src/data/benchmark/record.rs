//! What the benchmarks' records have in common: fields of text, options in several shapes, the Video-R1 family's record.

use super::records::Record;
use crate::data::Question;
use crate::data::clip_field;
use crate::data::placeholder;
use crate::data::shapes::option_texts;
use serde_json::Map;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

impl Record<'_> {
    /// A field that must be text; a number is taken as its digits.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        self.optional_text(name)
            .ok_or_else(|| format!("the field `{name}` is missing or no text"))
    }

    /// A field that may be text.
    pub(super) fn optional_text(&self, name: &str) -> Option<String> {
        match self.fields.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The texts of a list, or of an object with the keys A, B, …, without empty ones at the end.
    pub(super) fn options(&self, name: &str) -> Result<Vec<String>, String> {
        option_texts(name, self.fields.get(name).unwrap_or(&Value::Null))
    }

    /// The clip's path, under any name that a question file may have for it.
    pub(super) fn clip(&self) -> Result<Option<String>, String> {
        let mut named = Map::new();
        for name in clip_field::NAMES {
            if let Some(value) = self.fields.get(name) {
                named.insert(name.to_owned(), value.clone());
            }
        }
        clip_field::name_clip(&mut named)?;
        Ok(match named.get("video") {
            Some(Value::String(clip)) => Some(clip.clone()),
            _ => None,
        })
    }

    /// Whether this is a record of the Video-R1 family.
    pub(super) fn is_family(&self) -> bool {
        self.fields.contains_key("problem")
    }

    /// `{problem, options, solution: "<answer>A</answer>", video or path, problem_type}` as a question, with the clip's path
    /// as `clip` shortens it. It has no id and no splits yet.
    pub(super) fn family(&self, clip: impl Fn(&str) -> PathBuf) -> Result<Question, String> {
        let video = self.clip()?.ok_or(
            "no clip is named: a record has its path in `video`, `path`, `video_path` or `videos`",
        )?;
        let options = match self.fields.get("options") {
            None | Some(Value::Null) => Vec::new(),
            Some(_) => self.options("options")?,
        };
        let problem = self.text("problem")?;
        let problem = placeholder::taken_out(&problem)?.unwrap_or(problem);
        let question = question(problem, options, &self.text("solution")?, clip(&video));
        Ok(Question {
            problem_type: self.optional_text("problem_type"),
            ..question
        })
    }
}

/// A question without id and splits. `answer` is a letter, several, or words; tags around it stay.
pub(super) fn question(
    problem: String,
    options: Vec<String>,
    answer: &str,
    video: PathBuf,
) -> Question {
    let solution = if answer.contains("<answer>") {
        answer.to_owned()
    } else {
        format!("<answer>{}</answer>", answer.trim())
    };
    Question {
        id: String::new(),
        problem,
        solution,
        video,
        kind: None,
        options: (!options.is_empty()).then_some(options),
        problem_type: None,
        response: None,
        wording: None,
        grounding: None,
        judge: None,
        extra: Map::new(),
    }
}

/// Adds what the question is sorted under; names without a value are left out.
pub(super) fn with_splits<const N: usize>(
    mut question: Question,
    splits: [(&str, Option<String>); N],
) -> Question {
    let splits: Map<String, Value> = splits
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?))))
        .collect();
    if !splits.is_empty() {
        question
            .extra
            .insert("splits".into(), Value::Object(splits));
    }
    question
}

/// What follows `marker` in a path or address, else its file name.
pub(super) fn path_after(path: &str, marker: &str) -> PathBuf {
    match path.split_once(marker) {
        Some((_, rest)) => PathBuf::from(rest),
        None => PathBuf::from(Path::new(path).file_name().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_clip_has_the_names_that_question_files_have_for_it() {
        let clip = |fields: Value| {
            let Value::Object(fields) = fields else {
                panic!("no object")
            };
            let record = Record {
                path: Path::new("q.json"),
                index: 0,
                key: None,
                fields,
                blobs: Vec::new(),
            };
            record
                .family(|clip| PathBuf::from(clip))
                .map(|question| (question.problem, question.video))
        };
        for named in [
            json!({"video": "a.mp4"}),
            json!({"path": "./a.mp4"}),
            json!({"video": null, "video_path": "a.mp4"}),
            json!({"videos": ["a.mp4"]}),
            json!({"video": {"path": "a.mp4", "bytes": null}}),
            json!({"video": "file:///a.mp4"}),
        ] {
            let mut record = json!({"problem": "<video>Why?", "solution": "A"});
            let fields = named.as_object().unwrap().clone();
            record.as_object_mut().unwrap().extend(fields);
            let (problem, clip) = clip(record).unwrap();
            assert_eq!(
                (problem.as_str(), clip.file_name().unwrap()),
                ("Why?", "a.mp4".as_ref()),
                "{named}"
            );
        }
        let error = clip(json!({"problem": "Why?", "solution": "A"})).unwrap_err();
        assert!(error.contains("`video`, `path`"), "{error}");
    }

    #[test]
    fn paths_are_taken_from_their_marker_on() {
        let path = |text| path_after(text, "/videos/");
        assert_eq!(
            path("https://host/x/videos/Art/1.mp4"),
            Path::new("Art/1.mp4")
        );
        assert_eq!(path("clips/1.mp4"), Path::new("1.mp4"));
    }
}
