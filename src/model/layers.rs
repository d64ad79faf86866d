//! Tensor operations that have a backward pass.
//!
//! candle-nn's fused kernels drop gradients without an error (candle issues #2168, #3568, #3569). The operations here
//! compute their value with those kernels on detached tensors and state the derivative in closed form: `x` and
//! `x_backward` stand side by side, so that the decoder can run its own backward pass without building a graph.
//!
//! Shapes: `N` rows, `H` hidden.

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
    let value = x.detach().matmul(&weight.detach().t()?)?;
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

/// RMSNorm over the last dimension: `x / sqrt(mean(x²) + eps) · weight`. Shapes `[N, H]`, `[H]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[expect(
        clippy::disallowed_methods,
        reason = "value only; the derivative is given below"
    )]
    let value = candle_nn::ops::rms_norm(&x.detach().contiguous()?, &weight.detach(), eps as f32)?;
    let backward: Backward = Box::new(move |inputs, upstream| {
        let (dx, dw) = rms_norm_backward(inputs[0], inputs[1], eps, upstream)?;
        Ok(vec![dx, dw])
    });
    closed_form2(value, [x, weight], backward)
}

/// Gradients of [`rms_norm`] with respect to `x` and `weight`, computed in f32.
pub fn rms_norm_backward(
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
    let value = (gate.detach().silu()? * up.detach())?;
    let backward: Backward = Box::new(|inputs, upstream| {
        let (d_gate, d_up) = swiglu_backward(inputs[0], inputs[1], upstream)?;
        Ok(vec![d_gate, d_up])
    });
    closed_form2(value, [gate, up], backward)
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, upstream: &Tensor) -> Result<(Tensor, Tensor)> {
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
    let value = rotate(&x.detach(), cos, sin)?;
    let (cos, sin) = (cos.detach(), sin.detach());
    let backward: Backward =
        Box::new(move |_, upstream| Ok(vec![rotary_backward(upstream, &cos, &sin)?]));
    closed_form1(value, x, backward)
}

/// Gradient of [`rotary`]: the rotation by the opposite angle.
pub fn rotary_backward(upstream: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
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
