//! A step's questions in micro-batches, which go through the models side by side.

use super::backward::Pass;
use super::backward::passes_at_once;
use super::bias_answers::BiasAnswers;
use super::objective::ReferenceScores;
use crate::config::Config;
use crate::config::KlConfig;
use crate::config::LossKind;
use crate::dist::ProcessGroup;
use crate::model::Qwen25Vl;
use crate::model::head::TokenScores;
use crate::model::spec::Spec;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::rl::Group;
use crate::rl::Rollout;
use crate::rl::loss::CompletionTerms;
use crate::rl::loss::LossOutput;
use anyhow::Result;
use std::ops::Range;

/// Questions that go through the models together, from their rollouts to the first pass over them.
pub(super) struct MicroBatch<'a> {
    pub(super) groups: &'a [Group<'a>],
    pub(super) inputs: PackedInputs,
    /// Its share of the step's loss, over all ranks.
    pub(super) loss_weight: f64,
    /// Of the same tokens, by the frozen model.
    pub(super) reference: ReferenceScores,
    /// Targets on which the KL term acts; `None`: all.
    acts: Option<Vec<bool>>,
    /// Absent until the first backward pass.
    first_pass: Option<FirstPass>,
}

/// What the training path gave each token under the weights that sampled.
struct FirstPass {
    /// log π_old.
    logprob: Vec<f32>,
    entropy: Vec<f32>,
    /// Divergence from the reference; empty without one.
    kl: Vec<f32>,
}

/// A rollout with its group and what the first pass over its tokens gave; slices have an entry per token.
pub(super) struct ScoredRollout<'a, 's> {
    pub(super) group: &'a Group<'a>,
    pub(super) rollout: &'a Rollout,
    pub(super) logprob: &'s [f32],
    /// Divergence from the reference; empty without one.
    pub(super) kl: &'s [f32],
    /// By the reference; empty where it was not asked.
    pub(super) reference_logprob: &'s [f32],
}

impl<'a> MicroBatch<'a> {
    /// This rank's questions divided among the passes that run side by side. A micro-batch weighs in the loss as its questions
    /// do among those of all ranks, or in `dapo` as its tokens do.
    pub(super) fn split(
        groups: &'a [Group<'a>],
        model: &Qwen25Vl,
        config: &Config,
        dist: &ProcessGroup,
    ) -> Result<Vec<Self>> {
        let weight = |groups: &[Group]| match config.objective.loss {
            LossKind::Dapo => groups.iter().map(Group::completion_tokens).sum::<usize>() as f64,
            LossKind::Grpo | LossKind::DrGrpo | LossKind::Bnpo => groups.len() as f64,
        };
        let [whole] = dist.all_reduce_sum([weight(groups)])?;
        let passes = passes_at_once(model.device());
        let per_batch = groups.len().div_ceil(passes).max(1);
        groups
            .chunks(per_batch)
            .map(|groups| {
                Ok(Self {
                    groups,
                    inputs: pack(groups, &model.spec)?,
                    loss_weight: weight(groups) / whole,
                    reference: ReferenceScores::None,
                    acts: None,
                    first_pass: None,
                })
            })
            .collect()
    }

    /// Keeps what the reference gave, and with it on which tokens the KL term acts: where the reference is sure enough, and in
    /// completions that give one of `answers`.
    pub(super) fn keep_reference(
        &mut self,
        scores: ReferenceScores,
        kl: Option<&KlConfig>,
        answers: Option<&BiasAnswers>,
    ) {
        self.reference = scores;
        let most = kl.and_then(|kl| kl.max_bias_entropy);
        if most.is_none() && answers.is_none() {
            return;
        }
        let mut acts = vec![true; self.inputs.num_targets()];
        if let (Some(most), Some(scores)) = (most, self.reference.tokens()) {
            for (acts, &entropy) in acts.iter_mut().zip(&scores.entropy) {
                *acts = f64::from(entropy) <= most;
            }
        }
        if let Some(answers) = answers {
            for (group, ranges) in self.groups.iter().zip(&self.inputs.suffix_targets) {
                for (rollout, range) in group.rollouts.iter().zip(ranges) {
                    if !answers.agrees(group.question, &rollout.completion.text) {
                        acts[range.clone()].fill(false);
                    }
                }
            }
        }
        self.acts = Some(acts);
    }

    /// Of each token, whether the KL term acts on it; `None` where it acts on all.
    pub(super) fn acts(&self) -> Option<&[bool]> {
        self.acts.as_deref()
    }

    /// What the loss is made of: `scores` of the policy as it is, and what is known of the same tokens.
    pub(super) fn loss_terms<'s>(
        &'s self,
        scores: &'s TokenScores,
    ) -> Vec<Vec<CompletionTerms<'s>>> {
        let old = self
            .first_pass
            .as_ref()
            .map(|first| first.logprob.as_slice());
        let (reference, full) = match &self.reference {
            ReferenceScores::None => (None, None),
            ReferenceScores::Tokens(reference) => (Some(reference.logprob.as_slice()), None),
            ReferenceScores::Hidden(..) => (None, Some(scores.full_kl.as_slice())),
        };
        let of_tokens = |values: Option<&'s [f32]>, range: &Range<usize>| {
            values.map(|values| &values[range.clone()])
        };
        self.groups
            .iter()
            .zip(&self.inputs.suffix_targets)
            .map(|(group, ranges)| {
                let rollouts = group.rollouts.iter().zip(ranges);
                rollouts
                    .map(|(rollout, range)| CompletionTerms {
                        advantage: rollout.advantage,
                        logprob: &scores.logprob[range.clone()],
                        old_logprob: of_tokens(old, range),
                        reference_logprob: of_tokens(reference, range),
                        full_kl: of_tokens(full, range),
                        acts: self.acts().map(|acts| &acts[range.clone()]),
                    })
                    .collect()
            })
            .collect()
    }

    /// Keeps what a first pass gave; later passes change nothing.
    pub(super) fn keep_first_pass(&mut self, pass: &Pass<LossOutput>) {
        self.first_pass.get_or_insert_with(|| FirstPass {
            logprob: pass.scores.logprob.clone(),
            entropy: pass.scores.entropy.clone(),
            kl: pass.loss.kl.clone(),
        });
    }

    /// Entropy of each token.
    pub(super) fn entropy(&self) -> &[f32] {
        self.first_pass.as_ref().map_or(&[], |first| &first.entropy)
    }

    /// Every rollout with what is known of its tokens.
    pub(super) fn rollouts(&self) -> impl Iterator<Item = ScoredRollout<'a, '_>> {
        fn part<'s>(of_tokens: Option<&'s Vec<f32>>, range: &Range<usize>) -> &'s [f32] {
            let part = of_tokens.and_then(|values| values.get(range.clone()));
            part.unwrap_or(&[])
        }
        let first = self.first_pass.as_ref();
        let reference = self.reference.tokens();
        let groups = self.groups.iter().zip(&self.inputs.suffix_targets);
        groups.flat_map(move |(group, ranges)| {
            group
                .rollouts
                .iter()
                .zip(ranges)
                .map(move |(rollout, range)| ScoredRollout {
                    group,
                    rollout,
                    logprob: part(first.map(|first| &first.logprob), range),
                    kl: part(first.map(|first| &first.kl), range),
                    reference_logprob: part(reference.map(|scores| &scores.logprob), range),
                })
        })
    }
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
