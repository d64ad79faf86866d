//! Whatever the order in which the streams' queues are worked off, the results are the same bits; where the waits between
//! streams are left out, they are not.

use crate::run::{Run, assert_same};
use crate::software::{assert_clean, small};

const ORDERS: [&str; 4] = ["eager", "lazy", "copies_first", "computing_first"];

/// All that uses a second stream or a graph.
fn run() -> Run {
    let mut run = small(Run::cdpo()).on_device();
    run.set("train.steps", "1").set("checkpoint.every", "1");
    for (key, value) in [
        ("optimizer.memory", "host"),
        ("model.bias_placement", "host"),
        ("sampling.cuda_graph", "true"),
    ] {
        run.set(key, value);
    }
    run
}

#[test]
fn every_order_of_the_streams_gives_the_same_bits() {
    let runs = ORDERS.map(|order| {
        let run = run();
        // The host cannot touch the device's memory either.
        assert_clean(&run.run_with(&[("SIM_ORDER", order), ("SIM_PROTECT", "1")]));
        run
    });
    let files = ["metrics.jsonl", "checkpoints/latest/model.safetensors"];
    for other in &runs[1..] {
        assert_same(&runs[0], other, &files);
    }
}

/// Those of streams for each other, and those of the host.
#[test]
fn missing_waits_are_seen() {
    let right = run();
    assert_clean(&right.run_with(&[("SIM_ORDER", "lazy")]));
    for missing in ["SIM_DROP_WAITS", "SIM_DROP_SYNCS"] {
        let wrong = run();
        let output = wrong.run_with(&[("SIM_ORDER", "lazy"), (missing, "1")]);
        let log = crate::run::stderr(&output);
        let differs = wrong.lines("metrics.jsonl") != right.lines("metrics.jsonl");
        assert!(log.contains("HAZARD") || differs, "{missing}: {log}");
    }
}
