//! Benchmarks as they are asked and read under both protocols, through the binary. The words are invented; the records have
//! exactly the fields of the published files.

use crate::videothinker;
use serde_json::{Value, json};
use std::path::Path;

fn write(folder: &Path, name: &str, content: &Value) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content.to_string()).unwrap();
}

/// The authors' four files.
fn authors_files(folder: &Path) {
    write(
        folder,
        "mmvu/eval_mmvu.json",
        &json!([{
        "problem_id": 1, "problem": "Which reaction runs?", "data_type": "video", "problem_type": "multiple choice",
        "original_question_type": "multiple-choice", "options": ["A. the first", "B. the second", "C. 3", "D. 4", "E. none"],
        "process": "", "solution": "<answer>B</answer>", "video": "/yale-nlp/MMVU/videos/Chemistry/0.mp4", "data_source": "u"}]),
    );
    write(
        folder,
        "mvbench/eval_mvbench.json",
        &json!([{
        "ori_video": "7.webm", "question": "What is done?", "options": ["A. Not sure", "B. Something is put down"],
        "answer": "Something is put down", "problem": "What is done?", "data_type": "video", "problem_type": "multiple choice",
        "original_question_type": "", "solution": "<answer>B</answer>", "video": "/MVBench/ssv2_video/7.mp4", "subtitle": "", "problem_id": 1}]),
    );
    write(
        folder,
        "video_holmes/eval_video_holmes.json",
        &json!([{
        "video": "/Video-Holmes/videos/f1.mp4", "question_id": "1", "question_type": "SR", "question": "Who is she?",
        "problem": "Who is she? \nA. an aunt\nB. a guest,\nwho stays\nC. nobody", "solution": "<answer>B</answer>",
        "options": ["an aunt", "a guest,\nwho stays", "nobody"], "source": "video_holmes", "explanation": "She stays."}]),
    );
    write(
        folder,
        "videomme/eval_videomme.json",
        &json!([{
        "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "url": "u", "videoID": "xYz_1",
        "question_id": "001-1", "task_type": "Counting Problem", "question": "How many judges sit?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. None."], "answer": "C", "problem_id": 1, "problem": "How many judges sit?",
        "data_type": "video", "problem_type": "multiple choice", "original_question_type": "Counting Problem",
        "solution": "<answer>C</answer>", "video": "/lmms-lab/Video-MME/data/xYz_1.mp4", "subtitle": ""}]),
    );
}

/// The benchmarks' own.
fn official_files(folder: &Path) {
    write(
        folder,
        "mmvu/validation.json",
        &json!([{
        "id": "validation_1", "video": "https://example.org/MMVU/resolve/main/videos/Chemistry/0.mp4", "youtube_url": "u",
        "question_type": "multiple-choice", "metadata": {"subject": "Chemistry", "textbook": "t", "knowledge": [], "rationale": "r"},
        "question": "Which reaction runs?", "choices": {"A": "the first", "B": "the second", "C": "3", "D": "4", "E": "none"}, "answer": "B"}]),
    );
    write(
        folder,
        "mvbench/action_antonym.json",
        &json!([{
        "video": "7.webm", "question": "What is done?", "candidates": ["Not sure", "Something is put down"], "answer": "Something is put down"}]),
    );
    write(
        folder,
        "video_holmes/test_Video-Holmes.json",
        &json!([{
        "video ID": "f1", "Question ID": "1", "Question Type": "SR", "Question": "Who is she?",
        "Options": {"A": "an aunt", "B": "a guest,\nwho stays", "C": "nobody"}, "Answer": "B", "Explanation": "She stays."}]),
    );
    write(
        folder,
        "videomme/test.json",
        &json!([{
        "video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "url": "u", "videoID": "xYz_1",
        "question_id": "001-1", "task_type": "Counting Problem", "question": "How many judges sit?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. None."], "answer": "C"}]),
    );
    let clip = |items: Value| json!({"103": {"action": items}});
    write(
        folder,
        "tempcompass/multi-choice.json",
        &clip(json!([{"question": "What does it do?\nA. rise\nB. sink", "answer": "B. sink"}])),
    );
    write(
        folder,
        "tempcompass/yes_no.json",
        &clip(json!([{"question": "Does it sink?", "answer": "yes"}])),
    );
    write(
        folder,
        "tempcompass/caption_matching.json",
        &clip(json!([{
        "question": "Which fits better?\nSentence A: It rises.\nSentence B: It sinks.", "answer": "Sentence B: It sinks."}])),
    );
    write(
        folder,
        "tempcompass/captioning.json",
        &clip(json!([{
        "question": "One is right.\nInformation A: {'subject': 'boat', 'action': 'sink'}\nInformation B: {'subject': 'boat', 'action': 'rise'}\nGenerated Caption:",
        "answer": "A. sink"}])),
    );
}

/// What `eval run --dry-run` says would be asked, by task.
fn asked(folder: &Path, benchmark: &str, questions: &str, protocol: &str) -> Vec<(String, Value)> {
    let benchmark = format!("eval.benchmark={benchmark}");
    let (questions, protocol) = (
        format!("data.questions={questions}"),
        format!("eval.protocol={protocol}"),
    );
    let mut args = vec![
        "eval",
        "run",
        "--dry-run",
        "--json",
        "--set",
        "data.on_bad_video=skip",
    ];
    for setting in [&benchmark, &questions, &protocol] {
        args.extend(["--set", setting]);
    }
    let output = videothinker(folder, &args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tasks = shown["tasks"].as_array().unwrap().iter();
    tasks
        .map(|task| {
            (
                task["task"].as_str().unwrap().to_owned(),
                task["first"][0].clone(),
            )
        })
        .collect()
}

#[test]
fn every_question_with_options_is_asked_with_them_whatever_file_it_is_from() {
    let folder = tempfile::tempdir().unwrap();
    let (official, authors) = (
        folder.path().join("official"),
        folder.path().join("authors"),
    );
    official_files(&official);
    authors_files(&authors);
    let user = |folder: &Path, benchmark: &str, protocol: &str| {
        let asked = asked(folder, benchmark, benchmark, protocol);
        asked[0].1["user"].as_str().unwrap().to_owned()
    };
    for (benchmark, under_authors, under_official) in [
        (
            "mmvu",
            "Which reaction runs?Options:\nA. the first\nB. the second\nC. 3\nD. 4\nE. none\n",
            "Question: Which reaction runs?\nA: the first\nB: the second\nC: 3\nD: 4\nE: none\n\n",
        ),
        (
            "mvbench",
            "What is done?Options:\nA. Not sure\nB. Something is put down\n",
            "Question: What is done?\nOptions:\n(A) Not sure\n(B) Something is put down\n",
        ),
        (
            "video_holmes",
            "Who is she? \nA. an aunt\nB. a guest,\nwho stays\nC. nobody\n",
            "Who is she?. Options: A: an aunt, B: a guest,\nwho stays, C: nobody. ",
        ),
        (
            "videomme",
            "How many judges sit?Options:\nA. One.\nB. Two.\nC. Three.\nD. None.\n",
            "How many judges sit?\nA. One.\nB. Two.\nC. Three.\nD. None.\n",
        ),
    ] {
        for files in [&official, &authors] {
            let text = user(files, benchmark, "authors");
            assert!(text.starts_with(under_authors), "{benchmark}: {text}");
            let text = user(files, benchmark, "official");
            assert!(text.contains(under_official), "{benchmark}: {text}");
        }
    }
    let tasks = asked(&official, "tempcompass", "tempcompass", "official");
    let names: Vec<&str> = tasks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["caption_matching", "multi-choice", "yes_no"]);
    assert!(
        tasks[0].1["user"]
            .as_str()
            .unwrap()
            .contains("\nSentence A: It rises.\nSentence B: It sinks.\n")
    );
    assert!(
        tasks[1].1["user"]
            .as_str()
            .unwrap()
            .contains("\nA. rise\nB. sink\n")
    );
    let captions = asked(
        &official,
        "tempcompass_captioning",
        "tempcompass",
        "official",
    );
    assert_eq!(captions[0].1["solution"], "<answer>B</answer>");
    let flat = asked(&official, "tempcompass_flat", "tempcompass", "authors");
    assert_eq!(flat.len(), 4);
    assert_eq!(flat[1].1["solution"], "<answer>A</answer>");
}

#[test]
fn a_choice_without_options_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(
        path,
        "q.json",
        &json!([{"id": "7", "problem": "Which?", "solution": "<answer>A</answer>", "video": "a.mp4"}]),
    );
    let dry = |more: &[&str]| {
        let args = [
            &["eval", "run", "--dry-run", "--set", "data.questions=q.json"],
            more,
        ]
        .concat();
        let output = videothinker(path, &args);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = dry(&[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("question 7") && said.contains("has no options"),
        "{said}"
    );
    let (_, said) = dry(&["--set", "eval.benchmark=video_holmes"]);
    assert!(
        said.contains("record 0") && said.contains("no options"),
        "{said}"
    );
}

#[test]
fn a_begun_answer_frame_positions_and_a_clone_go_into_the_scores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let world = [
        "data",
        "mini",
        "--out",
        "world",
        "--train",
        "0",
        "--validation",
        "1",
        "--sft",
        "4",
        "--model",
        "model",
    ];
    assert!(videothinker(path, &world).status.success());
    let clips = path.join("clips/ssv2_video");
    std::fs::create_dir_all(&clips).unwrap();
    std::fs::copy(
        path.join("world/videos/video_10000-11000/video_10000.mp4"),
        clips.join("7.webm"),
    )
    .unwrap();
    official_files(path);
    let cell = "infer(\n    system=\"Keep your eyes open.\\n\",\n    question_prompt=\"\\nOne of them.\",\n)\n";
    write(
        path,
        "clone/video_chat2/mvbench.ipynb",
        &json!({"cells": [{"cell_type": "code", "source": [cell]}]}),
    );
    let evaluate = |out: &str, more: &[&str]| -> Value {
        let args = [
            &[
                "eval",
                "run",
                "--model",
                "model",
                "--json",
                "--out",
                out,
                "--set",
                "model.dtype=f32",
                "--set",
                "model.device=cpu",
                "--set",
                "eval.benchmark=mvbench",
                "--set",
                "data.questions=mvbench",
                "--set",
                "data.video_root=clips",
                "--set",
                "eval.protocol=official",
            ][..],
            more,
        ]
        .concat();
        let output = videothinker(path, &args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let ours = evaluate("ours", &[]);
    assert_eq!(
        (&ours["video"]["positions"], &ours["video"]["max_frames"]),
        (&json!("segments"), &json!(16))
    );
    assert_eq!(
        (&ours["extraction"], &ours["max_new_tokens"]),
        (&json!("official"), &json!(100))
    );
    let remarks = ours["remarks"].to_string();
    assert!(
        remarks.contains("our own words") && remarks.contains("mvbench.ipynb"),
        "{remarks}"
    );
    let answered = std::fs::read_to_string(path.join("ours/outputs.jsonl")).unwrap();
    let answered: Value = serde_json::from_str(answered.lines().next().unwrap()).unwrap();
    assert!(
        answered["samples"][0]["completion"]
            .as_str()
            .unwrap()
            .starts_with('(')
    );
    assert!(
        answered["question"]
            .as_str()
            .unwrap()
            .contains("(B) Something is put down")
    );

    let exact = evaluate("exact", &["--set", "eval.protocol_from=clone"]);
    assert_eq!(exact["protocol_file"]["file"], "video_chat2/mvbench.ipynb");
    assert_eq!(exact["protocol_file"]["sha256"].as_str().unwrap().len(), 64);
    assert_ne!(exact["wording_hash"], ours["wording_hash"]);
    assert_eq!(exact["wording"], "mvbench (its own words)");
    let compared = videothinker(path, &["eval", "compare", "ours", "exact"]);
    let said = String::from_utf8_lossy(&compared.stderr);
    assert!(said.contains("wording_hash"), "{said}");
}

#[test]
fn given_answers_are_read_by_any_rule() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let ask = "What does it do?\nA. rise\nB. sink";
    write(
        path,
        "answers.json",
        &json!([
            {"task": "multi-choice", "question": ask, "answer": "B. sink", "prediction": "B. sink."},
            {"task": "multi-choice", "question": ask, "answer": "B. sink", "prediction": "As I see it the best option is B. sink. It is heavy."},
            {"task": "multi-choice", "question": ask, "answer": "B. sink", "prediction": null},
        ]),
    );
    let read = |rule: &[&str]| -> Vec<Value> {
        let output = videothinker(
            path,
            &[&["inspect", "answers", "answers.json"], rule].concat(),
        );
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::Deserializer::from_str(&text)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap()
    };
    let official = read(&["--extraction", "official", "--benchmark", "tempcompass"]);
    let gist = |line: &Value| {
        (
            line["exact"].as_f64().unwrap(),
            line["read_by"].as_str().unwrap().to_owned(),
            line["for_a_judge"] == true,
        )
    };
    assert_eq!(gist(&official[0]), (1.0, "benchmark_rule".into(), false));
    assert_eq!(gist(&official[1]), (0.0, "nobody".into(), true));
    assert_eq!(gist(&official[2]), (0.0, "nobody".into(), false));
    let strict = read(&[]);
    assert_eq!(gist(&strict[0]), (1.0, "whole".into(), false));
    assert_eq!(gist(&strict[1]), (1.0, "prose".into(), false));
    let output = videothinker(
        path,
        &[
            "inspect",
            "answers",
            "answers.json",
            "--extraction",
            "official",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    let output = videothinker(
        path,
        &[
            "inspect",
            "answers",
            "answers.json",
            "--benchmark",
            "tempcompas",
        ],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("known are clevrer"), "{errors}");
}
