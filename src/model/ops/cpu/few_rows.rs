//! Linear layers of a few rows, as a decoding step has them.
//!
//! A general matrix product first packs both operands, which for a few rows costs more than the product. Here the weight
//! is read once, in its own order, and every output is one dot product: a row's result does not depend on the others.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined keeps the instructions of the narrowest CPU"
)]

use crate::model::ops::cpu::matrix::with_slices;
use candle_core::{DType, Device, Result, Tensor};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// From here on packing pays.
const MAX_ROWS: usize = 16;
/// Weight rows and input rows that are multiplied together: sixteen sums in registers.
const TILE: usize = 4;
/// Weights of one task; with fewer in all, a second thread costs more than it does.
const TASK_WEIGHTS: usize = 128 * 1024;

/// `x [N, in] · weightᵀ` → `[N, out]`, or `None` where this is not the way to compute it.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Option<Tensor>> {
    let (rows, inner) = x.dims2()?;
    let applies = (1..=MAX_ROWS).contains(&rows)
        && x.dtype() == DType::F32
        && weight.dtype() == DType::F32
        && weight.is_contiguous()
        && weight.dim(1)? == inner;
    if !applies {
        return Ok(None);
    }
    let (x, columns) = (x.contiguous()?, weight.dim(0)?);
    let output = with_slices(&[&x, weight], |slices| {
        let [x, weight] = [slices[0], slices[1]];
        let task = (TASK_WEIGHTS / inner).next_multiple_of(TILE);
        let mut by_column = vec![0f32; columns * rows];
        let fill = |(output, weight): (&mut [f32], &[f32])| {
            pulp::Arch::new().dispatch(Products {
                x,
                weight,
                inner,
                output,
            });
        };
        if columns < 2 * task {
            fill((&mut by_column, weight));
        } else {
            by_column
                .par_chunks_mut(task * rows)
                .zip(weight.par_chunks(task * inner))
                .for_each(fill);
        }
        if rows == 1 {
            return by_column;
        }
        let mut output = vec![0f32; by_column.len()];
        for (column, values) in by_column.chunks_exact(rows).enumerate() {
            for (row, value) in values.iter().enumerate() {
                output[row * columns + column] = *value;
            }
        }
        output
    })?;
    Tensor::from_vec(output, (rows, columns), &Device::Cpu).map(Some)
}

/// `output [columns, rows] = weight [columns, inner] · xᵀ`.
struct Products<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    inner: usize,
    output: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.x.len() / self.inner;
        let tiles = self.weight.chunks(TILE * self.inner);
        for (weight, output) in tiles.zip(self.output.chunks_mut(TILE * rows)) {
            for (tile, x) in self.x.chunks(TILE * self.inner).enumerate() {
                let mut store = |column: usize, row: usize, value: f32| {
                    output[column * rows + tile * TILE + row] = value;
                };
                let inner = self.inner;
                match (weight.len() / inner, x.len() / inner) {
                    (4, 4) => dots::<S, 4, 4>(simd, weight, x, inner, &mut store),
                    (4, 3) => dots::<S, 4, 3>(simd, weight, x, inner, &mut store),
                    (4, 2) => dots::<S, 4, 2>(simd, weight, x, inner, &mut store),
                    (4, 1) => dots::<S, 4, 1>(simd, weight, x, inner, &mut store),
                    _ => {
                        for (column, weight) in weight.chunks(inner).enumerate() {
                            for (row, x) in x.chunks(inner).enumerate() {
                                let mut store_one = |_, _, value| store(column, row, value);
                                dots::<S, 1, 1>(simd, weight, x, inner, &mut store_one);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The dot products of `C` rows of `weight` with `R` rows of `x`.
#[inline(always)]
fn dots<S: Simd, const C: usize, const R: usize>(
    simd: S,
    weight: &[f32],
    x: &[f32],
    inner: usize,
    store: &mut impl FnMut(usize, usize, f32),
) {
    let weights: [(&[S::f32s], &[f32]); C] =
        std::array::from_fn(|c| S::as_simd_f32s(&weight[c * inner..(c + 1) * inner]));
    let xs: [(&[S::f32s], &[f32]); R] =
        std::array::from_fn(|r| S::as_simd_f32s(&x[r * inner..(r + 1) * inner]));
    let mut sums = [[simd.splat_f32s(0.0); R]; C];
    for i in 0..weights[0].0.len() {
        let x: [S::f32s; R] = std::array::from_fn(|r| xs[r].0[i]);
        for c in 0..C {
            let weight = weights[c].0[i];
            for r in 0..R {
                sums[c][r] = simd.mul_add_f32s(weight, x[r], sums[c][r]);
            }
        }
    }
    for c in 0..C {
        for r in 0..R {
            let rest = weights[c].1.iter().zip(xs[r].1);
            let rest: f32 = rest.map(|(weight, x)| weight * x).sum();
            store(c, r, simd.reduce_sum_f32s(sums[c][r]) + rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_the_same_alone_and_among_others() -> Result<()> {
        for (columns, inner) in [(1, 1), (7, 33), (64, 100), (1030, 512)] {
            let x = Tensor::randn(0f32, 1.0, (9, inner), &Device::Cpu)?;
            let weight = Tensor::randn(0f32, 1.0, (columns, inner), &Device::Cpu)?;
            let want = x
                .to_dtype(DType::F64)?
                .matmul(&weight.to_dtype(DType::F64)?.t()?)?;
            let all = product(&x, &weight)?
                .map(|y| y.to_vec2::<f32>())
                .transpose()?;
            let all = all.unwrap_or_default();
            for (row, want) in want.to_vec2::<f64>()?.iter().enumerate() {
                for (got, want) in all[row].iter().zip(want) {
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-6 * (inner as f64),
                        "{got} {want}"
                    );
                }
            }
            for rows in [1, 2, 3, 5] {
                let some = product(&x.narrow(0, 4, rows)?, &weight)?;
                let some = some.map(|y| y.to_vec2::<f32>()).transpose()?;
                assert_eq!(some.as_deref(), Some(&all[4..4 + rows]));
            }
        }
        Ok(())
    }

    #[test]
    fn other_products_are_left_to_others() -> Result<()> {
        let weight = Tensor::zeros((8, 6), DType::F32, &Device::Cpu)?;
        let rows = |rows: usize| Tensor::zeros((rows, 6), DType::F32, &Device::Cpu);
        assert!(product(&rows(MAX_ROWS + 1)?, &weight)?.is_none());
        assert!(product(&rows(1)?, &weight.t()?.contiguous()?.t()?)?.is_none());
        let low = DType::BF16;
        assert!(product(&rows(1)?.to_dtype(low)?, &weight.to_dtype(low)?)?.is_none());
        Ok(())
    }
}
