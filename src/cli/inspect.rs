//! `inspect`: what the model sees and thinks, as JSON. The fields are an interface: other tools read them.

use super::ConfigArgs;
use super::Outcome;
use super::output;
use crate::config::AccuracyRule;
use crate::config::Verb;
use crate::rl::Reward;
use crate::rl::reward;
use crate::video;
use crate::video::Frames;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use clap::Subcommand;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Frames, sizes, grid and token count of a clip
    Video(VideoArgs),
    /// Accuracy and format of {completion, solution} lines, a JSON object each
    Reward(RewardArgs),
    /// The settings as the program sees them
    Config(ConfigArgs),
}

#[derive(Debug, Args)]
struct VideoArgs {
    /// The clip
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    settings: ConfigArgs,
    /// Write `frames` (u8, [T, 3, H, W], resized) and `pixel_values` (f32, [t·h·w, 1176], normalised) to this file
    #[arg(long, value_name = "OUT.safetensors")]
    save: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RewardArgs {
    /// Lines {completion, solution}
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    #[command(flatten)]
    settings: ConfigArgs,
}

/// Runs `inspect`.
pub(super) fn run(args: &InspectArgs) -> Result<Outcome> {
    match &args.what {
        What::Video(args) => inspect_video(args)?,
        What::Reward(args) => inspect_reward(args)?,
        What::Config(args) => output::json(&args.load(Verb::Inspect)?)?,
    }
    Ok(Outcome::Done)
}

fn inspect_video(args: &VideoArgs) -> Result<()> {
    let config = args.settings.load(Verb::Inspect)?;
    let (clip, frames) = video::load(&args.file, &config.video)?;
    if let Some(path) = &args.save {
        save_frames(path, &frames).with_context(|| format!("cannot write {}", path.display()))?;
    }
    output::json(&clip)
}

fn save_frames(path: &Path, frames: &Frames) -> Result<()> {
    let patches = frames.patches();
    let pixel_values: Vec<u8> = patches
        .values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let rows = patches.grid_thw.iter().product();
    let columns = video::VideoPatches::PATCH_DIM;
    let tensors = [
        (
            "frames",
            TensorView::new(Dtype::U8, frames.shape.to_vec(), &frames.values)?,
        ),
        (
            "pixel_values",
            TensorView::new(Dtype::F32, vec![rows, columns], &pixel_values)?,
        ),
    ];
    Ok(safetensors::serialize_to_file(tensors, None, path)?)
}

/// A line of the input of `inspect reward`; other fields are ignored.
#[derive(Debug, Deserialize)]
struct Scored {
    completion: String,
    solution: String,
}

/// A line of its output.
#[derive(Debug, Serialize)]
struct RewardLine<'a> {
    accuracy: f64,
    format: f64,
    answer: &'a str,
}

fn inspect_reward(args: &RewardArgs) -> Result<()> {
    let rule = args.settings.load(Verb::Inspect)?.reward.accuracy;
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let scored: Scored = serde_json::from_str(line).with_context(|| {
            format!(
                "{}:{}: expected {{\"completion\": …, \"solution\": …}}",
                args.file.display(),
                index + 1
            )
        })?;
        output::json(&reward_line(&scored, rule))?;
    }
    Ok(())
}

fn reward_line(scored: &Scored, rule: AccuracyRule) -> RewardLine<'_> {
    let Reward { accuracy, format } = Reward::score(&scored.completion, &scored.solution, rule);
    RewardLine {
        accuracy,
        format,
        answer: reward::answer_text(&scored.completion),
    }
}
