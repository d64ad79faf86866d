//! `eval` through the binary: a small miniature world, an untrained model, kills and wrong folders.

use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn videothinker(folder: &Path, args: &[&str]) -> Output {
    assert_cmd::Command::cargo_bin("videothinker")
        .unwrap()
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap()
}

fn run(folder: &Path, args: &[&str]) -> String {
    let output = videothinker(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with a world, an untrained model and a config.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        &[
            "data",
            "mini",
            "--out",
            "world",
            "--train",
            "0",
            "--validation",
            "10",
            "--sft",
            "4",
            "--model",
            "model",
        ],
    );
    let config = r#"
        [model]
        dtype = "f32"
        device = "cpu"
        [data]
        questions = "world/validation_questions.json"
        video_root = "world/videos"
        [video]
        min_frames = 8
        max_frames = 8
        min_pixels = 12544
        max_pixels = 12544
        [sampling]
        max_new_tokens = 6
        [eval]
        wording = "training"
        batch_size = 4
    "#;
    std::fs::write(folder.path().join("eval.toml"), config).unwrap();
    folder
}

fn evaluate(folder: &Path, out: &str, more: &[&str]) -> Value {
    let mut args = vec![
        "eval",
        "--config",
        "eval.toml",
        "--model",
        "model",
        "--out",
        out,
        "--json",
    ];
    args.extend(more);
    serde_json::from_str(&run(folder, &args)).unwrap()
}

#[test]
fn a_killed_evaluation_continues_to_the_same_scores() {
    let folder = workplace();
    let path = folder.path();
    let scores = evaluate(path, "whole", &[]);
    assert_eq!(scores["questions_answered"], 10);
    for key in [
        "model",
        "weights",
        "config_hash",
        "wording",
        "video",
        "splits",
    ] {
        assert!(!scores[key].is_null(), "{key}");
    }
    let all = &scores["splits"]["all"];
    assert!(all["best_constant_soft"]["mean"].as_f64().unwrap() > 0.2);
    let log = std::fs::read(path.join("whole/outputs.jsonl")).unwrap();
    assert_eq!(log.split(|byte| *byte == b'\n').count() - 1, 10);

    std::fs::create_dir(path.join("killed")).unwrap();
    std::fs::copy(
        path.join("whole/settings.json"),
        path.join("killed/settings.json"),
    )
    .unwrap();
    // In the middle of the sixth line.
    let sixth = log
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(4)
        .unwrap()
        .0;
    std::fs::write(path.join("killed/outputs.jsonl"), &log[..sixth + 40]).unwrap();
    assert_eq!(evaluate(path, "killed", &[]), scores);
    assert_eq!(
        std::fs::read(path.join("killed/outputs.jsonl")).unwrap(),
        log
    );
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    let folder = workplace();
    let path = folder.path();
    let sampled = ["--set", "eval.temperature=1.0"];
    let four = evaluate(path, "four", &sampled);
    let mut one = sampled.to_vec();
    one.extend(["--set", "eval.batch_size=1"]);
    assert_eq!(evaluate(path, "one", &one), four);
    let outputs =
        |out: &str| std::fs::read_to_string(path.join(out).join("outputs.jsonl")).unwrap();
    assert_eq!(outputs("four"), outputs("one"));
    let mut other = sampled.to_vec();
    other.extend(["--set", "seed=43"]);
    evaluate(path, "other", &other);
    assert_ne!(outputs("four"), outputs("other"));
}

#[test]
fn a_folder_of_another_evaluation_is_refused() {
    let folder = workplace();
    let path = folder.path();
    evaluate(path, "out", &[]);
    let args = [
        "eval",
        "--config",
        "eval.toml",
        "--model",
        "model",
        "--out",
        "out",
        "--set",
        "video.max_frames=10",
    ];
    let output = videothinker(path, &args);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("another `config_hash`"), "{errors}");
}

#[test]
fn a_broken_clip_is_named_or_skipped() {
    let folder = workplace();
    let path = folder.path();
    let questions: Value = serde_json::from_str(
        &std::fs::read_to_string(path.join("world/validation_questions.json")).unwrap(),
    )
    .unwrap();
    let video = questions[3]["video"].as_str().unwrap();
    std::fs::write(path.join("world/videos").join(video), "no video").unwrap();
    let args = [
        "eval",
        "--config",
        "eval.toml",
        "--model",
        "model",
        "--out",
        "out",
    ];
    let output = videothinker(path, &args);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(video), "{errors}");
    let scores = evaluate(path, "out2", &["--set", "data.on_bad_video=skip"]);
    assert_eq!(scores["questions_skipped"], 1);
    assert_eq!(scores["questions_answered"], 9);
}

#[test]
fn finished_scores_stand_side_by_side() {
    let folder = workplace();
    let path = folder.path();
    evaluate(path, "out", &[]);
    let text = run(path, &["eval", "--table", "base=out", "out/scores.json"]);
    let labels: Vec<&str> = text
        .lines()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    assert_eq!(labels, ["model", "base", "out", "best constant"]);
    let markdown = run(path, &["eval", "--table", "base=out", "--markdown"]);
    assert!(
        markdown
            .lines()
            .all(|line| line.starts_with("| ") && line.ends_with(" |"))
    );
    let output = videothinker(path, &["eval", "--table", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
}
