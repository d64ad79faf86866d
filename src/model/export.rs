//! Writing checkpoints: the hub's layout, names and shards; every file synced.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use crate::model::weights::NamedTensors;
use candle_core::DType;
use candle_core::Shape;
use candle_core::Tensor;
use serde_json::Value;
use serde_json::json;
use std::fs::File;
use std::io::BufWriter;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;

/// Name of the file that lists the shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Bytes of a shard as the hub cuts them.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Files that travel with the weights: tokenizer, processor, chat template, generation settings.
const COMPANIONS: [&str; 13] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "LICENSE",
];

/// Writes a folder that transformers and vLLM load: `config.json` and companions from `source`, then the weights.
///
/// Every file is synced. The caller writes into a temporary folder and renames it.
pub fn save_folder(
    weights: &NamedTensors,
    source: &Path,
    target: &Path,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    std::fs::create_dir_all(target).map_err(|error| CheckpointError::io(target, error))?;
    let mut config = read_json(&source.join("config.json"))?;
    if let Some((_, tensor)) = weights.iter().next() {
        set_dtype(&mut config, torch_name(tensor.dtype())?);
    }
    write_json(&target.join("config.json"), &config)?;
    copy_companions(source, target)?;
    save(weights, target, shard_bytes)
}

/// Copies tokenizer, processor, template and generation files that `source` has.
pub fn copy_companions(source: &Path, target: &Path) -> Result<(), CheckpointError> {
    for name in COMPANIONS {
        let from = source.join(name);
        if from.exists() {
            let bytes = std::fs::read(&from).map_err(|error| CheckpointError::io(&from, error))?;
            write_file(&target.join(name), bytes.len() as u64, |out| {
                Ok(out.write_all(&bytes)?)
            })?;
        }
    }
    Ok(())
}

/// Writes `value`, indented, and syncs it.
pub fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    let text = format!("{value:#}\n");
    write_file(path, text.len() as u64, |out| {
        Ok(out.write_all(text.as_bytes())?)
    })
}

fn set_dtype(config: &mut Value, dtype: &str) {
    let key = if config.get("dtype").is_some() {
        "dtype"
    } else {
        "torch_dtype"
    };
    config[key] = json!(dtype);
    for part in ["text_config", "vision_config"] {
        for key in ["dtype", "torch_dtype"] {
            if config.get(part).and_then(|part| part.get(key)).is_some() {
                config[part][key] = json!(dtype);
            }
        }
    }
}

/// torch's name of a number format.
pub fn torch_name(dtype: DType) -> Result<&'static str, CheckpointError> {
    match dtype {
        DType::F32 => Ok("float32"),
        DType::BF16 => Ok("bfloat16"),
        DType::F16 => Ok("float16"),
        other => Err(candle_core::Error::Msg(format!("no checkpoint holds {other:?}")).into()),
    }
}

/// Writes `model.safetensors`, or shards of at most `shard_bytes` and their index, into `folder`; all synced.
pub fn save(
    weights: &NamedTensors,
    folder: &Path,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    let entries: Vec<Entry> = weights
        .iter()
        .map(|(name, tensor)| Entry {
            name: name.to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().clone(),
        })
        .collect();
    save_one_by_one(&entries, folder, shard_bytes, |entry| {
        weights.get(&entry.name)
    })
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// Its number format.
    pub dtype: DType,
    /// Its shape.
    pub shape: Shape,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.shape.elem_count() * self.dtype.size_in_bytes()
    }
}

/// As [`save`], asking `tensor` for each of `entries` in their order: only one is in memory at a time.
pub fn save_one_by_one(
    entries: &[Entry],
    folder: &Path,
    shard_bytes: u64,
    mut tensor: impl FnMut(&Entry) -> candle_core::Result<Tensor>,
) -> Result<(), CheckpointError> {
    let (mut shards, mut start, mut size) = (Vec::new(), 0, 0);
    for (index, entry) in entries.iter().enumerate() {
        let bytes = entry.bytes() as u64;
        if index > start && size + bytes > shard_bytes {
            shards.push(&entries[start..index]);
            (start, size) = (index, 0);
        }
        size += bytes;
    }
    shards.push(&entries[start..]);
    if let [shard] = shards.as_slice() {
        return write_safetensors(&folder.join("model.safetensors"), shard, &mut tensor);
    }
    let mut weight_map = serde_json::Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_safetensors(&folder.join(&file), shard, &mut tensor)?;
        for entry in *shard {
            weight_map.insert(entry.name.clone(), json!(file));
        }
    }
    let total: usize = entries.iter().map(Entry::bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json(&folder.join(INDEX), &index)
}

/// The safetensors format: length of the header, header, values in the header's order.
fn write_safetensors(
    path: &Path,
    entries: &[Entry],
    tensor: &mut impl FnMut(&Entry) -> candle_core::Result<Tensor>,
) -> Result<(), CheckpointError> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for entry in entries {
        let start = end;
        end += entry.bytes();
        let described = json!({
            "dtype": entry.dtype.as_str().to_uppercase(),
            "shape": entry.shape.dims(),
            "data_offsets": [start, end],
        });
        header.insert(entry.name.clone(), described);
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    write_file(path, (8 + header.len() + end) as u64, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for entry in entries {
            out.write_all(&little_endian(&tensor(entry)?)?)?;
        }
        Ok(())
    })
}

fn little_endian(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.detach().flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => bytes_of(flat.to_vec1::<f32>()?, f32::to_le_bytes),
        DType::BF16 => bytes_of(flat.to_vec1::<half::bf16>()?, half::bf16::to_le_bytes),
        DType::U32 => bytes_of(flat.to_vec1::<u32>()?, u32::to_le_bytes),
        DType::I64 => bytes_of(flat.to_vec1::<i64>()?, i64::to_le_bytes),
        DType::I16 => bytes_of(flat.to_vec1::<i16>()?, i16::to_le_bytes),
        DType::U8 => flat.to_vec1::<u8>()?,
        DType::F16 => bytes_of(flat.to_vec1::<half::f16>()?, half::f16::to_le_bytes),
        other => candle_core::bail!("no checkpoint holds {other:?}"),
    })
}

fn bytes_of<T, const N: usize>(values: Vec<T>, bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut out = Vec::with_capacity(values.len() * N);
    for value in values {
        out.extend_from_slice(&bytes(value));
    }
    out
}

/// What can go wrong while a file is filled.
enum WriteError {
    Io(std::io::Error),
    Tensor(candle_core::Error),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<candle_core::Error> for WriteError {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

/// Creates `path`, fills it and syncs it; a full disk is named as such.
fn write_file(
    path: &Path,
    bytes: u64,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), WriteError>,
) -> Result<(), CheckpointError> {
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        fill(&mut out)?;
        out.flush()?;
        Ok(out.get_ref().sync_all()?)
    };
    write().map_err(|error| match error {
        WriteError::Io(source)
            if matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
            ) =>
        {
            CheckpointError::DiskFull {
                path: path.to_path_buf(),
                bytes,
                source,
            }
        }
        WriteError::Io(source) => CheckpointError::io(path, source),
        WriteError::Tensor(error) => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Spec;
    use crate::model::weights::init_weights;
    use candle_core::Device;

    fn golden() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/tiny")
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let spec = Spec::load(&golden()).unwrap();
        let tensors = init_weights(&spec, 0.05, 1, DType::F32, &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.safetensors");
        std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        let error = save(&tensors, folder.path(), SHARD_BYTES).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, CheckpointError::DiskFull { .. }), "{text}");
        assert!(text.contains("model.safetensors: no space left"), "{text}");
    }
}
