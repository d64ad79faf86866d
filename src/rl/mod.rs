//! Rewards, advantages and losses: pure functions, no files, no clocks.

use crate::config::{LossKind, RewardConfig};
use crate::data::Question;
use crate::policy::generate::Completion;
use crate::prompt::Prompt;

pub mod advantage;
pub(crate) mod honest;
pub mod loss;
pub(crate) mod reward;

pub(crate) use reward::Reward;
pub(crate) use reward::Truth;

/// One completion with what it earned.
#[derive(Debug, Clone)]
pub(crate) struct Rollout {
    /// What the policy wrote (o_i).
    pub(crate) completion: Completion,
    /// What it scored, part by part.
    pub(crate) reward: Reward,
    /// R_i: the weighted sum of the parts.
    pub(crate) total: f64,
    /// A_i: the reward against the group's mean.
    pub(crate) advantage: f64,
    /// Whether its answer is an option only as the strict rule reads it.
    pub(crate) is_read_only_strictly: bool,
}

/// The completions of one question, scored against each other.
#[derive(Debug, Clone)]
pub(crate) struct Group<'a> {
    pub(crate) question: &'a Question,
    /// What the model saw.
    pub(crate) prompt: Prompt,
    /// The G rollouts, in sampling order.
    pub(crate) rollouts: Vec<Rollout>,
}

impl<'a> Group<'a> {
    /// Scores `completions` against the question's solution and against each other.
    pub(crate) fn score(
        question: &'a Question,
        prompt: Prompt,
        completions: Vec<Completion>,
        config: &RewardConfig,
        loss: LossKind,
    ) -> Self {
        let truth = Truth::of(question);
        let rewards: Vec<Reward> = completions
            .iter()
            .map(|completion| Reward::score(&completion.text, &truth, config))
            .collect();
        let totals: Vec<f64> = rewards.iter().map(|reward| reward.total(config)).collect();
        let advantages = advantage::advantages(&totals, loss);
        let rollouts = completions
            .into_iter()
            .zip(rewards)
            .zip(totals.into_iter().zip(advantages))
            .map(|((completion, reward), (total, advantage))| Rollout {
                is_read_only_strictly: truth.is_read_only_strictly(&completion.text),
                completion,
                reward,
                total,
                advantage,
            })
            .collect();
        Self {
            question,
            prompt,
            rollouts,
        }
    }

    /// Tokens of prompt and completions.
    pub(crate) fn num_tokens(&self) -> usize {
        self.prompt.token_ids.len() + self.completion_tokens()
    }

    /// Tokens of all completions.
    pub(crate) fn completion_tokens(&self) -> usize {
        let rollouts = self.rollouts.iter();
        rollouts
            .map(|rollout| rollout.completion.token_ids.len())
            .sum()
    }

    /// Standard deviation of R over the group (n − 1; 0 for a single rollout).
    pub(crate) fn reward_std(&self) -> f64 {
        let totals: Vec<f64> = self.rollouts.iter().map(|rollout| rollout.total).collect();
        advantage::standard_deviation(&totals)
    }
}
