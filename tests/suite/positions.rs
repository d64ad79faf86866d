//! Positions of short and long clips against transformers 4.50 (scripts/make_golden_positions.py), from the rule itself to
//! the log-probabilities that sampling and learning give.

use crate::golden_model::pixels;
use candle_core::DType;
use candle_core::Device;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use videothinker::config::SamplingConfig;
use videothinker::config::TextAfterVideo;
use videothinker::model::Qwen25Vl;
use videothinker::model::positions::Positions;
use videothinker::model::positions::VideoSpan;
use videothinker::model::positions::prompt_positions;
use videothinker::model::spec::Spec;
use videothinker::policy::generate::Completion;
use videothinker::policy::generate::generate;
use videothinker::policy::generate::unobserved;
use videothinker::policy::inputs::PackedGroup;
use videothinker::policy::inputs::PackedInputs;
use videothinker::policy::logprobs;
use videothinker::policy::sampler::QuestionSeed;
use videothinker::prompt::Processor;
use videothinker::prompt::Prompt;
use videothinker::video::VideoPatches;

/// A clip with text before and behind it, as transformers sees it.
#[derive(Debug, Deserialize)]
struct Case {
    seconds: Option<f64>,
    frames: Option<usize>,
    grid_thw: [usize; 3],
    second_per_grid: f64,
    before: usize,
    after: usize,
    video_first: [u32; 3],
    video_times: Vec<u32>,
    video_last: [u32; 3],
    text_first: [u32; 3],
    text_last: [u32; 3],
    rope_delta: i64,
    first_generated: u32,
    digest: String,
}

/// A clip of 60 s through the tiny model.
#[derive(Debug, Deserialize)]
struct LongClip {
    grid_thw: [usize; 3],
    second_per_grid: f64,
    prompt_ids: Vec<u32>,
    prompt_positions: [[u32; 2]; 3],
    greedy: Vec<u32>,
    greedy_logprobs: Vec<f32>,
    generated_positions: Vec<[u32; 3]>,
    completions: Vec<Scored>,
}

#[derive(Debug, Deserialize)]
struct Scored {
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
}

#[derive(Debug, Deserialize)]
struct Golden {
    positions: Vec<Case>,
    long_clip: LongClip,
}

fn golden_path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden").join(name)
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(golden_path("positions/positions.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The tiny model with the tokenizer that belongs to its ids.
fn model_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for source in ["model/tiny", "ask"] {
        for entry in std::fs::read_dir(golden_path(source)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

impl Case {
    fn token_ids(&self, spec: &Spec) -> Vec<u32> {
        let video = self.grid_thw.iter().product::<usize>() / 4;
        let mut ids = vec![1; self.before];
        ids.extend(vec![spec.tokens.video_pad; video]);
        ids.extend(vec![2; self.after]);
        ids
    }

    fn span(&self, text_after: TextAfterVideo) -> VideoSpan {
        VideoSpan {
            grid_thw: self.grid_thw,
            second_per_grid: self.second_per_grid,
            text_after,
        }
    }

    /// The time of each grid and where text goes on.
    fn check_times(&self, axes: &[Vec<u32>; 3]) {
        let per_grid = self.grid_thw[1] * self.grid_thw[2] / 4;
        let end = self.before + self.grid_thw[0] * per_grid;
        let at = |token: usize| [axes[0][token], axes[1][token], axes[2][token]];
        assert_eq!(at(self.before), self.video_first, "{self:?}");
        let times: Vec<u32> = (self.before..end)
            .step_by(per_grid)
            .map(|token| axes[0][token])
            .collect();
        assert_eq!(times, self.video_times, "{self:?}");
        assert_eq!(at(end - 1), self.video_last, "{self:?}");
        assert_eq!(at(end), self.text_first, "{self:?}");
        assert_eq!(at(end + self.after - 1), self.text_last, "{self:?}");
    }
}

fn digest(positions: &Positions) -> String {
    let values = positions.axes.iter().flatten();
    let digest = values.fold(0u64, |digest, &value| {
        digest.wrapping_mul(31).wrapping_add(u64::from(value))
    });
    digest.to_string()
}

#[test]
fn positions_are_those_of_transformers_4_however_long_a_clip_is() {
    let spec = Spec::load(&golden_path("model/tiny")).unwrap();
    let cases = golden().positions;
    for seconds in [5.0, 30.0, 60.0, 300.0] {
        for frames in [2, 4, 8, 16, 32] {
            let told = cases
                .iter()
                .filter(|case| case.seconds == Some(seconds) && case.frames == Some(frames));
            assert_eq!(told.count(), 4, "{seconds} s, {frames} frames");
        }
    }
    for case in &cases {
        let ids = case.token_ids(&spec);
        let span = case.span(TextAfterVideo::default());
        let (positions, next) = prompt_positions(&spec, &ids, &[span]).unwrap();
        case.check_times(&positions.axes);
        assert_eq!(next, case.first_generated, "{case:?}");
        assert_eq!(i64::from(next) - ids.len() as i64, case.rope_delta);
        assert_eq!(digest(&positions), case.digest, "{case:?}");
    }
}

#[test]
fn the_spatial_rule_parts_from_it_only_where_time_is_longer() {
    let spec = Spec::load(&golden_path("model/tiny")).unwrap();
    let mut parted = 0;
    for case in golden().positions {
        let ids = case.token_ids(&spec);
        let span = case.span(TextAfterVideo::Spatial);
        let (positions, next) = prompt_positions(&spec, &ids, &[span]).unwrap();
        let spatial = case.before + case.grid_thw[1].max(case.grid_thw[2]) / 2;
        assert_eq!(next as usize, spatial + case.after);
        let longer = case.video_last[0] as usize >= spatial;
        assert_eq!(digest(&positions) != case.digest, longer, "{case:?}");
        parted += usize::from(longer);
    }
    assert!(parted > 30, "{parted} cases");
}

/// 10 of 128 frames at 25 a second, as the paper's settings take them: docs/differences.md says so.
#[test]
fn a_clevrer_clip_has_the_same_positions_with_the_authors_second() {
    let spec = Spec::load(&golden_path("model/tiny")).unwrap();
    let ids = vec![spec.tokens.video_pad; 5 * 11 * 17];
    let positions = |second_per_grid| {
        let span = VideoSpan {
            grid_thw: [5, 22, 34],
            second_per_grid,
            text_after: TextAfterVideo::default(),
        };
        prompt_positions(&spec, &ids, &[span]).unwrap()
    };
    assert_eq!(positions(2.0 / (10.0 / 128.0 * 25.0)), positions(1.0));
}

fn long_clip_prompt(golden: &LongClip, text_after: TextAfterVideo) -> Prompt {
    let patches = golden.grid_thw.iter().product();
    Prompt {
        text: String::new(),
        token_ids: golden.prompt_ids.clone(),
        video: Some(Arc::new(VideoPatches {
            values: pixels(0, patches),
            grid_thw: golden.grid_thw,
            second_per_grid: golden.second_per_grid,
            text_after,
        })),
        begun: String::new(),
    }
}

/// What the training path gives the tokens of `completions`, and the positions of the rows it read.
fn scored(model: &Qwen25Vl, prompt: &Prompt, completions: &[&[u32]]) -> (Vec<f32>, PackedInputs) {
    let group = PackedGroup::of_completions(prompt, completions.iter().copied());
    let inputs = PackedInputs::new(&model.spec, &[group]).unwrap();
    let scores = logprobs::score(model, &inputs, None).unwrap();
    (scores.logprob, inputs)
}

fn greedy(model: &Qwen25Vl, folder: &Path, prompt: &Prompt, tokens: usize) -> Completion {
    let sampling = SamplingConfig {
        group_size: 1,
        temperature: 0.0,
        max_new_tokens: tokens,
        ..SamplingConfig::default()
    };
    let processor = Processor::load(folder).unwrap();
    let seeds = [QuestionSeed::new(1, 1, "q")];
    let groups = generate(
        model,
        &processor,
        &[prompt],
        &seeds,
        &sampling,
        &mut unobserved,
    );
    groups.unwrap().remove(0).remove(0)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn sampling_and_learning_go_on_behind_a_minute_of_video_as_transformers_4_does() {
    let golden = golden().long_clip;
    let folder = model_folder();
    let model = Qwen25Vl::load(folder.path(), DType::F32, &Device::Cpu).unwrap();
    let prompt = long_clip_prompt(&golden, TextAfterVideo::default());

    let written = greedy(&model, folder.path(), &prompt, golden.greedy.len());
    assert_eq!(written.token_ids, golden.greedy);
    assert!(largest_difference(&written.logprobs, &golden.greedy_logprobs) < 1e-4);
    let (learned, inputs) = scored(&model, &prompt, &[&golden.greedy]);
    assert!(largest_difference(&written.logprobs, &learned) < 1e-5);
    let rows = golden.prompt_ids.len();
    for (axis, ends) in inputs.positions.axes.iter().zip(golden.prompt_positions) {
        assert_eq!([axis[0], axis[rows - 1]], ends);
    }
    for (token, position) in golden.generated_positions.iter().enumerate() {
        let ours = inputs
            .positions
            .axes
            .each_ref()
            .map(|axis| axis[rows + token]);
        assert_eq!(ours, *position);
    }

    let completions: Vec<&[u32]> = golden
        .completions
        .iter()
        .map(|completion| completion.token_ids.as_slice())
        .collect();
    let wanted: Vec<f32> = golden
        .completions
        .iter()
        .flat_map(|completion| completion.logprobs.clone())
        .collect();
    let (logprobs, _) = scored(&model, &prompt, &completions);
    assert!(largest_difference(&logprobs, &wanted) < 1e-4);

    // The two rules are not the same thing here, and each of them holds in both paths.
    let other = long_clip_prompt(&golden, TextAfterVideo::Spatial);
    let (spatial, _) = scored(&model, &other, &completions);
    assert!(largest_difference(&spatial, &wanted) > 1e-2);
    let written = greedy(&model, folder.path(), &other, 12);
    let (learned, _) = scored(&model, &other, &[&written.token_ids]);
    assert!(largest_difference(&written.logprobs, &learned) < 1e-5);
}

/// A minute of nine pictures in turn, one a second.
fn minute_of_images(folder: &Path) -> String {
    let frames = folder.join("frames");
    std::fs::create_dir(&frames).unwrap();
    let mut pictures: Vec<PathBuf> = std::fs::read_dir(golden_path("video/clips/frames"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pictures.sort();
    for (second, picture) in (0..60).zip(pictures.iter().cycle()) {
        let extension = picture.extension().unwrap().display();
        let copy = frames.join(format!("{second:03}.{extension}"));
        std::fs::copy(picture, copy).unwrap();
    }
    format!("{}#fps=1", frames.display())
}

fn run(verb: &[&str], model: &Path, clip: &str, more: &[&str]) -> Value {
    let mut args = verb.to_vec();
    args.extend(["--model", model.to_str().unwrap(), "--video", clip]);
    args.extend(["--question", "What moves?"]);
    for setting in [
        "video.max_frames=32",
        "video.min_pixels=3136",
        "video.max_pixels=4704",
        "model.dtype=f32",
        "model.device=cpu",
    ] {
        args.extend(["--set", setting]);
    }
    args.extend(more);
    let output = crate::program().args(&args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_program_shows_and_scores_a_minute_of_video_as_its_settings_say() {
    let folder = model_folder();
    let clip = minute_of_images(folder.path());
    let pad = 276;
    let shown = |more: &[&str]| -> (usize, [Vec<u32>; 3]) {
        let prompt = run(&["inspect", "prompt"], folder.path(), &clip, more);
        let ids: Vec<u32> = serde_json::from_value(prompt["prompt_ids"].clone()).unwrap();
        let axes = serde_json::from_value(prompt["position_ids"].clone()).unwrap();
        (ids.iter().position(|&id| id == pad).unwrap(), axes)
    };
    let (before, axes) = shown(&[]);
    let wanted = golden()
        .positions
        .into_iter()
        .find(|case| case.seconds == Some(60.0) && case.frames == Some(32));
    let wanted = wanted.unwrap();
    // 84 × 56 pixels: 4 × 6 patches a grid, six tokens.
    let (start, per_grid, grids) = (before as u32, 6, 16);
    let shift = |position: u32| position - wanted.before as u32 + start;
    let times: Vec<u32> = axes[0][before..][..grids * per_grid]
        .chunks(per_grid)
        .map(|grid| grid[0])
        .collect();
    let theirs: Vec<u32> = wanted.video_times.iter().copied().map(shift).collect();
    assert_eq!(times, theirs);
    let behind = before + grids * per_grid;
    assert_eq!(axes[1][behind], shift(wanted.text_first[1]));
    let length = axes[0].len();
    assert_eq!(
        axes[2][length - 1] as usize,
        axes[2][behind] as usize + length - 1 - behind
    );

    let (_, spatial) = shown(&["--set", "video.text_after=spatial"]);
    assert_eq!(spatial[0][behind], start + 3);
    let (_, authors) = shown(&["--set", "video.seconds_per_grid=authors"]);
    assert_eq!(authors[0][behind], start + 15 * 2 + 1);

    let scores = |more: &[&str]| {
        let mut args = vec!["--completion", "the square"];
        args.extend(more);
        let view = run(&["inspect", "logprobs"], folder.path(), &clip, &args);
        view["completions"][0]["logprobs"].clone()
    };
    let largest = scores(&[]);
    assert_ne!(largest, scores(&["--set", "video.text_after=spatial"]));
    assert_ne!(
        largest,
        scores(&["--set", "video.seconds_per_grid=authors"])
    );
    assert_eq!(largest, scores(&["--set", "video.text_after=largest"]));
}
