//! `ask` and `inspect` through the binary, against decord, qwen-vl-utils and transformers (scripts/make_golden_ask.py).

use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn golden() -> Value {
    let text = std::fs::read_to_string(golden_path("ask/golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The weights of `tests/golden/model/NAME` in a folder with the tokenizer of `tests/golden/ask`.
fn model_folder(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for source in [golden_path(&format!("model/{name}")), golden_path("ask")] {
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

fn run(args: &[&str]) -> String {
    let output = crate::program().args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command on the golden clip and question with the golden video settings.
fn run_golden(golden: &Value, verb: &[&str], model: &Path, more: &[&str]) -> Value {
    let clip = golden_path("ask/clip.mp4");
    let mut args = verb.to_vec();
    args.extend(["--model", model.to_str().unwrap()]);
    args.extend(["--video", clip.to_str().unwrap()]);
    args.extend(["--question", golden["question"].as_str().unwrap()]);
    let settings = settings(golden);
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    args.extend(more);
    serde_json::from_str(&run(&args)).unwrap()
}

fn settings(golden: &Value) -> Vec<String> {
    let video = golden["video"].as_object().unwrap();
    let mut settings: Vec<String> = video
        .iter()
        .map(|(key, value)| format!("video.{key}={value}"))
        .collect();
    settings.extend(["model.dtype=f32".into(), "model.device=cpu".into()]);
    // These numbers are those of transformers 5.
    settings.push("video.text_after=spatial".into());
    settings
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn assert_close(ours: &Value, theirs: &Value) {
    let (ours, theirs) = (ours.as_array().unwrap(), theirs.as_array().unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        let difference = (ours.as_f64().unwrap() - theirs.as_f64().unwrap()).abs();
        assert!(difference < 1e-4, "{ours} is not {theirs}");
    }
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    let golden = golden();
    let model = model_folder("tiny");
    let limit = golden["max_tokens"].to_string();
    let more = ["--greedy", "--max-tokens", &limit, "--json"];
    let answer = run_golden(&golden, &["ask"], model.path(), &more);
    assert_eq!(keys(&answer), ["text", "token_ids", "finish"]);
    assert_eq!(answer["token_ids"], golden["greedy"]);
    assert_eq!(answer["finish"], "length");
}

#[test]
fn the_answer_is_streamed_as_text() {
    let golden = golden();
    let model = model_folder("tiny");
    let clip = golden_path("ask/clip.mp4");
    let settings = settings(&golden);
    let mut args = vec!["ask", "--greedy", "--max-tokens", "2", "--question", "Why?"];
    args.extend([
        "--model",
        model.path().to_str().unwrap(),
        "--video",
        clip.to_str().unwrap(),
    ]);
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let streamed = run(&args);
    args.push("--json");
    let whole: Value = serde_json::from_str(&run(&args)).unwrap();
    let text = whole["text"].as_str().unwrap().trim_end_matches('\u{fffd}');
    assert!(!text.is_empty());
    assert_eq!(streamed, format!("{text}\n"));
    assert_eq!(whole["finish"], "length");
    let output = crate::program().args(&args).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("cut off at 2 tokens"), "{log}");
}

#[test]
fn prompts_are_those_of_transformers() {
    let golden = golden();
    let model = model_folder("tiny");
    let prompt = run_golden(&golden, &["inspect", "prompt"], model.path(), &[]);
    assert_eq!(keys(&prompt), ["text", "prompt_ids", "position_ids"]);
    assert_eq!(prompt["prompt_ids"], golden["prompt_ids"]);
    assert_eq!(prompt["position_ids"], golden["position_ids"]);
    let pads = prompt["text"]
        .as_str()
        .unwrap()
        .matches("<|video_pad|>")
        .count();
    assert_eq!(pads, 27);
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let golden = golden();
    let (model, bias) = (model_folder("tiny"), model_folder("bias"));
    let wanted = golden["completions"].as_array().unwrap();
    let mut more = vec!["--bias-model", bias.path().to_str().unwrap()];
    for one in wanted {
        more.extend(["--completion", one["text"].as_str().unwrap()]);
    }
    let view = run_golden(&golden, &["inspect", "logprobs"], model.path(), &more);
    let ours = view["completions"].as_array().unwrap();
    assert_eq!(ours.len(), wanted.len());
    for (ours, wanted) in ours.iter().zip(wanted) {
        assert_eq!(keys(ours), ["token_ids", "logprobs", "bias_logprobs", "kl"]);
        assert_eq!(ours["token_ids"], wanted["token_ids"]);
        assert_close(&ours["logprobs"], &wanted["logprobs"]);
        assert_close(&ours["bias_logprobs"], &wanted["bias_logprobs"]);
        let numbers = |key: &str| -> Vec<f64> {
            let values = wanted[key].as_array().unwrap().iter();
            values.map(|value| value.as_f64().unwrap()).collect()
        };
        let k3: Vec<f64> = numbers("logprobs")
            .iter()
            .zip(numbers("bias_logprobs"))
            .map(|(policy, bias)| (bias - policy).exp() - (bias - policy) - 1.0)
            .collect();
        for (ours, k3) in ours["kl"].as_array().unwrap().iter().zip(k3) {
            let difference = (ours.as_f64().unwrap() - k3).abs();
            assert!(difference < 1e-3 * k3.max(1.0), "{ours} is not {k3}");
        }
    }
    let mut more = vec!["--no-eos"];
    more.extend(["--completion", wanted[1]["text"].as_str().unwrap()]);
    let view = run_golden(&golden, &["inspect", "logprobs"], model.path(), &more);
    let one = &view["completions"][0];
    assert_eq!(keys(one), ["token_ids", "logprobs"]);
    assert_eq!(one["token_ids"], serde_json::json!([33]));
}

#[test]
fn a_clip_is_described_and_saved() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("clip.safetensors");
    let clip = golden_path("ask/clip.mp4");
    let settings = settings(&golden);
    let mut args = vec!["inspect", "video", clip.to_str().unwrap()];
    args.extend(["--save", saved.to_str().unwrap()]);
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let view: Value = serde_json::from_str(&run(&args)).unwrap();
    let wanted = serde_json::json!({
        "total_frames": 12, "fps": 4.0, "indices": [0, 2, 4, 7, 9, 11], "sample_fps": 2.0,
        "source_size": [98, 130], "resized": [84, 84], "grid_thw": golden["grid_thw"],
        "video_tokens": 27, "second_per_grid": golden["second_per_grid"],
    });
    assert_eq!(view, wanted);
    let bytes = std::fs::read(saved).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("frames").unwrap().shape(), [6, 3, 84, 84]);
    let pixels = tensors.tensor("pixel_values").unwrap();
    assert_eq!(pixels.shape(), [108, 1176]);
    // The first patch begins with the first pixel of the first frame: (v / 255 − mean) / std of the red channel.
    let frame = f64::from(tensors.tensor("frames").unwrap().data()[0]);
    let first: [u8; 4] = pixels.data()[..4].try_into().unwrap();
    let wanted = (frame / 255.0 - 0.481_454_66) / 0.268_629_54;
    assert!((f64::from(f32::from_le_bytes(first)) - wanted).abs() < 1e-5);
}

#[test]
fn rewards_are_scored_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions.jsonl");
    let lines = [
        r#"{"completion":"<think>x</think><answer>A, C</answer>","solution":"<answer>A,C</answer>"}"#,
        r#"{"completion":"<think>x</think><answer>A</answer>","solution":"<answer>A,C</answer>","more":1}"#,
        r#"{"completion":"B","solution":"A"}"#,
        r#"{"completion":"<answer></answer>","solution":"A"}"#,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let lines = |more: &[&str]| -> Vec<Value> {
        let mut args = vec!["inspect", "reward", file];
        args.extend(more);
        let text = run(&args);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let soft = lines(&[]);
    assert_eq!(keys(&soft[0]), ["accuracy", "format", "answer"]);
    let column = |rows: &[Value], key: &str| -> Vec<f64> {
        rows.iter().map(|row| row[key].as_f64().unwrap()).collect()
    };
    assert_eq!(column(&soft, "accuracy"), [1.0, 0.5, 0.0, 0.0]);
    assert_eq!(column(&soft, "format"), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(soft[0]["answer"], "A, C");
    let exact = lines(&["--set", "reward.accuracy=exact"]);
    assert_eq!(column(&exact, "accuracy"), [1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_malformed_line_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions.jsonl");
    std::fs::write(
        &file,
        "{\"completion\":\"B\",\"solution\":\"A\"}\n{\"completion\":\"B\"}\n",
    )
    .unwrap();
    let output = crate::program()
        .args(["inspect", "reward", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("completions.jsonl:2:"), "{errors}");
}

#[test]
fn settings_are_shown_with_overrides_applied() {
    let view: Value =
        serde_json::from_str(&run(&["inspect", "config", "--set", "kl.coefficient=0.5"])).unwrap();
    assert_eq!(view["kl"]["coefficient"], 0.5);
    assert_eq!(view["kl"]["direction"], "repel");
}

#[test]
fn a_missing_model_is_a_bad_argument() {
    let clip = golden_path("ask/clip.mp4");
    let output = crate::program()
        .args([
            "ask",
            "--model",
            "no-such-folder",
            "--question",
            "Why?",
            "--video",
        ])
        .arg(&clip)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("no-such-folder"), "{errors}");
}
