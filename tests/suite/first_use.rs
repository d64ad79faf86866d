//! From a question file to an evaluated model, by what `init` writes and prints; and plain GRPO by its name.

use crate::run::{Run, assert_code, assert_same, assert_says, stderr, world};
use std::path::Path;
use std::process::{Command, Output};

fn init(folder: &Path, more: &[&str]) -> Output {
    let mut command = crate::program();
    command
        .current_dir(folder)
        .args(["init", "--yes"])
        .args(more);
    command.output().unwrap()
}

/// Questions, clips and model of the miniature world, in arguments.
fn of_the_world() -> Vec<String> {
    let path = |name: &str| world().join(name).display().to_string();
    vec![
        "--questions".into(),
        path("world/train_questions.json"),
        "--video-root".into(),
        path("world/videos"),
        "--model".into(),
        path("untrained"),
    ]
}

/// The commands that `init` printed.
fn printed(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut commands: Vec<String> = Vec::new();
    for line in text.lines().skip_while(|line| *line != "Next:").skip(1) {
        match line.strip_prefix("  videothinker ") {
            Some(command) => commands.push(command.to_owned()),
            // A question of several lines.
            None if !line.starts_with('(') => {
                let last = commands.last_mut().unwrap();
                *last = format!("{last}\n{line}");
            }
            None => {}
        }
    }
    commands
}

/// What a shell makes of a printed command.
fn shell(folder: &Path, command: &str) -> Output {
    let program = assert_cmd::cargo::cargo_bin("videothinker");
    let mut shell = Command::new("sh");
    shell.current_dir(folder).env_remove("RUST_LOG");
    shell.args(["-c", &format!("{} {command}", program.display())]);
    shell.output().unwrap()
}

#[test]
fn what_init_prints_trains_evaluates_and_asks() {
    let folder = tempfile::tempdir().unwrap();
    let own = of_the_world();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let output = init(folder.path(), &[&own[..], &["--card", "cpu"]].concat());
    assert_code(&output, 0);
    let config = std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
    let lines = config.lines().filter(|line| !line.is_empty()).count();
    assert!((15..=30).contains(&lines), "{config}");
    assert!(
        config.starts_with("# Plain GRPO on all questions, on a CPU: videothinker train-grpo"),
        "{config}"
    );
    for line in config.lines().filter(|line| line.contains(" = ")) {
        assert!(line.contains("  # "), "no reason: {line}");
    }
    let commands = printed(&output);
    let verbs: Vec<&str> = commands
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        verbs,
        [
            "data",
            "train-grpo",
            "train-grpo",
            "eval",
            "eval",
            "ask",
            "export"
        ],
        "{commands:?}"
    );
    for command in &commands {
        let fewer = match command.split(' ').next().unwrap() {
            "train-grpo" => {
                " --set train.steps=2 --set train.questions_per_step=2 --set sampling.max_new_tokens=6"
            }
            "eval" => " --set data.samples=2 --set sampling.max_new_tokens=6",
            "ask" => " --max-tokens 4",
            _ => "",
        };
        assert_code(&shell(folder.path(), &format!("{command}{fewer}")), 0);
    }
    for file in [
        "runs/own/eval/base/scores.json",
        "runs/own/eval/trained/scores.json",
        "my-model/README.md",
    ] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }

    let again = init(folder.path(), &[&own[..], &["--card", "cpu"]].concat());
    assert_says(&again, 2, &["config.toml is there already", "--force"]);
    let forced = init(
        folder.path(),
        &[&own[..], &["--card", "cpu", "--force"]].concat(),
    );
    assert_code(&forced, 0);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("config.toml")).unwrap(),
        config
    );
}

#[test]
fn two_stages_are_two_files_that_fit_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let own = of_the_world();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let stages = [
        "own", "--card", "cpu", "--stage", "cdpo", "--out", "runs/two",
    ];
    let output = init(folder.path(), &[&own[..], &stages].concat());
    assert_code(&output, 0);
    let commands = printed(&output);
    assert!(
        commands[1] == format!("{} --dry-run", commands[2])
            && commands[2] == "train-bias --config own/bias.toml",
        "{commands:?}"
    );
    assert!(
        commands[3].starts_with("train-cdpo --config own/cdpo.toml"),
        "{commands:?}"
    );
    let cdpo = std::fs::read_to_string(folder.path().join("own/cdpo.toml")).unwrap();
    assert!(
        cdpo.contains("bias_model = \"runs/two/bias/checkpoints/latest\""),
        "{cdpo}"
    );
    assert_code(&shell(folder.path(), &commands[1]), 0);
    let early = shell(folder.path(), &commands[3]);
    assert_says(&early, 2, &["model.bias_model", "there is no model folder"]);
}

#[test]
fn init_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], parts: &[&str]| {
        assert_says(&init(folder.path(), arguments), 2, parts);
        assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 1);
    };
    refused(&[], &["--questions FILE"]);
    let line = r#"{"problem": "Which?\nA. red\nB. blue", "solution": "<answer>A</answer>", "video": "a.mp4"}"#;
    std::fs::write(folder.path().join("q.jsonl"), line).unwrap();
    let with =
        |more: &[&'static str]| [&["--questions", "q.jsonl", "--video-root", "."], more].concat();
    refused(&with(&["--card", "rtx"]), &["--card", "24GB"]);
    refused(
        &with(&["--card", "h100", "--model", "absent"]),
        &["no model folder absent"],
    );
    refused(
        &with(&["--card", "h100", "--stage", "bias"]),
        &["\"observational\"", "data label", "grpo"],
    );
    refused(
        &with(&["own.toml", "--card", "h100", "--stage", "cdpo"]),
        &["name a folder"],
    );
    // Of a model that is not here, the memory is only known where its sizes are.
    let output = init(folder.path(), &with(&["--card", "a6000"]));
    assert_code(&output, 0);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.contains("GB on an NVIDIA RTX A6000"), "{said}");
    assert!(
        stderr(&output).contains("missing: 1 clip, such as"),
        "{}",
        stderr(&output)
    );
    let config = std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
    assert!(
        config.contains("memory = \"compact\"  # 4 bytes a weight"),
        "{config}"
    );
    let small = init(folder.path(), &with(&["small.toml", "--card", "8GB"]));
    assert_code(&small, 1);
    let said = String::from_utf8(small.stdout).unwrap();
    assert!(
        said.contains("of 8.0 GB on a card of 8 GB")
            && said.contains("That is too much")
            && !said.contains("Next:"),
        "{said}"
    );
    let unknown = with(&["own.toml", "--card", "h100", "--model", "owner/other"]);
    let output = init(folder.path(), &unknown);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("is not known") && said.contains("videothinker estimate"),
        "{said}"
    );
}

#[test]
fn plain_grpo_is_cdpo_without_its_term_and_either_goes_on() {
    let by_name = Run::new("train-grpo");
    let mut by_coefficient = Run::new("train-cdpo");
    by_coefficient.set("kl.coefficient", "0");
    assert_code(&by_name.run(), 0);
    by_coefficient.set("train.stop_after", "2");
    assert_code(&by_coefficient.run(), 0);
    // The second half by the other name.
    by_coefficient.verb = "train-grpo";
    by_coefficient.set("train.stop_after", "4");
    assert_says(&by_coefficient.run(), 0, &["going on from", "steps 3 to 4"]);
    assert_same(
        &by_name,
        &by_coefficient,
        &[
            "metrics.jsonl",
            "rollouts.jsonl",
            "checkpoints/latest/model.safetensors",
        ],
    );
    assert_says(&by_name.run(), 0, &["already complete"]);
}
