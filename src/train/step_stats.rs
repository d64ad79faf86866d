//! What the numbers of an RL step are made of: sums and counts, which add up over ranks.

use super::metrics::RlMetrics;
use super::micro_batch::MicroBatch;
use super::optimizer::Update;
use crate::config::QuestionKind;
use crate::dist::ProcessGroup;
use crate::policy::generate::Finish;
use crate::rl::Group;
use crate::rl::Rollout;
use crate::rl::loss::LossOutput;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;

/// A mean in the making.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut mean = Self::default();
        for value in values {
            mean.push(value);
        }
        mean
    }

    fn push(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// Of all that the parts are of.
    pub(super) fn merge(parts: &[Self]) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.add(*part);
        }
        whole
    }

    /// Absent where there was nothing.
    pub(super) fn known(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// 0 where there was nothing.
    pub(super) fn value(self) -> f64 {
        self.known().unwrap_or(0.0)
    }
}

/// The numbers of one kind of question, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct KindStats {
    accuracy: Mean,
    /// Per token.
    kl: Mean,
}

/// A step in numbers: one rank's, then all ranks'.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct StepStats {
    updates: Updates,
    reward: Mean,
    format: Mean,
    read_only_strictly: Mean,
    length: Mean,
    cut_off: Mean,
    reward_std: Mean,
    zero_std: Mean,
    all: KindStats,
    observational: KindStats,
    inferential: KindStats,
    entropy: Mean,
    /// Tokens on which the KL term acts, as 1 and 0; empty where it acts on all.
    acting: Mean,
    clip_low: Mean,
    clip_high: Mean,
    /// The largest.
    sampler_gap: Option<f64>,
}

/// Sums over the updates of a step; loss and norm are those of all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Updates {
    count: usize,
    loss: f64,
    grad_norm: f64,
    clip_low: f64,
    clip_high: f64,
    /// Updates that were not finite.
    skipped: usize,
}

impl StepStats {
    /// Rewards and lengths of a step's rollouts.
    pub(super) fn of_groups(groups: &[Group]) -> Self {
        let of_rollouts = |value: &dyn Fn(&Rollout) -> f64| {
            Mean::of(groups.iter().flat_map(|group| &group.rollouts).map(value))
        };
        let accuracy = |kind: Option<QuestionKind>| {
            let chosen = groups
                .iter()
                .filter(|group| kind.is_none() || group.question.kind == kind);
            let rollouts = chosen.flat_map(|group| &group.rollouts);
            KindStats {
                accuracy: Mean::of(rollouts.map(|rollout| rollout.reward.accuracy)),
                kl: Mean::default(),
            }
        };
        let stds = || groups.iter().map(Group::reward_std);
        Self {
            reward: of_rollouts(&|rollout| rollout.total),
            format: of_rollouts(&|rollout| rollout.reward.format),
            read_only_strictly: of_rollouts(&|rollout| {
                f64::from(u8::from(rollout.is_read_only_strictly))
            }),
            length: of_rollouts(&|rollout| rollout.completion.token_ids.len() as f64),
            cut_off: of_rollouts(&|rollout| {
                f64::from(u8::from(rollout.completion.finish == Finish::Length))
            }),
            reward_std: Mean::of(stds()),
            zero_std: Mean::of(stds().map(|std| f64::from(u8::from(std == 0.0)))),
            all: accuracy(None),
            observational: accuracy(Some(QuestionKind::Observational)),
            inferential: accuracy(Some(QuestionKind::Inferential)),
            ..Self::default()
        }
    }

    /// Adds an update: `loss` over all ranks, and what this rank's loss was made of.
    pub(super) fn add_update(&mut self, loss: f64, own: &LossOutput, update: &Update) {
        let updates = &mut self.updates;
        updates.count += 1;
        updates.loss += loss;
        updates.grad_norm += update.grad_norm;
        updates.clip_low += own.clip_low_fraction;
        updates.clip_high += own.clip_high_fraction;
        updates.skipped += usize::from(!update.applied);
    }

    /// Adds what the first pass gave each token. The sampler's log-probabilities are the same quantity only at temperature 1.
    pub(super) fn add_tokens(&mut self, batches: &[MicroBatch], temperature: f64) {
        let compares = (temperature - 1.0).abs() <= f64::EPSILON;
        let mut tokens = 0;
        for batch in batches {
            tokens += batch.inputs.num_targets();
            for &entropy in batch.entropy() {
                self.entropy.push(f64::from(entropy));
            }
            for &acts in batch.acts().unwrap_or(&[]) {
                self.acting.push(f64::from(u8::from(acts)));
            }
            for scored in batch.rollouts() {
                let kind = match scored.group.question.kind {
                    Some(QuestionKind::Observational) => Some(&mut self.observational),
                    Some(QuestionKind::Inferential) => Some(&mut self.inferential),
                    None => None,
                };
                for stats in [Some(&mut self.all), kind].into_iter().flatten() {
                    for &kl in scored.kl {
                        stats.kl.push(f64::from(kl));
                    }
                }
                let sampled = &scored.rollout.completion.logprobs;
                let pairs = sampled.iter().zip(scored.logprob);
                let gaps = pairs.map(|(a, b)| f64::from((a - b).abs()));
                if compares {
                    self.sampler_gap = gaps.chain(self.sampler_gap).reduce(f64::max);
                }
            }
        }
        let updates = self.updates.count.max(1) as f64;
        let over_tokens = |sum: f64| Mean {
            sum: sum / updates * tokens as f64,
            count: tokens as u64,
        };
        self.clip_low = over_tokens(self.updates.clip_low);
        self.clip_high = over_tokens(self.updates.clip_high);
    }

    /// All ranks' together, and their `lines` behind each other.
    ///
    /// # Errors
    /// A rank that is lost.
    pub(super) fn all_reduce_with(
        self,
        lines: Vec<String>,
        dist: &ProcessGroup,
    ) -> Result<(Self, Vec<String>)> {
        let (all, lines): (Vec<Self>, Vec<Vec<String>>) =
            dist.all_gather((self, lines))?.into_iter().unzip();
        let mut whole = Self {
            updates: self.updates,
            ..Self::default()
        };
        for mut rank in all {
            for (sum, part) in whole.means().into_iter().zip(rank.means()) {
                sum.add(*part);
            }
            let gaps = whole.sampler_gap.into_iter().chain(rank.sampler_gap);
            whole.sampler_gap = gaps.reduce(f64::max);
        }
        Ok((whole, lines.concat()))
    }

    fn means(&mut self) -> [&mut Mean; 17] {
        [
            &mut self.reward,
            &mut self.format,
            &mut self.read_only_strictly,
            &mut self.length,
            &mut self.cut_off,
            &mut self.reward_std,
            &mut self.zero_std,
            &mut self.all.accuracy,
            &mut self.all.kl,
            &mut self.observational.accuracy,
            &mut self.observational.kl,
            &mut self.inferential.accuracy,
            &mut self.inferential.kl,
            &mut self.entropy,
            &mut self.acting,
            &mut self.clip_low,
            &mut self.clip_high,
        ]
    }

    /// Mean loss of the updates.
    pub(super) fn loss(&self) -> f64 {
        self.updates.loss / self.updates.count.max(1) as f64
    }

    /// Mean global gradient norm of the updates.
    pub(super) fn grad_norm(&self) -> f64 {
        self.updates.grad_norm / self.updates.count.max(1) as f64
    }

    /// Updates left out because they were not finite.
    pub(super) fn skipped_updates(&self) -> usize {
        self.updates.skipped
    }

    /// Mean over the tokens, nats.
    pub(super) fn entropy(&self) -> Option<f64> {
        self.entropy.known()
    }

    /// As a line of `metrics.jsonl` has them.
    pub(super) fn metrics(&self, kl_coefficient: Option<f64>) -> RlMetrics {
        RlMetrics {
            reward: self.reward.value(),
            reward_std: self.reward_std.value(),
            accuracy: self.all.accuracy.value(),
            format: self.format.value(),
            read_only_strictly: self.read_only_strictly.value(),
            accuracy_observational: self.observational.accuracy.known(),
            accuracy_inferential: self.inferential.accuracy.known(),
            frac_reward_zero_std: self.zero_std.value(),
            mean_length: self.length.value(),
            clipped_ratio: self.cut_off.value(),
            clip_low: self.clip_low.value(),
            clip_high: self.clip_high.value(),
            kl: self.all.kl.known(),
            kl_observational: self.observational.kl.known(),
            kl_inferential: self.inferential.kl.known(),
            kl_acting_ratio: self.acting.known(),
            kl_coefficient,
            sampler_logp_gap: self.sampler_gap,
        }
    }
}
