//! What a step leaves in the run directory: its numbers, its completions, and the sample of an update that was not finite.

use super::metrics::StepMetrics;
use super::micro_batch::MicroBatch;
use super::micro_batch::ScoredRollout;
use crate::config::QuestionKind;
use crate::policy::generate::Finish;
use crate::prompt::Processor;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;

/// What a step did.
#[derive(Debug, Default)]
pub(super) struct StepRecord {
    pub(super) metrics: StepMetrics,
    /// Lines of `rollouts.jsonl`, of all ranks in the order of questions.
    pub(super) rollouts: Vec<String>,
    /// A line of `bad_steps.jsonl`.
    pub(super) bad_sample: Option<serde_json::Value>,
}

impl StepRecord {
    /// Of a step for which no rank had a question.
    pub(super) fn empty(metrics: StepMetrics) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }
}

/// A line of `rollouts.jsonl`.
#[derive(Debug, Clone, Serialize)]
struct RolloutLine<'a> {
    step: usize,
    question_id: &'a str,
    /// Its text with its options.
    question: String,
    /// The paper's split, where known.
    kind: Option<QuestionKind>,
    video: &'a Path,
    solution: &'a str,
    completion: &'a str,
    finish: Finish,
    /// Unweighted, as is `format`.
    accuracy: f64,
    format: f64,
    /// R: the weighted sum.
    reward: f64,
    /// A: the reward against its group.
    advantage: f64,
    /// Mean divergence from the reference per token; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    kl: Option<f64>,
    prompt_tokens: usize,
    completion_tokens: usize,
    #[serde(flatten)]
    token_ratios: Option<TokenRatios>,
}

/// What a line has of each token with `kl.log_token_ratios`.
#[derive(Debug, Clone, Serialize)]
struct TokenRatios {
    /// Joined they are the completion and, if it is there, the end-of-turn token.
    tokens: Vec<String>,
    /// log p − log p_bias.
    log_ratios: Vec<f32>,
}

impl TokenRatios {
    fn of(scored: &ScoredRollout, processor: &Processor) -> Result<Self> {
        let pairs = scored.logprob.iter().zip(scored.reference_logprob);
        Ok(Self {
            tokens: processor.token_texts(&scored.rollout.completion.token_ids)?,
            log_ratios: pairs.map(|(own, bias)| own - bias).collect(),
        })
    }
}

/// The rollouts of `step`, a line each; with a `processor` also token by token.
pub(super) fn rollout_lines(
    step: usize,
    batches: &[MicroBatch],
    processor: Option<&Processor>,
) -> Result<Vec<String>> {
    let rollouts = batches.iter().flat_map(MicroBatch::rollouts);
    rollouts
        .map(|scored| {
            let token_ratios = processor.map(|processor| TokenRatios::of(&scored, processor));
            let ScoredRollout {
                group, rollout, kl, ..
            } = scored;
            let line = RolloutLine {
                step,
                question_id: &group.question.id,
                question: group.question.text(),
                kind: group.question.kind,
                video: &group.question.video,
                solution: &group.question.solution,
                completion: &rollout.completion.text,
                finish: rollout.completion.finish,
                accuracy: rollout.reward.accuracy,
                format: rollout.reward.format,
                reward: rollout.total,
                advantage: rollout.advantage,
                kl: (!kl.is_empty()).then(|| mean(kl)),
                prompt_tokens: group.prompt.token_ids.len(),
                completion_tokens: rollout.completion.token_ids.len(),
                token_ratios: token_ratios.transpose()?,
            };
            Ok(serde_json::to_string(&line)?)
        })
        .collect()
}

fn mean(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
    sum / values.len() as f64
}
