//! The program and the device that `scripts/test_cuda.sh` made, and runs on it.

use crate::run::{Run, assert_code, stderr};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Variables of the software device; `tests/device/README.md` says what each does.
pub(crate) type Variables<'a> = &'a [(&'a str, &'a str)];

/// A run that takes longer hangs.
const LONGEST: Duration = Duration::from_mins(5);

/// The video settings of the miniature, and few frames: the device is a thousand times slower than a card.
pub(crate) const FEW_PIXELS: &[&str] = &[
    "--set",
    "model.dtype=f32",
    "--set",
    "video.min_frames=2",
    "--set",
    "video.max_frames=2",
    "--set",
    "video.min_pixels=12544",
    "--set",
    "video.max_pixels=12544",
    "--set",
    "video.text_after=spatial",
];

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

/// The CUDA build.
pub(crate) fn binary() -> PathBuf {
    made("VIDEOTHINKER_CUDA_BINARY")
}

/// A program that is linked with CUDA's libraries: it gets the software device's, else the toolkit's.
pub(crate) fn linked(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let folders = [device_folder(), made("CUDA_HOME").join("lib")];
    command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap());
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// As `run.rs` starts it.
pub(crate) fn program() -> Command {
    linked(binary())
}

/// The trained miniature model.
pub(crate) fn mini() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mini");
    folder.display().to_string()
}

/// What the process says until it ends; one that hangs fails the test.
#[track_caller]
pub(crate) fn wait(child: Child) -> Output {
    let id = child.id().to_string();
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(child.wait_with_output().unwrap()));
    receive.recv_timeout(LONGEST).unwrap_or_else(|_| {
        let _ = Command::new("kill").args(["-9", &id]).status();
        panic!("the program does not end in {LONGEST:?}")
    })
}

#[track_caller]
fn finish(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    wait(command.spawn().unwrap())
}

/// An `ask` about a clip, with few pixels.
pub(crate) fn ask(model: &str, tokens: &str, more: &[&str]) -> Vec<String> {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ask/clip.mp4");
    let clip = clip.display().to_string();
    let question = [
        "ask",
        "--json",
        "--model",
        model,
        "--video",
        &clip,
        "--question",
        "What happens?",
        "--max-tokens",
        tokens,
    ];
    let arguments = [&question[..], FEW_PIXELS, more].concat();
    arguments.into_iter().map(str::to_owned).collect()
}

/// Runs the program with these arguments on `device`.
#[track_caller]
pub(crate) fn call(arguments: &[impl AsRef<OsStr>], device: &str, variables: Variables) -> Output {
    let mut command = program();
    command.args(arguments);
    command.args(["--set", &format!("model.device={device}")]);
    command.envs(variables.iter().copied());
    finish(command)
}

/// What the program prints as JSON; on the device with nothing to object to.
#[track_caller]
pub(crate) fn json(arguments: &[impl AsRef<OsStr>], device: &str) -> Value {
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

/// `run` with the least of a clip; worked answers name video tokens of all of theirs.
pub(crate) fn small(mut run: Run) -> Run {
    let frames = if run.verb == "train-sft" { "8" } else { "2" };
    for (key, value) in [
        ("video.min_frames", frames),
        ("video.max_frames", frames),
        ("train.questions_per_step", "1"),
        ("train.steps", "2"),
        ("checkpoint.every", "0"),
    ] {
        run.set(key, value);
    }
    run
}

impl Run {
    /// This run on the software device.
    pub(crate) fn on_device(mut self) -> Self {
        self.set("model.device", "cuda:0");
        self
    }

    /// Runs with variables of the software device.
    #[track_caller]
    pub(crate) fn run_with(&self, variables: Variables) -> Output {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        finish(command)
    }
}
