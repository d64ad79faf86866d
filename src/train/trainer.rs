//! What a step works with: the policy, its optimizer, where the run stands, and where its records go.

use super::backward::zero_gradients;
use super::checkpoint;
use super::checkpoint::TrainerState;
use super::estimate::Load;
use super::estimate::Memory;
use super::gradients::Home;
use super::metrics::StepMetrics;
use super::metrics::resident_bytes;
use super::optimizer::AdamW;
use super::optimizer::Gradients;
use super::optimizer::Update;
use super::optimizer::global_norm;
use super::optimizer::learning_rate;
use crate::config::Config;
use crate::config::SamplingConfig;
use crate::data::Question;
use crate::dist::DistError;
use crate::dist::ProcessGroup;
use crate::model::device;
use crate::model::export;
use crate::model::hub;
use crate::model::spec::Spec;
use crate::model::weights::NamedTensors;
use crate::policy::GraphUse;
use crate::policy::Policy;
use crate::policy::bias::BiasModel;
use crate::policy::inputs::PackedInputs;
use crate::prompt::Processor;
use anyhow::Context;
use anyhow::Result;
use candle_core::DType;
use candle_core::Device;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// What the RL stages differ in.
#[derive(Debug)]
pub enum Objective {
    /// Rewards alone.
    Grpo,
    /// Rewards, and the divergence from this frozen model.
    Cdpo(Box<BiasModel>),
}

impl Objective {
    /// Loads the bias model where the config names one.
    ///
    /// # Errors
    /// When the model cannot be loaded, or speaks another vocabulary than the policy.
    pub fn load(config: &Config, policy: &Policy) -> Result<Self> {
        let Some(name) = &config.model.bias_model else {
            return Ok(Self::Grpo);
        };
        let folder = hub::resolve(name).context("model.bias_model")?;
        let (dtype, device) = (device::dtype(&config.model), policy.model().device());
        let placement = config.model.bias_placement;
        let bias =
            BiasModel::load(&folder, dtype, device, placement).context("model.bias_model")?;
        let (own, other) = (&policy.model().spec, bias.spec());
        if own.text.vocab_size != other.text.vocab_size || own.tokens != other.tokens {
            anyhow::bail!(
                "model.bias_model {name} has another vocabulary than the policy ({} and {} tokens): its log-probabilities \
                 cannot be compared",
                other.text.vocab_size,
                own.text.vocab_size
            );
        }
        Ok(Self::Cdpo(Box::new(bias)))
    }
}

/// What the memory of a run's steps is estimated from.
#[derive(Debug, Default)]
pub(super) struct MemoryWatch {
    /// Bytes in use before the model was loaded, where the model shares them.
    program: u64,
    /// Bytes of the clips in memory now.
    pub(super) clips: u64,
    /// The estimate of the largest step so far.
    pub(super) largest: Option<u64>,
}

/// What this rank has counted since ranks last put their counts together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Prompt and completion tokens.
    pub(super) num_tokens: u64,
    /// Questions left out.
    pub(super) skipped_videos: usize,
    /// How completions were sampled.
    pub(super) graph_use: GraphUse,
}

/// What a step works with.
pub struct Trainer<'a> {
    pub(super) config: &'a Config,
    pub(super) dist: &'a ProcessGroup,
    pub(super) policy: Policy,
    pub(super) processor: Processor,
    pub(super) optimizer: AdamW,
    pub(super) state: TrainerState,
    pub(super) counts: Counts,
    pub(super) memory: MemoryWatch,
    /// The model folder whose tokenizer and processor files go into checkpoints.
    pub(super) source: PathBuf,
}

impl<'a> Trainer<'a> {
    /// Loads the policy from the config's model, or, with its optimizer, from a checkpoint.
    ///
    /// # Errors
    /// A model that cannot be loaded, or that other ranks have otherwise; a state that does not fit it.
    pub fn load(
        config: &'a Config,
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
            let saved = read_optimizer(folder)?;
            optimizer
                .load_state(&saved)
                .with_context(|| format!("the optimizer state of {}", folder.display()))?;
        }
        let trainer = Self {
            config,
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

    /// Estimates what a step takes whose passes read `parts`; with a bias model and sampling where they have a part.
    pub(super) fn estimate_memory(
        &mut self,
        parts: &[&PackedInputs],
        bias: Option<&Spec>,
        sampling: Option<&SamplingConfig>,
    ) {
        if parts.is_empty() {
            return;
        }
        let load = Load::of(parts, sampling, self.memory.clips);
        let spec = &self.policy.model().spec;
        let estimate = Memory::estimate(spec, bias, self.config, &load, self.memory.program);
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
    pub(super) fn no_gradients(&self) -> Result<Gradients> {
        Ok(zero_gradients(&self.policy, self.gradient_home())?)
    }

    /// Adds what every rank has counted to where the run stands; how they sampled in this step.
    pub(super) fn count_together(&mut self) -> Result<GraphUse> {
        let mut graph_use = GraphUse::default();
        for counts in self.dist.all_gather(std::mem::take(&mut self.counts))? {
            self.state.num_tokens += counts.num_tokens;
            self.state.skipped_videos += counts.skipped_videos;
            graph_use.add(&counts.graph_use);
        }
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
    pub(super) fn gradient_home(&self) -> Home {
        if self.optimizer.reads_gradients_on_host() {
            Home::Host
        } else {
            Home::Device
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
    pub(super) fn empty_step(&self) -> StepMetrics {
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

    /// Counts and logs a question that is left out.
    pub(super) fn skip(&mut self, question: &Question, why: &dyn std::error::Error) {
        self.counts.skipped_videos += 1;
        tracing::warn!("question {} skipped: {why}", question.id);
    }

    /// Writes a checkpoint into `folder`: a model folder, and `trainer/`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let tensors = self.policy.tensors();
        export::save_folder(&tensors, &self.source, folder, export::SHARD_BYTES)?;
        checkpoint::write_state(folder, &self.state, self.config)?;
        let mut state = NamedTensors::default();
        for (name, tensor) in self.optimizer.state()? {
            // The format has no 64-bit integers here; the counts stay exact in f32 up to 2^24 updates.
            let tensor = match tensor.dtype() {
                DType::I64 => tensor.to_dtype(DType::F32)?,
                _ => tensor,
            };
            state.insert(name, tensor);
        }
        let optimizer = optimizer_folder(folder);
        std::fs::create_dir_all(&optimizer)?;
        export::save(&state, &optimizer, export::SHARD_BYTES)?;
        Ok(())
    }
}

fn optimizer_folder(checkpoint: &Path) -> PathBuf {
    checkpoint::trainer_folder(checkpoint).join("optimizer")
}

/// The optimizer's tensors of a checkpoint, from one file or several, in host memory.
fn read_optimizer(checkpoint: &Path) -> Result<BTreeMap<String, candle_core::Tensor>> {
    let folder = optimizer_folder(checkpoint);
    let mut names: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    names.retain(|name| name.extension().is_some_and(|end| end == "safetensors"));
    names.sort();
    let mut tensors = BTreeMap::new();
    for name in names {
        let file = candle_core::safetensors::load(&name, &Device::Cpu)
            .with_context(|| format!("cannot read {}", name.display()))?;
        tensors.extend(file);
    }
    if let Some(updates) = tensors.get_mut("updates") {
        *updates = updates.to_dtype(DType::I64)?;
    }
    Ok(tensors)
}
