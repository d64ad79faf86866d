//! What the settings that save memory leave as it is, and how far the others go.

use crate::golden_model::{Reference, bias_model, folder, golden_inputs, policy};
use crate::run::{Run, assert_code, assert_same, world};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use videothinker::config::BiasPlacement;
use videothinker::policy::reference::ReferenceModel;
use videothinker::train::backward::{Derivatives, GradientPlacement, backward};

const WEIGHTS: &str = "checkpoints/latest/model.safetensors";

fn placed(placement: BiasPlacement) -> ReferenceModel {
    ReferenceModel::load(&folder("bias"), DType::F32, &Device::Cpu, placement).unwrap()
}

#[test]
fn a_bias_model_in_host_memory_gives_the_same_bits() {
    let inputs = golden_inputs(&policy(), &Reference::load());
    let want = bias_model().score(&inputs).unwrap();
    for placement in [BiasPlacement::Device, BiasPlacement::Host] {
        let model = placed(placement);
        assert_eq!(model.score(&inputs).unwrap(), want, "{placement:?}");
        assert_eq!(
            model.spec().text.num_layers,
            bias_model().model().layers.len()
        );
    }
}

#[test]
fn a_bias_model_in_8_bits_is_close() {
    let inputs = golden_inputs(&policy(), &Reference::load());
    let want = bias_model().score(&inputs).unwrap().logprob;
    let got = placed(BiasPlacement::Int8).score(&inputs).unwrap().logprob;
    let off: Vec<f32> = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).collect();
    let worst = off.iter().copied().fold(0.0, f32::max);
    let mean = off.iter().sum::<f32>() / off.len() as f32;
    println!("log-probabilities off by {mean:.5} on average, {worst:.5} at most");
    // 0.013 and 0.052 were measured.
    assert!(worst > 0.0 && worst < 0.07 && mean < 0.02, "{mean} {worst}");
}

#[test]
fn gradients_in_host_memory_are_the_same() {
    let policy = policy();
    let inputs = golden_inputs(&policy, &Reference::load());
    let gradients = |home| {
        let pass = backward(&policy, &inputs, home, None, |scores| {
            let logprob = (0..scores.logprob.len())
                .map(|i| (i as f32).sin())
                .collect();
            let derivatives = Derivatives {
                logprob,
                full_kl: Vec::new(),
            };
            (derivatives, ())
        });
        pass.unwrap().gradients
    };
    let (here, away) = (
        gradients(GradientPlacement::Device),
        gradients(GradientPlacement::Host),
    );
    assert!(here.keys().eq(away.keys()));
    for (name, gradient) in here {
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&gradient), values(&away[&name]), "{name}");
    }
}

/// A miniature run of four steps under `settings`.
fn miniature(settings: &[(&str, &str)]) -> Run {
    let mut run = Run::cdpo();
    for (key, value) in settings {
        run.set(key, value);
    }
    assert_code(&run.run(), 0);
    run
}

#[test]
fn host_memory_changes_nothing_in_a_run() {
    let plain = miniature(&[]);
    let host = miniature(&[
        ("optimizer.memory", "host"),
        ("model.bias_placement", "host"),
    ]);
    assert_same(&plain, &host, &["metrics.jsonl", "rollouts.jsonl", WEIGHTS]);
}

fn tensors(bytes: &[u8]) -> HashMap<String, Tensor> {
    candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap()
}

/// All values in the order of their names, in f64.
fn values(tensors: &HashMap<String, Tensor>) -> Vec<f64> {
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let flat = |name: &&String| {
        let tensor = tensors[*name].flatten_all().unwrap();
        tensor
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
    };
    names.iter().flat_map(flat).collect()
}

#[test]
fn a_compact_state_goes_where_a_full_one_goes_and_resumes() {
    // So that every step has the same questions and completions, whatever the weights are.
    let sft = |settings: &[(&str, &str)]| {
        let mut run = Run::new("train-sft");
        run.set("optimizer.schedule", "constant");
        for (key, value) in settings {
            run.set(key, value);
        }
        assert_code(&run.run(), 0);
        run
    };
    let start = std::fs::read(world().join("untrained/model.safetensors")).unwrap();
    let start = values(&tensors(&start));
    let (full, compact) = (sft(&[]), sft(&[("optimizer.memory", "compact")]));
    let movement = |run: &Run| -> Vec<f64> {
        let now = values(&tensors(&run.read(WEIGHTS)));
        now.iter().zip(&start).map(|(a, b)| a - b).collect()
    };
    let (a, b) = (movement(&full), movement(&compact));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
    let length = (dot(&b, &b) / dot(&a, &a)).sqrt();
    println!("four steps: cosine {cosine:.5}, length {length:.5}");
    assert!(
        cosine > 0.99 && (length - 1.0).abs() < 0.01,
        "{cosine} {length}"
    );

    let mut parts = sft(&[("optimizer.memory", "compact"), ("train.steps", "2")]);
    parts.set("train.steps", "4");
    assert_code(&parts.run(), 0);
    let optimizer = "checkpoints/latest/trainer/optimizer/model.safetensors";
    assert_same(&compact, &parts, &["metrics.jsonl", WEIGHTS, optimizer]);

    let mut changed = sft(&[("train.steps", "2")]);
    changed
        .set("train.steps", "4")
        .set("optimizer.memory", "compact");
    assert_code(&changed.run(), 0);
    let state = tensors(&changed.read(optimizer));
    assert!(state.keys().any(|name| name.starts_with("first_codes.")));
    assert!(!state.keys().any(|name| name.starts_with("first.")));
}
