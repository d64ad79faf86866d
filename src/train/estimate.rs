//! The memory a run takes, from sizes alone: nothing is loaded.
//!
//! Each number counts the tensors that are alive together at one moment of a generation or of `backward`, so it must
//! follow that code: a test compares the sum with an allocator that counts.

use crate::config::Config;
use crate::config::DTypeName;
use crate::config::SamplingConfig;
use crate::config::Verb;
use crate::config::VideoConfig;
use crate::config::Wording;
use crate::data::Question;
use crate::model::cache::CacheSize;
use crate::model::device::is_cpu;
use crate::model::head::CHUNK_BYTES;
use crate::model::hub;
use crate::model::spec::Spec;
use crate::model::vision_layout::MAX_SCORES;
use crate::model::weights::expected_shapes;
use crate::policy::generate::PREFILL_TOKENS;
use crate::policy::generate::cache_size;
use crate::policy::inputs::PackedInputs;
use crate::policy::parallel::passes_on;
use crate::prompt::Processor;
use crate::train::metrics::resident_bytes;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use serde::Serialize;
use std::fmt;

/// Bytes of an f32.
const F32: u64 = size_of::<f32>() as u64;

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
            let groups = part.layout.groups.iter();
            groups.map(|group| group.prompt_len).sum::<usize>()
        };
        let longest_prompt = largest(&|part| {
            let groups = part.layout.groups.iter();
            groups.map(|group| group.prompt_len).max().unwrap_or(0)
        });
        let questions = largest(&|part| part.layout.groups.len());
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
        let jobs = (config.train.steps * questions) as u64;
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

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The policy.
    pub weights: u64,
    /// AdamW: two moments in f32, and an f32 master copy of bf16 weights.
    pub optimizer: u64,
    /// The frozen bias model.
    pub bias_model: u64,
    /// Clips of this step and of those to come, in the host's memory.
    pub clips: u64,
    /// The program itself, where it shares its memory with the model.
    pub program: u64,
    /// Keys and values while sampling: a prompt once, each completion by itself.
    pub cache: u64,
    /// What is alive beside them while prompts are read.
    pub prefill: u64,
    /// Learning, at its peak: gradients, the layers' inputs, and one layer or the head computed again.
    pub learning: u64,
    /// The most that is alive at once: sampling and learning take turns.
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

    /// What training `spec` as `config` says takes in a step of this `load`; `program` bytes are in use before.
    pub fn estimate(
        spec: &Spec,
        bias: Option<&Spec>,
        config: &Config,
        load: &Load,
        program: u64,
    ) -> Self {
        let (bytes, master) = match config.model.dtype {
            DTypeName::Bf16 => (2, 4),
            DTypeName::F32 => (F32, 0),
        };
        let sizes = Sizes {
            spec,
            load,
            bytes,
            trains_vision: config.model.train_vision,
        };
        let trained = sizes.parameters(|name| sizes.is_trained(name));
        let passes = load.passes as u64;
        let (cache, prefill) = load.cache.map_or((0, 0), |cache| {
            let cache = cache.elem_count(&spec.text) as u64 * bytes;
            (passes * cache, passes * sizes.prefill())
        });
        let mut memory = Self {
            weights: sizes.parameters(|_| true) * bytes,
            optimizer: trained * (2 * F32 + master),
            bias_model: bias.map_or(0, |bias| parameters(bias, |_| true) * bytes),
            clips: load.clips,
            program,
            cache,
            prefill,
            learning: passes * sizes.learning(),
            peak: 0,
        };
        let always = memory.weights + memory.optimizer + memory.bias_model + load.clips + program;
        memory.peak = always + (cache + prefill).max(memory.learning);
        memory
    }
}

fn parameters(spec: &Spec, which: impl Fn(&str) -> bool) -> u64 {
    let shapes = expected_shapes(spec).into_iter();
    shapes
        .filter(|(name, _)| which(name))
        .map(|(_, shape)| shape.elem_count() as u64)
        .sum()
}

/// Sizes of one pass.
struct Sizes<'a> {
    spec: &'a Spec,
    load: &'a Load,
    /// Bytes of a weight or an activation.
    bytes: u64,
    trains_vision: bool,
}

impl Sizes<'_> {
    fn parameters(&self, which: impl Fn(&str) -> bool) -> u64 {
        parameters(self.spec, which)
    }

    fn is_trained(&self, name: &str) -> bool {
        self.trains_vision || !name.starts_with("visual.")
    }

    /// Activations of `per_row` values for each of `rows` rows.
    fn activations(&self, rows: usize, per_row: usize) -> u64 {
        (rows * per_row) as u64 * self.bytes
    }

    /// Width of the decoder, of its keys, and of its MLP.
    fn widths(&self) -> [usize; 3] {
        let text = &self.spec.text;
        let keys = text.num_kv_heads * text.head_dim();
        [text.hidden_size, keys, text.intermediate_size]
    }

    /// Reading as many prompts as go through the model at once.
    fn prefill(&self) -> u64 {
        let [hidden, keys, mlp] = self.widths();
        let longest = self.load.cache.map_or(0, |cache| cache.prompt_len);
        let rows = self.load.prompt_tokens.min(PREFILL_TOKENS.max(longest));
        let share = rows as f64 / self.load.prompt_tokens.max(1) as f64;
        let patches = (self.load.patches as f64 * share).ceil() as usize;
        // The embedded prompts, a layer's input, its output so far, queries and attention's output; the MLP.
        let layer = self.activations(rows, 6 * hidden + 2 * keys + 3 * mlp);
        layer.max(self.pixels(patches) + self.vision_forward(patches))
    }

    /// Pixels of `patches` on the device.
    fn pixels(&self, patches: usize) -> u64 {
        (patches * self.spec.vision.patch_dim()) as u64 * F32
    }

    /// Attention scores of a whole frame, `copies` of them.
    fn vision_scores(&self, patches: usize, copies: u64) -> u64 {
        let scores = self.spec.vision.num_heads * patches * self.load.frame_patches;
        scores.min(MAX_SCORES) as u64 * F32 * copies
    }

    /// The tower's forward pass without what it keeps: patches in window order, or a block.
    fn vision_forward(&self, patches: usize) -> u64 {
        let vision = &self.spec.vision;
        let (width, mlp) = (vision.hidden_size, vision.intermediate_size);
        let embed = self.activations(patches, vision.patch_dim() + width);
        let attention = self.activations(patches, 10 * width) + self.vision_scores(patches, 2);
        let block = self.activations(patches, 7 * width + 3 * mlp);
        embed.max(attention).max(block)
    }

    /// The peak of one pass of `backward`, which keeps the inputs of all layers and then consumes them from the last.
    fn learning(&self) -> u64 {
        let (load, text, vision) = (self.load, &self.spec.text, &self.spec.vision);
        let [hidden, keys, mlp] = self.widths();
        let gradients = |prefix: &str| {
            let of = |name: &str| name.starts_with(prefix) && self.is_trained(name);
            self.parameters(of) * self.bytes
        };
        let head_gradient = (text.vocab_size * hidden) as u64 * self.bytes;
        let layer_gradients = gradients("model.layers.");

        let trace = if load.patches == 0 {
            0
        } else {
            self.activations(load.patches, (vision.depth + 1) * vision.hidden_size)
        };
        let video = self.pixels(load.patches) + trace;
        let inputs = self.activations(load.rows, text.num_layers * hidden);
        let layer = self.activations(load.rows, 7 * hidden + 2 * keys + 5 * mlp);

        let first = video + self.vision_forward(load.patches);
        let head = video + inputs + self.head();
        let last_layer = video + inputs + head_gradient + layer;
        let first_layer = video + head_gradient + layer_gradients + layer;
        // The table of embeddings: the head's part, its own part, and their sum.
        let embedding = video + layer_gradients + 3 * head_gradient;
        let tower = if self.trains_vision {
            video + layer_gradients + head_gradient + self.vision_backward()
        } else {
            0
        };
        let end = gradients("") + head_gradient;
        [first, head, last_layer, first_layer, embedding, tower, end]
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    /// The target rows, their logits and distributions a chunk at a time, the head's gradient.
    fn head(&self) -> u64 {
        let [hidden, ..] = self.widths();
        let vocabulary = self.spec.text.vocab_size;
        let all = (self.load.targets * vocabulary) as u64 * F32;
        let chunk = all.min(CHUNK_BYTES as u64);
        self.activations(self.load.targets, 2 * hidden) + 3 * chunk
    }

    /// One block of the tower computed again with its gradients: attention or the MLP.
    fn vision_backward(&self) -> u64 {
        let (vision, patches) = (&self.spec.vision, self.load.patches);
        let (width, mlp) = (vision.hidden_size, vision.intermediate_size);
        let attention = self.activations(patches, 17 * width) + self.vision_scores(patches, 4);
        attention.max(self.activations(patches, 9 * width + 5 * mlp))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        for (name, bytes) in [
            ("weights", self.weights),
            ("optimizer", self.optimizer),
            ("bias model", self.bias_model),
            ("clips", self.clips),
            ("the program", self.program),
            ("sampling: key/value cache", self.cache),
            ("sampling: reading prompts", self.prefill),
            ("learning", self.learning),
        ] {
            writeln!(f, "  {name:<26}{:>9.3} GB", gigabytes(bytes))?;
        }
        write!(f, "  {:<26}{:>9.3} GB", "at most", gigabytes(self.peak))
    }
}
