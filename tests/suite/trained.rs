//! A checkpoint says how it was trained, and whoever asks it begins with that.

use crate::run::Run;
use crate::run::assert_code;
use crate::run::stderr;
use crate::run::world;
use crate::videothinker;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const MINI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/mini");
const QUESTION: &str = "What will happen without the red sphere?\nA. The blue sphere and the cyan cylinder collide\nB. \
                        The blue sphere and the purple cube collide\nC. The cyan cylinder and the purple cube collide";

fn ran(folder: &Path, args: &[&str]) -> Output {
    let output = videothinker(folder, args);
    assert_code(&output, 0);
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A clip of the world.
fn clip() -> String {
    let text = std::fs::read_to_string(world().join("world/train_questions.json")).unwrap();
    let questions: Value = serde_json::from_str(&text).unwrap();
    let video = questions[0]["video"].as_str().unwrap();
    let path = world().join("world/videos").join(video);
    path.display().to_string()
}

#[test]
fn the_miniature_is_asked_as_it_was_trained_without_a_config() {
    let (folder, clip) = (tempfile::tempdir().unwrap(), clip());
    let asked = [
        "ask",
        "--model",
        MINI,
        "--video",
        &clip,
        "--question",
        QUESTION,
        "--greedy",
    ];
    let plain = ran(folder.path(), &asked);
    assert!(
        stderr(&plain).contains("asked as the model was trained"),
        "{}",
        stderr(&plain)
    );
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/mini/eval.toml");
    let told = ran(folder.path(), &[&asked[..], &["--config", config]].concat());
    assert_eq!(stdout(&plain), stdout(&told));
    assert!(
        stdout(&plain).contains("</think><answer>"),
        "{}",
        stdout(&plain)
    );
    let other = [
        "--set",
        "video.max_frames=16",
        "--set",
        "video.min_frames=16",
    ];
    let departs = stderr(&ran(folder.path(), &[&asked[..], &other].concat()));
    assert!(
        departs.contains("not asked as the model was trained")
            && departs.contains("video.max_frames = 16 instead of 8"),
        "{departs}"
    );
    // What the model sees is looked at with the same settings.
    let seen = ran(folder.path(), &["inspect", "video", &clip, "--model", MINI]);
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen["resized"], serde_json::json!([112, 112]));
    assert_eq!(seen["indices"].as_array().unwrap().len(), 8);
}

#[test]
fn a_trained_model_is_evaluated_in_the_words_of_its_training() {
    let mut run = Run::new("train-cdpo");
    run.set("kl.coefficient", "0");
    run.set("train.steps", "1");
    run.set("video.fps", "3");
    assert_code(&run.run(), 0);
    let checkpoint = run.output().join("checkpoints/latest");
    let file = std::fs::read_to_string(checkpoint.join("videothinker.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    assert_eq!(file["step"], 1);
    assert!(file["prompt"].as_str().unwrap().starts_with("{question}"));
    assert_eq!(file["settings"]["video"]["fps"], 3.0);
    let processor = checkpoint.join("video_preprocessor_config.json");
    let processor: Value =
        serde_json::from_str(&std::fs::read_to_string(processor).unwrap()).unwrap();
    assert_eq!(processor["size"]["longest_edge"], 12544);
    assert_eq!(processor["max_frames"], 8);
    assert_eq!(processor["fps"], 3.0);
    // It would go before `size` in transformers.
    assert_eq!(processor["max_pixels"], Value::Null);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| world().join(name).display().to_string();
    let (questions, root) = (
        format!("data.questions={}", path("world/validation_questions.json")),
        format!("data.video_root={}", path("world/videos")),
    );
    let model = checkpoint.display().to_string();
    let evaluated = |more: &[&str]| {
        let common = [
            "eval",
            "run",
            "--model",
            &model,
            "--json",
            "--set",
            &questions,
            "--set",
            &root,
            "--set",
            "data.samples=2",
        ];
        let output = ran(folder.path(), &[&common[..], more].concat());
        let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
        (scores, stderr(&output))
    };
    let (scores, said) = evaluated(&["--out", "as_trained"]);
    assert!(said.contains("asked as the model was trained"), "{said}");
    assert_eq!(scores["wording"], "training", "{scores}");
    let (scores, said) = evaluated(&["--out", "protocol", "--set", "eval.protocol=authors"]);
    assert!(
        said.contains("the protocol asks otherwise than the model was trained"),
        "{said}"
    );
    assert_ne!(scores["wording"], "training", "{scores}");
    let (_, said) = evaluated(&["--out", "wording", "--set", "eval.wording=evaluation"]);
    assert!(
        said.contains("eval.wording = \"evaluation\" instead of \"training\""),
        "{said}"
    );
    let preview = [
        "eval",
        "run",
        "--dry-run",
        "--model",
        &model,
        "--set",
        &questions,
        "--set",
        &root,
    ];
    let preview = stdout(&ran(folder.path(), &preview));
    assert!(preview.contains("Output the thinking process"), "{preview}");
}
