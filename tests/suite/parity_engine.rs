//! Scores, losses, gradients and updates against transformers and torch.

use crate::golden_model::{
    ADVANTAGES, Reference, assert_close, assert_values, bias_model, golden_inputs, policy,
};
use videothinker::config::{KlConfig, ObjectiveConfig, OptimizerConfig};
use videothinker::model::head::TokenScores;
use videothinker::policy::Policy;
use videothinker::policy::inputs::PackedInputs;
use videothinker::policy::logprobs::score;
use videothinker::rl::loss::{CompletionTerms, LossOutput, policy_loss};
use videothinker::train::backward::{Derivatives, GradientPlacement, Pass, backward};
use videothinker::train::optimizer::AdamW;

fn joined(reference: &Reference, what: &str) -> Vec<f32> {
    (0..3)
        .flat_map(|index| reference.values(&format!("completion.{index}.{what}")))
        .collect()
}

fn loss(
    inputs: &PackedInputs,
    scores: &TokenScores,
    bias: &[f32],
    kl: Option<&KlConfig>,
) -> LossOutput {
    let terms: Vec<Vec<CompletionTerms>> = inputs
        .suffix_targets
        .iter()
        .map(|group| {
            let ranges = group.iter().zip(ADVANTAGES);
            ranges
                .map(|(range, advantage)| CompletionTerms {
                    advantage,
                    logprob: &scores.logprob[range.clone()],
                    old_logprob: None,
                    reference_logprob: Some(&bias[range.clone()]),
                    full_kl: None,
                    acts: None,
                })
                .collect()
        })
        .collect();
    policy_loss(&terms, &ObjectiveConfig::default(), kl, 64)
}

fn pass(
    policy: &Policy,
    inputs: &PackedInputs,
    bias: &[f32],
    kl: Option<&KlConfig>,
) -> Pass<LossOutput> {
    backward(policy, inputs, GradientPlacement::Device, None, |scores| {
        let output = loss(inputs, scores, bias, kl);
        let derivatives = Derivatives {
            logprob: output.d_logprob.clone(),
            full_kl: Vec::new(),
        };
        (derivatives, output)
    })
    .unwrap()
}

#[test]
fn log_probabilities_of_policy_and_bias_model() {
    let (reference, policy, bias) = (Reference::load(), policy(), bias_model());
    let inputs = golden_inputs(&policy, &reference);
    let scores = score(policy.model(), &inputs, None).unwrap();
    assert_values(
        "policy",
        &scores.logprob,
        &joined(&reference, "logprobs"),
        1e-4,
    );
    let scores = bias.score(&inputs).unwrap();
    assert_values(
        "bias",
        &scores.logprob,
        &joined(&reference, "bias_logprobs"),
        1e-4,
    );
}

#[test]
fn losses_divergences_and_every_gradient() {
    let (reference, policy) = (Reference::load(), policy());
    let inputs = golden_inputs(&policy, &reference);
    let bias = joined(&reference, "bias_logprobs");
    let kl = KlConfig::default();
    for (objective, kl) in [("grpo", None), ("cdpo", Some(&kl))] {
        let pass = pass(&policy, &inputs, &bias, kl);
        let want = reference.values(&format!("{objective}.loss"))[0];
        assert_values(objective, &[pass.loss.loss as f32], &[want], 1e-5);
        if kl.is_some() {
            assert_values("k3", &pass.loss.kl, &joined(&reference, "k3"), 2e-4);
        }
        let want = reference.behind(&format!("{objective}.grad."));
        assert!(want.keys().eq(pass.gradients.keys()));
        for (name, want) in &want {
            let label = format!("{objective} {name}");
            assert_close(&label, &pass.gradients[name], want, 1e-3);
        }
    }
}

#[test]
fn five_updates() {
    let (reference, policy) = (Reference::load(), policy());
    let inputs = golden_inputs(&policy, &reference);
    let bias = joined(&reference, "bias_logprobs");
    let config = OptimizerConfig {
        learning_rate: 5e-4,
        max_grad_norm: 0.5,
        ..OptimizerConfig::default()
    };
    let vars = policy.vars().clone();
    let mut optimizer = AdamW::new(vars, &config).unwrap();
    let kl = KlConfig::default();
    let (losses, norms) = (
        reference.values("adamw.losses"),
        reference.values("adamw.grad_norms"),
    );
    for step in 0..5 {
        let pass = pass(&policy, &inputs, &bias, Some(&kl));
        let update = optimizer
            .step(&pass.gradients, config.learning_rate)
            .unwrap();
        let loss = pass.loss.loss as f32;
        assert_values("loss", &[loss], &[losses[step]], 1e-4);
        let norm = update.grad_norm as f32;
        assert_values("norm", &[norm], &[norms[step]], 1e-3 * norms[step]);
    }
    let want = reference.behind("adamw.weight.");
    assert!(want.keys().eq(policy.vars().keys()));
    for (name, want) in &want {
        assert_close(name, policy.vars()[name].as_tensor(), want, 1e-3);
    }
}
