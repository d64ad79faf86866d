//! What a step works with: the policy, its optimizer, and where the run stands. All that changes them is here.

use super::backward::zero_gradients;
use super::checkpoint;
use super::checkpoint::TrainerState;
use super::data_loader::Example;
use super::estimate::MemoryEstimate;
use super::estimate::StepShape;
use super::gradients::GradientPlacement;
use super::metrics::StepMetrics;
use super::metrics::resident_bytes;
use super::objective::Objective;
use super::optimizer::AdamW;
use super::optimizer::Gradients;
use super::optimizer::Update;
use super::optimizer::global_norm;
use super::optimizer::learning_rate;
use super::record::StepRecord;
use super::replay::Replayed;
use super::step_stats::StepStats;
use crate::config::BadVideoPolicy;
use crate::config::Config;
use crate::config::KlConfig;
use crate::config::SamplingConfig;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Question;
use crate::dist::DistError;
use crate::dist::ProcessGroup;
use crate::model::device;
use crate::model::export;
use crate::model::hub;
use crate::model::spec::Spec;
use crate::policy::GraphUse;
use crate::policy::Policy;
use crate::policy::generate::Completion;
use crate::policy::generate::generate_side_by_side;
use crate::policy::inputs::PackedInputs;
use crate::policy::sampler::QuestionSeed;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::prompt::PromptError;
use crate::rl::honest;
use anyhow::Context;
use anyhow::Result;
use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// What the memory of a run's steps is estimated from.
#[derive(Debug, Default)]
struct MemoryWatch {
    /// Bytes in use before the model was loaded, where the model shares them.
    program: u64,
    /// Bytes of the clips in memory now.
    clips: u64,
    /// The estimate of the largest step so far.
    largest: Option<u64>,
}

/// What this rank has counted since ranks last put their counts together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Counts {
    /// Prompt and completion tokens.
    num_tokens: u64,
    /// Questions left out.
    skipped_videos: usize,
    /// How completions were sampled.
    graph_use: GraphUse,
}

/// What a step works with.
pub(crate) struct Trainer<'a> {
    config: &'a Config,
    verb: Verb,
    dist: &'a ProcessGroup,
    policy: Policy,
    processor: Processor,
    optimizer: AdamW,
    state: TrainerState,
    counts: Counts,
    memory: MemoryWatch,
    /// The model folder whose tokenizer and processor files go into checkpoints.
    source: PathBuf,
}

impl<'a> Trainer<'a> {
    /// Loads the policy from the config's model, or, with its optimizer, from a checkpoint.
    ///
    /// # Errors
    /// A model that cannot be loaded, or that other ranks have otherwise; a state that does not fit it.
    pub(crate) fn load(
        config: &'a Config,
        verb: Verb,
        device: &Device,
        checkpoint: Option<&Path>,
        state: TrainerState,
        dist: &'a ProcessGroup,
    ) -> Result<Self> {
        let source = match checkpoint {
            Some(folder) => folder.to_path_buf(),
            None => hub::resolve(&config.model.path).context("model.path")?,
        };
        let dtype = device::dtype(&config.model);
        let memory = MemoryWatch {
            program: if device.is_cpu() { resident_bytes() } else { 0 },
            ..MemoryWatch::default()
        };
        let processor =
            Processor::load(&source)?.with_max_prompt_tokens(config.sampling.max_prompt_tokens);
        let policy = Policy::load(&source, dtype, device, config.model.train_vision)
            .with_context(|| format!("while {} was loaded", source.display()))?;
        let parameters = policy.vars().iter();
        let parameters = parameters.map(|(name, var)| (name.clone(), var.clone()));
        let mut optimizer = AdamW::new(parameters, &config.optimizer)
            .context("while room was made for the optimizer's state")?;
        if let Some(folder) = checkpoint {
            let saved = checkpoint::read_optimizer(folder)?;
            optimizer
                .load_state(&saved)
                .with_context(|| format!("the optimizer state of {}", folder.display()))?;
        }
        let trainer = Self {
            config,
            verb,
            dist,
            policy,
            processor,
            optimizer,
            state,
            counts: Counts::default(),
            memory,
            source,
        };
        trainer.check_weights()?;
        Ok(trainer)
    }

    /// Refuses to train where no right answer can earn its reward.
    ///
    /// # Errors
    /// See [`honest::refuse_hopeless`].
    pub(super) fn refuse_hopeless(&self, questions: &[Question]) -> Result<()> {
        honest::refuse_hopeless(
            questions,
            &self.config.reward,
            &self.processor,
            &self.source,
        )
    }

    /// The run's settings.
    pub(super) fn config(&self) -> &'a Config {
        self.config
    }

    /// The ranks of the run.
    pub(super) fn dist(&self) -> &'a ProcessGroup {
        self.dist
    }

    /// What is trained.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What turns texts into tokens.
    pub(super) fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Where the policy computes.
    pub(super) fn device(&self) -> &Device {
        self.policy.model().device()
    }

    /// Steps done since the run began.
    pub(super) fn steps_done(&self) -> usize {
        self.state.step
    }

    /// Steps without an update in a row.
    pub(super) fn bad_steps(&self) -> usize {
        self.state.bad_steps
    }

    /// The KL term of `objective`, with the coefficient now in force.
    pub(super) fn kl(&self, objective: &Objective) -> Option<KlConfig> {
        matches!(objective, Objective::Cdpo { .. }).then(|| KlConfig {
            coefficient: self.state.kl_coefficient_in_force(self.config),
            ..self.config.kl.clone()
        })
    }

    /// Halves what the KL coefficient may be: what a schedule falls from, or a target does not exceed. Returns it.
    pub(super) fn halve_kl_coefficient(&mut self) -> f64 {
        self.state.kl_coefficient /= 2.0;
        self.state.kl_coefficient
    }

    /// The questions that can be asked, each with its prompt.
    ///
    /// # Errors
    /// A prompt that is too long, unless `data.on_bad_video` is to skip it.
    pub(super) fn prompts<'q>(
        &mut self,
        examples: &[Example<'q>],
    ) -> Result<Vec<(&'q Question, Prompt)>> {
        let mut prompted = Vec::with_capacity(examples.len());
        for example in examples {
            let prompt = self.prompt(example, Wording::Training)?;
            prompted.extend(prompt.map(|prompt| (example.question, prompt)));
        }
        Ok(prompted)
    }

    /// The prompt of one question; `None` where it is too long and skipped.
    pub(super) fn prompt(&mut self, example: &Example, wording: Wording) -> Result<Option<Prompt>> {
        let (question, video) = (example.question, Some(Arc::clone(&example.video)));
        match self.processor.prompt(&question.text(), wording, video) {
            Ok(prompt) => Ok(Some(prompt)),
            Err(error @ PromptError::TooLong { .. })
                if self.config.data.on_bad_video == BadVideoPolicy::Skip =>
            {
                self.counts.skipped_videos += 1;
                tracing::warn!("question {} skipped: {error}", question.id);
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("question {}", question.id)),
        }
    }

    /// G completions of each prompt, seeded by run, step, question and number.
    pub(super) fn sample(
        &mut self,
        prompted: &[(&Question, Prompt)],
    ) -> Result<Vec<Vec<Completion>>> {
        let step = self.state.step as u64 + 1;
        let (seeds, prompts): (Vec<QuestionSeed>, Vec<&Prompt>) = prompted
            .iter()
            .map(|(question, prompt)| {
                let seed = QuestionSeed::new(self.config.seed, step, &question.id);
                (seed, prompt)
            })
            .unzip();
        let (model, config) = (self.policy.model(), &self.config.sampling);
        let generated = generate_side_by_side(model, &self.processor, &prompts, &seeds, config)?;
        self.counts.graph_use.add(&generated.graph_use);
        Ok(generated.completions)
    }

    /// The completions that `lines` give for each question, instead of sampled ones.
    ///
    /// # Errors
    /// A question that has none, or an empty one.
    pub(super) fn replay(
        &self,
        prompted: &[(&Question, Prompt)],
        lines: &[Replayed],
    ) -> Result<Vec<Vec<Completion>>> {
        prompted
            .iter()
            .map(|(question, prompt)| {
                let line = lines
                    .iter()
                    .find(|line| line.question_id == question.id)
                    .with_context(|| format!("no replayed completions for {}", question.id))?;
                line.completions
                    .iter()
                    .map(|completion| completion.completion(&self.processor, prompt))
                    .collect::<Result<Vec<_>>>()
                    .with_context(|| format!("question {}", question.id))
            })
            .collect()
    }

    /// Notes the clips that are in memory during the next step, and how many could not be read since the last.
    pub(super) fn note_clips(&mut self, bytes: u64, skipped: usize) {
        self.memory.clips = bytes;
        self.counts.skipped_videos += skipped;
    }

    /// Bytes that the largest step so far is estimated to take.
    pub(super) fn estimated_bytes(&self) -> Option<u64> {
        self.memory.largest
    }

    /// Estimates what a step takes whose passes read `parts`; with a frozen model and sampling where they have a part.
    pub(super) fn estimate_memory(
        &mut self,
        parts: &[&PackedInputs],
        reference: Option<&Spec>,
        sampling: Option<&SamplingConfig>,
    ) {
        if parts.is_empty() {
            return;
        }
        let shape = StepShape::of(parts, sampling, self.memory.clips);
        let spec = &self.policy.model().spec;
        let estimate =
            MemoryEstimate::estimate(spec, reference, self.config, &shape, self.memory.program);
        self.memory.largest = self.memory.largest.max(Some(estimate.of_tensors()));
    }

    /// Moves the weights by the gradients of all ranks, unless those or the loss are not finite. `loss` and `gradients` are
    /// this rank's part of them; the loss that comes back is the whole.
    pub(super) fn update(&mut self, loss: f64, mut gradients: Gradients) -> Result<(f64, Update)> {
        let [loss] = self.dist.all_reduce_sum([loss])?;
        let update = if loss.is_finite() {
            self.dist.all_reduce(&mut gradients)?;
            self.optimizer.step(&gradients, self.learning_rate())?
        } else {
            Update {
                grad_norm: f64::NAN,
                applied: false,
            }
        };
        self.state.bad_steps = if update.applied {
            0
        } else {
            self.state.bad_steps + 1
        };
        Ok((loss, update))
    }

    /// Gradients of a rank without questions: others may have some.
    pub(super) fn zero_gradients(&self) -> Result<Gradients> {
        Ok(zero_gradients(&self.policy, self.gradient_placement())?)
    }

    /// Counts what the models read in this step.
    pub(super) fn count_tokens(&mut self, tokens: usize) {
        self.counts.num_tokens += tokens as u64;
    }

    /// Ends a step of `questions`: what every rank has counted goes into the run's state and into `metrics`. Returns how the
    /// ranks sampled.
    ///
    /// # Errors
    /// A rank that is lost.
    pub(super) fn finish_step(
        &mut self,
        questions: usize,
        metrics: &mut StepMetrics,
    ) -> Result<GraphUse> {
        let mut graph_use = GraphUse::default();
        for counts in self.dist.all_gather(std::mem::take(&mut self.counts))? {
            self.state.num_tokens += counts.num_tokens;
            self.state.skipped_videos += counts.skipped_videos;
            graph_use.add(&counts.graph_use);
        }
        self.state.steer_kl(&self.config.kl, metrics);
        self.state.step += 1;
        self.state.next_question += questions;
        metrics.num_tokens = self.state.num_tokens;
        metrics.skipped_videos = self.state.skipped_videos;
        Ok(graph_use)
    }

    /// Refuses to go on when ranks have different weights: their models' folders differ, or a GPU computes wrongly.
    pub(super) fn check_weights(&self) -> Result<()> {
        if self.dist.size() == 1 {
            return Ok(());
        }
        let weights = self.policy.vars().iter();
        let weights = weights.map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        let norms = self.dist.all_gather(global_norm(&weights.collect())?)?;
        // Equal weights give equal sums but for the order in which different processors add.
        let differs = |norm: &f64| (norm - norms[0]).abs() > 1e-9 * norms[0];
        match norms.iter().position(differs) {
            None => Ok(()),
            Some(rank) => Err(DistError::Stranger {
                rank,
                reason: format!(
                    "its weights are not those of rank 0 (norms {} and {})",
                    norms[rank], norms[0]
                ),
            }
            .into()),
        }
    }

    /// Where the update reads its gradients.
    pub(super) fn gradient_placement(&self) -> GradientPlacement {
        if self.optimizer.reads_gradients_on_host() {
            GradientPlacement::Host
        } else {
            GradientPlacement::Device
        }
    }

    fn learning_rate(&self) -> f64 {
        learning_rate(
            &self.config.optimizer,
            self.state.step,
            self.config.train.steps,
        )
    }

    /// The line of a step in which nothing has happened yet.
    pub(super) fn empty_metrics(&self) -> StepMetrics {
        StepMetrics {
            step: self.state.step + 1,
            learning_rate: self.learning_rate(),
            ..StepMetrics::default()
        }
    }

    /// A line of `bad_steps.jsonl`: what a step without an update was made of.
    pub(super) fn bad_step(
        &self,
        loss: f64,
        grad_norm: f64,
        sample: &impl Serialize,
    ) -> Result<serde_json::Value> {
        let step = self.state.step + 1;
        if self.dist.is_first() {
            tracing::warn!(
                "step {step}: loss {loss}, gradient norm {grad_norm}: not finite, no update; the sample is in bad_steps.jsonl"
            );
        }
        Ok(json!({
            "step": step,
            "loss": loss.to_string(),
            "grad_norm": grad_norm.to_string(),
            "sample": serde_json::to_value(sample)?,
        }))
    }

    /// What a step leaves: the numbers of all ranks and their lines of `rollouts.jsonl`.
    pub(super) fn record(
        &self,
        stats: &StepStats,
        rollouts: Vec<String>,
        kl: Option<&KlConfig>,
    ) -> Result<StepRecord> {
        let bad_sample = (stats.skipped_updates() > 0)
            .then(|| -> Result<_> {
                let sample = rollouts.iter().map(|line| serde_json::from_str(line));
                let sample = sample.collect::<serde_json::Result<Vec<serde_json::Value>>>()?;
                self.bad_step(stats.loss(), stats.grad_norm(), &sample)
            })
            .transpose()?;
        let metrics = StepMetrics {
            loss: stats.loss(),
            grad_norm: stats.grad_norm(),
            skipped_update: stats.skipped_updates(),
            entropy: stats.entropy(),
            rl: Some(stats.metrics(kl.map(|kl| kl.coefficient))),
            ..self.empty_metrics()
        };
        Ok(StepRecord {
            metrics,
            rollouts,
            bad_sample,
        })
    }

    /// Goes on from `checkpoint`: its tokenizer and processor files go into the next ones.
    pub(super) fn saved_as(&mut self, checkpoint: PathBuf) {
        self.source = checkpoint;
    }

    /// Writes a checkpoint into `folder`: a model folder, and `trainer/`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let tensors = self.policy.tensors();
        export::save_folder(&tensors, &self.source, folder, export::SHARD_BYTES)?;
        export::write_training(folder, self.config, self.verb, self.state.step)?;
        checkpoint::write_state(folder, &self.state, self.config)?;
        checkpoint::write_optimizer(folder, self.optimizer.state()?)
    }
}
