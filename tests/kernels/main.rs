//! The CUDA kernels, run on the CPU and compared with what they replace.
//!
//! The sources in `src/model/ops/cuda/source/` are compiled by the C++ compiler (`CXX`, else `c++`) with `emulator.hpp` in place
//! of CUDA's headers. Inside [`emulator::on_cpu`] the functions of `videothinker::model::ops::cuda` run them on CPU tensors,
//! and a network that is built there has the operations of a GPU; one that is built outside has those of a CPU: the twin. Every launch runs with its
//! accesses checked, and again in a random order: see [`emulator`].
//!
//! To add a kernel:
//! 1. `src/model/ops/cuda/source/NAME.cu` begins with `#include "common.cuh"` and declares every entry point with
//!    `KERNEL(max_threads, name, parameters…) { … }`, f32 and bf16 variants as `name_f32` and `name_bf16`. Dynamic shared
//!    memory is `DYNAMIC_SHARED(type, name);`. What the emulator cannot run goes behind `#ifndef EMULATED`, with a plain
//!    version for the tests.
//! 2. `src/model/ops/cuda/NAME.rs` has `static MODULE: Module = module!("NAME")` and one function per kernel, which checks shapes,
//!    allocates with `unwritten` and ends in `Launch::of_dtype(…)…run(grid)`. Arguments go by position; the emulator
//!    refuses a wrong number of them and blocks larger than declared.
//! 3. The operation in `model::ops` takes it in its `Ops::Cuda`.
//! 4. A test here compares it with the twin; `selfcheck::kernels` compares it on a GPU.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod adamw;
mod attention;
mod elementwise;
mod emulator;
mod faults;
mod fragments;
mod generate;
mod harness;
mod head;
mod model;
mod sampler;
mod views;

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;

pub(crate) const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Values from a normal distribution of standard deviation 1, in `dtype`: new ones in every call, the same in every run
/// of a test.
pub(crate) fn random(shape: &[usize], dtype: DType) -> Result<Tensor> {
    // Each test has a thread of its own.
    thread_local!(static NUMBERS: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(1)));
    let normal = |numbers: &mut ChaCha8Rng| {
        let (radius, angle) = (1.0 - numbers.random::<f32>(), numbers.random::<f32>());
        (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
    };
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> =
        NUMBERS.with_borrow_mut(|numbers| (0..count).map(|_| normal(numbers)).collect());
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// In f32, in which the twins compute.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

/// Asserts that every value is within `bound` of the wanted one, relative to the larger of it and 1.
#[track_caller]
pub(crate) fn close(got: &Tensor, want: &Tensor, bound: f32) {
    assert_eq!(got.shape(), want.shape());
    let values = |x: &Tensor| -> Vec<f32> {
        let x = wide(x).and_then(|x| x.flatten_all()?.to_vec1());
        x.unwrap()
    };
    for (index, (got, want)) in values(got).into_iter().zip(values(want)).enumerate() {
        // Written so that a NaN fails.
        let near = (got - want).abs() <= bound * want.abs().max(1.0);
        assert!(near, "value {index}: {got} instead of {want}");
    }
}

/// What one rounding to `dtype` allows after a computation in f32: half a unit in the last place, and f32's own error.
pub(crate) fn bound(dtype: DType) -> f32 {
    if dtype == DType::BF16 {
        1.0 / 256.0 + 1e-5
    } else {
        1e-5
    }
}
