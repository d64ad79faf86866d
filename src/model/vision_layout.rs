//! How the patches of clips lie in windows, and attention inside windows or frames.
//!
//! Shapes: `P` patches, `M` merged tokens, `n` heads of width `d`; a window or a frame is a set of rows that see each other.

use crate::model::ops::Ops;
use crate::model::ops::attention::AttentionPlan;
use crate::model::ops::cuda::attention::Attended;
use crate::model::ops::heads::Heads;
use crate::model::ops::sequences::SequenceLayout;
use crate::model::positions::inverse_frequencies;
use crate::model::positions::table_from_angles;
use crate::model::spec::VisionSpec;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;

/// Base of the tower's rotary frequencies (fixed in the architecture).
const ROTARY_BASE: f64 = 10_000.0;

/// Orders, rotary angles and segments of some clips.
#[derive(Debug, Clone)]
pub struct VisionLayout {
    /// Window order → processor order, of patches `[P]` and of merged tokens `[M]`.
    patch_order: Tensor,
    token_order: Tensor,
    /// Processor order → window order, of merged tokens `[M]`.
    token_rank: Tensor,
    /// `[P, d/2]` in f32, in window order.
    cos: Tensor,
    sin: Tensor,
    windows: AttentionPlan,
    frames: AttentionPlan,
}

impl VisionLayout {
    /// The layout of clips with `grids` `[t, h, w]` that follow each other.
    pub fn new(spec: &VisionSpec, grids: &[[usize; 3]], device: &Device) -> Result<Self> {
        let (mut order, mut window_lens, mut frame_lens) = (Vec::new(), Vec::new(), Vec::new());
        let mut angles = Vec::new();
        let unit = spec.merge_unit();
        let merge = spec.spatial_merge_size;
        for &[grids, rows, columns] in grids {
            if rows % merge != 0 || columns % merge != 0 || grids * rows * columns == 0 {
                candle_core::bail!(
                    "a grid of {grids} × {rows} × {columns} patches cannot be merged by {merge} × {merge}"
                );
            }
            frame_lens.extend(std::iter::repeat_n(rows * columns, grids));
            let (rows, columns) = (rows / merge, columns / merge);
            for _ in 0..grids {
                push_windows(
                    spec,
                    (rows, columns),
                    &mut order,
                    &mut window_lens,
                    &mut angles,
                );
            }
        }
        let rows = order.len() * unit;
        let half = spec.head_dim() / 2;
        let (cos, sin) = table_from_angles(&angles, (rows, half), device)?;
        let patches: Vec<u32> = order
            .iter()
            .flat_map(|token| (0..unit as u32).map(move |patch| token * unit as u32 + patch))
            .collect();
        let rank = inverse(&order);
        Ok(Self {
            patch_order: Tensor::new(patches, device)?,
            token_rank: Tensor::new(rank, device)?,
            token_order: Tensor::new(order, device)?,
            cos,
            sin,
            windows: AttentionPlan::new(SequenceLayout::bidirectional(&window_lens)),
            frames: AttentionPlan::new(SequenceLayout::bidirectional(&frame_lens)),
        })
    }

    /// Tokens after the merge (M).
    pub fn num_tokens(&self) -> usize {
        self.token_order.elem_count()
    }

    /// Patch rows from the processor's order to window order.
    pub(crate) fn to_windows(&self, pixels: &Tensor) -> Result<Tensor> {
        pixels.index_select(&self.patch_order, 0)
    }

    /// Merged rows from window order to the placeholders' order.
    pub(crate) fn to_tokens(&self, merged: &Tensor) -> Result<Tensor> {
        merged.index_select(&self.token_rank, 0)
    }

    /// Merged rows from the placeholders' order to window order.
    pub(crate) fn tokens_to_windows(&self, tokens: &Tensor) -> Result<Tensor> {
        tokens.index_select(&self.token_order, 0)
    }

    /// Self-attention inside windows, or inside frames when `full`: `qkv [P, 3·n·d]` → `[P, n·d]`, and what the backward
    /// pass takes of it.
    pub(crate) fn attention(
        &self,
        ops: Ops,
        qkv: &Tensor,
        heads: usize,
        full: bool,
    ) -> Result<(Tensor, Option<Attended>)> {
        let [q, k, v] = self.rotated(ops, qkv)?;
        ops.attention([&q, &k, &v], equal_heads(&q, heads)?, self.plan(full))
    }

    /// Gradient of [`Self::attention`] with respect to `qkv`.
    pub(crate) fn attention_backward(
        &self,
        ops: Ops,
        qkv: &Tensor,
        heads: usize,
        full: bool,
        saved: Option<&Attended>,
        grad_output: &Tensor,
    ) -> Result<Tensor> {
        let [q, k, v] = self.rotated(ops, qkv)?;
        let heads = equal_heads(&q, heads)?;
        let (dq, dk, dv) =
            ops.attention_backward([&q, &k, &v], heads, self.plan(full), saved, grad_output)?;
        let dq = ops.rotary_backward(&dq, &self.cos, &self.sin)?;
        let dk = ops.rotary_backward(&dk, &self.cos, &self.sin)?;
        Tensor::cat(&[dq, dk, dv], 1)
    }

    /// Queries, keys (both turned) and values, each `[P, n·d]`.
    fn rotated(&self, ops: Ops, qkv: &Tensor) -> Result<[Tensor; 3]> {
        let width = qkv.dim(1)? / 3;
        let part = |index: usize| qkv.narrow(1, index * width, width)?.contiguous();
        Ok([
            ops.rotary(&part(0)?, &self.cos, &self.sin)?,
            ops.rotary(&part(1)?, &self.cos, &self.sin)?,
            part(2)?,
        ])
    }

    fn plan(&self, full: bool) -> &AttentionPlan {
        if full { &self.frames } else { &self.windows }
    }
}

/// Heads of `q [P, n·d]`, each with keys of its own.
fn equal_heads(q: &Tensor, heads: usize) -> Result<Heads> {
    Ok(Heads {
        num_heads: heads,
        num_kv_heads: heads,
        head_dim: q.dim(1)? / heads,
    })
}

/// Appends one frame of `(rows, columns)` merged tokens window by window: order, window lengths, angles of its patches.
fn push_windows(
    spec: &VisionSpec,
    (rows, columns): (usize, usize),
    order: &mut Vec<u32>,
    lens: &mut Vec<usize>,
    angles: &mut Vec<f32>,
) {
    let merge = spec.spatial_merge_size;
    let side = spec.window_size / merge / spec.patch_size;
    let frequencies = inverse_frequencies(ROTARY_BASE, spec.head_dim() / 2);
    let first = order.len() as u32;
    for top in (0..rows).step_by(side) {
        for left in (0..columns).step_by(side) {
            let (bottom, right) = ((top + side).min(rows), (left + side).min(columns));
            lens.push((bottom - top) * (right - left) * spec.merge_unit());
            for (row, column) in (top..bottom).flat_map(|row| (left..right).map(move |c| (row, c)))
            {
                order.push(first + (row * columns + column) as u32);
                for patch in 0..spec.merge_unit() {
                    let y = (row * merge + patch / merge) as f32;
                    let x = (column * merge + patch % merge) as f32;
                    angles.extend(frequencies.iter().map(|frequency| y * frequency));
                    angles.extend(frequencies.iter().map(|frequency| x * frequency));
                }
            }
        }
    }
}

/// `result[order[i]] = i`.
fn inverse(order: &[u32]) -> Vec<u32> {
    let mut inverse = vec![0; order.len()];
    for (rank, &item) in order.iter().enumerate() {
        inverse[item as usize] = rank as u32;
    }
    inverse
}
