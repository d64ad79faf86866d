//! The program and the device that `scripts/test_cuda.sh` made, and runs on it.

use crate::run::{Run, assert_code, stderr};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Variables of the software device; `tests/device/README.md` says what each does.
pub(crate) type Variables<'a> = &'a [(&'a str, &'a str)];

fn made(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path.filter(|path| path.exists());
    path.unwrap_or_else(|| {
        panic!("{variable} names nothing that is there: start these tests with scripts/test_cuda.sh, which makes what they need")
    })
}

/// The folder of the software device's libraries.
pub(crate) fn device_folder() -> PathBuf {
    made("VIDEOTHINKER_SOFTWARE_DEVICE")
}

/// A program that is linked with CUDA's libraries and finds the software device's, else the toolkit's.
pub(crate) fn linked(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    let folders = [device_folder(), made("CUDA_HOME").join("lib")];
    command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap());
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// The CUDA build.
pub(crate) fn program() -> Command {
    linked(made("VIDEOTHINKER_CUDA_BINARY"))
}

/// Runs the program with these arguments on `device`.
pub(crate) fn call(arguments: &[&str], device: &str, variables: Variables) -> Output {
    let mut command = program();
    command.args(arguments);
    command.args(["--set", &format!("model.device={device}")]);
    command.envs(variables.iter().copied()).output().unwrap()
}

/// What the program prints as JSON; on the device with nothing to object to.
#[track_caller]
pub(crate) fn json(arguments: &[&str], device: &str) -> Value {
    let output = call(arguments, device, &[]);
    assert_clean(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// It ended well and the device saw no fault.
#[track_caller]
pub(crate) fn assert_clean(output: &Output) {
    assert_code(output, 0);
    let log = stderr(output);
    assert!(!log.contains("HAZARD"), "{log}");
}

impl Run {
    /// This run on the software device.
    pub(crate) fn on_device(mut self) -> Self {
        self.set("model.device", "cuda:0");
        self
    }

    /// Runs with variables of the software device.
    pub(crate) fn run_with(&self, variables: Variables) -> Output {
        let mut command = self.command();
        command.envs(variables.iter().copied()).output().unwrap()
    }
}
