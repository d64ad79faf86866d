//! Linear layers on a CPU.

use crate::model::ops::cpu::few_rows;
use candle_core::{Result, Tensor};

/// `x [N, in] · weightᵀ [in, out] (+ bias [out])` → `[N, out]`.
pub(in crate::model::ops) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let product = match few_rows::product(x, weight)? {
        Some(product) => product,
        None => x.matmul(&weight.t()?)?,
    };
    match bias {
        None => Ok(product),
        Some(bias) => product.broadcast_add(bias),
    }
}
