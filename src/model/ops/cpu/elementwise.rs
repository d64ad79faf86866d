//! SwiGLU, RMSNorm and rotation: one pass over f32 values each, as memory traffic is what costs.

use crate::model::ops::cpu::in_f32;
use crate::model::ops::cpu::matrix::with_slices;
use crate::model::ops::cpu::simd::{dot, sigmoid, vectorized};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

/// Values per task; fixed, so that results do not depend on the number of threads.
const CHUNK: usize = 16 * 1024;

/// `silu(gate) · up`.
pub(in crate::model::ops) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let dtype = gate.dtype();
    let (gate, up) = (in_f32(gate)?, in_f32(up)?);
    let output = with_slices(&[&gate, &up], |slices| {
        let mut output = vec![0f32; slices[0].len()];
        output
            .par_chunks_mut(CHUNK)
            .zip(slices[0].par_chunks(CHUNK))
            .zip(slices[1].par_chunks(CHUNK))
            .for_each(|((output, gate), up)| {
                vectorized(|| {
                    for ((output, &gate), &up) in output.iter_mut().zip(gate).zip(up) {
                        *output = gate * sigmoid(gate) * up;
                    }
                });
            });
        output
    })?;
    Tensor::from_vec(output, gate.shape(), &Device::Cpu)?.to_dtype(dtype)
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
pub(in crate::model::ops) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    grad_output: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let dtype = gate.dtype();
    let (gate, up, grad_output) = (in_f32(gate)?, in_f32(up)?, in_f32(grad_output)?);
    let (d_gate, d_up) = with_slices(&[&gate, &up, &grad_output], |slices| {
        let mut d_gate = vec![0f32; slices[0].len()];
        let mut d_up = vec![0f32; slices[0].len()];
        d_gate
            .par_chunks_mut(CHUNK)
            .zip(d_up.par_chunks_mut(CHUNK))
            .enumerate()
            .for_each(|(chunk, (d_gate, d_up))| {
                let range = chunk * CHUNK..chunk * CHUNK + d_gate.len();
                let [gate, up, grad_output] = [0, 1, 2].map(|input| &slices[input][range.clone()]);
                vectorized(|| {
                    for i in 0..d_gate.len() {
                        let sigmoid = sigmoid(gate[i]);
                        let silu = gate[i] * sigmoid;
                        d_up[i] = grad_output[i] * silu;
                        d_gate[i] = grad_output[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
                    }
                });
            });
        (d_gate, d_up)
    })?;
    Ok((
        Tensor::from_vec(d_gate, gate.shape(), &Device::Cpu)?.to_dtype(dtype)?,
        Tensor::from_vec(d_up, gate.shape(), &Device::Cpu)?.to_dtype(dtype)?,
    ))
}

/// `x / sqrt(mean(x²) + eps) · weight`.
pub(in crate::model::ops) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[expect(clippy::disallowed_methods, reason = "its backward pass is below")]
    let normed = candle_nn::ops::rms_norm(&in_f32(x)?, &in_f32(weight)?, eps as f32)?;
    normed.to_dtype(x.dtype())
}

/// Gradients of [`rms_norm`] with respect to `x` and `weight`.
pub(in crate::model::ops) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad_output: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (width, dtype) = (weight.dim(0)?, x.dtype());
    let (x, weight, grad_output) = (in_f32(x)?, in_f32(weight)?, in_f32(grad_output)?);
    let (dx, dw) = with_slices(&[&x, &weight, &grad_output], |slices| {
        let [x, weight, grad_output] = [slices[0], slices[1], slices[2]];
        let chunk = (CHUNK / width).max(1) * width;
        let mut dx = vec![0f32; x.len()];
        let parts: Vec<Vec<f32>> = dx
            .par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(grad_output.par_chunks(chunk))
            .map(|((dx, x), grad_output)| {
                let mut dw = vec![0f32; width];
                vectorized(|| {
                    for ((dx, x), grad_output) in dx
                        .chunks_exact_mut(width)
                        .zip(x.chunks_exact(width))
                        .zip(grad_output.chunks_exact(width))
                    {
                        norm_row(dx, &mut dw, x, weight, grad_output, eps as f32);
                    }
                });
                dw
            })
            .collect();
        let mut dw = vec![0f32; width];
        for part in parts {
            for (sum, value) in dw.iter_mut().zip(part) {
                *sum += value;
            }
        }
        (dx, dw)
    })?;
    Ok((
        Tensor::from_vec(dx, x.shape(), &Device::Cpu)?.to_dtype(dtype)?,
        Tensor::from_vec(dw, width, &Device::Cpu)?.to_dtype(dtype)?,
    ))
}

/// One row: writes `dx`, adds to `dw`.
#[expect(
    clippy::inline_always,
    reason = "a function that is not inlined keeps the instructions of the narrowest CPU"
)]
#[inline(always)]
fn norm_row(
    dx: &mut [f32],
    dw: &mut [f32],
    x: &[f32],
    weight: &[f32],
    grad_output: &[f32],
    eps: f32,
) {
    let width = x.len();
    let (weight, grad_output) = (&weight[..width], &grad_output[..width]);
    let inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
    for ((dx, up), weight) in dx.iter_mut().zip(grad_output).zip(weight) {
        *dx = up * weight;
    }
    let along = dot(dx, x) * inverse * inverse / width as f32;
    for (((dx, dw), x), up) in dx.iter_mut().zip(dw).zip(x).zip(grad_output) {
        *dx = (*dx - x * along) * inverse;
        *dw += up * x * inverse;
    }
}

/// Rotates the pairs `(x_i, x_{i + d/2})` of every head, `x [N, heads · d]` by `cos`, `sin` `[N, d/2]`.
pub(in crate::model::ops) fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let head_dim = 2 * cos.dim(1)?;
    let heads =
        x.to_dtype(DType::F32)?
            .contiguous()?
            .reshape((1, rows, width / head_dim, head_dim))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "its backward pass is the opposite turn"
    )]
    let turned = candle_nn::rotary_emb::rope_thd(&heads, cos, sin)?;
    turned.reshape((rows, width))?.to_dtype(x.dtype())
}
