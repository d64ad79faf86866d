//! Fields by which other programs change what they do, and this one does not: they are kept, and it is said once.

use super::clip_field::FRAME_SETTINGS;
use super::clip_field::frame_setting;
use super::fragment::seconds;
use super::shapes::CONVERSATIONS;
use serde_json::Map;
use serde_json::Value;

/// Fields that may name a part of the clip, and may mean something else.
const TIMES: [&str; 21] = [
    "start",
    "end",
    "start_time",
    "end_time",
    "start_sec",
    "end_sec",
    "timestamp",
    "timestamps",
    "clip_start",
    "clip_end",
    "start_frame",
    "end_frame",
    "starts",
    "ends",
    "begin",
    "segment",
    "span",
    "interval",
    "bound",
    "ts",
    "frame_indices",
];
/// What other programs say to the model besides the question.
const SAID: [&str; 8] = [
    "system",
    "history",
    "context",
    "instruction",
    "input",
    "subtitles",
    "subtitle_path",
    "hint",
];
/// How a trainer weighs a record.
const WEIGHTS: [&str; 2] = ["loss", "weight"];

const NO_PART: &str = "is kept and not taken for a part of the clip; what is, are `video_start` and `video_end` in seconds, or #t=FROM,TO \
                       behind the path (`data import --columns video_start=start,video_end=end` takes them)";
const SETTINGS: &str = "does not count: `video.…` of the config says for all clips which frames are taken, and how large";
const WEIGHED: &str = "does not count: every question weighs the same";

/// Such fields of a record.
pub(super) fn fields(record: &Map<String, Value>) -> Vec<&'static str> {
    let value = |name: &str| record.get(name);
    let is_there = |name: &str, says: fn(&Value) -> bool| value(name).is_some_and(says);
    let mut found: Vec<&'static str> = Vec::new();
    found.extend(TIMES.into_iter().filter(|name| is_there(name, is_time)));
    // By itself it tells about the file; with a start it would name a part.
    let has_start = !found.is_empty() || is_there("video_start", is_time);
    let length = ["duration"].into_iter();
    found.extend(length.filter(|name| has_start && is_there(name, is_time)));
    let inside = ["video", "videos"].into_iter().chain(CONVERSATIONS);
    let inside = inside.filter_map(|name| frame_setting(value(name)?));
    let beside = FRAME_SETTINGS.into_iter().chain(["frames"]);
    found.extend(beside.filter(|name| is_there(name, says_something)));
    found.extend(inside.take(1).filter(|name| value(name).is_none()));
    // What was taken for the question is said.
    let is_question = |name: &&str| value(name) == value("problem");
    let said = SAID.into_iter().filter(|name| !is_question(name));
    let others = ["audio", "audios"].into_iter().chain(said);
    found.extend(others.filter(|name| is_there(name, says_something)));
    found.extend(WEIGHTS.into_iter().filter(|name| is_there(name, weighs)));
    let turns = CONVERSATIONS
        .into_iter()
        .filter_map(|name| value(name)?.as_array());
    let mut turns = turns.flatten().filter_map(Value::as_object);
    let of_turn = |turn: &Map<String, Value>| {
        let mut names = WEIGHTS.into_iter();
        names.find(|name| turn.get(*name).is_some_and(weighs))
    };
    found.extend(turns.find_map(of_turn).filter(|name| value(name).is_none()));
    found
}

/// What becomes of such a field, and what to do.
pub(super) fn advice(name: &str) -> &'static str {
    match name {
        "duration" => {
            "is kept and does not end the part of the clip: `video_end` does, in seconds of the clip"
        }
        "audio" | "audios" => "does not count: the model sees and does not hear",
        _ if SAID.contains(&name) => {
            "is not said to the model: put its words into `problem` where they matter"
        }
        _ if TIMES.contains(&name) => NO_PART,
        _ if WEIGHTS.contains(&name) => WEIGHED,
        _ => SETTINGS,
    }
}

/// The same in an import's list of remarks.
pub(super) fn remark(name: &str) -> &'static str {
    match name {
        "duration" => "lengths beside a start, which end no part of the clip (`video_end` does)",
        "audio" | "audios" => "sounds, which the model does not hear",
        _ if SAID.contains(&name) => "words beside the question, which are not said to the model",
        _ if TIMES.contains(&name) => {
            "times beside the clip, kept and not taken for a part of it (--columns video_start=start,video_end=end takes them)"
        }
        _ if WEIGHTS.contains(&name) => {
            "weights, kept and not used: every question weighs the same"
        }
        _ => {
            "frames or pixels that a record sets for its clip, which `video.…` of the config sets here for all"
        }
    }
}

fn is_time(value: &Value) -> bool {
    match value {
        Value::Number(_) => true,
        Value::String(text) => seconds(text.trim()).is_some(),
        Value::Array(times) => !times.is_empty() && times.iter().all(Value::is_number),
        _ => false,
    }
}

/// Columns of parquet files hold every key.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(values) => values.iter().any(says_something),
        Value::Object(fields) => fields.values().any(says_something),
        _ => true,
    }
}

/// Whether it asks for another weight than that of all.
fn weighs(value: &Value) -> bool {
    match value {
        Value::Bool(counts) => !counts,
        Value::Number(weight) => weight.as_f64() != Some(1.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_other_programs_act_upon_is_named() {
        for (more, named) in [
            (json!({"start": 1, "end": "2.5"}), &["start", "end"][..]),
            (json!({"timestamp": [1, 2]}), &["timestamp"]),
            (json!({"start": "at once", "end": null}), &[]),
            (json!({"duration": 12.5}), &[]),
            (json!({"video_start": 1, "duration": 12.5}), &["duration"]),
            (json!({"duration": "short"}), &[]),
            (
                json!({"fps": 2, "max_pixels": 9, "nframes": null}),
                &["fps", "max_pixels"],
            ),
            (json!({"video": {"path": "a.mp4", "fps": 2}}), &["fps"]),
            (
                json!({"fps": 1, "video": [{"video": "a.mp4", "fps": 2}]}),
                &["fps"],
            ),
            (
                json!({"frames": ["1.jpg"], "audios": ["a.wav"]}),
                &["frames", "audios"],
            ),
            (
                json!({"frames": [], "audios": [{"path": null}], "system": " "}),
                &[],
            ),
            (
                json!({"system": "Be brief.", "loss": false, "weight": 0.5}),
                &["system", "loss", "weight"],
            ),
            (json!({"loss": true, "weight": 1}), &[]),
            (
                json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "loss": false}]}),
                &["loss"],
            ),
        ] {
            assert_eq!(fields(more.as_object().unwrap()), named, "{more}");
        }
        assert!(advice("end").contains("video_start"));
        assert!(advice("nframes").contains("`video.…`"));
        assert!(advice("loss").contains("weighs the same"));
    }
}
