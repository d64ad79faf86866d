//! What the numbers of an RL step are made of: sums and counts, which add up over ranks.

use super::metrics::RlMetrics;
use super::part::Targets;
use crate::config::QuestionKind;
use crate::policy::generate::Finish;
use crate::rl::Group;
use crate::rl::Rollout;
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
            mean.sum += value;
            mean.count += 1;
        }
        mean
    }

    /// Of `count` values whose mean is `mean`.
    pub(super) fn of_known(mean: f64, count: usize) -> Self {
        Self {
            sum: mean * count as f64,
            count: count as u64,
        }
    }

    fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// Of all that the parts are of.
    pub(super) fn together(parts: &[Self]) -> Self {
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
struct OfKind {
    accuracy: Mean,
    kl: Mean,
}

/// One rank's completions of a step in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    reward: Mean,
    format: Mean,
    length: Mean,
    clipped: Mean,
    reward_std: Mean,
    zero_std: Mean,
    all: OfKind,
    observational: OfKind,
    inferential: OfKind,
    pub(super) entropy: Mean,
    pub(super) clip_low: Mean,
    pub(super) clip_high: Mean,
    /// The largest.
    pub(super) sampler_gap: Option<f64>,
}

impl Tally {
    /// Of completions whose tokens have the divergences `kl`, which `targets` divides among them.
    pub(super) fn of(groups: &[Group], targets: &Targets, kl: &[f32]) -> Self {
        let of_rollouts = |value: &dyn Fn(&Rollout) -> f64| {
            Mean::of(groups.iter().flat_map(|group| &group.rollouts).map(value))
        };
        let stds = || groups.iter().map(Group::reward_std);
        let of_kind = |kind: Option<QuestionKind>| {
            let chosen = || {
                groups
                    .iter()
                    .zip(targets)
                    .filter(move |(group, _)| kind.is_none() || group.kind == kind)
            };
            let rollouts = chosen().flat_map(|(group, _)| &group.rollouts);
            let kls = chosen()
                .flat_map(|(_, ranges)| ranges)
                .filter_map(|range| kl.get(range.clone()))
                .flatten();
            OfKind {
                accuracy: Mean::of(rollouts.map(|rollout| rollout.reward.accuracy)),
                kl: Mean::of(kls.map(|&kl| f64::from(kl))),
            }
        };
        Self {
            reward: of_rollouts(&|rollout| rollout.total),
            format: of_rollouts(&|rollout| rollout.reward.format),
            length: of_rollouts(&|rollout| rollout.completion.token_ids.len() as f64),
            clipped: of_rollouts(&|rollout| {
                f64::from(u8::from(rollout.completion.finish == Finish::Length))
            }),
            reward_std: Mean::of(stds()),
            zero_std: Mean::of(stds().map(|std| f64::from(u8::from(std == 0.0)))),
            all: of_kind(None),
            observational: of_kind(Some(QuestionKind::Observational)),
            inferential: of_kind(Some(QuestionKind::Inferential)),
            ..Self::default()
        }
    }

    /// All ranks' together.
    pub(super) fn together(tallies: &[Self]) -> Self {
        let mut whole = Self::default();
        for mut tally in tallies.iter().copied() {
            for (sum, part) in whole.means().into_iter().zip(tally.means()) {
                sum.add(*part);
            }
            whole.sampler_gap = whole
                .sampler_gap
                .into_iter()
                .chain(tally.sampler_gap)
                .reduce(f64::max);
        }
        whole
    }

    fn means(&mut self) -> [&mut Mean; 15] {
        let kinds = [
            &mut self.all,
            &mut self.observational,
            &mut self.inferential,
        ];
        let [all, observational, inferential] = kinds;
        [
            &mut self.reward,
            &mut self.format,
            &mut self.length,
            &mut self.clipped,
            &mut self.reward_std,
            &mut self.zero_std,
            &mut all.accuracy,
            &mut all.kl,
            &mut observational.accuracy,
            &mut observational.kl,
            &mut inferential.accuracy,
            &mut inferential.kl,
            &mut self.entropy,
            &mut self.clip_low,
            &mut self.clip_high,
        ]
    }

    /// As a line of `metrics.jsonl` has them.
    pub(super) fn metrics(&self, kl_coefficient: Option<f64>) -> RlMetrics {
        RlMetrics {
            reward: self.reward.value(),
            reward_std: self.reward_std.value(),
            accuracy: self.all.accuracy.value(),
            format: self.format.value(),
            accuracy_observational: self.observational.accuracy.known(),
            accuracy_inferential: self.inferential.accuracy.known(),
            frac_reward_zero_std: self.zero_std.value(),
            mean_length: self.length.value(),
            clipped_ratio: self.clipped.value(),
            clip_low: self.clip_low.value(),
            clip_high: self.clip_high.value(),
            kl: self.all.kl.known(),
            kl_observational: self.observational.kl.known(),
            kl_inferential: self.inferential.kl.known(),
            kl_coefficient,
            sampler_logp_gap: self.sampler_gap,
        }
    }
}
