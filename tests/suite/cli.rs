//! The command line: what it says of wrong arguments, and how it looks in terminals and logs.

use crate::run::{Run, assert_code, assert_says, stderr, world};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// Of the program with these arguments: its exit code and what it says.
fn says(arguments: &[&str]) -> (i32, String) {
    let output = crate::program().args(arguments).output().unwrap();
    (output.status.code().unwrap(), stderr(&output))
}

/// What a terminal of so many columns shows of a command, with its carriage returns.
fn terminal(columns: usize, variables: &str, arguments: &[String]) -> String {
    let program = assert_cmd::cargo::cargo_bin("videothinker");
    let quoted = arguments.iter().map(|word| format!("'{word}'"));
    let line = format!(
        "stty cols {columns} rows 40; {variables} {} {}",
        program.display(),
        quoted.collect::<Vec<_>>().join(" ")
    );
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The widest line of what a terminal got; control sequences take no room.
fn widest(shown: &str) -> usize {
    let control = regex::Regex::new("\u{1b}\\[[0-9;?]*[A-Za-z]").unwrap();
    let lines = shown.split(['\n', '\r']);
    let lines = lines.map(|line| control.replace_all(line, "").chars().count());
    lines.max().unwrap()
}

#[test]
fn a_missing_model_is_a_wrong_argument_however_it_is_named() {
    let questions = world().join("world/train_questions.json");
    let questions = format!("data.questions={}", questions.display());
    for arguments in [
        &[
            "train-grpo",
            "--set",
            "model.path=absent",
            "--set",
            &questions,
        ][..],
        &["estimate", "--set", "model.path=absent"],
        &["inspect", "model", "absent"],
        &["eval", "run", "--model", "absent", "--set", &questions],
        &[
            "ask",
            "--model",
            "absent",
            "--video",
            "a.mp4",
            "--question",
            "Why?",
        ],
    ] {
        let (code, said) = says(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains("absent"), "{arguments:?}: {said}");
    }
}

#[test]
fn resume_says_what_it_takes_and_how_a_run_is_lengthened() {
    let mut run = Run::new("train-sft");
    run.set("train.steps", "1");
    let with = |run: &Run, word: &str| run.command().args(["--resume", word]).output().unwrap();
    assert_says(
        &with(&run, "sometimes"),
        2,
        &["--resume sometimes", "auto, never, or a checkpoint"],
    );
    assert_code(&run.run(), 0);
    let folder = run.output().display().to_string();
    assert_says(
        &with(&run, &folder),
        2,
        &["folder of a run", "checkpoints/latest"],
    );
    assert_says(
        &with(&run, "never"),
        1,
        &["already holds a run", "--resume auto"],
    );
    run.set("train.steps", "2");
    assert_says(
        &run.run(),
        2,
        &[
            "train.steps: was 1, is 2",
            "model.path = \"",
            "another output_dir",
        ],
    );
    let mut next = Run::new("train-sft");
    next.set("model.path", &folder);
    assert_says(&next.run(), 2, &["folder of a run", "checkpoints/latest"]);
}

#[test]
fn settings_are_refused_without_words_of_rust() {
    for (setting, said) in [
        ("train.steps=many", "a whole number"),
        ("optimizer.learning_rate=fast", "must be a number"),
        ("data.kinds=5", "observational"),
        ("model.train_vision=perhaps", "true or false"),
        ("num_generations=8", "sampling.group_size"),
    ] {
        let (code, message) = says(&["inspect", "config", "--set", setting]);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(said), "{setting}: {message}");
        for word in ["f64", "usize", "i64", "invalid type", "expected"] {
            assert!(!message.contains(word), "{setting}: {message}");
        }
    }
}

#[test]
fn the_doctor_looks_at_everything_and_shows_no_secret() {
    let output = crate::program()
        .args(["doctor", "--json"])
        .env("HF_TOKEN", "hf_very_secret")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("very_secret"), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let subjects: Vec<&str> = findings
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    for subject in [
        "program",
        "FFmpeg",
        "decoders",
        "driver",
        "cores",
        "memory",
        "disk here",
        "hub",
    ] {
        assert!(subjects.contains(&subject), "{subjects:?}");
    }
    let hub = findings.iter().find(|one| one["subject"] == "hub").unwrap();
    assert_eq!(hub["verdict"], "note", "{hub}");
    assert!(hub["found"].as_str().unwrap().contains("HF_TOKEN"), "{hub}");
    let problems = findings
        .iter()
        .filter(|one| one["verdict"] == "problem")
        .count();
    assert_eq!(report["problems"], problems);
    assert_eq!(output.status.code(), Some(i32::from(problems > 0)));
    let unreachable = crate::program()
        .args(["doctor", "--network"])
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert_code(&unreachable, 1);
    let text = String::from_utf8(unreachable.stdout).unwrap();
    assert!(text.contains("problem network"), "{text}");
}

/// What a build says where FFmpeg's development files are missing: `.cargo/config.toml` has it ask by this script.
#[cfg(unix)]
#[test]
fn a_build_without_ffmpeg_names_the_packages() {
    use std::os::unix::fs::PermissionsExt;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = std::fs::read_to_string(source.join(".cargo/config.toml")).unwrap();
    let script = "scripts/lib/pkg_config.sh";
    assert!(config.contains(script), "{config}");
    let tools = tempfile::tempdir().unwrap();
    let tool = |name: &str, text: &str| {
        let path = tools.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    tool("apt-get", "exit 0");
    tool("tr", "exec /usr/bin/env -i PATH=/usr/bin:/bin tr \"$@\"");
    let probe = |arguments: &[&str]| {
        let output = Command::new("/bin/bash")
            .arg(source.join(script))
            .args(arguments)
            .env("PATH", tools.path())
            .env_remove("FFMPEG_DIR")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (
            output.status.code(),
            said,
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let packages = "pkg-config libavutil-dev libavcodec-dev libavformat-dev libswscale-dev";
    let (code, said, _) = probe(&["--libs", "libavutil"]);
    assert_eq!(code, Some(127), "{said}");
    assert!(said.contains("no pkg-config"), "{said}");
    assert!(
        said.contains("sudo apt-get install") && said.contains(packages),
        "{said}"
    );

    tool("pkg-config", "echo \"no $2\" >&2; exit 1");
    let (code, said, _) = probe(&["--libs", "libavutil"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("no libavutil") && said.contains(packages),
        "{said}"
    );
    let (code, said, _) = probe(&["--libs", "zlib"]);
    assert_eq!((code, said.as_str()), (Some(1), "no zlib\n"));

    // Nothing is to be installed where only this way of asking fails.
    tool("pkg-config", "[ \"$1\" = --exists ]");
    tool("cc", "");
    tool("c++", "");
    let (code, said, _) = probe(&["--static", "libavutil"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains(packages), "{said}");

    tool("pkg-config", "echo \"-l$2\"");
    let found = probe(&["--libs", "libavutil"]);
    assert_eq!(found, (Some(0), String::new(), "-llibavutil\n".to_owned()));
}

#[test]
fn shells_and_manuals_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = crate::program()
            .args(["completions", shell])
            .output()
            .unwrap();
        assert_code(&output, 0);
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["train-grpo", "doctor", "completions"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    let output = crate::program()
        .args(["man", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert_code(&output, 0);
    let page = std::fs::read_to_string(out.join("videothinker-train-grpo.1")).unwrap();
    assert!(
        page.contains("questions_per_step") || page.contains("train\\-grpo"),
        "{page}"
    );
    assert!(out.join("videothinker-eval-run.1").is_file());
    let output = crate::program().arg("man").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with(".ie"));
}

#[test]
fn a_training_fits_its_terminal_and_logs_its_steps() {
    let run = Run::new("train-grpo");
    let shown = terminal(80, "", &run.arguments());
    assert!(shown.contains("done: 4 steps"), "{shown}");
    let bar = |line: &&str| line.contains("step 4/4");
    let bars: Vec<&str> = shown.split(['\n', '\r']).filter(bar).collect();
    assert!(
        !bars.is_empty() && bars.iter().all(|line| widest(line) <= 80),
        "{bars:?}"
    );
    assert!(bars.iter().any(|line| line.contains("reward")), "{bars:?}");
    assert!(shown.contains('\u{1b}'), "colours");
    let log = String::from_utf8(run.read("log.txt")).unwrap();
    assert!(log.contains("step 4/4: reward"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
    assert!(
        log.contains("million weights") && log.contains("on CPU"),
        "{log}"
    );
    let plain = Run::new("train-grpo");
    let shown = terminal(60, "NO_COLOR=1", &plain.arguments());
    assert!(
        !shown.contains("\u{1b}[3") && !shown.contains("\u{1b}[2m"),
        "{shown}"
    );
    let bars: Vec<&str> = shown.split(['\n', '\r']).filter(bar).collect();
    assert!(bars.iter().all(|line| widest(line) <= 60), "{bars:?}");
}

/// A finished evaluation of the untrained model.
fn evaluated(out: &Path) -> String {
    let path = |name: &str| world().join(name).display().to_string();
    let output = crate::program()
        .args(["eval", "run", "--model", &path("untrained"), "--out"])
        .arg(out)
        .args([
            "--set",
            &format!("data.questions={}", path("world/train_questions.json")),
        ])
        .args([
            "--set",
            &format!("data.video_root={}", path("world/videos")),
        ])
        .args([
            "--set",
            "model.dtype=f32",
            "--set",
            "model.device=cpu",
            "--set",
            "sampling.max_new_tokens=3",
        ])
        .args([
            "--set",
            "video.max_frames=8",
            "--set",
            "video.min_pixels=12544",
            "--set",
            "video.max_pixels=12544",
        ])
        .args(["--set", "eval.batch_size=1"])
        .output()
        .unwrap();
    assert_code(&output, 0);
    stderr(&output)
}

#[test]
fn tables_fit_their_terminals_and_logs_stay_short() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("eval");
    let log = evaluated(&out);
    let progress: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("% right so far"))
        .collect();
    assert!((1..=21).contains(&progress.len()), "{log}");
    assert!(log.contains(" questions in "), "{log}");
    let out = out.display().to_string();
    let words = |line: &str| -> Vec<String> {
        let words = line.split(' ');
        words.map(|word| word.replace("OUT", &out)).collect()
    };
    for columns in [60, 80, 100, 120, 200] {
        for (line, number) in [
            ("eval rescore OUT", "accuracy"),
            ("eval table OUT", "all"),
            (
                "eval table --grid base/CLEVRER=OUT base/MMVU=52.8 own/CLEVRER=61.3 own/Holmes=33.3",
                "52.8",
            ),
            ("estimate --set model.device=cpu --card a6000", "at most"),
        ] {
            let shown = terminal(columns, "", &words(line));
            let table = shown.lines().filter(|line| !line.contains(&out));
            let table: Vec<&str> = table.collect();
            assert!(shown.contains(number), "{columns}, {line}: {shown}");
            assert!(
                widest(&table.join("\n")) <= columns,
                "{columns}, {line}: {shown}"
            );
        }
    }
    let narrow = terminal(60, "", &words("eval rescore OUT"));
    assert!(narrow.contains("lack of width: best constant"), "{narrow}");
    let wide = terminal(200, "", &words("eval rescore OUT"));
    assert!(
        wide.contains("best constant") && !wide.contains("lack of width"),
        "{wide}"
    );
}
