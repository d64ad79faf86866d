//! The objective as a function of per-token log-probabilities, with its derivative.
//!
//! Per token −min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A) − s·β·KL(π ‖ π_ref) with the ratio r = π / π_old, the advantage A, and
//! s = 1 to repel from the reference (CDPO, arXiv 2605.01324), −1 to attract to it.
//!
//! The loss depends on the model only through the log-probabilities of the sampled tokens (and, with the `full`
//! estimator, through each token's exact divergence), so value and derivative are computed here on the host; the
//! model's backward pass takes the derivative from there.

use crate::config::{KlConfig, KlDirection, KlEstimator, LossKind, ObjectiveConfig};

/// One completion's numbers; every slice has one entry per token.
#[derive(Debug, Clone, Copy)]
pub struct CompletionTerms<'a> {
    /// A_i.
    pub advantage: f64,
    /// log π(o_t) of the policy being updated.
    pub logprob: &'a [f32],
    /// log π_old(o_t); `None` in the first update after sampling, where the ratio is 1 by definition.
    pub old_logprob: Option<&'a [f32]>,
    /// log-probabilities of the reference; `None` without a KL term or with the `full` estimator.
    pub reference_logprob: Option<&'a [f32]>,
    /// KL(policy ‖ reference) over the vocabulary, for the `full` estimator.
    pub full_kl: Option<&'a [f32]>,
    /// Tokens on which the KL term acts; `None`: all. The others' divergence is measured all the same.
    pub acts: Option<&'a [bool]>,
}

/// Derivatives of the loss with respect to what the head gives to each target.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Derivatives {
    /// ∂loss/∂logprob.
    pub logprob: Vec<f32>,
    /// ∂loss/∂KL over the vocabulary; empty when the loss has no such term.
    pub full_kl: Vec<f32>,
}

/// The loss and what the backward pass needs of it; vectors run over all tokens of all completions in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossOutput {
    /// The number being minimised.
    pub loss: f64,
    /// ∂loss/∂logprob of each token.
    pub d_logprob: Vec<f32>,
    /// ∂loss/∂full_kl of each token; empty unless the estimator is `full`.
    pub(crate) d_full_kl: Vec<f32>,
    /// Each token's divergence, capped as configured; empty without a KL term.
    pub kl: Vec<f32>,
    /// Share of tokens whose ratio is clipped from below (A < 0).
    pub(crate) clip_low_fraction: f64,
    /// Share of tokens whose ratio is clipped from above (A > 0).
    pub(crate) clip_high_fraction: f64,
}

impl LossOutput {
    /// The loss of a step that was computed in micro-batches: each one's own and its weight in the step. Derivatives and
    /// divergences stay with the micro-batches.
    pub(crate) fn combine(parts: Vec<(Self, f64)>) -> Self {
        let mut whole = Self::default();
        let tokens: usize = parts.iter().map(|(part, _)| part.d_logprob.len()).sum();
        for (part, weight) in parts {
            let of_tokens = part.d_logprob.len() as f64 / tokens.max(1) as f64;
            whole.loss += weight * part.loss;
            whole.clip_low_fraction += of_tokens * part.clip_low_fraction;
            whole.clip_high_fraction += of_tokens * part.clip_high_fraction;
        }
        whole
    }

    /// What the backward pass needs, of a loss that counts `weight` in its step.
    pub(crate) fn derivatives(&self, weight: f64) -> Derivatives {
        let scaled = |values: &[f32]| values.iter().map(|value| value * weight as f32).collect();
        Derivatives {
            logprob: scaled(&self.d_logprob),
            full_kl: scaled(&self.d_full_kl),
        }
    }
}

/// The loss of one step: `groups` hold the completions of one question each.
///
/// `kl` is `None` in stage 1. `max_new_tokens` only matters to `dr_grpo`.
pub fn policy_loss(
    groups: &[Vec<CompletionTerms>],
    objective: &ObjectiveConfig,
    kl: Option<&KlConfig>,
    max_new_tokens: usize,
) -> LossOutput {
    let mut output = LossOutput::default();
    let (mut low, mut high) = (0usize, 0usize);
    for group in groups {
        for completion in group {
            let weight = token_weight(objective.loss, groups, group, completion, max_new_tokens);
            for token in 0..completion.logprob.len() {
                let surrogate = Surrogate::new(objective, completion, token);
                low += usize::from(surrogate.clipped_low);
                high += usize::from(surrogate.clipped_high);
                let (mut value, mut slope) = (surrogate.value, surrogate.slope);
                if let Some(kl) = kl {
                    let divergence = Divergence::new(kl, completion, token);
                    let factor = kl_factor(kl, completion, token);
                    value += factor * divergence.value;
                    if kl.estimator == KlEstimator::Full {
                        output
                            .d_full_kl
                            .push((weight * factor * divergence.slope) as f32);
                    } else {
                        slope += factor * divergence.slope;
                    }
                    output.kl.push(divergence.value as f32);
                }
                output.loss += weight * value;
                output.d_logprob.push((weight * slope) as f32);
            }
        }
    }
    let tokens = output.d_logprob.len().max(1) as f64;
    output.clip_low_fraction = low as f64 / tokens;
    output.clip_high_fraction = high as f64 / tokens;
    output
}

/// Share of one token of `completion` in the loss. Questions count alike, except in `dapo`, where tokens do.
fn token_weight(
    kind: LossKind,
    groups: &[Vec<CompletionTerms>],
    group: &[CompletionTerms],
    completion: &CompletionTerms,
    max_new_tokens: usize,
) -> f64 {
    let tokens =
        |group: &[CompletionTerms]| -> usize { group.iter().map(|c| c.logprob.len()).sum() };
    let per_question = 1.0 / groups.len() as f64;
    match kind {
        LossKind::Grpo => {
            per_question / group.len() as f64 / completion.logprob.len().max(1) as f64
        }
        LossKind::DrGrpo => per_question / (group.len() * max_new_tokens) as f64,
        LossKind::Bnpo => per_question / tokens(group).max(1) as f64,
        LossKind::Dapo => {
            1.0 / groups
                .iter()
                .map(|group| tokens(group))
                .sum::<usize>()
                .max(1) as f64
        }
    }
}

/// The coefficient with its sign; 0 on a token on which the term does not act.
fn kl_factor(kl: &KlConfig, completion: &CompletionTerms, token: usize) -> f64 {
    match kl.direction {
        _ if completion.acts.is_some_and(|acts| !acts[token]) => 0.0,
        KlDirection::Repel => -kl.coefficient,
        KlDirection::Attract => kl.coefficient,
    }
}

/// −min(r·A, clip(r, 1 − ε_low, 1 + ε_high)·A) and its derivative with respect to the log-probability.
struct Surrogate {
    value: f64,
    slope: f64,
    clipped_low: bool,
    clipped_high: bool,
}

impl Surrogate {
    fn new(objective: &ObjectiveConfig, completion: &CompletionTerms, token: usize) -> Self {
        let advantage = completion.advantage;
        let ratio = completion.old_logprob.map_or(1.0, |old| {
            (f64::from(completion.logprob[token]) - f64::from(old[token])).exp()
        });
        let clipped = ratio.clamp(1.0 - objective.clip_low, 1.0 + objective.clip_high);
        // The clipped branch is the smaller one only where the ratio lies outside; there it is constant.
        let inside = ratio * advantage <= clipped * advantage;
        Self {
            value: -(ratio * advantage).min(clipped * advantage),
            slope: if inside { -ratio * advantage } else { 0.0 },
            clipped_low: ratio < clipped && advantage < 0.0,
            clipped_high: ratio > clipped && advantage > 0.0,
        }
    }
}

/// One token's divergence from the reference and its derivative: with respect to the log-probability, or, for
/// `full`, to the uncapped divergence.
struct Divergence {
    value: f64,
    slope: f64,
}

impl Divergence {
    fn new(kl: &KlConfig, completion: &CompletionTerms, token: usize) -> Self {
        let (value, slope) = if kl.estimator == KlEstimator::Full {
            let full = completion
                .full_kl
                .map_or(0.0, |full| f64::from(full[token]));
            (full, 1.0)
        } else {
            let gap = completion.reference_logprob.map_or(0.0, |bias| {
                f64::from(bias[token]) - f64::from(completion.logprob[token])
            });
            let d = gap.clamp(-kl.clamp, kl.clamp);
            let inside = if gap.abs() <= kl.clamp { 1.0 } else { 0.0 };
            match kl.estimator {
                KlEstimator::K1 => (-d, inside),
                KlEstimator::K2 => (d * d / 2.0, -d * inside),
                KlEstimator::K3 | KlEstimator::Full => {
                    (d.exp() - d - 1.0, (1.0 - d.exp()) * inside)
                }
            }
        };
        match kl.token_cap {
            Some(cap) if value > cap => Self {
                value: cap,
                slope: 0.0,
            },
            _ => Self { value, slope },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGPROB: [f32; 6] = [-0.4, -2.0, -1.1, -0.05, -3.0, -0.7];
    const OLD: [f32; 6] = [-0.45, -1.5, -1.6, -0.05, -2.9, -0.9];
    const BIAS: [f32; 6] = [-0.6, -1.0, -14.0, -0.02, -0.5, -0.75];

    /// Some of each completion but the first, which is left out as a whole.
    const ACTS: [bool; 6] = [false, true, false, true, false, true];

    /// Two questions: completions of 1, 2 and 3 tokens.
    fn groups<'a>(
        logprob: &'a [f32],
        old: Option<&'a [f32]>,
        full: Option<&'a [f32]>,
    ) -> Vec<Vec<CompletionTerms<'a>>> {
        groups_acting(logprob, old, full, None)
    }

    fn groups_acting<'a>(
        logprob: &'a [f32],
        old: Option<&'a [f32]>,
        full: Option<&'a [f32]>,
        acts: Option<&'a [bool]>,
    ) -> Vec<Vec<CompletionTerms<'a>>> {
        let terms = |range: std::ops::Range<usize>, advantage| CompletionTerms {
            advantage,
            logprob: &logprob[range.clone()],
            old_logprob: old.map(|old| &old[range.clone()]),
            reference_logprob: Some(&BIAS[range.clone()]),
            full_kl: full.map(|full| &full[range.clone()]),
            acts: acts.map(|acts| &acts[range]),
        };
        vec![
            vec![terms(0..1, 0.8), terms(1..3, -0.8)],
            vec![terms(3..6, 1.3)],
        ]
    }

    #[test]
    fn derivative_agrees_with_finite_differences_for_every_option() {
        let kinds = [
            LossKind::Grpo,
            LossKind::DrGrpo,
            LossKind::Bnpo,
            LossKind::Dapo,
        ];
        for kind in kinds {
            for estimator in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3] {
                for (direction, token_cap, acts) in [
                    (KlDirection::Repel, None, None),
                    // No token's d, nor any estimate made of it, lies within the difference's step of the cap.
                    (KlDirection::Attract, Some(0.9), None),
                    (KlDirection::Repel, Some(0.9), Some(ACTS.as_slice())),
                    (KlDirection::Attract, None, Some(ACTS.as_slice())),
                ] {
                    let objective = ObjectiveConfig {
                        loss: kind,
                        ..ObjectiveConfig::default()
                    };
                    let kl = KlConfig {
                        direction,
                        estimator,
                        token_cap,
                        coefficient: 0.3,
                        ..KlConfig::default()
                    };
                    let at = |logprob: &[f32]| {
                        policy_loss(
                            &groups_acting(logprob, Some(&OLD), None, acts),
                            &objective,
                            Some(&kl),
                            10,
                        )
                    };
                    let output = at(&LOGPROB);
                    for token in 0..LOGPROB.len() {
                        let step = 1.0 / 1024.0;
                        let mut up = LOGPROB;
                        let mut down = LOGPROB;
                        up[token] += step;
                        down[token] -= step;
                        let width = f64::from(up[token]) - f64::from(down[token]);
                        let numeric = (at(&up).loss - at(&down).loss) / width;
                        let exact = f64::from(output.d_logprob[token]);
                        assert!(
                            (numeric - exact).abs() < 1e-5 + 1e-3 * exact.abs(),
                            "{kind:?} {estimator:?} {direction:?} token {token}: {numeric} != {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_update_has_ratio_one_and_clips_nothing() {
        let objective = ObjectiveConfig::default();
        let output = policy_loss(&groups(&LOGPROB, None, None), &objective, None, 10);
        // −(0.8 − 0.8) / 2 / 2 − 1.3 / 2
        assert!((output.loss + 0.65).abs() < 1e-12);
        assert!(output.clip_low_fraction + output.clip_high_fraction == 0.0);
        assert!(output.kl.is_empty() && output.d_full_kl.is_empty());
        let same = policy_loss(
            &groups(&LOGPROB, Some(&LOGPROB), None),
            &objective,
            None,
            10,
        );
        assert_eq!(output, same);
    }

    #[test]
    fn clipping_is_counted_where_it_acts() {
        let output = policy_loss(
            &groups(&LOGPROB, Some(&OLD), None),
            &ObjectiveConfig::default(),
            None,
            10,
        );
        // Token 1: ratio e^−0.5 with A < 0 is held at 0.8; token 2: e^0.5 with A < 0 is not.
        assert!((output.clip_low_fraction - 1.0 / 6.0).abs() < 1e-12);
        assert!(output.d_logprob[1] == 0.0 && output.d_logprob[2] > 0.0);
        assert!(output.clip_high_fraction == 0.0);
    }

    #[test]
    fn the_full_estimator_weighs_the_exact_divergence() {
        let full = [0.5, 0.1, 3.0, 0.0, 0.2, 0.4];
        let kl = KlConfig {
            estimator: KlEstimator::Full,
            coefficient: 0.5,
            token_cap: Some(2.0),
            ..KlConfig::default()
        };
        let objective = ObjectiveConfig::default();
        let with = policy_loss(
            &groups(&LOGPROB, None, Some(&full)),
            &objective,
            Some(&kl),
            10,
        );
        let without = policy_loss(&groups(&LOGPROB, None, None), &objective, None, 10);
        assert_eq!(with.d_logprob, without.d_logprob);
        assert_eq!(with.kl, [0.5, 0.1, 2.0, 0.0, 0.2, 0.4]);
        let expected = [-0.125, -0.0625, 0.0, -0.5 / 6.0, -0.5 / 6.0, -0.5 / 6.0];
        for (got, want) in with.d_full_kl.iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{got} != {want}");
        }
        let divergence = (0.5 / 2.0 + f64::midpoint(0.1, 2.0) / 2.0 + 0.6 / 3.0) / 2.0;
        assert!((with.loss - (without.loss - 0.5 * divergence)).abs() < 1e-6);
        // On tokens 1, 3 and 5 only: of them all is measured.
        let acting = groups_acting(&LOGPROB, None, Some(&full), Some(&ACTS));
        let acting = policy_loss(&acting, &objective, Some(&kl), 10);
        assert_eq!(acting.kl, with.kl);
        for (token, acts) in ACTS.into_iter().enumerate() {
            let expected = if acts { with.d_full_kl[token] } else { 0.0 };
            assert!(
                (acting.d_full_kl[token] - expected).abs() < 1e-12,
                "{token}"
            );
        }
        let divergence = 0.1 / 8.0 + (0.0 + 0.4) / 6.0;
        assert!((acting.loss - (without.loss - 0.5 * divergence)).abs() < 1e-6);
    }

    #[test]
    fn the_term_acts_on_chosen_tokens_only() {
        let objective = ObjectiveConfig::default();
        let kl = KlConfig {
            estimator: KlEstimator::K2,
            coefficient: 0.3,
            ..KlConfig::default()
        };
        let loss = |acts| {
            let groups = groups_acting(&LOGPROB, None, None, acts);
            policy_loss(&groups, &objective, Some(&kl), 10)
        };
        let none = policy_loss(&groups(&LOGPROB, None, None), &objective, None, 10);
        let (all, some) = (loss(None), loss(Some(&ACTS)));
        assert_eq!(all, loss(Some(&[true; 6])));
        assert_eq!(all.kl, some.kl);
        // d² / 2 of d = 1, 0.03 and −0.05; weights of 1/8 (of two tokens, completions and questions) and 1/6.
        let expected = -0.3 * (0.5 / 8.0 + (0.03 * 0.03 + 0.05 * 0.05) / 12.0);
        assert!((some.loss - none.loss - expected).abs() < 1e-6);
        for (token, acts) in ACTS.into_iter().enumerate() {
            let same = if acts { &all } else { &none };
            assert_eq!(
                some.d_logprob[token].to_bits(),
                same.d_logprob[token].to_bits()
            );
        }
        let nowhere = loss(Some(&[false; 6]));
        assert_eq!(nowhere.d_logprob, none.d_logprob);
        assert_eq!(nowhere.loss.to_bits(), none.loss.to_bits());
    }
}
