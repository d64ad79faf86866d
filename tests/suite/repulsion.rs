//! What sharpens the term against the bias model, through the program.

use crate::run::{Run, assert_close, assert_code, assert_same, assert_says, lines, world};
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;

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
    // It changes no number, so a run may go on with it.
    let mut late = with(&[("train.stop_after", "1")]);
    late.set("train.stop_after", "2");
    late.set("kl.log_token_ratios", "true");
    assert_says(&late.run(), 0, &["going on from"]);
    assert_same(&plain, &late, &["metrics.jsonl"]);
    let lines = late.lines("rollouts.jsonl");
    assert!(lines[3].get("tokens").is_none() && lines[4].get("tokens").is_some());
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

/// Metrics without what says where the term acts and how much it counts.
fn without_term(run: &Run) -> Vec<Value> {
    let mut lines = run.lines("metrics.jsonl");
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("kl_coefficient");
        line.remove("kl/acting_ratio");
    }
    lines
}

fn acting_ratios(run: &Run) -> Vec<f64> {
    let lines = run.lines("metrics.jsonl");
    let ratio = |line: &Value| line["kl/acting_ratio"].as_f64().unwrap();
    lines.iter().map(ratio).collect()
}

#[test]
fn the_term_acts_where_the_bias_model_is_sure() {
    let with = |settings: &[(&str, &str)]| {
        let mut run = Run::cdpo();
        run.set("kl.coefficient", "0.5").set("train.steps", "2");
        for (key, value) in settings {
            run.set(key, value);
        }
        assert_code(&run.run(), 0);
        run
    };
    let plain = with(&[]);
    let metrics = plain.lines("metrics.jsonl");
    assert!(metrics[0].get("kl/acting_ratio").is_none());
    let everywhere = with(&[("kl.max_bias_entropy", "1000")]);
    assert_eq!(acting_ratios(&everywhere), [1.0, 1.0]);
    assert_eq!(without_term(&everywhere), without_term(&plain));
    let nowhere = with(&[("kl.max_bias_entropy", "1e-9")]);
    assert_eq!(acting_ratios(&nowhere), [0.0, 0.0]);
    let weightless = with(&[("kl.coefficient", "0")]);
    assert_eq!(without_term(&nowhere), without_term(&weightless));

    // A bound with tokens on both sides lies somewhere between.
    let (mut none, mut all) = (0.0, metrics[0]["entropy"].as_f64().unwrap());
    let (bound, ratio, some) = loop {
        let bound = f64::midpoint(none, all);
        assert!(none < bound && bound < all, "{bound}");
        let run = with(&[("kl.max_bias_entropy", &bound.to_string())]);
        let ratio = acting_ratios(&run)[0];
        if ratio <= 0.0 {
            none = bound;
        } else if ratio >= 1.0 {
            all = bound;
        } else {
            break (bound.to_string(), ratio, run);
        }
    };
    let first = some.lines("metrics.jsonl");
    assert_eq!(first[0]["kl"], metrics[0]["kl"], "the mean over all tokens");
    assert_ne!(first[0]["grad_norm"], metrics[0]["grad_norm"]);
    let exact = with(&[("kl.max_bias_entropy", &bound), ("kl.estimator", "full")]);
    assert!((acting_ratios(&exact)[0] - ratio).abs() < 1e-12);
}

/// An evaluation of the model that `run` trains, on its questions, with `more` settings.
fn evaluation(run: &Run, name: &str, more: &[&str]) -> PathBuf {
    let out = run.folder.path().join(name);
    let path = |name: &str| world().join(name).display().to_string();
    let mut command = crate::program();
    command.args(["eval", "run", "--model", run.setting("model.bias_model")]);
    command.arg("--out").arg(&out);
    let questions = format!("data.questions={}", path("world/train_questions.json"));
    let root = format!("data.video_root={}", path("world/videos"));
    let settings = [
        questions.as_str(),
        &root,
        "model.dtype=f32",
        "model.device=cpu",
        "video.min_frames=8",
        "video.max_frames=8",
        "video.min_pixels=12544",
        "video.max_pixels=12544",
        "sampling.max_new_tokens=2",
    ];
    for setting in settings.iter().chain(more) {
        command.args(["--set", setting]);
    }
    assert_code(&command.output().unwrap(), 0);
    out
}

fn write_lines(file: &Path, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(file, lines.join("\n") + "\n").unwrap();
}

#[test]
fn the_term_acts_in_completions_that_answer_as_the_bias_model_did() {
    let mut run = Run::cdpo();
    run.set("kl.coefficient", "0.5").set("train.steps", "1");
    let folder = evaluation(&run, "answers", &[]);
    let outputs = folder.join("outputs.jsonl");
    let mut answers = lines(&outputs);
    // The first answers; the second writes none.
    let written = ["<think>x</think><answer>B, A</answer>", "<answer></answer>"];
    let chosen: Vec<Value> = answers[..2].iter().map(|line| line["id"].clone()).collect();
    for (line, text) in answers.iter_mut().zip(written) {
        line["samples"][0]["completion"] = text.into();
    }
    write_lines(&outputs, &answers);
    let replay = run.folder.path().join("replay.jsonl");
    let completions = json!([
        { "text": "<think></think><answer>A,B</answer>", "finish": "stop" },
        { "text": "<answer>A</answer>", "finish": "stop" },
        { "text": "<answer></answer>", "finish": "stop" },
    ]);
    let replayed: Vec<Value> = chosen
        .iter()
        .map(|id| json!({ "question_id": id, "completions": completions }))
        .collect();
    write_lines(&replay, &replayed);
    let start = |run: &Run, more: &[&str]| {
        let mut command = run.command();
        command.args(["--replay", replay.to_str().unwrap()]);
        command.args(more).output().unwrap()
    };
    run.set("kl.bias_answers", folder.to_str().unwrap());
    let said = "acts only in completions that answer as the bias model did in";
    assert_says(&start(&run, &[]), 0, &[said]);
    let tokens: Vec<f64> = run
        .lines("rollouts.jsonl")
        .iter()
        .map(|line| line["completion_tokens"].as_f64().unwrap())
        .collect();
    let expected = tokens[0] / tokens.iter().sum::<f64>();
    let ratios = acting_ratios(&run);
    assert!(
        (ratios[0] - expected).abs() < 1e-12,
        "{ratios:?} {expected}"
    );

    let mut two = Run::cdpo();
    two.set("kl.coefficient", "0.5").set("train.steps", "1");
    two.set("kl.bias_answers", folder.to_str().unwrap());
    assert_code(&start(&two, &["--ranks", "2"]), 0);
    assert_close(&two, &run, &["metrics.jsonl"], 1e-5);
}

#[test]
fn answers_that_change_between_two_parts_of_a_run_are_noticed() {
    let mut run = Run::cdpo();
    let folder = evaluation(&run, "answers", &[]);
    run.set("kl.bias_answers", folder.to_str().unwrap());
    run.set("train.stop_after", "1");
    assert_code(&run.run(), 0);
    run.set("train.stop_after", "2");
    assert_code(&run.run(), 0);
    let outputs = folder.join("outputs.jsonl");
    let mut answers = lines(&outputs);
    answers[0]["samples"][0]["completion"] = json!("<answer>D</answer>");
    write_lines(&outputs, &answers);
    run.set("train.stop_after", "3");
    let changed = [
        "kl.bias_answers: the answers in",
        "step-000002 was trained with",
    ];
    assert_says(&run.run(), 1, &changed);
}

#[test]
fn an_evaluation_that_does_not_answer_every_training_question_is_refused() {
    let mut run = Run::cdpo();
    let folder = evaluation(&run, "few", &["data.samples=2"]);
    run.set("kl.bias_answers", folder.to_str().unwrap());
    let dry = |run: &Run| run.command().arg("--dry-run").output().unwrap();
    let missing = [
        "few/outputs.jsonl has no answer to question clevrer/",
        "train_questions.json",
        "evaluate the bias model on all of them",
    ];
    assert_says(&run.run(), 1, &missing);
    assert_says(&dry(&run), 1, &missing);
    let all = evaluation(&run, "all", &[]);
    run.set("kl.bias_answers", all.to_str().unwrap());
    let policy = run.setting("model.path").to_owned();
    run.set("model.bias_model", &policy);
    let other = [
        "all holds the answers of",
        "whose weights are not those of model.bias_model",
    ];
    assert_says(&run.run(), 1, &other);
    assert_says(&dry(&run), 1, &other);
    std::fs::remove_file(all.join("scores.json")).unwrap();
    assert_says(
        &dry(&run),
        1,
        &["kl.bias_answers: the evaluation in", "is not finished"],
    );
}
