//! `ask` and `eval`: what is written is what the CPU writes.

use crate::run::world;
use crate::software::{FEW_PIXELS, ask, assert_clean, call, json, mini};
use serde_json::Value;

fn answer(device: &str, more: &[&str]) -> Value {
    json(&ask(&mini(), "24", more), device)
}

#[test]
fn a_question_gets_the_answer_of_the_cpu() {
    // Drawn from the whole vocabulary and from the most likely ones, or always the most likely one; as a graph too.
    let draws = ["sampling.top_k=0", "sampling.top_p=0.9", "sampling.top_k=5"];
    for draw in draws {
        let expected = answer("cpu", &["--set", draw]);
        assert_eq!(answer("cuda:0", &["--set", draw]), expected, "{draw}");
    }
    let expected = answer("cpu", &["--greedy"]);
    for more in [
        &["--greedy"][..],
        &["--greedy", "--set", "sampling.cuda_graph=true"],
    ] {
        assert_eq!(answer("cuda:0", more), expected, "{more:?}");
    }
}

#[test]
fn an_evaluation_has_the_answers_and_scores_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let of = |device: &str, more: &[&str]| {
        let out = folder.path().join(format!("{device}{}", more.len()));
        let (out, model) = (out.display().to_string(), mini());
        let questions = world().join("world/train_questions.json");
        let questions = format!("data.questions={}", questions.display());
        let videos = format!("data.video_root={}", world().join("world/videos").display());
        let arguments = [
            "eval",
            "run",
            "--model",
            &model,
            "--out",
            &out,
            "--set",
            &questions,
            "--set",
            &videos,
            "--set",
            "eval.wording=training",
            "--set",
            "eval.batch_size=4",
            "--set",
            "data.samples=6",
            "--set",
            "sampling.max_new_tokens=24",
            "--json",
        ];
        let output = call(&[&arguments[..], FEW_PIXELS, more].concat(), device, &[]);
        assert_clean(&output);
        let answers = std::fs::read_to_string(format!("{out}/outputs.jsonl")).unwrap();
        assert!(answers.lines().count() == 6, "{answers}");
        let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
        (answers, scores)
    };
    let expected = of("cpu", &[]);
    assert_eq!(of("cuda:0", &[]), expected);
    assert_eq!(
        of("cuda:0", &["--set", "sampling.cuda_graph=true"]),
        expected
    );
}
