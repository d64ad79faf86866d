//! Loading and scoring without a model: a benchmark of 100,000 questions (at most 2 s), 10,000 stored answers scored anew
//! (at most 2 s).

#![expect(
    missing_docs,
    reason = "criterion_group! makes functions without documentation"
)]

use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use serde_json::json;
use std::path::Path;
use videothinker::config::Benchmark;
use videothinker::data::benchmark;
use videothinker::eval::stored;

const QUESTIONS: usize = 100_000;
const ANSWERS: usize = 10_000;

/// A benchmark file in Video-MME's official shape.
fn write_questions(path: &Path) {
    let options = ["A. nobody", "B. the man in red", "C. a dog", "D. all"];
    let records: Vec<_> = (0..QUESTIONS)
        .map(|index| {
            json!({
                "video_id": (index / 3).to_string(), "duration": "short", "domain": "Sports", "sub_category": "Ball",
                "videoID": format!("clip{}", index / 3), "question_id": format!("{index}-1"), "task_type": "Counting",
                "question": "Who of the people by the window stands up first?", "options": options, "answer": "B",
            })
        })
        .collect();
    std::fs::write(path, json!(records).to_string()).expect("the temporary folder is writable");
}

/// A finished evaluation with long answers, several splits and three answers a question.
fn write_evaluation(folder: &Path) {
    let settings = json!({
        "model": "m", "weights": "w", "protocol": "own", "questions": "q.json", "questions_hash": "h",
        "questions_asked": ANSWERS, "subset": "all", "config_hash": "c", "wording": "evaluation", "wording_hash": "x",
        "extraction": "strict", "samples": 3, "temperature": 1.0, "max_new_tokens": 768, "video": {},
        "clip_bounds": true, "subtitles": false, "decoder": "d",
    });
    let mut scores = settings.clone();
    scores["questions_answered"] = ANSWERS.into();
    scores["questions_skipped"] = 0.into();
    scores["splits"] = json!({});
    let thought = "The cube moves to the left and meets the sphere. ".repeat(20);
    let lines: String = (0..ANSWERS)
        .map(|index| {
            let letter = ["A", "B", "(C)", "D. because", "", "A,C"][index % 6];
            let text = format!("<think>{thought}</think><answer>{letter}</answer>");
            let sample = json!({"completion": text, "truncated": false, "tokens": 200});
            let line = json!({
                "id": index.to_string(), "video": format!("{}.mp4", index / 3), "solution": "<answer>A,C</answer>",
                "splits": {"task": (index % 20).to_string(), "duration": (index % 3).to_string()},
                "options": ["red", "blue", "green", "grey"], "samples": [sample, sample, sample],
            });
            line.to_string() + "\n"
        })
        .collect();
    for (name, text) in [
        ("settings.json", settings.to_string()),
        ("scores.json", scores.to_string()),
        ("outputs.jsonl", lines),
    ] {
        std::fs::write(folder.join(name), text).expect("the temporary folder is writable");
    }
}

fn evaluation(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("there is a temporary folder");
    let mut group = criterion.benchmark_group("evaluation");
    group.sample_size(10);
    let file = folder.path().join("questions.json");
    write_questions(&file);
    group.bench_function("load 100,000 questions", |bencher| {
        bencher.iter(|| benchmark::read(Benchmark::Videomme, &file, true).map(|all| all.len()));
    });
    write_evaluation(folder.path());
    group.bench_function("rescore 10,000 questions", |bencher| {
        bencher.iter(|| stored::rescore(folder.path(), None).map(|(scores, _)| scores));
    });
    group.finish();
}

criterion_group!(benches, evaluation);
criterion_main!(benches);
