//! Every setting: its meaning, unit, default and paper symbol. Loaded, overridden and validated once.
//!
//! The defaults are the paper's recipe (arXiv 2605.01324 and the code that produced its numbers).

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

mod eval;
mod load;
mod schema;
mod validate;
mod video;

pub use eval::{Benchmark, EvalConfig, Extraction, Protocol, Wording};
pub use load::{ConfigError, Origins, Place};
pub use validate::{Verb, is_hub_id};
pub use video::{FramePositions, SecondsPerGrid, TextAfterVideo, VideoConfig};

/// A whole run, as written in a TOML file with `--set` applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Seed of everything random: question order, sampling, initialisation.
    pub seed: u64,
    /// Run directory: resolved config, metrics, rollouts, checkpoints.
    pub output_dir: PathBuf,
    /// Which model, and where it runs.
    pub model: ModelConfig,
    /// Which questions.
    pub data: DataConfig,
    /// Frames and pixels per clip.
    pub video: VideoConfig,
    /// How completions are sampled.
    pub sampling: SamplingConfig,
    /// How completions are scored.
    pub reward: RewardConfig,
    /// The policy-gradient loss.
    pub objective: ObjectiveConfig,
    /// The KL term against the bias model (`train-cdpo` only).
    pub kl: KlConfig,
    /// AdamW and its schedule.
    pub optimizer: OptimizerConfig,
    /// Length of the run.
    pub train: TrainConfig,
    /// What `train-sft` learns beside the worked answers.
    pub sft: SftConfig,
    /// When checkpoints are written and how many are kept.
    pub checkpoint: CheckpointConfig,
    /// How `eval` asks.
    pub eval: EvalConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 42,
            output_dir: PathBuf::from("runs/run"),
            model: ModelConfig::default(),
            data: DataConfig::default(),
            video: VideoConfig::default(),
            sampling: SamplingConfig::default(),
            reward: RewardConfig::default(),
            objective: ObjectiveConfig::default(),
            kl: KlConfig::default(),
            optimizer: OptimizerConfig::default(),
            train: TrainConfig::default(),
            sft: SftConfig::default(),
            checkpoint: CheckpointConfig::default(),
            eval: EvalConfig::default(),
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder in the Hugging Face layout, or a hub id such as `Qwen/Qwen2.5-VL-3B-Instruct`.
    pub path: String,
    /// The frozen bias model (stage-1 result); a folder or hub id. `train-cdpo` only.
    pub bias_model: Option<String>,
    /// Weights and activations.
    pub dtype: DTypeName,
    /// `auto`, `cpu`, or `cuda:N`. `auto` is the first GPU of a program built with CUDA, which ends where it cannot use one, and the
    /// CPU of one built without.
    pub device: String,
    /// Train the vision tower too (the paper does).
    pub train_vision: bool,
    /// Where the bias model's layers are kept; its embedding and head are always on the device.
    pub bias_placement: BiasPlacement,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            path: "Qwen/Qwen2.5-VL-3B-Instruct".into(),
            bias_model: None,
            dtype: DTypeName::Bf16,
            device: "auto".into(),
            train_vision: true,
            bias_placement: BiasPlacement::Device,
        }
    }
}

/// Where the layers of the frozen bias model are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BiasPlacement {
    /// On the device, as they are.
    Device,
    /// In host memory; each is copied to the device when its turn comes, while the one before it computes.
    Host,
    /// On the device in 8 bits (blocks of 128 weights with a scale each); each is decoded when its turn comes.
    Int8,
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DTypeName {
    /// bfloat16 (optimizer state stays in f32 precision).
    Bf16,
    /// float32.
    F32,
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Question file: `.json` (an array) or `.jsonl` (an object a line).
    pub questions: PathBuf,
    /// Relative video paths are resolved against this folder. Of an absolute path that does not exist, such as one of
    /// another machine, the longest end that exists below it is taken.
    pub video_root: PathBuf,
    /// Cut from video paths, with everything before it: `/CLEVRER` makes `/data/CLEVRER/a/b.mp4` the relative `a/b.mp4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_strip: Option<String>,
    /// Draw this many questions, with `seed`; all when absent.
    pub samples: Option<usize>,
    /// In which order they come; `train-sft` keeps those of one clip together.
    pub order: QuestionOrder,
    /// Keep only these kinds; empty keeps every question.
    pub kinds: Vec<QuestionKind>,
    /// The kind of questions that have none, where a file holds one kind only, such as the authors' observational ones;
    /// absent: unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assume_kind: Option<QuestionKind>,
    /// What to do with a clip that cannot be used.
    pub on_bad_video: BadVideoPolicy,
    /// What `data check --manifest` wrote: a run does not start when a clip has changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<PathBuf>,
    /// Decoded frames are kept in memory for later epochs, up to this many MiB; 0 keeps none.
    pub cache_mib: usize,
    /// Decoded frames are also kept in files in this folder, for later runs and the second stage; absent: in none.
    pub cache_dir: Option<PathBuf>,
    /// The files of `cache_dir` take up to this many MiB.
    pub cache_dir_mib: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            questions: PathBuf::new(),
            video_root: PathBuf::new(),
            video_strip: None,
            samples: None,
            order: QuestionOrder::default(),
            kinds: Vec::new(),
            assume_kind: None,
            on_bad_video: BadVideoPolicy::default(),
            manifest: None,
            cache_mib: 256,
            cache_dir: None,
            cache_dir_mib: 32 * 1024,
        }
    }
}

/// The paper's split of counterfactual questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    /// What is seen in the unmodified video already gives the right answer (the shortcut works).
    Observational,
    /// The removed object changes the answer: it must be reasoned out.
    Inferential,
}

impl QuestionKind {
    /// The word used in files and metric names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observational => "observational",
            Self::Inferential => "inferential",
        }
    }
}

/// The order in which a run takes its questions. The draw of `data.samples` from more questions is the same:
/// `datasets.shuffle(seed)` of Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionOrder {
    /// What is drawn is shuffled anew in every epoch with a generator of its own.
    #[default]
    Drawn,
    /// As the authors' runs: transformers' Trainer shuffles what is drawn with torch, `seed` plus the epoch being its
    /// `data_seed`, and fills an epoch's last step with the epoch's first questions.
    Trainer,
}

/// What happens to a question whose clip cannot be used. It is never replaced by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadVideoPolicy {
    /// Stop and name it.
    #[default]
    Error,
    /// Skip, count and log it.
    Skip,
}

/// `[sampling]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Completions per question (G).
    pub group_size: usize,
    /// Softmax temperature; 0 is greedy.
    pub temperature: f64,
    /// Keep only the k most likely tokens; 0 keeps all. Upstream gets 50 from a library default.
    pub top_k: usize,
    /// Keep the smallest set of tokens with this probability; 1 keeps all.
    pub top_p: f64,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// Longest prompt, in tokens (video included). A longer one is an error, never truncated.
    pub max_prompt_tokens: usize,
    /// Completions that decode as one batch (on a CPU: on each core); one that ends makes room for the next question's.
    /// 0: all of a step.
    pub max_rows: usize,
    /// Replay a decoding step as a CUDA graph: fewer launches per token. If it cannot be captured, decoding goes on without, says so
    /// once, and `timings.jsonl` counts the steps of either kind (`decode/…`); `inspect device` fails.
    pub cuda_graph: bool,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            group_size: 8,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            max_new_tokens: 768,
            max_prompt_tokens: 4096,
            max_rows: 64,
            cuda_graph: false,
        }
    }
}

/// `[reward]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// `soft` gives partial credit to a non-empty subset of the right options.
    pub accuracy: AccuracyRule,
    /// Weight of the accuracy reward.
    pub accuracy_weight: f64,
    /// Weight of the format reward.
    pub format_weight: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            accuracy: AccuracyRule::Soft,
            accuracy_weight: 1.0,
            format_weight: 1.0,
        }
    }
}

/// How an answer is compared with the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccuracyRule {
    /// |answer| / |truth| when the answer is a non-empty subset of the truth, else 0.
    Soft,
    /// 1 when the answer is the truth, else 0.
    Exact,
}

/// `[objective]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// How token losses are averaged.
    pub loss: LossKind,
    /// ε below: the ratio is clipped at 1 − `clip_low`.
    pub clip_low: f64,
    /// ε above: the ratio is clipped at 1 + `clip_high`.
    pub clip_high: f64,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            loss: LossKind::Grpo,
            clip_low: 0.2,
            clip_high: 0.28,
        }
    }
}

/// How token losses become one number (TRL's names).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Mean over a completion's tokens, then over completions (the authors).
    Grpo,
    /// Sum over tokens divided by G × `max_new_tokens`; advantages not divided by their std.
    DrGrpo,
    /// Mean over all tokens of the group.
    Bnpo,
    /// Mean over all tokens of the step.
    Dapo,
}

/// `[kl]`: the term against the bias model. The sign is a word, the coefficient is never negative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// `repel` (CDPO) or `attract` (the usual pull to a reference).
    pub direction: KlDirection,
    /// Weight of the term; 0 is plain GRPO. Upstream writes this as `--beta -0.01`.
    pub coefficient: f64,
    /// How the divergence is measured from the sampled tokens.
    pub estimator: KlEstimator,
    /// The log-ratio is clamped to ± this before use (upstream: 11).
    pub clamp: f64,
    /// Upper bound of one token's divergence; absent: none (the paper).
    pub token_cap: Option<f64>,
    /// What to do when the format reward collapses under repulsion.
    pub guard: DivergenceGuard,
    /// The guard acts when the mean format reward of a step falls below this.
    pub guard_format: f64,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            direction: KlDirection::Repel,
            coefficient: 0.01,
            estimator: KlEstimator::K3,
            clamp: 11.0,
            token_cap: None,
            guard: DivergenceGuard::Off,
            guard_format: 0.5,
        }
    }
}

/// Which way the KL term pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlDirection {
    /// Away from the bias model.
    Repel,
    /// Towards it.
    Attract,
}

/// Estimators of KL(policy ‖ bias model), with d = clamp(logp_bias − logp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    /// −d
    K1,
    /// d² / 2
    K2,
    /// exp(d) − d − 1
    K3,
    /// Exact, over the whole vocabulary, from the bias model's logits.
    Full,
}

/// Reaction to a collapsed format reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DivergenceGuard {
    /// Report only (the paper).
    Off,
    /// Save a checkpoint and stop.
    Stop,
    /// Halve the coefficient and go on.
    Halve,
}

/// `[optimizer]`: AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub max_grad_norm: f64,
    /// Shape of the learning rate over the run.
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Where and how the f32 master of each weight and its two moments are kept.
    pub memory: OptimizerMemory,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 20.0,
            schedule: Schedule::Linear,
            warmup_steps: 0,
            memory: OptimizerMemory::Full,
        }
    }
}

/// Where and how the optimizer's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerMemory {
    /// On the device in f32: 12 bytes a bf16 weight.
    Full,
    /// On the device: masters exact in 16 bits beside the bf16 weight, moments in 8 bits; 4 bytes a weight.
    Compact,
    /// In host memory in f32, updated there by all cores; gradients go there layer by layer, weights come back.
    Host,
}

/// Learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Falls linearly to 0 at the last step.
    Linear,
    /// Stays.
    Constant,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps: each samples its questions once and learns from them `updates_per_rollout` times.
    pub steps: usize,
    /// Stop after this many of the steps, with a checkpoint (unless `checkpoint.every` is 0); the schedule goes over all.
    /// Absent: after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<usize>,
    /// Questions per step (the authors' two GPUs take one each). `train-sft`: examples.
    pub questions_per_step: usize,
    /// Optimizer updates from one step's completions (μ; TRL: `num_iterations`), all at the step's learning rate.
    pub updates_per_rollout: usize,
    /// Stop after this many steps in a row with a non-finite loss or gradient.
    pub max_bad_steps: usize,
    /// Clips decoded ahead of the trainer are held to about this many MiB.
    pub prefetch_mib: usize,
    /// Seconds that ranks wait for each other at the start: to come, and then for NCCL to connect their GPUs.
    pub rank_timeout: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 500,
            stop_after: None,
            questions_per_step: 2,
            updates_per_rollout: 1,
            max_bad_steps: 5,
            prefetch_mib: 512,
            rank_timeout: 600,
        }
    }
}

impl TrainConfig {
    /// The step after which a run ends: `stop_after`, else the last of the schedule.
    pub fn last_step(&self) -> usize {
        self.stop_after
            .map_or(self.steps, |stop| stop.min(self.steps))
    }
}

/// `[sft]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Weight of the loss on what single video tokens show (a question's `grounding`).
    pub grounding_weight: f64,
    /// Words whose tokens count more than others, such as those that decide about an answer: they are the hardest and
    /// a small part of it.
    pub emphasized: Vec<String>,
    /// Weight of an emphasized token; other tokens count 1.
    pub emphasis: f64,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            grounding_weight: 1.0,
            emphasized: Vec::new(),
            emphasis: 1.0,
        }
    }
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Every so many steps (and at the end, and on a signal). 0: never, not even then.
    pub every: usize,
    /// Keep the last so many; older ones are removed. 0 keeps all.
    pub keep: usize,
    /// Also written at these steps, and never removed: what another run names (with `every = 0`: not written either).
    pub keep_steps: Vec<usize>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: 100,
            keep: 2,
            keep_steps: Vec::new(),
        }
    }
}
