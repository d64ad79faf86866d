//! What a model gives to the targets of a pass: log-probabilities, entropies, divergences.

use crate::model::Qwen25Vl;
use crate::model::head::{CHUNK_BYTES, Head, ReferenceRows, TokenScores};
use crate::model::text::DecoderLayer;
use crate::model::vision::VisionBlock;
use crate::policy::inputs::PackedInputs;
use crate::video::VideoPatches;
use candle_core::{Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// Tokens `[M, H]` of the clips of `inputs`, in the order of its video rows; `None` where there is no clip.
///
/// A clip that several prompts share goes through the vision tower once.
pub fn video_tokens(model: &Qwen25Vl, inputs: &PackedInputs) -> Result<Option<Tensor>> {
    video_tokens_through(model, model, inputs)
}

fn video_tokens_through(
    model: &Qwen25Vl,
    layers: &dyn Layers,
    inputs: &PackedInputs,
) -> Result<Option<Tensor>> {
    if inputs.videos.is_empty() {
        return Ok(None);
    }
    let (clips, clip_of) = distinct(&inputs.videos);
    let video = model.video_input(&clips)?;
    let mut x = model.visual.embed(&video.pixels, &video.layout)?;
    layers.each_block(&mut |block| {
        x = block.forward(&x, &video.layout)?;
        Ok(())
    })?;
    let tokens = model.visual.merge(&x, &video.layout)?;
    drop(x);
    if clips.len() == clip_of.len() {
        return Ok(Some(tokens));
    }
    let mut start = 0;
    let rows_of: Vec<Range<u32>> = clips
        .iter()
        .map(|clip| {
            let rows = start..start + clip.num_tokens() as u32;
            start = rows.end;
            rows
        })
        .collect();
    let rows: Vec<u32> = clip_of
        .iter()
        .flat_map(|&clip| rows_of[clip].clone())
        .collect();
    Ok(Some(
        tokens.index_select(&Tensor::new(rows, model.device())?, 0)?,
    ))
}

/// The different clips in order of first appearance, and for each of `videos` which of them it is.
fn distinct(videos: &[Arc<VideoPatches>]) -> (Vec<Arc<VideoPatches>>, Vec<usize>) {
    let mut clips: Vec<Arc<VideoPatches>> = Vec::new();
    let clip_of = videos
        .iter()
        .map(|video| {
            let known = clips.iter().position(|clip| Arc::ptr_eq(clip, video));
            known.unwrap_or_else(|| {
                clips.push(Arc::clone(video));
                clips.len() - 1
            })
        })
        .collect();
    (clips, clip_of)
}

/// The layers of a model in their order, wherever they are kept.
pub(crate) trait Layers {
    /// Calls `each` with one layer of the decoder after another.
    fn each_layer(&self, each: &mut dyn FnMut(&DecoderLayer) -> Result<()>) -> Result<()>;
    /// Calls `each` with one block of the vision tower after another.
    fn each_block(&self, each: &mut dyn FnMut(&VisionBlock) -> Result<()>) -> Result<()>;
}

impl Layers for Qwen25Vl {
    fn each_layer(&self, each: &mut dyn FnMut(&DecoderLayer) -> Result<()>) -> Result<()> {
        self.layers.iter().try_for_each(each)
    }

    fn each_block(&self, each: &mut dyn FnMut(&VisionBlock) -> Result<()>) -> Result<()> {
        self.visual.blocks().iter().try_for_each(each)
    }
}

/// The model's normed output `[R, H]` at the target rows.
pub(crate) fn target_hidden(model: &Qwen25Vl, inputs: &PackedInputs) -> Result<Tensor> {
    target_hidden_through(model, model, inputs)
}

/// As [`target_hidden`] of a `model` whose layers are those of `layers`.
pub(crate) fn target_hidden_through(
    model: &Qwen25Vl,
    layers: &dyn Layers,
    inputs: &PackedInputs,
) -> Result<Tensor> {
    let video = video_tokens_through(model, layers, inputs)?;
    let mut x = model.embed(&inputs.token_ids, &inputs.video_rows, video.as_ref())?;
    let (cos, sin) = model.rotary(&inputs.positions)?;
    layers.each_layer(&mut |layer| {
        x = layer.forward_packed(&x, &cos, &sin, &inputs.layout)?;
        Ok(())
    })?;
    let target_rows = Tensor::new(inputs.target_rows.as_slice(), model.device())?;
    model.norm(&x.index_select(&target_rows, 0)?)
}

/// Log-probability and entropy of every target of `inputs`; with `bias` also its divergence.
pub fn score(
    model: &Qwen25Vl,
    inputs: &PackedInputs,
    bias: Option<ReferenceRows>,
) -> Result<TokenScores> {
    let hidden = target_hidden(model, inputs)?;
    let (ops, head) = (model.ops(), &model.head);
    Head::new(ops, &hidden, head, &inputs.target_ids, bias, CHUNK_BYTES)?.scores()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextAfterVideo;

    #[test]
    fn a_shared_clip_is_one_clip() {
        let clip = |value: f32| {
            Arc::new(VideoPatches {
                values: vec![value],
                grid_thw: [1, 2, 2],
                second_per_grid: 1.0,
                text_after: TextAfterVideo::default(),
            })
        };
        let (a, b) = (clip(0.0), clip(0.0));
        let (clips, clip_of) = distinct(&[a.clone(), b.clone(), a.clone(), b]);
        assert_eq!(clip_of, [0, 1, 0, 1]);
        assert_eq!(clips.len(), 2);
        assert!(Arc::ptr_eq(&clips[0], &a));
    }
}
