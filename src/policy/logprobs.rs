//! What a model gives to the targets of a pass: log-probabilities, entropies, divergences.

use crate::model::Qwen25Vl;
use crate::model::head::{BiasRows, CHUNK_BYTES, Head, TokenScores};
use crate::policy::inputs::PackedInputs;
use candle_core::{Result, Tensor};

/// Tokens `[M, H]` of the clips of `inputs`, in the order of its video rows; `None` where there is no clip.
pub fn video_tokens(model: &Qwen25Vl, inputs: &PackedInputs) -> Result<Option<Tensor>> {
    if inputs.videos.is_empty() {
        return Ok(None);
    }
    let video = model.video_input(&inputs.videos)?;
    Ok(Some(model.visual.forward(&video.pixels, &video.layout)?))
}

/// The model's normed output `[R, H]` at the target rows.
pub fn target_hidden(model: &Qwen25Vl, inputs: &PackedInputs) -> Result<Tensor> {
    let video = video_tokens(model, inputs)?;
    let mut x = model.embed(&inputs.token_ids, &inputs.video_rows, video.as_ref())?;
    let (cos, sin) = model.rotary(&inputs.positions)?;
    for layer in &model.layers {
        x = layer.forward_packed(&x, &cos, &sin, &inputs.layout)?;
    }
    let target_rows = Tensor::new(inputs.target_rows.as_slice(), model.device())?;
    model.norm(&x.index_select(&target_rows, 0)?)
}

/// Log-probability and entropy of every target of `inputs`; with `bias` also its divergence.
pub fn score(
    model: &Qwen25Vl,
    inputs: &PackedInputs,
    bias: Option<BiasRows>,
) -> Result<TokenScores> {
    let hidden = target_hidden(model, inputs)?;
    Head::new(&hidden, &model.head, &inputs.target_ids, bias, CHUNK_BYTES)?.scores()
}
