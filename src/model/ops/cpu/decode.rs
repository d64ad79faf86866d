//! Attention of decoding rows in f32: each attends to its prompt, then to what it has added.

use crate::model::ops::cpu::in_f32;
use crate::model::ops::cpu::matrix::{Matrix, Target, product, with_slices};
use crate::model::ops::cpu::simd::{softmax, vectorized};
use crate::model::ops::heads::Heads;
use crate::model::ops::layer_cache::{CachedRow, LayerCache};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

/// Where the next key and value of each of `rows` go in `own_k` and `own_v`: `[B·m, d]`, as `scatter_set` takes it.
pub(in crate::model::ops) fn targets(
    rows: &[CachedRow],
    heads: Heads,
    capacity: usize,
) -> Result<Tensor> {
    let m = heads.num_kv_heads;
    let targets: Vec<u32> = rows
        .iter()
        .flat_map(|row| (0..m).map(|head| ((row.place * m + head) * capacity + row.own_len) as u32))
        .collect();
    Tensor::new(targets, &Device::Cpu)?
        .unsqueeze(1)?
        .broadcast_as((rows.len() * m, heads.head_dim))?
        .contiguous()
}

/// Stores the new keys and values `[B, m·d]` at `targets`.
pub(in crate::model::ops) fn append(
    cache: &LayerCache,
    targets: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<()> {
    let shape = targets.dims2()?;
    for (cache, values) in [(&cache.own_k, k), (&cache.own_v, v)] {
        cache.scatter_set(targets, &in_f32(values)?.reshape(shape)?, 0)?;
    }
    Ok(())
}

/// One query per row, `q [B, n·d]` → `[B, n·d]`. The token just stored is not counted in `rows` yet.
pub(in crate::model::ops) fn attend(
    q: &Tensor,
    cache: &LayerCache,
    rows: &[CachedRow],
) -> Result<Tensor> {
    let (shape, dtype) = (q.shape().clone(), q.dtype());
    let width = q.dim(1)?;
    let q = in_f32(q)?;
    let (heads, prompt_stride) = (cache.heads, cache.prompt_k.dim(1)?);
    let tensors = [
        &q,
        &cache.prompt_k,
        &cache.prompt_v,
        &cache.own_k,
        &cache.own_v,
    ];
    let output = with_slices(&tensors, |slices| {
        let mut output = vec![0f32; slices[0].len()];
        output
            .par_chunks_mut(width)
            .zip(slices[0].par_chunks(width))
            .zip(rows)
            .for_each(|((output, q), row)| {
                attend_row(output, q, heads, |kv_head| {
                    let head = |of: usize, stride| (of * heads.num_kv_heads + kv_head) * stride;
                    let prompt = head(row.slot, prompt_stride);
                    let own = head(row.place, cache.capacity);
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
    Tensor::from_vec(output, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// One row of [`attend`]; `parts` gives a key/value head's (length, keys, values), prompt first.
fn attend_row<'a>(
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
