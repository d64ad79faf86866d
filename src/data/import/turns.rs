//! Conversations: who says what, as the projects write it, and the pairs of a question and its answer.

use super::record::LeftOut;
use super::record::NOT_ONE_CLIP;
use crate::data::clip_field;
use crate::data::placeholder;
use serde_json::Map;
use serde_json::Value;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    System,
    User,
    Assistant,
}

/// What is said in one turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub(super) role: Role,
    pub(super) text: String,
    /// The clips that stand in it, as they are named there.
    pub(super) clips: Vec<Value>,
    /// Whether an image stands in it.
    pub(super) has_image: bool,
}

/// A question and what is answered, where it is.
pub(super) type Pair = (String, Option<String>);

const BROKEN: &str = "a conversation that cannot be read";

/// The turns of a conversation, or of a text that the user says.
pub(super) fn turns(value: &Value, text_of: Role) -> Result<Vec<Turn>, LeftOut> {
    match value {
        Value::String(_) => Ok(vec![turn(text_of, value)?]),
        Value::Array(messages) => messages.iter().map(message).collect(),
        other => Err(LeftOut::new(BROKEN, short(other))),
    }
}

fn message(message: &Value) -> Result<Turn, LeftOut> {
    let text = |name| message.get(name).and_then(Value::as_str);
    let name = text("role").or_else(|| text("from")).unwrap_or_default();
    let role = match name.to_lowercase().as_str() {
        "system" | "developer" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" => Role::Assistant,
        _ => {
            return Err(LeftOut::new(
                "turns of others than a user and an assistant",
                short(message),
            ));
        }
    };
    let content = message.get("content").or_else(|| message.get("value"));
    turn(role, content.unwrap_or(&Value::Null))
}

fn turn(role: Role, content: &Value) -> Result<Turn, LeftOut> {
    let mut said = Turn {
        role,
        text: String::new(),
        clips: Vec::new(),
        has_image: false,
    };
    match content {
        Value::String(text) => said.text.clone_from(text),
        Value::Array(parts) => {
            for part in parts {
                add_part(&mut said, part)?;
            }
        }
        other => return Err(LeftOut::new(BROKEN, short(other))),
    }
    said.has_image |= has_image_beside(&said.text);
    Ok(said)
}

/// A part of a turn: `{type: "text", text}`, `{type: "video", video: …}`, or with its keys alone.
fn add_part(turn: &mut Turn, part: &Value) -> Result<(), LeftOut> {
    let Some(fields) = part.as_object() else {
        return match part {
            Value::String(text) => {
                turn.text.push_str(text);
                Ok(())
            }
            other => Err(LeftOut::new(BROKEN, short(other))),
        };
    };
    // Columns of parquet files hold every key, most of them null.
    let value = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let kind = value("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "image" | "image_url" => {
            turn.has_image = true;
            return Ok(());
        }
        "video" | "video_url" => {
            let url = value("video_url").map(|url| url.get("url").unwrap_or(url));
            let clip = ["video", "path", "url"].into_iter().find_map(value).or(url);
            if let Some(clip) = clip {
                turn.clips.push(clip_of(clip, fields)?);
            }
            return Ok(());
        }
        _ => {}
    }
    match (value("text"), value("video")) {
        (Some(Value::String(text)), _) => turn.text.push_str(text),
        (_, Some(clip)) => turn.clips.push(clip_of(clip, fields)?),
        _ if value("image").is_some() => turn.has_image = true,
        _ => return Err(LeftOut::new(BROKEN, short(part))),
    }
    Ok(())
}

/// A part of a turn that is a clip, with the bounds that stand beside it.
fn clip_of(clip: &Value, fields: &Map<String, Value>) -> Result<Value, LeftOut> {
    let named = clip_field::clip_in("video", clip).and_then(|path| {
        path.map(|path| clip_field::part_of(path, fields, &clip_field::INSIDE))
            .transpose()
    });
    let named = named.map_err(|problem| LeftOut::new(NOT_ONE_CLIP, problem))?;
    Ok(named.map_or_else(|| clip.clone(), Value::String))
}

/// The pairs of a conversation; the last may lack its answer.
pub(super) fn pairs(turns: &[Turn]) -> Result<Vec<Pair>, LeftOut> {
    let mut pairs: Vec<Pair> = Vec::new();
    for turn in turns {
        let is_open = pairs.last().is_some_and(|(_, answer)| answer.is_none());
        match turn.role {
            Role::System => {}
            Role::User if !is_open => pairs.push((asked(&turn.text)?, None)),
            Role::Assistant if is_open => {
                if let Some((_, answer)) = pairs.last_mut() {
                    *answer = Some(turn.text.clone());
                }
            }
            _ => {
                return Err(LeftOut::new(
                    "turns that do not alternate between user and assistant",
                    turn.text.chars().take(80).collect(),
                ));
            }
        }
    }
    Ok(pairs)
}

/// What a user's turn asks, without the placeholder of its clip.
fn asked(text: &str) -> Result<String, LeftOut> {
    let without = placeholder::taken_out(text);
    let without = without.map_err(|problem| LeftOut::new(NOT_ONE_CLIP, problem))?;
    Ok(without.unwrap_or_else(|| text.trim().to_owned()))
}

/// Whether a text places an image beside the clip; the placeholder of one alone may stand for the clip.
pub(super) fn has_image_beside(text: &str) -> bool {
    text.contains("<image>") && text.contains("<video>")
}

/// The beginning of a value, for messages.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    let start: String = text.chars().take(80).collect();
    if start.len() < text.len() {
        start + "…"
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(conversation: &Value) -> Result<Vec<Pair>, String> {
        let turns = turns(conversation, Role::User).map_err(|left| left.reason.to_owned())?;
        pairs(&turns).map_err(|left| left.reason.to_owned())
    }

    #[test]
    fn every_spelling_of_a_conversation_gives_its_pairs() {
        let expected = vec![("Why?\nA. x\nB. y".to_owned(), Some("B".to_owned()))];
        for conversation in [
            json!([{"from": "human", "value": "<video>\nWhy?\nA. x\nB. y"}, {"from": "gpt", "value": "B"}]),
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?\nA. x\nB. y <video>"}, {"role": "assistant", "content": "B"}]),
            json!([
                {"role": "user", "content": [{"type": "video", "text": null}, {"type": "text", "video": null, "text": "Why?\nA. x\nB. y"}]},
                {"role": "assistant", "content": [{"text": "B"}]}
            ]),
        ] {
            assert_eq!(read(&conversation).unwrap(), expected);
        }
        assert_eq!(
            read(&json!("In <image> why?")).unwrap(),
            [("In why?".to_owned(), None)]
        );
        for (broken, reason) in [
            (json!([{"role": "tool", "content": "x"}]), "others than"),
            (json!([{"role": "user", "content": 3}]), "cannot be read"),
            (json!([{"role": "assistant", "content": "x"}]), "alternate"),
            (
                json!([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]),
                "alternate",
            ),
            (json!({"x": 3}), "cannot be read"),
        ] {
            let error = read(&broken).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn clips_of_parts_keep_their_bounds() {
        let part = json!([{"role": "user", "content": [
            {"type": "video", "video": "a.mp4", "video_start": 1.5, "video_end": 3.0},
            {"type": "video", "video": "a.mp4", "video_start": 1.5},
            {"type": "video", "video": {"path": "a.mp4", "start": 0, "end": "2"}},
            {"type": "video_url", "video_url": {"url": "file:///b.mp4"}}, {"type": "text", "text": "Why?"}
        ]}]);
        let turns = turns(&part, Role::User).unwrap();
        assert_eq!(
            turns[0].clips,
            ["a.mp4#t=1.5,3", "a.mp4#t=1.5", "a.mp4#t=0,2", "/b.mp4"].map(Value::from)
        );
        let part = json!([{"role": "user", "content": [{"video": "a.mp4", "video_start": 5, "video_end": 2}]}]);
        let left = super::turns(&part, Role::User).unwrap_err();
        assert!(
            left.detail.contains("the end comes after the start"),
            "{}",
            left.detail
        );
    }
}
