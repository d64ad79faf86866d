//! A device that has too little memory, or none of what is asked of it: the program ends in words, and what was saved
//! before is whole.

use crate::run::{Run, assert_code, stderr};
use crate::software::{Variables, assert_clean, small};
use std::process::Output;

/// Tensors may have all of the device's memory.
const NO_CONTEXT: (&str, &str) = ("SIM_CONTEXT", "0");

fn run() -> Run {
    let mut run = small(Run::cdpo()).on_device();
    run.set("checkpoint.every", "1");
    run
}

/// Ended with exit code 1 and all of these parts; neither by a panic nor with the bare code of the driver.
#[track_caller]
fn assert_in_words(output: &Output, parts: &[&str]) {
    assert_code(output, 1);
    let log = stderr(output);
    for part in parts {
        assert!(log.contains(part), "{part:?} is not in: {log}");
    }
    for never in ["panicked", "DriverError(", "HAZARD"] {
        assert!(!log.contains(never), "{never:?} is in: {log}");
    }
}

/// Fails as `variables` ask and leaves no half of a checkpoint.
#[track_caller]
fn fails(run: &Run, variables: Variables, parts: &[&str]) {
    assert_in_words(&run.run_with(variables), parts);
    let half_written = run.checkpoints().into_iter();
    let half_written = half_written.filter(|name| name != "latest" && !name.starts_with("step-"));
    assert_eq!(half_written.count(), 0, "{variables:?}");
}

/// Goes on from what a failure left.
#[track_caller]
fn goes_on(run: &Run) {
    assert_clean(&run.run_with(&[]));
    assert_eq!(run.lines("metrics.jsonl").len(), 2);
}

#[test]
fn too_little_memory_is_said_wherever_it_runs_out() {
    let whole = run();
    let counts = whole.output().with_extension("counts");
    assert_clean(&whole.run_with(&[NO_CONTEXT, ("SIM_COUNTS", counts.to_str().unwrap())]));
    let counts = std::fs::read_to_string(counts).unwrap();
    let most = counts.split_once("most memory used: ").unwrap().1;
    let most: u64 = most.split(',').next().unwrap().parse().unwrap();
    // While weights are loaded, the optimizer is made, a clip is read, completions are drawn, layers go back.
    for share in [0.02, 0.2, 0.4, 0.6, 0.8, 0.99] {
        let memory = ((most as f64 * share) as u64).to_string();
        let said = ["out of memory", "optimizer.memory", "model.bias_placement"];
        let run = run();
        fails(&run, &[NO_CONTEXT, ("SIM_MEMORY", &memory)], &said);
        if share > 0.9 {
            goes_on(&run);
        }
    }
}

#[test]
fn an_allocation_that_fails_is_said() {
    // The codes of the driver: 2 is out of memory, 222 PTX of a newer version, 209 no kernel for this card.
    let cases: [(&str, &[&str]); 6] = [
        ("cuMemAllocAsync:1:2", &["out of memory"]),
        (
            "cuMemAllocAsync:2000+:2",
            &["out of memory", "optimizer.memory"],
        ),
        ("cuMemHostAlloc:1:2", &["page-locked host memory"]),
        ("cuModuleLoadData:1:222", &["driver"]),
        ("cuModuleLoadData:1:209", &["CUDA_COMPUTE_CAP"]),
        // There is no room for its handle.
        ("cublasCreate:1:1", &["cuBLAS: ", "of memory, of which"]),
    ];
    for (failure, said) in cases {
        let mut run = run();
        // Host memory is pinned for these two.
        run.set("optimizer.memory", "host");
        run.set("model.bias_placement", "host");
        fails(&run, &[("SIM_FAIL", failure)], said);
        if failure.contains('+') {
            goes_on(&run);
        }
    }
}

#[test]
fn work_that_fails_is_said() {
    // 46 is a card that another process has for itself, 221 a driver without its compiler, 700 an illegal address, 13 of
    // cuBLAS a product that could not be run.
    for (failure, said) in [
        (
            "cuDevicePrimaryCtxRetain:1:46",
            ["model.device", "another process"],
        ),
        ("cuModuleLoadData:1:221", ["NVIDIA_DRIVER_CAPABILITIES", ""]),
        ("cuLaunchKernel:60:700", ["illegal", "last checkpoint"]),
        ("cublasGemmEx:5:13", ["cuBLAS: ", "inspect device kernels"]),
    ] {
        fails(&run(), &[("SIM_FAIL", failure)], &said);
    }
}

/// What is only told to the user ends no run.
#[test]
fn a_peak_that_the_driver_does_not_tell_is_left_out() {
    let run = run();
    let output = run.run_with(&[("SIM_FAIL", "cuMemPoolGetAttribute:1+:801")]);
    assert_clean(&output);
    assert!(stderr(&output).contains("memory/peak_bytes is not known"));
    let timings = run.lines("timings.jsonl");
    assert_eq!(timings[1]["memory/peak_bytes"], 0);
}

#[test]
fn without_a_device_nothing_starts() {
    for device in ["auto", "cuda:0"] {
        let mut run = run();
        run.set("model.device", device);
        let output = run.run_with(&[("SIM_NO_DEVICE", "1")]);
        assert_ne!(output.status.code(), Some(0));
        let log = stderr(&output);
        for part in ["model.device", "cpu"] {
            assert!(log.contains(part), "{device}: {part:?} is not in: {log}");
        }
        assert!(!log.contains("panicked"), "{log}");
        // The log says why; of a run there is nothing.
        let left = std::fs::read_dir(run.output()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["checkpoints", "log.txt", "run.lock"], "{device}");
        assert_eq!(run.checkpoints().len(), 0, "{device}");
    }
    let mut run = run();
    run.set("model.device", "cuda:1");
    let output = run.run_with(&[]);
    assert_ne!(output.status.code(), Some(0));
    let log = stderr(&output);
    assert!(log.contains("cuda:1") && !log.contains("panicked"), "{log}");
}
