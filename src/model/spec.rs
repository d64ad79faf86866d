//! The checkpoint's `config.json` as a type.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

pub(crate) mod companions;
mod read;

/// Colours of a pixel.
pub(crate) const IN_CHANNELS: usize = 3;

/// What a Qwen2.5-VL checkpoint says about its network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The decoder.
    pub text: TextSpec,
    /// The vision tower.
    pub vision: VisionSpec,
    /// Ids of the tokens the model gives a meaning to.
    pub tokens: SpecialTokens,
    /// The head shares the embedding's storage.
    pub tie_word_embeddings: bool,
}

/// The decoder's sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextSpec {
    /// Width (H).
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Vocabulary (V), rows of the embedding.
    pub vocab_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary half-dimensions for time, height, width; they add up to head_dim / 2.
    pub mrope_section: [usize; 3],
}

impl TextSpec {
    /// Width of one head.
    pub(crate) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

/// The vision tower's sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisionSpec {
    /// Blocks.
    pub depth: usize,
    /// Width.
    pub hidden_size: usize,
    /// Of attention; keys have as many.
    pub num_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Pixels per patch side.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Patches per merged token, along each side.
    pub spatial_merge_size: usize,
    /// Pixels per attention window side.
    pub window_size: usize,
    /// Blocks that attend to the whole frame.
    pub fullatt_block_indexes: Vec<usize>,
    /// Width after the merger (the decoder's hidden size).
    pub out_hidden_size: usize,
    /// Temporal position units per second of video.
    pub tokens_per_second: f64,
}

impl VisionSpec {
    /// Width of one head.
    pub(crate) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Values of one patch: channels × frames × pixels.
    pub(crate) fn patch_dim(&self) -> usize {
        IN_CHANNELS * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches that become one token.
    pub(crate) fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }
}

/// Ids of the tokens the model gives a meaning to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the tokens")]
pub struct SpecialTokens {
    pub vision_start: u32,
    pub vision_end: u32,
    pub image_pad: u32,
    pub video_pad: u32,
    /// End-of-turn ids, `<|im_end|>` first (from `generation_config.json` where present).
    pub eos: Vec<u32>,
    /// `<|endoftext|>`, used as padding.
    pub pad: u32,
}

impl SpecialTokens {
    /// Those of the published checkpoints.
    pub(crate) fn published() -> Self {
        Self {
            vision_start: 151_652,
            vision_end: 151_653,
            image_pad: 151_655,
            video_pad: 151_656,
            eos: vec![151_645, 151_643],
            pad: 151_643,
        }
    }
}

impl Spec {
    /// A flat `config.json` as published on the hub; transformers 4.5x and 5 load it. `dtype` is torch's name.
    pub(crate) fn to_config_json(&self, dtype: &str) -> Value {
        let (text, vision, tokens) = (&self.text, &self.vision, &self.tokens);
        json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "attention_dropout": 0.0,
            "bos_token_id": tokens.pad,
            "eos_token_id": tokens.eos.first(),
            "pad_token_id": tokens.pad,
            "vision_start_token_id": tokens.vision_start,
            "vision_end_token_id": tokens.vision_end,
            "image_token_id": tokens.image_pad,
            "video_token_id": tokens.video_pad,
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": 128_000,
            "max_window_layers": text.num_layers,
            "model_type": "qwen2_5_vl",
            "num_attention_heads": text.num_heads,
            "num_hidden_layers": text.num_layers,
            "num_key_value_heads": text.num_kv_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_theta,
            "sliding_window": 32_768,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "use_sliding_window": false,
            "vision_config": {
                "depth": vision.depth,
                "hidden_act": "silu",
                "hidden_size": vision.hidden_size,
                "intermediate_size": vision.intermediate_size,
                "num_heads": vision.num_heads,
                "in_chans": IN_CHANNELS,
                "out_hidden_size": vision.out_hidden_size,
                "patch_size": vision.patch_size,
                "spatial_merge_size": vision.spatial_merge_size,
                "spatial_patch_size": vision.patch_size,
                "window_size": vision.window_size,
                "fullatt_block_indexes": vision.fullatt_block_indexes,
                "tokens_per_second": whole_or_float(vision.tokens_per_second),
                "temporal_patch_size": vision.temporal_patch_size,
            },
            "rope_scaling": { "type": "mrope", "mrope_section": text.mrope_section },
            "vocab_size": text.vocab_size,
        })
    }

    /// `generation_config.json` with the end-of-turn ids.
    #[cfg(test)]
    pub(crate) fn to_generation_json(&self) -> Value {
        json!({
            "bos_token_id": self.tokens.pad,
            "pad_token_id": self.tokens.pad,
            "eos_token_id": self.tokens.eos,
        })
    }
}

/// transformers' type check wants an integer where the value is whole.
fn whole_or_float(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as u64)
    } else {
        json!(value)
    }
}
