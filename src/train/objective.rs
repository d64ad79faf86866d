//! What the RL stages differ in, the frozen model that CDPO is measured against, and the objective in words.

use super::bias_answers::BiasAnswers;
use crate::config::Config;
use crate::config::DivergenceGuard;
use crate::config::KlConfig;
use crate::config::KlDirection;
use crate::config::KlEstimator;
use crate::config::LossKind;
use crate::config::RewardedAnswer;
use crate::config::Schedule;
use crate::config::Verb;
use crate::model::device;
use crate::model::head::ReferenceRows;
use crate::model::head::TokenScores;
use crate::model::hub;
use crate::model::spec::Spec;
use crate::policy::Policy;
use crate::policy::inputs::PackedInputs;
use crate::policy::reference::ReferenceModel;
use anyhow::Context;
use anyhow::Result;
use candle_core::Tensor;

/// What the RL stages differ in.
#[derive(Debug)]
pub(crate) enum Objective {
    /// Rewards alone.
    Grpo,
    /// Rewards, and the divergence from this frozen model: the bias model.
    Cdpo {
        /// That model.
        reference: Box<ReferenceModel>,
        /// What it answered, where the term acts only in completions that answer likewise.
        answers: Option<BiasAnswers>,
    },
}

/// What the frozen model gives a micro-batch's completions.
#[derive(Debug)]
pub(super) enum ReferenceScores {
    /// In stage 1.
    None,
    /// Log-probability and entropy of each token.
    Tokens(TokenScores),
    /// Normed outputs `[R, H]` of its last layer, from which exact divergences are computed, and what else is asked for.
    Hidden(Tensor, Option<TokenScores>),
}

impl ReferenceScores {
    /// Log-probability and entropy of each token, where they were asked for.
    pub(super) fn tokens(&self) -> Option<&TokenScores> {
        match self {
            Self::None => None,
            Self::Tokens(scores) => Some(scores),
            Self::Hidden(_, scores) => scores.as_ref(),
        }
    }
}

impl Objective {
    /// Loads the bias model where the config names one.
    ///
    /// # Errors
    /// When the model cannot be loaded, or speaks another vocabulary than the policy.
    pub(crate) fn load(
        config: &Config,
        policy: &Policy,
        answers: Option<BiasAnswers>,
    ) -> Result<Self> {
        let Some(name) = &config.model.bias_model else {
            return Ok(Self::Grpo);
        };
        let folder = hub::resolve(name).context("model.bias_model")?;
        if let Some(answers) = &answers {
            answers.check_model(name, &folder)?;
        }
        let (dtype, device) = (device::dtype(&config.model), policy.model().device());
        let placement = config.model.bias_placement;
        let reference =
            ReferenceModel::load(&folder, dtype, device, placement).context("model.bias_model")?;
        let (own, other) = (&policy.model().spec, reference.spec());
        if own.text.vocab_size != other.text.vocab_size || own.tokens != other.tokens {
            anyhow::bail!(
                "model.bias_model {name} has another vocabulary than the policy ({} and {} tokens): its log-probabilities \
                 cannot be compared",
                other.text.vocab_size,
                own.text.vocab_size
            );
        }
        Ok(Self::Cdpo {
            reference: Box::new(reference),
            answers,
        })
    }

    /// Sizes of the frozen model.
    pub(super) fn reference_spec(&self) -> Option<&Spec> {
        match self {
            Self::Grpo => None,
            Self::Cdpo { reference, .. } => Some(reference.spec()),
        }
    }

    /// What the frozen model answered, where that decides in which completions the KL term acts.
    pub(super) fn bias_answers(&self) -> Option<&BiasAnswers> {
        match self {
            Self::Grpo => None,
            Self::Cdpo { answers, .. } => answers.as_ref(),
        }
    }

    /// What the frozen model gives the targets of `inputs`.
    pub(super) fn score_reference(
        &self,
        inputs: &PackedInputs,
        kl: Option<&KlConfig>,
    ) -> candle_core::Result<ReferenceScores> {
        match (self, kl) {
            (Self::Grpo, _) => Ok(ReferenceScores::None),
            (Self::Cdpo { reference, .. }, Some(kl)) if kl.estimator == KlEstimator::Full => {
                let hidden = reference.target_hidden(inputs)?;
                let asked = kl.log_token_ratios || kl.max_bias_entropy.is_some();
                let scores = asked.then(|| reference.score_hidden(&hidden, inputs));
                Ok(ReferenceScores::Hidden(hidden, scores.transpose()?))
            }
            (Self::Cdpo { reference, .. }, _) => {
                reference.score(inputs).map(ReferenceScores::Tokens)
            }
        }
    }

    /// The frozen model's side of exact divergences.
    pub(super) fn reference_rows<'a>(
        &'a self,
        scores: &'a ReferenceScores,
    ) -> Option<ReferenceRows<'a>> {
        match (self, scores) {
            (Self::Cdpo { reference, .. }, ReferenceScores::Hidden(hidden, _)) => {
                Some(reference.reference_rows(hidden))
            }
            _ => None,
        }
    }
}

/// What this run maximises, a sentence a line.
pub(crate) fn objective_in_words(config: &Config, verb: Verb) -> Vec<String> {
    if verb == Verb::TrainSft {
        return vec![
            "Raise the log-probability of the worked answers (cross-entropy, mean over all answer tokens of a step)."
                .to_owned(),
        ];
    }
    let sampling = &config.sampling;
    let reward = &config.reward;
    let loss = match config.objective.loss {
        LossKind::Grpo => "mean over a completion's tokens, then over completions",
        LossKind::DrGrpo => {
            "sum over tokens divided by group size × longest completion, advantages not divided by their std"
        }
        LossKind::Bnpo => "mean over all tokens of a group",
        LossKind::Dapo => "mean over all tokens of a step",
    };
    let mut lines = vec![
        format!(
            "Raise the reward {} × accuracy + {} × format of {} completions per question, relative to their group (GRPO; {loss}; \
             ratio clipped to [{}, {}]).",
            reward.accuracy_weight,
            reward.format_weight,
            sampling.group_size,
            1.0 - config.objective.clip_low,
            1.0 + config.objective.clip_high
        ),
        kl_in_words(config, verb),
    ];
    if reward.answer == RewardedAnswer::Strict {
        lines.push(
            "Answers are read as the evaluations' strict rule reads them (reward.answer = \"strict\"), not by the authors' rule."
                .to_owned(),
        );
    }
    if config.train.updates_per_rollout > 1 {
        lines.push(format!(
            "Update {} times from each step's completions; the ratio is to the policy that wrote them.",
            config.train.updates_per_rollout
        ));
    }
    lines.extend(coefficient_in_words(config));
    lines.extend(scope_in_words(config));
    match config.kl.guard {
        _ if config.kl.coefficient == 0.0 => {}
        DivergenceGuard::Off => {}
        DivergenceGuard::Stop => lines.push(format!(
            "Save and stop when a step's mean format reward falls below {}.",
            config.kl.guard_format
        )),
        DivergenceGuard::Halve => lines.push(format!(
            "Halve the coefficient{} whenever a step's mean format reward falls below {}.",
            config.kl.target.map_or("", |_| " and what it is at most"),
            config.kl.guard_format
        )),
    }
    lines
}

/// Where the KL term acts, if not everywhere.
fn scope_in_words(config: &Config) -> Option<String> {
    let kl = &config.kl;
    let tokens = kl
        .max_bias_entropy
        .map(|most| format!("on tokens at which the bias model's entropy is at most {most} nats"));
    let completions = kl.bias_answers.as_ref().map(|folder| {
        format!(
            "in completions that answer as the bias model did in {}",
            folder.display()
        )
    });
    let scope: Vec<String> = tokens.into_iter().chain(completions).collect();
    let has_term = config.model.bias_model.is_some() && kl.coefficient > 0.0;
    (has_term && !scope.is_empty())
        .then(|| format!("The KL term acts only {}.", scope.join(" and ")))
}

/// How the coefficient changes over the run, if it does.
fn coefficient_in_words(config: &Config) -> Option<String> {
    let kl = &config.kl;
    if config.model.bias_model.is_none() || kl.coefficient == 0.0 {
        return None;
    }
    if let Some(target) = kl.target {
        return Some(format!(
            "Steer the coefficient, which is at most {}, so that a step's mean divergence stays at {target} nats a token.",
            kl.coefficient
        ));
    }
    let shape = match kl.schedule {
        Schedule::Constant => return None,
        Schedule::Linear => "linearly",
        Schedule::Cosine => "along half a cosine",
    };
    let steps = config.train.steps;
    Some(format!(
        "The coefficient falls {shape} to 0 over {steps} steps."
    ))
}

fn kl_in_words(config: &Config, verb: Verb) -> String {
    let kl = &config.kl;
    let Some(bias_model) = &config.model.bias_model else {
        return match verb {
            Verb::TrainBias => "No KL term: train-bias does not use [kl].".to_owned(),
            Verb::TrainGrpo => "No KL term: plain GRPO.".to_owned(),
            _ => "No KL term (kl.coefficient = 0): plain GRPO.".to_owned(),
        };
    };
    let estimator = match kl.estimator {
        KlEstimator::K1 => "k1 = −d",
        KlEstimator::K2 => "k2 = d²/2",
        KlEstimator::K3 => "k3 = exp(d) − d − 1",
        KlEstimator::Full => "exact, over the whole vocabulary",
    };
    let cap = kl
        .token_cap
        .map_or_else(String::new, |cap| format!(", at most {cap} a token"));
    let measured = format!(
        "KL(policy ‖ {bias_model}) ({estimator}, d = log p_bias − log p clamped to ±{}{cap})",
        kl.clamp
    );
    if kl.coefficient == 0.0 {
        return format!("Plain GRPO: {measured} is measured and has no weight.");
    }
    match kl.direction {
        KlDirection::Repel => format!(
            "Repel: raise {} × {measured}, so the policy moves AWAY from the bias model.",
            kl.coefficient
        ),
        KlDirection::Attract => format!(
            "Attract: lower {} × {measured}, so the policy stays NEAR that model.",
            kl.coefficient
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_is_said_in_words() {
        let mut config = Config::default();
        config.model.bias_model = Some("runs/bias".into());
        let words = |config: &Config, verb| objective_in_words(config, verb).join("\n");
        assert!(
            words(&config, Verb::TrainCdpo).contains("Repel: raise 0.01 × KL(policy ‖ runs/bias)")
        );
        config.kl.direction = KlDirection::Attract;
        assert!(words(&config, Verb::TrainCdpo).contains("Attract: lower 0.01"));
        assert!(!words(&config, Verb::TrainCdpo).contains("falls"));
        config.kl.schedule = Schedule::Cosine;
        assert!(
            words(&config, Verb::TrainCdpo).contains("falls along half a cosine to 0 over 500")
        );
        config.kl.schedule = Schedule::Linear;
        assert!(words(&config, Verb::TrainCdpo).contains("falls linearly to 0 over 500 steps"));
        (config.kl.schedule, config.kl.target) = (Schedule::Constant, Some(0.5));
        assert!(words(&config, Verb::TrainCdpo).contains(
            "Steer the coefficient, which is at most 0.01, so that a step's mean divergence stays at 0.5 nats"
        ));
        assert!(!words(&config, Verb::TrainCdpo).contains("acts only"));
        config.kl.bias_answers = Some("answers".into());
        assert!(words(&config, Verb::TrainCdpo).contains(
            "The KL term acts only in completions that answer as the bias model did in answers."
        ));
        config.kl.max_bias_entropy = Some(0.5);
        assert!(words(&config, Verb::TrainCdpo).contains(
            "acts only on tokens at which the bias model's entropy is at most 0.5 nats and in completions"
        ));
        config.kl.coefficient = 0.0;
        assert!(!words(&config, Verb::TrainCdpo).contains("Steer"));
        assert!(!words(&config, Verb::TrainCdpo).contains("acts only"));
        assert!(!words(&config, Verb::TrainCdpo).contains("falls"));
        assert!(words(&config, Verb::TrainCdpo).contains("is measured and has no weight"));
        config.model.bias_model = None;
        assert!(words(&config, Verb::TrainCdpo).contains("plain GRPO"));
        assert!(words(&config, Verb::TrainGrpo).contains("No KL term: plain GRPO."));
        assert!(words(&config, Verb::TrainBias).contains("does not use [kl]"));
        assert!(!words(&config, Verb::TrainBias).contains("Update"));
        config.train.updates_per_rollout = 3;
        assert!(words(&config, Verb::TrainBias).contains("Update 3 times"));
    }
}
