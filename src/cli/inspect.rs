//! `inspect`: what the model sees and thinks, as JSON. The fields are an interface: other tools read them.

use super::ConfigArgs;
use super::Outcome;
use super::eval::model_folder;
use super::inspect_answers;
use super::inspect_answers::AnswersArgs;
use super::inspect_config;
use super::inspect_config::InspectConfigArgs;
use super::inspect_device;
use super::inspect_device::DeviceArgs;
use super::inspect_model;
use super::inspect_model::ModelArgs;
use super::output;
use crate::config::Config;
use crate::config::RewardConfig;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::answer::answer_text;
use crate::model::device;
use crate::model::positions::VideoSpan;
use crate::model::positions::prompt_positions;
use crate::model::spec::Spec;
use crate::policy::FrozenModel;
use crate::policy::generate::Completion;
use crate::policy::generate::Finish;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::policy::logprobs;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::rl::Reward;
use crate::rl::Truth;
use crate::rl::loss::CompletionTerms;
use crate::rl::loss::policy_loss;
use crate::util::file;
use crate::util::json;
use crate::video;
use crate::video::Frames;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use clap::Args;
use clap::Subcommand;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Frames, sizes, grid and token count of a clip
    Video(VideoArgs),
    /// The text, token ids and position ids of a prompt, placeholders expanded
    Prompt(PromptArgs),
    /// Log-probability of every token of given completions
    Logprobs(LogprobsArgs),
    /// Accuracy and format of {completion, solution} lines, a JSON object each
    Reward(RewardArgs),
    /// How answers are read and scored: lines {question, answer, completion}, by any rule
    Answers(AnswersArgs),
    /// The settings as the program sees them; with --keys all there are, with --schema their JSON Schema
    Config(InspectConfigArgs),
    /// Sizes of a model folder; with --init, one with random weights
    Model(ModelArgs),
    /// What the device computes and how fast, against the CPU and against what it could do
    Device(DeviceArgs),
}

#[derive(Debug, Args)]
struct VideoArgs {
    /// The clip
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A model folder or hub id, whose patches the clip is to fit
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    #[command(flatten)]
    settings: ConfigArgs,
    /// Write `frames` (u8, [T, 3, H, W], resized) and `pixel_values` (f32, [t·h·w, 1176], normalised) to this file
    #[arg(long, value_name = "OUT.safetensors")]
    save: Option<PathBuf>,
}

/// What makes a prompt.
#[derive(Debug, Args)]
struct PromptArgs {
    /// A model folder or hub id
    #[arg(long, value_name = "DIR")]
    model: String,
    /// The clip
    #[arg(long, value_name = "FILE")]
    video: PathBuf,
    /// The question
    #[arg(long, value_name = "TEXT")]
    question: String,
    /// Which words follow the question
    #[arg(long, value_enum, default_value = "training")]
    wording: Wording,
    #[command(flatten)]
    settings: ConfigArgs,
}

#[derive(Debug, Args)]
struct LogprobsArgs {
    #[command(flatten)]
    prompt: PromptArgs,
    /// What the model could answer (repeatable)
    #[arg(long = "completion", value_name = "TEXT", required = true, num_args = 1..)]
    completions: Vec<String>,
    /// Do not append the end-of-turn token
    #[arg(long)]
    no_eos: bool,
    /// Also score with this model: adds its log-probabilities and each token's divergence as `[kl]` measures it
    #[arg(long, value_name = "DIR")]
    bias_model: Option<String>,
}

#[derive(Debug, Args)]
struct RewardArgs {
    /// Lines {completion, solution}
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    #[command(flatten)]
    settings: ConfigArgs,
}

pub(super) fn run(args: &InspectArgs) -> Result<Outcome> {
    match &args.what {
        What::Video(args) => inspect_video(args)?,
        What::Prompt(args) => inspect_prompt(args)?,
        What::Logprobs(args) => inspect_logprobs(args)?,
        What::Reward(args) => inspect_reward(args)?,
        What::Answers(args) => inspect_answers::run(args)?,
        What::Config(args) => inspect_config::run(args)?,
        What::Model(args) => inspect_model::run(args)?,
        What::Device(args) => return inspect_device::run(args),
    }
    Ok(Outcome::Done)
}

fn inspect_video(args: &VideoArgs) -> Result<()> {
    let mut config = args.settings.load(Verb::Inspect)?;
    if let Some(model) = &args.model {
        let folder = model_folder(model)?;
        config = args.settings.load_for_model(Verb::Inspect, &folder)?;
        let spec = Spec::load(&folder)?;
        anyhow::ensure!(
            spec.vision.patch_dim() == VideoPatches::PATCH_DIM,
            "{model}: its patches have {} values, those made here {}",
            spec.vision.patch_dim(),
            VideoPatches::PATCH_DIM
        );
    }
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
    let columns = VideoPatches::PATCH_DIM;
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

impl PromptArgs {
    fn prompt(&self, config: &Config, processor: &Processor) -> Result<Prompt> {
        let (_, patches) = video::load_patches(&self.video, &config.video)?;
        Ok(processor.prompt(&self.question, self.wording, Some(patches))?)
    }
}

/// What `inspect prompt` prints.
#[derive(Debug, Serialize)]
struct PromptView<'a> {
    text: &'a str,
    prompt_ids: &'a [u32],
    position_ids: [Vec<u32>; 3],
}

fn inspect_prompt(args: &PromptArgs) -> Result<()> {
    let folder = model_folder(&args.model)?;
    let config = args.settings.load_for_model(Verb::Inspect, &folder)?;
    let processor =
        Processor::load(&folder)?.with_max_prompt_tokens(config.sampling.max_prompt_tokens);
    let prompt = args.prompt(&config, &processor)?;
    let clips: Vec<VideoSpan> = prompt
        .video
        .iter()
        .map(|clip| VideoSpan::from(clip.as_ref()))
        .collect();
    let (positions, _) = prompt_positions(&Spec::load(&folder)?, &prompt.token_ids, &clips)?;
    output::json(&PromptView {
        text: &prompt.text,
        prompt_ids: &prompt.token_ids,
        position_ids: positions.axes,
    })
}

/// What `inspect logprobs` prints.
#[derive(Debug, Serialize)]
struct LogprobsView {
    completions: Vec<ScoredCompletion>,
}

#[derive(Debug, Serialize)]
struct ScoredCompletion {
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bias_logprobs: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kl: Option<Vec<f32>>,
}

fn inspect_logprobs(args: &LogprobsArgs) -> Result<()> {
    let folder = model_folder(&args.prompt.model)?;
    let settings = &args.prompt.settings;
    let config = settings.load_for_model(Verb::Inspect, &folder)?;
    let device = device::device(&config.model)?;
    let dtype = device::dtype(&config.model);
    let processor =
        Processor::load(&folder)?.with_max_prompt_tokens(config.sampling.max_prompt_tokens);
    let prompt = args.prompt.prompt(&config, &processor)?;
    let finish = if args.no_eos {
        Finish::Length
    } else {
        Finish::Stop
    };
    let completions = args
        .completions
        .iter()
        .map(|text| Completion::given(&processor, &prompt, text, finish))
        .collect::<Result<Vec<_>, _>>()?;
    let tokens = completions.iter().map(|one| one.token_ids.as_slice());
    let group = PackedGroup::of_completions(&prompt, tokens);
    let model = FrozenModel::load(&folder, dtype, &device)?;
    let inputs = PackedInputs::new(&model.model().spec, &[group])?;
    let bias = match &args.bias_model {
        Some(name) => Some(FrozenModel::load(&model_folder(name)?, dtype, &device)?),
        None => None,
    };
    let bias_hidden = bias
        .as_ref()
        .map(|bias| bias.target_hidden(&inputs))
        .transpose()?;
    let rows = bias
        .as_ref()
        .zip(bias_hidden.as_ref())
        .map(|(bias, hidden)| bias.reference_rows(hidden));
    let scores = logprobs::score(model.model(), &inputs, rows)?;
    let bias_scores = bias.as_ref().map(|bias| bias.score(&inputs)).transpose()?;
    let of_first_group = |values: &[f32]| -> Vec<Vec<f32>> {
        inputs.per_suffix(values)[0]
            .iter()
            .map(|values| values.to_vec())
            .collect()
    };
    let mut view = LogprobsView {
        completions: completions
            .into_iter()
            .zip(of_first_group(&scores.logprob))
            .map(|(completion, logprobs)| ScoredCompletion {
                token_ids: completion.token_ids,
                logprobs,
                bias_logprobs: None,
                kl: None,
            })
            .collect(),
    };
    if let Some(bias_scores) = bias_scores {
        let bias = of_first_group(&bias_scores.logprob);
        let full = of_first_group(&scores.full_kl);
        for ((one, bias), full) in view.completions.iter_mut().zip(bias).zip(full) {
            one.kl = Some(divergence(&config, &one.logprobs, &bias, &full));
            one.bias_logprobs = Some(bias);
        }
    }
    output::json(&view)
}

/// Each token's divergence as the loss of `train-cdpo` measures it.
fn divergence(config: &Config, logprob: &[f32], bias: &[f32], full: &[f32]) -> Vec<f32> {
    let terms = CompletionTerms {
        advantage: 0.0,
        logprob,
        old_logprob: None,
        reference_logprob: Some(bias),
        full_kl: Some(full),
        acts: None,
    };
    let limit = config.sampling.max_new_tokens;
    policy_loss(&[vec![terms]], &config.objective, Some(&config.kl), limit).kl
}

/// A line of the input of `inspect reward`; other fields are ignored.
#[derive(Debug, Deserialize)]
struct Scored {
    completion: String,
    solution: String,
    /// With it, or with `options`, the solution is read as that of a question file is.
    #[serde(default)]
    problem: String,
    #[serde(default)]
    options: Option<Vec<String>>,
}

/// A line of its output.
#[derive(Debug, Serialize)]
struct RewardLine<'a> {
    accuracy: f64,
    format: f64,
    answer: &'a str,
}

fn inspect_reward(args: &RewardArgs) -> Result<()> {
    let config = args.settings.load(Verb::Inspect)?.reward;
    let text = file::read_to_string(&args.file)?;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let scored: Scored = json::read(line.as_bytes()).map_err(|error| {
            anyhow!(
                "{}:{}: expected {{\"completion\": …, \"solution\": …}}: {}",
                args.file.display(),
                index + 1,
                error.problem
            )
        })?;
        output::json(&reward_line(&scored, &config))?;
    }
    Ok(())
}

fn reward_line<'a>(scored: &'a Scored, config: &RewardConfig) -> RewardLine<'a> {
    let truth = Truth::as_read(&scored.problem, scored.options.as_deref(), &scored.solution);
    let Reward { accuracy, format } = Reward::score(&scored.completion, &truth, config);
    RewardLine {
        accuracy,
        format,
        answer: answer_text(&scored.completion),
    }
}
