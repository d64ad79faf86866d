//! A prompt: exactly what the model sees before it answers.

use crate::video::VideoPatches;
use std::sync::Arc;

/// A question and its clip as token ids and patches.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The rendered chat text, one `<|video_pad|>` per video token.
    pub text: String,
    /// Token ids of `text`.
    pub token_ids: Vec<u32>,
    /// The clip, when the prompt has one.
    pub video: Option<Arc<VideoPatches>>,
}
