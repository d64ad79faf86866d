//! Model folders with random weights, of any size: for measuring where nothing can be downloaded.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::export::{Entry, save_one_by_one, torch_name, write_json};
use crate::model::spec::{Spec, SpecialTokens, TextSpec, VisionSpec};
use crate::model::weights::{Initial, expected_shapes};
use crate::util::hash::Fnv;
use candle_core::{DType, Device, Result, Tensor, WithDType};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::path::Path;

/// Values that one stream of random numbers fills: a tensor does not depend on how many threads fill it.
const CHUNK: usize = 1 << 16;

/// Standard deviation of the embedding, as in the published model's `initializer_range`.
const EMBEDDING_STD: f64 = 0.02;

/// Qwen2.5-VL-3B-Instruct's sizes, from its `config.json`.
pub(crate) fn three_billion(tokens: SpecialTokens) -> Spec {
    Spec {
        text: TextSpec {
            hidden_size: 2048,
            num_layers: 36,
            num_heads: 16,
            num_kv_heads: 2,
            intermediate_size: 11_008,
            vocab_size: 151_936,
            rope_theta: 1_000_000.0,
            rms_norm_eps: 1e-6,
            mrope_section: [16, 24, 24],
        },
        vision: VisionSpec {
            depth: 32,
            hidden_size: 1280,
            num_heads: 16,
            intermediate_size: 3420,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            window_size: 112,
            fullatt_block_indexes: vec![7, 15, 23, 31],
            out_hidden_size: 2048,
            tokens_per_second: 2.0,
        },
        tokens,
        tie_word_embeddings: true,
    }
}

/// Two layers and two blocks with heads as wide as the 3B's (128 and 80) that share keys as its heads do, so that the same
/// kernels run; about 2 M parameters around a vocabulary of `vocab_size`.
pub(crate) fn tiny(tokens: SpecialTokens, vocab_size: usize) -> Spec {
    let mut spec = three_billion(tokens);
    spec.text = TextSpec {
        hidden_size: 256,
        num_layers: 2,
        num_heads: 2,
        num_kv_heads: 1,
        intermediate_size: 512,
        vocab_size,
        ..spec.text
    };
    spec.vision = VisionSpec {
        depth: 2,
        hidden_size: 160,
        num_heads: 2,
        intermediate_size: 320,
        fullatt_block_indexes: vec![1],
        out_hidden_size: 256,
        ..spec.vision
    };
    spec
}

/// Writes `config.json` and random weights as `init_weights` describes them (other values: these come from many
/// threads), one tensor at a time, to `folder`, in shards of at most `shard_bytes`. The tokenizer is the caller's.
///
/// Equal seeds give equal files.
///
/// # Errors
/// A format other than f32 and bf16; a full disk.
pub(crate) fn write_random(
    folder: &Path,
    spec: &Spec,
    seed: u64,
    dtype: DType,
    shard_bytes: u64,
) -> std::result::Result<(), CheckpointError> {
    let config = spec.to_config_json(torch_name(dtype)?);
    let entries: Vec<Entry> = expected_shapes(spec)
        .into_iter()
        .map(|(name, shape)| Entry { name, dtype, shape })
        .collect();
    save_one_by_one(&entries, folder, shard_bytes, |entry| match dtype {
        DType::F32 => random_tensor::<f32>(spec, entry, seed, |value| value),
        DType::BF16 => random_tensor(spec, entry, seed, bf16::from_f32),
        other => candle_core::bail!("random weights are f32 or bf16, not {other:?}"),
    })?;
    // Last: a folder that has it is a whole model.
    write_json(&folder.join("config.json"), &config)
}

fn random_tensor<T: WithDType + Send>(
    spec: &Spec,
    entry: &Entry,
    seed: u64,
    rounded: impl Fn(f32) -> T + Sync,
) -> Result<Tensor> {
    let initial = Initial::of(spec, &entry.name, &entry.shape, EMBEDDING_STD);
    let count = entry.shape.elem_count();
    let values = match initial {
        Initial::Constant(value) => vec![rounded(value); count],
        Initial::Normal(std) => {
            let seed = seed ^ Fnv::of(entry.name.as_bytes()).value();
            let mut values = vec![rounded(0.0); count];
            let chunks = values.par_chunks_mut(CHUNK).enumerate();
            chunks.for_each(|(index, chunk)| {
                let mut generator = ChaCha8Rng::seed_from_u64(seed);
                generator.set_stream(index as u64);
                for pair in chunk.chunks_mut(2) {
                    for (value, normal) in pair.iter_mut().zip(two_normals(&mut generator)) {
                        *value = rounded(normal * std as f32);
                    }
                }
            });
            values
        }
    };
    Tensor::from_vec(values, entry.shape.clone(), &Device::Cpu)
}

/// Box–Muller.
fn two_normals(generator: &mut ChaCha8Rng) -> [f32; 2] {
    let radius = (-2.0 * (1.0 - generator.random::<f32>()).ln()).sqrt();
    let (sine, cosine) = (std::f32::consts::TAU * generator.random::<f32>()).sin_cos();
    [radius * sine, radius * cosine]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::load;

    #[test]
    fn the_3b_has_as_many_parameters_as_published() {
        let shapes = expected_shapes(&three_billion(SpecialTokens::published()));
        let count: usize = shapes.values().map(candle_core::Shape::elem_count).sum();
        assert_eq!(count, 3_754_622_976);
    }

    #[test]
    fn a_folder_without_its_weights_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("model.safetensors/in the way")).unwrap();
        let spec = tiny(SpecialTokens::published(), 64);
        write_random(folder.path(), &spec, 1, DType::F32, u64::MAX).unwrap_err();
        assert!(!folder.path().join("config.json").exists());
    }

    #[test]
    fn shards_of_random_weights_load_and_depend_only_on_the_seed() {
        let tokens = SpecialTokens {
            vision_start: 1,
            vision_end: 2,
            image_pad: 3,
            video_pad: 4,
            eos: vec![5],
            pad: 6,
        };
        let spec = tiny(tokens, 151_936 / 64);
        let write = |seed, shard_bytes| {
            let folder = tempfile::tempdir().unwrap();
            write_random(folder.path(), &spec, seed, DType::F32, shard_bytes).unwrap();
            let tensors = load(folder.path(), &spec, DType::F32, &Device::Cpu).unwrap();
            (folder, tensors)
        };
        let (folder, sharded) = write(1, 1 << 20);
        let files = std::fs::read_dir(folder.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert!(names.filter(|name| name.ends_with(".safetensors")).count() > 2);
        let (_, whole) = write(1, u64::MAX);
        let (_, other) = write(2, u64::MAX);
        let values = |tensors: &crate::model::weights::NamedTensors, name: &str| -> Vec<f32> {
            tensors
                .get(name)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let name = "model.layers.1.mlp.gate_proj.weight";
        assert_eq!(values(&sharded, name), values(&whole, name));
        assert_ne!(values(&sharded, name), values(&other, name));
        let weights = values(&sharded, name);
        let square: f32 = weights.iter().map(|value| value * value).sum();
        let deviation = (square / weights.len() as f32).sqrt();
        assert!((deviation * 16.0 - 1.0).abs() < 0.01, "{deviation}");
        assert_ne!(weights[..CHUNK], weights[CHUNK..2 * CHUNK]);
    }
}
