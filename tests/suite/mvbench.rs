//! MVBench's clips that are no video files, through the binary: folders of frames and animated gifs, from the official
//! file to scores.

use crate::videothinker;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;

const FOLDER: &str = "video/tvqa/frames_fps3_hq/show_1";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/video/clips")
        .join(name)
}

/// A folder with the official files of two tasks, a folder of frames, a gif, and a config.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir_all(path.join(FOLDER)).unwrap();
    for image in std::fs::read_dir(golden("frames")).unwrap() {
        let image = image.unwrap();
        std::fs::copy(image.path(), path.join(FOLDER).join(image.file_name())).unwrap();
    }
    std::fs::create_dir_all(path.join("video/ssv2_video")).unwrap();
    let gif = path.join("video/ssv2_video/1.gif");
    std::fs::copy(golden("partial.gif"), gif).unwrap();
    std::fs::create_dir(path.join("json")).unwrap();
    let episode = json!([{"video": "show_1", "question": "Who?", "candidates": ["he", "she"], "answer": "he",
                          "start": 1.0, "end": 2.0, "fps": 3, "show_name": "show"}]);
    let gif = json!([{"video": "1.gif", "question": "Which?", "candidates": ["up", "down"], "answer": "down"}]);
    for (task, items) in [("episodic_reasoning", episode), ("action_antonym", gif)] {
        std::fs::write(path.join(format!("json/{task}.json")), items.to_string()).unwrap();
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mini");
    let config = format!(
        "[model]\npath = '{}'\ndtype = \"f32\"\ndevice = \"cpu\"\n\
         [data]\nquestions = \"json\"\nvideo_root = \"video\"\n\
         [video]\nmin_frames = 4\nmax_frames = 4\nmin_pixels = 3136\nmax_pixels = 12544\n\
         [sampling]\nmax_new_tokens = 4\n[eval]\nbenchmark = \"mvbench\"\nwording = \"training\"\n",
        model.display()
    );
    std::fs::write(path.join("eval.toml"), config).unwrap();
    folder
}

/// What a command prints as JSON; it must end with `code`.
fn json_of(folder: &Path, code: i32, arguments: &[&str]) -> Value {
    let output = videothinker(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn evaluate(folder: &Path, out: &str, more: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mini");
    let model = model.to_str().unwrap();
    let arguments = [
        "eval",
        "run",
        "--config",
        "eval.toml",
        "--model",
        model,
        "--json",
        "--out",
        out,
    ];
    videothinker(folder, &[&arguments[..], more].concat())
}

#[test]
fn folders_of_frames_and_gifs_are_evaluated() {
    let folder = workplace();
    let output = evaluate(folder.path(), "out", &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(scores["questions_answered"], 2);
    for task in ["task/episodic_reasoning", "task/action_antonym"] {
        assert!(scores["splits"][task]["exact"].is_object(), "{task}");
    }
    std::fs::write(folder.path().join(FOLDER).join("00005.jpg"), "no image").unwrap();
    let output = evaluate(folder.path(), "other", &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("00005.jpg: neither a JPEG nor a PNG"),
        "{errors}"
    );
}

#[test]
fn bounds_are_those_of_the_seconds_and_can_be_ignored() {
    let folder = workplace();
    // What the bounds leave out is not looked at: only a run without them meets this image.
    std::fs::write(folder.path().join(FOLDER).join("00009.jpg"), "no image").unwrap();
    let within = evaluate(folder.path(), "within", &[]);
    assert!(within.status.success());
    let whole = evaluate(folder.path(), "whole", &["--set=eval.clip_bounds=false"]);
    let errors = String::from_utf8_lossy(&whole.stderr);
    assert!(errors.contains("00009.jpg"), "{errors}");
    let inspect = |clip: &str| json_of(folder.path(), 0, &["inspect", "video", clip]);
    let part = inspect(&format!("{FOLDER}#t=1,2&fps=3"));
    assert_eq!(part["indices"], json!([3, 4, 5, 6]));
    assert_eq!(
        (&part["total_frames"], &part["fps"]),
        (&json!(9), &json!(3.0))
    );
}

#[test]
fn one_question_can_be_asked_about_a_folder() {
    let folder = workplace();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mini");
    let clip = format!("{FOLDER}#fps=3");
    let answer = json_of(
        folder.path(),
        0,
        &[
            "ask",
            "--config",
            "eval.toml",
            "--model",
            model.to_str().unwrap(),
            "--video",
            &clip,
            "--question",
            "Who?",
            "--greedy",
            "--max-tokens",
            "3",
            "--json",
        ],
    );
    assert_eq!(answer["token_ids"].as_array().unwrap().len(), 3);
}

#[test]
fn a_benchmark_is_checked_before_it_is_run() {
    let folder = workplace();
    let path = folder.path();
    let check = ["data", "check", "--config", "eval.toml", "--json"];
    let report = |code, more: &[&str]| json_of(path, code, &[&check[..], more].concat());
    let fine = report(0, &["--manifest", "m.json"]);
    assert_eq!((&fine["clips"], &fine["findings"]), (&json!(2), &json!([])));
    report(0, &["--verify", "m.json", "--hash"]);

    // A folder that holds the same images under other names is the same clip.
    let copy = path.join("video/copy");
    std::fs::create_dir(&copy).unwrap();
    for i in 1..=9 {
        let image = path.join(FOLDER).join(format!("{i:05}.jpg"));
        std::fs::copy(image, copy.join(format!("frame{i}.jpg"))).unwrap();
    }
    let question = json!([{"problem": "?\nA. a\nB. b", "solution": "A", "video": "copy#fps=3"}]);
    std::fs::write(path.join("train.json"), question.to_string()).unwrap();
    let found = report(1, &["--against", "train.json"]);
    assert_eq!(found["findings"][0]["problem"], "duplicate");
    let clip = "tvqa/frames_fps3_hq/show_1#t=1,2&fps=3";
    assert_eq!(found["findings"][0]["video"], clip);

    std::fs::remove_file(path.join(FOLDER).join("00005.jpg")).unwrap();
    let found = report(1, &["--verify", "m.json"]);
    assert_eq!(found["findings"][0]["problem"], "changed");
    let found = report(1, &[]);
    let reason = found["findings"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("00005.jpg is missing"), "{reason}");
}

#[test]
fn only_what_a_run_draws_can_be_checked() {
    let folder = workplace();
    let path = folder.path();
    // One of two questions is drawn, so one of two broken clips is met.
    std::fs::write(path.join("video/ssv2_video/1.gif"), "no gif").unwrap();
    std::fs::remove_dir_all(path.join(FOLDER)).unwrap();
    let check = [
        "data",
        "check",
        "--config",
        "eval.toml",
        "--json",
        "--set=data.samples=1",
    ];
    let all = json_of(path, 1, &check);
    let drawn = json_of(path, 1, &[&check[..], &["--drawn"]].concat());
    assert_eq!(
        (&all["questions"], &drawn["questions"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(all["findings"].as_array().unwrap().len(), 2);
    assert_eq!(drawn["findings"].as_array().unwrap().len(), 1);
}
