//! `data check` through the binary: what is wrong is found, named and counted, and nothing else.

use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs `data check` in a folder with the miniature settings; gives the exit code, stdout and stderr.
fn check(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let settings = [
        "min_frames=8",
        "max_frames=8",
        "min_pixels=12544",
        "max_pixels=12544",
    ]
    .map(|setting| format!("--set=video.{setting}"));
    let output = crate::program()
        .current_dir(folder)
        .args(["data", "check"])
        .args(settings)
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn report(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = check(folder, &[arguments, &["--json"]].concat());
    let report = serde_json::from_str(&stdout);
    (code, report.unwrap_or_else(|_| panic!("{stderr}")))
}

/// A question a line about each of these clips.
fn write_questions(path: &Path, videos: &[&str]) {
    let line = |(index, video): (usize, &&str)| {
        json!({"id": format!("q{index}"), "problem": "What happens?\nA. this\nB. that", "solution": "A", "video": video})
            .to_string()
    };
    let lines: Vec<String> = videos.iter().enumerate().map(line).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

/// A folder with golden clips and broken ones.
fn clips() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "gops.mp4",
        "h264.mp4",
        "vp9.webm",
        "one_frame.mp4",
        "sound_only.mp4",
    ] {
        let clip = repository("tests/golden/video/clips").join(name);
        std::fs::copy(clip, folder.path().join(name)).unwrap();
    }
    let whole = std::fs::read(folder.path().join("h264.mp4")).unwrap();
    std::fs::write(folder.path().join("text.mp4"), "not a clip at all").unwrap();
    std::fs::write(folder.path().join("half.mp4"), &whole[..whole.len() / 2]).unwrap();
    let mut scratched = std::fs::read(folder.path().join("gops.mp4")).unwrap();
    let middle = scratched.len() / 2;
    for byte in &mut scratched[middle..middle + 200] {
        *byte ^= 0x5a;
    }
    std::fs::write(folder.path().join("scratched.mp4"), scratched).unwrap();
    std::fs::copy(
        folder.path().join("gops.mp4"),
        folder.path().join("copy.mp4"),
    )
    .unwrap();
    folder
}

fn problem_of<'a>(report: &'a Value, video: &str) -> Option<&'a str> {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["video"] == video)?;
    finding["problem"].as_str()
}

#[test]
fn every_kind_of_broken_clip_is_named_with_its_reason() {
    let folder = clips();
    let videos = [
        "gops.mp4",
        "vp9.webm",
        "nowhere.mp4",
        "text.mp4",
        "half.mp4",
        "one_frame.mp4",
        "sound_only.mp4",
        "scratched.mp4",
        "nowhere.mp4",
    ];
    write_questions(&folder.path().join("q.jsonl"), &videos);
    let arguments = ["--questions", "q.jsonl", "--manifest", "m.json"];
    let (code, found) = report(folder.path(), &arguments);
    assert_eq!(code, 1);
    assert_eq!(
        (&found["questions"], &found["clips"]),
        (&json!(9), &json!(8))
    );
    assert_eq!(problem_of(&found, "gops.mp4"), None);
    assert_eq!(problem_of(&found, "vp9.webm"), None);
    assert_eq!(problem_of(&found, "nowhere.mp4"), Some("missing"));
    assert_eq!(problem_of(&found, "text.mp4"), Some("corrupt"));
    assert_eq!(problem_of(&found, "half.mp4"), Some("corrupt"));
    assert_eq!(problem_of(&found, "one_frame.mp4"), Some("short"));
    assert_eq!(problem_of(&found, "sound_only.mp4"), Some("corrupt"));
    assert_eq!(problem_of(&found, "scratched.mp4"), Some("damaged"));
    assert_eq!(found["findings"].as_array().unwrap().len(), 6);
    assert_eq!(found["findings"][0]["questions"], json!(["q2", "q8"]));
    assert!(
        !folder.path().join("m.json").exists(),
        "not everything is fine"
    );

    let (code, table, _) = check(folder.path(), &arguments[..2]);
    assert_eq!(code, 1);
    for part in [
        "9 questions about 8 clips",
        "missing     nowhere.mp4             2  no such video file",
        "6 of 8 clips and 7 of 9 questions are concerned",
        "give --model",
    ] {
        assert!(table.contains(part), "{table} lacks {part:?}");
    }
}

#[test]
fn prompts_are_counted_with_the_models_tokenizer_against_the_limit() {
    let folder = clips();
    write_questions(&folder.path().join("q.jsonl"), &["gops.mp4"]);
    let model = repository("data/mini");
    let model = model.to_str().unwrap();
    let arguments = ["--questions", "q.jsonl", "--model", model];
    let (code, found) = report(folder.path(), &arguments);
    assert_eq!(code, 0, "{found}");
    // The same prompt, made token by token.
    let output = crate::program()
        .current_dir(folder.path())
        .args(["inspect", "prompt", "--model", model, "--video", "gops.mp4"])
        .args(["--question", "What happens?\nA. this\nB. that"])
        .args(["--set=video.min_frames=8", "--set=video.max_frames=8"])
        .args([
            "--set=video.min_pixels=12544",
            "--set=video.max_pixels=12544",
        ])
        .output()
        .unwrap();
    let prompt: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = prompt["prompt_ids"].as_array().unwrap().len();
    assert_eq!(found["prompt_tokens"]["most"], tokens);
    assert_eq!(found["prompt_tokens"]["least"], tokens);

    let limit = format!("sampling.max_prompt_tokens={}", tokens - 1);
    let (code, found) = report(
        folder.path(),
        &[&arguments[..], &["--set", &limit]].concat(),
    );
    assert_eq!(
        (code, problem_of(&found, "gops.mp4")),
        (1, Some("too-long"))
    );
    let reason = found["findings"][0]["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("{tokens} tokens")) && reason.contains("max_prompt_tokens"));
}

#[test]
fn training_clips_among_the_evaluations_are_found_by_content() {
    let folder = clips();
    write_questions(
        &folder.path().join("train.jsonl"),
        &["gops.mp4", "h264.mp4"],
    );
    write_questions(&folder.path().join("test.jsonl"), &["copy.mp4", "vp9.webm"]);
    let arguments = ["--questions", "train.jsonl", "--against", "test.jsonl"];
    let (code, found) = report(folder.path(), &arguments);
    assert_eq!(
        (code, problem_of(&found, "gops.mp4")),
        (1, Some("duplicate"))
    );
    assert_eq!(problem_of(&found, "h264.mp4"), None);
    let reason = found["findings"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("copy.mp4") && reason.contains("test.jsonl"),
        "{reason}"
    );
}

#[test]
fn a_manifest_tells_later_runs_what_changed() {
    let folder = clips();
    write_questions(&folder.path().join("q.jsonl"), &["gops.mp4", "vp9.webm"]);
    let questions = ["--questions", "q.jsonl"];
    let make = [&questions[..], &["--manifest", "m.json"]].concat();
    assert_eq!(check(folder.path(), &make).0, 0);
    let verify = [&questions[..], &["--verify", "m.json"]].concat();
    let (code, text, _) = check(folder.path(), &verify);
    assert_eq!(code, 0);
    assert!(text.contains("nothing is wrong"), "{text}");
    std::fs::write(folder.path().join("vp9.webm"), "something else").unwrap();
    let (code, found) = report(folder.path(), &verify);
    assert_eq!((code, problem_of(&found, "vp9.webm")), (1, Some("changed")));
    assert_eq!(problem_of(&found, "gops.mp4"), None);
}

#[test]
fn a_benchmark_is_checked_in_its_own_shape() {
    let folder = clips();
    let sta = folder.path().join("sta/sta_video");
    std::fs::create_dir_all(&sta).unwrap();
    for name in ["gops.mp4", "text.mp4"] {
        std::fs::copy(folder.path().join(name), sta.join(name)).unwrap();
    }
    let item = |video: &str| json!({"video": video, "question": "When?", "candidates": ["early", "late"], "answer": "late", "start": 0.0, "end": 3.0});
    let file = "action_localization.json";
    let write = |items: Value| std::fs::write(folder.path().join(file), items.to_string()).unwrap();
    let benchmark = ["--questions", file, "--set=eval.benchmark=mvbench"];
    write(json!([item("gops.mp4")]));
    let make = [&benchmark[..], &["--manifest", "m.json"]].concat();
    let (code, stdout, stderr) = check(folder.path(), &make);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let verify = [&benchmark[..], &["--verify", "m.json"]].concat();
    assert_eq!(check(folder.path(), &verify).0, 0);
    write(json!([item("gops.mp4"), item("text.mp4")]));
    let (code, found) = report(folder.path(), &benchmark);
    assert_eq!((code, &found["clips"]), (1, &json!(2)));
    let broken = "sta/sta_video/text.mp4#t=0,3";
    assert_eq!(problem_of(&found, broken), Some("corrupt"), "{found}");
    let (code, _, stderr) = check(folder.path(), &["--questions", file]);
    assert!(code == 1 && stderr.contains(file), "{stderr}");
}

#[test]
fn wrong_arguments_are_told_apart_from_wrong_clips() {
    let folder = clips();
    let (code, stdout, stderr) = check(folder.path(), &[]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("--questions FILE"), "{stderr}");
    let (code, _, stderr) = check(folder.path(), &["--questions", "absent.json"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("absent.json"), "{stderr}");
}
