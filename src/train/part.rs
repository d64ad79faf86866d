//! A step's questions in parts that go through the models side by side, and the parts' results put together.

use super::Objective;
use super::Trainer;
use crate::config::KlConfig;
use crate::config::KlEstimator;
use crate::config::LossKind;
use crate::model::spec::Spec;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::rl::Group;
use crate::rl::loss::CompletionTerms;
use crate::rl::loss::LossOutput;
use crate::rl::loss::policy_loss;
use crate::train::backward::Derivatives;
use crate::train::backward::Gradients;
use crate::train::backward::Pass;
use crate::train::backward::add_up;
use crate::train::backward::backward_to;
use crate::train::backward::passes_at_once;
use anyhow::Result;
use candle_core::Tensor;
use std::ops::Range;

/// Targets of each completion, question by question, as ranges into a step's tokens.
pub(super) type Targets = Vec<Vec<Range<usize>>>;

/// Questions that go through the model together.
pub(super) struct Part<'a> {
    groups: &'a [Group],
    pub(super) inputs: PackedInputs,
    /// Its share of the step's loss.
    share: f64,
    /// log π_old: what the training path gave each token under the weights that sampled, from the first update on.
    old_logprob: Option<Vec<f32>>,
}

/// What the bias model says of a part's completions.
pub(super) enum BiasView {
    /// Stage 1.
    None,
    /// Log-probability of each token.
    Logprob(Vec<f32>),
    /// Outputs of its last layer, from which exact divergences are computed.
    Hidden(Tensor),
}

/// What a part's pass gives.
pub(super) struct PartPass {
    pass: Pass<LossOutput>,
    share: f64,
}

impl Trainer<'_> {
    /// This rank's questions divided among the passes that run side by side. A part's share of the loss is that of its
    /// questions among those of all ranks, or in `dapo` that of its tokens.
    pub(super) fn parts<'g>(&self, groups: &'g [Group]) -> Result<Vec<Part<'g>>> {
        let model = self.policy.model();
        let weight = |groups: &[Group]| match self.config.objective.loss {
            LossKind::Dapo => completion_tokens(groups) as f64,
            LossKind::Grpo | LossKind::DrGrpo | LossKind::Bnpo => groups.len() as f64,
        };
        let [whole] = self.dist.all_reduce_sum([weight(groups)])?;
        let passes = passes_at_once(model.device());
        let per_part = groups.len().div_ceil(passes).max(1);
        groups
            .chunks(per_part)
            .map(|part| {
                Ok(Part {
                    groups: part,
                    inputs: pack(part, &model.spec)?,
                    share: weight(part) / whole,
                    old_logprob: None,
                })
            })
            .collect()
    }
}

impl Part<'_> {
    /// The bias model's view.
    pub(super) fn ask(
        &self,
        objective: &Objective,
        kl: Option<&KlConfig>,
    ) -> candle_core::Result<BiasView> {
        match (objective, kl) {
            (Objective::Cdpo(bias), Some(kl)) if kl.estimator == KlEstimator::Full => {
                bias.target_hidden(&self.inputs).map(BiasView::Hidden)
            }
            (Objective::Cdpo(bias), _) => Ok(BiasView::Logprob(bias.score(&self.inputs)?.logprob)),
            (Objective::Grpo, _) => Ok(BiasView::None),
        }
    }

    /// The loss and its gradients.
    pub(super) fn backward(
        &self,
        trainer: &Trainer,
        objective: &Objective,
        bias: &BiasView,
        kl: Option<&KlConfig>,
    ) -> candle_core::Result<PartPass> {
        let bias_rows = match (objective, bias) {
            (Objective::Cdpo(model), BiasView::Hidden(hidden)) => Some(model.bias_rows(hidden)),
            _ => None,
        };
        let bias_logprob = match bias {
            BiasView::Logprob(logprob) => Some(logprob.as_slice()),
            _ => None,
        };
        let config = trainer.config;
        let home = trainer.gradient_home();
        let pass = backward_to(home, &trainer.policy, &self.inputs, bias_rows, |scores| {
            let full = bias_rows.is_some().then_some(scores.full_kl.as_slice());
            let terms = self.loss_terms(&scores.logprob, bias_logprob, full);
            let longest = config.sampling.max_new_tokens;
            let output = policy_loss(&terms, &config.objective, kl, longest);
            let scaled = |values: &[f32]| -> Vec<f32> {
                values
                    .iter()
                    .map(|value| value * self.share as f32)
                    .collect()
            };
            let derivatives = Derivatives {
                logprob: scaled(&output.d_logprob),
                full_kl: scaled(&output.d_full_kl),
            };
            (derivatives, output)
        })?;
        Ok(PartPass {
            pass,
            share: self.share,
        })
    }

    /// Takes a first pass's log-probabilities as those of the policy that sampled; later passes change nothing.
    pub(super) fn keep_old_logprob(&mut self, pass: &PartPass) {
        self.old_logprob
            .get_or_insert_with(|| pass.pass.scores.logprob.clone());
    }

    fn loss_terms<'a>(
        &'a self,
        logprob: &'a [f32],
        bias: Option<&'a [f32]>,
        full: Option<&'a [f32]>,
    ) -> Vec<Vec<CompletionTerms<'a>>> {
        let old = self.old_logprob.as_deref();
        self.groups
            .iter()
            .zip(&self.inputs.suffix_targets)
            .map(|(group, ranges)| {
                group
                    .rollouts
                    .iter()
                    .zip(ranges)
                    .map(|(rollout, range)| CompletionTerms {
                        advantage: rollout.advantage,
                        logprob: &logprob[range.clone()],
                        old_logprob: old.map(|old| &old[range.clone()]),
                        bias_logprob: bias.map(|bias| &bias[range.clone()]),
                        full_kl: full.map(|full| &full[range.clone()]),
                    })
                    .collect()
            })
            .collect()
    }
}

/// What the parts of a step give, without the gradients.
#[derive(Debug, Default)]
pub(super) struct Scores {
    pub(super) loss: LossOutput,
    pub(super) logprob: Vec<f32>,
    pub(super) entropy: Vec<f32>,
}

/// The parts' scores behind each other, and the sums of their gradients.
pub(super) fn together(passes: Vec<PartPass>) -> candle_core::Result<(Scores, Gradients)> {
    let mut scores = Scores::default();
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for PartPass { pass, share } in passes {
        scores.logprob.extend(pass.scores.logprob);
        scores.entropy.extend(pass.scores.entropy);
        losses.push((pass.objective, share));
        gradients.push(pass.gradients);
    }
    scores.loss = LossOutput::together(losses);
    Ok((scores, add_up(gradients)?))
}

/// Where each completion's tokens lie when the parts' tokens stand behind each other.
pub(super) fn targets_of<'a>(parts: impl Iterator<Item = &'a PackedInputs>) -> Targets {
    let mut targets = Targets::new();
    let mut start = 0;
    for inputs in parts {
        let moved = |range: &Range<usize>| range.start + start..range.end + start;
        targets.extend(
            inputs
                .suffix_targets
                .iter()
                .map(|group| group.iter().map(moved).collect()),
        );
        start += inputs.num_targets();
    }
    targets
}

fn pack(groups: &[Group], spec: &Spec) -> Result<PackedInputs> {
    let packed: Vec<PackedGroup> = groups
        .iter()
        .map(|group| {
            let completions = group.rollouts.iter();
            PackedGroup::of_completions(
                &group.prompt,
                completions.map(|rollout| rollout.completion.token_ids.as_slice()),
            )
        })
        .collect();
    Ok(PackedInputs::new(spec, &packed)?)
}

/// Tokens of all completions.
pub(super) fn completion_tokens(groups: &[Group]) -> usize {
    let rollouts = groups.iter().flat_map(|group| &group.rollouts);
    rollouts
        .map(|rollout| rollout.completion.token_ids.len())
        .sum()
}
