//! The operations in candle's own, whose gradients are candle's: what the backends are held against.

use crate::model::ops::heads::Heads;
use candle_core::{D, Device, Result, Tensor, Var, bail};

/// Gradients of `(f(x…) · grad_output).sum()` as candle's autograd gives them.
pub(super) fn gradients(
    inputs: &[Tensor],
    grad_output: &Tensor,
    f: impl Fn(&[Var]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let gradients = (f(&vars)? * grad_output)?.sum_all()?.backward()?;
    vars.iter()
        .map(|var| match gradients.get(var) {
            Some(gradient) => Ok(gradient.clone()),
            None => bail!("an input has no gradient"),
        })
        .collect()
}

/// `q [N, n·d]` over `k`, `v` `[T, m·d]`, where row i sees key j if `sees(i, j)`, head by head.
pub(in crate::model) fn attention(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    sees: impl Fn(usize, usize) -> bool,
) -> Result<Tensor> {
    let (rows, keys) = (q.dim(0)?, k.dim(0)?);
    let hidden = |at: usize| {
        if sees(at / keys, at % keys) {
            0.0
        } else {
            f32::NEG_INFINITY
        }
    };
    let mask: Vec<f32> = (0..rows * keys).map(hidden).collect();
    let mask = Tensor::from_vec(mask, (rows, keys), &Device::Cpu)?;
    let of_head = |head: usize| -> Result<Tensor> {
        let dim = heads.head_dim;
        let part = |x: &Tensor, head: usize| x.narrow(1, head * dim, dim)?.contiguous();
        let kv_head = head / heads.group_size();
        let scores = part(q, head)?.matmul(&part(k, kv_head)?.t()?)?;
        let scores = ((scores * heads.scale())? + &mask)?;
        candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&part(v, kv_head)?)
    };
    let outputs: Vec<Tensor> = (0..heads.num_heads).map(of_head).collect::<Result<_>>()?;
    Tensor::cat(&outputs, 1)
}

/// `x / sqrt(mean(x²) + eps) · weight`.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// The pairs `(x_i, x_{i + d/2})` of every head turned.
pub(super) fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, half) = cos.dims2()?;
    let heads = x.reshape((rows, (), 2 * half))?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape(x.shape())
}
