//! The script that makes the paper's tables: what it says before it starts, and all of it in miniature.

use std::path::Path;
use std::process::Command;
use std::process::Output;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str, arguments: &[&str]) -> Output {
    Command::new("bash")
        .arg(repository().join("scripts").join(name))
        .args(["--binary", env!("CARGO_BIN_EXE_videothinker")])
        .args(arguments)
        .env("HF_HUB_CACHE", "absent")
        .output()
        .unwrap()
}

fn printed(name: &str, arguments: &[&str]) -> String {
    let output = script(name, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The line that begins with `state` and names `path`.
fn has(text: &str, state: &str, path: &str) -> bool {
    text.lines()
        .any(|line| line.starts_with(state) && line.split_whitespace().any(|word| word == path))
}

#[test]
fn a_dry_run_lists_files_runs_and_estimates() {
    let text = printed("reproduce_paper.sh", &["--dry-run"]);
    for path in [
        "data/clevrer/video_train.zip",
        "data/mmvu/videos",
        "data/mvbench/json",
        "data/tempcompass/questions",
        "data/videomme/videos_chunked_20.zip",
        "data/video_holmes/videos.zip",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "QiWang98/VideoRFT-3B",
    ] {
        assert!(
            has(&text, "missing", path) || has(&text, "there", path),
            "{path}: {text}"
        );
    }
    for run in [
        "bias",
        "cdpo",
        "grpo",
        "attract",
        "self_repel",
        "repel_videorft",
    ] {
        assert!(
            text.contains(&format!("runs/clevrer/{run} ")),
            "{run}: {text}"
        );
    }
    for card in ["1 × NVIDIA H200", "2 × NVIDIA RTX A6000"] {
        assert_eq!(text.matches(card).count(), 2, "{text}");
    }
    assert_eq!(text.matches("nothing of it is measured").count(), 4);
    assert_eq!(text.matches("  fits: ").count(), 4, "{text}");
}

#[test]
fn released_models_are_evaluated_or_repelled_from_without_stage_one() {
    let text = printed("reproduce_paper.sh", &["--dry-run", "--released"]);
    for model in [
        "Falconss1/VideoThinker-R1-3B",
        "Falconss1/VideoThinker-R1-Bias-3B",
    ] {
        assert!(has(&text, "missing", model), "{text}");
    }
    assert!(
        !text.contains("to make") && text.contains("Nothing is trained"),
        "{text}"
    );
    let bias = "Falconss1/VideoThinker-R1-Bias-3B";
    let text = printed("reproduce_clevrer.sh", &["--dry-run", "--bias-model", bias]);
    assert!(
        has(&text, "missing", bias) && !text.contains("runs/clevrer/bias"),
        "{text}"
    );
    assert!(
        !text.contains("mmvu") && text.contains("runs/clevrer/cdpo"),
        "{text}"
    );
}

#[test]
fn what_is_not_known_is_refused() {
    for (arguments, wanted) in [
        (["--benchmarks", "mmvu,nextqa"], "--benchmarks nextqa"),
        (["--models", "base,gpt"], "--models gpt"),
    ] {
        let output = script("reproduce_paper.sh", &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(wanted), "{errors}");
    }
}

/// A repository as far as the script needs it, so that nothing is left in this one.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    for part in ["scripts", "configs", "tests", "data/mini"] {
        std::os::unix::fs::symlink(repository().join(part), folder.path().join(part)).unwrap();
    }
    folder
}

fn miniature(folder: &Path) -> (String, String) {
    let output = Command::new("bash")
        .arg("scripts/reproduce_paper.sh")
        .args(["--mini", "--binary", env!("CARGO_BIN_EXE_videothinker")])
        .args([
            "--models",
            "base,bias,cdpo",
            "--benchmarks",
            "clevrer,mvbench,videomme",
        ])
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (tables, log) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{log}");
    (tables, log)
}

/// A part of what `scripts/reproduce_paper.sh --mini` does, which takes a minute or more.
#[test]
fn the_miniature_makes_both_tables_and_is_passed_over_when_started_again() {
    let folder = workplace();
    let (tables, log) = miniature(folder.path());
    assert!(log.contains("== train-bias"), "{log}");
    let row = |start: &str| {
        let line = tables.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("{start}: {tables}"));
        line.split('|')
            .map(str::trim)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        row("| model")[1..5],
        ["model", "CLEVRER", "MVBench", "Video-MME"]
    );
    assert_eq!(row("| published: CDPO")[2..5], ["79.1", "60.9", "52.4"]);
    for model in [
        "| base",
        "| bias model",
        "| CDPO",
        "| repel base",
        "| repel VideoRFT",
        "| attract",
    ] {
        assert!(row(model)[2].contains('.'), "{tables}");
    }
    assert!(
        tables.contains("at most 42.7 %") && tables.contains("the miniature"),
        "{tables}"
    );
    let (again, log) = miniature(folder.path());
    assert_eq!(again, tables);
    assert!(
        log.lines()
            .all(|line| !line.starts_with("==") || line.ends_with("done before")),
        "{log}"
    );
    // A run whose model is gone is made again.
    let run = folder.path().join("runs/paper_mini/runs/clevrer/attract");
    std::fs::remove_dir_all(&run).unwrap();
    let (again, log) = miniature(folder.path());
    assert_eq!(again, tables);
    for step in ["== train-attract", "== eval-attract-clevrer"] {
        assert!(log.lines().any(|line| line == step), "{log}");
    }
    assert!(run.is_dir());
}
