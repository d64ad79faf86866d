//! Rewards, advantages and losses: pure functions, no files, no clocks.

use crate::config::{LossKind, QuestionKind, RewardConfig};
use crate::policy::generate::Completion;
use crate::prompt::Prompt;

pub mod advantage;
pub mod loss;
pub mod reward;

pub use reward::Reward;

/// One completion with what it earned.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// What the policy wrote (o_i).
    pub completion: Completion,
    /// What it scored, part by part.
    pub reward: Reward,
    /// R_i: the weighted sum of the parts.
    pub total: f64,
    /// A_i: the reward against the group's mean.
    pub advantage: f64,
}

/// The completions of one question, scored against each other.
#[derive(Debug, Clone)]
pub struct Group {
    /// Which question.
    pub question_id: String,
    /// The paper's split, where known.
    pub kind: Option<QuestionKind>,
    /// What the model saw.
    pub prompt: Prompt,
    /// The G rollouts, in sampling order.
    pub rollouts: Vec<Rollout>,
}

impl Group {
    /// Scores `completions` against `solution` and against each other.
    pub fn score(
        question_id: String,
        kind: Option<QuestionKind>,
        prompt: Prompt,
        completions: Vec<Completion>,
        solution: &str,
        config: &RewardConfig,
        loss: LossKind,
    ) -> Self {
        let rewards: Vec<Reward> = completions
            .iter()
            .map(|completion| Reward::score(&completion.text, solution, config.accuracy))
            .collect();
        let totals: Vec<f64> = rewards.iter().map(|reward| reward.total(config)).collect();
        let advantages = advantage::advantages(&totals, loss);
        let rollouts = completions
            .into_iter()
            .zip(rewards)
            .zip(totals.into_iter().zip(advantages))
            .map(|((completion, reward), (total, advantage))| Rollout {
                completion,
                reward,
                total,
                advantage,
            })
            .collect();
        Self {
            question_id,
            kind,
            prompt,
            rollouts,
        }
    }

    /// Mean of R over the group.
    pub fn mean_reward(&self) -> f64 {
        advantage::mean(self.totals())
    }

    /// Standard deviation of R over the group (n − 1; 0 for a single rollout).
    pub fn reward_std(&self) -> f64 {
        let totals: Vec<f64> = self.totals().collect();
        advantage::standard_deviation(&totals)
    }

    fn totals(&self) -> impl Iterator<Item = f64> + Clone + '_ {
        self.rollouts.iter().map(|rollout| rollout.total)
    }
}
