//! Named tensors of a checkpoint: loading, checking, random initialisation.
//!
//! Names are the hub's (`model.layers.0.…`, `visual.blocks.0.…`); transformers 5's in-memory names are mapped to them.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::spec::IN_CHANNELS;
use crate::model::spec::Spec;
use candle_core::DType;
use candle_core::Device;
use candle_core::Shape;
use candle_core::Tensor;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::Path;

mod files;
mod names;
mod stored;
pub(crate) mod values;

pub(crate) use files::check_file;
pub(crate) use stored::Stored;
pub(crate) use stored::few;

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
///
/// # Errors
/// What [`Stored::open`] refuses, and values that are not finite.
pub fn load(
    folder: &Path,
    spec: &Spec,
    dtype: DType,
    device: &Device,
) -> Result<NamedTensors, CheckpointError> {
    let stored = Stored::open(folder, spec)?;
    stored.check_values()?;
    let mut tensors = NamedTensors::default();
    for name in stored.names() {
        tensors.insert(name, stored.tensor(name, device)?.to_dtype(dtype)?);
    }
    Ok(tensors)
}

/// How thoroughly a model folder is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Names, shapes and formats: milliseconds.
    Headers,
    /// Every value, too.
    Values,
}

/// Checks the weights of a folder as loading would, without loading them; the bytes of its tensors.
///
/// # Errors
/// As [`load`].
pub(crate) fn inspect(folder: &Path, spec: &Spec, depth: Depth) -> Result<u64, CheckpointError> {
    let stored = Stored::open(folder, spec)?;
    if depth == Depth::Values {
        stored.check_values()?;
    }
    Ok(stored.bytes())
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
    use std::path::PathBuf;

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

    /// What opening a folder of these files says, beside the golden config.json.
    fn said(files: &[(&str, &[u8])]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let spec = Spec::load(&golden()).unwrap();
        match inspect(folder.path(), &spec, Depth::Values) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    fn tensors() -> NamedTensors {
        let spec = Spec::load(&golden()).unwrap();
        load(&golden(), &spec, DType::F32, &Device::Cpu).unwrap()
    }

    /// A safetensors file of these tensors under other names, or without those that become none.
    fn file_of(tensors: &NamedTensors, name_of: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let named = tensors.iter();
        let named = named.filter_map(|(name, tensor)| Some((name_of(name)?, tensor)));
        safetensors::serialize(named, None).unwrap()
    }

    #[test]
    fn damaged_and_absent_files_are_named() {
        let whole = std::fs::read(golden().join("model.safetensors")).unwrap();
        assert_eq!(said(&[("model.safetensors", &whole)]), "");
        assert!(said(&[]).contains("neither model.safetensors nor"));
        let shard = "model-00001-of-00002.safetensors";
        let index = json!({ "weight_map": { "model.norm.weight": shard } }).to_string();
        let index = (INDEX, index.as_bytes());
        let absent = said(&[index]);
        assert!(
            absent.contains(&format!(
                "{shard}: there is no such file, which {INDEX} names"
            )),
            "{absent}"
        );
        let outside = json!({ "weight_map": { "model.norm.weight": "../x" } }).to_string();
        assert!(said(&[(INDEX, outside.as_bytes())]).contains("is no name of a file"));
        let pointer =
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3982000000\n";
        let short = [&whole[..], b"more"].concat();
        for (bytes, expected) in [
            (&whole[..1000], "its header alone would have"),
            (
                &whole[..whole.len() - 1],
                "where its header describes 263904: it was cut",
            ),
            (&short, "has 263908 bytes where its header describes 263904"),
            (b"", "model.safetensors: is empty"),
            (
                pointer,
                "is a Git LFS pointer, not the weights: `git lfs pull`",
            ),
            (b"<!DOCTYPE html><html>", "is a web page"),
            (b"PK\x03\x04archive/data.pkl", "is torch's format"),
        ] {
            let said = said(&[("model.safetensors", bytes)]);
            assert!(said.contains(expected), "{expected}: {said}");
            let said = super::tests::said(&[index, (shard, bytes)]);
            let expected = expected.trim_start_matches("model.safetensors: ");
            assert!(said.contains(shard) && said.contains(expected), "{said}");
        }
        let torch = said(&[("pytorch_model.bin", b"PK")]);
        assert!(torch.contains("only as pytorch_model.bin"), "{torch}");
        let adapter = br#"{"peft_type": "LORA", "base_model_name_or_path": "me/base"}"#;
        let adapter = said(&[
            ("adapter_config.json", adapter),
            ("adapter_model.safetensors", &whole),
        ]);
        assert!(adapter.contains("LoRA adapter of me/base"), "{adapter}");
    }

    #[test]
    fn names_of_other_programs_are_taken_and_what_does_not_fit_has_one_cause() {
        let tensors = tensors();
        let written = |name_of: &dyn Fn(&str) -> Option<String>| {
            said(&[("model.safetensors", &file_of(&tensors, name_of))])
        };
        for prefix in [
            "module.",
            "_orig_mod.",
            "base_model.model.",
            "thinker.",
            "module.model.",
        ] {
            assert_eq!(
                written(&|name| Some(format!("{prefix}{name}"))),
                "",
                "{prefix}"
            );
        }
        let nested = |name: &str| match name.strip_prefix("model.") {
            Some(rest) => Some(format!("language_model.model.{rest}")),
            None => Some(name.to_owned()),
        };
        assert_eq!(written(&nested), "");
        let renamed =
            |from: &'static str, to: &'static str| move |name: &str| Some(name.replace(from, to));
        for (said, cause) in [
            (
                written(&|name| Some(format!("lib.{name}"))),
                "every other name begins with `lib.`",
            ),
            (
                written(&renamed("self_attn.q_proj", "self_attn.qkv_proj")),
                "as vLLM keeps them",
            ),
            (
                written(&renamed("q_proj.weight", "q_proj.lora_A.default.weight")),
                "merge_and_unload",
            ),
            (
                written(&renamed("up_proj.weight", "up_proj.qweight")),
                "quantized (.qweight)",
            ),
            (
                written(&renamed("mlp.up_proj", "mlp.linear_fc1")),
                "Megatron's",
            ),
            (
                written(&|name| (!name.starts_with("visual.")).then(|| name.to_owned())),
                "the vision tower",
            ),
        ] {
            assert!(said.contains(cause), "{cause}: {said}");
            assert!(said.lines().count() <= 4 && said.len() < 900, "{said}");
        }
        let foreign = written(&|name| Some(format!("lib.{name}")));
        assert!(foreign.contains("and 89 more"), "{foreign}");
    }

    #[test]
    fn weights_that_zero_3_left_empty_and_quantized_ones_are_named() {
        let mut tensors = tensors();
        for name in ["model.norm.weight", "model.embed_tokens.weight"] {
            tensors.insert(name, Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap());
        }
        let file = file_of(&tensors, |name| Some(name.to_owned()));
        let empty = said(&[("model.safetensors", &file)]);
        assert!(
            empty.contains("2 tensors without a value") && empty.contains("zero_to_fp32.py"),
            "{empty}"
        );
        let mut tensors = super::tests::tensors();
        let name = "model.layers.0.mlp.up_proj.weight";
        let bytes = tensors.get(name).unwrap().zeros_like().unwrap();
        tensors.insert(name, bytes.to_dtype(DType::U8).unwrap());
        let file = file_of(&tensors, |name| Some(name.to_owned()));
        let small = said(&[("model.safetensors", &file)]);
        assert!(
            small.contains(&format!("{name} (U8)")) && small.contains("quantized"),
            "{small}"
        );
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_where_it_is() {
        let mut tensors = tensors();
        let name = "visual.blocks.1.mlp.down_proj.weight";
        let shape = tensors.get(name).unwrap().shape().clone();
        let mut values: Vec<f32> = vec![0.5; shape.elem_count()];
        values[2 * shape.dims()[1] + 5] = f32::INFINITY;
        values[3 * shape.dims()[1]] = f32::NAN;
        let bad = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            tensors.insert(name, bad.to_dtype(dtype).unwrap());
            let file = file_of(&tensors, |name| Some(name.to_owned()));
            let said = said(&[("model.safetensors", &file)]);
            let expected =
                format!("model.safetensors: {name} has 2 of 320 values that are not finite");
            assert!(
                said.contains(&expected) && said.contains("first at [2, 5]"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_head_that_is_not_the_embedding_it_is_tied_to_is_refused() {
        let mut tensors = tensors();
        let embedding = tensors.get("model.embed_tokens.weight").unwrap();
        tensors.insert("lm_head.weight", embedding.clone());
        let own = |tensors: &NamedTensors| file_of(tensors, |name| Some(name.to_owned()));
        assert_eq!(said(&[("model.safetensors", &own(&tensors))]), "");
        tensors.insert("lm_head.weight", (embedding + 1.0).unwrap());
        let said = said(&[("model.safetensors", &own(&tensors))]);
        assert!(
            said.contains("`tie_word_embeddings`") && said.contains("set it to false"),
            "{said}"
        );
    }
}
