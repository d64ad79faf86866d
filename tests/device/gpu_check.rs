//! `scripts/gpu_check.sh --small` on the software device: no part of it fails on a device that works.

#[path = "../suite/gpu_check/script.rs"]
mod script;

use crate::run::stderr;
use crate::software::{binary, linked};
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
    let path = std::env::var("PATH").unwrap();
    let tools = root.join("tests/suite/gpu_check/tools");
    let output = script::check(linked("bash"), &binary(), "--small", folder.path())
        .args(["--seconds", "1200", "--patience", "10"])
        .env("PATH", format!("{}:{path}", tools.display()))
        .output()
        .unwrap();
    let results = script::results(folder.path());
    let errors = stderr(&output);
    assert!(output.status.success(), "{errors}\n{results:#?}");
    let log = std::fs::read_to_string(folder.path().join("out/log.txt")).unwrap();
    assert!(!log.contains("HAZARD"), "{log}");
    for part in PARTS {
        let line = &results[part];
        assert_eq!(line["exit_code"], 0, "{line}");
    }
    for batch in results["decode"]["result"]["batches"].as_array().unwrap() {
        let replayed = batch["graph_steps"].as_u64().unwrap();
        assert_eq!(batch["cuda_graph"], replayed > 0, "{batch}");
    }
}
