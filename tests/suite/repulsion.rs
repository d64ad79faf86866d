//! What sharpens the term against the bias model, through the program.

use crate::run::{Run, assert_close, assert_code, assert_same, assert_says};
use serde_json::Value;

/// The coefficient in force in each step.
fn coefficients(run: &Run) -> Vec<f64> {
    let lines = run.lines("metrics.jsonl");
    let coefficient = |line: &Value| line["kl_coefficient"].as_f64().unwrap();
    lines.iter().map(coefficient).collect()
}

fn numbers(line: &Value, key: &str) -> Vec<f64> {
    let values = line[key].as_array().unwrap().iter();
    values.map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn rollouts_say_on_request_how_each_token_differs_from_the_bias_model() {
    let with = |settings: &[(&str, &str)]| {
        let mut run = Run::cdpo();
        run.set("train.steps", "2");
        for (key, value) in settings {
            run.set(key, value);
        }
        assert_code(&run.run(), 0);
        run
    };
    let plain = with(&[]);
    let logged = with(&[("kl.log_token_ratios", "true")]);
    assert_same(&plain, &logged, &["metrics.jsonl"]);
    assert!(plain.lines("rollouts.jsonl")[0].get("tokens").is_none());
    for line in logged.lines("rollouts.jsonl") {
        let ratios = numbers(&line, "log_ratios");
        let count = line["completion_tokens"].as_u64().unwrap() as usize;
        assert_eq!(ratios.len(), count);
        let texts = line["tokens"].as_array().unwrap();
        assert_eq!(texts.len(), count);
        let joined: String = texts.iter().map(|text| text.as_str().unwrap()).collect();
        let end = joined.strip_prefix(line["completion"].as_str().unwrap());
        let ends: &[&str] = match line["finish"].as_str().unwrap() {
            "stop" => &["<|im_end|>", "<|endoftext|>"],
            _ => &[""],
        };
        assert!(ends.contains(&end.unwrap()), "{line}");
        // k3 of d = −log-ratio.
        let kl: f64 = ratios
            .iter()
            .map(|ratio| (-ratio).exp() + ratio - 1.0)
            .sum();
        let expected = line["kl"].as_f64().unwrap();
        assert!((kl / count as f64 - expected).abs() < 1e-4, "{line}");
    }
    let exact = with(&[("kl.log_token_ratios", "true"), ("kl.estimator", "full")]);
    let lines = exact.lines("rollouts.jsonl");
    for (one, other) in lines.iter().zip(logged.lines("rollouts.jsonl")).take(4) {
        assert_eq!(one["log_ratios"], other["log_ratios"]);
        assert_eq!(one["tokens"], other["tokens"]);
    }
}

#[test]
fn the_coefficient_falls_as_scheduled_and_the_guard_halves_what_it_falls_from() {
    let mut run = Run::cdpo();
    run.set("kl.coefficient", "0.5")
        .set("kl.schedule", "linear");
    assert_says(&run.run(), 0, &["falls linearly to 0 over 4 steps"]);
    assert_eq!(coefficients(&run), [0.5, 0.375, 0.25, 0.125]);
    // What a resumed run has left to do depends on it.
    run.set("optimizer.schedule", "constant");
    run.set("train.steps", "5");
    assert_says(&run.run(), 2, &["train.steps: was 4, is 5"]);

    // An untrained model never holds the format.
    let mut guarded = Run::cdpo();
    guarded.set("kl.coefficient", "0.5");
    guarded.set("kl.schedule", "cosine");
    guarded.set("kl.guard", "halve").set("train.steps", "2");
    assert_says(&guarded.run(), 0, &["halved to 0.25", "halved to 0.125"]);
    let [first, second] = coefficients(&guarded)[..] else {
        panic!("two steps")
    };
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    assert!(
        close(first, 0.5) && close(second, 0.125),
        "{first} {second}"
    );
}

/// A target below what the models begin with.
fn steered() -> Run {
    let mut run = Run::cdpo();
    run.set("kl.coefficient", "0.5").set("kl.target", "1e-3");
    run.set("checkpoint.every", "2");
    run
}

#[test]
fn a_steered_coefficient_follows_the_divergence_and_goes_on_where_it_was() {
    let whole = steered();
    assert_says(&whole.run(), 0, &["Steer the coefficient"]);
    let lines = whole.lines("metrics.jsonl");
    let mut expected = 0.5;
    for (line, coefficient) in lines.iter().zip(coefficients(&whole)) {
        assert!((coefficient - expected).abs() < 1e-12, "{line}: {expected}");
        let missing = (1e-3 - line["kl"].as_f64().unwrap()) / 1e-3;
        let next: f64 = expected * (1.0 + 0.1 * missing.clamp(-1.0, 1.0));
        expected = next.min(0.5);
    }
    assert!(expected < 0.5, "{lines:?}");

    let parts = steered();
    let mut child = parts.start();
    parts.wait_for_steps(3);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_says(&parts.run(), 0, &["going on from"]);
    let state = "checkpoints/latest/trainer/state.json";
    let weights = "checkpoints/latest/model.safetensors";
    assert_same(&whole, &parts, &["metrics.jsonl", state, weights]);
}

#[test]
fn ranks_steer_by_the_divergence_of_all() {
    let with = || {
        let mut run = steered();
        run.set("train.questions_per_step", "3");
        run
    };
    let (one, two) = (with(), with());
    assert_code(&one.run(), 0);
    let output = two.command().args(["--ranks", "2"]).output().unwrap();
    assert_code(&output, 0);
    assert!(coefficients(&one)[3] < 0.5);
    assert_close(&two, &one, &["metrics.jsonl"], 1e-5);
}
