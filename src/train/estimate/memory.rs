//! The memory a run takes, from sizes alone: nothing is loaded.
//!
//! Each number counts the tensors that are alive together at one moment of a generation or of `backward`, so it must
//! follow that code: a test compares the sum with an allocator that counts. On a GPU there is no such test yet.

use super::pass::{Sizes, parameters};
use crate::config::BiasPlacement;
use crate::config::Config;
use crate::config::DTypeName;
use crate::config::KlEstimator;
use crate::config::OptimizerMemory;
use crate::config::SamplingConfig;
use crate::config::Verb;
use crate::config::VideoConfig;
use crate::config::Wording;
use crate::data::Question;
use crate::model::cache::CacheSize;
use crate::model::device::is_cpu;
use crate::model::hub;
use crate::model::int8;
use crate::model::ops::cuda::adamw::BLOCK;
use crate::model::spec::Spec;
use crate::policy::generate::cache_size;
use crate::policy::inputs::PackedInputs;
use crate::policy::parallel::passes_on;
use crate::prompt::Processor;
use crate::train::gradients::GradientPlacement;
use crate::train::metrics::resident_bytes;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use serde::Serialize;
use std::fmt;

/// Bytes of an f32.
pub(super) const F32: u64 = size_of::<f32>() as u64;

/// What a CUDA program takes before its first tensor: context, loaded kernels, cuBLAS with its workspace. An assumption.
const CUDA_CONTEXT: u64 = 700 << 20;

/// What a step works on: the largest of the passes that run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Passes side by side.
    pub passes: usize,
    /// Packed rows (N).
    pub rows: usize,
    /// Target tokens (R).
    pub targets: usize,
    /// Patches of its clips.
    pub patches: usize,
    /// Patches of the largest frame.
    pub frame_patches: usize,
    /// Tokens of its prompts.
    pub prompt_tokens: usize,
    /// The key/value cache of its completions; `None` where nothing is sampled.
    pub cache: Option<CacheSize>,
    /// Bytes of the clips in the host's memory, those of later steps included.
    pub clips: u64,
}

impl Load {
    /// A step whose passes read `parts`, of completions that were sampled as `sampling` says.
    pub fn of(parts: &[&PackedInputs], sampling: Option<&SamplingConfig>, clips: u64) -> Self {
        let largest = |of: &dyn Fn(&PackedInputs) -> usize| {
            let values = parts.iter().map(|part| of(part));
            values.max().unwrap_or(0)
        };
        let sum_of_prompts = |part: &PackedInputs| {
            let groups = part.layout.groups().iter();
            groups.map(|group| group.prompt_len).sum::<usize>()
        };
        let longest_prompt = largest(&|part| {
            let groups = part.layout.groups().iter();
            groups.map(|group| group.prompt_len).max().unwrap_or(0)
        });
        let questions = largest(&|part| part.layout.groups().len());
        Self {
            passes: parts.len(),
            rows: largest(&PackedInputs::num_rows),
            targets: largest(&PackedInputs::num_targets),
            patches: largest(&|part| {
                let grids = part.videos.iter().map(|video| video.grid_thw);
                grids.map(|grid| grid.iter().product::<usize>()).sum()
            }),
            frame_patches: largest(&|part| {
                let grids = part.videos.iter().map(|video| video.grid_thw);
                grids.map(|[_, h, w]| h * w).max().unwrap_or(0)
            }),
            prompt_tokens: largest(&sum_of_prompts),
            cache: sampling.map(|sampling| cache_size(questions, longest_prompt, sampling)),
            clips,
        }
    }

    /// The largest step that `config` allows, `passes` side by side, when `prompt_text` tokens of a prompt and `answer`
    /// tokens of a worked answer are not video.
    pub fn largest(
        config: &Config,
        verb: Verb,
        passes: usize,
        prompt_text: usize,
        answer: usize,
    ) -> Self {
        let VideoConfig {
            max_frames,
            max_pixels,
            ..
        } = config.video;
        let frame_patches = max_pixels / (14 * 14);
        let patches = frame_patches * max_frames / 2;
        let prompt = (prompt_text + patches / 4).min(config.sampling.max_prompt_tokens);
        let questions = config.train.questions_per_step;
        let passes = passes.min(questions);
        let per_pass = questions.div_ceil(passes);
        let (completions, len) = if verb.is_rl() {
            let sampling = &config.sampling;
            (sampling.group_size, sampling.max_new_tokens)
        } else {
            (1, answer)
        };
        let targets = per_pass * completions * len;
        let clip = (patches * VideoPatches::PATCH_DIM) as u64;
        let jobs = (config.train.last_step() * questions) as u64;
        let ahead = (jobs * clip * F32).min((config.train.prefetch_mib as u64) << 20);
        let kept = (jobs * clip).min((config.data.cache_mib as u64) << 20);
        Self {
            passes,
            rows: per_pass * prompt + targets - per_pass * completions,
            targets,
            patches: per_pass * patches,
            frame_patches,
            prompt_tokens: per_pass * prompt,
            cache: verb
                .is_rl()
                .then(|| cache_size(per_pass, prompt, &config.sampling)),
            clips: questions as u64 * clip * F32 + ahead + kept,
        }
    }
}

/// Bytes by purpose. On a GPU the fields named `host` are in the host's memory, all others in the device's; on the CPU
/// they share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Memory {
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
    pub host_optimizer: u64,
    /// Gradients in host memory.
    pub host_gradients: u64,
    /// What of the bias model is in host memory.
    pub host_bias_model: u64,
    /// Clips of this step and of those to come; in host memory.
    pub clips: u64,
    /// The program itself, where it shares its memory with the model; in host memory.
    pub program: u64,
    /// All in host memory.
    pub host: u64,
    /// The most that is alive at once on the device: sampling and learning take turns. On the CPU with all in host memory.
    pub peak: u64,
}

impl Memory {
    /// What a run as `config` says takes at most, before it starts: its models' sizes are read, and its longest
    /// `questions`; without any, prompts are as long as they may be.
    ///
    /// # Errors
    /// A model folder that is none.
    pub fn before_start(config: &Config, verb: Verb, questions: &[Question]) -> Result<Self> {
        let folder = hub::resolve(&config.model.path).context("model.path")?;
        let spec = Spec::load(&folder).context("model.path")?;
        let bias = match &config.model.bias_model {
            None => None,
            Some(name) => {
                let folder = hub::resolve(name).context("model.bias_model")?;
                Some(Spec::load(&folder).context("model.bias_model")?)
            }
        };
        let processor = Processor::load(&folder)?;
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
        let load = Load::largest(config, verb, passes_on(on_cpu), prompt, answer);
        let program = if on_cpu { resident_bytes() } else { 0 };
        Ok(Self::estimate(&spec, bias.as_ref(), config, &load, program))
    }

    /// The part of the peak that the device's tensors take: a device reports it without CUDA's own.
    pub fn of_tensors(&self) -> u64 {
        self.peak - self.cuda
    }

    /// What training `spec` as `config` says takes in a step of this `load`; `program` bytes are in use before.
    pub fn estimate(
        spec: &Spec,
        bias: Option<&Spec>,
        config: &Config,
        load: &Load,
        program: u64,
    ) -> Self {
        let bytes = match config.model.dtype {
            DTypeName::Bf16 => 2,
            DTypeName::F32 => F32,
        };
        let memory = config.optimizer.memory;
        let on_host = memory == OptimizerMemory::Host;
        let on_cpu = is_cpu(&config.model);
        let sizes = Sizes {
            spec,
            load,
            bytes,
            trains_vision: config.model.train_vision,
            home: if on_host {
                GradientPlacement::Host
            } else {
                GradientPlacement::Device
            },
            by_kernels: !on_cpu,
            exact_kl: bias.is_some() && config.kl.estimator == KlEstimator::Full,
        };
        let trained = sizes.parameters(|name| sizes.is_trained(name));
        let state = state_bytes(memory, config.model.dtype, trained);
        let passes = load.passes as u64;
        let (cache, prefill) = load.cache.map_or((0, 0), |cache| {
            let cache = cache.elem_count(&spec.text) as u64 * bytes;
            (passes * cache, passes * sizes.prefill())
        });
        let placement = config.model.bias_placement;
        let [bias_model, host_bias_model] =
            bias.map_or([0, 0], |bias| bias_bytes(bias, bytes, placement));
        let learning = sizes.learning();
        let mut memory = Self {
            weights: sizes.parameters(|_| true) * bytes,
            optimizer: if on_host { 0 } else { state },
            bias_model,
            cuda: if on_cpu { 0 } else { CUDA_CONTEXT },
            cache,
            prefill,
            learning: passes * learning.sum(),
            gradients: passes * learning.gradients,
            activations: passes * learning.activations,
            logits: passes * learning.logits,
            host_optimizer: if on_host { state } else { 0 },
            host_gradients: if on_host { trained * bytes } else { 0 },
            host_bias_model,
            clips: load.clips,
            program,
            host: 0,
            peak: 0,
        };
        memory.host = memory.host_optimizer
            + memory.host_gradients
            + memory.host_bias_model
            + memory.clips
            + memory.program;
        let always = memory.weights + memory.optimizer + memory.bias_model + memory.cuda;
        memory.peak = always + (cache + prefill).max(memory.learning);
        if on_cpu {
            memory.peak += memory.host;
        }
        memory
    }
}

/// AdamW's state of `trained` weights.
fn state_bytes(memory: OptimizerMemory, dtype: DTypeName, trained: u64) -> u64 {
    let (master, low) = match dtype {
        DTypeName::Bf16 => (F32, 2),
        DTypeName::F32 => (0, 0),
    };
    match memory {
        OptimizerMemory::Full => trained * (2 * F32 + master),
        OptimizerMemory::Host => trained * 3 * F32,
        OptimizerMemory::Compact => {
            let scales = trained.div_ceil(BLOCK as u64) * 2 * F32;
            trained * (2 + low) + scales
        }
    }
}

/// What of a bias model is on the device and what is in host memory.
fn bias_bytes(spec: &Spec, bytes: u64, placement: BiasPlacement) -> [u64; 2] {
    let is_layer =
        |name: &str| name.starts_with("model.layers.") || name.starts_with("visual.blocks.");
    let layers = parameters(spec, is_layer);
    let rest = parameters(spec, |name| !is_layer(name)) * bytes;
    let longest = parameters(spec, |name| name.starts_with("model.layers.0."))
        .max(parameters(spec, |name| {
            name.starts_with("visual.blocks.0.")
        }));
    match placement {
        BiasPlacement::Device => [rest + layers * bytes, 0],
        BiasPlacement::Host => [rest + 2 * longest * bytes, layers * bytes],
        BiasPlacement::Int8 => {
            let scales = layers.div_ceil(int8::BLOCK as u64) * F32;
            // The layer that is decoded, and its largest matrix on the way, twice in f32.
            let text = &spec.text;
            let matrix = (text.hidden_size * text.intermediate_size) as u64;
            [
                rest + layers + scales + longest * bytes + 2 * matrix * F32,
                0,
            ]
        }
    }
}

impl fmt::Display for Memory {
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
        write!(f, "  {:<34}{:>9.3} GB", "at most", self.peak as f64 / 1e9)
    }
}
