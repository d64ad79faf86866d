//! `study` through the binary: a made study, written by the test.

use crate::videothinker;
use serde_json::Value;
use serde_json::json;
use std::fmt::Write;
use std::path::Path;

const STUDY: &str = r#"
title = "Two <models>"
thinks = "Without"
window = 2
[[rows]]
name = "base"
label = "base"
[[rows]]
name = "grpo"
label = "GRPO & co"
[[rows]]
name = "cdpo"
label = "CDPO"
[[comparisons]]
first = "cdpo"
second = "grpo"
kind = "inferential"
expected = "above"
[[comparisons]]
first = "cdpo"
second = "base"
kind = "all"
expected = "not_below"
margin = 2.0
[[curves]]
rows = ["grpo", "cdpo"]
[[sweeps]]
title = "Strength"
axis = "kl.coefficient"
scale = "log"
[[sweeps.series]]
label = "CDPO"
points = [[0.0, "grpo"], [0.1, "cdpo"]]
[ratios]
row = "cdpo"
[[ratios.kinds]]
label = "whether to think on"
pattern = '\. Without|\.(</think>)'
"#;

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A finished evaluation of ten questions, of which the last five are inferential; `right` says which are answered rightly.
fn evaluation(out: &Path, prefix: &str, right: impl Fn(usize) -> bool) {
    let lines = (0..10).fold(String::new(), |mut lines, index| {
        let answer = if right(index) { "A" } else { "B" };
        let thought = if index % 2 == 0 { "Without it" } else { "Seen" };
        let line = json!({
            "id": format!("{prefix}{index}"), "video": format!("{prefix}{index}.mp4"),
            "kind": if index < 5 { "observational" } else { "inferential" },
            "question": "What happens?", "options": ["rain", "snow"], "solution": "<answer>A</answer>",
            "samples": [{
                "completion": format!("<think>{thought}</think><answer>{answer}</answer>"),
                "truncated": false, "tokens": 8,
            }],
        });
        writeln!(lines, "{line}").unwrap();
        lines
    });
    write(&out.join("outputs.jsonl"), &lines);
    let scores = json!({
        "model": "made", "weights": out.display().to_string(), "protocol": "own", "questions": "made.json", "questions_hash": prefix,
        "questions_asked": 10, "subset": "all", "config_hash": "0", "wording": "training", "wording_hash": "0",
        "extraction": "strict", "samples": 1, "temperature": 0.0, "max_new_tokens": 16,
        "video": {
            "fps": 2.0, "positions": "ends", "min_frames": 8, "max_frames": 8, "min_pixels": 12544,
            "max_pixels": 12544, "text_after": "spatial", "seconds_per_grid": "sampled",
        },
        "clip_bounds": true, "subtitles": false, "decoder": "none",
        "questions_answered": 10, "questions_skipped": 0, "splits": {},
    });
    write(&out.join("scores.json"), &scores.to_string());
}

/// A training of four steps, one completion of each kind a step: all think in the second half.
fn training(run: &Path, with_ratios: bool, steps: usize) {
    let (mut metrics, mut rollouts) = (String::new(), String::new());
    for step in 1..=steps {
        let line =
            json!({ "step": step, "num_tokens": 100 * step, "kl/inferential": 0.1 * step as f64 });
        writeln!(metrics, "{line}").unwrap();
        for kind in ["observational", "inferential"] {
            let tokens = ["<think>", "Seen", ".", " Without", ".", "</think>"];
            let thought = if step > 2 {
                tokens.concat()
            } else {
                "<think>Seen.</think>".to_owned()
            };
            let mut line = json!({
                "step": step, "kind": kind, "accuracy": f64::from(u8::from(step > 1)),
                "completion": thought, "completion_tokens": 6, "question_id": "unread",
            });
            if with_ratios {
                line["tokens"] = json!(tokens);
                line["log_ratios"] = json!([0.0, 0.0, 0.25, 0.5 * step as f64, 0.0, Value::Null]);
            }
            writeln!(rollouts, "{line}").unwrap();
        }
    }
    write(&run.join("metrics.jsonl"), &metrics);
    write(&run.join("rollouts.jsonl"), &rollouts);
    write(
        &run.join("config.toml"),
        "of_another_version = 1\n[train]\nsteps = 4\n",
    );
}

/// Three seeds. CDPO answers 3, 4 and 5 inferential questions rightly, GRPO 2; base and GRPO all observational ones.
fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("study.toml"), STUDY);
    for seed in 1..=3 {
        let here = folder.path().join(format!("runs/seed-{seed}"));
        let prefix = format!("s{seed}q");
        evaluation(&here.join("eval/base"), &prefix, |index| index < 5);
        evaluation(&here.join("eval/grpo"), &prefix, |index| index < 7);
        evaluation(&here.join("eval/cdpo"), &prefix, |index| index < 7 + seed);
        training(&here.join("grpo"), false, 4);
        training(&here.join("cdpo"), true, 4);
    }
    folder
}

fn study(folder: &Path, more: &[&str]) -> Result<String, String> {
    let arguments = [&["study", "study.toml", "--runs", "runs"], more].concat();
    let output = videothinker(folder, &arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        code => Err(format!("{code:?}: {}", text(&output.stderr))),
    }
}

fn json_of(folder: &Path) -> Value {
    serde_json::from_str(&study(folder, &["--json"]).unwrap()).unwrap()
}

fn near(value: &Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
}

#[test]
fn rows_are_compared_over_seeds() {
    let folder = made();
    let study = json_of(folder.path());
    let cdpo = &study["rows"][2];
    assert_eq!(cdpo["seeds"], 3);
    near(&cdpo["greedy"]["accuracy"]["inferential"]["mean"], 0.8);
    // Half the answers think: of the inferential ones those to questions 6 and 8.
    near(&cdpo["greedy"]["thinking"]["inferential"]["mean"], 0.4);
    near(
        &cdpo["greedy"]["accuracy_thinking"]["inferential"]["mean"],
        2.5 / 3.0,
    );
    let first = &study["comparisons"][0];
    assert_eq!(
        (&first["primary"], &first["seeds"], &first["questions"]),
        (&json!(true), &json!(3), &json!(15))
    );
    // Differences 0.2, 0.4 and 0.6: scipy 1.17.1, stats.ttest_1samp.
    near(&first["difference"]["mean"], 0.4);
    near(&first["difference"]["half_width"], 0.496_827_542_350_065_9);
    near(&first["p"], 0.074_179_900_227_448_5);
    near(&first["difference"]["deviation"], 0.2);
    // Within a seed k of 5 differ by 1: variance k(5 − k)/5/4 over 5, for k = 1, 2, 3.
    let within = [1.0, 2.0, 3.0].map(|k: f64| k * (5.0 - k) / 100.0);
    near(
        &first["deviation_questions"],
        (within.iter().sum::<f64>() / 3.0).sqrt(),
    );
    assert_eq!(first["verdict"], "cannot_be_told");
    // 0.3, 0.4 and 0.5 of all questions more than the base model.
    assert_eq!(study["comparisons"][1]["verdict"], "holds");
    assert_eq!(
        (&study["missing"], &study["notes"]),
        (&json!([]), &json!([]))
    );
}

#[test]
fn trainings_are_read_from_their_records() {
    let folder = made();
    let study = json_of(folder.path());
    let training = &study["rows"][2]["training"];
    near(&training["first"]["accuracy"]["all"]["mean"], 0.5);
    near(&training["last"]["thinking"]["inferential"]["mean"], 1.0);
    near(&training["kl"]["inferential"]["mean"], 0.35);
    near(&training["completion_tokens_per_step"]["mean"], 12.0);
    assert_eq!(training["kl"]["observational"], Value::Null);
    assert_eq!(study["rows"][0]["training"], Value::Null);
    let points = &study["curves"][0]["thinking"][3]["points"];
    near(&points[0]["step"], 1.5);
    near(&points[1]["mean"], 1.0);
    assert_eq!(study["ratios"]["kinds"][1]["label"], "all other tokens");
    // ". Without" in its two tokens, "</think>" without a number; 0.25 and 0.5 · step.
    let on = &study["ratios"]["kinds"][0];
    near(&on["first"]["mean"], f64::midpoint(0.25, 0.75));
    near(&on["last"]["mean"], f64::midpoint(0.25, 1.75));
    near(&on["share"]["mean"], 2.0 / 5.0);
}

#[test]
fn equal_tokens_are_those_of_the_shortest_training() {
    let folder = made();
    let run = folder.path().join("runs/seed-1/cdpo");
    training(&run, true, 4);
    // Twice as many tokens a step: its first two steps have as many as GRPO's four.
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let twice = (1..=4).rev().fold(metrics, |text, step| {
        text.replace(
            &format!("\"num_tokens\":{step}00,"),
            &format!("\"num_tokens\":{},", 200 * step),
        )
    });
    std::fs::write(run.join("metrics.jsonl"), twice).unwrap();
    let study = json_of(folder.path());
    let values = &study["rows"][2]["training"]["equal_tokens"]["accuracy"]["all"]["values"];
    assert_eq!(values, &json!({ "1": 0.5, "2": 1.0, "3": 1.0 }));
}

#[test]
fn tables_and_page_say_the_same() {
    let folder = made();
    let path = folder.path();
    let text = study(path, &["--out", "page.html", "--pictures", "pictures"]).unwrap();
    assert!(
        text.contains("Over 3 seeds CDPO answers 80.0 % of them exactly right"),
        "{text}"
    );
    let markdown = study(path, &["--markdown"]).unwrap();
    assert!(markdown.contains("| CDPO      |     3 |"), "{markdown}");
    let page = std::fs::read_to_string(path.join("page.html")).unwrap();
    assert!(page.contains("<h1>Two &lt;models&gt;</h1>"), "{page}");
    assert!(page.contains("GRPO &amp; co") && !page.contains("GRPO & co"));
    for absent in ["NaN", "<script", "http://", "https://", "none</"] {
        assert!(!page.contains(absent), "{absent}");
    }
    // Two of accuracy, thinking and the sweep each, one of log-ratios.
    assert_eq!(page.matches("<svg ").count(), 7);
    assert_well_formed(&page);
    for picture in ["accuracy-0-inferential", "sweep-0-observational", "ratios"] {
        let drawn = std::fs::read_to_string(path.join(format!("pictures/{picture}.svg"))).unwrap();
        let (head, content) = drawn.split_once("<rect class=\"paper\"").unwrap();
        assert!(
            head.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" ")
                && head.contains("--paper: #ffffff"),
            "{head}"
        );
        // What is drawn is what the page has.
        assert!(
            page.contains(content.split_once('\n').unwrap().1),
            "{picture}"
        );
        assert_well_formed(&drawn);
    }
    // A row looks the same in every picture.
    let named = |look: usize| {
        page.matches(&format!("<text class=\"name series-{look} dash-{look}\""))
            .count()
    };
    assert_eq!((named(0), named(1)), (4, 6));
    let sentence = text.lines().nth(2).unwrap().replace('&', "&amp;");
    assert!(
        page.replace('\u{a0}', " ").contains(&sentence),
        "{sentence}"
    );
}

#[test]
fn what_has_nothing_to_show_is_not_drawn() {
    let folder = made();
    let path = folder.path();
    let whole = STUDY
        .replace(r"'\. Without|\.(</think>)'", "'(?s).'")
        .replace(", [0.1, \"cdpo\"]", "");
    write(&path.join("study.toml"), &whole);
    let read = json_of(path);
    assert_eq!(read["ratios"]["kinds"].as_array().unwrap().len(), 1);
    study(path, &["--out", "new/page.html"]).unwrap();
    let page = std::fs::read_to_string(path.join("new/page.html")).unwrap();
    // Without the two of the sweep, whose single point is no line.
    assert_eq!(page.matches("<svg ").count(), 5);
}

/// Every element that is opened is closed in its turn, and ids are used once.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    for part in page.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag ends");
        let name = tag.split_whitespace().next().unwrap();
        if let Some(id) = tag.split(" id=\"").nth(1) {
            assert!(ids.insert(id.split('"').next().unwrap()), "{tag}");
        }
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
        } else if !tag.ends_with('/') && !name.starts_with('!') && name != "meta" {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn what_is_missing_is_listed_and_left_out() {
    let folder = made();
    let path = folder.path();
    std::fs::remove_dir_all(path.join("runs/seed-2/eval/cdpo")).unwrap();
    std::fs::remove_dir_all(path.join("runs/seed-3/grpo")).unwrap();
    training(&path.join("runs/seed-3/cdpo"), true, 3);
    evaluation(&path.join("runs/seed-1/sampled/cdpo"), "s1q", |_| true);
    std::fs::create_dir_all(path.join("runs/seed-3/sampled/cdpo")).unwrap();
    let study_json = json_of(path);
    assert_eq!(study_json["comparisons"][0]["seeds"], 2);
    assert_eq!(study_json["rows"][2]["training"]["seeds"], 2);
    let missing = study_json["missing"].to_string();
    for line in [
        "CDPO: no evaluation in seed 2 (seed-2/eval/cdpo)",
        "CDPO: no sampled evaluation in seed 2 (seed-2/sampled/cdpo)",
        "CDPO: sampled evaluation not finished in seed 3 (seed-3/sampled/cdpo)",
        "GRPO & co: no training in seed 3 (seed-3/grpo)",
        "CDPO: training at step 3 of 4 in seed 3 (seed-3/cdpo)",
    ] {
        assert!(missing.contains(line), "{line}: {missing}");
    }
    // The base model has no training, and misses none.
    assert!(!missing.contains("base"), "{missing}");
    let text = study(path, &[]).unwrap();
    assert!(
        text.contains("missing: CDPO: no evaluation in seed 2"),
        "{text}"
    );
}

/// A row that is planned for one seed only, as the variations of scripts/evidence.sh are.
#[test]
fn what_several_seeds_lack_is_one_line() {
    let folder = made();
    let path = folder.path();
    for seed in [2, 3] {
        for part in ["grpo", "eval/grpo"] {
            std::fs::remove_dir_all(path.join(format!("runs/seed-{seed}/{part}"))).unwrap();
        }
        std::fs::remove_dir_all(path.join(format!("runs/seed-{seed}/eval/cdpo"))).unwrap();
    }
    assert_eq!(
        json_of(path)["missing"],
        json!([
            "GRPO & co: nothing yet in seeds 2, 3 (seed-N/grpo)",
            "CDPO: no evaluation in seeds 2, 3 (seed-N/eval/cdpo)",
        ])
    );
}

#[test]
fn sampled_answers_are_compared_and_plans_are_kept() {
    let folder = made();
    let path = folder.path();
    for seed in 1..=3 {
        let sampled = path.join(format!("runs/seed-{seed}/sampled"));
        let prefix = format!("s{seed}q");
        evaluation(&sampled.join("grpo"), &prefix, |index| index < 8);
        evaluation(&sampled.join("cdpo"), &prefix, |index| index < 6);
    }
    let planned = STUDY.replace("window = 2", "window = 2\nseeds = 4");
    let sampled = planned.replace("expected = \"above\"", "answers = \"sampled\"");
    write(&path.join("study.toml"), &planned);
    let text = study(path, &[]).unwrap();
    assert!(
        text.contains("an interim look at 3 of 4 planned seeds"),
        "{text}"
    );
    write(&path.join("study.toml"), &sampled);
    let text = study(path, &[]).unwrap();
    assert!(text.contains("CDPO − GRPO & co, sampled"), "{text}");
    let read = json_of(path);
    let first = &read["comparisons"][0];
    assert_eq!(first["answers"], "sampled");
    near(&first["difference"]["mean"], -0.4);
    assert_eq!(read["notes"], json!([]));

    write(
        &path.join("study.toml"),
        &planned.replace("seeds = 4", "seeds = 0"),
    );
    let refused = study(path, &[]).unwrap_err();
    assert!(refused.contains("`seeds`: must be at least 1"), "{refused}");
}

#[test]
fn seeds_with_equal_questions_are_noted() {
    let folder = made();
    let path = folder.path();
    for name in ["base", "grpo", "cdpo"] {
        let out = path.join("runs/seed-3/eval").join(name);
        std::fs::remove_dir_all(&out).unwrap();
        evaluation(&out, "s1q", |index| index < 5);
    }
    let notes = json_of(path)["notes"].to_string();
    assert!(
        notes.contains("seeds 1, 3 were asked the same questions"),
        "{notes}"
    );
}

/// A line of a sweep joins the same seeds.
#[test]
fn a_sweep_is_over_the_seeds_that_all_points_have() {
    let folder = made();
    let path = folder.path();
    std::fs::remove_dir_all(path.join("runs/seed-3/eval/grpo")).unwrap();
    let read = json_of(path);
    let points = &read["sweeps"][0]["series"][1]["points"];
    assert_eq!(points[1]["row"], "cdpo");
    assert_eq!(points[1]["values"].as_object().unwrap().len(), 2);
    near(&points[1]["mean"], 0.7);
    near(
        &read["rows"][2]["greedy"]["accuracy"]["inferential"]["mean"],
        0.8,
    );
}

#[test]
fn a_sweep_of_no_common_seed_is_not_drawn() {
    let folder = made();
    let path = folder.path();
    for (seed, row) in [(1, "grpo"), (2, "grpo"), (3, "cdpo")] {
        std::fs::remove_dir_all(path.join(format!("runs/seed-{seed}/eval/{row}"))).unwrap();
    }
    let read = json_of(path);
    let series = read["sweeps"][0]["series"].as_array().unwrap();
    assert!(series.iter().all(|one| one["points"] == json!([])));
    let notes = read["notes"].to_string();
    let note = "Strength: no seed has all of its points, so it is not drawn";
    assert!(notes.contains(note), "{notes}");
}

#[test]
fn a_sweep_of_two_seeds_shows_both_and_goes_upwards() {
    let folder = made();
    let path = folder.path();
    std::fs::remove_dir_all(path.join("runs/seed-3/eval/grpo")).unwrap();
    let swapped = STUDY.replace(
        "[[0.0, \"grpo\"], [0.1, \"cdpo\"]]",
        "[[0.1, \"cdpo\"], [0.0, \"grpo\"]]",
    );
    assert_ne!(swapped, STUDY);
    write(&path.join("study.toml"), &swapped);
    assert_eq!(
        json_of(path)["sweeps"][0]["series"][1]["points"][0]["row"],
        "grpo"
    );
    study(path, &["--out", "page.html"]).unwrap();
    let page = std::fs::read_to_string(path.join("page.html")).unwrap();
    let caption =
        "over the seeds that all points have: 1, 2; bars reach from one seed to the other.";
    assert!(page.contains(caption), "{page}");
}

#[test]
fn what_is_written_takes_the_place_of_nothing_else() {
    let folder = made();
    let path = folder.path();
    let refused = study(path, &["--out", "p/ratios.svg", "--pictures", "p"]).unwrap_err();
    assert!(refused.contains("--pictures p: a picture of it would be p/ratios.svg"));
    assert!(!path.join("p/ratios.svg").exists());
    let plan = std::fs::read(path.join("study.toml")).unwrap();
    for own in ["study.toml", "./study.toml", "runs/../study.toml"] {
        let refused = study(path, &["--out", own]).unwrap_err();
        assert!(
            refused.contains("that is the study's own file"),
            "{refused}"
        );
    }
    assert_eq!(std::fs::read(path.join("study.toml")).unwrap(), plan);
}

#[test]
fn a_row_without_runs_is_named_once() {
    let folder = made();
    let path = folder.path();
    for seed in 1..=3 {
        let here = path.join(format!("runs/seed-{seed}"));
        std::fs::remove_dir_all(here.join("base")).ok();
        std::fs::remove_dir_all(here.join("eval/base")).unwrap();
    }
    let text = study(path, &[]).unwrap();
    assert!(text.contains("missing: in no seed: base\n"), "{text}");
    assert!(!text.contains("\nbase "), "{text}");
    assert_eq!(json_of(path)["rows"][0]["seeds"], 0);
}

#[test]
fn one_seed_speaks_of_its_questions_only() {
    let folder = made();
    let path = folder.path();
    for seed in [1, 2] {
        std::fs::remove_dir_all(path.join(format!("runs/seed-{seed}"))).unwrap();
    }
    let first = &json_of(path)["comparisons"][0];
    assert_eq!(first["difference"]["covers"], "questions");
    assert_eq!(
        (&first["p"], &first["verdict"]),
        (&Value::Null, &json!("cannot_be_told"))
    );
    let text = study(path, &["--out", "page.html"]).unwrap();
    assert!(
        text.contains("one seed says nothing of other trainings"),
        "{text}"
    );
    std::fs::remove_dir_all(path.join("runs/seed-3/eval")).unwrap();
    let text = study(path, &["--out", "page.html"]).unwrap();
    assert!(text.contains("nothing can be said yet"), "{text}");
}

#[test]
fn questions_that_do_not_match_are_told() {
    let folder = made();
    let path = folder.path();
    let outputs = path.join("runs/seed-1/eval/cdpo/outputs.jsonl");
    let text = std::fs::read_to_string(&outputs).unwrap();
    std::fs::write(
        &outputs,
        text.replace("\"id\":\"s1q9\"", "\"id\":\"other\""),
    )
    .unwrap();
    let said = study(path, &[]).unwrap();
    assert!(
        said.contains("CDPO answers 85.0 % of those that both answered exactly right"),
        "{said}"
    );
    let note = json_of(path)["notes"].to_string();
    assert!(
        note.contains("seed 1, CDPO and GRPO & co: 2 questions answered by only one"),
        "{note}"
    );
    std::fs::write(&outputs, text.replace("\"id\":\"s1q", "\"id\":\"other")).unwrap();
    let error = study(path, &[]).unwrap_err();
    assert!(
        error.contains("seed-1/eval/cdpo and runs/seed-1/eval/grpo have no question in common"),
        "{error}"
    );
}

#[test]
fn trainings_that_are_not_what_they_seem_are_noted() {
    let folder = made();
    let path = folder.path();
    std::fs::remove_file(path.join("runs/seed-1/cdpo/config.toml")).unwrap();
    write(&path.join("runs/seed-2/cdpo/rollouts.jsonl"), "");
    training(&path.join("runs/seed-3/grpo"), false, 3);
    write(
        &path.join("runs/seed-3/grpo/config.toml"),
        "[train]\nsteps = 4\nstop_after = 3\n",
    );
    let notes = json_of(path)["notes"].to_string();
    for note in [
        "seed 1, CDPO: no train.steps in its config.toml, so whether its 4 steps are all is not known",
        "seed 2, CDPO: no completions in its rollouts.jsonl",
        "GRPO & co is trained for different lengths: 3 steps in seed 3; 4 steps in seeds 1, 2",
        "GRPO & co: the first and the last 2 of 3 steps overlap",
    ] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
}

#[test]
fn what_cannot_be_read_is_not_absent() {
    let folder = made();
    let path = folder.path();
    let evaluations = path.join("runs/seed-1/eval");
    std::fs::remove_dir_all(&evaluations).unwrap();
    write(&evaluations, "no folder");
    let error = study(path, &[]).unwrap_err();
    assert!(
        error.contains("cannot read runs/seed-1/eval/base: Not a directory"),
        "{error}"
    );
    let output = videothinker(path, &["study", "study.toml", "--runs", "study.toml"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("--runs study.toml: that is a file, not a folder"),
        "{error}"
    );
}

#[test]
fn broken_records_are_named() {
    let folder = made();
    let path = folder.path();
    let rollouts = path.join("runs/seed-2/cdpo/rollouts.jsonl");
    let text = std::fs::read_to_string(&rollouts).unwrap();
    std::fs::write(&rollouts, text.replacen("[\"<think>\",", "[", 1)).unwrap();
    let error = study(path, &[]).unwrap_err();
    assert!(
        error.contains("seed-2/cdpo/rollouts.jsonl:1: 5 tokens and 6 log-ratios"),
        "{error}"
    );
    std::fs::write(&rollouts, text.replacen("\"step\":2", "\"step\":\"2\"", 1)).unwrap();
    let error = study(path, &[]).unwrap_err();
    assert!(error.contains("seed-2/cdpo/rollouts.jsonl:3: "), "{error}");
}

#[test]
fn mistakes_in_the_file_are_named_by_line_and_key() {
    let folder = made();
    let path = folder.path();
    for (from, to, expected) in [
        (
            "label = \"base\"",
            "lable = \"base\"",
            "study.toml:7: `lable`: unknown field `lable`",
        ),
        (
            "first = \"cdpo\"",
            "first = \"cpdo\"",
            "study.toml:15: `comparisons.first`: no row is called \"cpdo\"",
        ),
        (
            "[\"grpo\", \"cdpo\"]",
            "[\"grpo\", \"other\"]",
            "`curves.rows`: no row is called \"other\"",
        ),
        (
            "[0.1, \"cdpo\"]",
            "[-0.1, \"cdpo\"]",
            "`sweeps.series.points`: -0.1 has no place",
        ),
        (
            "row = \"cdpo\"",
            "row = \"sft\"",
            "`ratios.row`: no row is called \"sft\"",
        ),
        (
            "(</think>)",
            "(</think>",
            "`pattern`: not a regular expression",
        ),
        (
            "margin = 2.0",
            "",
            "`comparisons.margin`: not_below takes a margin",
        ),
        (
            "\"above\"",
            "\"over\"",
            "study.toml:18: `expected`: unknown variant `over`",
        ),
        (
            "window = 2",
            "window = 0",
            "study.toml:4: `window`: must be at least 1 step",
        ),
        (
            "window = 2",
            "",
            "study.toml:1: `window`: is missing, and a study needs it",
        ),
        (
            "thinks = \"Without\"",
            "thinks = \"\"",
            "study.toml:3: `thinks`: must be a text of one line",
        ),
        (
            "label = \"CDPO\"",
            "label = \"CD\\nPO\"",
            "study.toml:12: `rows.label`: must be a text of one line",
        ),
        (
            "[\"grpo\", \"cdpo\"]",
            "[\"grpo\", \"grpo\"]",
            "`curves.rows`: is drawn twice",
        ),
        (
            "name = \"cdpo\"",
            "name = \"grpo\"",
            "`rows.name`: \"grpo\" is the name of two rows",
        ),
        (
            "name = \"base\"",
            "name = \"../base\"",
            "`rows.name`: \"../base\" is no name of a folder",
        ),
        ("window = 2", "window = ", "study.toml:4: not valid TOML"),
    ] {
        write(&path.join("study.toml"), &STUDY.replacen(from, to, 1));
        let error = study(path, &[]).unwrap_err();
        assert!(
            error.starts_with("Some(2)") && error.contains(expected),
            "{from}: {error}"
        );
    }
    write(&path.join("study.toml"), STUDY);
    std::fs::rename(path.join("runs"), path.join("elsewhere")).unwrap();
    let error = study(path, &[]).unwrap_err();
    assert!(
        error.starts_with("Some(2)") && error.contains("no such folder"),
        "{error}"
    );
    std::fs::create_dir(path.join("runs")).unwrap();
    let error = study(path, &[]).unwrap_err();
    assert!(error.contains("holds no folder seed-1, seed-2"), "{error}");
}

#[test]
fn the_file_in_the_book_is_one() {
    let folder = made();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/evaluation.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```toml\ntitle = ").unwrap();
    let (file, _) = rest.split_once("```").unwrap();
    write(
        &folder.path().join("study.toml"),
        &format!("title = {file}"),
    );
    let text = study(folder.path(), &[]).unwrap();
    assert!(
        text.contains("The primary test compares CDPO with GRPO"),
        "{text}"
    );
}
