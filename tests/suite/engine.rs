//! The step engine against itself and against autograd: packed and separate, closed and composed, cached and whole, and
//! finite differences.

use crate::composed::composed_logprob;
use crate::golden_model::{
    Reference, assert_close, assert_values, bias_model, clip, golden_inputs, pack, policy,
    second_clip, second_prompt,
};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use videothinker::model::Qwen25Vl;
use videothinker::model::cache::CacheSize;
use videothinker::policy::Policy;
use videothinker::policy::decode::Decoding;
use videothinker::policy::inputs::{PackedGroup, PackedInputs, Suffix};
use videothinker::policy::logprobs::score;
use videothinker::train::backward::{Derivatives, GradientPlacement, Gradients, backward};

/// One number per target, large and small, of both signs.
fn coefficients(targets: usize) -> Vec<f32> {
    (0..targets)
        .map(|target| ((target as f32 * 1.7).sin() + 0.2) / 3.0)
        .collect()
}

fn gradients(policy: &Policy, inputs: &PackedInputs, coefficients: &[f32]) -> (f64, Gradients) {
    let pass = backward(policy, inputs, GradientPlacement::Device, None, |_| {
        let derivatives = Derivatives {
            logprob: coefficients.to_vec(),
            full_kl: Vec::new(),
        };
        (derivatives, ())
    })
    .unwrap();
    (weighted(&pass.scores.logprob, coefficients), pass.gradients)
}

fn weighted(logprob: &[f32], coefficients: &[f32]) -> f64 {
    let terms = logprob.iter().zip(coefficients);
    terms.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[test]
fn a_packed_step_equals_separate_sequences() {
    let policy = policy();
    let prompt = Reference::load().prompt();
    let (first, second, other) = (clip(), second_clip(), second_prompt());
    let completions: Vec<Vec<u32>> = [1, 5, 9, 1, 4]
        .iter()
        .enumerate()
        .map(|(i, &len)| (0..len).map(|j| (17 * i + 31 * j) as u32 % 256).collect())
        .collect();
    let all: Vec<&[u32]> = completions.iter().map(Vec::as_slice).collect();
    let packed = pack(
        &policy,
        &[
            (&prompt, &first, all[..3].to_vec()),
            (&other, &second, all[3..4].to_vec()),
            (&other, &second, all[4..].to_vec()),
        ],
    );
    let separate = pack(
        &policy,
        &[
            (&prompt, &first, vec![all[0]]),
            (&prompt, &first, vec![all[1]]),
            (&prompt, &first, vec![all[2]]),
            (&other, &second, vec![all[3]]),
            (&other, &second, vec![all[4]]),
        ],
    );
    assert!(packed.num_rows() < separate.num_rows());
    let coefficients = coefficients(packed.num_targets());
    let (loss, got) = gradients(&policy, &packed, &coefficients);
    let (expected, want) = gradients(&policy, &separate, &coefficients);
    assert!(
        (loss - expected).abs() < 1e-5 * expected.abs(),
        "{loss} != {expected}"
    );
    for (name, want) in &want {
        assert_close(name, &got[name], want, 2e-5);
    }
}

#[test]
fn suffix_rows_before_the_first_target_are_read_and_not_trained_on() {
    let policy = policy();
    let (prompt, video) = (second_prompt(), second_clip());
    let suffix: Vec<u32> = vec![5, 6, 7, 8, 9, 10];
    let whole: Vec<u32> = prompt.iter().chain(&suffix[..3]).copied().collect();
    let spec = &policy.model().spec;
    let group = |prefix, suffix, first_target| PackedGroup {
        prefix,
        video: Some(&video),
        suffixes: vec![Suffix {
            token_ids: suffix,
            first_target,
        }],
    };
    let split = PackedInputs::new(spec, &[group(&prompt, &suffix[..], 3)]).unwrap();
    let joined = PackedInputs::new(spec, &[group(&whole, &suffix[3..], 0)]).unwrap();
    assert_eq!(split.target_ids, joined.target_ids);
    let coefficients = coefficients(3);
    let (loss, got) = gradients(&policy, &split, &coefficients);
    let (expected, want) = gradients(&policy, &joined, &coefficients);
    assert!((loss - expected).abs() < 1e-5);
    for (name, want) in &want {
        assert_close(name, &got[name], want, 2e-5);
    }
}

#[test]
fn every_trainable_parameter_has_a_gradient_that_agrees_with_finite_differences() {
    let policy = policy();
    let reference = Reference::load();
    let inputs = golden_inputs(&policy, &reference);
    let coefficients = coefficients(inputs.num_targets());
    let (_, gradients) = gradients(&policy, &inputs, &coefficients);
    assert!(gradients.keys().eq(policy.vars().keys()));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (name, var) in policy.vars() {
        let gradient = &gradients[name];
        let norm = length(gradient);
        assert!(norm > 0.0, "{name}: no gradient");
        // Half along the gradient, half random: a large slope, and no coordinate left out.
        let noise: Vec<f32> = (0..gradient.elem_count())
            .map(|_| rng.random_range(-1.0f32..1.0))
            .collect();
        let noise = Tensor::from_vec(noise, gradient.dims(), &Device::Cpu).unwrap();
        let unit = |x: &Tensor| (x / f64::from(length(x))).unwrap();
        let direction = (unit(gradient) + unit(&noise)).unwrap();
        let exact = (gradient * &direction).unwrap().sum_all().unwrap();
        let exact = exact.to_scalar::<f32>().unwrap();
        let before = var.as_detached_tensor().copy().unwrap();
        let step = 2e-2 / (1.0 + f64::from(norm));
        let at = |step: f64| {
            let moved = (&before + (&direction * step).unwrap()).unwrap();
            var.set(&moved).unwrap();
            weighted(
                &score(policy.model(), &inputs, None).unwrap().logprob,
                &coefficients,
            )
        };
        let numeric = ((at(step) - at(-step)) / (2.0 * step)) as f32;
        var.set(&before).unwrap();
        assert!(
            (numeric - exact).abs() < 1e-2 * exact.abs() + 1e-4,
            "{name}: {numeric} != {exact}"
        );
    }
}

fn length(x: &Tensor) -> f32 {
    let sum = x.sqr().unwrap().sum_all().unwrap();
    sum.to_scalar::<f32>().unwrap().sqrt()
}

#[test]
fn closed_gradients_equal_those_of_autograd() {
    let policy = policy();
    let inputs = golden_inputs(&policy, &Reference::load());
    let coefficients = coefficients(inputs.num_targets());
    let (loss, closed) = gradients(&policy, &inputs, &coefficients);

    let weights = Tensor::new(coefficients, &Device::Cpu).unwrap();
    let composed = (composed_logprob(&policy, &inputs).unwrap() * weights).unwrap();
    let composed = composed.sum_all().unwrap();
    let value = f64::from(composed.to_scalar::<f32>().unwrap());
    assert!(
        (loss - value).abs() < 1e-5 * value.abs(),
        "{loss} != {value}"
    );
    let direct = composed.backward().unwrap();
    let text = policy
        .vars()
        .iter()
        .filter(|(name, _)| !name.starts_with("visual."));
    for (name, var) in text {
        assert_close(name, &closed[name], direct.get(var).unwrap(), 2e-5);
    }
}

#[test]
fn a_frozen_tower_gets_no_gradient_and_changes_no_other() {
    let trained = policy();
    let frozen = Policy::new(&trained.model().spec, trained.tensors(), false).unwrap();
    let inputs = golden_inputs(&trained, &Reference::load());
    let coefficients = coefficients(inputs.num_targets());
    let (_, want) = gradients(&trained, &inputs, &coefficients);
    let (_, got) = gradients(&frozen, &inputs, &coefficients);
    assert!(got.keys().eq(frozen.vars().keys()));
    assert!(got.len() < want.len() && got.keys().all(|name| !name.starts_with("visual.")));
    for (name, got) in &got {
        assert_close(name, got, &want[name], 1e-6);
    }
}

#[test]
fn the_exact_divergence_has_the_gradient_of_finite_differences() {
    let (policy, bias) = (policy(), bias_model());
    let inputs = golden_inputs(&policy, &Reference::load());
    let hidden = bias.target_hidden(&inputs).unwrap();
    let rows = || Some(bias.reference_rows(&hidden));
    let weights = coefficients(inputs.num_targets());
    let pass = backward(
        &policy,
        &inputs,
        GradientPlacement::Device,
        rows(),
        |scores| {
            assert!(scores.full_kl.iter().all(|&kl| kl > 0.0));
            let derivatives = Derivatives {
                logprob: vec![0.0; scores.logprob.len()],
                full_kl: weights.clone(),
            };
            (derivatives, ())
        },
    )
    .unwrap();
    for name in [
        "model.embed_tokens.weight",
        "model.layers.1.mlp.up_proj.weight",
    ] {
        let (var, gradient) = (&policy.vars()[name], &pass.gradients[name]);
        let before = var.as_detached_tensor().copy().unwrap();
        let norm = f64::from(length(gradient));
        let step = 1e-2 / (1.0 + norm);
        let at = |step: f64| {
            let moved = (&before + (gradient * (step / norm)).unwrap()).unwrap();
            var.set(&moved).unwrap();
            weighted(
                &score(policy.model(), &inputs, rows()).unwrap().full_kl,
                &weights,
            )
        };
        let numeric = (at(step) - at(-step)) / (2.0 * step);
        var.set(&before).unwrap();
        assert!(
            (numeric - norm).abs() < 1e-2 * norm,
            "{name}: {numeric} != {norm}"
        );
    }
}

/// All prompts prefilled, `rows_per_prompt[i]` rows of prompt i in the batch, and the logits of their first tokens.
fn start<'a>(
    model: &'a Qwen25Vl,
    prompts: &PackedInputs,
    rows_per_prompt: &[usize],
    capacity: usize,
) -> (Decoding<'a>, Tensor) {
    let lens = prompts.layout.groups().iter().map(|group| group.prompt_len);
    let size = CacheSize {
        prompts: rows_per_prompt.len(),
        prompt_len: lens.max().unwrap(),
        rows: rows_per_prompt.iter().sum(),
        capacity,
    };
    let mut decoding = Decoding::new(model, size).unwrap();
    let (prefilled, logits) = decoding.prefill(prompts).unwrap();
    let mut source = Vec::new();
    for (index, (&prompt, &rows)) in prefilled.iter().zip(rows_per_prompt).enumerate() {
        for _ in 0..rows {
            decoding.join(prompt).unwrap();
            source.push(index as u32);
        }
    }
    let source = Tensor::new(source, &Device::Cpu).unwrap();
    (decoding, logits.index_select(&source, 0).unwrap())
}

#[test]
fn cached_decoding_gives_the_packed_log_probabilities() {
    let policy = policy();
    let model = policy.model();
    let reference = Reference::load();
    let (prompt, other) = (reference.prompt(), second_prompt());
    let (first, second) = (clip(), second_clip());
    // Rows of two prompts, one with three completions, one with two; they end at different steps.
    let completions: Vec<Vec<u32>> = [3, 9, 5, 7, 2]
        .iter()
        .enumerate()
        .map(|(i, &len)| (0..len).map(|j| (13 * i + 29 * j) as u32 % 256).collect())
        .collect();
    let all: Vec<&[u32]> = completions.iter().map(Vec::as_slice).collect();
    let (a, b) = (all[..3].to_vec(), all[3..].to_vec());
    let inputs = pack(&policy, &[(&prompt, &first, a), (&other, &second, b)]);
    let want = score(model, &inputs, None).unwrap().logprob;

    let prompts = pack(
        &policy,
        &[(&prompt, &first, vec![]), (&other, &second, vec![])],
    );
    let (mut decoding, mut logits) = start(model, &prompts, &[3, 2], 9);
    let mut got: Vec<Vec<f32>> = vec![Vec::new(); 5];
    let mut live: Vec<usize> = (0..5).collect();
    for step in 0.. {
        let logprobs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        let logprobs = logprobs.to_vec2::<f32>().unwrap();
        for (row, &index) in live.iter().enumerate() {
            got[index].push(logprobs[row][completions[index][step] as usize]);
        }
        let keep: Vec<usize> = (0..live.len())
            .filter(|&row| step + 1 < completions[live[row]].len())
            .collect();
        if keep.is_empty() {
            break;
        }
        decoding.keep_rows(&keep);
        live = keep.iter().map(|&row| live[row]).collect();
        assert_eq!(decoding.num_rows(), live.len());
        let tokens: Vec<u32> = live.iter().map(|&i| completions[i][step]).collect();
        logits = decoding.step(&tokens).unwrap();
    }
    assert_values("cached", &got.concat(), &want, 1e-5);
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    let policy = policy();
    let reference = Reference::load();
    let (prompt, video) = (reference.prompt(), clip());
    let prompts = pack(&policy, &[(&prompt, &video, vec![])]);
    let (mut decoding, mut logits) = start(policy.model(), &prompts, &[1], 12);
    let want = reference.ids("greedy");
    for (step, &want) in want.iter().enumerate() {
        let token = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap()[0];
        assert_eq!(token, want, "token {step}");
        logits = decoding.step(&[token]).unwrap();
    }
    assert!(decoding.step(&[0]).is_err(), "the cache is full");
}
