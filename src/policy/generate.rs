//! Completions: one prefill per question, then all questions' completions decode together as rows of one batch.

use serde::{Deserialize, Serialize};

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// `sampling.max_new_tokens` was reached.
    Length,
}

/// What the model wrote (o_i).
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Tokens up to and including the first end-of-turn token (absent when cut off by length).
    pub token_ids: Vec<u32>,
    /// The text of `token_ids` without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The sampler's log-probability of each token (see [`super::sampler::Draw::logprob`]); empty where the text was
    /// given and not sampled.
    pub logprobs: Vec<f32>,
}
