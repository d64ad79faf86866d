//! What sharpens the term against the bias model, through the program.

use crate::run::{Run, assert_code, assert_same};
use serde_json::Value;

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
