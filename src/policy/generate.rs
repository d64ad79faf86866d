//! Completions: one prefill per question, then all questions' completions decode together as rows of one batch.
//!
//! A row leaves the batch when it ends. Which token a row draws depends on its own logits and its own seed only.

use crate::config::SamplingConfig;
use crate::model::Qwen25Vl;
use crate::model::positions::PositionError;
use crate::policy::decode::Decoding;
use crate::policy::inputs::PackedGroup;
use crate::policy::inputs::PackedInputs;
use crate::policy::sampler::CompletionSeed;
use crate::policy::sampler::Draw;
use crate::policy::sampler::QuestionSeed;
use crate::policy::sampler::Sampler;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::prompt::PromptError;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

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
    /// The text of `token_ids` without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The sampler's log-probability of each token (see [`Draw::logprob`]); empty where the text was given and not
    /// sampled.
    pub logprobs: Vec<f32>,
}

impl Completion {
    /// A completion somebody else wrote: `text`, ended by the end-of-turn token when `finish` is `Stop`.
    pub fn given(processor: &Processor, text: &str, finish: Finish) -> Result<Self, PromptError> {
        let mut token_ids = processor.encode(text)?;
        if finish == Finish::Stop {
            token_ids.push(processor.end_of_turn());
        }
        Ok(Self {
            token_ids,
            text: text.to_owned(),
            finish,
            logprobs: Vec::new(),
        })
    }
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
    /// Which prompt.
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
struct Row {
    prompt: usize,
    completion: usize,
    seed: CompletionSeed,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
    finish: Option<Finish>,
}

/// `config.group_size` completions of each prompt; `seeds[i]` names the draws of `prompts[i]`.
///
/// `model` should be a detached view of the policy: nothing here needs a graph.
pub fn generate(
    model: &Qwen25Vl,
    processor: &Processor,
    prompts: &[&Prompt],
    seeds: &[QuestionSeed],
    config: &SamplingConfig,
    observer: &mut Observer,
) -> Result<Vec<Vec<Completion>>, GenerateError> {
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let groups: Vec<PackedGroup> = prompts
        .iter()
        .map(|prompt| PackedGroup::of_completions(prompt, []))
        .collect();
    let inputs = PackedInputs::new(&model.spec, &groups)?;
    let rows_per_prompt = vec![config.group_size; prompts.len()];
    let (mut decoding, mut logits) =
        Decoding::start(model, &inputs, &rows_per_prompt, config.max_new_tokens)?;
    let sampler = Sampler::new(config, processor.banned_ids());
    let mut rows = new_rows(seeds, config.group_size);
    let mut running: Vec<usize> = (0..rows.len()).collect();
    for position in 0..config.max_new_tokens {
        let row_seeds: Vec<CompletionSeed> = running.iter().map(|&row| rows[row].seed).collect();
        let draws = sampler.draw_rows(&logits, &row_seeds, &vec![position; running.len()])?;
        for (&row, draw) in running.iter().zip(&draws) {
            let drawn = rows[row].push(*draw, processor.eos_ids(), config.max_new_tokens);
            if observer(drawn).is_break() {
                return Err(GenerateError::Interrupted);
            }
        }
        let going: Vec<usize> = (0..running.len())
            .filter(|&slot| rows[running[slot]].finish.is_none())
            .collect();
        if going.is_empty() {
            break;
        }
        decoding.keep_rows(&going)?;
        running = going.iter().map(|&slot| running[slot]).collect();
        let tokens: Vec<u32> = going.iter().map(|&slot| draws[slot].id).collect();
        logits = decoding.step(&tokens)?;
    }
    collect(processor, rows, prompts.len())
}

fn new_rows(seeds: &[QuestionSeed], group_size: usize) -> Vec<Row> {
    let named = seeds.iter().enumerate();
    named
        .flat_map(|(prompt, seed)| {
            (0..group_size).map(move |completion| Row {
                prompt,
                completion,
                seed: seed.completion(completion),
                token_ids: Vec::new(),
                logprobs: Vec::new(),
                finish: None,
            })
        })
        .collect()
}

impl Row {
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

fn collect(
    processor: &Processor,
    rows: Vec<Row>,
    prompts: usize,
) -> Result<Vec<Vec<Completion>>, GenerateError> {
    let mut completions: Vec<Vec<Completion>> = vec![Vec::new(); prompts];
    for row in rows {
        completions[row.prompt].push(Completion {
            text: processor.decode(&row.token_ids)?,
            token_ids: row.token_ids,
            finish: row.finish.unwrap_or(Finish::Length),
            logprobs: row.logprobs,
        });
    }
    Ok(completions)
}
