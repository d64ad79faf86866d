//! The memory a run takes, from the sizes alone: nothing is loaded.

use crate::config::Config;
use crate::config::DTypeName;
use crate::config::Verb;
use crate::model::head::CHUNK_BYTES;
use crate::model::spec::Spec;
use crate::model::weights::expected_shapes;
use std::fmt;

/// Bytes by purpose. Activations assume the longest prompts and completions the config allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The policy.
    pub weights: u64,
    /// One gradient per trained weight.
    pub gradients: u64,
    /// AdamW: two moments in f32, and an f32 master copy of bf16 weights.
    pub optimizer: u64,
    /// The frozen bias model.
    pub bias_model: u64,
    /// Keys and values while sampling: a prompt once, each completion by itself.
    pub cache: u64,
    /// Layer inputs kept for the backward pass, one layer recomputed, and logits in chunks.
    pub activations: u64,
}

impl Memory {
    /// What training `spec` as `config` says takes.
    pub fn estimate(spec: &Spec, config: &Config, verb: Verb) -> Self {
        let bytes = match config.model.dtype {
            DTypeName::Bf16 => 2,
            DTypeName::F32 => 4,
        };
        let shapes = expected_shapes(spec);
        let count = |trained_only: bool| -> u64 {
            shapes
                .iter()
                .filter(|(name, _)| {
                    !trained_only || config.model.train_vision || !name.starts_with("visual.")
                })
                .map(|(_, shape)| shape.elem_count() as u64)
                .sum()
        };
        let (all, trained) = (count(false), count(true));
        let master = if config.model.dtype == DTypeName::Bf16 {
            4
        } else {
            0
        };
        let questions = config.train.questions_per_step as u64;
        let group = if verb.is_rl() {
            config.sampling.group_size as u64
        } else {
            1
        };
        let prompt = config.sampling.max_prompt_tokens as u64;
        let completions = group * config.sampling.max_new_tokens as u64;
        let text = &spec.text;
        let cached = 2 * text.num_layers * text.num_kv_heads * text.head_dim();
        let rows = questions * (prompt + completions);
        let per_row = (text.num_layers + 8) * text.hidden_size + 4 * text.intermediate_size;
        let patches =
            (config.video.max_frames * config.video.max_pixels / (2 * 14 * 14)) as u64 * questions;
        let vision = &spec.vision;
        let per_patch = (vision.depth + 8) * vision.hidden_size + 4 * vision.intermediate_size;
        Self {
            weights: all * bytes,
            gradients: trained * bytes,
            optimizer: trained * (8 + master),
            bias_model: config.model.bias_model.as_ref().map_or(0, |_| all * bytes),
            cache: if verb.is_rl() {
                rows * cached as u64 * bytes
            } else {
                0
            },
            activations: (rows * per_row as u64 + patches * per_patch as u64) * bytes
                + 4 * CHUNK_BYTES as u64,
        }
    }

    /// The most that is alive at once: sampling and learning take turns.
    pub fn peak(&self) -> u64 {
        self.weights
            + self.optimizer
            + self.bias_model
            + self.cache.max(self.gradients + self.activations)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        for (name, bytes) in [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("bias model", self.bias_model),
            ("key/value cache", self.cache),
            ("activations", self.activations),
        ] {
            writeln!(f, "  {name:<16}{:>9.3} GB", gigabytes(bytes))?;
        }
        write!(f, "  {:<16}{:>9.3} GB", "at most", gigabytes(self.peak()))
    }
}
