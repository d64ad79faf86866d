//! The integration tests, one binary: candle links slowly.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod benchmarks;
mod book;
mod check;
mod cli;
mod composed;
mod corrupt;
mod decoder_oracle;
mod device;
mod docs;
mod downloads;
mod engine;
mod eval;
mod first_use;
mod generate;
mod going_on;
mod golden_model;
mod gpu_check;
mod hub;
mod inspect;
mod judge;
mod layers;
mod links;
mod memory;
mod model_folders;
mod mvbench;
mod one_change;
mod optimizer;
mod other_programs;
mod own_data;
mod paper;
mod parity_engine;
mod parity_model;
mod positions;
mod prompt;
mod protocols;
mod publish;
mod ranks;
mod repulsion;
mod reuse;
mod run;
mod runs;
mod study;
mod trained;
mod training_files;
mod tutorial;
mod video;
mod world;

use std::path::Path;
use std::process::Command;
use std::process::Output;

/// The program, as cargo built it for these tests.
fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("videothinker"));
    command.env_remove("RUST_LOG");
    command
}

/// What it does with these arguments in `folder`.
fn videothinker(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.current_dir(folder).args(arguments);
    command.output().unwrap()
}
