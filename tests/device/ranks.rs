//! Several ranks, each with a device of its own, that add their gradients up by NCCL.

use crate::run::{Run, assert_close, assert_says, children, stderr};
use crate::software::{Variables, assert_clean, small, wait};
use std::process::{Child, Stdio};

fn run() -> Run {
    let mut run = small(Run::cdpo());
    run.set("model.device", "cuda");
    run.set("train.questions_per_step", "2");
    run
}

fn start_on(run: &Run, ranks: &str, variables: Variables) -> Child {
    let mut command = run.command();
    command.envs(variables.iter().copied());
    command.args(["--ranks", ranks]).env("SIM_DEVICES", ranks);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn two_ranks_do_what_one_does() {
    let (one, two) = (run(), run());
    assert_clean(&one.run_with(&[]));
    let output = wait(start_on(&two, "2", &[]));
    assert_clean(&output);
    assert_says(&output, 0, &["2 ranks share"]);
    // The sums' order is another one, as on the CPU.
    assert_close(&two, &one, &["metrics.jsonl", "rollouts.jsonl"], 1e-5);
}

#[test]
fn a_killed_rank_ends_the_others_with_its_reason() {
    let mut run = run();
    run.set("train.steps", "100000");
    let parent = start_on(&run, "2", &[]);
    run.wait_for_steps(1);
    let ranks = children(&parent);
    assert_eq!(ranks.len(), 1);
    let status = std::process::Command::new("kill")
        .args(["-9", &ranks[0]])
        .status();
    assert!(status.unwrap().success());
    let output = wait(parent);
    assert_says(&output, 1, &["rank 1 failed: it ended without a word"]);
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[test]
fn what_nccl_refuses_ends_every_rank() {
    // 2 is an error of the system, 1 one of CUDA.
    for (failure, said) in [
        ("ncclCommInitRank:1:2", "NCCL_SOCKET_IFNAME"),
        ("ncclAllReduce:1:1", "memory for its buffers"),
    ] {
        let output = wait(start_on(&run(), "2", &[("SIM_FAIL", failure)]));
        assert_says(&output, 1, &["NCCL: ", said]);
        assert!(!stderr(&output).contains("panicked"), "{failure}");
    }
}

/// NCCL connects when it first adds something up: what cannot be connected is not waited for longer than is set.
#[test]
fn ranks_that_nccl_does_not_connect_end() {
    let mut run = run();
    run.set("train.rank_timeout", "5");
    let output = wait(start_on(&run, "2", &[("SIM_NCCL_STALLS", "1")]));
    assert_says(
        &output,
        1,
        &["NCCL has not connected", "train.rank_timeout"],
    );
}
