//! The files of a folder that hold its weights, and what is wrong with one that cannot be read.

use super::INDEX;
use crate::config::adapter;
use crate::config::instead_of_weights;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use crate::util::file;
use crate::util::file::FileError;
use candle_core::safetensors::MmapedSafetensors;
use safetensors::tensor::Metadata;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// The only file of a model that has one.
const SINGLE: &str = "model.safetensors";

/// One file of weights.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) mapped: MmapedSafetensors,
}

/// The weights' files.
pub(super) struct Files {
    pub(super) shards: Vec<Shard>,
    /// Where the index says that each tensor is; empty without an index.
    pub(super) by_index: BTreeMap<String, String>,
}

impl Files {
    /// Maps the file of a checkpoint, or its shards as the index lists them.
    pub(super) fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if let Some((kind, base)) = adapter(folder) {
            if !folder.join(SINGLE).exists() && !folder.join(INDEX).exists() {
                return Err(no_weights(folder));
            }
            tracing::warn!(
                "{}: the {kind} adapter in it (of {base}) is not used, but the whole weights beside it",
                folder.display()
            );
        }
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        if file::exists(&single)? {
            if file::exists(&index)? && read_index(&index)?.values().any(|name| name != SINGLE) {
                tracing::warn!(
                    "{}: {SINGLE} is read, as transformers does, and not the files that {INDEX} names",
                    folder.display()
                );
            }
            let shards = vec![Shard::open(single)?];
            return Ok(Self {
                shards,
                by_index: BTreeMap::new(),
            });
        }
        if !file::exists(&index)? {
            return Err(no_weights(folder));
        }
        let by_index = read_index(&index)?;
        let names: BTreeSet<&String> = by_index.values().collect();
        warn_of_others(folder, &names)?;
        let missing: Vec<&String> = names
            .iter()
            .copied()
            .filter(|name| !folder.join(name).exists())
            .collect();
        if let Some(first) = missing.first() {
            return Err(CheckpointError::NotWeights {
                path: folder.join(first),
                reason: format!(
                    "there is no such file, which {INDEX} names; {} of {} are missing: copy or download the model again",
                    missing.len(),
                    names.len()
                ),
            });
        }
        let shards = names
            .iter()
            .map(|name| Shard::open(folder.join(name)))
            .collect::<Result<_, _>>()?;
        Ok(Self { shards, by_index })
    }
}

/// Tensor → file.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let index = read_json(path)?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| CheckpointError::MissingField {
        path: path.to_path_buf(),
        field: "weight_map".into(),
    })?;
    let entries = map.iter().map(|(tensor, file)| match file.as_str() {
        Some(name) if Path::new(name).file_name().is_some_and(|own| own == name) => {
            Ok((tensor.clone(), name.to_owned()))
        }
        _ => Err(CheckpointError::BadField {
            path: path.to_path_buf(),
            field: format!("weight_map.{tensor}"),
            reason: format!("{file} is no name of a file"),
        }),
    });
    entries.collect()
}

fn no_weights(folder: &Path) -> CheckpointError {
    let single = folder.join(SINGLE);
    if let Ok(target) = std::fs::read_link(&single) {
        return CheckpointError::NotWeights {
            path: single,
            reason: format!(
                "is a link to {}, which is not there: copy the files and not the links, or download the model again",
                target.display()
            ),
        };
    }
    match instead_of_weights(folder) {
        Some(reason) => CheckpointError::NotWeights {
            path: folder.to_path_buf(),
            reason,
        },
        None => CheckpointError::NoWeights {
            folder: folder.to_path_buf(),
        },
    }
}

/// Says which files look like shards and are not the index's.
fn warn_of_others(folder: &Path, named: &BTreeSet<&String>) -> Result<(), CheckpointError> {
    let failed = |error| FileError::reading(folder, error);
    let mut others = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") && !named.contains(&name) {
            others.push(name);
        }
    }
    others.sort();
    if let Some(first) = others.first() {
        tracing::warn!(
            "{}: not read, because {INDEX} does not name {}: {first}{}",
            folder.display(),
            if others.len() == 1 { "it" } else { "them" },
            match others.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            }
        );
    }
    Ok(())
}

/// Refuses a file of tensors that is none, or is not as long as its header says.
///
/// # Errors
/// Says what it is, where that can be told.
pub(crate) fn check_file(path: &Path) -> Result<(), CheckpointError> {
    Shard::open(path.to_path_buf()).map(drop)
}

impl Shard {
    #[expect(unsafe_code, reason = "memory-mapped weights")]
    fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        File::open(&path).map_err(|error| FileError::reading(&path, error))?;
        // SAFETY: the file is only read, and checkpoints are renamed into place, never changed once written.
        match unsafe { MmapedSafetensors::new(&path) } {
            Ok(mapped) => Ok(Self { path, mapped }),
            Err(error) => Err(match damage(&path)? {
                Some(reason) => CheckpointError::NotWeights { path, reason },
                None => CheckpointError::Damaged {
                    path,
                    reason: error.to_string(),
                },
            }),
        }
    }
}

/// What is wrong with a file that is no safetensors, where that can be told.
fn damage(path: &Path) -> Result<Option<String>, FileError> {
    let failed = |error| FileError::reading(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut start = Vec::new();
    file.by_ref()
        .take(64)
        .read_to_end(&mut start)
        .map_err(failed)?;
    Ok(match start.as_slice() {
        [] => Some("is empty: the copy or the download failed; fetch it again".into()),
        start if file::is_lfs_pointer(start) => {
            Some("is a Git LFS pointer, not the weights: `git lfs pull` in the repository fetches them".into())
        }
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Some(
            "is torch's format under a name of safetensors: save the model with safe_serialization=True".into(),
        ),
        start if start.trim_ascii_start().first() == Some(&b'<') && start.get(8) != Some(&b'{') => {
            Some("is a web page, not the weights: a download went wrong; fetch the file again".into())
        }
        [a, b, c, d, e, f, g, h, rest @ ..] if rest.first() == Some(&b'{') => {
            let header = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            cut(path, header, length)?
        }
        _ => None,
    })
}

/// Says by how much a file of `length` bytes with a header of `header` bytes is too short or too long.
fn cut(path: &Path, header: u64, length: u64) -> Result<Option<String>, FileError> {
    let begins = header.saturating_add(8);
    let again = "it was cut while it was written, copied or downloaded; fetch or write it again";
    if begins > length {
        return Ok(Some(format!(
            "has {length} bytes, and its header alone would have {begins}: {again}"
        )));
    }
    let mut bytes = vec![0; header as usize];
    let mut file = File::open(path).map_err(|error| FileError::reading(path, error))?;
    let read = file
        .read_exact(&mut [0; 8])
        .and_then(|()| file.read_exact(&mut bytes));
    read.map_err(|error| FileError::reading(path, error))?;
    let Ok(header) = serde_json::from_slice::<Metadata>(&bytes) else {
        return Ok(None);
    };
    let ends = header
        .tensors()
        .values()
        .map(|info| info.data_offsets.1)
        .max();
    let described = begins + ends.unwrap_or_default() as u64;
    Ok(match described.cmp(&length) {
        std::cmp::Ordering::Greater => Some(format!(
            "has {length} bytes where its header describes {described}: {again}"
        )),
        std::cmp::Ordering::Less => Some(format!(
            "has {length} bytes where its header describes {described}: something was written behind its end; fetch or write it again"
        )),
        std::cmp::Ordering::Equal => None,
    })
}
