//! The CUDA build, unchanged, on a GPU made of software (`build.sh`), against the same program on the CPU.
//!
//! `scripts/test_cuda.sh` makes both and starts these tests; a plain `cargo test` leaves them out.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod faults;
mod gpu_check;
mod graphs;
mod inspect;
mod launches;
mod memory;
mod quickstart;
mod ranks;
mod resume;
#[path = "../suite/run.rs"]
mod run;
mod software;
mod streams;
mod training;

use software::program;
