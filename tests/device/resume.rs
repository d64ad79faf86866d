//! Runs that are interrupted on the device.

use crate::run::{Run, assert_same, assert_says, send, stderr};
use crate::software::{assert_clean, small};

/// All that a run writes but for clocks.
const ALL: [&str; 4] = [
    "metrics.jsonl",
    "rollouts.jsonl",
    "checkpoints/latest/model.safetensors",
    "checkpoints/latest/trainer/optimizer/model.safetensors",
];

#[test]
fn an_interrupted_run_goes_on_to_the_same_bits() {
    let with = || {
        let mut run = small(Run::cdpo()).on_device();
        run.set("optimizer.memory", "host");
        run.set("sampling.cuda_graph", "true");
        run.set("checkpoint.every", "1");
        run.set("train.steps", "3");
        run
    };
    let (whole, parts) = (with(), with());
    assert_clean(&whole.run_with(&[]));
    let child = parts.start();
    parts.wait_for_steps(1);
    send("-INT", &child);
    let output = child.wait_with_output().unwrap();
    assert_says(&output, 3, &["saved", "stopped at step"]);
    assert!(!stderr(&output).contains("HAZARD"), "{}", stderr(&output));
    let done = parts.lines("metrics.jsonl").len();
    assert!((1..3).contains(&done), "{done} steps before the signal");
    let output = parts.run_with(&[]);
    assert_clean(&output);
    assert_says(&output, 0, &["going on from"]);
    assert_same(&whole, &parts, &ALL);
}
