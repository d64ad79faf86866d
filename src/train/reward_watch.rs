//! Watches rewards from which nothing can be learned, and says so while the run is young, with what is likeliest behind it.

use super::metrics::RlMetrics;
use crate::config::Config;
use crate::config::RewardedAnswer;

/// Steps in a row without a difference within any group, after which it is said; then after twice as many, and so on.
const FLAT_STEPS: usize = 10;
/// Share of answers that only the strict rule reads from which it is said, and of how many completions at least.
const NOTABLE_SHARE: f64 = 0.1;
const ENOUGH: f64 = 32.0;

/// What the steps so far have shown.
#[derive(Debug, Default)]
pub(super) struct RewardWatch {
    /// Steps in a row in which the rewards of every group were equal.
    flat: usize,
    /// Completions so far, and those that only the strict rule reads.
    completions: f64,
    misread: f64,
    has_said_spelling: bool,
}

impl RewardWatch {
    /// Takes a step's numbers; gives what there is to say about them.
    pub(super) fn note(&mut self, rl: &RlMetrics, config: &Config) -> Vec<String> {
        let mut said = Vec::new();
        let completions = (config.train.questions_per_step * config.sampling.group_size) as f64;
        self.completions += completions;
        self.misread += rl.read_only_strictly * completions;
        let share = self.misread / self.completions;
        let misses = config.reward.answer == RewardedAnswer::Training
            && self.completions >= ENOUGH
            && share >= NOTABLE_SHARE;
        if misses && !self.has_said_spelling {
            self.has_said_spelling = true;
            said.push(format!(
                "{:.0} % of the answers name an option in a spelling that the reward does not read, such as `**B**` or `(B)`, and earn \
                 nothing; reward.answer = \"strict\" reads them (answers/read_only_strictly counts them)",
                100.0 * share
            ));
        }
        if rl.frac_reward_zero_std < 1.0 {
            self.flat = 0;
            return said;
        }
        self.flat += 1;
        let due =
            self.flat.is_multiple_of(FLAT_STEPS) && (self.flat / FLAT_STEPS).is_power_of_two();
        if due {
            let causes = likeliest_causes(rl, config);
            let causes: Vec<String> = (1..)
                .zip(causes)
                .map(|(number, cause)| format!("  {number}. {cause}"))
                .collect();
            said.push(format!(
                "the rewards of a question's completions have not differed in the last {} steps, so nothing is learned from them (reward \
                 {:.3}, accuracy {:.3}, format {:.3}). Likeliest causes:\n{}\nrollouts.jsonl has what was written and what it earned",
                self.flat,
                rl.reward,
                rl.accuracy,
                rl.format,
                causes.join("\n")
            ));
        }
        said
    }
}

/// The three likeliest of the causes, those that the numbers speak for first.
fn likeliest_causes(rl: &RlMetrics, config: &Config) -> Vec<String> {
    let (reward, sampling) = (&config.reward, &config.sampling);
    let whole = reward.accuracy_weight + reward.format_weight;
    let percent = |share: f64| 100.0 * share;
    let no_format = reward.format_weight > 0.0 && rl.format < 0.05;
    let by_evidence = [
        (rl.clipped_ratio >= 0.5).then(|| {
            format!(
                "{:.0} % of the completions are cut off at sampling.max_new_tokens = {} before they answer: raise it",
                percent(rl.clipped_ratio),
                sampling.max_new_tokens
            )
        }),
        no_format.then(|| {
            "the completions do not have the format <think>…</think><answer>…</answer>: teach it first (train-sft), or begin with \
             an instruction-tuned model"
                .to_owned()
        }),
        (rl.read_only_strictly >= NOTABLE_SHARE).then(|| {
            format!(
                "{:.0} % of the answers are spelled as the reward does not read them: set reward.answer = \"strict\"",
                percent(rl.read_only_strictly)
            )
        }),
        (rl.reward >= 0.99 * whole).then(|| {
            "every completion is right: the questions are too easy for this model; take harder ones, or stop here".to_owned()
        }),
        (rl.accuracy == 0.0).then(|| {
            "no answer is right: compare `completion` with `solution` in rollouts.jsonl; questions and clips may not belong together, or \
             be too hard for this model"
                .to_owned()
        }),
    ];
    let always = [
        format!(
            "the completions of a question are alike (sampling.temperature = {}, top_p = {}): raise the temperature, or lower the \
             learning rate if the entropy has fallen",
            sampling.temperature, sampling.top_p
        ),
        format!(
            "sampling.group_size = {} and train.questions_per_step = {} leave few chances to differ: raise them",
            sampling.group_size, config.train.questions_per_step
        ),
        "the questions are all too easy or all too hard for this model: `label` sorts them by how often it is right".to_owned(),
    ];
    by_evidence
        .into_iter()
        .flatten()
        .chain(always)
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(reward: f64, accuracy: f64, format: f64) -> RlMetrics {
        RlMetrics {
            reward,
            accuracy,
            format,
            frac_reward_zero_std: 1.0,
            ..RlMetrics::default()
        }
    }

    #[test]
    fn rewards_that_never_differ_are_said_after_ten_steps_and_then_ever_more_rarely() {
        let (mut watch, config) = (RewardWatch::default(), Config::default());
        let rl = flat(0.0, 0.0, 0.0);
        let said: Vec<usize> = (1..=100)
            .filter(|_| !watch.note(&rl, &config).is_empty())
            .collect();
        assert_eq!(said, [10, 20, 40, 80]);
        let differing = RlMetrics {
            frac_reward_zero_std: 0.9,
            ..rl.clone()
        };
        assert!(watch.note(&differing, &config).is_empty());
        for step in 1..=10 {
            assert_eq!(watch.note(&rl, &config).len(), usize::from(step == 10));
        }
    }

    #[test]
    fn the_numbers_choose_the_causes() {
        let config = Config::default();
        let first = |rl: &RlMetrics| likeliest_causes(rl, &config).remove(0);
        let cut = RlMetrics {
            clipped_ratio: 0.9,
            ..flat(0.0, 0.0, 0.0)
        };
        let all = likeliest_causes(&cut, &config);
        assert_eq!(all.len(), 3);
        assert!(
            all[0].contains("90 % of the completions are cut off"),
            "{all:?}"
        );
        assert!(all[1].contains("do not have the format"), "{all:?}");
        assert!(first(&flat(2.0, 1.0, 1.0)).contains("too easy"));
        assert!(first(&flat(1.0, 0.0, 1.0)).contains("no answer is right"));
        assert!(first(&flat(1.5, 0.5, 1.0)).contains("are alike"));
        let spelled = RlMetrics {
            read_only_strictly: 0.6,
            ..flat(1.0, 0.0, 1.0)
        };
        assert!(first(&spelled).contains("reward.answer = \"strict\""));
    }

    #[test]
    fn answers_that_only_the_strict_rule_reads_are_said_once() {
        let mut watch = RewardWatch::default();
        let mut config = Config::default();
        (config.train.questions_per_step, config.sampling.group_size) = (2, 8);
        let rl = |share| RlMetrics {
            read_only_strictly: share,
            ..RlMetrics::default()
        };
        // Too few to tell.
        assert!(watch.note(&rl(0.4), &config).is_empty());
        let said = watch.note(&rl(0.4), &config);
        assert!(said[0].contains("40 % of the answers"), "{said:?}");
        assert!(watch.note(&rl(0.4), &config).is_empty());
        let mut seldom = RewardWatch::default();
        for _ in 0..9 {
            assert!(seldom.note(&rl(0.09), &config).is_empty());
        }
        config.reward.answer = RewardedAnswer::Strict;
        let mut strict = RewardWatch::default();
        for _ in 0..9 {
            assert!(strict.note(&rl(0.4), &config).is_empty());
        }
    }
}
