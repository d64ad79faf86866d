//! Typed reading of a JSON file: an error names the file and the field.

use crate::model::checkpoint_error::CheckpointError;
use crate::util::file;
use crate::util::json;
use serde_json::Value;
use std::path::Path;

/// The largest size or id: far above those of any model, and low enough that products of three do not overflow.
const LARGEST: u64 = 1 << 20;

/// A JSON file as a value.
pub(crate) fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    json::read(&file::read(path)?).map_err(|error| CheckpointError::Json {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

/// One object of a JSON file; its errors name the file and the field.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
    parent: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, value: &'a Value, parent: &'a str) -> Self {
        Self {
            path,
            value,
            parent,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name)
    }

    pub(crate) fn child(&self, name: &'a str) -> Option<Self> {
        let value = self.get(name).filter(|value| value.is_object())?;
        Some(Self::new(self.path, value, name))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(Value::as_str)
    }

    fn full_name(&self, name: &str) -> String {
        if self.parent.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.parent)
        }
    }

    pub(crate) fn missing(&self, name: &str) -> CheckpointError {
        CheckpointError::MissingField {
            path: self.path.to_path_buf(),
            field: self.full_name(name),
        }
    }

    pub(crate) fn bad(&self, name: &str, reason: String) -> CheckpointError {
        CheckpointError::BadField {
            path: self.path.to_path_buf(),
            field: self.full_name(name),
            reason,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<f64, CheckpointError> {
        let value = self.get(name).ok_or_else(|| self.missing(name))?;
        value
            .as_f64()
            .filter(|number| *number > 0.0)
            .ok_or_else(|| self.bad(name, format!("{value} is not a positive number")))
    }

    pub(crate) fn size(&self, name: &str) -> Result<usize, CheckpointError> {
        let value = self.get(name).ok_or_else(|| self.missing(name))?;
        self.as_size(name, value).and_then(|size| match size {
            0 => Err(self.bad(name, "must not be 0".into())),
            size => Ok(size),
        })
    }

    pub(crate) fn size_or(&self, name: &str, default: usize) -> Result<usize, CheckpointError> {
        match self.get(name) {
            Some(_) => self.size(name),
            None => Ok(default),
        }
    }

    pub(crate) fn sizes(&self, name: &str) -> Result<Vec<usize>, CheckpointError> {
        let value = self.get(name).ok_or_else(|| self.missing(name))?;
        let list = value
            .as_array()
            .ok_or_else(|| self.bad(name, format!("{value} is not a list")))?;
        list.iter().map(|item| self.as_size(name, item)).collect()
    }

    pub(crate) fn id(&self, name: &str) -> Result<u32, CheckpointError> {
        let ids = self.ids(name)?;
        ids.first()
            .copied()
            .ok_or_else(|| self.bad(name, "holds no id".into()))
    }

    /// A single id or a list of ids.
    pub(crate) fn ids(&self, name: &str) -> Result<Vec<u32>, CheckpointError> {
        let value = self.get(name).ok_or_else(|| self.missing(name))?;
        let items = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        items
            .iter()
            .map(|item| self.as_size(name, item).map(|id| id as u32))
            .collect()
    }

    fn as_size(&self, name: &str, value: &Value) -> Result<usize, CheckpointError> {
        let size = value
            .as_u64()
            .ok_or_else(|| self.bad(name, format!("{value} is not a whole number")))?;
        if size > LARGEST {
            return Err(self.bad(name, format!("{size} is more than {LARGEST}")));
        }
        Ok(size as usize)
    }
}
