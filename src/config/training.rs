//! `[optimizer]`, `[train]`, `[sft]` and `[checkpoint]`: how the weights change, for how long, and what is saved.

use super::data::MAX_MIB;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// Beyond any run.
const MAX_STEPS: usize = 1_000_000;

/// `[optimizer]`: AdamW.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decay of the first moment (β₁).
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// Decay of the second moment (β₂).
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// Added to the root of the second moment (ε).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Decoupled weight decay.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub max_grad_norm: f64,
    /// Shape of the learning rate over the run.
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    #[schemars(range(max = MAX_STEPS))]
    pub warmup_steps: usize,
    /// Where and how the f32 master of each weight and its two moments are kept.
    #[schemars(extend("x-mayDiffer" = "parts"))]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerMemory {
    /// On the device in f32: 12 bytes a bf16 weight.
    Full,
    /// On the device: masters exact in 16 bits beside the bf16 weight, moments in 8 bits; 4 bytes a weight.
    Compact,
    /// In host memory in f32, updated there by all cores; gradients go there layer by layer, weights come back.
    Host,
}

/// How the learning rate goes on after its warm-up, or a coefficient from its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps: each samples its questions once and learns from them `updates_per_rollout` times.
    #[schemars(range(min = 1, max = MAX_STEPS))]
    pub(crate) steps: usize,
    /// Stop after this many of the steps, with a checkpoint (unless `checkpoint.every` is 0); the schedule goes over all.
    /// Absent: after the last.
    #[schemars(range(min = 1, max = MAX_STEPS), example = 250, extend("x-mayDiffer" = "parts"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_after: Option<usize>,
    /// Questions per step (the authors' two GPUs take one each). `train-sft`: examples.
    #[schemars(range(min = 1, max = 4096))]
    pub(crate) questions_per_step: usize,
    /// Optimizer updates from one step's completions (μ; TRL: `num_iterations`), all at the step's learning rate.
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) updates_per_rollout: usize,
    /// Stop after this many steps in a row with a non-finite loss or gradient.
    #[schemars(range(min = 1, max = MAX_STEPS), extend("x-mayDiffer" = "parts"))]
    pub(crate) max_bad_steps: usize,
    /// Clips decoded ahead of the trainer are held to about this many MiB.
    #[schemars(range(min = 1, max = MAX_MIB), extend("x-mayDiffer" = "parts"))]
    pub(crate) prefetch_mib: usize,
    /// Seconds that ranks wait for each other at the start: to come, and then for NCCL to connect their GPUs. At most a week.
    #[schemars(range(min = 1, max = 604_800), extend("x-mayDiffer" = "machines"))]
    pub(crate) rank_timeout: u64,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// Weight of the loss on what single video tokens show (a question's `grounding`).
    #[schemars(range(min = 0.0))]
    pub(crate) grounding_weight: f64,
    /// Words whose tokens count more than others, such as those that decide about an answer: they are the hardest and
    /// a small part of it.
    #[schemars(inner(length(min = 1)), example = ["do", "not"])]
    pub(crate) emphasized: Vec<String>,
    /// Weight of an emphasized token; other tokens count 1.
    #[schemars(range(min = 0.0))]
    pub(crate) emphasis: f64,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Every so many steps (and at the end, and on a signal). 0: never, not even then.
    #[schemars(range(max = MAX_STEPS), extend("x-mayDiffer" = "parts"))]
    pub(crate) every: usize,
    /// Keep the last so many; older ones are removed. 0 keeps all.
    #[schemars(range(max = MAX_STEPS), extend("x-mayDiffer" = "parts"))]
    pub(crate) keep: usize,
    /// Also written at these steps, and never removed: what another run names (with `every = 0`: not written either).
    #[schemars(inner(range(min = 1, max = MAX_STEPS)), example = [500], extend("x-mayDiffer" = "parts"))]
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
