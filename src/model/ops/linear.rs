//! Products of linear layers that are the same on every device.

use candle_core::{Result, Tensor};

/// Weight `[out, in]` and bias `[out]` of a linear layer.
pub(crate) type Affine = (Tensor, Tensor);

/// Gradient `[out, in]` of a linear layer's weight from that of its output `[N, out]` and its input `[N, in]`.
pub(crate) fn weight_gradient(grad_output: &Tensor, input: &Tensor) -> Result<Tensor> {
    grad_output.t()?.matmul(input)
}

/// `[N, H]` → `[H]`: the sum over rows, as a product with a row of ones (a strided reduction is slow on every device).
pub(crate) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    Tensor::ones((1, x.dim(0)?), x.dtype(), x.device())?
        .matmul(x)?
        .squeeze(0)
}
