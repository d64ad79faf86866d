//! Whole runs through the program: what goes wrong, what goes on, what is equal.

use crate::run::{Run, assert_code, assert_same, assert_says, send, world};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn bad_settings_are_named_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("run.toml");
    let mut text = String::from("[kl]\ncoeficient = 0.1\n");
    std::fs::write(&config, &text).unwrap();
    let with_config = |run: &Run| {
        run.command()
            .args(["--config", config.to_str().unwrap()])
            .output()
            .unwrap()
    };
    let run = Run::new("train-cdpo");
    let expected = [
        "run.toml:2",
        "unknown key `kl.coeficient`",
        "`kl.coefficient`",
    ];
    assert_says(&with_config(&run), 2, &expected);

    text.clear();
    write!(text, "[kl]\n\ncoefficient = -0.01\n").unwrap();
    std::fs::write(&config, &text).unwrap();
    let expected = ["run.toml:3", "`kl.coefficient`", "-0.01", "kl.direction"];
    assert_says(&with_config(&run), 2, &expected);

    let with = |key: &str, value: &str, parts: &[&str]| {
        let mut run = Run::new("train-bias");
        run.set(key, value);
        assert_says(&run.run(), 2, parts);
        assert!(!run.output().exists(), "a failed start leaves nothing");
    };
    with(
        "train.stepz",
        "3",
        &["--set train.stepz=3", "`train.steps`"],
    );
    with(
        "train.steps",
        "many",
        &["`train.steps`", "must be a whole number"],
    );
    with(
        "data.questions",
        "absent.json",
        &["data.questions", "absent.json"],
    );
    with("model.path", "./absent", &["model.path", "./absent"]);
    with(
        "model.bias_model",
        "x/y",
        &["model.bias_model", "train-bias"],
    );

    let output = crate::program()
        .args(["train-sft", "--no-such-flag"])
        .output()
        .unwrap();
    assert_code(&output, 2);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_writes_nothing() {
    let mut run = Run::cdpo();
    run.set("kl.coefficient", "0.02");
    let output = run.command().arg("--dry-run").output().unwrap();
    assert_code(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["Repel: raise 0.02", "4 steps of 2", "optimizer", "about"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains("Trainer"), "{text}");
    assert!(!run.output().exists());
}

#[test]
fn a_dry_run_says_when_fewer_questions_are_there_than_asked_for() {
    let mut run = Run::cdpo();
    run.set("data.samples", "100000");
    run.set("data.order", "trainer");
    let output = run.command().arg("--dry-run").output().unwrap();
    assert_code(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "data.samples = 100000",
        "all are taken",
        "order of transformers' Trainer",
    ] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("all are taken"), "{log}");
}

#[test]
fn the_memory_is_estimated_before_anything_is_loaded() {
    let run = Run::cdpo();
    let estimate = |extra: &[&str]| {
        let mut command = crate::program();
        command.arg("estimate").args(&run.arguments()[1..]);
        let output = command.args(extra).output().unwrap();
        assert_code(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(estimate(&[]).contains("sampling: key/value cache"));
    let numbers =
        |extra: &[&str]| -> serde_json::Value { serde_json::from_str(&estimate(extra)).unwrap() };
    let cdpo = numbers(&["--json"]);
    let of = |name: &str| cdpo[name].as_u64().unwrap();
    assert_eq!(of("optimizer"), 2 * of("weights"), "two moments in f32");
    assert_eq!(of("bias_model"), of("weights"));
    assert_eq!(of("host"), of("clips") + of("program"));
    let always = ["weights", "optimizer", "bias_model", "host"];
    let always: u64 = always.into_iter().map(of).sum();
    let turns = (of("cache") + of("prefill")).max(of("learning"));
    assert_eq!(of("peak"), always + turns);
    assert_eq!(cdpo["cuda"], 0);
    let host = numbers(&["--json", "--set", "optimizer.memory=host"]);
    assert_eq!(host["optimizer"], 0);
    assert_eq!(host["host_optimizer"], 3 * of("weights"));
    let sft = numbers(&["--json", "--for", "train-sft"]);
    assert_eq!(sft["cache"], 0);
    assert!(!run.output().exists(), "nothing is written");
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_result() {
    let mut whole = Run::new("train-sft");
    whole.set("optimizer.schedule", "cosine");
    assert_code(&whole.run(), 0);
    assert_eq!(whole.lines("metrics.jsonl").len(), 4);

    let mut parts = Run::new("train-sft");
    parts.set("optimizer.schedule", "cosine");
    parts
        .set("checkpoint.every", "1")
        .set("checkpoint.keep", "1");
    let child = parts.start();
    parts.wait_for_steps(1);
    send("-INT", &child);
    let output = child.wait_with_output().unwrap();
    assert_says(
        &output,
        3,
        &["finishing this step", "saved", "stopped at step"],
    );
    let done = parts.lines("metrics.jsonl").len();
    assert!((1..4).contains(&done), "{done} steps before the signal");
    assert_eq!(parts.checkpoints().len(), 2, "the step's and `latest`");
    assert_says(&parts.run(), 0, &["going on from"]);

    let latest = "checkpoints/latest/";
    let weights = format!("{latest}model.safetensors");
    let optimizer = format!("{latest}trainer/optimizer/model.safetensors");
    let state = format!("{latest}trainer/state.json");
    assert_same(
        &whole,
        &parts,
        &["metrics.jsonl", &weights, &optimizer, &state],
    );

    let output = parts
        .command()
        .args(["--resume", "never"])
        .output()
        .unwrap();
    assert_says(&output, 1, &["already holds a run", "step-000004"]);
    parts.set("seed", "7");
    let expected = ["cannot resume", "seed: was 42, is 7"];
    assert_says(&parts.run(), 2, &expected);
}

#[test]
fn equal_runs_are_equal_and_a_killed_one_goes_on_from_its_checkpoint() {
    let with = || {
        let mut run = Run::cdpo();
        run.set("checkpoint.every", "2");
        run
    };
    let (first, second) = (with(), with());
    assert_code(&first.run(), 0);

    let mut child = second.start();
    second.wait_for_steps(3);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_code(&second.run(), 0);

    let weights = "checkpoints/latest/model.safetensors";
    assert_same(
        &first,
        &second,
        &["metrics.jsonl", "rollouts.jsonl", weights],
    );
    let metrics = first.lines("metrics.jsonl");
    assert_eq!(metrics.len(), 4);
    for line in &metrics {
        assert!(line["kl"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["grad_norm"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["sampler_logp_gap"].as_f64().unwrap() < 1e-4, "{line}");
        assert!(
            line.get("step_time").is_none(),
            "clocks are in timings.jsonl"
        );
    }
    assert_eq!(first.lines("timings.jsonl").len(), 4);
    let rollouts = first.lines("rollouts.jsonl");
    assert_eq!(rollouts.len(), 4 * 2 * 2);
    for key in [
        "question_id",
        "completion",
        "accuracy",
        "advantage",
        "finish",
        "kl",
    ] {
        assert!(rollouts[0].get(key).is_some(), "{key}");
    }
}

#[test]
fn the_second_signal_ends_the_run_at_once() {
    let mut run = Run::new("train-sft");
    run.set("train.questions_per_step", "24");
    run.set("checkpoint.every", "1");
    let child = run.start();
    run.wait_for_steps(1);
    // The checkpoint of step 1 is complete when `latest` is there; the second step then takes its time.
    while !run.output().join("checkpoints/latest").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Whether to stop is asked right after it.
    std::thread::sleep(Duration::from_millis(200));
    send("-INT", &child);
    std::thread::sleep(Duration::from_millis(50));
    send("-INT", &child);
    assert_code(&child.wait_with_output().unwrap(), 130);
    assert_eq!(run.checkpoints(), ["latest", "step-000001"]);
}

#[test]
fn a_second_process_is_kept_out() {
    let mut run = Run::new("train-sft");
    run.set("train.questions_per_step", "24");
    let mut child = run.start();
    run.wait_for_steps(1);
    let expected = format!("in use by process {}", child.id());
    assert_says(&run.run(), 1, &[&expected]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_full_disk_loses_nothing() {
    let mut run = Run::new("train-sft");
    run.set("optimizer.schedule", "constant");
    run.set("train.steps", "1");
    assert_code(&run.run(), 0);
    let before = run.read("checkpoints/latest/model.safetensors");

    run.set("train.steps", "2");
    // A limit on file sizes fails writes as a full disk does; a megabyte is less than the weights.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\""])
        .arg(crate::program().get_program())
        .args(run.arguments())
        .output()
        .unwrap();
    let expected = ["no space left for the checkpoint of step 2", "step-000001"];
    assert_says(&output, 1, &expected);
    assert_eq!(run.checkpoints(), ["latest", "step-000001"]);
    assert!(before == run.read("checkpoints/latest/model.safetensors"));

    assert_says(&run.run(), 0, &["going on from"]);
    assert_eq!(run.lines("metrics.jsonl").len(), 2);
}

#[test]
fn the_last_checkpoints_are_kept() {
    let mut run = Run::cdpo();
    run.set("checkpoint.every", "1").set("checkpoint.keep", "2");
    run.set("train.steps", "3")
        .set("sampling.max_new_tokens", "2");
    assert_code(&run.run(), 0);
    assert_eq!(run.checkpoints(), ["latest", "step-000002", "step-000003"]);
    let latest = std::fs::read_link(run.output().join("checkpoints/latest")).unwrap();
    assert_eq!(latest, Path::new("step-000003"));
}

#[test]
fn a_replayed_run_learns_from_the_given_completions() {
    let run = {
        let mut run = Run::new("train-cdpo");
        run.set("kl.coefficient", "0")
            .set("train.questions_per_step", "1");
        run
    };
    let questions = std::fs::read(world().join("world/train_questions.json")).unwrap();
    let questions: Vec<serde_json::Value> = serde_json::from_slice(&questions).unwrap();
    let lines: Vec<String> = questions[..2]
        .iter()
        .map(|question| {
            let right = format!("<think>x</think>{}", question["solution"].as_str().unwrap());
            let completions = serde_json::json!([
                { "text": right, "finish": "stop" },
                { "text": "<think>", "finish": "length" },
            ]);
            serde_json::json!({ "question_id": question["id"], "completions": completions })
                .to_string()
        })
        .collect();
    let file = run.folder.path().join("replay.jsonl");
    let start = |text: String| {
        std::fs::write(&file, text).unwrap();
        let mut command = run.command();
        command.args(["--replay", file.to_str().unwrap()]);
        command.output().unwrap()
    };
    let unknown = lines[0].replace("clevrer/", "absent/");
    assert_says(&start(unknown), 1, &["absent/", "train_questions.json"]);
    assert_code(&start(lines.join("\n")), 0);
    let metrics = run.lines("metrics.jsonl");
    assert_eq!(metrics.len(), 2, "the file ends the run");
    for line in &metrics {
        assert_eq!(
            line["reward"], 1.0,
            "2 for the right one, 0 for the other: {line}"
        );
        assert_eq!(line["completions/clipped_ratio"], 0.5);
        assert!(line["grad_norm"].as_f64().unwrap() > 0.0);
        assert!(line.get("sampler_logp_gap").is_none());
    }
    let rollouts = run.lines("rollouts.jsonl");
    assert_eq!(rollouts[1]["completion"], "<think>");
    assert_eq!(rollouts[1]["finish"], "length");
    assert!(rollouts[0]["advantage"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_broken_clip_is_named_or_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.mp4");
    std::fs::write(&broken, "not a video").unwrap();
    let questions = std::fs::read(world().join("world/train_questions.json")).unwrap();
    let mut questions: Vec<serde_json::Value> = serde_json::from_slice(&questions).unwrap();
    for question in &mut questions {
        question["video"] = broken.display().to_string().into();
    }
    let file = folder.path().join("questions.json");
    std::fs::write(&file, serde_json::to_string(&questions).unwrap()).unwrap();

    let mut run = Run::new("train-cdpo");
    run.set("kl.coefficient", "0").set("train.steps", "2");
    run.set("data.questions", file.to_str().unwrap());
    assert_says(
        &run.run(),
        1,
        &["step 1", "question clevrer/", "broken.mp4"],
    );
    run.set("data.on_bad_video", "skip");
    assert_says(&run.run(), 0, &["skipped", "broken.mp4"]);
    let metrics = run.lines("metrics.jsonl");
    assert_eq!(metrics[1]["skipped_videos"], 4);
    assert!(
        run.lines("rollouts.jsonl").is_empty(),
        "nothing took its place"
    );
}

#[test]
fn the_divergence_guard_halves_or_stops() {
    // An untrained model never holds the format.
    let mut run = Run::cdpo();
    run.set("kl.guard", "halve").set("train.steps", "2");
    assert_says(&run.run(), 0, &["halved to 0.005"]);
    let metrics = run.lines("metrics.jsonl");
    assert_eq!(metrics[0]["kl_coefficient"], 0.01);
    assert_eq!(metrics[1]["kl_coefficient"], 0.005);

    let mut run = Run::cdpo();
    run.set("kl.guard", "stop");
    assert_says(&run.run(), 1, &["fell below kl.guard_format", "step 1"]);
    assert_eq!(run.checkpoints(), ["latest", "step-000001"]);
}

#[test]
fn steps_that_are_not_finite_are_left_out_and_end_the_run() {
    let mut run = Run::new("train-sft");
    run.set("optimizer.learning_rate", "1e25");
    run.set("optimizer.schedule", "constant");
    run.set("train.steps", "9").set("train.max_bad_steps", "2");
    assert_says(
        &run.run(),
        1,
        &["not finite in 2 steps in a row", "bad_steps.jsonl"],
    );
    let bad = run.lines("bad_steps.jsonl");
    assert_eq!(bad.len(), 2);
    assert!(bad[0]["sample"][0].as_str().unwrap().starts_with("mini/"));
    let metrics = run.lines("metrics.jsonl");
    assert_eq!(metrics.last().unwrap()["skipped_update"], 1);
    assert_eq!(metrics[0]["skipped_update"], 0);
}
