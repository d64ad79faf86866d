//! The whole experiment in miniature, `scripts/quickstart.sh --fast`, on the software device beside the CPU.

use crate::run::{assert_files_close, stderr};
use crate::software::{binary, linked};
use std::os::unix::fs::symlink;
use std::path::Path;

/// What another order of additions does to a number.
const ROUNDING: f64 = 1e-4;

/// Runs the script in a folder of its own, so that nobody's `runs/` are touched.
fn quickstart(folder: &Path, device: &str) {
    for name in ["scripts", "configs", "data"] {
        symlink(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(name),
            folder.join(name),
        )
        .unwrap();
    }
    let mut command = linked(folder.join("scripts/quickstart.sh"));
    command.args(["--fast", "--device", device, "--binary"]);
    let output = command.arg(binary()).output().unwrap();
    let log = stderr(&output);
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("HAZARD"), "{log}");
}

#[test]
fn the_miniature_has_the_numbers_of_the_cpu() {
    let [cpu, device] = ["cpu", "cuda:0"].map(|device| {
        let folder = tempfile::tempdir().unwrap();
        quickstart(folder.path(), device);
        folder
    });
    for run in ["bias", "cdpo", "grpo"] {
        for name in ["metrics.jsonl", "rollouts.jsonl"] {
            let name = format!("runs/mini/{run}/{name}");
            assert_files_close(device.path(), cpu.path(), &name, ROUNDING);
        }
    }
    for model in ["base", "bias", "grpo", "cdpo"] {
        let name = format!("runs/mini/eval/{model}/outputs.jsonl");
        assert_files_close(device.path(), cpu.path(), &name, ROUNDING);
    }
}
