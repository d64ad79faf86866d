//! The fields of a question under the names and in the forms that other projects give them.
//!
//! | field | also read |
//! |---|---|
//! | `problem` | `question` |
//! | `video` | `path`, `videos: ["a.mp4"]`, `{"path": "a.mp4"}`, `file:///…` |
//! | `solution` | `answer`, `ground_truth` |
//! | `options` | `choices`, `candidates`; `{"A": …, "B": …}` |
//! | `response` | `process`, the written thinking of the Video-R1 family, with the solution behind it |
//!
//! The first name counts where it is there. Two names that say different things are refused, but where published files have
//! both for different things: `path` beside `video`, `question` beside `problem`.

use super::answer::Answer;
use super::answer::option::letter_index;
use super::answer::option::letters;
use super::answer::option::option_mark;
use serde_json::Map;
use serde_json::Value;

/// Fields that hold the answer where there is no `solution`.
const ANSWERS: [&str; 2] = ["answer", "ground_truth"];
/// Fields that hold the options where there are no `options`.
const OPTIONS: [&str; 2] = ["choices", "candidates"];
/// Fields that hold a conversation.
pub(super) const CONVERSATIONS: [&str; 3] = ["conversations", "messages", "prompt"];

/// Gives a record the fields of a question; the name of the field that the solution was taken from, if not `solution`.
///
/// # Errors
/// Says what does not fit.
pub(super) fn to_question(fields: &mut Map<String, Value>) -> Result<Option<&'static str>, String> {
    if !has(fields, "problem") {
        if let Some(question) = taken(fields, "question") {
            fields.insert("problem".into(), question);
        } else if let Some(name) = CONVERSATIONS.into_iter().find(|name| has(fields, name)) {
            return Err(format!(
                "is a conversation (`{name}`), no question: `videothinker data import FILE --out OUT.jsonl` makes questions of it"
            ));
        }
    }
    name_clip(fields)?;
    name_options(fields)?;
    let named = name_solution(fields)?;
    name_kind(fields);
    name_response(fields);
    Ok(named)
}

/// `Observational` is `observational`.
pub(super) fn name_kind(fields: &mut Map<String, Value>) {
    if let Some(Value::String(kind)) = fields.get_mut("kind") {
        *kind = kind.trim().to_lowercase();
    }
}

/// Whether a field is there and not null.
fn has(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

/// Takes a field out; the others keep their order.
pub(super) fn taken(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.shift_remove(name).filter(|value| !value.is_null())
}

/// Puts the one clip into `video`. Whatever is no path stays for the reader to complain about.
pub(super) fn name_clip(fields: &mut Map<String, Value>) -> Result<(), String> {
    let mut clip = None;
    if let Some(value) = fields.get("video").filter(|value| !value.is_null()) {
        match clip_in("video", value)? {
            Some(named) => clip = Some(named),
            None => return Ok(()),
        }
    } else if let Some(Value::String(path)) = fields.get("path") {
        let path = local_path(path)?;
        clip = Some(path.strip_prefix("./").unwrap_or(&path).to_owned());
    }
    let videos = fields.get("videos").filter(|value| !value.is_null());
    let is_empty = |value: &&Value| value.as_array().is_some_and(Vec::is_empty);
    if let Some(videos) = videos.filter(|value| clip.is_none() || !is_empty(value))
        && let Some(other) = clip_in("videos", videos)?
    {
        match clip {
            Some(clip) if clip != other => {
                return Err(format!(
                    "`videos` names {other}, but the clip is {clip}: keep one of them"
                ));
            }
            _ => clip = Some(other),
        }
        fields.shift_remove("videos");
    }
    if let Some(clip) = clip {
        fields.insert("video".into(), clip.into());
    }
    Ok(())
}

/// The path of the one clip in a value: a text, a list of one, or `{"path": …}`; `None` where it is nothing of that.
pub(super) fn clip_in(name: &str, value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::String(path) => local_path(path).map(Some),
        Value::Array(clips) => match clips.as_slice() {
            [one] => clip_in(name, one),
            [] => Err(format!(
                "`{name}` is empty: a question is about one clip, name it"
            )),
            several => Err(format!(
                "`{name}` names {} files: a question is about one clip; of a clip's frames, name the folder they lie in",
                several.len()
            )),
        },
        Value::Object(clip) if has(clip, "bytes") => Err(format!(
            "`{name}` holds the clip itself: `videothinker data import FILE --video-dir DIR --out OUT.jsonl` writes it to a file"
        )),
        Value::Object(clip) => match clip.get("path") {
            Some(Value::String(path)) => local_path(path).map(Some),
            _ => Err(format!(
                "`{name}` is an object without a `path`: name the clip's file"
            )),
        },
        _ => Ok(None),
    }
}

/// A path as it is, or the one that a `file://` URL stands for.
pub(super) fn local_path(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix("file://") else {
        return Ok(text.to_owned());
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !(host.is_empty() || host == "localhost") || path.is_empty() {
        return Err(format!(
            "{text} names a file of the machine `{host}`: write file:///FOLDER/CLIP, or the path itself"
        ));
    }
    let path = percent_decoded(path).ok_or_else(|| {
        format!("{text} is no UTF-8 once its %XX are decoded: write the path itself")
    })?;
    let has_drive =
        matches!(path.as_bytes(), [b'/', drive, b':', ..] if drive.is_ascii_alphabetic());
    Ok(path[usize::from(has_drive)..].to_owned())
}

/// `%20` and its like as what they stand for; `None` where that is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = &behind[if code.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).ok()
}

/// Puts the options into `options`, as a list of texts.
pub(super) fn name_options(fields: &mut Map<String, Value>) -> Result<(), String> {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    if let Some(value) = fields.get("options").filter(|value| !is_empty(value)) {
        let is_read_as_it_is = |list: &Vec<Value>| list.iter().all(|item| !item.is_number());
        if let Some(list) = value.as_array().filter(|list| list.len() > MOST_OPTIONS) {
            return Err(too_many("options", list.len()));
        }
        if !value.as_array().is_some_and(is_read_as_it_is)
            && (value.is_array() || value.is_object())
        {
            let texts = option_texts("options", value)?;
            fields.insert("options".into(), texts.into());
        }
    }
    for name in OPTIONS {
        let Some(texts) = fields
            .get(name)
            .and_then(|value| option_texts(name, value).ok())
        else {
            continue;
        };
        match fields.get("options").filter(|value| !is_empty(value)) {
            None => {
                fields.insert("options".into(), texts.into());
                fields.shift_remove(name);
            }
            Some(options) => {
                let options = option_texts("options", options).unwrap_or_default();
                if bare(&options) != bare(&texts) {
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

/// The texts of a list, or of an object with the keys A, B, …, without empty ones at the end.
///
/// # Errors
/// It is nothing of that.
pub(super) fn option_texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let values: Vec<&Value> = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(named) => {
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
            listed
        }
        _ => {
            return Err(format!(
                "the field `{name}` is missing or no list of options"
            ));
        }
    };
    let texts = values.into_iter().map(|value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(format!("an option in `{name}` is no text")),
    });
    let mut texts = texts.collect::<Result<Vec<_>, _>>()?;
    if texts.len() > MOST_OPTIONS {
        return Err(too_many(name, texts.len()));
    }
    while texts.last().is_some_and(String::is_empty) {
        texts.pop();
    }
    Ok(texts)
}

/// There are so many letters.
const MOST_OPTIONS: usize = 26;

fn too_many(name: &str, count: usize) -> String {
    format!("`{name}` holds {count} options, more than there are letters")
}

/// Puts the answer into `solution`.
pub(super) fn name_solution(
    fields: &mut Map<String, Value>,
) -> Result<Option<&'static str>, String> {
    if let Some(solution) = fields.get("solution").filter(|value| !value.is_null()) {
        let solution = Answer::parse(solution.as_str().unwrap_or_default());
        let is_letters = |answer: &Answer| {
            !answer.is_empty() && answer.items().all(|item| letter_index(item).is_some())
        };
        for name in ANSWERS {
            // Beside a letter, the right option's text is usual.
            let other = fields.get(name).and_then(Value::as_str).unwrap_or_default();
            let other = Answer::parse(other);
            if is_letters(&solution) && is_letters(&other) && other != solution {
                return Err(format!(
                    "`solution` says {solution} and `{name}` {other}: keep one of them"
                ));
            }
        }
        return Ok(None);
    }
    let mut found: Option<(&'static str, String)> = None;
    for name in ANSWERS {
        let text = match fields.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => {
                return Err(format!(
                    "`{name}` is no text: write \"<answer>A,C</answer>\""
                ));
            }
        };
        match &found {
            None => found = Some((name, text)),
            Some((first, other)) if other.trim() != text.trim() => {
                return Err(format!(
                    "`{first}` says {other:?} and `{name}` {text:?}: keep one of them, as `solution`"
                ));
            }
            Some(_) => {}
        }
    }
    let Some((name, text)) = found else {
        return Ok(None);
    };
    fields.shift_remove(name);
    fields.insert("solution".into(), text.into());
    Ok(Some(name))
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

/// What a JSON reader says of a text, with what to do where it is a word of Python's.
pub(super) fn json_problem(text: &str, error: &serde_json::Error) -> String {
    let line = text.lines().nth(error.line().saturating_sub(1));
    let behind = line.and_then(|line| line.get(error.column().saturating_sub(1)..));
    let behind = behind.unwrap_or_default();
    let word = ["NaN", "Infinity", "-Infinity"].into_iter();
    match word.into_iter().find(|word| behind.starts_with(word)) {
        Some(word) => format!("{error}: {word} is no JSON, write null"),
        None => error.to_string(),
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
                json!({"answer": "A", "ground_truth": "B"}),
                "`ground_truth` \"B\"",
            ),
            (
                json!({"solution": "<answer>A</answer>", "answer": "B"}),
                "`answer` B",
            ),
            (json!({"answer": ["A"]}), "`answer` is no text"),
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
    fn words_of_pythons_are_named() {
        let text = "[1,\n {\"x\": NaN}]";
        let error = serde_json::from_str::<Value>(text).unwrap_err();
        assert!(json_problem(text, &error).ends_with("NaN is no JSON, write null"));
        let error = serde_json::from_str::<Value>("[1,").unwrap_err();
        assert_eq!(json_problem("[1,", &error), error.to_string());
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
