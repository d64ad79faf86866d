//! Bias and rotation of queries and keys, in one launch for both.
//!
//! Shapes: `x [N, heads · d]`, bias `[heads · d]`, `cos`, `sin` `[N, d/2]` in f32.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, module, unwritten};
use candle_core::{DType, Result, Tensor, bail};

static MODULE: Module = module!("rotary");
const THREADS: u32 = 256;

/// Which way a row's angles turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryDirection {
    /// As in the forward pass.
    Forward,
    /// Back: the gradient of the former.
    Backward,
}

/// The projections that turn together.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[N, heads · d]`
    pub x: &'a Tensor,
    /// Added to every row before it turns.
    pub bias: Option<&'a Tensor>,
}

/// `x [N, heads · d]` turned by angles whose `cos` and `sin` are `[N, d/2]` in f32.
pub fn rotary(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    direction: RotaryDirection,
) -> Result<Tensor> {
    let x = Projection { x, bias: None };
    rotate(x, None, cos, sin, direction).map(|(x, _)| x)
}

/// Queries and keys, each with its bias, turned.
pub fn bias_rotary(
    q: Projection,
    k: Projection,
    cos: &Tensor,
    sin: &Tensor,
    direction: RotaryDirection,
) -> Result<(Tensor, Tensor)> {
    rotate(q, Some(k), cos, sin, direction)
}

fn rotate(
    q: Projection,
    k: Option<Projection>,
    cos: &Tensor,
    sin: &Tensor,
    direction: RotaryDirection,
) -> Result<(Tensor, Tensor)> {
    let (rows, half) = cos.dims2()?;
    if cos.dtype() != DType::F32 || sin.dtype() != DType::F32 || sin.shape() != cos.shape() {
        bail!("rotary: the tables are {cos:?} and {sin:?}");
    }
    let heads = |projection: Projection| -> Result<usize> {
        let (found, width) = projection.x.dims2()?;
        let fits = projection
            .bias
            .is_none_or(|bias| bias.elem_count() == width && bias.dtype() == projection.x.dtype());
        if found != rows || width % (2 * half) != 0 || !fits || projection.x.dtype() != q.x.dtype()
        {
            bail!(
                "rotary: {:?} with tables of {rows} × {half}",
                projection.x.shape()
            );
        }
        Ok(width / (2 * half))
    };
    let q_out = unwritten(q.x.shape(), q.x.dtype(), q.x.device())?;
    let other = k.unwrap_or(q);
    let k_out = match k {
        Some(k) => unwritten(k.x.shape(), k.x.dtype(), k.x.device())?,
        None => q_out.clone(),
    };
    let (q_heads, k_heads) = (heads(q)?, heads(other)?);
    let mut grid = Grid::covering(rows * half * q_heads.max(k_heads), THREADS);
    grid.blocks[1] = if k.is_some() { 2 } else { 1 };
    Launch::of_dtype(&MODULE, "rotary", q.x.dtype())?
        .tensor(q.x)
        .optional(q.bias)
        .tensor(&q_out)
        .size(q_heads)
        .tensor(other.x)
        .optional(other.bias)
        .tensor(&k_out)
        .size(k_heads)
        .tensor(cos)
        .tensor(sin)
        .size(rows)
        .size(half)
        .float(if direction == RotaryDirection::Forward {
            1.0
        } else {
            -1.0
        })
        .run(grid)?;
    Ok((q_out, k_out))
}
