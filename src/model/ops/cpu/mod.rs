//! Operations on a CPU, computed in f32: of a network in bf16 the values are widened on the way in, and rounded on the way out; a
//! linear layer's product also before its bias is added.
//!
//! Results do not depend on the number of threads.

pub(super) mod attention;
pub(super) mod decode;
pub(super) mod elementwise;
mod few_rows;
pub(super) mod head;
pub(super) mod linear;
mod matrix;
pub(super) mod simd;

use candle_core::{DType, Result, Tensor};

/// As the functions here take their inputs: contiguous, in f32.
fn in_f32(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.contiguous()
}
