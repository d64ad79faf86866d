//! The one clip that a record names, and the part of it, in the forms that other projects give them.

use super::fragment;
use super::shapes::has;
use crate::util::words::beginning;
use serde_json::Map;
use serde_json::Value;

/// Fields beside a clip that name a part of it, in seconds, as in qwen-vl-utils.
const BESIDE: [(&str, &str); 1] = [("video_start", "video_end")];
/// The same inside an object that is the clip.
pub(super) const INSIDE: [(&str, &str); 3] = [
    ("video_start", "video_end"),
    ("start", "end"),
    ("start_time", "end_time"),
];
/// What names the file in an object that is a clip: datasets, qwen-vl-utils and verl.
const FILE_OF_CLIP: [&str; 2] = ["path", "video"];
/// Fields that name the clip's file where there is no `video`.
const OTHER_NAMES: [&str; 2] = ["path", "video_path"];
/// All fields that may name the clip or a part of it.
pub(super) const NAMES: [&str; 6] = [
    "video",
    "videos",
    OTHER_NAMES[0],
    OTHER_NAMES[1],
    BESIDE[0].0,
    BESIDE[0].1,
];
/// Fields of images.
pub(super) const IMAGES: [&str; 2] = ["image", "images"];
/// How a clip's frames are to be taken, as qwen-vl-utils and verl write it beside the file.
pub(super) const FRAME_SETTINGS: [&str; 9] = [
    "fps",
    "nframes",
    "min_frames",
    "max_frames",
    "min_pixels",
    "max_pixels",
    "total_pixels",
    "resized_height",
    "resized_width",
];

/// Puts the one clip into `video`. Whatever is no path stays for the reader to complain about.
pub(super) fn name_clip(fields: &mut Map<String, Value>) -> Result<(), String> {
    let mut clip = None;
    if let Some(value) = fields.get("video").filter(|value| !value.is_null()) {
        match clip_in("video", value)? {
            Some(named) => clip = Some(named),
            None => return Ok(()),
        }
    } else if let Some(path) = OTHER_NAMES
        .into_iter()
        .find_map(|name| fields.get(name)?.as_str())
    {
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
        if let Some(name) = named_images(fields) {
            return Err(format!(
                "`{name}` names images beside the clip {clip}: a question is about one clip and nothing else"
            ));
        }
        let clip = with_bounds(clip, fields)?;
        fields.insert("video".into(), clip.into());
    }
    Ok(())
}

/// The field that names an image.
pub(super) fn named_images(fields: &Map<String, Value>) -> Option<&'static str> {
    fn names_one(value: &Value) -> bool {
        match value {
            Value::String(path) => !path.is_empty(),
            Value::Array(images) => images.iter().any(names_one),
            // Columns of parquet files hold every key.
            Value::Object(image) => image.values().any(|value| !value.is_null()),
            _ => false,
        }
    }
    let mut names = IMAGES.into_iter();
    names.find(|name| fields.get(*name).is_some_and(names_one))
}

/// A setting of frames or pixels that stands in a clip, or in one of several things.
pub(super) fn frame_setting(value: &Value) -> Option<&'static str> {
    match value {
        Value::Array(values) => values.iter().find_map(frame_setting),
        Value::Object(fields) => {
            let set = FRAME_SETTINGS.into_iter().find(|name| has(fields, name));
            set.or_else(|| fields.get("content").and_then(frame_setting))
        }
        _ => None,
    }
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
        Value::Object(clip) => {
            let mut files = FILE_OF_CLIP.into_iter().filter_map(|name| clip.get(name));
            match files.find_map(Value::as_str) {
                Some(path) => part_of(local_path(path)?, clip, &INSIDE).map(Some),
                None => Err(format!(
                    "`{name}` is an object without a `path`: name the clip's file"
                )),
            }
        }
        // The number of a clip, as some name their files.
        Value::Number(number) if number.is_u64() => Ok(Some(number.to_string())),
        _ => Ok(None),
    }
}

/// Refuses the address of a clip that lies elsewhere.
pub(super) fn refuse_address(clip: &str) -> Result<(), String> {
    if is_elsewhere(clip) {
        return Err(format!(
            "{} is an address, no file: download the clip, and name the file",
            beginning(clip, 80)
        ));
    }
    Ok(())
}

/// Whether a clip is named by an address, not by a path.
pub(crate) fn is_elsewhere(clip: &str) -> bool {
    let is_scheme = |scheme: &str| {
        scheme.len() > 1
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    };
    let scheme = clip.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| is_scheme(scheme) && scheme != "file") || clip.starts_with("data:")
}

/// A path as it is, or the one that a `file://` URL stands for.
pub(crate) fn local_path(text: &str) -> Result<String, String> {
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

/// A clip's path with the part that the fields beside it name; these are taken out.
pub(super) fn with_bounds(clip: String, fields: &mut Map<String, Value>) -> Result<String, String> {
    let clip = part_of(clip, fields, &BESIDE)?;
    for name in BESIDE.iter().flat_map(|(start, end)| [start, end]) {
        fields.shift_remove(*name);
    }
    Ok(clip)
}

/// A clip's path with the part that fields of these names give.
pub(super) fn part_of(
    mut clip: String,
    fields: &Map<String, Value>,
    names: &[(&str, &str)],
) -> Result<String, String> {
    for (start, end) in names {
        let bounds = (time(fields, start)?, time(fields, end)?);
        if bounds != (None, None) {
            clip = fragment::part_of(&clip, bounds.0, bounds.1)
                .map_err(|problem| format!("`{start}`, `{end}`: {problem}"))?;
        }
    }
    Ok(clip)
}

/// A field that may be a time, in seconds.
fn time(fields: &Map<String, Value>, name: &str) -> Result<Option<f64>, String> {
    let time = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => fragment::seconds(text.trim()),
        Some(_) => None,
    };
    time.map(Some).ok_or_else(|| {
        let value = fields.get(name).map(Value::to_string).unwrap_or_default();
        format!("`{name}` is {value}: a time is a number of seconds")
    })
}
