//! The golden models of `scripts/make_golden_model.py` and what was computed with them.

use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use videothinker::config::TextAfterVideo;
use videothinker::policy::inputs::{PackedGroup, PackedInputs, Suffix};
use videothinker::policy::{FrozenModel, Policy};
use videothinker::video::VideoPatches;

pub(crate) const ADVANTAGES: [f64; 3] = [0.9, -1.1, 0.4];

pub(crate) fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/model")
        .join(name)
}

pub(crate) fn policy() -> Policy {
    Policy::load(&folder("tiny"), DType::F32, &Device::Cpu, true).unwrap()
}

pub(crate) fn bias_model() -> FrozenModel {
    FrozenModel::load(&folder("bias"), DType::F32, &Device::Cpu).unwrap()
}

/// Expected values by name.
pub(crate) struct Reference(HashMap<String, Tensor>);

impl Reference {
    pub(crate) fn load() -> Self {
        let path = folder("reference.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no {name}"))
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensor(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let ids = self.tensor(name).to_dtype(DType::U32).unwrap();
        ids.to_vec1().unwrap()
    }

    pub(crate) fn prompt(&self) -> Vec<u32> {
        self.ids("prompt_ids")
    }

    pub(crate) fn completions(&self) -> Vec<Vec<u32>> {
        (0..3)
            .map(|index| self.ids(&format!("completion.{index}.ids")))
            .collect()
    }

    /// Names and tensors behind `prefix`.
    pub(crate) fn behind(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        self.0
            .iter()
            .filter_map(|(name, tensor)| {
                Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
            })
            .collect()
    }
}

/// `patches` rows from row `start` on: value i is the murmur3 finaliser of i, scaled to [-1.5, 1.5).
pub(crate) fn pixels(start: usize, patches: usize) -> Vec<f32> {
    let values = start * VideoPatches::PATCH_DIM..(start + patches) * VideoPatches::PATCH_DIM;
    values
        .map(|index| {
            let mut x = index as u32;
            x ^= x >> 16;
            x = x.wrapping_mul(0x85EB_CA6B);
            x ^= x >> 13;
            x = x.wrapping_mul(0xC2B2_AE35);
            x ^= x >> 16;
            ((f64::from(x) / 4_294_967_296.0 - 0.5) * 3.0) as f32
        })
        .collect()
}

/// The clip of the golden prompt.
pub(crate) fn clip() -> Arc<VideoPatches> {
    Arc::new(VideoPatches {
        values: pixels(0, 180),
        grid_thw: [3, 6, 10],
        second_per_grid: 1.0,
        text_after: TextAfterVideo::default(),
    })
}

/// A second, smaller clip.
pub(crate) fn second_clip() -> Arc<VideoPatches> {
    Arc::new(VideoPatches {
        values: pixels(180, 16),
        grid_thw: [1, 4, 4],
        second_per_grid: 0.5,
        text_after: TextAfterVideo::default(),
    })
}

/// A prompt for the second clip.
pub(crate) fn second_prompt() -> Vec<u32> {
    vec![3, 7, 273, 276, 276, 276, 276, 274, 9]
}

/// Token ids of a prompt, its clip, and its completions.
pub(crate) type PromptAndCompletions<'a> = (&'a [u32], &'a Arc<VideoPatches>, Vec<&'a [u32]>);

/// Prompts with completions of which every token is a target.
pub(crate) fn pack(policy: &Policy, groups: &[PromptAndCompletions]) -> PackedInputs {
    let groups: Vec<PackedGroup> = groups
        .iter()
        .map(|(prefix, video, completions)| PackedGroup {
            prefix,
            video: Some(video),
            suffixes: completions
                .iter()
                .map(|token_ids| Suffix {
                    token_ids,
                    first_target: 0,
                })
                .collect(),
        })
        .collect();
    PackedInputs::new(&policy.model().spec, &groups).unwrap()
}

/// The golden prompt with its three completions.
pub(crate) fn golden_inputs(policy: &Policy, reference: &Reference) -> PackedInputs {
    let (prompt, completions) = (reference.prompt(), reference.completions());
    let completions = completions.iter().map(Vec::as_slice).collect();
    pack(policy, &[(&prompt, &clip(), completions)])
}

/// ‖got − want‖ ≤ tolerance · ‖want‖, tensor by tensor.
pub(crate) fn assert_close(name: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let norm = |x: &Tensor| -> f32 {
        let sum = x.sqr().unwrap().sum_all().unwrap();
        sum.to_scalar::<f32>().unwrap().sqrt()
    };
    let (error, size) = (norm(&(got - want).unwrap()), norm(want));
    assert!(
        error <= tolerance * size + 1e-9,
        "{name}: off by {error:e} of {size:e}"
    );
}

pub(crate) fn assert_values(name: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(
            (got - want).abs() <= tolerance,
            "{name}[{index}]: {got} != {want}"
        );
    }
}
