//! Token-by-token continuation of several prompts as rows of one batch.

use crate::model::Qwen25Vl;
use crate::model::cache::KvCache;
use crate::model::positions::Positions;
use crate::policy::inputs::PackedInputs;
use crate::policy::logprobs::video_tokens;
use candle_core::{Result, Tensor};

/// A running generation: each prompt went through the model once, its rows share the prompt's keys and values.
#[derive(Debug)]
pub struct Decoding<'a> {
    model: &'a Qwen25Vl,
    cache: KvCache,
    /// Position of each row's next token.
    next: Vec<u32>,
}

impl<'a> Decoding<'a> {
    /// Prefills the prompts of `inputs` (groups without suffixes).
    ///
    /// `rows_per_prompt[i]` rows will continue prompt `i`, in this order, by at most `capacity` tokens each. Returns the
    /// logits `[B, V]` (f32) from which each row's first token is drawn.
    pub fn start(
        model: &'a Qwen25Vl,
        inputs: &PackedInputs,
        rows_per_prompt: &[usize],
        capacity: usize,
    ) -> Result<(Self, Tensor)> {
        let video = video_tokens(model, inputs)?;
        let embedded = model.embed(&inputs.token_ids, &inputs.video_rows, video.as_ref())?;
        let (cache, output) = model.prefill(
            &embedded,
            &inputs.positions,
            &inputs.layout,
            rows_per_prompt,
            capacity,
        )?;
        let mut end = 0;
        let last_rows: Vec<u32> = inputs
            .layout
            .groups
            .iter()
            .map(|group| {
                end += group.num_rows();
                end as u32 - 1
            })
            .collect();
        let device = output.device();
        let last = output.index_select(&Tensor::new(last_rows, device)?, 0)?;
        let prompt_of_row: Vec<u32> = cache.group_of_row().iter().map(|&g| g as u32).collect();
        let logits = model
            .logits(&last)?
            .index_select(&Tensor::new(prompt_of_row.as_slice(), device)?, 0)?;
        let next = prompt_of_row
            .iter()
            .map(|&prompt| inputs.next_positions[prompt as usize])
            .collect();
        Ok((Self { model, cache, next }, logits))
    }

    /// Rows that are still being continued (B).
    pub fn num_rows(&self) -> usize {
        self.next.len()
    }

    /// Reads the token drawn for each row; returns the logits `[B, V]` (f32) of the tokens after them.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Tensor> {
        if self.cache.num_written() == self.cache.capacity() {
            candle_core::bail!(
                "the cache holds {} tokens per row and is full",
                self.cache.capacity()
            );
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

    /// Keeps only these rows (ascending), the others have ended.
    pub fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        self.cache.keep_rows(rows)?;
        self.next = rows.iter().map(|&row| self.next[row]).collect();
        Ok(())
    }
}
