//! Writing checkpoints: the hub's layout, names and shards.

use crate::config::Config;
use crate::config::TrainedWith;
use crate::config::Verb;
use crate::config::VideoConfig;
use crate::config::Wording;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use crate::model::private;
use crate::model::spec::Spec;
use crate::model::weights::INDEX;
use crate::model::weights::NamedTensors;
use crate::model::weights::Stored;
use crate::model::weights::values;
use crate::prompt::template::question_text;
use crate::util::atomic;
use crate::util::atomic::AtomicFile;
use crate::util::file;
use crate::video::plan;
use candle_core::DType;
use candle_core::Device;
use candle_core::Shape;
use candle_core::Tensor;
use safetensors::View;
use safetensors::tensor::Metadata;
use safetensors::tensor::TensorInfo;
use serde_json::Value;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Bytes of a shard as the hub cuts them.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Files that travel with the weights: tokenizer, processor, chat template, generation settings.
pub(crate) const COMPANIONS: [&str; 13] = [
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
/// Every file is whole or absent; the caller sees to it that the folder is.
pub fn save_folder(
    weights: &NamedTensors,
    source: &Path,
    target: &Path,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    file::create_folders(target)?;
    let mut config = read_json(&source.join("config.json"))?;
    private::remove(&mut config);
    if let Some((_, tensor)) = weights.iter().next() {
        set_dtype(&mut config, torch_name(tensor.dtype())?);
    }
    write_json(&target.join("config.json"), &config)?;
    copy_companions(source, target)?;
    copy_if_there(TrainedWith::FILE, source, target)?;
    save(weights, target, shard_bytes)
}

/// Writes the model of the folder `source` anew, as [`save_folder`]: under the hub's names, in `dtype` if one is given, in
/// files of at most `shard_bytes`. One tensor is in memory at a time.
pub(crate) fn rewrite_folder(
    source: &Path,
    spec: &Spec,
    target: &Path,
    dtype: Option<DType>,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    let stored = Stored::open(source, spec)?;
    stored.check_values()?;
    let described = stored.describe()?;
    let entry = |(name, own, shape): (&str, DType, Shape)| Entry {
        name: name.to_owned(),
        dtype: dtype.unwrap_or(own),
        shape,
    };
    let entries: Vec<Entry> = described.into_iter().map(entry).collect();
    file::create_folders(target)?;
    let mut config = read_json(&source.join("config.json"))?;
    private::remove(&mut config);
    if let Some(first) = entries.first() {
        set_dtype(&mut config, torch_name(first.dtype)?);
    }
    write_json(&target.join("config.json"), &config)?;
    copy_companions(source, target)?;
    copy_if_there(TrainedWith::FILE, source, target)?;
    save_one_by_one(&entries, target, shard_bytes, |entry| {
        stored
            .tensor(&entry.name, &Device::Cpu)?
            .to_dtype(entry.dtype)
    })
}

/// Copies tokenizer, processor, template and generation files that `source` has.
pub(crate) fn copy_companions(source: &Path, target: &Path) -> Result<(), CheckpointError> {
    for name in COMPANIONS {
        copy_if_there(name, source, target)?;
    }
    Ok(())
}

/// Writes what is needed to ask the model in `folder` as `config` has trained it: `videothinker.json`, and into the video
/// processor's settings how many frames a clip gives and how large they are, for transformers.
pub(crate) fn write_training(
    folder: &Path,
    config: &Config,
    verb: Verb,
    step: usize,
) -> Result<(), CheckpointError> {
    let prompt = question_text("{question}", Wording::Training);
    let text = TrainedWith::describe(config, verb, step, prompt).map_err(|error| {
        CheckpointError::Json {
            path: folder.join(TrainedWith::FILE),
            reason: error.to_string(),
        }
    })?;
    write_file(&folder.join(TrainedWith::FILE), text.as_bytes())?;
    let nested = folder.join("processor_config.json");
    if file::exists(&nested)? {
        let mut all = read_json(&nested)?;
        if let Some(processor) = all.get_mut("video_processor") {
            set_frames(processor, &config.video);
            return write_json(&nested, &all);
        }
    }
    // As transformers looks for it; a folder of before there was the first has the second alone.
    for name in ["video_preprocessor_config.json", "preprocessor_config.json"] {
        let source = folder.join(name);
        if file::exists(&source)? {
            let mut processor = read_json(&source)?;
            set_frames(&mut processor, &config.video);
            return write_json(&folder.join("video_preprocessor_config.json"), &processor);
        }
    }
    Ok(())
}

/// Settings of transformers' `Qwen2VLVideoProcessor`.
fn set_frames(processor: &mut Value, video: &VideoConfig) {
    let Some(settings) = processor.as_object_mut() else {
        return;
    };
    // They would go before `size`.
    settings.remove("min_pixels");
    settings.remove("max_pixels");
    settings.remove("image_processor_type");
    let frame = json!({
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": {
            "shortest_edge": video.min_pixels,
            "longest_edge": video.max_pixels.min(plan::FRAME_MAX_PIXELS),
        },
        "cap_pixels_per_frame": true,
        "fps": video.fps,
        "min_frames": video.min_frames,
        "max_frames": video.max_frames,
    });
    settings.extend(frame.as_object().cloned().into_iter().flatten());
}

fn copy_if_there(name: &str, source: &Path, target: &Path) -> Result<(), CheckpointError> {
    let from = source.join(name);
    if !file::exists(&from)? {
        return Ok(());
    }
    if private::may_hold(name) {
        let mut value = read_json(&from)?;
        if private::remove(&mut value) {
            return write_json(&target.join(name), &value);
        }
    }
    let bytes = file::read(&from)?;
    write_file(&target.join(name), &bytes)
}

/// Writes `value`, indented.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    write_file(path, format!("{value:#}\n").as_bytes())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let count = bytes.len() as u64;
    atomic::write(path, bytes).map_err(|error| CheckpointError::writing(path, count, error.system))
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
pub(crate) fn torch_name(dtype: DType) -> Result<&'static str, CheckpointError> {
    match dtype {
        DType::F32 => Ok("float32"),
        DType::BF16 => Ok("bfloat16"),
        DType::F16 => Ok("float16"),
        other => Err(candle_core::Error::Msg(format!("no checkpoint holds {other:?}")).into()),
    }
}

/// Writes `model.safetensors`, or shards of at most `shard_bytes` and their index, into `folder`.
pub fn save(
    weights: &NamedTensors,
    folder: &Path,
    shard_bytes: u64,
) -> Result<(), CheckpointError> {
    save_one_by_one(&entries(weights), folder, shard_bytes, |entry| {
        weights.get(&entry.name)
    })
}

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name in the file.
    pub(crate) name: String,
    /// Its number format.
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.shape.elem_count() * self.dtype.size_in_bytes()
    }
}

fn entries(weights: &NamedTensors) -> Vec<Entry> {
    let entry = |(name, tensor): (&str, &Tensor)| Entry {
        name: name.to_owned(),
        dtype: tensor.dtype(),
        shape: tensor.shape().clone(),
    };
    weights.iter().map(entry).collect()
}

/// As [`save`], asking `tensor` for each of `entries` in their order: only one is in memory at a time.
pub(crate) fn save_one_by_one(
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

/// Writes one file, the values in the order of `entries`.
///
/// Not by [`safetensors::serialize_to_file`], whose views cannot fail: where a tensor cannot be had from its device, it would
/// go on and name the file. What it writes of tensors of one format is the same, byte for byte.
fn write_safetensors(
    path: &Path,
    entries: &[Entry],
    tensor: &mut impl FnMut(&Entry) -> candle_core::Result<Tensor>,
) -> Result<(), CheckpointError> {
    let (header, values) = header(entries)?;
    let bytes = (size_of::<u64>() + header.len() + values) as u64;
    let failed = |error| CheckpointError::writing(path, bytes, error);
    let mut file = AtomicFile::create(path).map_err(|error| failed(error.system))?;
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(header.as_bytes()))
        .map_err(failed)?;
    for entry in entries {
        // On the CPU the view cannot fail either.
        let tensor = tensor(entry)?.detach().to_device(&Device::Cpu)?;
        let data = tensor.data();
        refuse_bad_values(path, entry, &data)?;
        file.write_all(&data).map_err(failed)?;
    }
    file.finish().map_err(|error| failed(error.system))
}

/// What is written is to be trained from or asked, which nothing that is not finite can be.
fn refuse_bad_values(path: &Path, entry: &Entry, data: &[u8]) -> Result<(), CheckpointError> {
    let bad = values::examine(entry.dtype, data).and_then(|extent| extent.bad);
    let Some((first, count)) = bad else {
        return Ok(());
    };
    Err(CheckpointError::Diverged {
        path: path.to_path_buf(),
        tensor: entry.name.clone(),
        place: values::place(first, entry.shape.dims()),
        count,
        all: entry.shape.elem_count(),
    })
}

/// The header of a file, and the bytes of the values behind it.
fn header(entries: &[Entry]) -> Result<(String, usize), CheckpointError> {
    let mut end = 0;
    let described = entries.iter().map(|entry| {
        let start = end;
        end += entry.bytes();
        let info = TensorInfo {
            dtype: entry.dtype.into(),
            shape: entry.shape.dims().to_vec(),
            data_offsets: (start, end),
        };
        (entry.name.clone(), info)
    });
    let format = [("format".to_owned(), "pt".to_owned())];
    let mut header = Metadata::new(Some(format.into()), described.collect())
        .and_then(|header| Ok(serde_json::to_string(&header)?))
        .map_err(candle_core::Error::from)?;
    while !header.len().is_multiple_of(size_of::<u64>()) {
        header.push(' ');
    }
    Ok((header, end))
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

    fn random() -> NamedTensors {
        let spec = Spec::load(&golden()).unwrap();
        init_weights(&spec, 0.05, 1, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_file_is_what_the_library_writes() {
        let tensors = random();
        let folder = tempfile::tempdir().unwrap();
        save(&tensors, folder.path(), SHARD_BYTES).unwrap();
        let written = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let format = [("format".to_owned(), "pt".to_owned())];
        let expected = safetensors::serialize(tensors.iter(), Some(format.into())).unwrap();
        assert!(written == expected);
    }

    #[test]
    fn a_tensor_that_cannot_be_had_leaves_no_file() {
        let tensors = random();
        let entries: Vec<Entry> = entries(&tensors);
        let folder = tempfile::tempdir().unwrap();
        let mut left = 3;
        let error = save_one_by_one(&entries, folder.path(), SHARD_BYTES, |entry| {
            left -= 1;
            if left == 0 {
                candle_core::bail!("the device is gone");
            }
            tensors.get(&entry.name)
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("the device is gone"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn values_that_are_not_finite_are_not_written() {
        let mut tensors = random();
        let name = "model.layers.1.mlp.up_proj.weight";
        let shape = tensors.get(name).unwrap().shape().clone();
        let mut values = vec![0.5f32; shape.elem_count()];
        values[shape.dims()[1] + 3] = f32::NAN;
        let bad = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.insert(name, bad);
        let folder = tempfile::tempdir().unwrap();
        let error = save(&tensors, folder.path(), SHARD_BYTES).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(name) && text.contains("not finite") && text.contains("[1, 3]"),
            "{text}"
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named() {
        let full = std::fs::write("/dev/full", "x").unwrap_err();
        let error = CheckpointError::writing(Path::new("a/model.safetensors"), 9, full);
        let text = error.to_string();
        assert!(matches!(error, CheckpointError::DiskFull { .. }), "{text}");
        assert!(text.contains("model.safetensors: no space left"), "{text}");
    }
}
