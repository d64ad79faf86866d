//! The sum of squares over tensors: the square of a global norm, without a copy to the host per tensor.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, module, unwritten};
use candle_core::{DType, Device, Result, Tensor};
use std::borrow::Borrow;

static MODULE: Module = module!("sum_squares");
const THREADS: u32 = 256;
/// Fixed, so that the sum does not depend on the device.
const MAX_BLOCKS: usize = 1056;
/// Values that a thread takes before there are more blocks.
const VALUES: usize = 32;

/// Σ x² over all values of all tensors, as an f64 scalar `[1]` on `device`. Deterministic.
pub fn sum_squares<T: Borrow<Tensor>>(
    tensors: impl IntoIterator<Item = T>,
    device: &Device,
) -> Result<Tensor> {
    let total = Tensor::zeros(1, DType::F64, device)?;
    let parts = unwritten(MAX_BLOCKS, DType::F64, device)?;
    for tensor in tensors {
        let tensor = tensor.borrow();
        let count = tensor.elem_count();
        let grid = Grid::covering(count.div_ceil(VALUES), THREADS);
        let blocks = (grid.blocks[0] as usize).min(MAX_BLOCKS);
        Launch::of_dtype(&MODULE, "squares", tensor.dtype())?
            .tensor(tensor)
            .tensor(&parts)
            .size(count)
            .run(Grid::new(blocks, THREADS))?;
        Launch::new(&MODULE, "add_up")
            .tensor(&parts)
            .tensor(&total)
            .size(blocks)
            .run(Grid::new(1, THREADS))?;
    }
    Ok(total)
}
