//! `silu(gate) · up` and its gradients, in one pass each.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, module, unwritten};
use candle_core::{Result, Tensor, bail};

static MODULE: Module = module!("swiglu");
const THREADS: u32 = 256;
/// Values that a thread takes in one turn in bf16; in f32 it takes two turns.
const VALUES: usize = 8;

/// `silu(gate) · up`, elementwise, computed in f32; both of one shape and dtype.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    check(gate, up)?;
    let output = unwritten(gate.shape(), gate.dtype(), gate.device())?;
    Launch::of_dtype(&MODULE, "swiglu", gate.dtype())?
        .tensor(gate)
        .tensor(up)
        .tensor(&output)
        .size(gate.elem_count())
        .run(Grid::covering(gate.elem_count().div_ceil(VALUES), THREADS))?;
    Ok(output)
}

/// Gradients of [`swiglu`] with respect to `gate` and `up`.
pub fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    grad_output: &Tensor,
) -> Result<(Tensor, Tensor)> {
    check(gate, up)?;
    check(gate, grad_output)?;
    let d_gate = unwritten(gate.shape(), gate.dtype(), gate.device())?;
    let d_up = unwritten(gate.shape(), gate.dtype(), gate.device())?;
    Launch::of_dtype(&MODULE, "swiglu_backward", gate.dtype())?
        .tensor(gate)
        .tensor(up)
        .tensor(grad_output)
        .tensor(&d_gate)
        .tensor(&d_up)
        .size(gate.elem_count())
        .run(Grid::covering(gate.elem_count().div_ceil(VALUES), THREADS))?;
    Ok((d_gate, d_up))
}

fn check(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        bail!(
            "swiglu: {:?} {:?} beside {:?} {:?}",
            a.shape(),
            a.dtype(),
            b.shape(),
            b.dtype()
        );
    }
    Ok(())
}
