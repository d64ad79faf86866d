//! The integration tests, one binary: candle links slowly.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod benchmarks;
mod check;
mod composed;
mod corrupt;
mod decoder_oracle;
mod device;
mod docs;
mod downloads;
mod engine;
mod eval;
mod generate;
mod golden_model;
mod gpu_check;
mod hub;
mod inspect;
mod judge;
mod layers;
mod memory;
mod mvbench;
mod optimizer;
mod paper;
mod parity_engine;
mod parity_model;
mod positions;
mod prompt;
mod protocols;
mod ranks;
mod reuse;
mod run;
mod runs;
mod training_files;
mod video;
mod world;

/// The program, as cargo built it for these tests.
fn program() -> std::process::Command {
    std::process::Command::new(assert_cmd::cargo::cargo_bin("videothinker"))
}
