//! Several processes that train one model, through the program.

use crate::run::{Run, assert_close, assert_code, assert_says, children, send, stderr, world};
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_mins(2);
/// What another order of additions does to a number. The largest rounding error of a log-probability is among them, and
/// itself some 1e-6.
const ORDER: f64 = 1e-5;

impl Run {
    fn run_on(&self, ranks: usize) -> Output {
        let ranks = ranks.to_string();
        self.command().args(["--ranks", &ranks]).output().unwrap()
    }

    fn start_on(&self, ranks: usize) -> Child {
        let mut command = self.command();
        command.args(["--ranks", &ranks.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// As one of two ranks that somebody else starts.
    fn start_as(&self, rank: usize, port: u16, folder: &Path) -> Child {
        let mut command = self.command();
        command.current_dir(folder);
        command.env("RANK", rank.to_string());
        command.env("LOCAL_RANK", rank.to_string());
        command.env("WORLD_SIZE", "2");
        command.env("MASTER_ADDR", "127.0.0.1");
        command.env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

fn cdpo() -> Run {
    let mut run = Run::cdpo();
    run.set("train.questions_per_step", "4");
    run
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn several_ranks_do_what_one_does() {
    for (loss, updates) in [("grpo", "1"), ("dapo", "2")] {
        let with = || {
            let mut run = cdpo();
            run.set("objective.loss", loss);
            run.set("train.updates_per_rollout", updates);
            run
        };
        let (one, two, three) = (with(), with(), with());
        assert_code(&one.run(), 0);
        assert_says(&two.run_on(2), 0, &["2 ranks share"]);
        assert_code(&three.run_on(3), 0);
        for several in [&two, &three] {
            let names = ["metrics.jsonl", "rollouts.jsonl"];
            assert_close(several, &one, &names, ORDER);
        }
        let environment: Value = serde_json::from_slice(&two.read("environment.json")).unwrap();
        assert_eq!(environment["ranks"], 2);
    }
}

#[test]
fn several_ranks_learn_worked_answers_as_one_does() {
    let mut with = [Run::new("train-sft"), Run::new("train-sft")];
    for run in &mut with {
        run.set("sft.grounding_weight", "0.5");
        run.set("train.questions_per_step", "3");
    }
    let [one, two] = with;
    assert_code(&one.run(), 0);
    assert_code(&two.run_on(2), 0);
    assert_eq!(one.lines("metrics.jsonl").len(), 4);
    assert_close(&two, &one, &["metrics.jsonl"], ORDER);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let mut whole = cdpo();
    whole.set("train.steps", "6");
    assert_code(&whole.run(), 0);
    let mut parts = cdpo();
    parts.set("train.steps", "6");
    let child = parts.start_on(2);
    parts.wait_for_steps(1);
    send("-INT", &child);
    assert_says(&child.wait_with_output().unwrap(), 3, &["stopped at step"]);
    let done = parts.lines("metrics.jsonl").len();
    assert!((1..6).contains(&done), "{done} steps before the signal");
    assert_says(&parts.run_on(4), 0, &["going on from"]);
    assert_eq!(parts.lines("metrics.jsonl").len(), 6);
    assert_close(&parts, &whole, &["metrics.jsonl"], ORDER);
}

fn endless() -> Run {
    let mut run = cdpo();
    run.set("train.steps", "100000");
    run
}

#[test]
fn a_killed_rank_ends_the_run_and_is_named() {
    let run = endless();
    let parent = run.start_on(3);
    run.wait_for_steps(1);
    let ranks = children(&parent);
    assert_eq!(ranks.len(), 2);
    let status = std::process::Command::new("kill")
        .args(["-9", &ranks[1]])
        .status();
    assert!(status.unwrap().success());
    let start = Instant::now();
    let output = parent.wait_with_output().unwrap();
    assert!(start.elapsed() < SOON);
    assert_says(&output, 1, &["rank 2 failed: it ended without a word"]);
}

#[test]
fn without_rank_0_no_rank_stays() {
    let run = endless();
    let mut parent = run.start_on(2);
    run.wait_for_steps(1);
    let ranks = children(&parent);
    assert_eq!(ranks.len(), 1);
    parent.kill().unwrap();
    parent.wait().unwrap();
    let start = Instant::now();
    let alive = |id: &String| {
        let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Nobody may wait for the orphan here.
        !state.is_empty() && !state.contains(") Z ")
    };
    while ranks.iter().any(alive) {
        assert!(start.elapsed() < SOON, "{ranks:?} are still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_clip_that_one_rank_cannot_read_ends_all_or_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.mp4");
    std::fs::write(&broken, "not a video").unwrap();
    let questions = std::fs::read(world().join("world/train_questions.json")).unwrap();
    let mut questions: Vec<Value> = serde_json::from_slice(&questions).unwrap();
    questions.truncate(4);
    questions[1]["video"] = broken.display().to_string().into();
    let file = folder.path().join("questions.json");
    std::fs::write(&file, serde_json::to_string(&questions).unwrap()).unwrap();
    let with = || {
        let mut run = cdpo();
        run.set("train.steps", "1");
        run.set("data.questions", file.to_str().unwrap());
        run
    };
    assert_says(&with().run_on(4), 1, &["broken.mp4"]);
    // One of four ranks has no question left.
    let (mut one, mut four) = (with(), with());
    one.set("data.on_bad_video", "skip");
    four.set("data.on_bad_video", "skip");
    assert_code(&one.run(), 0);
    assert_says(&four.run_on(4), 0, &["skipped", "broken.mp4"]);
    assert_eq!(one.lines("metrics.jsonl")[0]["skipped_videos"], 1);
    assert_close(&four, &one, &["metrics.jsonl"], ORDER);
}

#[test]
fn steps_that_are_not_finite_are_left_out_by_all_ranks() {
    let mut run = Run::new("train-sft");
    run.set("optimizer.learning_rate", "1e25");
    run.set("optimizer.schedule", "constant");
    run.set("train.steps", "9").set("train.max_bad_steps", "2");
    let said = ["not finite in 2 steps in a row", "bad_steps.jsonl"];
    assert_says(&run.run_on(2), 1, &said);
    let bad = run.lines("bad_steps.jsonl");
    assert_eq!(bad.len(), 2);
    assert_eq!(bad[0]["sample"].as_array().unwrap().len(), 2);
}

#[test]
fn ranks_are_started_as_torchrun_does() {
    let port = free_port();
    let run = cdpo();
    let ranks = [1, 0].map(|rank| run.start_as(rank, port, Path::new(".")));
    for rank in ranks {
        assert_code(&rank.wait_with_output().unwrap(), 0);
    }
    assert_eq!(run.lines("metrics.jsonl").len(), 4);
    assert_eq!(run.checkpoints(), ["latest", "step-000004"]);
}

#[test]
fn ranks_with_other_settings_or_questions_are_refused() {
    let with = |key: &str, value: &str, said: &str| {
        let port = free_port();
        let (first, mut second) = (cdpo(), cdpo());
        second.set(key, value);
        let second = second.start_as(1, port, Path::new("."));
        let first = first
            .start_as(0, port, Path::new("."))
            .wait_with_output()
            .unwrap();
        let second = second.wait_with_output().unwrap();
        assert_says(&first, 1, &["rank 1 does not belong to this run", said]);
        assert_code(&second, 1);
    };
    with("kl.coefficient", "0.5", "kl.coefficient: was 0.01, is 0.5");

    // The same name, other contents.
    let questions = std::fs::read_to_string(world().join("world/train_questions.json")).unwrap();
    let mut questions: Vec<Value> = serde_json::from_str(&questions).unwrap();
    let port = free_port();
    let ranks = [0, 1].map(|rank| {
        let folder = tempfile::tempdir().unwrap();
        questions[0]["solution"] = if rank == 0 { "A" } else { "B" }.into();
        let text = serde_json::to_string(&questions).unwrap();
        std::fs::write(folder.path().join("questions.json"), text).unwrap();
        let mut run = cdpo();
        run.set("data.questions", "questions.json");
        let child = run.start_as(rank, port, folder.path());
        (child, run, folder)
    });
    let [first, second] = ranks.map(|(child, ..)| child.wait_with_output().unwrap());
    assert_says(&first, 1, &["its questions are not those of rank 0"]);
    assert_code(&second, 1);
}

#[test]
fn a_rank_that_does_not_come_is_waited_for_no_longer_than_is_set() {
    let mut run = cdpo();
    run.set("train.rank_timeout", "2");
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let start = Instant::now();
    let alone = run.start_as(0, port, folder.path());
    let output = alone.wait_with_output().unwrap();
    assert!(start.elapsed() < SOON / 2);
    let address = format!("127.0.0.1:{port}");
    let said = ["after 2 s (train.rank_timeout) ranks [1]", &address];
    assert_says(&output, 1, &said);
}

#[test]
fn what_cannot_be_started_is_said_before_anything_is() {
    let run = cdpo();
    assert_says(
        &run.run_on(5),
        2,
        &["5 ranks", "train.questions_per_step = 4"],
    );
    assert_says(&run.run_on(0), 2, &["--ranks"]);
    assert!(!run.output().exists());
    let mut incomplete = run.command();
    incomplete.env("RANK", "0").env("WORLD_SIZE", "2");
    let output = incomplete.output().unwrap();
    assert_says(&output, 2, &["MASTER_PORT is not set"]);
    let mut other = run.command();
    other.args(["--ranks", "3"]).env("RANK", "0");
    other.env("WORLD_SIZE", "2").env("LOCAL_RANK", "0");
    other
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", "1");
    assert_says(&other.output().unwrap(), 2, &["--ranks 3", "2 processes"]);
    let plan = run.command().args(["--ranks", "2", "--dry-run"]).output();
    let plan = plan.unwrap();
    assert_code(&plan, 0);
    let text = String::from_utf8(plan.stdout.clone()).unwrap();
    assert!(
        text.contains("2 ranks, each with 2"),
        "{text} {}",
        stderr(&plan)
    );
}
