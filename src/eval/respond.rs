//! A model that answers: prompts made as its own files say, completions sampled or greedy.

use crate::config::BadVideoPolicy;
use crate::config::Config;
use crate::config::SamplingConfig;
use crate::config::Wording;
use crate::data::Question;
use crate::eval::Reply;
use crate::model::Qwen25Vl;
use crate::model::device;
use crate::policy::FrozenModel;
use crate::policy::generate::Completion;
use crate::policy::generate::Observer;
use crate::policy::generate::generate;
use crate::policy::generate::generate_side_by_side;
use crate::policy::sampler::QuestionSeed;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::video::Prefetcher;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;

/// A frozen model with its processor, and how it is asked.
#[derive(Debug)]
pub struct Respondent {
    model: FrozenModel,
    processor: Processor,
    sampling: SamplingConfig,
    seed: u64,
}

impl Respondent {
    /// Loads the model folder; one completion per prompt is sampled as `config.sampling` says, at `temperature`.
    pub fn load(folder: &Path, config: &Config, temperature: f64) -> Result<Self> {
        let device = device::device(&config.model)?;
        let sampling = SamplingConfig {
            group_size: 1,
            temperature,
            ..config.sampling.clone()
        };
        Ok(Self {
            processor: Processor::load(folder)?.with_max_prompt_tokens(sampling.max_prompt_tokens),
            model: FrozenModel::load(folder, device::dtype(&config.model), &device)?,
            sampling,
            seed: config.seed,
        })
    }

    /// The network.
    pub fn model(&self) -> &Qwen25Vl {
        self.model.model()
    }

    /// Chat template and tokenizer.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// One completion of the prompt, each token told to `observer`; `id` names the draws.
    pub fn answer(&self, prompt: &Prompt, id: &str, observer: &mut Observer) -> Result<Completion> {
        let seed = QuestionSeed::new(self.seed, 0, id);
        let (model, processor) = (self.model(), &self.processor);
        generate(
            model,
            processor,
            &[prompt],
            &[seed],
            &self.sampling,
            observer,
        )?
        .into_iter()
        .flatten()
        .next()
        .context("the model gave no completion")
    }

    /// One completion of each prompt; `ids` name the draws, so that an answer does not depend on what else is asked.
    fn answer_all(&self, prompts: &[&Prompt], ids: &[&str]) -> Result<Vec<Completion>> {
        let seeds: Vec<QuestionSeed> = ids
            .iter()
            .map(|id| QuestionSeed::new(self.seed, 0, id))
            .collect();
        let (model, processor) = (self.model(), &self.processor);
        let groups = generate_side_by_side(model, processor, prompts, &seeds, &self.sampling)?;
        Ok(groups.into_iter().flatten().collect())
    }

    /// Replies to a batch of questions, whose clips are the next ones of `clips`; `None` for a clip that is skipped.
    pub fn answer_batch(
        &self,
        batch: &[Question],
        clips: &mut Prefetcher,
        wording: Wording,
        on_bad_video: BadVideoPolicy,
    ) -> Result<Vec<Option<Reply>>> {
        let mut asked: Vec<(usize, Prompt)> = Vec::with_capacity(batch.len());
        for (index, question) in batch.iter().enumerate() {
            if let Some(video) = next_clip(question, clips, on_bad_video)? {
                let prompt = self
                    .processor
                    .prompt(&question.text(), wording, Some(video))
                    .with_context(|| format!("question {}", question.id))?;
                asked.push((index, prompt));
            }
        }
        let prompts: Vec<&Prompt> = asked.iter().map(|(_, prompt)| prompt).collect();
        let ids: Vec<&str> = asked
            .iter()
            .map(|(index, _)| batch[*index].id.as_str())
            .collect();
        let completions = self.answer_all(&prompts, &ids)?;
        let mut replies = vec![None; batch.len()];
        for ((index, _), completion) in asked.iter().zip(completions) {
            replies[*index] = Some(Reply {
                text: completion.text,
                finish: completion.finish,
                tokens: completion.token_ids.len(),
            });
        }
        Ok(replies)
    }
}

/// The question's clip, or `None` when it cannot be used and is to be skipped.
fn next_clip(
    question: &Question,
    clips: &mut Prefetcher,
    on_bad_video: BadVideoPolicy,
) -> Result<Option<Arc<VideoPatches>>> {
    let loaded = clips
        .next()
        .context("a clip was asked for that is not in the list")?;
    match (loaded, on_bad_video) {
        (Ok((_, video)), _) => Ok(Some(video)),
        (Err(error), BadVideoPolicy::Skip) => {
            tracing::warn!("question {} is skipped: {error}", question.id);
            Ok(None)
        }
        (Err(error), BadVideoPolicy::Error) => {
            Err(error).with_context(|| format!("question {}", question.id))
        }
    }
}
