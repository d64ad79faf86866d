//! Token-by-token continuation of several prompts as rows of one batch, which rows join and leave at any time.

use crate::model::Qwen25Vl;
use crate::model::cache::{CacheSize, KvCache};
use crate::model::ops::Ops;
use crate::model::ops::cuda::decode::MAX_ROWS;
use crate::model::positions::Positions;
use crate::model::spec::Spec;
use crate::policy::cuda_graph::{GraphUse, only_a_gpu};
use crate::policy::device_steps::{DeviceSteps, STEPS_PER_COPY};
use crate::policy::inputs::PackedInputs;
use crate::policy::logprobs::video_tokens;
use crate::policy::sampler::{CompletionSeed, Draw, Pending, Sampler};
use candle_core::{Result, Tensor, bail};

/// A running generation: each prompt goes through the model once, its rows share the prompt's keys and values.
#[derive(Debug)]
pub struct Decoding<'a> {
    model: &'a Qwen25Vl,
    cache: KvCache,
    /// Position of each row's next token.
    next: Vec<u32>,
    on_device: Option<DeviceSteps>,
    /// Of steps that go through the host.
    without: GraphUse,
}

/// A prompt in the cache, which rows can continue until it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefilled {
    slot: usize,
    next_position: u32,
}

impl<'a> Decoding<'a> {
    /// Takes the memory that `size` says; no row yet.
    pub fn new(model: &'a Qwen25Vl, size: CacheSize) -> Result<Self> {
        Ok(Self {
            model,
            cache: model.cache(size)?,
            next: Vec::new(),
            on_device: None,
            without: GraphUse::default(),
        })
    }

    /// How the steps of [`Self::draw`] ran so far.
    pub(crate) fn graph_use(&self) -> GraphUse {
        let mut used = self.without.clone();
        if let Some(on_device) = &self.on_device {
            used.add(on_device.graph_use());
        }
        used
    }

    /// Prefills the prompts of `inputs` (groups without suffixes). Returns a handle for each, and the logits `[Q', V]`
    /// (f32) from which the first token of their rows is drawn.
    ///
    /// # Errors
    /// The cache has too few free slots.
    pub fn prefill(&mut self, inputs: &PackedInputs) -> Result<(Vec<Prefilled>, Tensor)> {
        let model = self.model;
        let video = video_tokens(model, inputs)?;
        let embedded = model.embed(&inputs.token_ids, &inputs.video_rows, video.as_ref())?;
        drop(video);
        let (positions, layout) = (&inputs.positions, &inputs.layout);
        let (slots, output) = model.prefill(&embedded, positions, layout, &mut self.cache)?;
        let mut end = 0;
        let last_rows: Vec<u32> = layout
            .groups()
            .iter()
            .map(|group| {
                end += group.num_rows();
                end as u32 - 1
            })
            .collect();
        let last_rows = Tensor::new(last_rows, output.device())?;
        let logits = model.logits(&output.index_select(&last_rows, 0)?)?;
        let prompts = slots
            .into_iter()
            .zip(&inputs.next_positions)
            .map(|(slot, &next_position)| Prefilled {
                slot,
                next_position,
            })
            .collect();
        Ok((prompts, logits))
    }

    /// Where the model's operations run.
    pub(crate) fn ops(&self) -> Ops {
        self.model.ops()
    }

    /// What the model's checkpoint says about it.
    pub(crate) fn spec(&self) -> &'a Spec {
        &self.model.spec
    }

    /// Rows that can join now.
    pub(crate) fn free_rows(&self) -> usize {
        self.cache.free_places()
    }

    /// Prompts that can be prefilled now.
    pub(crate) fn free_prompts(&self) -> usize {
        self.cache.free_slots()
    }

    /// Adds a row that continues `prompt`, behind the others.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn join(&mut self, prompt: Prefilled) -> Result<()> {
        self.cache.join(prompt.slot)?;
        self.next.push(prompt.next_position);
        Ok(())
    }

    /// Rows that are being continued (B).
    pub fn num_rows(&self) -> usize {
        self.next.len()
    }

    /// Reads the token drawn for each row; returns the logits `[B, V]` (f32) of the tokens after them.
    ///
    /// # Errors
    /// A row's place in the cache is full.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Tensor> {
        if tokens.len() != self.num_rows() {
            bail!("{} tokens for {} rows", tokens.len(), self.num_rows());
        }
        let positions = Positions {
            axes: [self.next.clone(), self.next.clone(), self.next.clone()],
        };
        let output = self.model.decode(tokens, &positions, &mut self.cache)?;
        for next in &mut self.next {
            *next += 1;
        }
        self.model.logits(&output)
    }

    /// The next tokens of every row, one per row and step: `most` steps at most, as many as are cheap at once. A row that
    /// ends on the way draws on; what it draws then is to be ignored.
    ///
    /// # Errors
    /// A row's place in the cache is full, or logits are not finite.
    pub(crate) fn draw(
        &mut self,
        pending: &[Pending],
        sampler: &Sampler,
        most: usize,
    ) -> Result<Vec<Vec<Draw>>> {
        if !DeviceSteps::supports(self.model, &self.cache) {
            self.note_step_without_graph(sampler);
            let tokens: Vec<u32> = pending.iter().map(|row| row.token).collect();
            let seeds: Vec<CompletionSeed> = pending.iter().map(|row| row.seed).collect();
            let indices: Vec<usize> = pending.iter().map(|row| row.index).collect();
            let logits = self.step(&tokens)?;
            return Ok(vec![sampler.draw_rows(
                self.model.ops(),
                &logits,
                &seeds,
                &indices,
            )?]);
        }
        if pending.len() != self.num_rows() {
            bail!("{} tokens for {} rows", pending.len(), self.num_rows());
        }
        let steps = most.min(STEPS_PER_COPY);
        let mut on_device = if let Some(on_device) = self.on_device.take() {
            on_device
        } else {
            let vocabulary = self.model.head.dim(0)?;
            let drawing = sampler.on_device(vocabulary, self.model.device())?;
            let graph = sampler.cuda_graph();
            DeviceSteps::new(self.model, &self.cache, drawing.clone(), graph)?
        };
        let draws = on_device.run(self.model, &self.cache, pending, &self.next, steps)?;
        self.on_device = Some(on_device);
        for _ in 0..steps {
            self.cache.advance();
        }
        for next in &mut self.next {
            *next += steps as u32;
        }
        Ok(draws)
    }

    fn note_step_without_graph(&mut self, sampler: &Sampler) {
        self.without.plain += 1;
        if sampler.cuda_graph() && self.without.refused.is_none() {
            let (device, rows) = (self.model.device(), self.cache.size().rows);
            self.without.refused = Some(match self.model.ops() {
                Ops::Cuda => format!(
                    "{rows} rows in {:?}: it takes {MAX_ROWS} rows at most (sampling.max_rows), in bf16 or f32",
                    self.model.dtype()
                ),
                Ops::Cpu => only_a_gpu(device),
            });
        }
    }

    /// Keeps only these rows (ascending), the others have ended.
    pub fn keep_rows(&mut self, rows: &[usize]) {
        self.cache.keep_rows(rows);
        self.next = rows.iter().map(|&row| self.next[row]).collect();
    }

    /// Makes room for another prompt; no row of this one may be left.
    pub(crate) fn release(&mut self, prompt: Prefilled) -> Result<()> {
        self.cache.release(prompt.slot)
    }
}
