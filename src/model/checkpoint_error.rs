//! Why a checkpoint cannot be read or written.

use crate::model::weights::few;
use crate::util::file;
use crate::util::file::FileError;
use std::path::Path;
use std::path::PathBuf;

/// Why a checkpoint cannot be used; every message names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum CheckpointError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The disk is full.
    #[error(
        "{path}: no space left on the device ({bytes} bytes to write): free some, or write to another disk"
    )]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not JSON.
    #[error("{path}: not valid JSON: {reason}")]
    Json {
        path: PathBuf,
        /// Line, column and what is wrong there.
        reason: String,
    },
    /// A field is absent.
    #[error("{path}: field `{field}` is missing")]
    MissingField {
        path: PathBuf,
        /// The field, with its parents.
        field: String,
    },
    /// A field has a value that cannot be used.
    #[error("{path}: field `{field}`: {reason}")]
    BadField {
        path: PathBuf,
        /// The field, with its parents.
        field: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No weights in the folder.
    #[error("{folder}: neither model.safetensors nor model.safetensors.index.json is there")]
    NoWeights { folder: PathBuf },
    /// A file or folder holds something else than weights that can be read.
    #[error("{path}: {reason}")]
    NotWeights {
        path: PathBuf,
        /// What it holds and what to do; goes on after the path.
        reason: String,
    },
    /// Values that no computation gives back.
    #[error(
        "{path}: {tensor} has {count} of {all} values that are not finite (NaN or infinite), the first at {place:?}: the training that \
         wrote it has diverged, or the file is damaged; take an earlier checkpoint or fetch it again"
    )]
    NotFinite {
        path: PathBuf,
        tensor: String,
        /// Where the first stands.
        place: Vec<usize>,
        count: usize,
        /// Values of the tensor.
        all: usize,
    },
    /// The same in what is to be written.
    #[error(
        "{path}: not written: {tensor} has {count} of {all} values that are not finite (NaN or infinite), the first at {place:?}: the          training has diverged; go on from an earlier checkpoint with a lower optimizer.learning_rate"
    )]
    Diverged {
        path: PathBuf,
        tensor: String,
        /// Where the first stands.
        place: Vec<usize>,
        count: usize,
        /// Values of the tensor.
        all: usize,
    },
    /// A weight file is damaged.
    #[error("{path}: not a valid safetensors file: {reason}")]
    Damaged {
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// Tensors and configuration disagree.
    #[error("{folder}: the weights do not fit config.json{}{}",
        cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}")),
        list_mismatches(.missing, .unexpected, .misshapen))]
    Tensors {
        folder: PathBuf,
        /// Why, and what to do, where that can be told.
        cause: Option<String>,
        /// Tensors the configuration asks for and no file holds.
        missing: Vec<String>,
        /// Tensors the model has no place for.
        unexpected: Vec<String>,
        /// `name: expected […], found […]`.
        misshapen: Vec<String>,
    },
    /// Neither a folder nor something the hub knows.
    #[error("{name}: {reason}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// What was tried and what to do.
        reason: String,
    },
    /// A signal came while a model was downloaded.
    #[error("stopped by a signal; the same command goes on with the download")]
    Stopped,
    /// A tensor operation failed (out of memory, no such device).
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl CheckpointError {
    /// A failed write of a file of `bytes`; a full disk is named as such.
    pub(super) fn writing(path: &Path, bytes: u64, source: std::io::Error) -> Self {
        if !file::is_out_of_space(&source) {
            return FileError::writing(path, source).into();
        }
        Self::DiskFull {
            path: path.to_path_buf(),
            bytes,
            source,
        }
    }
}

fn list_mismatches(missing: &[String], unexpected: &[String], misshapen: &[String]) -> String {
    [
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong shape", misshapen),
    ]
    .iter()
    .filter(|(_, names)| !names.is_empty())
    .fold(String::new(), |text, (what, names)| {
        format!("{text}\n  {what} ({}): {}", names.len(), few(names))
    })
}
