//! What is done once and used again: completions for several updates, decoded frames for later runs.

use crate::golden_model::assert_close;
use crate::run::{Run, assert_code, assert_same, world};
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};
use videothinker::config::{OptimizerConfig, Schedule, VideoConfig, Wording};
use videothinker::data::{Question, read_questions};
use videothinker::policy::Policy;
use videothinker::policy::generate::{Completion, Finish};
use videothinker::policy::inputs::{PackedGroup, PackedInputs};
use videothinker::policy::logprobs::score;
use videothinker::prompt::Processor;
use videothinker::train::backward::{Derivatives, GradientPlacement, backward};
use videothinker::train::optimizer::AdamW;
use videothinker::video::load_patches;

const LEARNING_RATE: f64 = 1e-3;

/// Three completions of one question: right, in the right form only, neither.
fn completions(question: &Question) -> [String; 3] {
    [
        format!("<think>x</think>{}", question.solution),
        "<think>What will happen?</think><answer>Q</answer>".to_owned(),
        "What will happen?".to_owned(),
    ]
}

/// A run of one step on the first question, whose completions are given.
fn one_step(updates: usize) -> (Run, Question) {
    let path = world().join("world/train_questions.json");
    let question = read_questions(&path).unwrap().remove(0);
    let mut run = Run::new("train-cdpo");
    run.set("kl.coefficient", "0")
        .set("train.questions_per_step", "1")
        .set("train.updates_per_rollout", &updates.to_string())
        .set("optimizer.schedule", "constant")
        .set("optimizer.learning_rate", &LEARNING_RATE.to_string());
    let completions: Vec<_> = completions(&question)
        .iter()
        .map(|text| serde_json::json!({ "text": text, "finish": "stop" }))
        .collect();
    let line = serde_json::json!({ "question_id": question.id, "completions": completions });
    let file = run.output().with_extension("jsonl");
    std::fs::write(&file, line.to_string()).unwrap();
    let mut command = run.command();
    command.args(["--replay", file.to_str().unwrap()]);
    assert_code(&command.output().unwrap(), 0);
    (run, question)
}

fn policy(folder: &Path) -> Policy {
    Policy::load(folder, DType::F32, &Device::Cpu, true).unwrap()
}

fn inputs(policy: &Policy, question: &Question) -> PackedInputs {
    let processor = Processor::load(&world().join("untrained")).unwrap();
    let video = VideoConfig {
        min_frames: 8,
        max_frames: 8,
        min_pixels: 12544,
        max_pixels: 12544,
        ..VideoConfig::default()
    };
    let clip = world().join("world/videos").join(&question.video);
    let (_, patches) = load_patches(&clip, &video).unwrap();
    let prompt = processor
        .prompt(&question.text(), Wording::Training, Some(patches))
        .unwrap();
    let completions = completions(question)
        .map(|text| Completion::given(&processor, &prompt, &text, Finish::Stop).unwrap());
    let ids = completions.iter().map(|c| c.token_ids.as_slice());
    let group = PackedGroup::of_completions(&prompt, ids);
    PackedInputs::new(&policy.model().spec, &[group]).unwrap()
}

/// AdamW as it stands in a checkpoint.
fn optimizer(policy: &Policy, checkpoint: &Path) -> AdamW {
    let config = OptimizerConfig {
        learning_rate: LEARNING_RATE,
        schedule: Schedule::Constant,
        ..OptimizerConfig::default()
    };
    let vars = policy.vars().iter();
    let mut adamw = AdamW::new(vars.map(|(n, v)| (n.clone(), v.clone())), &config).unwrap();
    let file = checkpoint.join("trainer/optimizer/model.safetensors");
    let mut state = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let updates = state.get_mut("updates").unwrap();
    *updates = updates.to_dtype(DType::I64).unwrap();
    adamw.load_state(&state.into_iter().collect()).unwrap();
    adamw
}

#[test]
fn the_second_update_of_a_rollout_is_the_clipped_one() {
    let (once, question) = one_step(1);
    let (twice, _) = one_step(2);
    let checkpoint = |run: &Run| -> PathBuf { run.output().join("checkpoints/latest") };
    let (start, after_one) = (
        policy(&world().join("untrained")),
        policy(&checkpoint(&once)),
    );
    let inputs = inputs(&start, &question);
    let old = score(start.model(), &inputs, None).unwrap().logprob;
    let new = score(after_one.model(), &inputs, None).unwrap().logprob;

    // −min(r·A, clip(r)·A) / (G · length), token by token, and its derivative with respect to log π.
    let mut slopes = vec![0f32; inputs.num_targets()];
    let (mut low, mut high) = (0, 0);
    for (range, rollout) in inputs.suffix_targets[0]
        .iter()
        .zip(twice.lines("rollouts.jsonl"))
    {
        let advantage = rollout["advantage"].as_f64().unwrap();
        for token in range.clone() {
            let ratio = f64::from(new[token] - old[token]).exp();
            let too_low = advantage < 0.0 && ratio < 0.8;
            let too_high = advantage > 0.0 && ratio > 1.28;
            low += usize::from(too_low);
            high += usize::from(too_high);
            if !too_low && !too_high {
                slopes[token] = (-ratio * advantage / (3 * range.len()) as f64) as f32;
            }
        }
    }
    assert!(
        low > 0 && high > 0 && low + high < slopes.len(),
        "{low} {high}"
    );
    let pass = backward(&after_one, &inputs, GradientPlacement::Device, None, |_| {
        let derivatives = Derivatives {
            logprob: slopes.clone(),
            full_kl: Vec::new(),
        };
        (derivatives, ())
    })
    .unwrap();
    let before = policy(&checkpoint(&once));
    let mut adamw = optimizer(&after_one, &checkpoint(&once));
    adamw.step(&pass.gradients, LEARNING_RATE).unwrap();

    let got = policy(&checkpoint(&twice));
    for (name, want) in after_one.vars() {
        let moved = |policy: &Policy| {
            let now = policy.vars()[name].as_detached_tensor();
            (now - before.vars()[name].as_detached_tensor()).unwrap()
        };
        assert!(want.elem_count() > 0);
        assert_close(name, &moved(&got), &moved(&after_one), 1e-3);
    }
    let metrics = twice.lines("metrics.jsonl");
    for (name, clipped) in [("low", low), ("high", high)] {
        let fraction = metrics[0][format!("clip_ratio/{name}_mean")]
            .as_f64()
            .unwrap();
        // The mean of the first update, which clips nothing, and of the second.
        let want = clipped as f64 / slopes.len() as f64 / 2.0;
        assert!(
            (fraction - want).abs() < 1e-9,
            "{name}: {fraction} != {want}"
        );
    }
    let first = &once.lines("metrics.jsonl")[0];
    for name in ["clip_ratio/low_mean", "clip_ratio/high_mean"] {
        assert_eq!(first[name], 0.0);
    }
    for name in ["reward", "entropy"] {
        assert_eq!(
            first[name], metrics[0][name],
            "{name} is of the policy that sampled"
        );
    }
}

#[test]
fn a_run_with_several_updates_goes_on_to_the_same_result() {
    let with_steps = |run: &mut Run, steps: &str| {
        run.set("train.steps", steps)
            .set("train.updates_per_rollout", "3")
            .set("optimizer.schedule", "constant");
        assert_code(&run.run(), 0);
    };
    let (mut whole, mut parts) = (Run::cdpo(), Run::cdpo());
    with_steps(&mut whole, "3");
    with_steps(&mut parts, "1");
    with_steps(&mut parts, "3");
    let weights = "checkpoints/latest/model.safetensors";
    let state = "checkpoints/latest/trainer/state.json";
    let names = ["metrics.jsonl", "rollouts.jsonl", weights, state];
    assert_same(&whole, &parts, &names);
    let metrics = whole.lines("metrics.jsonl");
    assert_eq!(metrics.len(), 3, "a step is a rollout with all its updates");
}

#[test]
fn kept_frames_change_nothing() {
    let mut plain = Run::cdpo();
    plain.set("data.cache_mib", "0").set("train.steps", "2");
    assert_code(&plain.run(), 0);
    let folder = tempfile::tempdir().unwrap();
    let frames = folder.path().join("frames");
    let cached = || {
        let mut run = Run::cdpo();
        run.set("train.steps", "2")
            .set("data.cache_dir", frames.to_str().unwrap());
        assert_code(&run.run(), 0);
        run
    };
    let names = ["metrics.jsonl", "rollouts.jsonl"];
    assert_same(&plain, &cached(), &names);
    let kept = std::fs::read_dir(&frames).unwrap().count();
    assert!(kept > 0);
    let second = cached();
    assert_same(&plain, &second, &names);
    assert_eq!(std::fs::read_dir(&frames).unwrap().count(), kept);
    for line in second.lines("timings.jsonl") {
        assert!(line["time/video"].as_f64().unwrap() >= 0.0, "{line}");
        assert!(line["time/video_work"].as_f64().unwrap() >= 0.0, "{line}");
        assert!(
            line["memory/estimate_bytes"].as_u64().unwrap() > 0,
            "{line}"
        );
    }
}
