//! RMSNorm, alone or of a sum, and its gradients. Shapes `[N, H]` (or any with H last), `[H]`.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, module, unwritten};
use candle_core::{D, DType, Result, Tensor, bail};

static MODULE: Module = module!("norm");
const THREADS: u32 = 256;
/// Blocks of the backward pass, each with a part of the weight's gradient: fixed, so that the gradient does not depend
/// on the device; two for each multiprocessor of the largest ones.
const BACKWARD_BLOCKS: usize = 264;

/// `x / sqrt(mean(x²) + eps) · weight`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    forward(x, None, weight, eps).map(|(_, normed)| normed)
}

/// `x + addend` and its [`rms_norm`].
pub fn add_rms_norm(
    x: &Tensor,
    addend: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    forward(x, Some(addend), weight, eps)
}

fn forward(
    x: &Tensor,
    addend: Option<&Tensor>,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let width = check(weight, &[Some(x), addend])?;
    let normed = unwritten(x.shape(), x.dtype(), x.device())?;
    let sum = match addend {
        Some(_) => unwritten(x.shape(), x.dtype(), x.device())?,
        None => x.clone(),
    };
    Launch::of_dtype(&MODULE, "rms_norm", x.dtype())?
        .tensor(x)
        .optional(addend)
        .tensor(weight)
        .optional(addend.map(|_| &sum))
        .tensor(&normed)
        .size(width)
        .float(eps as f32)
        .run(Grid::new(x.elem_count() / width, THREADS))?;
    Ok((sum, normed))
}

/// Gradients of [`rms_norm`] with respect to `x`, to which `residual` is added, and to `weight`.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    grad_output: &Tensor,
    residual: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let width = check(weight, &[Some(x), Some(grad_output), residual])?;
    let rows = x.elem_count() / width;
    let blocks = rows.min(BACKWARD_BLOCKS);
    let dx = unwritten(x.shape(), x.dtype(), x.device())?;
    let dw = unwritten(width, x.dtype(), x.device())?;
    let parts = unwritten((blocks, width), DType::F32, x.device())?;
    Launch::of_dtype(&MODULE, "rms_norm_backward", x.dtype())?
        .tensor(x)
        .tensor(weight)
        .tensor(grad_output)
        .optional(residual)
        .tensor(&dx)
        .tensor(&parts)
        .size(rows)
        .size(width)
        .float(eps as f32)
        .run(Grid::new(blocks, THREADS).shared(width * size_of::<f32>()))?;
    Launch::of_dtype(&MODULE, "rms_norm_weight", x.dtype())?
        .tensor(&parts)
        .tensor(&dw)
        .size(blocks)
        .size(width)
        .run(Grid::covering(width, THREADS))?;
    Ok((dx, dw))
}

/// H, where all that is given fits together.
fn check(weight: &Tensor, rows: &[Option<&Tensor>]) -> Result<usize> {
    let width = weight.dim(0)?;
    let Some(first) = rows.iter().flatten().next() else {
        bail!("rms_norm: no rows");
    };
    for x in rows.iter().flatten() {
        if x.dim(D::Minus1)? != width || x.shape() != first.shape() || x.dtype() != weight.dtype() {
            bail!(
                "rms_norm: {:?} {:?} with a weight of {width}",
                x.shape(),
                x.dtype()
            );
        }
    }
    Ok(width)
}
