//! The AdamW update on a CPU: three passes over plain slices, nothing allocated.

use super::Step;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

/// Elements per task; also the blocks whose sums are added in order, so that the thread count changes no result.
const BLOCK: usize = 1 << 15;

/// Moves `weight`, `first` and `second` in place; all f32, contiguous and of one shape.
pub(super) fn update(
    weight: &Tensor,
    first: &Tensor,
    second: &Tensor,
    gradient: &Tensor,
    step: &Step,
) -> Result<()> {
    first.inplace_op2(gradient, &FirstMoment(*step))?;
    second.inplace_op2(gradient, &SecondMoment(*step))?;
    weight.inplace_op3(first, second, &Move(*step))
}

/// Σ x², block sums in f64.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values
        .par_chunks(BLOCK)
        .map(|block| block.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
        .collect();
    blocks.iter().sum()
}

/// m ← m + (1 − β1)·(g − m)
struct FirstMoment(Step);
/// v ← β2·v + (1 − β2)·g²
struct SecondMoment(Step);
/// w ← (1 − lr·λ)·w − lr/(1 − β1^t) · m / (sqrt(v)/sqrt(1 − β2^t) + ε)
struct Move(Step);

impl InplaceOp2 for FirstMoment {
    fn name(&self) -> &'static str {
        "adamw-first-moment"
    }
    fn cpu_fwd(
        &self,
        first: &mut CpuStorage,
        first_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (scale, rate) = (self.0.grad_scale as f32, (1.0 - self.0.beta1) as f32);
        let gradient = slice(gradient, gradient_layout)?;
        slice_mut(first, first_layout)?
            .par_chunks_mut(BLOCK)
            .zip(gradient.par_chunks(BLOCK))
            .for_each(|(first, gradient)| {
                for (m, g) in first.iter_mut().zip(gradient) {
                    *m += rate * (g * scale - *m);
                }
            });
        Ok(())
    }
}

impl InplaceOp2 for SecondMoment {
    fn name(&self) -> &'static str {
        "adamw-second-moment"
    }
    fn cpu_fwd(
        &self,
        second: &mut CpuStorage,
        second_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (scale, keep) = (self.0.grad_scale as f32, self.0.beta2 as f32);
        let rate = (1.0 - self.0.beta2) as f32;
        let gradient = slice(gradient, gradient_layout)?;
        slice_mut(second, second_layout)?
            .par_chunks_mut(BLOCK)
            .zip(gradient.par_chunks(BLOCK))
            .for_each(|(second, gradient)| {
                for (v, g) in second.iter_mut().zip(gradient) {
                    let g = g * scale;
                    *v = keep * *v + rate * g * g;
                }
            });
        Ok(())
    }
}

impl InplaceOp3 for Move {
    fn name(&self) -> &'static str {
        "adamw-move"
    }
    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let step = &self.0;
        let (keep, size) = ((1.0 - step.decay) as f32, step.size as f32);
        let (correction, epsilon) = (step.second_correction as f32, step.epsilon as f32);
        let first = slice(first, first_layout)?.par_chunks(BLOCK);
        let second = slice(second, second_layout)?.par_chunks(BLOCK);
        slice_mut(weight, weight_layout)?
            .par_chunks_mut(BLOCK)
            .zip(first.zip(second))
            .for_each(|(weight, (first, second))| {
                for (w, (m, v)) in weight.iter_mut().zip(first.iter().zip(second)) {
                    *w = keep * *w - size * (m / (v.sqrt() / correction + epsilon));
                }
            });
        Ok(())
    }
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("adamw: expected contiguous f32 values"),
    }
}

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("adamw: expected contiguous f32 values"),
    }
}
