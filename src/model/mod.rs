//! Qwen2.5-VL: embed, layers, head; the only door to the network.
//!
//! Shapes: `N` rows, `M` video tokens among them, `P` patches, `H` hidden, `V` vocabulary, `D` head width.

pub mod cache;
pub mod checkpoint_error;
mod config_file;
pub(crate) mod cuda_error;
pub(crate) mod device;
pub mod export;
pub(crate) mod generation;
pub mod head;
pub mod hub;
pub(crate) mod int8;
pub(crate) mod offload;
pub mod ops;
pub mod packed;
pub mod positions;
pub(crate) mod private;
pub(crate) mod random;
pub mod spec;
pub(crate) mod text;
pub(crate) mod vision;
pub mod vision_layout;
pub mod weights;

use crate::model::checkpoint_error::CheckpointError;
use crate::model::ops::Ops;
use crate::model::packed::PackedLayout;
use crate::model::positions::Positions;
use crate::model::positions::rotary_table;
use crate::model::spec::Spec;
use crate::model::spec::VisionSpec;
use crate::model::text::DecoderLayer;
use crate::model::vision::VisionTower;
use crate::model::vision_layout::VisionLayout;
use crate::model::weights::NamedTensors;
use crate::video::VideoPatches;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use std::borrow::Borrow;
use std::path::Path;

/// The network. Its tensors are views of those it was made from.
#[derive(Debug, Clone)]
pub struct Qwen25Vl {
    ops: Ops,
    /// What the checkpoint says about it.
    pub spec: Spec,
    /// Patches to video tokens.
    pub visual: VisionTower,
    /// `[V, H]`
    pub(crate) embed_tokens: Tensor,
    /// From the embedding to the last norm.
    pub layers: Vec<DecoderLayer>,
    /// Weight of the last RMSNorm `[H]`.
    pub(crate) norm: Tensor,
    /// `[V, H]`: the embedding itself where the checkpoint ties them.
    pub head: Tensor,
}

impl Qwen25Vl {
    /// Name of the embedding in a checkpoint.
    pub const EMBEDDING: &'static str = "model.embed_tokens.weight";
    /// Name of the last norm's weight in a checkpoint.
    pub const NORM: &'static str = "model.norm.weight";
    /// Name of an untied head in a checkpoint.
    pub(crate) const HEAD: &'static str = "lm_head.weight";

    /// The network over `weights`, without copying them.
    pub fn new(spec: &Spec, weights: &NamedTensors) -> Result<Self> {
        let embed_tokens = weights.get(Self::EMBEDDING)?;
        let head = if spec.tie_word_embeddings {
            embed_tokens.clone()
        } else {
            weights.get(Self::HEAD)?
        };
        let ops = Ops::of(&embed_tokens)?;
        let layers = (0..spec.text.num_layers)
            .map(|index| DecoderLayer::new(ops, &spec.text, weights, index))
            .collect::<Result<_>>()?;
        Ok(Self {
            ops,
            spec: spec.clone(),
            visual: VisionTower::new(ops, &spec.vision, weights)?,
            embed_tokens,
            layers,
            norm: weights.get(Self::NORM)?,
            head,
        })
    }

    /// The network in a checkpoint folder.
    pub fn load(
        folder: &Path,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, CheckpointError> {
        let spec = Spec::load(folder)?;
        let weights = weights::load(folder, &spec, dtype, device)?;
        Ok(Self::new(&spec, &weights)?)
    }

    /// Where its operations run.
    pub fn ops(&self) -> Ops {
        self.ops
    }

    /// Where the weights lie.
    pub(crate) fn device(&self) -> &Device {
        self.embed_tokens.device()
    }

    /// Number format of the weights.
    pub(crate) fn dtype(&self) -> DType {
        self.embed_tokens.dtype()
    }

    /// Decoder input `[N, H]`: embeddings of `token_ids`, with `video_tokens [M, H]` in the rows `video_rows`.
    pub fn embed(
        &self,
        token_ids: &[u32],
        video_rows: &[u32],
        video_tokens: Option<&Tensor>,
    ) -> Result<Tensor> {
        let ids = Tensor::new(token_ids, self.device())?;
        let embedded = self.embed_tokens.index_select(&ids, 0)?;
        let Some(video_tokens) = video_tokens else {
            return Ok(embedded);
        };
        if video_tokens.dim(0)? != video_rows.len() {
            candle_core::bail!(
                "{} video tokens for {} rows",
                video_tokens.dim(0)?,
                video_rows.len()
            );
        }
        let mut source: Vec<u32> = (0..token_ids.len() as u32).collect();
        for (token, &row) in video_rows.iter().enumerate() {
            source[row as usize] = (token_ids.len() + token) as u32;
        }
        let source = Tensor::new(source, self.device())?;
        Tensor::cat(&[&embedded, video_tokens], 0)?.index_select(&source, 0)
    }

    /// Gradients of [`Self::embed`]: of the embedding `[V, H]` and of the video tokens `[M, H]`.
    ///
    /// `table`, a gradient `[V, H]` that nothing else refers to, is changed and returned with this one added.
    pub(crate) fn embed_backward(
        &self,
        token_ids: &[u32],
        video_rows: &[u32],
        grad_output: &Tensor,
        table: Option<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut is_video = vec![false; token_ids.len()];
        for &row in video_rows {
            is_video[row as usize] = true;
        }
        let rows: Vec<u32> = (0..token_ids.len() as u32)
            .filter(|&row| !is_video[row as usize])
            .collect();
        let ids: Vec<u32> = rows.iter().map(|&row| token_ids[row as usize]).collect();
        let select = |rows: &[u32]| -> Result<Tensor> {
            grad_output.index_select(&Tensor::new(rows, self.device())?, 0)
        };
        let table = match table {
            Some(table) => table,
            None => self.embed_tokens.zeros_like()?,
        };
        if !rows.is_empty() {
            let (ids, sums) = sums_by_id(&ids, &select(&rows)?)?;
            let ids = ids.unsqueeze(1)?.broadcast_as(sums.shape())?;
            table.scatter_add_set(&ids.contiguous()?, &sums, 0)?;
        }
        let video = (!video_rows.is_empty())
            .then(|| select(video_rows))
            .transpose()?;
        Ok((table, video))
    }

    /// Rotary cosines and sines `[N, D/2]` for the decoder's layers.
    pub fn rotary(&self, positions: &Positions) -> Result<(Tensor, Tensor)> {
        rotary_table(&self.spec.text, positions, self.device())
    }

    /// Decoder input `[N, H]` → normed output `[N, H]`, all layers, nothing kept.
    pub fn hidden(
        &self,
        embedded: &Tensor,
        positions: &Positions,
        layout: &PackedLayout,
    ) -> Result<Tensor> {
        let (cos, sin) = self.rotary(positions)?;
        let mut x = embedded.clone();
        for layer in &self.layers {
            x = layer.forward_packed(&x, &cos, &sin, layout)?;
        }
        self.norm(&x)
    }

    /// The last RMSNorm `[N, H]` → `[N, H]`.
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.ops
            .rms_norm(x, &self.norm, self.spec.text.rms_norm_eps)
    }

    /// Gradients of [`Self::norm`] with respect to `x` and its weight.
    pub(crate) fn norm_backward(
        &self,
        x: &Tensor,
        grad_output: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let eps = self.spec.text.rms_norm_eps;
        self.ops
            .rms_norm_backward(x, &self.norm, eps, grad_output, None)
    }

    /// The clips of a pass on this model's device.
    pub(crate) fn video_input<V: Borrow<VideoPatches>>(&self, videos: &[V]) -> Result<VideoInput> {
        VideoInput::new(&self.spec.vision, videos, self.device())
    }
}

/// The different ones of `ids`, and for each the sum of its rows of `x [N, H]`. A frequent token has hundreds of rows: in
/// 16 bits, most of them would be too small beside their sum to count.
fn sums_by_id(ids: &[u32], x: &Tensor) -> Result<(Tensor, Tensor)> {
    let mut distinct = ids.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let places: Vec<u32> = ids
        .iter()
        .map(|id| distinct.partition_point(|other| other < id) as u32)
        .collect();
    let places = Tensor::new(places, x.device())?;
    let sums = Tensor::zeros((distinct.len(), x.dim(1)?), DType::F32, x.device())?
        .index_add(&places, &x.to_dtype(DType::F32)?, 0)?
        .to_dtype(x.dtype())?;
    Ok((Tensor::new(distinct, x.device())?, sums))
}

/// Clips on the device: what the vision tower reads.
#[derive(Debug, Clone)]
pub(crate) struct VideoInput {
    /// Patches of all clips `[P, patch values]`, f32.
    pub(crate) pixels: Tensor,
    /// How they lie in windows and frames.
    pub(crate) layout: VisionLayout,
}

impl VideoInput {
    /// The patches of `videos`, one after another; at least one clip.
    pub(crate) fn new<V: Borrow<VideoPatches>>(
        spec: &VisionSpec,
        videos: &[V],
        device: &Device,
    ) -> Result<Self> {
        let grids: Vec<[usize; 3]> = videos.iter().map(|video| video.borrow().grid_thw).collect();
        let clips = videos
            .iter()
            .map(|video| {
                let video = video.borrow();
                let rows = video.grid_thw.iter().product::<usize>();
                Tensor::from_slice(&video.values, (rows, spec.patch_dim()), device)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            pixels: Tensor::cat(&clips, 0)?,
            layout: VisionLayout::new(spec, &grids, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_frequent_token_add_up_exactly() -> Result<()> {
        let mut ids = vec![7u32; 1000];
        ids.extend([2, 9]);
        let x = Tensor::ones((ids.len(), 3), DType::BF16, &Device::Cpu)?;
        let (ids, sums) = sums_by_id(&ids, &x)?;
        assert_eq!(ids.to_vec1::<u32>()?, [2, 7, 9]);
        // One by one in bf16 the sum would stop at 256.
        let sums = sums.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        assert_eq!(sums, [[1.0; 3], [1000.0; 3], [1.0; 3]]);
        Ok(())
    }
}
