//! Completions: one prefill per question, then the completions of several questions decode together as rows of one batch.
//!
//! A row that ends leaves at once, and the next question's take its place. Which token a row draws depends on its own
//! logits and its own seed only.

use crate::config::SamplingConfig;
use crate::model::Qwen25Vl;
use crate::model::cache::CacheSize;
use crate::model::positions::PositionError;
use crate::policy::GraphUse;
use crate::policy::decode::Decoding;
use crate::policy::decode::Prefilled;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::policy::parallel::passes_at_once;
use crate::policy::parallel::side_by_side;
use crate::policy::sampler::CompletionSeed;
use crate::policy::sampler::Draw;
use crate::policy::sampler::Pending;
use crate::policy::sampler::QuestionSeed;
use crate::policy::sampler::Sampler;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::prompt::PromptError;
use candle_core::DType;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::ops::Range;

/// Prompts go through the model together while they have at most this many tokens: what they take beside the cache
/// does not grow with their number.
pub(crate) const PREFILL_TOKENS: usize = 16 * 1024;

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// `sampling.max_new_tokens` was reached.
    Length,
}

/// What the model wrote (o_i).
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Tokens up to and including the first end-of-turn token (absent when cut off by length).
    pub token_ids: Vec<u32>,
    /// The text of `token_ids` without special tokens, behind what the chat template has begun the turn with.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The sampler's log-probability of each token (see [`Draw::logprob`]); empty where the text was given and not
    /// sampled.
    pub logprobs: Vec<f32>,
}

impl Completion {
    /// A completion of `prompt` that somebody else wrote: `text`, ended by the end-of-turn token when `finish` is `Stop`.
    pub fn given(
        processor: &Processor,
        prompt: &Prompt,
        text: &str,
        finish: Finish,
    ) -> Result<Self, PromptError> {
        let written = prompt.left_to_write(text);
        let mut token_ids = processor.encode(written)?;
        if finish == Finish::Stop {
            token_ids.push(processor.end_of_turn());
        }
        Ok(Self {
            token_ids,
            text: prompt.begun.clone() + written,
            finish,
            logprobs: Vec::new(),
        })
    }
}

/// The completions of several prompts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Generated {
    /// Of each prompt.
    pub completions: Vec<Vec<Completion>>,
    /// How their tokens were drawn, but for the first of each.
    pub(crate) graph_use: GraphUse,
}

/// Why no completions came out.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A prompt and its clip do not fit together.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The tokenizer could not turn tokens into text.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A tensor operation failed, or the model's logits are not finite.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The observer asked to stop.
    #[error("generation was interrupted")]
    Interrupted,
}

/// A token just drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewToken {
    /// Index among the prompts given.
    pub prompt: usize,
    /// Which of its completions.
    pub completion: usize,
    /// The token.
    pub id: u32,
}

/// Told of every token, row by row; `Break` ends the generation with [`GenerateError::Interrupted`].
pub type Observer<'a> = dyn FnMut(NewToken) -> ControlFlow<()> + 'a;

/// An observer that only listens to nothing.
pub fn unobserved(_: NewToken) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A completion in the making.
struct CompletionState {
    prompt: usize,
    completion: usize,
    seed: CompletionSeed,
    prefilled: Prefilled,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

/// `config.group_size` completions of each prompt; `seeds[i]` names the draws of `prompts[i]`.
pub fn generate(
    model: &Qwen25Vl,
    processor: &Processor,
    prompts: &[&Prompt],
    seeds: &[QuestionSeed],
    config: &SamplingConfig,
    observer: &mut Observer,
) -> Result<Vec<Vec<Completion>>, GenerateError> {
    generate_counted(model, processor, prompts, seeds, config, observer)
        .map(|generated| generated.completions)
}

/// As [`generate`], and how the steps ran.
pub(crate) fn generate_counted(
    model: &Qwen25Vl,
    processor: &Processor,
    prompts: &[&Prompt],
    seeds: &[QuestionSeed],
    config: &SamplingConfig,
    observer: &mut Observer,
) -> Result<Generated, GenerateError> {
    let lens = prompts.iter().map(|prompt| prompt.token_ids.len());
    let Some(longest) = lens.max() else {
        return Ok(Generated::default());
    };
    let size = cache_size(prompts.len(), longest, config);
    let mut batch = Batch {
        processor,
        prompts,
        seeds,
        config,
        observer,
        sampler: Sampler::new(config, processor.banned_ids()),
        decoding: Decoding::new(model, size)?,
        pending: 0,
        waiting: VecDeque::new(),
        running: Vec::new(),
        ended: Vec::new(),
        open: vec![config.group_size; prompts.len()],
    };
    while batch.fill()? {
        batch.step()?;
    }
    Ok(Generated {
        graph_use: batch.decoding.graph_use(),
        completions: batch.completions()?,
    })
}

/// As [`generate_counted`], the prompts divided among as many batches as the device runs side by side.
pub fn generate_side_by_side(
    model: &Qwen25Vl,
    processor: &Processor,
    prompts: &[&Prompt],
    seeds: &[QuestionSeed],
    config: &SamplingConfig,
) -> Result<Generated, GenerateError> {
    let per_batch = prompts
        .len()
        .div_ceil(passes_at_once(model.device()))
        .max(1);
    let batches: Vec<_> = prompts
        .chunks(per_batch)
        .zip(seeds.chunks(per_batch))
        .collect();
    let parts = side_by_side(model.device(), &batches, |(prompts, seeds)| {
        generate_counted(model, processor, prompts, seeds, config, &mut unobserved)
    })?;
    let mut all = Generated::default();
    for part in parts {
        all.graph_use.add(&part.graph_use);
        all.completions.extend(part.completions);
    }
    Ok(all)
}

/// Room for `config.max_rows` rows, and for twice the prompts that so many rows come from: prompts whose last rows take
/// long keep no others waiting.
pub(crate) fn cache_size(
    prompts: usize,
    longest_prompt: usize,
    config: &SamplingConfig,
) -> CacheSize {
    let all_rows = prompts * config.group_size;
    let rows = match config.max_rows {
        0 => all_rows,
        max_rows => max_rows.min(all_rows),
    };
    CacheSize {
        prompts: prompts.min(rows).min(2 * rows.div_ceil(config.group_size)),
        prompt_len: longest_prompt,
        rows,
        capacity: config.max_new_tokens,
    }
}

/// A generation under way.
struct Batch<'a, 'o> {
    processor: &'a Processor,
    prompts: &'a [&'a Prompt],
    seeds: &'a [QuestionSeed],
    config: &'a SamplingConfig,
    observer: &'a mut Observer<'o>,
    sampler: Sampler,
    decoding: Decoding<'a>,
    /// First prompt that has not gone through the model yet.
    pending: usize,
    /// Rows that have their first token and no place in the batch yet.
    waiting: VecDeque<CompletionState>,
    /// Rows of the batch, in its order.
    running: Vec<CompletionState>,
    ended: Vec<CompletionState>,
    /// Rows of each prompt that have not ended.
    open: Vec<usize>,
}

impl Batch<'_, '_> {
    /// Gives every free place to a row, prefilling prompts as they are needed; false when nothing is left to do.
    fn fill(&mut self) -> Result<bool, GenerateError> {
        loop {
            while self.decoding.free_rows() > 0
                && let Some(row) = self.waiting.pop_front()
            {
                self.decoding.join(row.prefilled)?;
                self.running.push(row);
            }
            let wanted = self.decoding.free_rows().div_ceil(self.config.group_size);
            let most = wanted.min(self.decoding.free_prompts());
            if most == 0 || self.pending == self.prompts.len() {
                return Ok(!self.running.is_empty());
            }
            self.prefill(self.next_prompts(most))?;
        }
    }

    /// The next prompts, `most` at most, that go through the model together.
    fn next_prompts(&self, most: usize) -> Range<usize> {
        let mut tokens = 0;
        let prompts = self.prompts[self.pending..].iter().take(most);
        let count = prompts
            .take_while(|prompt| {
                tokens += prompt.token_ids.len();
                tokens <= PREFILL_TOKENS
            })
            .count();
        // One that is longer by itself goes alone.
        self.pending..self.pending + count.max(1)
    }

    /// Runs prompts through the model and draws the first token of all their rows.
    fn prefill(&mut self, which: Range<usize>) -> Result<(), GenerateError> {
        self.pending = which.end;
        let groups: Vec<PackedGroup> = self.prompts[which.clone()]
            .iter()
            .map(|prompt| PackedGroup::of_completions(prompt, []))
            .collect();
        let inputs = PackedInputs::new(self.decoding.spec(), &groups)?;
        let (prefilled, logits) = self.decoding.prefill(&inputs)?;
        let size = self.config.group_size;
        let mut rows: Vec<CompletionState> = which
            .zip(&prefilled)
            .flat_map(|(prompt, &prefilled)| {
                let seed = self.seeds[prompt];
                (0..size).map(move |completion| CompletionState {
                    prompt,
                    completion,
                    seed: seed.completion(completion),
                    prefilled,
                    token_ids: Vec::new(),
                    logprobs: Vec::new(),
                    finish: None,
                })
            })
            .collect();
        let source: Vec<u32> = (0..rows.len()).map(|index| (index / size) as u32).collect();
        let source = Tensor::new(source, logits.device())?;
        self.draw(&mut rows, &logits.index_select(&source, 0)?)?;
        let rows = self.set_ended_aside(rows)?;
        self.waiting.extend(rows);
        Ok(())
    }

    /// The next tokens of every row of the batch.
    fn step(&mut self) -> Result<(), GenerateError> {
        let mut rows = std::mem::take(&mut self.running);
        if self.config.repetition_penalty_in_force().is_some() {
            let last = rows.iter().filter_map(CompletionState::pending);
            let logits = self
                .decoding
                .step(&last.map(|row| row.token).collect::<Vec<_>>())?;
            self.draw(&mut rows, &logits)?;
            return self.keep_going(rows);
        }
        let pending: Vec<Pending> = rows.iter().filter_map(CompletionState::pending).collect();
        let left = rows
            .iter()
            .map(|row| self.config.max_new_tokens - row.token_ids.len());
        let most = left.max().unwrap_or(1);
        for draws in self.decoding.draw(&pending, &self.sampler, most)? {
            self.take(&mut rows, draws)?;
        }
        self.keep_going(rows)
    }

    /// The rows that have not ended are the batch's.
    fn keep_going(&mut self, rows: Vec<CompletionState>) -> Result<(), GenerateError> {
        let going: Vec<usize> = (0..rows.len())
            .filter(|&index| rows[index].finish.is_none())
            .collect();
        self.decoding.keep_rows(&going);
        self.running = self.set_ended_aside(rows)?;
        Ok(())
    }

    /// Draws the next token of each of `rows` from its row of `logits`.
    fn draw(&mut self, rows: &mut [CompletionState], logits: &Tensor) -> Result<(), GenerateError> {
        let seeds: Vec<CompletionSeed> = rows.iter().map(|row| row.seed).collect();
        let positions: Vec<usize> = rows.iter().map(|row| row.token_ids.len()).collect();
        let logits = match self.config.repetition_penalty_in_force() {
            Some(penalty) => {
                let told = rows.iter().map(|row| {
                    let prompt = self.prompts[row.prompt].token_ids.iter();
                    prompt.chain(&row.token_ids).copied().collect()
                });
                &repeated_less(logits, &told.collect::<Vec<_>>(), penalty)?
            }
            None => logits,
        };
        let draws = self
            .sampler
            .draw_rows(self.decoding.ops(), logits, &seeds, &positions)?;
        self.take(rows, draws)
    }

    /// Appends to each of `rows` that has not ended what it drew.
    fn take(
        &mut self,
        rows: &mut [CompletionState],
        draws: Vec<Draw>,
    ) -> Result<(), GenerateError> {
        for (row, draw) in rows.iter_mut().zip(draws) {
            if row.finish.is_some() {
                continue;
            }
            let eos_ids = self.processor.eos_ids();
            let drawn = row.push(draw, eos_ids, self.config.max_new_tokens);
            if (self.observer)(drawn).is_break() {
                return Err(GenerateError::Interrupted);
            }
        }
        Ok(())
    }

    /// The rows that go on. With its last row a prompt leaves the cache.
    fn set_ended_aside(
        &mut self,
        rows: Vec<CompletionState>,
    ) -> Result<Vec<CompletionState>, GenerateError> {
        let (ended, going): (Vec<CompletionState>, Vec<CompletionState>) =
            rows.into_iter().partition(|row| row.finish.is_some());
        for row in ended {
            self.open[row.prompt] -= 1;
            if self.open[row.prompt] == 0 {
                self.decoding.release(row.prefilled)?;
            }
            self.ended.push(row);
        }
        Ok(going)
    }

    fn completions(mut self) -> Result<Vec<Vec<Completion>>, GenerateError> {
        self.ended.sort_by_key(|row| (row.prompt, row.completion));
        let mut completions: Vec<Vec<Completion>> = vec![Vec::new(); self.prompts.len()];
        for row in self.ended {
            completions[row.prompt].push(Completion {
                text: self.prompts[row.prompt].begun.clone()
                    + &self.processor.decode(&row.token_ids)?,
                token_ids: row.token_ids,
                finish: row.finish.unwrap_or(Finish::Length),
                logprobs: row.logprobs,
            });
        }
        Ok(completions)
    }
}

/// `logits` `[B, V]` after a repetition penalty on the ids that each row has been told or has written (`told`), each once: as
/// transformers' `RepetitionPenaltyLogitsProcessor`.
fn repeated_less(
    logits: &Tensor,
    told: &[BTreeSet<u32>],
    penalty: f64,
) -> candle_core::Result<Tensor> {
    let vocabulary = logits.dim(1)?;
    let mut values: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let penalty = penalty as f32;
    for (row, told) in values.chunks_exact_mut(vocabulary).zip(told) {
        for &id in told {
            if let Some(logit) = row.get_mut(id as usize) {
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }
    Tensor::from_vec(values, logits.shape(), logits.device())
}

impl CompletionState {
    /// What its next draw needs.
    fn pending(&self) -> Option<Pending> {
        self.token_ids.last().map(|&token| Pending {
            token,
            seed: self.seed,
            index: self.token_ids.len(),
        })
    }

    fn push(&mut self, draw: Draw, eos_ids: &[u32], max_new_tokens: usize) -> NewToken {
        self.token_ids.push(draw.id);
        self.logprobs.push(draw.logprob);
        if eos_ids.contains(&draw.id) {
            self.finish = Some(Finish::Stop);
        } else if self.token_ids.len() == max_new_tokens {
            self.finish = Some(Finish::Length);
        }
        NewToken {
            prompt: self.prompt,
            completion: self.completion,
            id: draw.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Values of transformers 5.24's `RepetitionPenaltyLogitsProcessor(1.2)` on the ids [1, 3, 3] and [0].
    #[test]
    fn repetition_is_penalised_once_for_each_token() {
        let rows = [[1.5f32, -0.5, 0.0, 2.4], [1.5, -0.5, 0.0, 2.4]];
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        let told = [BTreeSet::from([1, 3]), BTreeSet::from([0])];
        let got = repeated_less(&logits, &told, 1.2).unwrap();
        let wanted = [[1.5, -0.6, 0.0, 2.0], [1.25, -0.5, 0.0, 2.4]];
        for (got, wanted) in got.to_vec2::<f32>().unwrap().into_iter().zip(wanted) {
            for (got, wanted) in got.into_iter().zip(wanted) {
                assert!((f64::from(got) - wanted).abs() < 1e-6, "{got} {wanted}");
            }
        }
    }
}
