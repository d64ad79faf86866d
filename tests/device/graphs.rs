//! CUDA graphs that are refused, at each stage: decoding goes on without, says so, and gives the same bits.

use crate::run::{Run, assert_same, stderr};
use crate::software::{assert_clean, small};

fn run(graph: bool) -> Run {
    let mut run = small(Run::cdpo()).on_device();
    run.set("train.steps", "1");
    run.set("sampling.max_new_tokens", "20");
    run.set("sampling.cuda_graph", if graph { "true" } else { "false" });
    run
}

/// Decoding steps that ran as a graph, without one, and why there was none.
fn decoding(run: &Run) -> (u64, u64, String) {
    let timings = run.lines("timings.jsonl");
    let of = |name: &str| timings[0][name].as_u64().unwrap();
    let why = timings[0]["decode/no_graph"].as_str().unwrap_or_default();
    let steps = (of("decode/graph_steps"), of("decode/plain_steps"));
    (steps.0, steps.1, why.to_owned())
}

#[test]
fn a_refused_graph_changes_no_bit() {
    const RESULTS: [&str; 2] = ["metrics.jsonl", "rollouts.jsonl"];
    let plain = run(false);
    assert_clean(&plain.run_with(&[]));
    let captured = run(true);
    let output = captured.run_with(&[]);
    assert_clean(&output);
    assert!(!stderr(&output).contains("no CUDA graph"));
    assert_same(&captured, &plain, &RESULTS);
    let (replayed, launched, why) = decoding(&captured);
    assert!(replayed > launched && why.is_empty(), "{why}");
    // What the driver may refuse, with the codes it has for that, at each stage; and a launch that fails later or once.
    for (failure, some_replayed) in [
        ("cuStreamBeginCapture:1:900", false),
        ("cuStreamEndCapture:1:901", false),
        ("cuGraphInstantiateWithFlags:1:2", false),
        ("cuGraphUpload:1:2", false),
        ("cuGraphLaunch:1:1", false),
        ("cuGraphLaunch:4:1", true),
    ] {
        let refused = run(true);
        let output = refused.run_with(&[("SIM_FAIL", failure)]);
        assert_clean(&output);
        let log = stderr(&output);
        assert!(log.contains("no CUDA graph"), "{failure}: {log}");
        assert_same(&refused, &plain, &RESULTS);
        let (replayed, launched, why) = decoding(&refused);
        assert_eq!(replayed > 0, some_replayed, "{failure}");
        assert!(launched > 1 && !why.is_empty(), "{failure}: {why}");
    }
}
