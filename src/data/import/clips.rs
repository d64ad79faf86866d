//! Clips that stand in a parquet file itself: written out as files.

use crate::data::DataError;
use crate::util::atomic;
use crate::util::file;
use crate::util::hash;
use serde_json::Map;
use serde_json::Value;
use std::path::Path;

/// The fields in which clips stand.
const FIELDS: [&str; 2] = ["video", "videos"];

/// Writes the clips of a record into `folder` and names the files in their place. Returns how many were written; `None` where
/// there are clips and no folder.
///
/// # Errors
/// A file cannot be written.
pub(super) fn write_out(
    fields: &mut Map<String, Value>,
    blobs: &[Vec<u8>],
    name: &str,
    folder: Option<&Path>,
) -> Result<Option<usize>, DataError> {
    let mut written = 0;
    for field in FIELDS {
        let Some(value) = fields.get_mut(field) else {
            continue;
        };
        let values = match value {
            Value::Array(values) => values.as_mut_slice(),
            one => std::slice::from_mut(one),
        };
        for (index, value) in values.iter_mut().enumerate() {
            let Some(bytes) = blob_of(value, blobs) else {
                continue;
            };
            let Some(folder) = folder else {
                return Ok(None);
            };
            let named = value
                .get("path")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let named = named.rsplit(['/', '\\']).next().unwrap_or_default();
            let fallback = format!("{name}-{index}.{}", extension(bytes));
            let named = if named.is_empty() { &fallback } else { named };
            let (file, is_new) = write(folder, named, bytes)?;
            written += usize::from(is_new);
            *value = file.into();
        }
    }
    Ok(Some(written))
}

/// The bytes that a value stands for: `{"blob": N}`, or `{"bytes": {"blob": N}, "path": …}`.
fn blob_of<'a>(value: &Value, blobs: &'a [Vec<u8>]) -> Option<&'a [u8]> {
    let inner = value.get("bytes").unwrap_or(value);
    let index = usize::try_from(inner.get("blob")?.as_u64()?).ok()?;
    blobs.get(index).map(Vec::as_slice)
}

/// Writes a file, unless it is there; one of this name with another content is kept, and the new one gets its hash into its
/// name. Returns the name, and whether it was written.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(String, bool), DataError> {
    let hash = hash::sha256(bytes);
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, "mp4"));
    for name in [
        format!("{stem}.{end}"),
        format!("{stem}-{}.{end}", &hash[..12]),
    ] {
        let path = folder.join(&name);
        if !file::exists(&path)? {
            file::create_folders(folder)?;
            atomic::write(&path, bytes)?;
            return Ok((name, true));
        }
        if hash::sha256_of_file(&path).ok().as_ref() == Some(&hash) {
            return Ok((name, false));
        }
    }
    let name = format!("{hash}.{end}");
    atomic::write(&folder.join(&name), bytes)?;
    Ok((name, true))
}

/// What a file of these bytes is usually called.
fn extension(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "webm",
        [b'R', b'I', b'F', b'F', ..] => "avi",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        _ => "mp4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn embedded_clips_become_files_once() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = [b"one".to_vec(), b"\x1a\x45\xdf\xa3".to_vec()];
        let record = json!({
            "video": {"bytes": {"blob": 0}, "path": "/else/where/../a.mp4"},
            "videos": [{"blob": 1}, {"path": "b.mp4", "bytes": null}],
        });
        let write = |blobs: &[Vec<u8>], folder: Option<&Path>| {
            let mut fields = record.as_object().unwrap().clone();
            let written = write_out(&mut fields, blobs, "q-7", folder).unwrap();
            (written, Value::Object(fields))
        };
        let (written, fields) = write(&blobs, Some(folder.path()));
        assert_eq!(written, Some(2));
        let expected =
            json!({"video": "a.mp4", "videos": ["q-7-0.webm", {"path": "b.mp4", "bytes": null}]});
        assert_eq!(fields, expected);
        assert_eq!(std::fs::read(folder.path().join("a.mp4")).unwrap(), b"one");
        assert_eq!(write(&blobs, Some(folder.path())), (Some(0), expected));
        let (written, fields) = write(&[b"other".to_vec(), blobs[1].clone()], Some(folder.path()));
        assert_eq!(written, Some(1));
        assert!(
            fields["video"].as_str().unwrap().starts_with("a-"),
            "{fields}"
        );
        assert_eq!(write(&blobs, None).0, None);
    }
}
