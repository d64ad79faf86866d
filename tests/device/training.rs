//! Training in every way that the CUDA build has of its own, against the CPU.

use crate::run::{Run, assert_close, assert_code};
use crate::software::{assert_clean, small};

/// In f32 only the order of additions differs: the loss and the gradient norm were 6e-6 apart at most.
const F32: f64 = 2e-5;
/// A step of a few layers on the same batch, every sum rounded to 8 bits.
const BF16: f64 = 2e-2;
const RESULTS: [&str; 2] = ["metrics.jsonl", "rollouts.jsonl"];

type Settings<'a> = &'a [(&'a str, &'a str)];

const GRAPH: (&str, &str) = ("sampling.cuda_graph", "true");
const ON_HOST: (&str, &str) = ("optimizer.memory", "host");
const BIAS_ON_HOST: (&str, &str) = ("model.bias_placement", "host");
const TWO_UPDATES: (&str, &str) = ("train.updates_per_rollout", "2");
const FULL_KL: (&str, &str) = ("kl.estimator", "full");

/// Runs on the CPU and on the device with the same settings.
#[track_caller]
fn agree(make: impl Fn() -> Run, settings: Settings, files: &[&str], tolerance: f64) {
    let with = || {
        let mut run = small(make());
        for (key, value) in settings {
            run.set(key, value);
        }
        run
    };
    let (cpu, device) = (with(), with().on_device());
    assert_code(&cpu.run(), 0);
    assert_clean(&device.run_with(&[]));
    assert_close(&device, &cpu, files, tolerance);
}

fn cdpo(settings: Settings) {
    agree(Run::cdpo, settings, &RESULTS, F32);
}

#[test]
fn worked_answers_are_learned() {
    agree(|| Run::new("train-sft"), &[], &RESULTS[..1], F32);
}

/// In bf16 every activation is rounded, on both: of what is sampled then nothing could be compared (`inspect device parity`
/// compares a CDPO step on given completions).
#[test]
fn worked_answers_are_learned_in_bf16() {
    let settings = [("model.dtype", "bf16"), ("train.steps", "1")];
    agree(|| Run::new("train-sft"), &settings, &RESULTS[..1], BF16);
}

#[test]
fn the_bias_model_is_trained() {
    agree(|| Run::new("train-bias"), &[], &RESULTS, F32);
}

#[test]
fn cdpo_as_it_is() {
    cdpo(&[]);
}

#[test]
fn cdpo_with_captured_steps() {
    cdpo(&[GRAPH]);
}

#[test]
fn cdpo_with_the_optimizer_in_host_memory() {
    cdpo(&[ON_HOST]);
}

#[test]
fn cdpo_with_a_compact_optimizer() {
    cdpo(&[("optimizer.memory", "compact")]);
}

#[test]
fn cdpo_with_the_bias_model_in_8_bits() {
    cdpo(&[("model.bias_placement", "int8")]);
}

#[test]
fn cdpo_with_the_bias_model_in_host_memory() {
    cdpo(&[BIAS_ON_HOST]);
}

#[test]
fn cdpo_with_two_updates_and_the_exact_divergence() {
    cdpo(&[TWO_UPDATES, FULL_KL]);
}

#[test]
fn cdpo_with_everything_at_once() {
    cdpo(&[GRAPH, ON_HOST, BIAS_ON_HOST, TWO_UPDATES, FULL_KL]);
}

/// Inside the memory that it was given, aligned, and ordered by barriers: every access of every kernel of ours.
#[test]
#[ignore = "minutes: scripts/test_cuda.sh --include-ignored"]
fn no_kernel_of_a_training_accesses_what_it_must_not() {
    for dtype in ["f32", "bf16"] {
        let mut run = small(Run::cdpo()).on_device();
        run.set("model.dtype", dtype).set("train.steps", "1");
        for (key, value) in [GRAPH, ON_HOST, BIAS_ON_HOST, TWO_UPDATES, FULL_KL] {
            run.set(key, value);
        }
        assert_clean(&run.run_with(&[("SIM_CHECK_ACCESS", "1")]));
    }
}
