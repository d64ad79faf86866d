//! Whole passes of the golden models through the kernels, against the same passes without them.

#[path = "../suite/golden_model.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod golden_model;

use crate::emulator::on_cpu;
use candle_core::{DType, Device};
use golden_model::{
    Reference, assert_close, assert_values, bias_model, folder, golden_inputs, policy,
};
use videothinker::model::ops::Ops;
use videothinker::policy::{FrozenModel, Policy};
use videothinker::train::backward::{Derivatives, GradientPlacement, Pass, backward};

/// A step over the golden inputs with derivatives of both kinds.
fn step(policy: &Policy, bias: &FrozenModel) -> Pass<()> {
    let inputs = golden_inputs(policy, &Reference::load());
    let hidden = bias.target_hidden(&inputs).unwrap();
    let rows = bias.reference_rows(&hidden);
    backward(
        policy,
        &inputs,
        GradientPlacement::Device,
        Some(rows),
        |scores| {
            let waves = |frequency: f32| {
                let targets = 0..scores.logprob.len();
                targets
                    .map(|target| (target as f32 * frequency).sin())
                    .collect()
            };
            let derivatives = Derivatives {
                logprob: waves(1.7),
                full_kl: waves(0.9),
            };
            (derivatives, ())
        },
    )
    .unwrap()
}

fn compare(got: &Pass<()>, want: &Pass<()>, absolute: f32, relative: f32) {
    assert_values(
        "logprob",
        &got.scores.logprob,
        &want.scores.logprob,
        absolute,
    );
    assert_values(
        "entropy",
        &got.scores.entropy,
        &want.scores.entropy,
        absolute,
    );
    assert_values(
        "full_kl",
        &got.scores.full_kl,
        &want.scores.full_kl,
        absolute,
    );
    assert!(got.gradients.len() > 60);
    for (name, want) in &want.gradients {
        let got = got.gradients[name].to_dtype(DType::F32).unwrap();
        assert_close(name, &got, want, relative);
    }
}

#[test]
fn a_step_through_the_kernels_is_the_one_without() {
    let want = step(&policy(), &bias_model());
    let got = on_cpu(|| {
        let policy = policy();
        assert_eq!(policy.model().ops(), Ops::Cuda);
        step(&policy, &bias_model())
    });
    compare(&got, &want, 2e-5, 2e-4);
}

#[test]
fn a_step_in_bf16_is_near_the_one_in_f32() {
    let want = step(&policy(), &bias_model());
    let got = on_cpu(|| {
        let narrow = Policy::load(&folder("tiny"), DType::BF16, &Device::Cpu, true).unwrap();
        let bias = FrozenModel::load(&folder("bias"), DType::BF16, &Device::Cpu).unwrap();
        step(&narrow, &bias)
    });
    compare(&got, &want, 0.05, 0.15);
}
