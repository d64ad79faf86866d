//! Attention of packed rows in f32: prompts with their completions, and the vision tower's windows and frames.
//!
//! Every block of queries reads its keys and values where they lie, and its scores stay in the cache; ragged
//! completions need no padding. The work of a block or of a segment is one rayon task, so results do not depend on the
//! number of threads.

use crate::model::ops::cpu::in_f32;
use crate::model::ops::cpu::matrix::{Matrix, Target, product, with_slices};
use crate::model::ops::cpu::simd::{dot, softmax, vectorized};
use crate::model::ops::heads::Heads;
use crate::model::ops::sequences::{Sequence, SequenceLayout};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Most query rows of one block: bounds the scores held at a time, and skips most of what causality hides.
const BLOCK_ROWS: usize = 128;

/// Consecutive query rows and the rows they attend to: `before` and `own` entirely, or `own`, then the rows themselves,
/// causally.
#[derive(Debug, Clone)]
struct Block {
    rows: Range<usize>,
    before: [Range<usize>; 2],
    own: Range<usize>,
    causal: bool,
}

impl Block {
    fn num_before(&self) -> usize {
        self.before.iter().map(Range::len).sum()
    }

    fn num_keys(&self) -> usize {
        self.num_before() + self.own.len()
    }

    /// Keys that the block's `row`-th row attends to; they are the first ones.
    fn num_seen(&self, row: usize) -> usize {
        if self.causal {
            self.num_before() + row + 1
        } else {
            self.num_keys()
        }
    }

    /// Key rows and the column at which their scores begin.
    fn keys(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let [prompt, earlier] = self.before.clone();
        let columns = [0, prompt.len(), prompt.len() + earlier.len()];
        columns
            .into_iter()
            .zip([prompt, earlier, self.own.clone()])
            .filter(|(_, rows)| !rows.is_empty())
    }
}

/// Consecutive rows that attend to none but each other.
#[derive(Debug, Clone, Default)]
pub(in crate::model::ops) struct Segment {
    num_rows: usize,
    blocks: Vec<Block>,
}

/// The rows of `layout`: a sequence that sees none above it begins a segment.
pub(in crate::model::ops) fn segments(layout: &SequenceLayout) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for sequence in &layout.sequences {
        if sequence.before.is_empty() {
            segments.push(Segment::default());
        }
        if let Some(segment) = segments.last_mut() {
            segment.num_rows += sequence.rows.len();
            segment.blocks.extend(blocks(sequence, layout.causal));
        }
    }
    segments
}

fn blocks(sequence: &Sequence, causal: bool) -> impl Iterator<Item = Block> {
    let (all, before) = (sequence.rows.clone(), sequence.before.clone());
    all.clone().step_by(BLOCK_ROWS).map(move |start| {
        let rows = start..(start + BLOCK_ROWS).min(all.end);
        let (earlier, own) = if causal {
            (all.start..start, rows.clone())
        } else {
            (start..start, all.clone())
        };
        Block {
            rows,
            before: [before.clone(), earlier],
            own,
            causal,
        }
    })
}

/// `q [N, n·d]`, `k`, `v` `[N, m·d]` → `[N, n·d]`.
pub(in crate::model::ops) fn forward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    segments: &[Segment],
) -> Result<Tensor> {
    let (shape, dtype) = (q.shape().clone(), q.dtype());
    let (width, kv_width) = (q.dim(1)?, k.dim(1)?);
    let (q, k, v) = (in_f32(q)?, in_f32(k)?, in_f32(v)?);
    let output = with_slices(&[&q, &k, &v], |slices| {
        let [q, k, v] = [slices[0], slices[1], slices[2]];
        let mut output = vec![0f32; q.len()];
        let mut rest = output.as_mut_slice();
        let mut tasks = Vec::new();
        for block in segments.iter().flat_map(|segment| &segment.blocks) {
            let (rows, behind) = rest.split_at_mut(block.rows.len() * width);
            rest = behind;
            tasks.push((block, rows));
        }
        tasks.into_par_iter().for_each(|(block, output)| {
            let mut scores = vec![0f32; block.rows.len() * block.num_keys()];
            for head in 0..heads.num_heads {
                let head = HeadView::new(heads, head, width, kv_width);
                head.probabilities(block, q, k, &mut scores);
                head.weighted_values(block, &scores, v, output);
            }
        });
        output
    })?;
    Tensor::from_vec(output, shape, &candle_core::Device::Cpu)?.to_dtype(dtype)
}

/// Gradients with respect to `q`, `k`, `v`.
pub(in crate::model::ops) fn backward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    segments: &[Segment],
    grad_output: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (rows, width) = q.dims2()?;
    let dtype = q.dtype();
    let kv_width = k.dim(1)?;
    let (m, d, r) = (heads.num_kv_heads, heads.head_dim, heads.group_size());
    let (q, k, v) = (in_f32(q)?, in_f32(k)?, in_f32(v)?);
    let grad_output = in_f32(grad_output)?;
    // Gradients lie head by head, so that a segment's part of a key/value head is one slice.
    let (dq, dk, dv) = with_slices(&[&q, &k, &v, &grad_output], |slices| {
        let inputs = Inputs {
            q: slices[0],
            k: slices[1],
            v: slices[2],
            grad_output: slices[3],
        };
        let mut gradients = (
            vec![0f32; rows * width],
            vec![0f32; rows * kv_width],
            vec![0f32; rows * kv_width],
        );
        let mut rest = (
            gradients.0.as_mut_slice(),
            gradients.1.as_mut_slice(),
            gradients.2.as_mut_slice(),
        );
        let mut tasks = Vec::new();
        for kv_head in 0..m {
            for segment in segments {
                let (dq, q_behind) = rest.0.split_at_mut(segment.num_rows * r * d);
                let (dk, k_behind) = rest.1.split_at_mut(segment.num_rows * d);
                let (dv, v_behind) = rest.2.split_at_mut(segment.num_rows * d);
                rest = (q_behind, k_behind, v_behind);
                tasks.push((kv_head, &segment.blocks, Gradients { dq, dk, dv }));
            }
        }
        tasks
            .into_par_iter()
            .for_each(|(kv_head, blocks, mut gradients)| {
                let start = blocks.first().map_or(0, |block| block.rows.start);
                for block in blocks {
                    for index in 0..r {
                        let head = HeadView::new(heads, kv_head * r + index, width, kv_width);
                        head.backward(block, &inputs, &mut gradients, (start, index));
                    }
                }
            });
        gradients
    })?;
    let unfold = |gradient: Vec<f32>, width: usize| -> Result<Tensor> {
        Tensor::from_vec(gradient, (m, rows, width), &candle_core::Device::Cpu)?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((rows, m * width))?
            .to_dtype(dtype)
    };
    Ok((unfold(dq, r * d)?, unfold(dk, d)?, unfold(dv, d)?))
}

struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    grad_output: &'a [f32],
}

/// One segment's gradients of one key/value head: `[rows, r·d]` and twice `[rows, d]`.
struct Gradients<'a> {
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// Where one query head and its key/value head lie in packed rows.
#[derive(Clone, Copy)]
struct HeadView {
    width: usize,
    kv_width: usize,
    dim: usize,
    group: usize,
    column: usize,
    kv_column: usize,
    scale: f32,
}

impl HeadView {
    fn new(heads: Heads, head: usize, width: usize, kv_width: usize) -> Self {
        let dim = heads.head_dim;
        Self {
            width,
            kv_width,
            dim,
            group: heads.group_size(),
            column: head * dim,
            kv_column: head / heads.group_size() * dim,
            scale: heads.scale() as f32,
        }
    }

    fn queries<'a>(&self, x: &'a [f32], rows: &Range<usize>) -> Matrix<'a> {
        Matrix::new(x, rows.start * self.width + self.column, self.width)
    }

    fn keys<'a>(&self, x: &'a [f32], rows: &Range<usize>) -> Matrix<'a> {
        Matrix::new(
            x,
            rows.start * self.kv_width + self.kv_column,
            self.kv_width,
        )
    }

    /// Fills `scores [rows, keys]` with attention weights.
    fn probabilities(&self, block: &Block, q: &[f32], k: &[f32], scores: &mut [f32]) {
        let (rows, stride) = (block.rows.len(), block.num_keys());
        let q = self.queries(q, &block.rows);
        for (column, keys) in block.keys() {
            let k = self.keys(k, &keys).transposed();
            let mut target = Target::new(scores, column, stride);
            product([rows, keys.len(), self.dim], q, k, &mut target, false);
        }
        let scale = self.scale;
        vectorized(|| {
            for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
                let (seen, hidden) = scores.split_at_mut(block.num_seen(row));
                softmax(seen, scale);
                hidden.fill(0.0);
            }
        });
    }

    /// `output [rows, width]` of a block: its columns of this head become `scores · v`.
    fn weighted_values(&self, block: &Block, scores: &[f32], v: &[f32], output: &mut [f32]) {
        let (rows, stride) = (block.rows.len(), block.num_keys());
        let mut add = false;
        for (column, keys) in block.keys() {
            let weights = Matrix::new(scores, column, stride);
            let v = self.keys(v, &keys);
            let mut target = Target::new(output, self.column, self.width);
            product([rows, self.dim, keys.len()], weights, v, &mut target, add);
            add = true;
        }
    }

    /// Adds a block's gradients; `origin` is the segment's first row and this head's index among its siblings.
    fn backward(
        &self,
        block: &Block,
        inputs: &Inputs,
        gradients: &mut Gradients,
        (start, index): (usize, usize),
    ) {
        let (rows, stride, dim) = (block.rows.len(), block.num_keys(), self.dim);
        let mut weights = vec![0f32; rows * stride];
        self.probabilities(block, inputs.q, inputs.k, &mut weights);
        let mut slopes = vec![0f32; rows * stride];
        let grad_output = self.queries(inputs.grad_output, &block.rows);
        for (column, keys) in block.keys() {
            let v = self.keys(inputs.v, &keys).transposed();
            let mut target = Target::new(&mut slopes, column, stride);
            product([rows, keys.len(), dim], grad_output, v, &mut target, false);
            let weights = Matrix::new(&weights, column, stride).transposed();
            let mut target = Target::new(gradients.dv, (keys.start - start) * dim, dim);
            product(
                [keys.len(), dim, rows],
                weights,
                grad_output,
                &mut target,
                true,
            );
        }
        let scale = self.scale;
        vectorized(|| {
            for (slopes, weights) in slopes
                .chunks_exact_mut(stride)
                .zip(weights.chunks_exact(stride))
            {
                let along = dot(slopes, weights);
                for (slope, weight) in slopes.iter_mut().zip(weights) {
                    *slope = weight * (*slope - along) * scale;
                }
            }
        });
        let q = self.queries(inputs.q, &block.rows);
        let q_width = self.group * dim;
        let q_offset = (block.rows.start - start) * q_width + index * dim;
        let mut add = false;
        for (column, keys) in block.keys() {
            let slopes = Matrix::new(&slopes, column, stride);
            let k = self.keys(inputs.k, &keys);
            let mut target = Target::new(gradients.dq, q_offset, q_width);
            product([rows, dim, keys.len()], slopes, k, &mut target, add);
            add = true;
            let mut target = Target::new(gradients.dk, (keys.start - start) * dim, dim);
            product(
                [keys.len(), dim, rows],
                slopes.transposed(),
                q,
                &mut target,
                true,
            );
        }
    }
}
