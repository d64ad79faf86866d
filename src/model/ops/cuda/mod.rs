//! Operations on a GPU: kernels of our own, where the stock operations cost launches or passes over memory.
//!
//! Each is written once in CUDA C++ (`src/model/ops/cuda/source/`), compiled by the build script to PTX for the compute
//! capability `CUDA_COMPUTE_CAP`, and launched by a function here that takes and returns tensors. Their results are
//! those of the operations they replace up to rounding: norms, softmax and sums are computed in f32 whatever the
//! tensors' format. Nothing here records a graph.
//!
//! All work of a device goes through one stream in the order in which it is queued, so kernels need no events.
//! How to add one: see `tests/kernels/main.rs`.

pub mod adamw;
pub mod attention;
pub(super) mod chunked_head;
pub mod decode;
pub mod head;
pub mod launch;
pub mod norm;
pub(crate) mod product;
pub mod rotary;
pub mod sampler;
pub mod sum_squares;
pub mod swiglu;

pub(crate) use launch::applies;
