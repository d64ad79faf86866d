//! `[sampling]`, `[reward]`, `[objective]` and `[kl]`: completions, their scores and the loss made of them.

use super::Schedule;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

/// Twice Qwen2.5-VL's longest context of 128,000.
const MAX_TOKENS: usize = 1 << 18;

/// `[sampling]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Completions per question (G).
    #[schemars(range(min = 1, max = 1024))]
    pub group_size: usize,
    /// Softmax temperature; 0 is greedy.
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
    /// Keep only the k most likely tokens; 0 keeps all. Upstream gets 50 from a library default.
    #[schemars(range(max = 1_000_000))]
    pub top_k: usize,
    /// Keep the smallest set of tokens with this probability; 1 keeps all.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0))]
    pub top_p: f64,
    /// Divides the positive logits of every token that prompt and completion have, and multiplies the negative ones, as `generate` of
    /// transformers does by `generation_config.json`; 1 leaves them. For evaluations, `ask` and `label`: a run learns from the model's own
    /// probabilities.
    #[schemars(range(max = 100.0), extend("exclusiveMinimum" = 0))]
    pub repetition_penalty: f64,
    /// Longest completion, in tokens.
    #[schemars(range(min = 1, max = MAX_TOKENS))]
    pub max_new_tokens: usize,
    /// Longest prompt, in tokens (video included). A longer one is an error, never truncated.
    #[schemars(range(min = 1, max = MAX_TOKENS))]
    pub max_prompt_tokens: usize,
    /// Completions that decode as one batch (on a CPU: on each core); one that ends makes room for the next question's.
    /// 0: all of a step.
    #[schemars(range(max = 1_000_000), extend("x-mayDiffer" = "parts"))]
    pub max_rows: usize,
    /// Replay a decoding step as a CUDA graph: fewer launches per token. If it cannot be captured, decoding goes on without, says so
    /// once, and `timings.jsonl` counts the steps of either kind (`decode/…`); `inspect device` fails.
    #[schemars(extend("x-mayDiffer" = "parts"))]
    pub cuda_graph: bool,
}

impl SamplingConfig {
    /// The repetition penalty, where it changes anything.
    pub(crate) fn repetition_penalty_in_force(&self) -> Option<f64> {
        let penalty = self.repetition_penalty;
        ((penalty - 1.0).abs() > f64::EPSILON).then_some(penalty)
    }
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            group_size: 8,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            repetition_penalty: 1.0,
            max_new_tokens: 768,
            max_prompt_tokens: 4096,
            max_rows: 64,
            cuda_graph: false,
        }
    }
}

/// `[reward]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// `soft` gives partial credit to a non-empty subset of the right options.
    pub(crate) accuracy: AccuracyRule,
    /// How an answer is read from what a model wrote.
    pub(crate) answer: RewardedAnswer,
    /// Weight of the accuracy reward.
    #[schemars(range(min = 0.0))]
    pub(crate) accuracy_weight: f64,
    /// Weight of the format reward.
    #[schemars(range(min = 0.0))]
    pub(crate) format_weight: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            accuracy: AccuracyRule::Soft,
            answer: RewardedAnswer::Training,
            accuracy_weight: 1.0,
            format_weight: 1.0,
        }
    }
}

/// How an answer is compared with the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccuracyRule {
    /// |answer| / |truth| when the answer is a non-empty subset of the truth, else 0.
    Soft,
    /// 1 when the answer is the truth, else 0.
    Exact,
}

/// How the reward reads an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RewardedAnswer {
    /// The authors' rule: what stands between the first tags, letters in capitals and alone. `**B**`, `B.`, `(B)` and `b` earn nothing.
    Training,
    /// Also options in any usual spelling, as the evaluations' rule `strict` reads them.
    Strict,
}

/// `[objective]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// How token losses are averaged.
    pub(crate) loss: LossKind,
    /// ε below: the ratio is clipped at 1 − `clip_low`.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub(crate) clip_low: f64,
    /// ε above: the ratio is clipped at 1 + `clip_high`.
    #[schemars(range(min = 0.0))]
    pub(crate) clip_high: f64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KlConfig {
    /// `repel` (CDPO) or `attract` (the usual pull to a reference).
    pub(crate) direction: KlDirection,
    /// Weight of the term (β); 0 is plain GRPO, which `train-grpo` is by name. Upstream writes this as `--beta -0.01`.
    #[schemars(range(min = 0.0), extend("errorMessage" = {"minimum": "must not be negative: the sign is the word kl.direction (`repel` or `attract`)"}))]
    pub(crate) coefficient: f64,
    /// How the coefficient falls over the run, without warm-up.
    pub(crate) schedule: Schedule,
    /// Hold a step's mean divergence (`kl` of `metrics.jsonl`, nats per token) at this: after each step the coefficient is
    /// multiplied by 1 + 0.1 e, where e is (target − kl) / target within ± 1 for `repel` and its negative for `attract`, and never
    /// exceeds `kl.coefficient`, from which it starts. `kl.guard = "halve"` halves both. Absent: the coefficient is not steered.
    #[schemars(extend("exclusiveMinimum" = 0), example = 0.1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<f64>,
    /// How the divergence of a sampled token is measured; d is its log p_bias − log p, clamped.
    pub(crate) estimator: KlEstimator,
    /// The log-ratio is clamped to ± this before use (upstream: 11).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) clamp: f64,
    /// Upper bound of one token's divergence; absent: none (the paper).
    #[schemars(extend("exclusiveMinimum" = 0), example = 5.0)]
    pub(crate) token_cap: Option<f64>,
    /// The term acts only on tokens at which the bias model's entropy is at most this (nats): where it is sure what comes next.
    /// Their share is `kl/acting_ratio` of `metrics.jsonl`, whose `kl` stays the mean over all. Absent: on all (the paper).
    #[schemars(extend("exclusiveMinimum" = 0), example = 0.5)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_bias_entropy: Option<f64>,
    /// A finished evaluation of the bias model on the training questions, the folder of `eval run --model BIAS --set
    /// data.questions=…`: the term acts only in completions that give the answer given there, both read as the reward reads them (of
    /// several samples the most frequent answer). One without an answer, nothing in its tags, agrees with none. Absent: in all.
    #[schemars(length(min = 1), example = &"runs/clevrer/bias/answers", extend("errorMessage" = {"minLength": "must be the folder of an evaluation"}))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bias_answers: Option<PathBuf>,
    /// What to do when the format reward collapses under repulsion.
    pub(crate) guard: DivergenceGuard,
    /// The guard acts when the mean format reward of a step falls below this.
    #[schemars(range(min = 0.0))]
    pub(crate) guard_format: f64,
    /// Lines of `rollouts.jsonl` also have `tokens`, the text of each token (joined, the completion and, if it is there, the
    /// end-of-turn token), and `log_ratios`, log p − log p_bias of each, under the weights that sampled.
    #[schemars(extend("x-mayDiffer" = "parts"))]
    pub(crate) log_token_ratios: bool,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            direction: KlDirection::Repel,
            coefficient: 0.01,
            schedule: Schedule::Constant,
            target: None,
            estimator: KlEstimator::K3,
            clamp: 11.0,
            token_cap: None,
            max_bias_entropy: None,
            bias_answers: None,
            guard: DivergenceGuard::Off,
            guard_format: 0.5,
            log_token_ratios: false,
        }
    }
}

/// Which way the KL term pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KlDirection {
    /// Away from the bias model.
    Repel,
    /// Towards it.
    Attract,
}

/// Estimators of KL(policy ‖ bias model), with d = clamp(logp_bias − logp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DivergenceGuard {
    /// Report only (the paper).
    Off,
    /// Save a checkpoint and stop.
    Stop,
    /// Halve the coefficient and go on.
    Halve,
}
