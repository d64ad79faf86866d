//! Named tensors of a checkpoint: loading, checking, random initialisation.
//!
//! Names are the hub's (`model.layers.0.…`, `visual.blocks.0.…`); transformers 5's in-memory names are mapped to them.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use crate::model::spec::IN_CHANNELS;
use crate::model::spec::Spec;
use crate::util::file::FileError;
use candle_core::DType;
use candle_core::Device;
use candle_core::Shape;
use candle_core::Tensor;
use candle_core::safetensors::MmapedSafetensors;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

/// Name of the file that lists the shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Tensors by name, in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct NamedTensors(BTreeMap<String, Tensor>);

impl NamedTensors {
    /// The tensor `name`; an error that names it where it is absent.
    pub fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        match self.0.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("no tensor is named {name}"),
        }
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        self.0.insert(name.into(), tensor)
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.0.remove(name)
    }

    /// Names and tensors in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many tensors there are, not how many values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No tensor at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of values in all tensors.
    #[cfg(test)]
    pub(crate) fn num_values(&self) -> usize {
        self.0.values().map(Tensor::elem_count).sum()
    }

    /// The tensors of the same names after `change`.
    pub fn map(
        &self,
        mut change: impl FnMut(&str, &Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Self> {
        self.iter()
            .map(|(name, tensor)| Ok((name.to_owned(), change(name, tensor)?)))
            .collect()
    }
}

impl FromIterator<(String, Tensor)> for NamedTensors {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self(tensors.into_iter().collect())
    }
}

impl IntoIterator for NamedTensors {
    type Item = (String, Tensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, Tensor>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Every tensor a checkpoint of `spec` holds, with its shape.
pub(crate) fn expected_shapes(spec: &Spec) -> BTreeMap<String, Shape> {
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, dims: &[usize]| {
        shapes.insert(name, Shape::from(dims));
    };
    let (text, vision) = (&spec.text, &spec.vision);
    let (hidden, mlp) = (text.hidden_size, text.intermediate_size);
    let kv = text.num_kv_heads * text.head_dim();
    add(
        "model.embed_tokens.weight".into(),
        &[text.vocab_size, hidden],
    );
    add("model.norm.weight".into(), &[hidden]);
    if !spec.tie_word_embeddings {
        add("lm_head.weight".into(), &[text.vocab_size, hidden]);
    }
    for layer in 0..text.num_layers {
        let mut add =
            |name: &str, dims: &[usize]| add(format!("model.layers.{layer}.{name}"), dims);
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        for (name, width) in [("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)] {
            add(&format!("self_attn.{name}.weight"), &[width, hidden]);
            add(&format!("self_attn.{name}.bias"), &[width]);
        }
        add("self_attn.o_proj.weight", &[hidden, hidden]);
        add("mlp.gate_proj.weight", &[mlp, hidden]);
        add("mlp.up_proj.weight", &[mlp, hidden]);
        add("mlp.down_proj.weight", &[hidden, mlp]);
    }
    let (width, mlp, patch) = (
        vision.hidden_size,
        vision.intermediate_size,
        vision.patch_size,
    );
    let kernel = [width, IN_CHANNELS, vision.temporal_patch_size, patch, patch];
    add("visual.patch_embed.proj.weight".into(), &kernel);
    for block in 0..vision.depth {
        let mut add =
            |name: &str, dims: &[usize]| add(format!("visual.blocks.{block}.{name}"), dims);
        add("norm1.weight", &[width]);
        add("norm2.weight", &[width]);
        for (name, out, input) in [
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.gate_proj", mlp, width),
            ("mlp.up_proj", mlp, width),
            ("mlp.down_proj", width, mlp),
        ] {
            add(&format!("{name}.weight"), &[out, input]);
            add(&format!("{name}.bias"), &[out]);
        }
    }
    let merged = width * vision.merge_unit();
    add("visual.merger.ln_q.weight".into(), &[width]);
    for (name, out) in [("0", merged), ("2", vision.out_hidden_size)] {
        add(format!("visual.merger.mlp.{name}.weight"), &[out, merged]);
        add(format!("visual.merger.mlp.{name}.bias"), &[out]);
    }
    shapes
}

/// Reads a checkpoint folder; each tensor is converted to `dtype` on `device` as it is read from the mapped file.
pub fn load(
    folder: &Path,
    spec: &Spec,
    dtype: DType,
    device: &Device,
) -> Result<NamedTensors, CheckpointError> {
    let stored = Stored::open(folder, spec)?;
    let mut tensors = NamedTensors::default();
    for name in stored.places.keys() {
        tensors.insert(name, stored.tensor(name, device)?.to_dtype(dtype)?);
    }
    Ok(tensors)
}

/// Bytes of the tensors that a checkpoint folder stores, once every name and shape is as `spec` says.
///
/// # Errors
/// Missing, unexpected and misshapen tensors are named, as by [`load`].
pub(crate) fn stored_bytes(folder: &Path, spec: &Spec) -> Result<u64, CheckpointError> {
    let stored = Stored::open(folder, spec)?;
    let views = stored.files.iter().flat_map(MmapedSafetensors::tensors);
    Ok(views.map(|(_, view)| view.data().len() as u64).sum())
}

/// The tensors of a checkpoint folder, in their mapped files.
pub(crate) struct Stored {
    files: Vec<MmapedSafetensors>,
    /// By the hub's names: which file, and the name in it.
    places: BTreeMap<String, (usize, String)>,
}

impl Stored {
    /// Opens a folder whose every name and shape is as `spec` says.
    pub(crate) fn open(folder: &Path, spec: &Spec) -> Result<Self, CheckpointError> {
        let files = weight_files(folder)?
            .iter()
            .map(|path| map_file(path))
            .collect::<Result<Vec<_>, _>>()?;
        let places = check_names(folder, spec, &files)?;
        Ok(Self { files, places })
    }

    /// The hub's names of the tensors, with format and shape.
    pub(crate) fn describe(&self) -> candle_core::Result<Vec<(&str, DType, Shape)>> {
        let places = self.places.iter();
        places
            .map(|(name, (file, stored_name))| {
                let view = self.files[*file].get(stored_name)?;
                let dtype = DType::try_from(view.dtype())?;
                Ok((name.as_str(), dtype, Shape::from(view.shape())))
            })
            .collect()
    }

    /// The tensor that the hub calls `name`.
    pub(crate) fn tensor(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        match self.places.get(name) {
            Some((file, stored_name)) => self.files[*file].load(stored_name, device),
            None => candle_core::bail!("no tensor is named {name}"),
        }
    }
}

/// The file of a checkpoint, or its shards as the index lists them.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index_path = folder.join(INDEX);
    if !index_path.exists() {
        return Err(CheckpointError::NoWeights {
            folder: folder.to_path_buf(),
        });
    }
    let index = read_json(&index_path)?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| CheckpointError::MissingField {
        path: index_path,
        field: "weight_map".into(),
    })?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[expect(unsafe_code, reason = "memory-mapped weights")]
fn map_file(path: &Path) -> Result<MmapedSafetensors, CheckpointError> {
    File::open(path).map_err(|error| FileError::reading(path, error))?;
    // SAFETY: the file is only read, and checkpoints are renamed into place, never changed once written.
    unsafe { MmapedSafetensors::new(path) }.map_err(|error| CheckpointError::Damaged {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

/// Hub name → (file, name in the file), once every name and shape is as expected.
fn check_names(
    folder: &Path,
    spec: &Spec,
    mapped: &[MmapedSafetensors],
) -> Result<BTreeMap<String, (usize, String)>, CheckpointError> {
    let expected = expected_shapes(spec);
    let (mut stored, mut misshapen, mut unexpected) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (file, tensors) in mapped.iter().enumerate() {
        let mut views = tensors.tensors();
        views.sort_by(|a, b| a.0.cmp(&b.0));
        for (stored_name, view) in views {
            let name = hub_name(&stored_name);
            match expected.get(&name) {
                Some(shape) if shape.dims() != view.shape() => misshapen.push(format!(
                    "{name}: expected {:?}, found {:?}",
                    shape.dims(),
                    view.shape()
                )),
                None if is_derived(&name, spec) => continue,
                None => unexpected.push(stored_name.clone()),
                Some(_) => {}
            }
            if stored.insert(name, (file, stored_name.clone())).is_some() {
                unexpected.push(format!("{stored_name} (a second time)"));
            }
        }
    }
    let missing: Vec<String> = expected
        .keys()
        .filter(|name| !stored.contains_key(*name))
        .cloned()
        .collect();
    if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
        return Ok(stored);
    }
    Err(CheckpointError::Tensors {
        folder: folder.to_path_buf(),
        missing,
        unexpected,
        misshapen,
    })
}

/// The published name of a tensor that transformers 5 may call `model.language_model.…` or `model.visual.…`.
fn hub_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        format!("model.{rest}")
    } else if let Some(rest) = name.strip_prefix("model.visual.") {
        format!("visual.{rest}")
    } else {
        name.to_owned()
    }
}

/// Tensors that follow from others: rotary frequencies and a tied head.
fn is_derived(name: &str, spec: &Spec) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || name.ends_with("rotary_pos_emb.inv_freq")
        || (name == "lm_head.weight" && spec.tie_word_embeddings)
}

/// Random weights for a new model: norms 1, biases 0, the embedding normal with standard deviation `embedding_std`,
/// linear layers normal with 1/√(inputs).
///
/// The projections that write into the residual stream are divided by √(2 · layers), so that depth does not enlarge it.
pub fn init_weights(
    spec: &Spec,
    embedding_std: f64,
    seed: u64,
    dtype: DType,
    device: &Device,
) -> candle_core::Result<NamedTensors> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = NamedTensors::default();
    for (name, shape) in expected_shapes(spec) {
        let count = shape.elem_count();
        let values: Vec<f32> = match Initial::of(spec, &name, &shape, embedding_std) {
            Initial::Constant(value) => vec![value; count],
            Initial::Normal(std) => (0..count)
                .map(|_| (standard_normal(&mut generator) * std) as f32)
                .collect(),
        };
        let tensor = Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// How a new model's tensor is filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Initial {
    /// One value everywhere.
    Constant(f32),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
}

impl Initial {
    /// See [`init_weights`].
    pub(crate) fn of(spec: &Spec, name: &str, shape: &Shape, embedding_std: f64) -> Self {
        if name.contains("norm") || name.contains("ln_q") {
            return Self::Constant(1.0);
        }
        if shape.rank() == 1 {
            return Self::Constant(0.0);
        }
        let layers = if name.starts_with("visual.") {
            spec.vision.depth
        } else {
            spec.text.num_layers
        };
        let writes_residual = [".o_proj.", ".down_proj.", ".attn.proj."]
            .iter()
            .any(|part| name.contains(part));
        let inputs = shape.dims().iter().skip(1).product::<usize>();
        Self::Normal(
            if name.ends_with("embed_tokens.weight") || name.starts_with("lm_head") {
                embedding_std
            } else if writes_residual {
                1.0 / (inputs as f64 * 2.0 * layers as f64).sqrt()
            } else {
                1.0 / (inputs as f64).sqrt()
            },
        )
    }
}

/// Box–Muller, one value a draw.
fn standard_normal(generator: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * generator.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/tiny")
    }

    #[test]
    fn a_new_model_has_every_tensor_and_depends_only_on_the_seed() {
        let spec = Spec::load(&golden()).unwrap();
        let new = |seed| init_weights(&spec, 0.05, seed, DType::F32, &Device::Cpu).unwrap();
        let (first, again, other) = (new(1), new(1), new(2));
        let shapes: BTreeMap<String, Shape> = first
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.shape().clone()))
            .collect();
        assert_eq!(shapes, expected_shapes(&spec));
        let values = |tensors: &NamedTensors, name: &str| -> Vec<f32> {
            let tensor = tensors.get(name).unwrap();
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        let name = "model.embed_tokens.weight";
        assert_eq!(values(&first, name), values(&again, name));
        assert_ne!(values(&first, name), values(&other, name));
        let embedding = values(&first, name);
        let square: f32 = embedding.iter().map(|value| value * value).sum();
        let deviation = (square / embedding.len() as f32).sqrt();
        assert!((deviation - 0.05).abs() < 0.002, "{deviation}");
        let norms = values(&first, "visual.blocks.0.norm1.weight");
        assert!(
            norms
                .iter()
                .all(|value| value.to_bits() == 1.0f32.to_bits())
        );
    }

    #[test]
    fn damaged_and_absent_files_are_named() {
        let spec = Spec::load(&golden()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let message = || {
            load(folder.path(), &spec, DType::F32, &Device::Cpu)
                .unwrap_err()
                .to_string()
        };
        assert!(message().contains("neither model.safetensors nor"));
        let index =
            json!({ "weight_map": { "model.norm.weight": "model-00001-of-00002.safetensors" } });
        std::fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
        assert!(message().contains("model-00001-of-00002.safetensors: there is no such file"));
        let whole = std::fs::read(golden().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), &whole[..1000]).unwrap();
        assert!(message().contains("model.safetensors: not a valid safetensors file"));
    }
}
