//! Runs that go on from a checkpoint: with the questions it was trained with, and from the newest that is whole.

use crate::run::{Run, assert_code, assert_says, stderr, world};
use serde_json::Value;
use std::path::Path;

/// A run of its own question file that has done two of four steps.
fn begun() -> Run {
    let mut run = Run::new("train-grpo");
    let questions = run.folder.path().join("q.json");
    std::fs::copy(world().join("world/train_questions.json"), &questions).unwrap();
    run.set("data.questions", &questions.display().to_string());
    run.set("sampling.max_new_tokens", "2");
    run.set("checkpoint.every", "1")
        .set("train.stop_after", "2");
    assert_code(&run.run(), 0);
    run.set("train.stop_after", "4");
    run
}

fn change(run: &Run, change: impl FnOnce(&mut Vec<Value>)) {
    let path = run.folder.path().join("q.json");
    let mut questions = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut questions);
    std::fs::write(&path, serde_json::to_string(&questions).unwrap()).unwrap();
}

#[test]
fn other_questions_under_the_same_name_are_refused_unless_they_are_meant() {
    let run = begun();
    let file = run.folder.path().join("q.json");
    let good = std::fs::read(&file).unwrap();
    let dry = || run.command().arg("--dry-run").output().unwrap();
    let parts = [
        "step-000002",
        "other questions, 8 of them, than the 8",
        "q.json",
        "--accept-changed-data",
    ];
    let changes: [fn(&mut Vec<Value>); 5] = [
        |all| all[7]["solution"] = "<answer>C</answer>".into(),
        |all| all[1]["problem"] = "Why?\nA. up\nB. down\nC. so".into(),
        |all| all.swap(0, 5),
        |all| all[2]["id"] = "new".into(),
        |all| {
            let other = all[3]["video"].clone();
            all[4]["video"] = other;
        },
    ];
    for changed in changes {
        change(&run, changed);
        assert_says(&run.run(), 2, &parts);
        assert_says(&dry(), 2, &parts);
        std::fs::write(&file, &good).unwrap();
    }
    change(&run, |all| drop(all.pop()));
    assert_says(&run.run(), 2, &["other questions, 8 of them, than the 7"]);
    // Spelt otherwise it is the same.
    std::fs::write(&file, &good).unwrap();
    change(&run, |all| {
        for question in all {
            let solution = question["solution"].as_str().unwrap().to_lowercase();
            question["solution"] = solution.into();
        }
    });
    assert_says(&dry(), 0, &["going on from", "(step 2)", "8 solutions"]);
    change(&run, |all| drop(all.pop()));
    let accepted = run.command().arg("--accept-changed-data").output().unwrap();
    assert_says(
        &accepted,
        0,
        &[
            "--accept-changed-data: ",
            "8 where there are 7 now",
            "done: 4 steps",
        ],
    );
    // It is known by the questions that it went on with.
    assert_says(&run.run(), 0, &["already complete"]);
}

/// A file of a checkpoint, and what happens to it.
type Damage = (&'static str, fn(&Path));

#[test]
fn a_damaged_checkpoint_is_set_aside_for_the_one_before() {
    let cut = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() - 40]).unwrap();
    };
    let damages: [Damage; 8] = [
        ("videothinker.json", |path| {
            std::fs::write(path, "{").unwrap();
        }),
        ("preprocessor_config.json", |path| {
            std::fs::write(path, "{\"min_pixels\": ").unwrap();
        }),
        ("chat_template.json", |path| {
            std::fs::write(path, "{\"chat_template\": \"").unwrap();
        }),
        ("trainer/config.toml", |path| {
            std::fs::write(path, "output_dir = \"x\"\n").unwrap();
        }),
        ("model.safetensors", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() - 40]).unwrap();
        }),
        ("trainer/state.json", |path| {
            std::fs::write(path, "{").unwrap();
        }),
        ("trainer/optimizer/model.safetensors", |path| {
            std::fs::write(path, "").unwrap();
        }),
        ("config.json", |path| std::fs::remove_file(path).unwrap()),
    ];
    let run = begun();
    let folder = run.output().join("checkpoints");
    let whole = run.folder.path().join("whole");
    std::fs::rename(folder.join("step-000002"), &whole).unwrap();
    for (file, damage) in damages {
        copy(&whole, &folder.join("step-000002"));
        damage(&folder.join("step-000002").join(file));
        let dry = run.command().arg("--dry-run").output().unwrap();
        assert_says(
            &dry,
            0,
            &["step-000002 cannot be gone on from", "step-000001 (step 1)"],
        );
        assert!(folder.join("step-000002").is_dir());
        let mut short = run.command();
        short.args(["--set", "train.stop_after=1"]);
        let parts = [
            "step-000002 cannot be gone on from: ",
            "step-000002.damaged",
            "is taken",
            "step-000001 (step 1)",
        ];
        assert_says(&short.output().unwrap(), 0, &parts);
        let latest = std::fs::read_link(folder.join("latest")).unwrap();
        assert_eq!(latest, Path::new("step-000001"), "{file}");
        assert!(folder.join("step-000002.damaged").join(file).exists() || file == "config.json");
        std::fs::remove_dir_all(folder.join("step-000002.damaged")).unwrap();
    }
    // The only one stays where it is.
    cut(&folder.join("step-000001/model.safetensors"));
    let parts = [
        "step-000001 cannot be gone on from, and there is no other checkpoint",
        "another output_dir",
    ];
    assert_says(&run.run(), 1, &parts);
    assert!(folder.join("step-000001").is_dir());
    // One that is named is gone on from although a later one is damaged.
    std::fs::remove_dir_all(folder.join("step-000001")).unwrap();
    copy(&whole, &folder.join("step-000002"));
    copy(&whole, &folder.join("step-000003"));
    let mut named = run.command();
    named.arg("--resume").arg(folder.join("step-000002"));
    assert_says(
        &named.output().unwrap(),
        1,
        &["already holds a run", "step-000003, later than"],
    );
    cut(&folder.join("step-000003/model.safetensors"));
    let mut named = run.command();
    named.arg("--resume").arg(folder.join("step-000002"));
    let named = named.output().unwrap();
    assert_says(&named, 0, &["step-000003.damaged", "done: 4 steps"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn what_a_run_refuses_its_dry_run_refuses() {
    let mut run = begun();
    let dry =
        |run: &Run, more: &[&str]| run.command().arg("--dry-run").args(more).output().unwrap();
    assert_says(
        &dry(&run, &["--resume", "nowhere"]),
        2,
        &["--resume nowhere"],
    );
    assert_says(
        &dry(&run, &["--resume", "never"]),
        1,
        &["already holds a run"],
    );
    assert_says(&dry(&run, &[]), 0, &["going on from"]);
    run.set("optimizer.learning_rate", "2e-3");
    assert_says(
        &dry(&run, &[]),
        2,
        &["optimizer.learning_rate: was 0.001, is 0.002"],
    );
}

#[test]
fn rewards_that_never_differ_are_said_with_their_likeliest_causes() {
    let mut run = Run::new("train-grpo");
    run.set("sampling.max_new_tokens", "2")
        .set("train.steps", "10");
    run.set("train.questions_per_step", "1");
    let output = run.run();
    assert_code(&output, 0);
    let said = stderr(&output);
    let parts = [
        "have not differed in the last 10 steps",
        "1. 100 % of the completions are cut off at sampling.max_new_tokens = 2",
        "2. the completions do not have the format",
        "3. no answer is right",
    ];
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(said.matches("have not differed").count(), 1);
}
