//! `inspect device`: the program's own comparisons with the CPU.

use crate::run::assert_code;
use crate::software::{assert_clean, call, json, mini, program};
use serde_json::Value;

fn assert_agrees(view: &Value, what: &str, least: usize) {
    assert_eq!(view["agrees"], true, "{view}");
    let compared = view[what].as_array().unwrap();
    assert!(compared.len() >= least, "{} compared", compared.len());
    for one in compared {
        let (error, bound) = (&one["max_error"], &one["bound"]);
        assert!(error.as_f64().unwrap() <= bound.as_f64().unwrap(), "{one}");
    }
}

#[test]
fn every_kernel_agrees_with_its_definition() {
    // Where cuBLAS adds up many short sums, and where it adds all products one after the other.
    for part in ["64", "1"] {
        let output = call(
            &["inspect", "device", "kernels"],
            "cuda:0",
            &[("SIM_SPLIT_K", part)],
        );
        assert_clean(&output);
        let view = serde_json::from_slice(&output.stdout).unwrap();
        assert_agrees(&view, "kernels", 40);
    }
}

#[test]
#[ignore = "minutes: scripts/test_cuda.sh --include-ignored"]
fn a_random_model_of_the_real_head_widths_agrees_with_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut init = program();
    init.args(["inspect", "model", path, "--init", "tiny"]);
    assert_code(&init.output().unwrap(), 0);
    let view = json(&["inspect", "device", "parity", "--model", path], "cuda:0");
    assert_agrees(&view, "differences", 100);
}

#[test]
fn the_miniature_model_agrees_with_the_cpu() {
    let view = json(
        &["inspect", "device", "parity", "--model", &mini()],
        "cuda:0",
    );
    assert_agrees(&view, "differences", 100);
}

/// What is measured is the host's speed; that the measurements run to their end is tested here.
#[test]
fn speeds_and_memory_are_measured() {
    let sizes = [
        "--grid",
        "2,10,12",
        "--text-tokens",
        "8",
        "--completion-tokens",
        "8",
    ];
    let model = mini();
    let work = [&["--model", &model], &sizes[..]].concat();
    let decode = [&["inspect", "device", "decode", "--rows", "8"], &work[..]].concat();
    let view = json(&decode, "cuda:0");
    assert!(
        view["batches"][0]["tokens_per_second"]["measured"].as_f64() > Some(0.0),
        "{view}"
    );
    let train = [&["inspect", "device", "train"], &work[..]].concat();
    let view = json(&train, "cuda:0");
    // The rates before have copied 64 MiB to 64 MiB: that is not the learning's.
    let peak = view["peak_bytes"]["measured"].as_f64().unwrap();
    assert!((1e6..1e8).contains(&peak), "{view}");
}
