//! JSON files of an evaluation's folder.

use super::error::EvalError;
use crate::util::atomic;
use crate::util::file;
use crate::util::json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Reads a file that holds one value.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, EvalError> {
    let text = file::read(path)?;
    json::read(&text).map_err(|error| EvalError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Writes a file that holds one value.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| EvalError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(atomic::write(path, (text + "\n").as_bytes())?)
}
