//! The tutorial of `docs/your-videos.md`, line by line, on twenty clips of the miniature world under other names.

use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The lines of the page's marked blocks.
fn lines() -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(ROOT).join("docs/your-videos.md")).unwrap();
    let blocks = page.split("<!-- tutorial -->").skip(1);
    let blocks = blocks.map(|rest| rest.split("<!-- /tutorial -->").next().unwrap());
    let lines = blocks.flat_map(|block| block.lines().map(str::trim));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("```"))
        .map(str::to_owned)
        .collect()
}

fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = crate::videothinker(folder, arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// `videos/01.mp4` to `20.mp4`, and what LLaVA's trainer would read of them.
fn own_videos(folder: &Path) {
    let world = [
        "data",
        "mini",
        "--out",
        "world",
        "--train",
        "0",
        "--validation",
        "20",
    ];
    run(folder, &world);
    std::fs::create_dir(folder.join("videos")).unwrap();
    let text = std::fs::read_to_string(folder.join("world/validation_questions.json")).unwrap();
    let questions: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut records = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        let name = format!("{:02}.mp4", index + 1);
        let clip = folder
            .join("world/videos")
            .join(question["video"].as_str().unwrap());
        std::fs::copy(clip, folder.join("videos").join(&name)).unwrap();
        let asked = format!("<video>\n{}", question["problem"].as_str().unwrap());
        let right = question["solution"].as_str().unwrap();
        let right = right.replace("<answer>", "").replace("</answer>", "");
        records.push(json!({
            "id": index, "video": name,
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": right}],
        }));
    }
    assert_eq!(records.len(), 20);
    std::fs::write(folder.join("theirs.json"), json!(records).to_string()).unwrap();
    std::fs::remove_dir_all(folder.join("world")).unwrap();
}

#[test]
fn every_command_of_the_tutorial_runs() {
    let folder = tempfile::tempdir().unwrap();
    own_videos(folder.path());
    let program = assert_cmd::cargo::cargo_bin("videothinker");
    let path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let mut script = String::from("set -e\n");
    let lines = lines();
    assert!(lines.len() > 12, "{lines:?}");
    for line in &lines {
        let line = match line.split_once('=') {
            Some(("MODEL", _)) => format!("MODEL={ROOT}/data/mini"),
            _ => line.clone(),
        };
        // What is learnt is not looked at here.
        let trains = line.starts_with("videothinker train-") && !line.contains("--dry-run");
        let shorter = if trains {
            " --set train.steps=2 --set sampling.group_size=2"
        } else {
            ""
        };
        // Whether this machine could train a 3B is not looked at either.
        let or = if line.contains(" doctor") {
            " || true"
        } else {
            ""
        };
        let line = match line.split_once(" #") {
            Some((command, _)) => format!("{command}{or}"),
            None => line,
        };
        script += &format!(
            "echo '== {}' >&2\n{line}{shorter}\n",
            line.replace('\'', "")
        );
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", path.unwrap())
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let (said, printed) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    assert!(output.status.success(), "{said}\n{printed}");
    assert!(
        printed.contains("own/validation.jsonl: 4 questions about 4 clips"),
        "{printed}"
    );
    let card = std::fs::read_to_string(folder.path().join("my-model/README.md")).unwrap();
    assert!(card.contains("model-index"), "{card}");
    // The exported model is asked as the checkpoint is.
    let record = |model: &str| {
        std::fs::read_to_string(folder.path().join(model).join("videothinker.json")).unwrap()
    };
    assert_eq!(record("my-model"), record("runs/own/checkpoints/latest"));
    assert!(folder.path().join("runs/two").is_dir());
}

#[test]
fn a_question_file_is_divided_by_clips_and_nothing_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let line = |id: usize, clip: &str| {
        json!({"id": id.to_string(), "problem": "Q?", "solution": "a", "video": clip}).to_string()
    };
    let lines: Vec<String> = (0..12)
        .map(|id| line(id, &format!("{}.mp4", id / 2)))
        .collect();
    std::fs::write(path.join("all.jsonl"), lines.join("\n")).unwrap();
    let split = [
        "data",
        "split",
        "all.jsonl",
        "--out",
        "own",
        "--validation",
        "0.5",
        "--json",
    ];
    let parts: Value = serde_json::from_str(&run(path, &split)).unwrap();
    assert_eq!(parts[0]["clips"], 3);
    assert_eq!(parts[1]["questions"], 6);
    // The same again is no loss; another division would be one.
    run(path, &split);
    let other = crate::videothinker(path, &[&split[..], &["--seed", "1"]].concat());
    assert_eq!(other.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("is there already, with other questions")
    );
    for (share, said) in [
        ("0", "between 0 and 1"),
        ("1.5", "between 0 and 1"),
        ("x", "between 0 and 1"),
    ] {
        let split = [
            "data",
            "split",
            "all.jsonl",
            "--out",
            "new",
            "--validation",
            share,
        ];
        let refused = crate::videothinker(path, &split);
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said));
    }
    std::fs::write(
        path.join("one.jsonl"),
        line(0, "a.mp4") + "\n" + &line(1, "a.mp4#t=1,2"),
    )
    .unwrap();
    let one = crate::videothinker(path, &["data", "split", "one.jsonl", "--out", "new"]);
    assert_eq!(one.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&one.stderr).contains("one clip"));
}
