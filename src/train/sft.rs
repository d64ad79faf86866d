//! One supervised step: worked answers, cross-entropy, what examples of a clip share computed once.

use super::Trainer;
use super::feed::Lesson;
use super::metrics::StepMetrics;
use super::metrics::Stopwatch;
use crate::config::BadVideoPolicy;
use crate::config::Wording;
use crate::data::Dataset;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::policy::inputs::Suffix;
use crate::prompt::PromptError;
use crate::train::backward::Derivatives;
use crate::train::backward::backward;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use std::sync::Arc;

/// A question with its worked answer as tokens.
struct Example {
    token_ids: Vec<u32>,
    /// Tokens of the prompt; those after it are learned.
    prompt_len: usize,
    video: Arc<VideoPatches>,
}

/// Refuses data without worked answers before anything is loaded.
pub(super) fn check_responses(dataset: &Dataset) -> Result<()> {
    let without = |question: &&crate::data::Question| question.response.is_none();
    match dataset.questions().iter().find(without) {
        Some(question) => bail!(
            "question {} has no `response`: train-sft learns from worked answers",
            question.id
        ),
        None => Ok(()),
    }
}

impl Trainer<'_> {
    /// One optimizer step on `lessons`.
    pub(super) fn supervised_step(
        &mut self,
        lessons: &[Lesson],
        watch: &mut Stopwatch,
    ) -> Result<StepMetrics> {
        let examples = self.examples(lessons)?;
        if examples.is_empty() {
            return Ok(self.empty_step());
        }
        let groups = group_by_clip(&examples);
        let inputs = PackedInputs::new(&self.policy.model().spec, &groups)?;
        let weight = 1.0 / inputs.num_targets() as f64;
        let pass = watch.time("backward", || {
            backward(&self.policy, &inputs, None, |scores| {
                let total: f64 = scores.logprob.iter().map(|&p| f64::from(p)).sum();
                let derivatives = Derivatives {
                    logprob: vec![-weight as f32; scores.logprob.len()],
                    full_kl: Vec::new(),
                };
                (derivatives, -weight * total)
            })
        })?;
        self.state.num_tokens += examples
            .iter()
            .map(|example| example.token_ids.len() as u64)
            .sum::<u64>();
        let loss = pass.objective;
        let update = watch.time("update", || self.update(loss, &pass.gradients))?;
        if !update.applied {
            let ids: Vec<&str> = lessons.iter().map(|l| l.question.id.as_str()).collect();
            self.dump_bad_step(loss, update.grad_norm, serde_json::json!(ids))?;
        }
        Ok(StepMetrics {
            loss,
            grad_norm: update.grad_norm,
            skipped_update: u8::from(!update.applied),
            entropy: Some(super::mean(&pass.scores.entropy)),
            ..self.empty_step()
        })
    }

    fn examples(&mut self, lessons: &[Lesson]) -> Result<Vec<Example>> {
        let mut examples = Vec::with_capacity(lessons.len());
        for lesson in lessons {
            let question = lesson.question;
            let video = Arc::clone(&lesson.video);
            let prompt = self
                .processor
                .prompt(&question.text(), Wording::Training, Some(video));
            let prompt = match prompt {
                Err(error @ PromptError::TooLong { .. })
                    if self.config.data.on_bad_video == BadVideoPolicy::Skip =>
                {
                    self.skip(question, &error);
                    continue;
                }
                other => other.with_context(|| format!("question {}", question.id))?,
            };
            let response = question.response.as_deref().unwrap_or_default();
            let mut token_ids = prompt.token_ids;
            let prompt_len = token_ids.len();
            token_ids.extend(self.processor.encode(response)?);
            token_ids.push(self.processor.end_of_turn());
            examples.push(Example {
                token_ids,
                prompt_len,
                video: Arc::clone(&lesson.video),
            });
        }
        Ok(examples)
    }
}

/// Neighbours with the same clip become one group, whose prefix is what all their prompts begin with.
fn group_by_clip(examples: &[Example]) -> Vec<PackedGroup<'_>> {
    examples
        .chunk_by(|a, b| Arc::ptr_eq(&a.video, &b.video))
        .map(|group| {
            let first = &group[0];
            let shared = group
                .iter()
                .map(|example| common_prefix(first, example))
                .min()
                .unwrap_or(first.prompt_len);
            PackedGroup {
                prefix: &first.token_ids[..shared],
                video: Some(&first.video),
                suffixes: group
                    .iter()
                    .map(|example| Suffix {
                        token_ids: &example.token_ids[shared..],
                        first_target: example.prompt_len - shared,
                    })
                    .collect(),
            }
        })
        .collect()
}

/// Tokens in which two prompts agree from the start.
fn common_prefix(a: &Example, b: &Example) -> usize {
    let limit = a.prompt_len.min(b.prompt_len);
    a.token_ids[..limit]
        .iter()
        .zip(&b.token_ids[..limit])
        .take_while(|(x, y)| x == y)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_a_clip_share_what_their_prompts_share() {
        let clip = || {
            Arc::new(VideoPatches {
                values: Vec::new(),
                grid_thw: [0, 0, 0],
                second_per_grid: 1.0,
            })
        };
        let (first, second) = (clip(), clip());
        let example = |ids: &[u32], prompt_len, video: &Arc<VideoPatches>| Example {
            token_ids: ids.to_vec(),
            prompt_len,
            video: Arc::clone(video),
        };
        let examples = [
            example(&[1, 2, 3, 9, 50, 51], 4, &first),
            example(&[1, 2, 4, 9, 50], 4, &first),
            example(&[1, 2, 3, 60], 3, &second),
        ];
        let groups = group_by_clip(&examples);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].prefix, [1, 2]);
        let suffixes: Vec<_> = groups[0]
            .suffixes
            .iter()
            .map(|suffix| (suffix.token_ids, suffix.first_target))
            .collect();
        assert_eq!(suffixes, [(&[3, 9, 50, 51][..], 2), (&[4, 9, 50][..], 2)]);
        assert_eq!(groups[1].prefix, [1, 2, 3]);
        assert_eq!(groups[1].suffixes[0].first_target, 0);
    }
}
