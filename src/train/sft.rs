//! One supervised step: worked answers, cross-entropy, what examples of a clip share computed once.

use super::Trainer;
use super::data_loader::Example;
use super::metrics::StepMetrics;
use super::metrics::Stopwatch;
use super::record::StepRecord;
use super::step_stats::Mean;
use crate::config::Wording;
use crate::data::Question;
use crate::dist::ProcessGroup;
use crate::policy::Policy;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::policy::inputs::Suffix;
use crate::train::backward::Derivatives;
use crate::train::backward::GradientPlacement;
use crate::train::backward::Pass;
use crate::train::backward::add_gradients;
use crate::train::backward::backward;
use crate::train::backward::passes_at_once;
use crate::train::backward::side_by_side;
use crate::video::VideoPatches;
use anyhow::Result;
use anyhow::bail;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A question with its worked answer as tokens.
struct WorkedExample {
    token_ids: Vec<u32>,
    /// Tokens of the prompt; those after it are learned.
    prompt_len: usize,
    video: Arc<VideoPatches>,
    /// Words that video tokens are to predict, where the question has them.
    grounding: Option<Grounding>,
}

/// What the tokens of a clip show.
type Grounding = BTreeMap<usize, Vec<u32>>;

/// Weight of the video tokens that show nothing against those that show something: most of a picture is empty.
const EMPTY_WEIGHT: f64 = 0.3;
/// What a video token predicts that shows nothing.
const NOTHING: &str = " nothing";

/// Targets of a supervised step and their weights; the weights of each part add up to its share of the loss.
struct SupervisedBatch {
    inputs: PackedInputs,
    weights: Vec<f32>,
}

/// The questions with worked answers. Records of the Video-R1 family whose thinking was not written down (an empty
/// `process`) are left out, and it is said how many.
///
/// # Errors
/// A question of another sort has no `response`, or none is left.
pub(super) fn with_worked_answers(
    mut questions: Vec<Question>,
    path: &Path,
) -> Result<Vec<Question>> {
    let all = questions.len();
    questions
        .retain(|question| question.response.is_some() || !question.extra.contains_key("process"));
    let empty = all - questions.len();
    if let Some(question) = questions
        .iter()
        .find(|question| question.response.is_none())
    {
        bail!(
            "{}: question {} has no `response` (nor `process`): train-sft learns from worked answers",
            path.display(),
            question.id
        );
    }
    if questions.is_empty() {
        bail!(
            "{}: `process` is empty in all of its {all} questions: train-sft learns from worked answers",
            path.display()
        );
    }
    if empty > 0 {
        tracing::info!(
            "{}: {empty} of {all} questions have an empty `process` and are left out",
            path.display()
        );
    }
    Ok(questions)
}

impl SupervisedBatch {
    /// The weighted cross-entropy and its gradients.
    fn backward(
        &self,
        policy: &Policy,
        placement: GradientPlacement,
    ) -> candle_core::Result<Pass<f64>> {
        backward(policy, &self.inputs, placement, None, |scores| {
            let weighted = scores.logprob.iter().zip(&self.weights);
            let loss: f64 = weighted
                .map(|(&logprob, &weight)| -f64::from(weight) * f64::from(logprob))
                .sum();
            let derivatives = Derivatives {
                logprob: self.weights.iter().map(|weight| -weight).collect(),
                full_kl: Vec::new(),
            };
            (derivatives, loss)
        })
    }
}

/// Weight of one target of each sort.
struct TargetWeights {
    answer: f32,
    shown: f32,
    empty: f32,
}

impl TargetWeights {
    /// Of targets of which `dist`'s ranks have some each.
    fn of(
        examples: &[WorkedExample],
        grounding_weight: f64,
        emphasis: impl Fn(&u32) -> f64,
        dist: &ProcessGroup,
    ) -> Result<Self> {
        let answers: f64 = examples
            .iter()
            .flat_map(|example| &example.token_ids[example.prompt_len..])
            .map(emphasis)
            .sum();
        let (mut shown, mut all) = (0, 0);
        for example in examples {
            if let Some(grounding) = &example.grounding {
                shown += grounding.len();
                all += example.video.num_tokens();
            }
        }
        let [answers, shown, all] = dist.all_reduce_sum([answers, shown as f64, all as f64])?;
        let share = |total: f64, count: f64| (total / count.max(1.0)) as f32;
        Ok(Self {
            answer: share(1.0, answers),
            shown: share(grounding_weight, shown),
            empty: share(grounding_weight * EMPTY_WEIGHT, all - shown),
        })
    }
}

/// One optimizer step on `examples`, this rank's share of its questions.
pub(super) fn supervised_step(
    trainer: &mut Trainer,
    examples: &[Example],
    watch: &mut Stopwatch,
) -> Result<StepRecord> {
    let dist = trainer.dist();
    let worked = worked_examples(trainer, examples)?;
    if !dist.any(!worked.is_empty())? {
        return Ok(StepRecord::empty(trainer.empty_metrics()));
    }
    let batches = batches(trainer, &worked)?;
    let inputs: Vec<&PackedInputs> = batches.iter().map(|batch| &batch.inputs).collect();
    trainer.estimate_memory(&inputs, None, None);
    let passes = watch.time("backward", || {
        side_by_side(trainer.device(), &batches, |batch| {
            batch.backward(trainer.policy(), trainer.gradient_placement())
        })
    })?;
    let entropy = passes.iter().flat_map(|pass| &pass.scores.entropy);
    let entropy = Mean::of(entropy.map(|&entropy| f64::from(entropy)));
    let loss = passes.iter().map(|pass| pass.loss).sum();
    let gradients = if passes.is_empty() {
        trainer.zero_gradients()?
    } else {
        add_gradients(passes.into_iter().map(|pass| pass.gradients))?
    };
    trainer.count_tokens(worked.iter().map(|example| example.token_ids.len()).sum());
    let (loss, update) = watch.time("update", || trainer.update(loss, gradients))?;
    let ids = examples.iter().map(|example| example.question.id.clone());
    let (entropies, ids): (Vec<Mean>, Vec<Vec<String>>) = dist
        .all_gather((entropy, ids.collect::<Vec<String>>()))?
        .into_iter()
        .unzip();
    let bad_sample = if update.applied {
        None
    } else {
        Some(trainer.bad_step(loss, update.grad_norm, &ids.concat())?)
    };
    let metrics = StepMetrics {
        loss,
        grad_norm: update.grad_norm,
        skipped_update: usize::from(!update.applied),
        entropy: Mean::merge(&entropies).known(),
        ..trainer.empty_metrics()
    };
    Ok(StepRecord {
        metrics,
        bad_sample,
        ..StepRecord::default()
    })
}

/// The mean over answer tokens, some of them emphasized, and `grounding_weight` times what video tokens are to
/// show: the mean over those that show something plus [`EMPTY_WEIGHT`] times the mean over those that do not.
/// Clips are divided among as many passes as there are cores to run them.
fn batches(trainer: &Trainer, examples: &[WorkedExample]) -> Result<Vec<SupervisedBatch>> {
    let groups = group_by_clip(examples);
    let clips: Vec<&[WorkedExample]> = examples
        .chunk_by(|a, b| Arc::ptr_eq(&a.video, &b.video))
        .collect();
    let emphasized = emphasized(trainer)?;
    let emphasis = |id: &u32| {
        if emphasized.contains(id) {
            trainer.config().sft.emphasis
        } else {
            1.0
        }
    };
    let weight = trainer.config().sft.grounding_weight;
    let shares = TargetWeights::of(examples, weight, emphasis, trainer.dist())?;
    let nothing = trainer.processor().encode(NOTHING)?;
    let per_pass = clips
        .len()
        .div_ceil(passes_at_once(trainer.device()))
        .max(1);
    groups
        .chunks(per_pass)
        .zip(clips.chunks(per_pass))
        .map(|(groups, clips)| {
            let mut inputs = PackedInputs::new(&trainer.policy().model().spec, groups)?;
            let answers = inputs.target_ids.iter();
            let mut weights: Vec<f32> = answers
                .map(|id| shares.answer * emphasis(id) as f32)
                .collect();
            let mut first_token = 0;
            for clip in clips {
                let num_tokens = clip[0].video.num_tokens();
                for grounding in clip.iter().filter_map(|example| example.grounding.as_ref()) {
                    for token in 0..num_tokens {
                        let row = inputs.video_rows[first_token + token];
                        let (words, share) = match grounding.get(&token) {
                            Some(words) => (words, shares.shown),
                            None => (&nothing, shares.empty),
                        };
                        for &word in words {
                            inputs.push_target(row, word);
                            weights.push(share / words.len() as f32);
                        }
                    }
                }
                first_token += num_tokens;
            }
            Ok(SupervisedBatch { inputs, weights })
        })
        .collect()
}

/// First tokens of the emphasized words, as a text's first word and behind another.
fn emphasized(trainer: &Trainer) -> Result<BTreeSet<u32>> {
    let mut tokens = BTreeSet::new();
    for word in &trainer.config().sft.emphasized {
        for text in [word.clone(), format!(" {word}")] {
            tokens.extend(trainer.processor().encode(&text)?.first());
        }
    }
    Ok(tokens)
}

/// A question's words for video tokens as ids.
fn grounding(trainer: &Trainer, example: &Example) -> Result<Option<Grounding>> {
    let Some(tokens) = &example.question.grounding else {
        return Ok(None);
    };
    let num_tokens = example.video.num_tokens();
    let ids = tokens.iter().map(|(token, words)| {
        if *token >= num_tokens {
            bail!(
                "question {}: `grounding` names video token {token}, the clip has {num_tokens} at this size",
                example.question.id
            );
        }
        Ok((*token, trainer.processor().encode(&format!(" {words}"))?))
    });
    ids.collect::<Result<_>>().map(Some)
}

fn worked_examples(trainer: &mut Trainer, examples: &[Example]) -> Result<Vec<WorkedExample>> {
    let mut worked = Vec::with_capacity(examples.len());
    for example in examples {
        let question = example.question;
        let wording = question.wording.unwrap_or(Wording::Training);
        let Some(prompt) = trainer.prompt(example, wording)? else {
            continue;
        };
        let response = question.response.as_deref().unwrap_or_default();
        let written = trainer.processor().encode(prompt.left_to_write(response))?;
        let mut token_ids = prompt.token_ids;
        let prompt_len = token_ids.len();
        token_ids.extend(written);
        token_ids.push(trainer.processor().end_of_turn());
        worked.push(WorkedExample {
            token_ids,
            prompt_len,
            video: Arc::clone(&example.video),
            grounding: grounding(trainer, example)?,
        });
    }
    Ok(worked)
}

/// Neighbours with the same clip become one group, whose prefix is what all their prompts begin with.
fn group_by_clip(examples: &[WorkedExample]) -> Vec<PackedGroup<'_>> {
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
fn common_prefix(a: &WorkedExample, b: &WorkedExample) -> usize {
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
    use crate::config::TextAfterVideo;

    #[test]
    fn questions_without_written_thinking_are_left_out() {
        let question = |more: serde_json::Value| -> Question {
            let mut record =
                serde_json::json!({"id": "q", "problem": "Q?", "solution": "A", "video": "1.mp4"});
            let fields = record.as_object_mut().unwrap();
            fields.extend(more.as_object().unwrap().clone());
            serde_json::from_value(record).unwrap()
        };
        let answered = question(serde_json::json!({"response": "A", "process": "A"}));
        let empty = question(serde_json::json!({"process": ""}));
        let bare = question(serde_json::json!({}));
        let path = Path::new("cot.json");
        let kept = with_worked_answers(vec![empty.clone(), answered.clone()], path).unwrap();
        assert_eq!(kept, std::slice::from_ref(&answered));
        for (questions, part) in [
            (vec![empty], "empty in all of its 1"),
            (vec![answered, bare], "question q has no `response`"),
        ] {
            let message = with_worked_answers(questions, path)
                .unwrap_err()
                .to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn examples_of_a_clip_share_what_their_prompts_share() {
        let clip = || {
            Arc::new(VideoPatches {
                values: Vec::new(),
                grid_thw: [0, 0, 0],
                second_per_grid: 1.0,
                text_after: TextAfterVideo::default(),
            })
        };
        let (first, second) = (clip(), clip());
        let example = |ids: &[u32], prompt_len, video: &Arc<VideoPatches>| WorkedExample {
            token_ids: ids.to_vec(),
            prompt_len,
            video: Arc::clone(video),
            grounding: None,
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
