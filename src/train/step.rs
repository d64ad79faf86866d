//! One RL step, top to bottom: question → prompt → completions → rewards → advantages → bias log-probs → backward →
//! optimizer → metrics.

use super::Objective;
use super::Step;
use super::Trainer;
use super::feed::Lesson;
use super::mean;
use super::metrics::StepMetrics;
use super::metrics::Stopwatch;
use super::optimizer::Update;
use super::part::BiasView;
use super::part::Part;
use super::part::Scores;
use super::part::Targets;
use super::part::completion_tokens;
use super::part::targets_of;
use super::part::together;
use super::replay::Replayed;
use super::tally::Mean;
use super::tally::Tally;
use crate::config::BadVideoPolicy;
use crate::config::KlConfig;
use crate::config::QuestionKind;
use crate::config::Wording;
use crate::data::Question;
use crate::policy::generate::Completion;
use crate::policy::generate::Finish;
use crate::policy::generate::Generated;
use crate::policy::generate::generate_side_by_side;
use crate::policy::inputs::PackedInputs;
use crate::policy::sampler::QuestionSeed;
use crate::prompt::Prompt;
use crate::prompt::PromptError;
use crate::rl::Group;
use crate::train::backward::side_by_side;
use anyhow::Context;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// A line of `rollouts.jsonl`.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutLine<'a> {
    /// The step.
    pub step: usize,
    /// Which question.
    pub question_id: &'a str,
    /// The paper's split, where known.
    pub kind: Option<QuestionKind>,
    /// The clip.
    pub video: &'a Path,
    /// The right answer.
    pub solution: &'a str,
    /// What the policy wrote.
    pub completion: &'a str,
    /// Why it ended.
    pub finish: Finish,
    /// Accuracy reward, unweighted.
    pub accuracy: f64,
    /// Format reward, unweighted.
    pub format: f64,
    /// R: the weighted sum.
    pub reward: f64,
    /// A: the reward against its group.
    pub advantage: f64,
    /// Mean divergence from the bias model per token; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the completion.
    pub completion_tokens: usize,
}

/// What the updates of a step made of its completions.
#[derive(Debug, Default)]
struct Learned {
    /// Where each completion's tokens lie in the vectors.
    targets: Targets,
    /// Log-probability, entropy and divergence of each token under the policy that sampled.
    logprob: Vec<f32>,
    entropy: Vec<f32>,
    kl: Vec<f32>,
    /// Means over the updates.
    loss: f64,
    grad_norm: f64,
    clip_low: f64,
    clip_high: f64,
    updates: usize,
    /// Updates that were not finite.
    skipped: usize,
}

impl Learned {
    fn add(&mut self, scores: Scores, loss: f64, update: &Update) {
        if self.updates == 0 {
            self.logprob = scores.logprob;
            self.entropy = scores.entropy;
            self.kl = scores.loss.kl;
        }
        self.updates += 1;
        self.loss += loss;
        self.grad_norm += update.grad_norm;
        self.clip_low += scores.loss.clip_low_fraction;
        self.clip_high += scores.loss.clip_high_fraction;
        self.skipped += usize::from(!update.applied);
    }

    /// Turns the sums over the updates into means.
    fn average(&mut self) {
        let updates = self.updates.max(1) as f64;
        for sum in [
            &mut self.loss,
            &mut self.grad_norm,
            &mut self.clip_low,
            &mut self.clip_high,
        ] {
            *sum /= updates;
        }
    }
}

impl Trainer<'_> {
    /// One step on `lessons`, this rank's part of its questions; `replayed` gives completions instead of the sampler.
    pub(super) fn reinforced_step(
        &mut self,
        objective: &Objective,
        lessons: &[Lesson],
        replayed: Option<&[Replayed]>,
        watch: &mut Stopwatch,
    ) -> Result<Step> {
        let (questions, prompts) = self.prompts(lessons)?;
        if !self.dist.any(!prompts.is_empty())? {
            return Ok(self.empty_step().into());
        }
        let completions = if let Some(replayed) = replayed {
            self.replayed(&questions, replayed)?
        } else {
            let generated = watch
                .time("generate", || self.sample(&questions, &prompts))
                .context("while completions were sampled")?;
            self.counts.graph_use.add(&generated.graph_use);
            generated.completions
        };
        let groups: Vec<Group> = questions
            .iter()
            .zip(prompts)
            .zip(completions)
            .map(|((question, prompt), completions)| {
                Group::score(
                    question.id.clone(),
                    question.kind,
                    prompt,
                    completions,
                    &question.solution,
                    &self.config.reward,
                    self.config.objective.loss,
                )
            })
            .collect();
        let device = self.policy.model().device().clone();
        let parts = self.parts(&groups)?;
        let inputs: Vec<&PackedInputs> = parts.iter().map(|part| &part.inputs).collect();
        let bias_spec = match objective {
            Objective::Cdpo(bias) => Some(bias.spec()),
            Objective::Grpo => None,
        };
        let sampling = replayed.is_none().then_some(&self.config.sampling);
        self.estimate_memory(&inputs, bias_spec, sampling);
        let kl = KlConfig {
            coefficient: self.state.kl_coefficient,
            ..self.config.kl.clone()
        };
        let kl = matches!(objective, Objective::Cdpo(_)).then_some(&kl);
        let bias = watch
            .time("bias", || {
                side_by_side(&device, &parts, |part| part.ask(objective, kl))
            })
            .context("while the bias model was asked")?;
        let scored = parts.into_iter().zip(bias).collect();
        let learned = self.learn(objective, scored, kl, watch)?;
        self.counts.num_tokens += groups.iter().map(count_tokens).sum::<u64>();
        self.report(&questions, &groups, &learned, kl)
    }

    /// The step's numbers and records, put together from all ranks.
    fn report(
        &self,
        questions: &[&Question],
        groups: &[Group],
        learned: &Learned,
        kl: Option<&KlConfig>,
    ) -> Result<Step> {
        let (targets, kls) = (&learned.targets, &learned.kl);
        let tokens = learned.logprob.len();
        let mut tally = Tally::of(groups, targets, kls);
        tally.entropy = Mean::of(learned.entropy.iter().map(|&entropy| f64::from(entropy)));
        tally.clip_low = Mean::of_known(learned.clip_low, tokens);
        tally.clip_high = Mean::of_known(learned.clip_high, tokens);
        tally.sampler_gap = self.sampler_gap(groups, targets, &learned.logprob);
        let lines = rollout_lines(self.state.step + 1, questions, groups, targets, kls)
            .iter()
            .map(serde_json::to_string)
            .collect::<serde_json::Result<Vec<String>>>()?;
        let (tallies, lines): (Vec<Tally>, Vec<Vec<String>>) =
            self.dist.all_gather((tally, lines))?.into_iter().unzip();
        let (tally, rollouts) = (Tally::together(&tallies), lines.concat());
        let bad_sample = (learned.skipped > 0)
            .then(|| -> Result<_> {
                let sample = rollouts.iter().map(|line| serde_json::from_str(line));
                let sample = sample.collect::<serde_json::Result<Vec<serde_json::Value>>>()?;
                self.bad_step(learned.loss, learned.grad_norm, &sample)
            })
            .transpose()?;
        let metrics = StepMetrics {
            loss: learned.loss,
            grad_norm: learned.grad_norm,
            skipped_update: learned.skipped,
            entropy: tally.entropy.known(),
            rl: Some(tally.metrics(kl.map(|kl| kl.coefficient))),
            ..self.empty_step()
        };
        Ok(Step {
            metrics,
            rollouts,
            bad_sample,
        })
    }

    /// `train.updates_per_rollout` updates from the same completions. The first one's log-probabilities are the old
    /// policy's in those that follow. One that is not finite is left out, and so are the rest: they would be its equals.
    fn learn(
        &mut self,
        objective: &Objective,
        mut scored: Vec<(Part, BiasView)>,
        kl: Option<&KlConfig>,
        watch: &mut Stopwatch,
    ) -> Result<Learned> {
        let device = self.policy.model().device().clone();
        let mut learned = Learned {
            targets: targets_of(scored.iter().map(|(part, _)| &part.inputs)),
            ..Learned::default()
        };
        for _ in 0..self.config.train.updates_per_rollout {
            let passes = watch
                .time("backward", || {
                    side_by_side(&device, &scored, |(part, bias)| {
                        part.backward(self, objective, bias, kl)
                    })
                })
                .context("while gradients were computed")?;
            for ((part, _), pass) in scored.iter_mut().zip(&passes) {
                part.keep_old_logprob(pass);
            }
            let (scores, gradients) = if passes.is_empty() {
                (Scores::default(), self.no_gradients()?)
            } else {
                together(passes)?
            };
            let (loss, update) = watch
                .time("update", || self.update(scores.loss.loss, gradients))
                .context("while the weights were updated")?;
            learned.add(scores, loss, &update);
            if !update.applied {
                break;
            }
        }
        learned.average();
        Ok(learned)
    }

    /// The questions that can be asked, and their prompts.
    fn prompts<'q>(&mut self, lessons: &[Lesson<'q>]) -> Result<(Vec<&'q Question>, Vec<Prompt>)> {
        let (mut questions, mut prompts) = (Vec::new(), Vec::new());
        for lesson in lessons {
            let question = lesson.question;
            let video = Some(Arc::clone(&lesson.video));
            match self
                .processor
                .prompt(&question.text(), Wording::Training, video)
            {
                Ok(prompt) => {
                    questions.push(question);
                    prompts.push(prompt);
                }
                Err(error @ PromptError::TooLong { .. })
                    if self.config.data.on_bad_video == BadVideoPolicy::Skip =>
                {
                    self.skip(question, &error);
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("question {}", question.id));
                }
            }
        }
        Ok((questions, prompts))
    }

    /// G completions of each prompt, seeded by run, step, question and number.
    fn sample(&self, questions: &[&Question], prompts: &[Prompt]) -> Result<Generated> {
        let step = self.state.step as u64 + 1;
        let seeds: Vec<QuestionSeed> = questions
            .iter()
            .map(|question| QuestionSeed::new(self.config.seed, step, &question.id))
            .collect();
        let prompts: Vec<&Prompt> = prompts.iter().collect();
        let (model, config) = (self.policy.model(), &self.config.sampling);
        Ok(generate_side_by_side(
            model,
            &self.processor,
            &prompts,
            &seeds,
            config,
        )?)
    }

    fn replayed(
        &self,
        questions: &[&Question],
        replayed: &[Replayed],
    ) -> Result<Vec<Vec<Completion>>> {
        questions
            .iter()
            .map(|question| {
                let line = replayed
                    .iter()
                    .find(|line| line.question_id == question.id)
                    .with_context(|| format!("no replayed completions for {}", question.id))?;
                line.completions
                    .iter()
                    .map(|completion| completion.completion(&self.processor))
                    .collect::<Result<Vec<_>>>()
                    .with_context(|| format!("question {}", question.id))
            })
            .collect()
    }

    /// Largest difference between what the sampler and the training path give a sampled token. Both are the same
    /// quantity only at temperature 1.
    fn sampler_gap(&self, groups: &[Group], targets: &Targets, logprob: &[f32]) -> Option<f64> {
        if (self.config.sampling.temperature - 1.0).abs() > f64::EPSILON {
            return None;
        }
        let sampled = groups.iter().flat_map(|group| &group.rollouts);
        sampled
            .zip(targets.iter().flatten())
            .flat_map(|(rollout, range)| {
                let trained = &logprob[range.clone()];
                rollout.completion.logprobs.iter().zip(trained)
            })
            .map(|(a, b)| f64::from((a - b).abs()))
            .reduce(f64::max)
    }
}

fn count_tokens(group: &Group) -> u64 {
    (group.prompt.token_ids.len() + completion_tokens(std::slice::from_ref(group))) as u64
}

fn rollout_lines<'a>(
    step: usize,
    questions: &[&'a Question],
    groups: &'a [Group],
    targets: &Targets,
    kl: &[f32],
) -> Vec<RolloutLine<'a>> {
    let mut lines = Vec::new();
    for ((question, group), ranges) in questions.iter().zip(groups).zip(targets) {
        for (rollout, range) in group.rollouts.iter().zip(ranges) {
            lines.push(RolloutLine {
                step,
                question_id: &question.id,
                kind: question.kind,
                video: &question.video,
                solution: &question.solution,
                completion: &rollout.completion.text,
                finish: rollout.completion.finish,
                accuracy: rollout.reward.accuracy,
                format: rollout.reward.format,
                reward: rollout.total,
                advantage: rollout.advantage,
                kl: kl.get(range.clone()).filter(|kl| !kl.is_empty()).map(mean),
                prompt_tokens: group.prompt.token_ids.len(),
                completion_tokens: rollout.completion.token_ids.len(),
            });
        }
    }
    lines
}
