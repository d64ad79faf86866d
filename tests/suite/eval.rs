//! `eval` through the binary: a small miniature world, an untrained model, kills and wrong folders.

use crate::videothinker;
use serde_json::Value;
use std::path::Path;

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
        "run",
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
fn a_full_disk_leaves_whole_lines() {
    let folder = workplace();
    let path = folder.path();
    let scores = evaluate(path, "whole", &[]);
    let program = crate::program();
    // A limit on file sizes fails a write after a part of it, as a full disk does.
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(["eval", "run", "--config", "eval.toml"])
        .args(["--model", "model", "--out", "full"])
        .current_dir(path)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("cannot write full/outputs.jsonl") && errors.contains("make room"),
        "{errors}"
    );
    let whole = std::fs::read(path.join("whole/outputs.jsonl")).unwrap();
    let written = std::fs::read(path.join("full/outputs.jsonl")).unwrap();
    assert!(!written.is_empty() && written.ends_with(b"\n"), "{errors}");
    assert!(whole.starts_with(&written) && written.len() < whole.len());
    assert_eq!(evaluate(path, "full", &[]), scores);
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
        "run",
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
    assert!(
        errors.contains("then / now: video.max_frames (8 / 10)"),
        "{errors}"
    );
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
        "run",
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
    let text = run(path, &["eval", "table", "base=out", "out/scores.json"]);
    let labels: Vec<&str> = text
        .lines()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    assert_eq!(labels, ["model", "base", "out", "best constant"]);
    let markdown = run(path, &["eval", "table", "base=out", "--markdown"]);
    assert!(
        markdown
            .lines()
            .all(|line| line.starts_with("| ") && line.ends_with(" |"))
    );
    let output = videothinker(path, &["eval", "table", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
}

/// The scores of an evaluation with other settings, and its folder's name.
fn scores_of(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&run(folder, args)).unwrap()
}

#[test]
fn stored_answers_are_scored_and_compared_without_a_model() {
    let folder = workplace();
    let path = folder.path();
    let scores = evaluate(path, "out", &[]);
    std::fs::rename(path.join("model"), path.join("moved")).unwrap();
    let again = scores_of(path, &["eval", "rescore", "out", "--json"]);
    assert_eq!(again, scores);
    run(path, &["eval", "rescore", "out", "--extraction", "authors"]);
    let authors = std::fs::read_to_string(path.join("out/scores-authors.json")).unwrap();
    let authors: Value = serde_json::from_str(&authors).unwrap();
    assert_eq!(authors["extraction"], "authors");
    let compared = scores_of(path, &["eval", "compare", "out", "out", "--json"]);
    assert_eq!(compared["splits"]["all"]["questions"], 10);
    assert_eq!(compared["splits"]["all"]["difference"]["mean"], 0.0);

    std::fs::rename(path.join("moved"), path.join("model")).unwrap();
    evaluate(path, "other", &["--set", "video.max_frames=10"]);
    let output = videothinker(path, &["eval", "compare", "out", "other"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("differ in video.max_frames (8 / 10)"),
        "{errors}"
    );
    let across = ["eval", "compare", "out", "other", "--across-protocols"];
    let output = videothinker(path, &across);
    assert!(output.status.success());
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        text.contains("inferential") && text.contains("answered in one only: 0"),
        "{text}"
    );
    assert!(
        errors.contains("compared across protocols: video"),
        "{errors}"
    );
}

#[test]
fn shards_answer_what_one_process_answers() {
    let folder = workplace();
    let path = folder.path();
    let whole = evaluate(path, "whole", &[]);
    evaluate(path, "parts", &["--shard", "2/2"]);
    let output = videothinker(path, &["eval", "merge", "parts"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("shard 1-of-2 is not finished"), "{errors}");
    evaluate(path, "parts", &["--shard", "1/2"]);
    assert_eq!(
        scores_of(path, &["eval", "merge", "parts", "--json"]),
        whole
    );
    let outputs =
        |out: &str| std::fs::read_to_string(path.join(out).join("outputs.jsonl")).unwrap();
    assert_eq!(outputs("parts"), outputs("whole"));
    let output = videothinker(path, &["eval", "merge", "parts", "--shard", "1/2"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn several_samples_vote() {
    let folder = workplace();
    let path = folder.path();
    let more = ["--set", "eval.samples=3", "--set", "eval.temperature=1.0"];
    let scores = evaluate(path, "three", &more);
    assert_eq!(scores["samples"], 3);
    let log = std::fs::read_to_string(path.join("three/outputs.jsonl")).unwrap();
    let mut different = 0;
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let samples = line["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 3);
        different += usize::from(samples[0] != samples[1]);
    }
    assert!(different > 0, "{log}");
    let output = videothinker(
        path,
        &[
            "eval",
            "run",
            "--config",
            "eval.toml",
            "--model",
            "model",
            "--set",
            "eval.samples=3",
        ],
    );
    assert_eq!(
        output.status.code(),
        Some(2),
        "greedy samples are all the same"
    );
}

#[test]
fn a_benchmark_is_read_cut_and_scored_by_its_splits() {
    let folder = workplace();
    let path = folder.path();
    let clips: Vec<_> = std::fs::read_dir(path.join("world/videos"))
        .unwrap()
        .flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|clip| clip.unwrap().path())
        .collect();
    std::fs::create_dir_all(path.join("video/sta/sta_video")).unwrap();
    std::fs::create_dir_all(path.join("video/clevrer/video_validation")).unwrap();
    std::fs::copy(&clips[0], path.join("video/sta/sta_video/a.mp4")).unwrap();
    std::fs::copy(&clips[0], path.join("video/clevrer/video_validation/b.mp4")).unwrap();
    std::fs::create_dir(path.join("json")).unwrap();
    let item = |video: &str, bounds: &str| {
        format!(
            r#"[{{"video":"{video}","question":"What falls?","candidates":["red","blue"],"answer":"blue"{bounds}}}]"#
        )
    };
    std::fs::write(
        path.join("json/action_localization.json"),
        item("a.mp4", r#","start":0.5,"end":1.5"#),
    )
    .unwrap();
    std::fs::write(path.join("json/moving_count.json"), item("b.mp4", "")).unwrap();
    let benchmark = [
        "--set",
        "eval.benchmark=mvbench",
        "--set",
        "data.questions=json",
        "--set",
        "data.video_root=video",
    ];
    let scores = evaluate(path, "out", &benchmark);
    assert_eq!(scores["benchmark"], "mvbench");
    assert_eq!(scores["questions_published"], 4000);
    for split in ["all", "clips/clevrer", "clips/other", "task/moving_count"] {
        assert!(scores["splits"][split]["exact"].is_object(), "{split}");
    }
    let decoder = scores["decoder"].as_str().unwrap();
    assert!(decoder.starts_with("libavcodec "), "{decoder}");

    let inspect = |clip: &str| -> Value {
        let clip = path.join("video/sta/sta_video").join(clip);
        let args = [
            "inspect",
            "video",
            clip.to_str().unwrap(),
            "--model",
            "model",
        ];
        serde_json::from_str(&run(path, &args)).unwrap()
    };
    let (whole, part) = (inspect("a.mp4"), inspect("a.mp4#t=0.5,1.5"));
    let fps = whole["fps"].as_f64().unwrap();
    let indices: Vec<f64> = part["indices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|index| index.as_f64().unwrap())
        .collect();
    assert!(
        indices
            .iter()
            .all(|index| (0.5 * fps..=1.5 * fps).contains(index)),
        "{part}"
    );
    assert_eq!(part["total_frames"], whole["total_frames"]);
    let output = videothinker(
        path,
        &[
            "inspect",
            "video",
            "video/sta/sta_video/a.mp4#t=900,901",
            "--model",
            "model",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("no frame lies in #t=900,901: the clip has "),
        "{errors}"
    );
}

#[test]
fn a_protocol_goes_into_the_score_file() {
    let folder = workplace();
    let path = folder.path();
    // The miniature's own settings contradict a protocol.
    let output = videothinker(
        path,
        &[
            "eval",
            "run",
            "--config",
            "eval.toml",
            "--model",
            "model",
            "--set",
            "eval.protocol=authors",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("eval.protocol = \"authors\" means"),
        "{errors}"
    );
    let config = "[model]\ndtype = \"f32\"\ndevice = \"cpu\"\n[data]\nquestions = \"world/validation_questions.json\"\n\
                  video_root = \"world/videos\"\nsamples = 1\n[eval]\nprotocol = \"authors\"\n";
    std::fs::write(path.join("authors.toml"), config).unwrap();
    let args = ["inspect", "config", "--config", "authors.toml"];
    let shown = run(path, &args);
    assert!(
        shown.contains("105369") && shown.contains("1024"),
        "{shown}"
    );
}

/// What a command that fails says, and its exit code.
fn fails(folder: &Path, args: &[&str]) -> (i32, String) {
    let output = videothinker(folder, args);
    assert!(output.stdout.is_empty(), "{args:?}");
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), errors)
}

#[test]
fn unfinished_damaged_and_wrong_folders_are_told_apart() {
    let folder = workplace();
    let path = folder.path();
    evaluate(path, "out", &[]);
    let read = |name: &str| std::fs::read_to_string(path.join("out").join(name)).unwrap();
    let (log, scores) = (read("outputs.jsonl"), read("scores.json"));
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let damaged = |name: &str, log: &str, scores: Option<&str>| {
        let folder = path.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("settings.json"), read("settings.json")).unwrap();
        std::fs::write(folder.join("outputs.jsonl"), log).unwrap();
        if let Some(scores) = scores {
            std::fs::write(folder.join("scores.json"), scores).unwrap();
        }
    };
    damaged("killed", &lines[..4].concat(), None);
    damaged("short", &log[..log.len() - 30], Some(&scores));
    damaged("twice", &format!("{log}{}", lines[0]), Some(&scores));
    damaged("cut", &log, Some(&scores[..scores.len() / 2]));
    damaged("line", &log.replacen("\"id\"", "\"ib\"", 1), Some(&scores));
    for (args, code, wanted) in [
        (&["rescore", "nowhere"][..], 2, "no folder nowhere"),
        (&["merge", "nowhere"], 2, "no folder nowhere"),
        (&["compare", "out", "nowhere"], 2, "no folder nowhere"),
        (&["rescore", "model"], 1, "name the --out of a finished one"),
        (&["rescore", "killed"], 1, "it continues where it was"),
        (
            &["compare", "killed", "out"],
            1,
            "it continues where it was",
        ),
        // Its answers are the only ones there are: nothing may advise to remove them.
        (&["merge", "killed"], 1, "holds no outputs-I-of-N.jsonl"),
        (
            &["rescore", "short"],
            1,
            "9 different answers in 9 lines, scores.json counts 10",
        ),
        (
            &["compare", "out", "twice"],
            1,
            "10 different answers in 11 lines",
        ),
        (
            &["rescore", "cut"],
            1,
            "cut/scores.json: not what `eval` writes",
        ),
        (
            &["rescore", "line"],
            1,
            "outputs.jsonl:1: not an answered question",
        ),
        (
            &["table", "out", "out/scores.json"],
            2,
            "two rows are called out",
        ),
        (
            &["rescore", "out", "--set", "eval.extraction=authors"],
            2,
            "--set",
        ),
    ] {
        let (status, errors) = fails(path, &[&["eval"], args].concat());
        assert_eq!(status, code, "{args:?}: {errors}");
        assert!(errors.contains(wanted), "{args:?}: {errors}");
    }
    // What was only damaged is whole again after another run.
    for name in ["killed", "short", "cut"] {
        let again = evaluate(path, name, &[]);
        assert_eq!(
            again,
            serde_json::from_str::<Value>(&scores).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn the_flags_of_before_the_verbs_still_work_and_name_them() {
    let folder = workplace();
    let path = folder.path();
    let scores = evaluate(path, "out", &[]);
    let hinted = |args: &[&str], verb: &str| -> String {
        let output = videothinker(path, &[&["eval"], args].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {errors}");
        assert!(errors.contains(&format!("`eval {verb}")), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    };
    let run_flags = [
        "--config",
        "eval.toml",
        "--model",
        "model",
        "--json",
        "--out",
    ];
    let again = hinted(&[&run_flags[..], &["again"]].concat(), "run --model DIR");
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), scores);
    for shard in ["1/2", "2/2"] {
        let args = [&run_flags[..], &["parts", "--shard", shard]].concat();
        hinted(&args, "run --model DIR");
    }
    let merged = hinted(&["--merge", "parts", "--json"], "merge DIR");
    assert_eq!(serde_json::from_str::<Value>(&merged).unwrap(), scores);
    let rescored = hinted(&["--json", "--rescore", "out"], "rescore DIR");
    assert_eq!(serde_json::from_str::<Value>(&rescored).unwrap(), scores);
    for (old, new, hint) in [
        (
            &["--dry-run", "--config", "eval.toml"][..],
            &["run", "--dry-run", "--config", "eval.toml"][..],
            "run --dry-run",
        ),
        (
            &["--rescore", "out", "--extraction", "authors"],
            &["rescore", "out", "--extraction", "authors"],
            "rescore DIR",
        ),
        (
            &["--compare", "out", "again"],
            &["compare", "out", "again"],
            "compare DIR DIR",
        ),
        (
            &["--table", "a=out", "again", "--markdown"],
            &["table", "a=out", "again", "--markdown"],
            "table PATH",
        ),
        (
            &["--markdown", "--grid", "a/b=out", "c/b=3"],
            &["table", "--markdown", "--grid", "a/b=out", "c/b=3"],
            "table --grid CELL",
        ),
    ] {
        assert_eq!(hinted(old, hint), run(path, &[&["eval"], new].concat()));
    }
    for (args, wanted) in [
        (&["--merge", "parts", "--shard", "1/2"][..], "--shard"),
        (&["--json"], "say what to do"),
        (&["--json", "run"], "run"),
        (&["--rescore", "nowhere"], "no folder nowhere"),
        (&["--judge", "out"], "--judge-url"),
    ] {
        let (status, errors) = fails(path, &[&["eval"], args].concat());
        assert_eq!(status, 2, "{args:?}: {errors}");
        assert!(errors.contains(wanted), "{args:?}: {errors}");
    }
}
