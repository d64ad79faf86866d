//! Tensor operations that have a backward pass.
//!
//! candle-nn's fused kernels drop gradients without an error (candle issues #2168, #3568, #3569). The operations here
//! compute their value with those kernels on detached tensors and state the derivative in closed form.
//!
//! Shapes: `N` rows, `H` hidden.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, D, Layout, Result, Shape, Storage, Tensor,
};

type Backward = Box<dyn Fn(&[&Tensor], &Tensor) -> Result<Vec<Tensor>> + Send + Sync>;

/// An operation whose value is known already and whose derivative has a closed form.
///
/// `backward(inputs, upstream)` returns one gradient per input, in order.
struct ClosedForm<const N: usize> {
    value: Tensor,
    backward: Backward,
}

impl<const N: usize> ClosedForm<N> {
    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        match &*storage {
            Storage::Cpu(cpu) => Ok((cpu.clone(), layout.shape().clone())),
            _ => candle_core::bail!(
                "closed-form operation: inputs and value lie on different devices"
            ),
        }
    }
}

impl CustomOp1 for ClosedForm<1> {
    fn name(&self) -> &'static str {
        "closed-form-1"
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }
    fn bwd(&self, a: &Tensor, _: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok((self.backward)(&[&a.detach()], upstream)?.pop())
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
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut grads = (self.backward)(&[&a.detach(), &b.detach()], upstream)?.into_iter();
        Ok((grads.next(), grads.next()))
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
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut grads =
            (self.backward)(&[&a.detach(), &b.detach(), &c.detach()], upstream)?.into_iter();
        Ok((grads.next(), grads.next(), grads.next()))
    }
}

/// `x [N, in] · weightᵀ [in, out] (+ bias [out])` → `[N, out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// RMSNorm over the last dimension: `x / sqrt(mean(x²) + eps) · weight`. Shapes `[…, H]`, `[H]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[expect(
        clippy::disallowed_methods,
        reason = "value only; the derivative is given below"
    )]
    let value = candle_nn::ops::rms_norm(&x.detach().contiguous()?, &weight.detach(), eps as f32)?;
    let backward: Backward = Box::new(move |inputs, upstream| {
        let (x, weight) = (inputs[0], inputs[1]);
        let inverse = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
        let normed = x.broadcast_mul(&inverse)?;
        let scaled = upstream.broadcast_mul(weight)?;
        let along = (&scaled * &normed)?.mean_keepdim(D::Minus1)?;
        let dx = (scaled - normed.broadcast_mul(&along)?)?.broadcast_mul(&inverse)?;
        let width = weight.dim(0)?;
        let dw = (upstream * normed)?.reshape(((), width))?.sum(0)?;
        Ok(vec![dx, dw])
    });
    x.apply_op2(weight, ClosedForm::<2> { value, backward })
}

/// `silu(gate) · up`, elementwise.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let value = (gate.detach().silu()? * up.detach())?;
    let backward: Backward = Box::new(|inputs, upstream| {
        let sigmoid = candle_nn::ops::sigmoid(inputs[0])?;
        let silu = (inputs[0] * &sigmoid)?;
        let d_up = (upstream * &silu)?;
        let slope = (&sigmoid + (&silu * (1.0 - &sigmoid)?)?)?;
        Ok(vec![(slope * (upstream * inputs[1])?)?, d_up])
    });
    gate.apply_op2(up, ClosedForm::<2> { value, backward })
}

/// A scalar whose gradient with respect to `y` is `upstream`: starts a backward pass in the middle of a network.
pub fn seed_gradient(y: &Tensor, upstream: Tensor) -> Result<Tensor> {
    let value = Tensor::zeros((), y.dtype(), y.device())?;
    let backward: Backward = Box::new(move |_, _| Ok(vec![upstream.clone()]));
    y.apply_op1(ClosedForm::<1> { value, backward })
}
