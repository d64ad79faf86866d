//! The memory a run takes, from sizes alone: nothing is loaded.
//!
//! Each number counts the tensors that are alive together at one moment of a generation or of `backward`, so it must
//! follow that code: a test compares the sum with an allocator that counts. On a GPU there is no such test yet.

use super::Count;
use super::F32;
use super::count;
use super::pass::PassMemory;
use super::pass::parameters;
use super::step_shape::StepShape;
use crate::config::BiasPlacement;
use crate::config::Config;
use crate::config::DTypeName;
use crate::config::KlEstimator;
use crate::config::OptimizerMemory;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Question;
use crate::model::device::is_cpu;
use crate::model::hub;
use crate::model::int8;
use crate::model::ops::cuda::adamw;
use crate::model::spec::Spec;
use crate::policy::parallel::passes_on;
use crate::prompt::Processor;
use crate::train::gradients::GradientPlacement;
use crate::train::metrics::resident_bytes;
use anyhow::Context;
use anyhow::Result;
use serde::Serialize;
use std::fmt;
use std::num::Saturating;

/// What a CUDA program takes before its first tensor: context, loaded kernels, cuBLAS with its workspace. An assumption.
const CUDA_CONTEXT: Count = Saturating(700 << 20);

/// Bytes by purpose. On a GPU the fields named `host` are in the host's memory, all others in the device's; on the CPU
/// they share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MemoryEstimate {
    /// The policy.
    pub weights: u64,
    /// AdamW's masters and moments on the device.
    pub optimizer: u64,
    /// What of the frozen bias model is on the device.
    pub bias_model: u64,
    /// CUDA's own.
    pub cuda: u64,
    /// Keys and values while sampling: a prompt once, each completion by itself.
    pub cache: u64,
    /// What is alive beside them while prompts are read.
    pub prefill: u64,
    /// Learning, at its peak: the sum of the next three.
    pub learning: u64,
    /// Gradients at that moment.
    pub gradients: u64,
    /// The layers' inputs, and one layer computed again.
    pub activations: u64,
    /// Logits and what is made of them, a chunk of rows at a time.
    pub logits: u64,
    /// Masters and moments in host memory.
    pub(crate) host_optimizer: u64,
    /// Gradients in host memory.
    pub(crate) host_gradients: u64,
    /// What of the bias model is in host memory.
    pub(crate) host_bias_model: u64,
    /// Clips of this step and of those to come; in host memory.
    pub(crate) clips: u64,
    /// The program itself, where it shares its memory with the model; in host memory.
    pub(crate) program: u64,
    /// All in host memory.
    pub host: u64,
    /// The most that is alive at once on the device: sampling and learning take turns. On the CPU with all in host memory.
    pub peak: u64,
}

impl MemoryEstimate {
    /// What a run as `config` says takes at most, before it starts: its models' sizes are read, and its longest
    /// `questions`, as `processor`, the model's own, writes them; without any, prompts are as long as they may be.
    ///
    /// # Errors
    /// A model folder that is none.
    pub(crate) fn before_start(
        config: &Config,
        verb: Verb,
        questions: &[Question],
        processor: &Processor,
    ) -> Result<Self> {
        let folder = hub::resolve(&config.model.path).context("model.path")?;
        let spec = Spec::load(&folder).context("model.path")?;
        let bias = match &config.model.bias_model {
            None => None,
            Some(name) => {
                let folder = hub::resolve(name).context("model.bias_model")?;
                Some(Spec::load(&folder).context("model.bias_model")?)
            }
        };
        let longest = questions.iter().map(Question::text).max_by_key(String::len);
        let prompt = match longest {
            None => config.sampling.max_prompt_tokens,
            Some(text) => {
                let prompt = processor.prompt(&text, Wording::Training, None)?;
                // Two tokens enclose the clip.
                prompt.token_ids.len() + 2
            }
        };
        let answers = questions.iter().filter_map(|q| q.response.as_deref());
        let answer = answers
            .max_by_key(|answer| answer.len())
            .unwrap_or_default();
        let answer = processor.encode(answer)?.len() + 1;
        let on_cpu = is_cpu(&config.model);
        let shape = StepShape::largest(config, verb, passes_on(on_cpu), prompt, answer);
        let program = if on_cpu { resident_bytes() } else { 0 };
        Ok(Self::estimate(
            &spec,
            bias.as_ref(),
            config,
            &shape,
            program,
        ))
    }

    /// The part of the peak that the device's tensors take: a device reports it without CUDA's own.
    pub(crate) fn of_tensors(&self) -> u64 {
        self.peak - self.cuda
    }

    /// What training `spec` as `config` says takes in a step of this `shape`; `program` bytes are in use before.
    pub fn estimate(
        spec: &Spec,
        bias: Option<&Spec>,
        config: &Config,
        shape: &StepShape,
        program: u64,
    ) -> Self {
        let bytes = match config.model.dtype {
            DTypeName::Bf16 => Saturating(2),
            DTypeName::F32 => F32,
        };
        let optimizer = config.optimizer.memory;
        let on_host = optimizer == OptimizerMemory::Host;
        let on_cpu = is_cpu(&config.model);
        let pass = PassMemory {
            spec,
            shape,
            bytes,
            trains_vision: config.model.train_vision,
            gradient_placement: if on_host {
                GradientPlacement::Host
            } else {
                GradientPlacement::Device
            },
            by_kernels: !on_cpu,
            exact_kl: bias.is_some() && config.kl.estimator == KlEstimator::Full,
        };
        let none = Count::default();
        let trained = pass.parameters(|name| pass.is_trained(name));
        let state = state_bytes(optimizer, config.model.dtype, trained);
        let passes = count(shape.passes);
        let (cache, prefill) = shape.cache.map_or((none, none), |cache| {
            (passes * pass.cache(&cache), passes * pass.prefill())
        });
        let placement = config.model.bias_placement;
        let [bias_model, host_bias_model] =
            bias.map_or([none, none], |bias| bias_bytes(bias, bytes, placement));
        let learning = pass.learning();
        let weights = pass.parameters(|_| true) * bytes;
        let (optimizer, host_optimizer, host_gradients) = if on_host {
            (none, state, trained * bytes)
        } else {
            (state, none, none)
        };
        let cuda = if on_cpu { none } else { CUDA_CONTEXT };
        let (clips, program) = (Saturating(shape.clips), Saturating(program));
        let host = host_optimizer + host_gradients + host_bias_model + clips + program;
        let always = weights + optimizer + bias_model + cuda;
        let on_device = always + (cache + prefill).max(passes * learning.sum());
        let peak = if on_cpu { on_device + host } else { on_device };
        Self {
            weights: weights.0,
            optimizer: optimizer.0,
            bias_model: bias_model.0,
            cuda: cuda.0,
            cache: cache.0,
            prefill: prefill.0,
            learning: (passes * learning.sum()).0,
            gradients: (passes * learning.gradients).0,
            activations: (passes * learning.activations).0,
            logits: (passes * learning.logits).0,
            host_optimizer: host_optimizer.0,
            host_gradients: host_gradients.0,
            host_bias_model: host_bias_model.0,
            clips: clips.0,
            program: program.0,
            host: host.0,
            peak: peak.0,
        }
    }
}

/// AdamW's state of `trained` weights.
fn state_bytes(memory: OptimizerMemory, dtype: DTypeName, trained: Count) -> Count {
    let (master, low) = match dtype {
        DTypeName::Bf16 => (F32, Saturating(2_u64)),
        DTypeName::F32 => (Count::default(), Count::default()),
    };
    match memory {
        OptimizerMemory::Full => trained * (F32 + F32 + master),
        OptimizerMemory::Host => trained * (F32 + F32 + F32),
        OptimizerMemory::Compact => {
            let blocks = Saturating(trained.0.div_ceil(adamw::BLOCK as u64));
            trained * (Saturating(2) + low) + blocks * (F32 + F32)
        }
    }
}

/// What of a bias model is on the device and what is in host memory.
fn bias_bytes(spec: &Spec, bytes: Count, placement: BiasPlacement) -> [Count; 2] {
    let is_layer =
        |name: &str| name.starts_with("model.layers.") || name.starts_with("visual.blocks.");
    let layers = parameters(spec, is_layer);
    let rest = parameters(spec, |name| !is_layer(name)) * bytes;
    let longest = parameters(spec, |name| name.starts_with("model.layers.0."))
        .max(parameters(spec, |name| {
            name.starts_with("visual.blocks.0.")
        }));
    let none = Count::default();
    match placement {
        BiasPlacement::Device => [rest + layers * bytes, none],
        BiasPlacement::Host => [rest + (longest + longest) * bytes, layers * bytes],
        BiasPlacement::Int8 => {
            let scales = Saturating(layers.0.div_ceil(int8::BLOCK as u64)) * F32;
            // The layer that is decoded, and its largest matrix on the way, twice in f32.
            let text = &spec.text;
            let matrix = count(text.hidden_size) * count(text.intermediate_size) * F32;
            [
                rest + layers + scales + longest * bytes + matrix + matrix,
                none,
            ]
        }
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, bytes: u64| -> fmt::Result {
            writeln!(f, "  {name:<34}{:>9.3} GB", bytes as f64 / 1e9)
        };
        line("weights", self.weights)?;
        for (name, bytes) in [
            ("optimizer", self.optimizer),
            ("bias model", self.bias_model),
            ("CUDA", self.cuda),
            ("sampling: key/value cache", self.cache),
            ("sampling: reading prompts", self.prefill),
            ("learning: gradients", self.gradients),
            ("learning: activations", self.activations),
            ("learning: logits", self.logits),
            ("host memory: optimizer", self.host_optimizer),
            ("host memory: gradients", self.host_gradients),
            ("host memory: bias model", self.host_bias_model),
            ("host memory: clips", self.clips),
            ("host memory: the program", self.program),
        ] {
            if bytes > 0 {
                line(name, bytes)?;
            }
        }
        if self.cuda > 0 {
            line("host memory, at most", self.host)?;
        }
        // Where the program shares the memory, its allocator keeps some of what was freed.
        let bound = if self.cuda > 0 { "at most" } else { "about" };
        write!(f, "  {bound:<34}{:>9.3} GB", self.peak as f64 / 1e9)
    }
}
