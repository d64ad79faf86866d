//! How the patches of clips lie in windows, and attention inside windows or frames.
//!
//! Shapes: `P` patches, `M` merged tokens, `n` heads of width `d`; a segment is the set of rows that see each other.

use crate::kernels;
use crate::kernels::attention::Attended;
use crate::kernels::attention::HeadCounts;
use crate::kernels::attention::Sequence;
use crate::kernels::attention::Sequences;
use crate::model::attention::softmax;
use crate::model::layers::Backward;
use crate::model::layers::closed_form1;
use crate::model::layers::rotary;
use crate::model::layers::rotary_backward;
use crate::model::positions::inverse_frequencies;
use crate::model::positions::table_from_angles;
use crate::model::spec::VisionSpec;
use candle_core::D;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Base of the tower's rotary frequencies (fixed in the architecture).
const ROTARY_BASE: f64 = 10_000.0;

/// Attention scores held at once: 256 MiB in f32.
pub(crate) const MAX_SCORES: usize = 1 << 26;

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
    windows: Segments,
    frames: Segments,
}

/// Segments of rows, those of equal length side by side.
#[derive(Debug, Clone)]
struct Segments {
    /// Number and length, shortest first.
    batches: Vec<(usize, usize)>,
    /// Sorted row → row, and back; `None` when they already lie so.
    order: Option<(Tensor, Tensor)>,
    /// Length of each, in the order of the rows.
    lens: Vec<usize>,
    /// What the kernels read, once they do.
    sequences: OnceLock<Sequences>,
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
            windows: Segments::new(&window_lens, device)?,
            frames: Segments::new(&frame_lens, device)?,
        })
    }

    /// Patches (P).
    pub fn num_patches(&self) -> usize {
        self.patch_order.elem_count()
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
        let value = merged.detach().index_select(&self.token_rank, 0)?;
        let order = self.token_order.clone();
        let backward: Backward =
            Box::new(move |_, upstream| Ok(vec![upstream.index_select(&order, 0)?]));
        closed_form1(value, merged, backward)
    }

    /// Merged rows from the placeholders' order to window order.
    pub(crate) fn tokens_to_windows(&self, tokens: &Tensor) -> Result<Tensor> {
        tokens.index_select(&self.token_order, 0)
    }

    /// Self-attention inside windows, or inside frames when `full`: `qkv [P, 3·n·d]` → `[P, n·d]`.
    pub(crate) fn attention(&self, qkv: &Tensor, heads: usize, full: bool) -> Result<Tensor> {
        let (value, saved) = self.attention_saved(&qkv.detach(), heads, full)?;
        let layout = self.clone();
        let backward: Backward = Box::new(move |inputs, upstream| {
            let saved = saved.as_ref();
            Ok(vec![layout.attention_backward(
                inputs[0], heads, full, saved, upstream,
            )?])
        });
        closed_form1(value, qkv, backward)
    }

    /// [`Self::attention`] of a detached tensor, and what spares its backward pass computing it again, where a kernel
    /// leaves that.
    pub(crate) fn attention_saved(
        &self,
        qkv: &Tensor,
        heads: usize,
        full: bool,
    ) -> Result<(Tensor, Option<Attended>)> {
        if !kernels::applies(qkv) {
            return Ok((self.attend(qkv, heads, full)?, None));
        }
        let [q, k, v] = self.rotated(qkv)?;
        let sequences = self.segments(full).sequences(&q)?;
        let attended = sequences.forward(&q, &k, &v, head_counts(heads))?;
        Ok((attended.output.clone(), Some(attended)))
    }

    fn attend(&self, qkv: &Tensor, heads: usize, full: bool) -> Result<Tensor> {
        let [q, k, v] = self.rotated(qkv)?;
        let segments = self.segments(full);
        let [q, k, v] = [segments.sort(&q)?, segments.sort(&k)?, segments.sort(&v)?];
        let mut parts = Vec::new();
        for chunk in segments.chunks(heads) {
            let part = chunk.probabilities(&q, &k)?.matmul(&chunk.split(&v)?)?;
            parts.push(chunk.join(&part)?);
        }
        segments.unsort(&Tensor::cat(&parts, 0)?)
    }

    /// Gradient of [`Self::attention`] with respect to `qkv`; the probabilities are computed again, from what
    /// [`Self::attention_saved`] left where it did.
    pub(crate) fn attention_backward(
        &self,
        qkv: &Tensor,
        heads: usize,
        full: bool,
        saved: Option<&Attended>,
        upstream: &Tensor,
    ) -> Result<Tensor> {
        let [q, k, v] = self.rotated(qkv)?;
        let (dq, dk, dv) = match saved {
            Some(attended) => {
                let sequences = self.segments(full).sequences(&q)?;
                let upstream = upstream.contiguous()?;
                sequences.backward([&q, &k, &v], head_counts(heads), attended, &upstream)?
            }
            None => self.composed_backward([q, k, v], heads, full, upstream)?,
        };
        let dq = rotary_backward(&dq, &self.cos, &self.sin)?;
        let dk = rotary_backward(&dk, &self.cos, &self.sin)?;
        Tensor::cat(&[dq, dk, dv], 1)
    }

    fn composed_backward(
        &self,
        [q, k, v]: [Tensor; 3],
        heads: usize,
        full: bool,
        upstream: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let segments = self.segments(full);
        let [q, k, v] = [segments.sort(&q)?, segments.sort(&k)?, segments.sort(&v)?];
        let upstream = segments.sort(upstream)?;
        let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in segments.chunks(heads) {
            let weights = chunk.probabilities(&q, &k)?;
            let d_out = chunk.split(&upstream)?;
            dv.push(chunk.join(&weights.t()?.matmul(&d_out)?)?);
            let d_weights = d_out.matmul(&chunk.split(&v)?.t()?)?;
            let along = (&d_weights * &weights)?.sum_keepdim(D::Minus1)?;
            let d_scores = (d_weights.broadcast_sub(&along)? * &weights)?;
            let d_scores = (d_scores * chunk.scale(&q)?)?;
            dq.push(chunk.join(&d_scores.matmul(&chunk.split(&k)?)?)?);
            dk.push(chunk.join(&d_scores.t()?.matmul(&chunk.split(&q)?)?)?);
        }
        let dq = segments.unsort(&Tensor::cat(&dq, 0)?)?;
        let dk = segments.unsort(&Tensor::cat(&dk, 0)?)?;
        let dv = segments.unsort(&Tensor::cat(&dv, 0)?)?;
        Ok((dq, dk, dv))
    }

    /// Queries, keys (both turned) and values, each `[P, n·d]`.
    fn rotated(&self, qkv: &Tensor) -> Result<[Tensor; 3]> {
        let width = qkv.dim(1)? / 3;
        let part = |index: usize| qkv.narrow(1, index * width, width)?.contiguous();
        Ok([
            rotary(&part(0)?, &self.cos, &self.sin)?,
            rotary(&part(1)?, &self.cos, &self.sin)?,
            part(2)?,
        ])
    }

    fn segments(&self, full: bool) -> &Segments {
        if full { &self.frames } else { &self.windows }
    }
}

/// Every head has keys of its own.
fn head_counts(heads: usize) -> HeadCounts {
    HeadCounts {
        queries: heads,
        keys: heads,
    }
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

impl Segments {
    fn new(lens: &[usize], device: &Device) -> Result<Self> {
        let mut by_len: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut start = 0;
        for &len in lens {
            by_len.entry(len).or_default().push(start);
            start += len;
        }
        let batches = by_len.iter().map(|(&len, starts)| (starts.len(), len));
        let batches: Vec<(usize, usize)> = batches.collect();
        if batches.len() == 1 {
            return Ok(Self {
                batches,
                order: None,
                lens: lens.to_vec(),
                sequences: OnceLock::new(),
            });
        }
        let order: Vec<u32> = by_len
            .iter()
            .flat_map(|(&len, starts)| starts.iter().flat_map(move |&start| start..start + len))
            .map(|row| row as u32)
            .collect();
        let back = inverse(&order);
        Ok(Self {
            batches,
            order: Some((Tensor::new(order, device)?, Tensor::new(back, device)?)),
            lens: lens.to_vec(),
            sequences: OnceLock::new(),
        })
    }

    /// The segments for kernels on tensors like `x`.
    fn sequences(&self, x: &Tensor) -> Result<Sequences> {
        if let Some(sequences) = self.sequences.get().filter(|known| known.fit(x)) {
            return Ok(sequences.clone());
        }
        let mut start = 0;
        let sequences: Vec<Sequence> = self
            .lens
            .iter()
            .map(|&len| {
                let rows = start..start + len;
                start = rows.end;
                Sequence {
                    before: rows.start..rows.start,
                    seen_until: rows.end,
                    rows,
                }
            })
            .collect();
        let sequences = Sequences::new(&sequences, start, false, x.dtype(), x.device())?;
        // A layout serves one model: tables for another dtype would be made each time.
        self.sequences.get_or_init(|| sequences.clone());
        Ok(sequences)
    }

    fn sort(&self, x: &Tensor) -> Result<Tensor> {
        match &self.order {
            Some((order, _)) => x.index_select(order, 0),
            None => Ok(x.clone()),
        }
    }

    fn unsort(&self, x: &Tensor) -> Result<Tensor> {
        match &self.order {
            Some((_, back)) => x.index_select(back, 0),
            None => Ok(x.clone()),
        }
    }

    /// Runs of equally long segments whose scores fit in [`MAX_SCORES`].
    fn chunks(&self, heads: usize) -> Vec<Chunk> {
        let (mut chunks, mut start) = (Vec::new(), 0);
        for &(number, len) in &self.batches {
            let most = (MAX_SCORES / (heads * len * len)).max(1);
            let mut left = number;
            while left > 0 {
                let count = left.min(most);
                chunks.push(Chunk {
                    start,
                    count,
                    len,
                    heads,
                });
                start += count * len;
                left -= count;
            }
        }
        chunks
    }
}

/// `count` segments of `len` rows each, from row `start` on.
struct Chunk {
    start: usize,
    count: usize,
    len: usize,
    heads: usize,
}

impl Chunk {
    fn scale(&self, q: &Tensor) -> Result<f64> {
        Ok(((q.dim(1)? / self.heads) as f64).sqrt().recip())
    }

    /// Rows `[P, n·d]` → this chunk's `[count · n, len, d]`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dim(1)? / self.heads;
        x.narrow(0, self.start, self.count * self.len)?
            .reshape((self.count, self.len, self.heads, width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((self.count * self.heads, self.len, width))
    }

    /// The reverse of [`Self::split`]: `[count · len, n·d]`.
    fn join(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dim(2)?;
        x.reshape((self.count, self.heads, self.len, width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((self.count * self.len, self.heads * width))
    }

    /// `[count · n, len, len]` in the queries' number format; the softmax runs in f32.
    fn probabilities(&self, q: &Tensor, k: &Tensor) -> Result<Tensor> {
        let scores = self.split(q)?.matmul(&self.split(k)?.t()?)?;
        let scores = (scores.to_dtype(DType::F32)? * self.scale(q)?)?;
        softmax(&scores)?.to_dtype(q.dtype())
    }
}
