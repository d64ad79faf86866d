//! Elementwise work of [`super::layers`] in one pass over f32 values on a CPU, where memory traffic is what costs.

use crate::model::matrix::with_slices;
use crate::model::simd::{dot, sigmoid, vectorized};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

/// Values per task; fixed, so that results do not depend on the number of threads.
const CHUNK: usize = 16 * 1024;

/// `silu(gate) · up`.
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
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
    Tensor::from_vec(output, gate.shape(), &Device::Cpu)
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
pub(super) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (gate, up, upstream) = (gate.contiguous()?, up.contiguous()?, upstream.contiguous()?);
    let (d_gate, d_up) = with_slices(&[&gate, &up, &upstream], |slices| {
        let mut d_gate = vec![0f32; slices[0].len()];
        let mut d_up = vec![0f32; slices[0].len()];
        d_gate
            .par_chunks_mut(CHUNK)
            .zip(d_up.par_chunks_mut(CHUNK))
            .enumerate()
            .for_each(|(chunk, (d_gate, d_up))| {
                let range = chunk * CHUNK..chunk * CHUNK + d_gate.len();
                let [gate, up, upstream] = [0, 1, 2].map(|input| &slices[input][range.clone()]);
                vectorized(|| {
                    for i in 0..d_gate.len() {
                        let sigmoid = sigmoid(gate[i]);
                        let silu = gate[i] * sigmoid;
                        d_up[i] = upstream[i] * silu;
                        d_gate[i] = upstream[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
                    }
                });
            });
        (d_gate, d_up)
    })?;
    Ok((
        Tensor::from_vec(d_gate, gate.shape(), &Device::Cpu)?,
        Tensor::from_vec(d_up, gate.shape(), &Device::Cpu)?,
    ))
}

/// Gradients of RMSNorm with respect to `x` and `weight`.
pub(super) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let width = weight.dim(0)?;
    let (x, upstream) = (x.contiguous()?, upstream.contiguous()?);
    let weight = weight.contiguous()?;
    let (dx, dw) = with_slices(&[&x, &weight, &upstream], |slices| {
        let [x, weight, upstream] = [slices[0], slices[1], slices[2]];
        let chunk = (CHUNK / width).max(1) * width;
        let mut dx = vec![0f32; x.len()];
        let parts: Vec<Vec<f32>> = dx
            .par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(upstream.par_chunks(chunk))
            .map(|((dx, x), upstream)| {
                let mut dw = vec![0f32; width];
                vectorized(|| {
                    for ((dx, x), upstream) in dx
                        .chunks_exact_mut(width)
                        .zip(x.chunks_exact(width))
                        .zip(upstream.chunks_exact(width))
                    {
                        norm_row(dx, &mut dw, x, weight, upstream, eps as f32);
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
        Tensor::from_vec(dx, x.shape(), &Device::Cpu)?,
        Tensor::from_vec(dw, width, &Device::Cpu)?,
    ))
}

/// One row: writes `dx`, adds to `dw`.
#[expect(
    clippy::inline_always,
    reason = "a function that is not inlined keeps the instructions of the narrowest CPU"
)]
#[inline(always)]
fn norm_row(dx: &mut [f32], dw: &mut [f32], x: &[f32], weight: &[f32], upstream: &[f32], eps: f32) {
    let width = x.len();
    let (weight, upstream) = (&weight[..width], &upstream[..width]);
    let inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
    for ((dx, up), weight) in dx.iter_mut().zip(upstream).zip(weight) {
        *dx = up * weight;
    }
    let along = dot(dx, x) * inverse * inverse / width as f32;
    for (((dx, dw), x), up) in dx.iter_mut().zip(dw).zip(x).zip(upstream) {
        *dx = (*dx - x * along) * inverse;
        *dw += up * x * inverse;
    }
}
