//! Attention in f32 on a CPU: of packed rows, the same function as in [`super::attention`] without its copies; of the
//! vision tower's windows and frames; and of decoding rows.
//!
//! Every block of queries reads its keys and values where they lie, and its scores stay in the cache; ragged
//! completions need no padding. The work of a block or of a group is one rayon task, so results do not depend on the
//! number of threads.

use crate::model::attention::Heads;
use crate::model::cache::CachedRow;
use crate::model::matrix::{Matrix, Target, product, with_slices};
use crate::model::packed::{GroupLayout, PackedLayout};
use crate::model::simd::{dot, softmax, vectorized};
use candle_core::{DType, Result, Tensor};
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
#[derive(Debug, Clone)]
pub(super) struct Group {
    num_rows: usize,
    blocks: Vec<Block>,
}

/// Prompts with their completions.
pub(super) fn packed(layout: &PackedLayout) -> Vec<Group> {
    let mut start = 0;
    let group = |group: &GroupLayout| {
        let prompt = start..start + group.prompt_len;
        let mut blocks = Vec::new();
        push_causal(&mut blocks, &prompt, start..start);
        let mut first = prompt.end;
        for &len in &group.completion_lens {
            push_causal(&mut blocks, &(first..first + len), prompt.clone());
            first += len;
        }
        start = first;
        Group {
            num_rows: group.num_rows(),
            blocks,
        }
    };
    layout.groups.iter().map(group).collect()
}

fn push_causal(blocks: &mut Vec<Block>, sequence: &Range<usize>, prompt: Range<usize>) {
    for start in sequence.clone().step_by(BLOCK_ROWS) {
        let rows = start..(start + BLOCK_ROWS).min(sequence.end);
        blocks.push(Block {
            own: rows.clone(),
            rows,
            before: [prompt.clone(), sequence.start..start],
            causal: true,
        });
    }
}

/// Segments of these lengths behind each other, whose rows all see each other.
pub(super) fn segments(lens: &[usize]) -> Vec<Group> {
    let mut start = 0;
    let group = |&len: &usize| {
        let segment = start..start + len;
        start = segment.end;
        let blocks = segment.clone().step_by(BLOCK_ROWS).map(|first| Block {
            rows: first..(first + BLOCK_ROWS).min(segment.end),
            before: [first..first, first..first],
            own: segment.clone(),
            causal: false,
        });
        Group {
            num_rows: len,
            blocks: blocks.collect(),
        }
    };
    lens.iter().map(group).collect()
}

/// Whether this implementation takes these tensors.
pub(super) fn applies(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// `q [N, n·d]`, `k`, `v` `[N, m·d]` → `[N, n·d]`.
pub(super) fn forward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    groups: &[Group],
) -> Result<Tensor> {
    let shape = q.shape().clone();
    let (width, kv_width) = (q.dim(1)?, k.dim(1)?);
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let output = with_slices(&[&q, &k, &v], |slices| {
        let [q, k, v] = [slices[0], slices[1], slices[2]];
        let mut output = vec![0f32; q.len()];
        let mut rest = output.as_mut_slice();
        let mut tasks = Vec::new();
        for block in groups.iter().flat_map(|group| &group.blocks) {
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
    Tensor::from_vec(output, shape, &candle_core::Device::Cpu)
}

/// Gradients with respect to `q`, `k`, `v`.
pub(super) fn backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    groups: &[Group],
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (rows, width) = q.dims2()?;
    let kv_width = k.dim(1)?;
    let (m, d, r) = (heads.num_kv_heads, heads.head_dim, heads.group_size());
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let upstream = upstream.contiguous()?;
    // Gradients lie head by head, so that a group's part of a key/value head is one slice.
    let (dq, dk, dv) = with_slices(&[&q, &k, &v, &upstream], |slices| {
        let inputs = Inputs {
            q: slices[0],
            k: slices[1],
            v: slices[2],
            upstream: slices[3],
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
            for group in groups {
                let (dq, q_behind) = rest.0.split_at_mut(group.num_rows * r * d);
                let (dk, k_behind) = rest.1.split_at_mut(group.num_rows * d);
                let (dv, v_behind) = rest.2.split_at_mut(group.num_rows * d);
                rest = (q_behind, k_behind, v_behind);
                tasks.push((kv_head, &group.blocks, Gradients { dq, dk, dv }));
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
            .reshape((rows, m * width))
    };
    Ok((unfold(dq, r * d)?, unfold(dk, d)?, unfold(dv, d)?))
}

/// Keys and values of decoding rows: each attends to its prompt's, then to its own.
pub(super) struct Cached<'a> {
    /// `[Q·m, P, d]`
    pub(super) prompt_k: &'a Tensor,
    pub(super) prompt_v: &'a Tensor,
    /// `[R·m·T, d]`
    pub(super) own_k: &'a Tensor,
    pub(super) own_v: &'a Tensor,
    /// P and T.
    pub(super) prompt_stride: usize,
    pub(super) own_stride: usize,
    /// Where each row's keys lie; the token just stored is not counted yet.
    pub(super) rows: &'a [CachedRow],
}

/// One query per row: `q [B, n·d]` → `[B, n·d]`.
pub(super) fn decode(q: &Tensor, cached: &Cached, heads: Heads) -> Result<Tensor> {
    let shape = q.shape().clone();
    let width = q.dim(1)?;
    let q = q.contiguous()?;
    let tensors = [
        &q,
        cached.prompt_k,
        cached.prompt_v,
        cached.own_k,
        cached.own_v,
    ];
    let output = with_slices(&tensors, |slices| {
        let mut output = vec![0f32; slices[0].len()];
        output
            .par_chunks_mut(width)
            .zip(slices[0].par_chunks(width))
            .zip(cached.rows)
            .for_each(|((output, q), row)| {
                decode_row(output, q, heads, |kv_head| {
                    let head = |of: usize, stride| (of * heads.num_kv_heads + kv_head) * stride;
                    let prompt = head(row.slot, cached.prompt_stride);
                    let own = head(row.place, cached.own_stride);
                    let at = |x: usize, first: usize| {
                        Matrix::new(slices[x], first * heads.head_dim, heads.head_dim)
                    };
                    [
                        (row.prompt_len, at(1, prompt), at(2, prompt)),
                        (row.own_len + 1, at(3, own), at(4, own)),
                    ]
                });
            });
        output
    })?;
    Tensor::from_vec(output, shape, &candle_core::Device::Cpu)
}

/// One row of [`decode`]; `parts` gives a key/value head's (length, keys, values), prompt first.
fn decode_row<'a>(
    output: &mut [f32],
    q: &[f32],
    heads: Heads,
    parts: impl Fn(usize) -> [(usize, Matrix<'a>, Matrix<'a>); 2],
) {
    let (r, d) = (heads.group_size(), heads.head_dim);
    for kv_head in 0..heads.num_kv_heads {
        let parts = parts(kv_head);
        let keys = parts[0].0 + parts[1].0;
        let mut scores = vec![0f32; r * keys];
        let first = kv_head * r * d;
        let q = Matrix::new(q, first, d);
        let mut column = 0;
        for (len, k, _) in parts {
            let mut target = Target::new(&mut scores, column, keys);
            product([r, len, d], q, k.transposed(), &mut target, false);
            column += len;
        }
        let scale = heads.scale() as f32;
        vectorized(|| {
            for scores in scores.chunks_exact_mut(keys) {
                softmax(scores, scale);
            }
        });
        let mut column = 0;
        for (len, _, v) in parts {
            let weights = Matrix::new(&scores, column, keys);
            let mut target = Target::new(output, first, d);
            product([r, d, len], weights, v, &mut target, column > 0);
            column += len;
        }
    }
}

struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    upstream: &'a [f32],
}

/// One group's gradients of one key/value head: `[rows, r·d]` and twice `[rows, d]`.
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

    /// Adds a block's gradients; `origin` is the group's first row and this head's index among its siblings.
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
        let upstream = self.queries(inputs.upstream, &block.rows);
        for (column, keys) in block.keys() {
            let v = self.keys(inputs.v, &keys).transposed();
            let mut target = Target::new(&mut slopes, column, stride);
            product([rows, keys.len(), dim], upstream, v, &mut target, false);
            let weights = Matrix::new(&weights, column, stride).transposed();
            let mut target = Target::new(gradients.dv, (keys.start - start) * dim, dim);
            product(
                [keys.len(), dim, rows],
                weights,
                upstream,
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
