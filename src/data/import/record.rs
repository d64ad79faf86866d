//! One record of another project's file: its shape, its clip, and the questions in it.

use super::Import;
use super::Imported;
use super::Source;
use super::clips;
use super::question::Draft;
use super::question::question;
use super::turns::Role;
use super::turns::has_image_beside;
use super::turns::pairs;
use super::turns::short;
use super::turns::turns;
use crate::data::Fragment;
use crate::data::Question;
use crate::data::benchmark::records::Record;
use crate::data::clip_field;
use crate::data::placeholder;
use crate::data::shapes;
use crate::data::shapes::CONVERSATIONS;
use crate::data::shapes::taken;
use crate::data::unused;
use crate::util::words::beginning;
use serde_json::Map;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Why something is no question.
#[derive(Debug)]
pub(super) struct LeftOut {
    /// What such records have in common.
    pub(super) reason: &'static str,
    /// What is so in this one.
    pub(super) detail: String,
}

impl LeftOut {
    pub(super) fn new(reason: &'static str, detail: String) -> Self {
        Self { reason, detail }
    }
}

const IMAGES: &str = "about images";
pub(super) const NOT_ONE_CLIP: &str = "not about exactly one clip, or one part of it";
pub(super) const NO_TEXT: &str = "no text of a question";
pub(super) const IMAGE_BESIDE: &str = "an image stands beside the clip";
/// The questions of a record, in order; a pair of turns may be none.
pub(super) type Found = Result<Vec<Result<Question, LeftOut>>, LeftOut>;

/// What becomes of a record.
///
/// # Errors
/// It holds a clip, which has no place to go or cannot be written.
pub(super) fn questions(
    import: &Import,
    record: Record,
    place: &str,
    summary: &mut Imported,
) -> Result<Found, String> {
    let name = format!("{}-{}", record.stem(), record.index);
    let mut fields = record.fields;
    for column in import.columns {
        if let Err(lacking) = column.apply(&mut fields) {
            return Ok(Err(LeftOut::new("a field is lacking", lacking)));
        }
    }
    let written = clips::write_out(&mut fields, &record.blobs, &name, import.video_dir);
    match written.map_err(|error| error.to_string())? {
        Some(written) => summary.clips_written += written,
        None => {
            return Err(
                "holds the clip itself: --video-dir DIR writes such clips to files, which the questions then name"
                    .into(),
            );
        }
    }
    Ok(found(import, fields, place, summary))
}

fn found(
    import: &Import,
    mut fields: Map<String, Value>,
    place: &str,
    summary: &mut Imported,
) -> Found {
    if fields.get("data_type").and_then(Value::as_str) == Some("image") {
        return Err(LeftOut::new(IMAGES, String::new()));
    }
    refuse_bad_answer(&fields, "kto_tag")?;
    remark_settings(&fields, place, summary);
    let conversation = conversation_of(import.source, &fields)?;
    let shape = conversation.unwrap_or("problem or question");
    *summary.shapes.entry(shape).or_default() += 1;
    if let Some(name) = conversation {
        return from_conversation(import, name, fields, place, summary);
    }
    let question = from_fields(import, &mut fields, place, summary)?;
    Ok(vec![Ok(question)])
}

/// Refuses a record whose mark says that its answer is not a good one, as TRL's and LLaMA-Factory's for KTO do.
fn refuse_bad_answer(fields: &Map<String, Value>, mark: &str) -> Result<(), LeftOut> {
    let is_bad = match fields.get(mark) {
        Some(Value::Bool(is_good)) => !is_good,
        Some(Value::String(text)) => text.trim().eq_ignore_ascii_case("false"),
        _ => false,
    };
    if is_bad {
        let reason = "an answer that is marked as a bad one";
        return Err(LeftOut::new(reason, format!("{mark} = false")));
    }
    Ok(())
}

/// Says what stands beside the clip and does not count.
fn remark_settings(fields: &Map<String, Value>, place: &str, summary: &mut Imported) {
    for name in unused::fields(fields) {
        let value = fields.get(name).map(short);
        let detail = value.map_or_else(|| name.to_owned(), |value| format!("{name} = {value}"));
        summary.remark(unused::remark(name), place, &detail);
    }
}

/// The field with the record's conversation; `None` where the record is a question already.
fn conversation_of(
    source: Source,
    fields: &Map<String, Value>,
) -> Result<Option<&'static str>, LeftOut> {
    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    let is_question = has("problem") || has("question");
    let has_answer = ["solution", "answer", "ground_truth"].into_iter().any(has);
    let first = |names: &[&'static str]| names.iter().copied().find(|name| has(name));
    let named = match source {
        Source::Auto | Source::HfParquet if is_question && has_answer => return Ok(None),
        Source::Auto | Source::HfParquet => first(&CONVERSATIONS),
        Source::Llava => first(&["conversations"]),
        Source::Sharegpt => first(&["messages", "conversations"]),
        Source::Trl => first(&["prompt"]),
        Source::VideoR1 => None,
    };
    let may_be_question = matches!(source, Source::Auto | Source::HfParquet | Source::VideoR1);
    if named.is_none() && !(may_be_question && is_question) {
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let detail = format!("its fields: {}", names.join(", "));
        return Err(LeftOut::new(
            "neither a question nor a conversation as --from says",
            detail,
        ));
    }
    Ok(named)
}

/// A question of a record whose fields are a question's.
fn from_fields(
    import: &Import,
    fields: &mut Map<String, Value>,
    place: &str,
    summary: &mut Imported,
) -> Result<Question, LeftOut> {
    let clip = take_clip(fields, &[])?;
    fields.insert("video".into(), clip.clone().into());
    for name in ["problem", "question"] {
        let text = fields.get(name).and_then(Value::as_str).unwrap_or_default();
        if has_image_beside(text) {
            return Err(LeftOut::new(NOT_ONE_CLIP, IMAGE_BESIDE.into()));
        }
        placeholder::taken_out(text).map_err(|problem| LeftOut::new(NOT_ONE_CLIP, problem))?;
    }
    let process = taken(fields, "process");
    shapes::to_question(fields)
        .map_err(|problem| LeftOut::new("fields that do not fit", problem))?;
    fields.shift_remove("video");
    let problem = taken(fields, "problem").and_then(|problem| match problem {
        Value::String(text) => Some(text),
        _ => None,
    });
    let draft = Draft {
        problem: problem.ok_or_else(|| LeftOut::new(NO_TEXT, String::new()))?,
        clip,
        given: taken_answer(fields),
        said: None,
        process: process.and_then(|process| process.as_str().map(str::to_owned)),
        rest: std::mem::take(fields),
    };
    question(import, draft, place, summary)
}

/// The questions of a conversation: one for each pair of turns.
fn from_conversation(
    import: &Import,
    name: &str,
    mut fields: Map<String, Value>,
    place: &str,
    summary: &mut Imported,
) -> Found {
    let conversation = taken(&mut fields, name).unwrap_or_default();
    let mut turns = turns(&conversation, Role::User)?;
    if let Some(completion) = taken(&mut fields, "completion") {
        turns.extend(super::turns::turns(&completion, Role::Assistant)?);
    }
    let named: Vec<Value> = turns.iter().flat_map(|turn| turn.clips.clone()).collect();
    let clip = take_clip(&mut fields, &named)?;
    if turns.iter().any(|turn| turn.has_image) {
        return Err(LeftOut::new(NOT_ONE_CLIP, IMAGE_BESIDE.into()));
    }
    if turns.iter().any(|turn| turn.role == Role::System) {
        summary.remark("a system message, which is not taken along", place, "");
    }
    let pairs = pairs(&turns)?;
    if pairs.is_empty() {
        return Err(LeftOut::new(NO_TEXT, String::new()));
    }
    // The answer of a record is that of its last turn.
    let asked = pairs.last().map_or("", |(problem, _)| problem);
    shapes::name_options_and_solution(&mut fields, asked)
        .map_err(|problem| LeftOut::new("fields that do not fit", problem))?;
    let mut given = taken_answer(&mut fields);
    if given.is_none() {
        // TRL's name for it; beside another answer a label may be anything.
        refuse_bad_answer(&fields, "label")?;
    }
    let last = pairs.len() - 1;
    let pairs = pairs.into_iter().enumerate();
    let questions = pairs.map(|(index, (problem, said))| {
        let draft = Draft {
            problem,
            clip: clip.clone(),
            given: given.take_if(|_| index == last),
            said,
            process: None,
            rest: fields.clone(),
        };
        question(import, draft, place, summary)
    });
    Ok(questions.collect())
}

/// The answer that a record gives beside its conversation.
fn taken_answer(fields: &mut Map<String, Value>) -> Option<String> {
    let answer = taken(fields, "solution")?;
    answer.as_str().map(str::to_owned)
}

/// Takes out the one clip that a record names by its fields or its turns.
fn take_clip(fields: &mut Map<String, Value>, of_turns: &[Value]) -> Result<String, LeftOut> {
    let several = |problem| LeftOut::new(NOT_ONE_CLIP, problem);
    clip_field::name_clip(fields).map_err(several)?;
    let mut clips = BTreeSet::new();
    match taken(fields, "video") {
        Some(Value::String(clip)) => {
            clips.insert(clip);
        }
        Some(other) => {
            let problem = format!("`video` is {}: name the clip's file", short(&other));
            return Err(several(problem));
        }
        None => {}
    }
    for value in of_turns {
        clips.extend(clip_field::clip_in("video", value).map_err(several)?);
    }
    clips.remove("");
    if clips.len() > 1 {
        let names: Vec<String> = clips.into_iter().collect();
        return Err(several(names.join(", ")));
    }
    let Some(clip) = clips.pop_first() else {
        return Err(match clip_field::named_images(fields) {
            Some(_) => LeftOut::new(IMAGES, String::new()),
            None => several(format!("no clip is named; {}", other_fields(fields))),
        });
    };
    if clip_field::is_elsewhere(&clip) {
        return Err(LeftOut::new(
            "a clip that is no file here (download the clips, and name the files)",
            beginning(&clip, 80),
        ));
    }
    let clip = clip_field::with_bounds(clip, fields).map_err(several)?;
    if let Some(problem) = Fragment::problem(Path::new(&clip)) {
        return Err(several(format!("{clip}: {problem}")));
    }
    if clip_field::named_images(fields).is_some() {
        return Err(several(IMAGE_BESIDE.into()));
    }
    for name in clip_field::IMAGES {
        fields.shift_remove(name);
    }
    Ok(clip)
}

/// What a record holds, for those who look for the field that is missing.
pub(super) fn other_fields(fields: &Map<String, Value>) -> String {
    if fields.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    format!("its other fields: {}", names.join(", "))
}
