//! `scripts/gpu_check.sh --small` on the software device: no part of it fails on a device that works.

use crate::run::stderr;
use crate::software::{binary, linked};
use serde_json::Value;
use std::path::Path;

/// What the check measures with the program; its other parts need NVIDIA's tools or PyTorch.
const PARTS: [&str; 12] = [
    "start",
    "model",
    "world",
    "rates",
    "kernels",
    "parity_tiny",
    "parity_mini",
    "decode",
    "train_full",
    "cdpo_full",
    "train_compact",
    "train_host",
];

#[test]
#[ignore = "minutes: scripts/test_cuda.sh --include-ignored"]
fn no_part_of_the_check_fails_on_a_device_that_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let path = std::env::var("PATH").unwrap();
    let tools = root.join("tests/suite/gpu_check/tools");
    let mut check = linked("bash");
    check
        .arg(root.join("scripts/gpu_check.sh"))
        .args(["--small", "--seconds", "1200", "--patience", "10"])
        .arg("--binary")
        .arg(binary())
        .arg("--out")
        .arg(&out)
        .arg("--scratch")
        .arg(folder.path())
        .env("PATH", format!("{}:{path}", tools.display()))
        .env_remove("GPU_CHECK_RUN");
    let output = check.output().unwrap();
    let results = std::fs::read_to_string(out.join("results.jsonl")).unwrap();
    assert!(output.status.success(), "{}\n{results}", stderr(&output));
    let log = std::fs::read_to_string(out.join("log.txt")).unwrap();
    assert!(!log.contains("HAZARD"), "{log}");
    let results: Vec<Value> = results
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for part in PARTS {
        let line = results.iter().find(|line| line["part"] == part).unwrap();
        assert_eq!(line["exit_code"], 0, "{line}");
    }
    let decode = results
        .iter()
        .find(|line| line["part"] == "decode")
        .unwrap();
    for batch in decode["result"]["batches"].as_array().unwrap() {
        let replayed = batch["graph_steps"].as_u64().unwrap();
        assert_eq!(batch["cuda_graph"], replayed > 0, "{batch}");
    }
}
