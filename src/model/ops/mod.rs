//! What a network computes, behind one door. Each operation is a forward and a backward function, once per backend:
//! `cpu` and [`cuda`]. Nothing records a graph.
//!
//! Shapes: `N` rows, `H` hidden, `d` width of a head.

pub(crate) mod attention;
pub(super) mod cpu;
pub mod cuda;
pub(super) mod decode;
pub(super) mod head;
pub mod heads;
pub(crate) mod layer_cache;
pub(super) mod linear;
pub mod sequences;
pub(super) mod target_rows;

#[cfg(test)]
pub(super) mod composed;

pub(crate) use crate::model::ops::cpu::simd::vectorized;

use crate::model::ops::cpu::elementwise;
use crate::model::ops::cuda::norm;
use crate::model::ops::cuda::rotary::{self, Projection, RotaryDirection};
use crate::model::ops::cuda::swiglu;
use crate::model::ops::linear::Affine;
use candle_core::{Result, Tensor, bail};

/// Where the operations of a network run, chosen once, when it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ops {
    /// On a CPU, in f32 whatever the tensors' format.
    Cpu,
    /// By kernels on a GPU, in f32 and bf16.
    Cuda,
}

impl Ops {
    /// Those for a network whose weights are like `weight`.
    ///
    /// # Errors
    /// A device or a number format that has none.
    pub fn of(weight: &Tensor) -> Result<Self> {
        if cuda::applies(weight) {
            return Ok(Self::Cuda);
        }
        if weight.device().is_cpu() {
            return Ok(Self::Cpu);
        }
        bail!(
            "no operations in {:?} on {:?}",
            weight.dtype(),
            weight.device().location()
        )
    }

    /// `x [N, in] · weightᵀ [in, out] (+ bias [out])` → `[N, out]`.
    pub(crate) fn linear(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        match (self, bias) {
            (Self::Cpu, _) => cpu::linear::linear(x, weight, bias),
            (Self::Cuda, None) => x.matmul(&weight.t()?),
            (Self::Cuda, Some(bias)) => x.matmul(&weight.t()?)?.broadcast_add(bias),
        }
    }

    /// RMSNorm over the last dimension: `x / sqrt(mean(x²) + eps) · weight`. Shapes `[N, H]`, `[H]`.
    pub fn rms_norm(self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        match self {
            Self::Cpu => elementwise::rms_norm(x, weight, eps),
            Self::Cuda => norm::rms_norm(&x.contiguous()?, weight, eps),
        }
    }

    /// `x + addend` and its [`Self::rms_norm`].
    pub(crate) fn add_rms_norm(
        self,
        x: &Tensor,
        addend: &Tensor,
        weight: &Tensor,
        eps: f64,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Cpu => {
                let sum = (x + addend)?;
                let normed = elementwise::rms_norm(&sum, weight, eps)?;
                Ok((sum, normed))
            }
            Self::Cuda => norm::add_rms_norm(&x.contiguous()?, &addend.contiguous()?, weight, eps),
        }
    }

    /// Gradients of [`Self::rms_norm`] with respect to `x` and `weight`; the former added to `residual`, the gradient that
    /// goes around the norm, where there is one.
    pub fn rms_norm_backward(
        self,
        x: &Tensor,
        weight: &Tensor,
        eps: f64,
        grad_output: &Tensor,
        residual: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Cpu => {
                let (dx, dw) = elementwise::rms_norm_backward(x, weight, eps, grad_output)?;
                match residual {
                    None => Ok((dx, dw)),
                    Some(residual) => Ok(((dx + residual)?, dw)),
                }
            }
            Self::Cuda => {
                let (x, grad_output) = (x.contiguous()?, grad_output.contiguous()?);
                let residual = residual.map(Tensor::contiguous).transpose()?;
                norm::rms_norm_backward(&x, weight, eps, &grad_output, residual.as_ref())
            }
        }
    }

    /// `silu(gate) · up`, elementwise.
    pub fn swiglu(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu => elementwise::swiglu(gate, up),
            Self::Cuda => swiglu::swiglu(&gate.contiguous()?, &up.contiguous()?),
        }
    }

    /// Gradients of [`Self::swiglu`] with respect to `gate` and `up`.
    pub fn swiglu_backward(
        self,
        gate: &Tensor,
        up: &Tensor,
        grad_output: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Cpu => elementwise::swiglu_backward(gate, up, grad_output),
            Self::Cuda => {
                let grad_output = grad_output.contiguous()?;
                swiglu::swiglu_backward(&gate.contiguous()?, &up.contiguous()?, &grad_output)
            }
        }
    }

    /// Rotates the pairs `(x_i, x_{i + d/2})` of every head (the half-rotation convention of Qwen2).
    ///
    /// `x [N, heads · d]`; `cos`, `sin` `[N, d/2]` in f32. The rotation is computed in f32.
    pub fn rotary(self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu => elementwise::rotary(x, cos, sin),
            Self::Cuda => rotary::rotary(&x.contiguous()?, cos, sin, RotaryDirection::Forward),
        }
    }

    /// Gradient of [`Self::rotary`]: the rotation by the opposite angle.
    pub fn rotary_backward(
        self,
        grad_output: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<Tensor> {
        match self {
            Self::Cpu => elementwise::rotary(grad_output, cos, &sin.neg()?),
            Self::Cuda => rotary::rotary(
                &grad_output.contiguous()?,
                cos,
                sin,
                RotaryDirection::Backward,
            ),
        }
    }

    /// Queries and keys of `x [N, H]`: a [`Self::linear`] layer each, then [`Self::rotary`].
    pub(crate) fn rotary_projections(
        self,
        x: &Tensor,
        query: &Affine,
        key: &Affine,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Cpu => {
                let q = self.linear(x, &query.0, Some(&query.1))?;
                let k = self.linear(x, &key.0, Some(&key.1))?;
                Ok((self.rotary(&q, cos, sin)?, self.rotary(&k, cos, sin)?))
            }
            Self::Cuda => {
                let q = self.linear(x, &query.0, None)?;
                let k = self.linear(x, &key.0, None)?;
                let with_bias = |x, bias| Projection {
                    x,
                    bias: Some(bias),
                };
                let (q, k) = (with_bias(&q, &query.1), with_bias(&k, &key.1));
                rotary::bias_rotary(q, k, cos, sin, RotaryDirection::Forward)
            }
        }
    }
}

#[cfg(test)]
mod tests;
