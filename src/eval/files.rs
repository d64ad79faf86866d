//! JSON files of an evaluation's folder.

use super::error::EvalError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a file that holds one value.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, EvalError> {
    let text = std::fs::read_to_string(path).map_err(|source| EvalError::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|error| EvalError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Writes under a temporary name and renames, so that the file is there whole or not at all.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let failed = |source| EvalError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = serde_json::to_string_pretty(value).map_err(|error| EvalError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    text.push('\n');
    // Several processes may write the same settings at once.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, text).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}
