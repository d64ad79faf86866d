//! Tensor operations that have a backward pass.
//!
//! candle-nn's fused kernels drop gradients without an error (candle issues #2168, #3568, #3569). The operations here
//! compute their value with those kernels on detached tensors and state the derivative in closed form: `x` and
//! `x_backward` stand side by side, so that the decoder can run its own backward pass without building a graph.
//!
//! Shapes: `N` rows, `H` hidden.

use crate::kernels;
use crate::kernels::rotary::Projection;
use crate::kernels::rotary::Turn;
use crate::model::attention_cpu;
use crate::model::few_rows;
use crate::model::fused_cpu;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, DType, Layout, Result, Shape, Storage, Tensor,
};
use std::sync::Mutex;

/// `backward(inputs, upstream)` returns one gradient per input, in order.
pub(crate) type Backward = Box<dyn Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync>;

/// An operation whose value is known already and whose derivative has a closed form.
struct ClosedForm<const N: usize> {
    value: Mutex<Option<Tensor>>,
    backward: Backward,
}

impl<const N: usize> ClosedForm<N> {
    fn new(value: Tensor, backward: Backward) -> Self {
        Self {
            value: Mutex::new(Some(value)),
            backward,
        }
    }

    fn take_value(&self) -> Result<Tensor> {
        let value = self.value.lock().ok().and_then(|mut value| value.take());
        match value {
            Some(value) => value.contiguous(),
            None => candle_core::bail!("closed-form operation applied twice"),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let value = self.take_value()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cpu(cpu) if layout.start_offset() == 0 => {
                Ok((cpu.clone(), layout.shape().clone()))
            }
            Storage::Cpu(_) => candle_core::bail!("closed-form operation: value is a view"),
            _ => candle_core::bail!("closed-form operation: inputs and value on two devices"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let value = self.take_value()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cuda(cuda) if layout.start_offset() == 0 => {
                Ok((cuda.try_clone(layout)?, layout.shape().clone()))
            }
            Storage::Cuda(_) => candle_core::bail!("closed-form operation: value is a view"),
            _ => candle_core::bail!("closed-form operation: inputs and value on two devices"),
        }
    }

    /// One gradient per input; none where the input needs none.
    fn gradients(&self, inputs: [&Tensor; N], upstream: &Tensor) -> Result<[Option<Tensor>; N]> {
        let detached = inputs.map(Tensor::detach);
        let gradients = (self.backward)(&detached.each_ref(), upstream)?;
        let mut gradients = gradients.into_iter();
        Ok(inputs.map(|input| gradients.next().filter(|_| input.track_op())))
    }
}

impl CustomOp1 for ClosedForm<1> {
    fn name(&self) -> &'static str {
        "closed-form-1"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.cuda()
    }
    fn bwd(&self, a: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.gradients([a], upstream)?;
        Ok(a)
    }
}

impl CustomOp2 for ClosedForm<2> {
    fn name(&self) -> &'static str {
        "closed-form-2"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.cuda()
    }
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.gradients([a, b], upstream)?;
        Ok((a, b))
    }
}

impl CustomOp3 for ClosedForm<3> {
    fn name(&self) -> &'static str {
        "closed-form-3"
    }
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.cuda()
    }
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.gradients([a, b, c], upstream)?;
        Ok((a, b, c))
    }
}

/// `value` as a function of `a` with the given derivative; a plain tensor when nothing is tracked.
pub(crate) fn closed_form1(value: Tensor, a: &Tensor, backward: Backward) -> Result<Tensor> {
    if !a.track_op() {
        return Ok(value);
    }
    a.apply_op1(ClosedForm::<1>::new(value, backward))
}

/// As [`closed_form1`], of two inputs.
pub(crate) fn closed_form2(
    value: Tensor,
    inputs: [&Tensor; 2],
    backward: Backward,
) -> Result<Tensor> {
    if !inputs.iter().any(|input| input.track_op()) {
        return Ok(value);
    }
    inputs[0].apply_op2(inputs[1], ClosedForm::<2>::new(value, backward))
}

/// As [`closed_form1`], of three inputs.
pub(crate) fn closed_form3(
    value: Tensor,
    inputs: [&Tensor; 3],
    backward: Backward,
) -> Result<Tensor> {
    if !inputs.iter().any(|input| input.track_op()) {
        return Ok(value);
    }
    inputs[0].apply_op3(inputs[1], inputs[2], ClosedForm::<3>::new(value, backward))
}

/// `x [N, in] · weightᵀ [in, out] (+ bias [out])` → `[N, out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let value = match few_rows::product(x, weight)? {
        Some(value) => value,
        None => x.detach().matmul(&weight.detach().t()?)?,
    };
    let Some(bias) = bias else {
        let backward: Backward = Box::new(|inputs, upstream| {
            let upstream = upstream.contiguous()?;
            Ok(vec![
                upstream.matmul(inputs[1])?,
                weight_gradient(&upstream, inputs[0])?,
            ])
        });
        return closed_form2(value, [x, weight], backward);
    };
    let value = value.broadcast_add(&bias.detach())?;
    let backward: Backward = Box::new(|inputs, upstream| {
        let upstream = upstream.contiguous()?;
        Ok(vec![
            upstream.matmul(inputs[1])?,
            weight_gradient(&upstream, inputs[0])?,
            sum_rows(&upstream)?,
        ])
    });
    closed_form3(value, [x, weight, bias], backward)
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

/// Whether a kernel takes these inputs, of which it records no graph.
fn fuses(inputs: &[&Tensor]) -> bool {
    kernels::applies(inputs[0]) && !inputs.iter().any(|input| input.track_op())
}

/// RMSNorm over the last dimension: `x / sqrt(mean(x²) + eps) · weight`. Shapes `[N, H]`, `[H]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let rows = x.detach().contiguous()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "value only; the derivative is given below"
    )]
    let value = if kernels::applies(x) {
        kernels::norm::rms_norm(&rows, &weight.detach(), eps)?
    } else {
        candle_nn::ops::rms_norm(&rows, &weight.detach(), eps as f32)?
    };
    let backward: Backward = Box::new(move |inputs, upstream| {
        let (dx, dw) = rms_norm_backward(inputs[0], inputs[1], eps, upstream)?;
        Ok(vec![dx, dw])
    });
    closed_form2(value, [x, weight], backward)
}

/// `x + addend` and its [`rms_norm`].
pub fn add_rms_norm(
    x: &Tensor,
    addend: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    if fuses(&[x, addend, weight]) {
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
    let value = if kernels::applies(gate) {
        let (gate, up) = (gate.detach().contiguous()?, up.detach().contiguous()?);
        kernels::swiglu::swiglu(&gate, &up)?
    } else if attention_cpu::applies(gate) {
        fused_cpu::swiglu(gate, up)?
    } else {
        (gate.detach().silu()? * up.detach())?
    };
    let backward: Backward = Box::new(|inputs, upstream| {
        let (d_gate, d_up) = swiglu_backward(inputs[0], inputs[1], upstream)?;
        Ok(vec![d_gate, d_up])
    });
    closed_form2(value, [gate, up], backward)
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
    let value = if kernels::applies(x) {
        kernels::rotary::rotary(&x.detach().contiguous()?, cos, sin, Turn::Forward)?
    } else {
        rotate(&x.detach(), cos, sin)?
    };
    let (cos, sin) = (cos.detach(), sin.detach());
    let backward: Backward =
        Box::new(move |_, upstream| Ok(vec![rotary_backward(upstream, &cos, &sin)?]));
    closed_form1(value, x, backward)
}

/// Queries and keys of `x [N, H]`: a [`linear`] layer each (weight and bias), then [`rotary`].
pub fn rotary_projections(
    x: &Tensor,
    query: &(Tensor, Tensor),
    key: &(Tensor, Tensor),
    cos: &Tensor,
    sin: &Tensor,
) -> Result<(Tensor, Tensor)> {
    if fuses(&[x, &query.0, &query.1, &key.0, &key.1]) {
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
        reason = "value only; the derivative is given by the callers"
    )]
    let turned = candle_nn::rotary_emb::rope_thd(&heads, cos, sin)?;
    turned.reshape((rows, width))?.to_dtype(x.dtype())
}

/// A scalar whose gradient with respect to `y` is `upstream`: starts a backward pass in the middle of a network.
pub fn seed_gradient(y: &Tensor, upstream: Tensor) -> Result<Tensor> {
    let value = Tensor::zeros((), y.dtype(), y.device())?;
    let backward: Backward = Box::new(move |_, _| Ok(vec![upstream.clone()]));
    closed_form1(value, y, backward)
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
        let tracked = direct(&[x.clone(), weight.clone()], &upstream, |v| {
            rms_norm(&v[0], &v[1], 1e-2)
        })?;
        let composed = composed_rms_norm_backward(&x, &weight, 1e-2, &upstream)?;
        for got in [tracked, vec![composed.0, composed.1]] {
            close(&got[0], &want[0])?;
            close(&(&got[1] / 100.0)?, &(&want[1] / 100.0)?)?;
        }
        Ok(())
    }

    #[test]
    fn swiglu_has_the_gradients_of_its_definition() -> Result<()> {
        let inputs = [random((150, 128))?, random((150, 128))?];
        let upstream = random((150, 128))?;
        let want = direct(&inputs, &upstream, |v| v[0].silu()? * v[1].as_tensor())?;
        let tracked = direct(&inputs, &upstream, |v| swiglu(&v[0], &v[1]))?;
        let composed = composed_swiglu_backward(&inputs[0], &inputs[1], &upstream)?;
        for got in [tracked, vec![composed.0, composed.1]] {
            close(&got[0], &want[0])?;
            close(&got[1], &want[1])?;
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
        let got = direct(&[x], &upstream, |v| rotary(&v[0], &cos, &sin))?;
        close(&got[0], &rotary_backward(&upstream, &cos, &sin)?)
    }

    #[test]
    fn linear_has_the_gradients_of_a_product() -> Result<()> {
        let bias = random((1, 4))?.squeeze(0)?;
        let inputs = [random((7, 5))?, random((4, 5))?, bias];
        let upstream = random((7, 4))?;
        let want = direct(&inputs, &upstream, |v| {
            v[0].matmul(&v[1].t()?)?.broadcast_add(&v[2])
        })?;
        let got = direct(&inputs, &upstream, |v| linear(&v[0], &v[1], Some(&v[2])))?;
        for (got, want) in got.iter().zip(&want) {
            close(got, want)?;
        }
        let want = direct(&inputs[..2], &upstream, |v| v[0].matmul(&v[1].t()?))?;
        let got = direct(&inputs[..2], &upstream, |v| linear(&v[0], &v[1], None))?;
        close(&got[0], &want[0])?;
        close(&got[1], &want[1])
    }
}
