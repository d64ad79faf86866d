//! Tensor operations, each with its derivative beside it: `x` and `x_backward`. Nothing records a graph.
//!
//! Shapes: `N` rows, `H` hidden.

use crate::kernels;
use crate::kernels::rotary::Projection;
use crate::kernels::rotary::Turn;
use crate::model::attention_cpu;
use crate::model::few_rows;
use crate::model::fused_cpu;
use candle_core::{D, DType, Result, Tensor};

/// `x [N, in] · weightᵀ [in, out] (+ bias [out])` → `[N, out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let value = match few_rows::product(x, weight)? {
        Some(value) => value,
        None => x.matmul(&weight.t()?)?,
    };
    match bias {
        None => Ok(value),
        Some(bias) => value.broadcast_add(bias),
    }
}

/// Gradient `[out, in]` of a linear layer's weight from its upstream `[N, out]` and its input `[N, in]`.
pub fn weight_gradient(upstream: &Tensor, input: &Tensor) -> Result<Tensor> {
    upstream.t()?.matmul(input)
}

/// `[N, H]` → `[H]`: the sum over rows, as a product with a row of ones (a strided reduction is slow on every device).
pub fn sum_rows(x: &Tensor) -> Result<Tensor> {
    Tensor::ones((1, x.dim(0)?), x.dtype(), x.device())?
        .matmul(x)?
        .squeeze(0)
}

/// RMSNorm over the last dimension: `x / sqrt(mean(x²) + eps) · weight`. Shapes `[N, H]`, `[H]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let rows = x.contiguous()?;
    if kernels::applies(x) {
        return kernels::norm::rms_norm(&rows, weight, eps);
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "value only; the derivative stands below"
    )]
    candle_nn::ops::rms_norm(&rows, weight, eps as f32)
}

/// `x + addend` and its [`rms_norm`].
pub fn add_rms_norm(
    x: &Tensor,
    addend: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    if kernels::applies(x) {
        return kernels::norm::add_rms_norm(&x.contiguous()?, &addend.contiguous()?, weight, eps);
    }
    let sum = (x + addend)?;
    let normed = rms_norm(&sum, weight, eps)?;
    Ok((sum, normed))
}

/// As [`rms_norm_backward`], the gradient with respect to `x` added to `residual`, the one that goes around the norm.
pub fn rms_norm_backward_add(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    upstream: &Tensor,
    residual: &Tensor,
) -> Result<(Tensor, Tensor)> {
    if kernels::applies(x) {
        let (x, upstream) = (x.contiguous()?, upstream.contiguous()?);
        let residual = residual.contiguous()?;
        return kernels::norm::rms_norm_backward(&x, weight, eps, &upstream, Some(&residual));
    }
    let (dx, dw) = rms_norm_backward(x, weight, eps, upstream)?;
    Ok(((dx + residual)?, dw))
}

/// Gradients of [`rms_norm`] with respect to `x` and `weight`, computed in f32.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor)> {
    if kernels::applies(x) {
        let (x, upstream) = (x.contiguous()?, upstream.contiguous()?);
        return kernels::norm::rms_norm_backward(&x, weight, eps, &upstream, None);
    }
    if attention_cpu::applies(x) {
        return fused_cpu::rms_norm_backward(x, weight, eps, upstream);
    }
    composed_rms_norm_backward(x, weight, eps, upstream)
}

fn composed_rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (dtype, width) = (x.dtype(), weight.dim(0)?);
    let x = x.to_dtype(DType::F32)?;
    let upstream = upstream.to_dtype(DType::F32)?;
    let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    let normed = x.broadcast_mul(&inverse)?;
    let scaled = upstream.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
    let along = (&scaled * &normed)?.mean_keepdim(D::Minus1)?;
    let dx = (scaled - normed.broadcast_mul(&along)?)?.broadcast_mul(&inverse)?;
    let dw = sum_rows(&(upstream * normed)?.reshape(((), width))?)?;
    Ok((dx.to_dtype(dtype)?, dw.to_dtype(weight.dtype())?))
}

/// `silu(gate) · up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if kernels::applies(gate) {
        return kernels::swiglu::swiglu(&gate.contiguous()?, &up.contiguous()?);
    }
    if attention_cpu::applies(gate) {
        return fused_cpu::swiglu(gate, up);
    }
    gate.silu()? * up
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, upstream: &Tensor) -> Result<(Tensor, Tensor)> {
    if kernels::applies(gate) {
        let (gate, up, upstream) = (gate.contiguous()?, up.contiguous()?, upstream.contiguous()?);
        return kernels::swiglu::swiglu_backward(&gate, &up, &upstream);
    }
    if attention_cpu::applies(gate) {
        return fused_cpu::swiglu_backward(gate, up, upstream);
    }
    composed_swiglu_backward(gate, up, upstream)
}

fn composed_swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let sigmoid = candle_nn::ops::sigmoid(gate)?;
    let silu = (gate * &sigmoid)?;
    let d_up = (upstream * &silu)?;
    // d silu = σ + silu · (1 − σ)
    let slope = (&sigmoid + (&silu - (&silu * &sigmoid)?)?)?;
    Ok(((slope * (upstream * up)?)?, d_up))
}

/// Rotates the pairs `(x_i, x_{i + d/2})` of every head (the half-rotation convention of Qwen2).
///
/// `x [N, heads · d]`; `cos`, `sin` `[N, d/2]` in f32. The rotation is computed in f32.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    if kernels::applies(x) {
        return kernels::rotary::rotary(&x.contiguous()?, cos, sin, Turn::Forward);
    }
    rotate(x, cos, sin)
}

/// Queries and keys of `x [N, H]`: a [`linear`] layer each (weight and bias), then [`rotary`].
pub fn rotary_projections(
    x: &Tensor,
    query: &(Tensor, Tensor),
    key: &(Tensor, Tensor),
    cos: &Tensor,
    sin: &Tensor,
) -> Result<(Tensor, Tensor)> {
    if kernels::applies(x) {
        let (q, k) = (linear(x, &query.0, None)?, linear(x, &key.0, None)?);
        let with_bias = |x, bias| Projection {
            x,
            bias: Some(bias),
        };
        let (q, k) = (with_bias(&q, &query.1), with_bias(&k, &key.1));
        return kernels::rotary::bias_rotary(q, k, cos, sin, Turn::Forward);
    }
    let q = linear(x, &query.0, Some(&query.1))?;
    let k = linear(x, &key.0, Some(&key.1))?;
    Ok((rotary(&q, cos, sin)?, rotary(&k, cos, sin)?))
}

/// Gradient of [`rotary`]: the rotation by the opposite angle.
pub fn rotary_backward(upstream: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    if kernels::applies(upstream) {
        return kernels::rotary::rotary(&upstream.contiguous()?, cos, sin, Turn::Backward);
    }
    rotate(upstream, cos, &sin.neg()?)
}

fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let head_dim = 2 * cos.dim(1)?;
    let heads =
        x.to_dtype(DType::F32)?
            .contiguous()?
            .reshape((1, rows, width / head_dim, head_dim))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "value only; the derivative is the opposite turn"
    )]
    let turned = candle_nn::rotary_emb::rope_thd(&heads, cos, sin)?;
    turned.reshape((rows, width))?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn random(shape: (usize, usize)) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
    }

    fn close(got: &Tensor, want: &Tensor) -> Result<()> {
        let error = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error < 2e-5, "off by {error:e}");
        Ok(())
    }

    /// Gradients of `(f(x…) · upstream).sum()` as candle's own operations give them.
    fn direct(
        inputs: &[Tensor],
        upstream: &Tensor,
        f: impl Fn(&[Var]) -> Result<Tensor>,
    ) -> Result<Vec<Tensor>> {
        let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
        let gradients = (f(&vars)? * upstream)?.sum_all()?.backward()?;
        vars.iter()
            .map(|var| match gradients.get(var) {
                Some(gradient) => Ok(gradient.clone()),
                None => candle_core::bail!("an input has no gradient"),
            })
            .collect()
    }

    #[test]
    fn rms_norm_has_the_gradients_of_its_definition() -> Result<()> {
        let (x, upstream) = (random((150, 128))?, random((150, 128))?);
        let weight = random((1, 128))?.squeeze(0)?;
        let want = direct(&[x.clone(), weight.clone()], &upstream, |v| {
            let root = (v[0].sqr()?.mean_keepdim(D::Minus1)? + 1e-2)?.sqrt()?;
            v[0].broadcast_div(&root)?.broadcast_mul(&v[1])
        })?;
        let closed = rms_norm_backward(&x, &weight, 1e-2, &upstream)?;
        let composed = composed_rms_norm_backward(&x, &weight, 1e-2, &upstream)?;
        for (dx, dw) in [closed, composed] {
            close(&dx, &want[0])?;
            close(&(dw / 100.0)?, &(&want[1] / 100.0)?)?;
        }
        Ok(())
    }

    #[test]
    fn swiglu_has_the_gradients_of_its_definition() -> Result<()> {
        let inputs = [random((150, 128))?, random((150, 128))?];
        let upstream = random((150, 128))?;
        let want = direct(&inputs, &upstream, |v| v[0].silu()? * v[1].as_tensor())?;
        let closed = swiglu_backward(&inputs[0], &inputs[1], &upstream)?;
        let composed = composed_swiglu_backward(&inputs[0], &inputs[1], &upstream)?;
        for (d_gate, d_up) in [closed, composed] {
            close(&d_gate, &want[0])?;
            close(&d_up, &want[1])?;
        }
        let value = swiglu(&inputs[0], &inputs[1])?;
        close(&value, &(inputs[0].silu()? * &inputs[1])?)
    }

    #[test]
    fn rotary_turns_half_against_half_and_back() -> Result<()> {
        let x = random((3, 16))?;
        let angles = random((3, 4))?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let turned = rotary(&x, &cos, &sin)?;
        for (row, head, i) in [(0, 0, 0), (2, 1, 3), (1, 0, 2)] {
            let at =
                |x: &Tensor, column: usize| -> Result<f32> { x.get(row)?.get(column)?.to_scalar() };
            let (a, b) = (at(&x, head * 8 + i)?, at(&x, head * 8 + 4 + i)?);
            let (c, s) = (at(&cos, i)?, at(&sin, i)?);
            assert!((at(&turned, head * 8 + i)? - (a * c - b * s)).abs() < 1e-6);
            assert!((at(&turned, head * 8 + 4 + i)? - (b * c + a * s)).abs() < 1e-6);
        }
        close(&rotary_backward(&turned, &cos, &sin)?, &x)?;
        let upstream = random((3, 16))?;
        let want = direct(&[x], &upstream, |v| turned_by_definition(&v[0], &cos, &sin))?;
        close(&rotary_backward(&upstream, &cos, &sin)?, &want[0])
    }

    #[test]
    fn linear_has_the_gradients_of_a_product() -> Result<()> {
        let bias = random((1, 4))?.squeeze(0)?;
        let inputs = [random((7, 5))?, random((4, 5))?, bias];
        let upstream = random((7, 4))?;
        let want = direct(&inputs, &upstream, |v| {
            v[0].matmul(&v[1].t()?)?.broadcast_add(&v[2])
        })?;
        let [x, weight, bias] = &inputs;
        let value = x.matmul(&weight.t()?)?;
        close(&linear(x, weight, None)?, &value)?;
        close(&linear(x, weight, Some(bias))?, &value.broadcast_add(bias)?)?;
        close(&upstream.matmul(weight)?, &want[0])?;
        close(&weight_gradient(&upstream, x)?, &want[1])?;
        close(&sum_rows(&upstream)?, &want[2])
    }

    /// The pairs `(x_i, x_{i + d/2})` of every head turned, in candle's operations.
    fn turned_by_definition(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let (rows, half) = cos.dims2()?;
        let heads = x.reshape((rows, (), 2 * half))?;
        let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
        let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)?.reshape(x.shape())
    }
}
