//! The fields of a question under the names and in the forms that other projects give them.
//!
//! | field | also read |
//! |---|---|
//! | `problem` | `question` |
//! | `video` | `path`, `video_path`, `videos: ["a.mp4"]`, `{"path": "a.mp4", "start": 1, "end": 3}`, `{"type": "video", "video": "a.mp4"}`, `file:///…`; `video_start`, `video_end` |
//! | `solution` | `answer`, `ground_truth`, `reward_model.ground_truth`; a list of letters |
//! | `options` | `choices`, `candidates`; `{"A": …, "B": …}`, `[{"label": "A", "text": …}]`, a text with lines `A. …` |
//! | `response` | `process`, the written thinking of the Video-R1 family, with the solution behind it |
//!
//! The clip's placeholder (`<video>`) is taken out of the text. The first name counts where it is there. Two names that say different things are refused, but where published files have
//! both for different things: `path` beside `video`, `question` beside `problem`.

use super::answer::option::choices_in;
use super::answer::option::letter;
use super::answer::option::letters;
use super::answer::option::option_mark;
use super::answer_field;
use super::clip_field;
use super::placeholder;
use crate::util::words::beginning;
use serde_json::Map;
use serde_json::Value;

/// Fields that hold the options where there are no `options`.
const OPTIONS: [&str; 2] = ["choices", "candidates"];
/// Fields that hold a conversation.
pub(super) const CONVERSATIONS: [&str; 3] = ["conversations", "messages", "prompt"];

/// What was done to a record that may be worth saying.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The field that the solution was taken from, if not `solution`.
    pub(super) answer: Option<&'static str>,
    /// A placeholder of the clip was taken out of the text.
    pub(super) had_placeholder: bool,
}

/// Gives a record the fields of a question.
///
/// # Errors
/// Says what does not fit.
pub(super) fn to_question(fields: &mut Map<String, Value>) -> Result<Done, String> {
    if !has(fields, "problem") {
        if let Some(question) = taken(fields, "question") {
            fields.insert("problem".into(), question);
        } else if let Some(name) = CONVERSATIONS.into_iter().find(|name| has(fields, name)) {
            return Err(format!(
                "is a conversation (`{name}`), no question: `videothinker data import FILE --out OUT.jsonl` makes questions of it"
            ));
        }
    }
    clip_field::name_clip(fields)?;
    if let Some(clip) = fields.get("video").and_then(Value::as_str) {
        clip_field::refuse_address(clip)?;
    }
    let had_placeholder = take_placeholder(fields)?;
    let asked = fields
        .get("problem")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let answer = name_options_and_solution(fields, &asked)?;
    name_kind(fields);
    name_response(fields);
    Ok(Done {
        answer,
        had_placeholder,
    })
}

/// Takes the clip's placeholder out of the problem; whether there was one.
pub(super) fn take_placeholder(fields: &mut Map<String, Value>) -> Result<bool, String> {
    let Some(Value::String(problem)) = fields.get_mut("problem") else {
        return Ok(false);
    };
    let without = placeholder::taken_out(problem)?;
    let had_one = without.is_some();
    if let Some(without) = without {
        *problem = without;
    }
    Ok(had_one)
}

/// Puts options and answer where they belong, of a record that asks `problem`.
pub(super) fn name_options_and_solution(
    fields: &mut Map<String, Value>,
    problem: &str,
) -> Result<Option<&'static str>, String> {
    name_options(fields)?;
    let listed = fields.get("options").and_then(Value::as_array);
    let listed: Vec<String> = listed
        .into_iter()
        .flatten()
        .filter_map(|option| option.as_str().map(str::to_owned))
        .collect();
    refuse_shuffled(&listed)?;
    let choices = if listed.is_empty() {
        choices_in(problem)
    } else {
        bare(&listed).into_iter().map(str::to_owned).collect()
    };
    answer_field::name_solution(fields, &choices)
}

/// Options that carry letters of their own are asked in the order of these: another order would give the answer's letter to
/// another option.
fn refuse_shuffled(options: &[String]) -> Result<(), String> {
    let marks: Option<Vec<usize>> = options
        .iter()
        .map(|option| Some(option_mark(option)?.0))
        .collect();
    let Some(marks) = marks else {
        return Ok(());
    };
    let mut sorted = marks.clone();
    sorted.sort_unstable();
    if sorted == marks || !sorted.iter().copied().eq(0..marks.len()) {
        return Ok(());
    }
    let letters: Vec<String> = marks
        .iter()
        .filter_map(|&index| letter(index))
        .map(String::from)
        .collect();
    Err(format!(
        "`options` carry the letters {}: put them in the order A, B, …, or leave the letters out",
        letters.join(", ")
    ))
}

/// `Observational` is `observational`.
pub(super) fn name_kind(fields: &mut Map<String, Value>) {
    if let Some(Value::String(kind)) = fields.get_mut("kind") {
        *kind = kind.trim().to_lowercase();
    }
}

/// Whether a field is there and not null.
pub(super) fn has(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

/// Takes a field out; the others keep their order.
pub(super) fn taken(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.shift_remove(name).filter(|value| !value.is_null())
}

/// Takes a field out that is null.
pub(super) fn taken_if_null(fields: &mut Map<String, Value>, name: &str) {
    if fields.get(name).is_some_and(Value::is_null) {
        fields.shift_remove(name);
    }
}

/// Puts the options into `options`, as a list of texts.
fn name_options(fields: &mut Map<String, Value>) -> Result<(), String> {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    };
    let is_read_as_it_is = |value: &Value| {
        let list = value.as_array();
        list.is_some_and(|list| list.len() <= MOST_OPTIONS && list.iter().all(Value::is_string))
    };
    let own = fields.get("options").filter(|value| !is_empty(value));
    if let Some(value) = own.filter(|value| !is_read_as_it_is(value)) {
        let texts = option_texts("options", value)?;
        fields.insert("options".into(), texts.into());
    }
    for name in OPTIONS {
        let Some(value) = fields.get(name).filter(|value| !is_empty(value)) else {
            continue;
        };
        let texts = option_texts(name, value);
        match fields.get("options").filter(|value| !is_empty(value)) {
            None => {
                let texts = texts?;
                fields.insert("options".into(), texts.into());
                fields.shift_remove(name);
            }
            Some(options) => {
                let options = option_texts("options", options).unwrap_or_default();
                if texts.is_ok_and(|texts| bare(&options) != bare(&texts)) {
                    return Err(format!(
                        "`options` and `{name}` list different options: keep one of them"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Options without their marks.
fn bare(options: &[String]) -> Vec<&str> {
    let text = |option| option_mark(option).map_or(option, |(_, text)| text);
    options.iter().map(|option| text(option).trim()).collect()
}

/// The texts of a list, of an object with the keys A, B, …, or of a text with lines `A. …`, without empty ones at the end.
///
/// # Errors
/// It is nothing of that.
pub(super) fn option_texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let texts = match value {
        Value::Array(values) => values
            .iter()
            .enumerate()
            .map(|(index, value)| option_text(name, index, value))
            .collect::<Result<_, _>>()?,
        Value::Object(named) => lettered(name, named)?,
        Value::String(text) => options_in_text(name, text)?,
        Value::Null => {
            return Err(format!(
                "the field `{name}` is missing or no list of options"
            ));
        }
        other => return Err(format!("`{name}` is {other}: {WRITE_OPTIONS}")),
    };
    if texts.len() > MOST_OPTIONS {
        return Err(too_many(name, texts.len()));
    }
    let mut texts: Vec<String> = texts;
    while texts.last().is_some_and(String::is_empty) {
        texts.pop();
    }
    Ok(texts)
}

const WRITE_OPTIONS: &str = "write a list of texts, [\"left\", \"right\"]";

fn lettered(name: &str, named: &Map<String, Value>) -> Result<Vec<String>, String> {
    let listed: Vec<&Value> = letters()
        .map_while(|letter| named.get(&letter.to_string()))
        .collect();
    if listed.len() < named.len() {
        let keys: Vec<&str> = named.keys().map(String::as_str).collect();
        return Err(format!(
            "the options in `{name}` are not lettered A, B, … without a gap: {}",
            keys.join(", ")
        ));
    }
    let listed = listed.into_iter().enumerate();
    listed
        .map(|(index, value)| option_text(name, index, value))
        .collect()
}

/// The options in one text: lines with marks, or a list written as JSON.
fn options_in_text(name: &str, text: &str) -> Result<Vec<String>, String> {
    if let Ok(list @ Value::Array(_)) = serde_json::from_str(text) {
        return option_texts(name, &list);
    }
    let marked = choices_in(text);
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    if marked.len() > 1 && marked.len() == lines.count() {
        return Ok(marked);
    }
    Err(format!(
        "`{name}` is one text, {:?}, and not a line `A. …` for each option: {WRITE_OPTIONS}",
        beginning(text, 60)
    ))
}

/// The text of the option at `index`: a text, a number, or an object that has its letter and its text.
fn option_text(name: &str, index: usize, value: &Value) -> Result<String, String> {
    let refused = || {
        format!(
            "option {} in `{name}` is no text but {}: {WRITE_OPTIONS}",
            letter(index).map_or_else(|| (index + 1).to_string(), String::from),
            beginning(&value.to_string(), 60)
        )
    };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        Value::Object(option) => {
            let text = |names: [&str; 4]| {
                let value = names.into_iter().find_map(|name| option.get(name))?;
                value.as_str().map(str::to_owned)
            };
            let own = letter(index).map(String::from);
            let marked = text(["label", "key", "letter", "id"]);
            let said = text(["text", "content", "value", "option"]);
            match (option.len(), own, marked, said) {
                (2, Some(own), Some(marked), Some(said)) if own == marked => Ok(said),
                (1, _, _, Some(said)) => Ok(said),
                (1, Some(own), _, None) => match option.get(&own) {
                    Some(Value::String(said)) => Ok(said.clone()),
                    _ => Err(refused()),
                },
                _ => Err(refused()),
            }
        }
        _ => Err(refused()),
    }
}

/// There are so many letters.
const MOST_OPTIONS: usize = 26;

fn too_many(name: &str, count: usize) -> String {
    format!("`{name}` holds {count} options, more than there are letters")
}

/// Makes a worked answer of written thinking.
fn name_response(fields: &mut Map<String, Value>) {
    if fields.contains_key("response") {
        return;
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let (process, solution) = (text("process"), text("solution"));
    if !process.trim().is_empty() {
        let response = format!("{process}\n{solution}");
        fields.insert("response".into(), response.into());
    }
}

/// Whether a text holds an object a line; `by_name`: whether its file is called so. A list is one whatever it is called, and so are
/// lines of whole objects.
pub(super) fn holds_lines(text: &str, by_name: bool) -> bool {
    let text = text.trim_start();
    if by_name {
        return !text.starts_with('[');
    }
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let is_object = |line: &str| serde_json::from_str::<Map<String, Value>>(line).is_ok();
    lines.next().is_some_and(is_object) && lines.next().is_some_and(is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(record: Value) -> Result<Value, String> {
        let Value::Object(mut fields) = record else {
            panic!("no object")
        };
        to_question(&mut fields)?;
        Ok(Value::Object(fields))
    }

    fn clip(fields: &Value) -> Result<String, String> {
        let mut record = json!({"problem": "Why?", "solution": "A"});
        record
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        Ok(read(record)?["video"].as_str().unwrap().to_owned())
    }

    #[test]
    fn options_with_letters_in_another_order_are_refused() {
        let asked = |options: &[&str]| {
            read(
                json!({"problem": "Where?", "options": options, "solution": "A", "video": "a.mp4"}),
            )
        };
        for options in [
            &["B. red", "A. blue"][..],
            &["C. a", "D. b", "A. c", "B. d"],
        ] {
            let error = asked(options).unwrap_err();
            assert!(error.contains("put them in the order A, B"), "{error}");
        }
        for options in [
            &["A. red", "B. blue"][..],
            &["D. Smith", "A. Jones"],
            &["red", "A. Jones"],
        ] {
            asked(options).unwrap();
        }
    }

    #[test]
    fn clips_are_found_under_every_name() {
        for (fields, expected) in [
            (json!({"video": "a.mp4"}), "a.mp4"),
            (json!({"path": "./a.mp4"}), "a.mp4"),
            (json!({"video": "/x/b.mp4", "path": "./a.mp4"}), "/x/b.mp4"),
            (json!({"videos": ["a.mp4"]}), "a.mp4"),
            (json!({"video": ["a.mp4"]}), "a.mp4"),
            (json!({"video": {"path": "a.mp4", "bytes": null}}), "a.mp4"),
            (
                json!({"video": null, "videos": [{"path": "a.mp4"}]}),
                "a.mp4",
            ),
            (json!({"video": "a.mp4", "videos": ["a.mp4"]}), "a.mp4"),
            (json!({"video": "a.mp4", "videos": []}), "a.mp4"),
            (
                json!({"video": "file:///d/my%20clip%c3%a9.mp4#t=1,2"}),
                "/d/my clipé.mp4#t=1,2",
            ),
            (
                json!({"videos": ["file://localhost/d/100%.mp4"]}),
                "/d/100%.mp4",
            ),
            (json!({"path": "file:///C:/d/a.mp4"}), "C:/d/a.mp4"),
        ] {
            assert_eq!(clip(&fields).as_deref(), Ok(expected), "{fields}");
        }
        for (fields, expected) in [
            (json!({"videos": []}), "`videos` is empty"),
            (
                json!({"videos": ["a.mp4", "b.mp4"]}),
                "`videos` names 2 files",
            ),
            (json!({"video": ["1.jpg", "2.jpg"]}), "name the folder"),
            (
                json!({"video": "a.mp4", "videos": ["b.mp4"]}),
                "keep one of them",
            ),
            (
                json!({"video": {"path": "a.mp4", "bytes": "x"}}),
                "--video-dir",
            ),
            (json!({"video": {"url": "a.mp4"}}), "without a `path`"),
            (json!({"video": "file://host/a.mp4"}), "machine `host`"),
            (json!({"video": "file:///%ff.mp4"}), "no UTF-8"),
        ] {
            let error = clip(&fields).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn answers_and_options_are_found_under_every_name() {
        let record = |more: Value| {
            let mut record = json!({"question": "Why?", "video": "a.mp4"});
            record
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            read(record)
        };
        let read = record(json!({"answer": 3, "choices": {"A": "red", "B": 4, "C": ""}})).unwrap();
        assert_eq!(
            read,
            json!({"video": "a.mp4", "problem": "Why?", "options": ["red", "4"], "solution": "3"})
        );
        let read = record(
            json!({"ground_truth": "B", "options": {"A": "red", "B": "blue"}, "candidates": ["red", "B. blue"]}),
        );
        assert_eq!(read.unwrap()["options"], json!(["red", "blue"]));
        let kept = json!({"solution": "<answer>A</answer>", "answer": "red", "choices": 4, "options": ["red", ""]});
        let read = record(kept.clone()).unwrap();
        for (name, value) in kept.as_object().unwrap() {
            assert_eq!(&read[name], value);
        }
        for (fields, expected) in [
            (
                json!({"answer": "A", "ground_truth": "blue", "options": ["red", "blue"]}),
                "`answer` says \"A\" and `ground_truth` says \"blue\"",
            ),
            (
                json!({"problem": "Why?\nA. red\nB. blue", "solution": "<answer>A</answer>", "answer": "blue"}),
                "`answer` says \"blue\"",
            ),
            (
                json!({"answer": "A", "options": "red, blue"}),
                "`options` is one text, \"red, blue\", and not a line `A. …` for each option: write a list",
            ),
            (
                json!({"answer": "A", "choices": "red"}),
                "`choices` is one text",
            ),
            (
                json!({"answer": "A", "options": ["red", {"color": "blue", "x": 1}]}),
                "option B in `options` is no text but {\"color\":\"blue\",\"x\":1}: write a list",
            ),
            (
                json!({"answer": "A", "options": [["A", "red"]]}),
                "option A in `options` is no text but [\"A\",\"red\"]",
            ),
            (
                json!({"answer": "A", "options": [{"label": "B", "text": "red"}]}),
                "option A in `options` is no text",
            ),
            (
                json!({"answer": "A", "options": 3}),
                "`options` is 3: write a list",
            ),
            (
                json!({"answer": "A", "options": {"A": "x", "C": "y"}}),
                "without a gap",
            ),
            (
                json!({"answer": "A", "options": ["x"], "choices": ["y"]}),
                "different options",
            ),
        ] {
            let error = record(fields).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn options_are_read_in_every_form() {
        for options in [
            json!(["red", 4]),
            json!({"A": "red", "B": "4"}),
            json!("A. red\nB. 4"),
            json!("(A) red\n(B) 4\n"),
            json!("[\"red\", \"4\"]"),
            json!([{"label": "A", "text": "red"}, {"label": "B", "text": "4"}]),
            json!([{"A": "red"}, {"B": "4"}]),
            json!([{"text": "red"}, {"text": "4"}]),
        ] {
            let record =
                json!({"problem": "Why?", "answer": "A", "video": "a.mp4", "options": options});
            assert_eq!(
                read(record).unwrap()["options"],
                json!(["red", "4"]),
                "{options}"
            );
        }
    }

    #[test]
    fn parts_of_clips_are_named_beside_and_inside() {
        for (fields, expected) in [
            (
                json!({"video": "a.mp4", "video_start": 1.0, "video_end": 2.0}),
                "a.mp4#t=1,2",
            ),
            (json!({"video": "a.mp4", "video_start": 1.5}), "a.mp4#t=1.5"),
            (json!({"video": "a.mp4", "video_end": "2"}), "a.mp4#t=0,2"),
            (json!({"video": "a.mp4", "video_start": null}), "a.mp4"),
            (json!({"path": "./a.mp4", "video_end": 2}), "a.mp4#t=0,2"),
            (
                json!({"videos": [{"path": "a.mp4", "start": 1, "end": 2}]}),
                "a.mp4#t=1,2",
            ),
            (
                json!({"video": {"path": "a.mp4", "start_time": 1}}),
                "a.mp4#t=1",
            ),
        ] {
            assert_eq!(clip(&fields).as_deref(), Ok(expected), "{fields}");
        }
        for (fields, expected) in [
            (
                json!({"video": "a.mp4", "video_start": 5, "video_end": 2}),
                "`video_start`, `video_end`: ends at 2 s",
            ),
            (
                json!({"video": "a.mp4", "video_end": "nan"}),
                "`video_end` is \"nan\": a time is a number",
            ),
            (
                json!({"video": {"path": "a.mp4", "start": -1}}),
                "`start`, `end`: names no time",
            ),
            (
                json!({"video": {"path": "a.mp4#t=1,2", "start": 1, "end": 3}}),
                "keep one of them",
            ),
        ] {
            let error = clip(&fields).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn conversations_are_sent_to_the_converter() {
        for name in CONVERSATIONS {
            let error = read(json!({name: [], "videos": ["a.mp4"]})).unwrap_err();
            assert!(
                error.contains(name) && error.contains("data import"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_is_what_it_holds_and_not_what_it_is_called() {
        let (array, lines) = ("[{\"a\": 1}]", "{\"a\": 1}\n\n{\"a\": 2}\n");
        for by_name in [true, false] {
            assert!(!holds_lines(array, by_name));
            assert!(holds_lines(lines, by_name));
        }
        // One object over several lines is a benchmark's, by its clips.
        assert!(!holds_lines("{\n\"a\": {}\n}", false));
        assert!(!holds_lines("{\"a\": {}}", false));
        assert!(!holds_lines("", false) && holds_lines("", true));
    }
}
