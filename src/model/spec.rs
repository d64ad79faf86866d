//! The checkpoint's `config.json` as a type.

use serde::{Deserialize, Serialize};

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
    pub fn head_dim(&self) -> usize {
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
    /// Heads.
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

/// Ids of the tokens the model gives a meaning to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// `<|vision_start|>`
    pub vision_start: u32,
    /// `<|vision_end|>`
    pub vision_end: u32,
    /// `<|image_pad|>`
    pub image_pad: u32,
    /// `<|video_pad|>`
    pub video_pad: u32,
    /// End-of-turn ids, `<|im_end|>` first (from `generation_config.json` where present).
    pub eos: Vec<u32>,
    /// `<|endoftext|>`, used as padding.
    pub pad: u32,
}
