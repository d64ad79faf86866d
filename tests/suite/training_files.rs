//! Training files of others: the authors' records as they are, labelled, stripped, and worked answers of the Video-R1 family.

use crate::run::Run;
use crate::run::assert_code;
use crate::run::assert_same;
use crate::run::assert_says;
use crate::run::stderr;
use crate::run::world;
use crate::videothinker;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::process::Output;

/// The miniature's training questions as `data clevrer` writes them.
fn questions() -> Vec<Value> {
    let text = std::fs::read(world().join("world/train_questions.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// A question in the shape of the authors' training files: no id, no kind, and a clip on a machine of theirs.
fn as_the_authors_write(number: usize, question: &Value) -> Value {
    let clip = question["video"].as_str().unwrap();
    json!({
        "problem_id": number, "problem": question["problem"], "data_type": "video", "problem_type": "multiple choice",
        "solution": question["solution"], "video": format!("/CLEVRER/train_video/{clip}"),
    })
}

/// Writes the questions that are wanted in the authors' shape.
fn write_theirs(path: &Path, wanted: impl Fn(&Value) -> bool) -> usize {
    let questions = questions();
    let wanted = questions.iter().filter(|question| wanted(question));
    let records: Vec<Value> = wanted
        .enumerate()
        .map(|(number, question)| as_the_authors_write(number, question))
        .collect();
    std::fs::write(path, serde_json::to_string(&records).unwrap()).unwrap();
    records.len()
}

fn is_observational(question: &Value) -> bool {
    question["kind"] == "observational"
}

/// `data clevrer` on the miniature's official files, to `out.json`.
fn clevrer(folder: &Path, more: &[&str]) -> Output {
    let official = world().join("world/train.json").display().to_string();
    let annotations = world()
        .join("world/annotations/train")
        .display()
        .to_string();
    let mut arguments = vec!["data", "clevrer", "--questions", &official];
    arguments.extend(["--annotations", &annotations, "--out", "out.json"]);
    videothinker(folder, &[&arguments, more].concat())
}

fn written(folder: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(folder.join("out.json")).unwrap()).unwrap()
}

#[test]
fn the_authors_files_train_both_stages_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let observational = folder.path().join("theirs_observational.json");
    let all = folder.path().join("theirs.json");
    let few = write_theirs(&observational, is_observational);
    let count = write_theirs(&all, |_| true);
    assert!(few > 2 && few < count, "{few} of {count}");

    let mut bias = Run::new("train-bias");
    bias.set("data.questions", observational.to_str().unwrap());
    bias.set("train.steps", "2");
    let without_kinds = [
        "theirs_observational.json",
        &format!("{few} have no kind"),
        "data.assume_kind = \"observational\"",
        "data clevrer --label",
    ];
    assert_says(&bias.run(), 1, &without_kinds);
    bias.set("data.assume_kind", "observational");
    let first = "/CLEVRER/train_video/video_00000-01000/video_0000";
    let said = [
        &format!("{few} of {few} questions have no kind: taken for observational"),
        &format!("named by absolute paths and taken from below video_root: {few} clips: {first}"),
        "world/videos/video_00000-01000/video_0000",
    ];
    assert_says(&bias.run(), 0, &said);
    let metrics = bias.lines("metrics.jsonl");
    assert!(metrics[1]["rewards/accuracy/observational"].is_number());
    let rollouts = bias.lines("rollouts.jsonl");
    let id = rollouts[0]["question_id"].as_str().unwrap();
    assert!(id.starts_with("theirs_observational/"), "{id}");

    let mut cdpo = Run::new("train-cdpo");
    let model = bias.output().join("checkpoints/step-000002");
    cdpo.set("model.bias_model", model.to_str().unwrap());
    cdpo.set("data.questions", all.to_str().unwrap());
    cdpo.set("data.video_strip", "/CLEVRER/train_video");
    cdpo.set("train.steps", "2");
    let said = format!(
        "taken from below video_root, their paths cut by data.video_strip: {count} clips: "
    );
    assert_says(&cdpo.run(), 0, &[&said, first]);
    assert!(cdpo.lines("metrics.jsonl")[1]["kl"].is_number());

    let root = world().join("world/videos").display().to_string();
    let check = |file: &Path, more: &[&str]| {
        let mut arguments = vec!["data", "check", "--questions", file.to_str().unwrap()];
        arguments.extend(["--video-root", &root]);
        videothinker(folder.path(), &[&arguments, more].concat())
    };
    assert_code(&check(&all, &[]), 0);
    let against = ["--against", observational.to_str().unwrap()];
    let output = check(&all, &against);
    assert_code(&output, 1);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("duplicate"), "{text}{}", stderr(&output));
}

#[test]
fn the_authors_file_is_labelled_from_the_official_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let count = write_theirs(&path.join("theirs.json"), |_| true);
    let output = clevrer(path, &["--label", "theirs.json"]);
    assert_code(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    let questions = questions();
    let few = questions
        .iter()
        .filter(|question| is_observational(question))
        .count();
    let expected = format!("{count} records, {count} found among the questions of ");
    let kinds = format!("{few} observational, {} inferential", count - few);
    assert!(text.contains(&expected) && text.contains(&kinds), "{text}");
    assert!(
        !text.contains("without a kind") && !text.contains("not the official"),
        "{text}"
    );
    let labelled = written(path);
    assert_eq!(labelled.len(), count);
    for (theirs, ours) in labelled.iter().zip(&questions) {
        for field in ["id", "kind", "problem", "solution"] {
            assert_eq!(theirs[field], ours[field], "{field}");
        }
        assert_eq!(theirs["data_type"], "video", "other fields stay");
    }
    let mut bias = Run::new("train-bias");
    bias.set("data.questions", path.join("out.json").to_str().unwrap());
    bias.set("train.steps", "1");
    assert_says(&bias.run(), 0, &["taken from below video_root"]);

    let mut strangers: Vec<Value> =
        serde_json::from_slice(&std::fs::read(path.join("theirs.json")).unwrap()).unwrap();
    strangers[0]["problem"] = "What will happen?\nA. nothing".into();
    std::fs::write(path.join("theirs.json"), json!(strangers).to_string()).unwrap();
    let output = clevrer(path, &["--label", "theirs.json", "--json"]);
    assert_code(&output, 0);
    let labels: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        labels["unmatched"].as_object().unwrap().len(),
        1,
        "{labels}"
    );
    assert_eq!(written(path).len(), count);
    let validation = path.join("validation.json");
    write_theirs(&validation, |_| true);
    let text = std::fs::read_to_string(&validation).unwrap();
    std::fs::write(&validation, text.replace("video_0", "video_1")).unwrap();
    let output = clevrer(path, &["--label", "validation.json"]);
    assert_says(&output, 1, &["none of its", "no such scene", "one split"]);
}

#[test]
fn conditions_are_struck_out_of_observational_questions() {
    let folder = tempfile::tempdir().unwrap();
    let output = clevrer(folder.path(), &["--strip-condition"]);
    assert_code(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    let full = questions();
    let few = full
        .iter()
        .filter(|question| is_observational(question))
        .count();
    let said = format!("written without their condition: {few} observational questions");
    assert!(text.contains(&said), "{text}");
    let stripped = written(folder.path());
    assert_eq!(stripped.len(), full.len());
    for (stripped, full) in stripped.iter().zip(&full) {
        assert_eq!(stripped["id"], full["id"]);
        assert_eq!(stripped["solution"], full["solution"]);
        if !is_observational(full) {
            assert_eq!(stripped, full);
            continue;
        }
        assert_eq!(stripped["original_problem"], full["problem"]);
        let (_, options) = full["problem"].as_str().unwrap().split_once('\n').unwrap();
        assert_eq!(stripped["problem"], format!("What will happen?\n{options}"));
    }
    let mut bias = Run::new("train-bias");
    bias.set(
        "data.questions",
        folder.path().join("out.json").to_str().unwrap(),
    );
    bias.set("train.steps", "1");
    assert_code(&bias.run(), 0);

    let other_rule = ["--strip-condition", "--rule", "removed-object-uninvolved"];
    let parts = ["--strip-condition", "answers-as-seen"];
    assert_says(&clevrer(folder.path(), &other_rule), 2, &parts);
}

#[test]
fn a_run_stops_before_its_schedule_ends_and_goes_on_as_if_it_had_not() {
    let start = || {
        let mut run = Run::new("train-bias");
        run.set("train.steps", "4").set("checkpoint.every", "10");
        run.set("checkpoint.keep", "1");
        run
    };
    let whole = start();
    assert_code(&whole.run(), 0);

    let mut parts = start();
    parts.set("train.stop_after", "2");
    parts.set("checkpoint.keep_steps", "[1, 2]");
    let output = parts.command().arg("--dry-run").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("The first 2 of 4 steps of 2 from"), "{text}");
    assert_says(&parts.run(), 0, &["done: 2 of 4 steps (train.stop_after)"]);
    assert_eq!(
        parts.checkpoints(),
        ["latest", "step-000001", "step-000002"]
    );
    assert_eq!(parts.lines("metrics.jsonl").len(), 2);
    let rate = parts.lines("metrics.jsonl")[1]["learning_rate"]
        .as_f64()
        .unwrap();
    assert!(
        (rate - 0.75e-3).abs() < 1e-12,
        "of the whole schedule: {rate}"
    );
    // Nothing is left to do, and nothing is lost.
    assert_says(&parts.run(), 0, &["going on from", "done: 2 of 4 steps"]);
    assert_eq!(parts.lines("metrics.jsonl").len(), 2);

    parts.set("train.stop_after", "4");
    assert_says(&parts.run(), 0, &["(step 2)", "done: 4 steps"]);
    assert_eq!(
        parts.checkpoints(),
        ["latest", "step-000001", "step-000002", "step-000004"]
    );
    let weights = "checkpoints/latest/model.safetensors";
    assert_same(
        &whole,
        &parts,
        &["metrics.jsonl", "rollouts.jsonl", weights],
    );

    parts.set("train.stop_after", "5");
    assert_says(
        &parts.run(),
        2,
        &["train.stop_after", "more than train.steps = 4"],
    );
}

#[test]
fn worked_answers_of_the_video_r1_family_are_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let record = |number: usize, question: &Value| {
        let clip = question["video"].as_str().unwrap();
        let (problem, options) = question["problem"]
            .as_str()
            .unwrap()
            .split_once('\n')
            .unwrap();
        let options: Vec<&str> = options.lines().collect();
        json!({
            "problem_id": number, "problem": problem, "data_type": "video", "problem_type": "multiple choice",
            "options": options, "process": format!("<think>Clip {number} shows it.</think>"),
            "solution": question["solution"], "path": format!("./LLaVA-Video-178K/{clip}"), "data_source": "LLaVA-Video-178K",
        })
    };
    let questions = questions();
    let mut records: Vec<Value> = questions
        .iter()
        .enumerate()
        .map(|(number, question)| record(number, question))
        .collect();
    records[1]["process"] = "".into();
    records[3]["data_type"] = "image".into();
    records[3]["path"] = "./Math/1.png".into();
    let file = folder.path().join("cot.json");
    std::fs::write(&file, json!(records).to_string()).unwrap();

    let mut sft = Run::new("train-sft");
    sft.set("data.questions", file.to_str().unwrap());
    sft.set("data.video_strip", "LLaVA-Video-178K");
    let count = questions.len();
    let said = [
        "for being about images (data_type): 1 record".to_owned(),
        format!("1 of {} questions have an empty `process`", count - 1),
    ];
    assert_says(&sft.run(), 0, &said.each_ref().map(String::as_str));
    let metrics = sft.lines("metrics.jsonl");
    assert_eq!(metrics.len(), 4);
    assert!(
        metrics
            .iter()
            .all(|line| line["loss"].as_f64().unwrap() > 0.0)
    );

    let first = &mut records[0];
    first.as_object_mut().unwrap().remove("process");
    std::fs::write(&file, json!(records).to_string()).unwrap();
    sft.set("output_dir", folder.path().join("other").to_str().unwrap());
    assert_says(&sft.run(), 1, &["cot.json", "question cot/0", "`process`"]);
}
