//! Made-up questions of given lengths.

use crate::config::TextAfterVideo;
use crate::model::spec::Spec;
use crate::policy::inputs::{PackedGroup, PackedInputs};
use crate::prompt::{Processor, Prompt, PromptError};
use crate::video::VideoPatches;
use candle_core::Result;
use std::sync::Arc;

/// How much there is to do: questions about a clip each, and completions of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) questions: usize,
    /// Completions of each (G).
    pub(crate) group_size: usize,
    /// Temporal grids, patch rows and columns of a clip, the last two multiples of 2.
    pub(crate) grid_thw: [usize; 3],
    /// Tokens of a prompt beside its clip's.
    pub(crate) text_tokens: usize,
    /// Tokens of a completion.
    pub(crate) completion_tokens: usize,
}

impl Workload {
    /// Prompts of words that mean nothing, about clips of waves.
    pub(super) fn prompts(
        &self,
        processor: &Processor,
        spec: &Spec,
    ) -> std::result::Result<Vec<Prompt>, PromptError> {
        let words = processor.encode("What will happen without the red cube? ")?;
        let prompt = |question: usize| {
            let clip = self.clip(question);
            let tokens = &spec.tokens;
            let mut token_ids = vec![tokens.vision_start];
            token_ids.extend(std::iter::repeat_n(tokens.video_pad, clip.num_tokens()));
            token_ids.push(tokens.vision_end);
            let text = words.iter().cycle().skip(question);
            token_ids.extend(text.take(self.text_tokens.saturating_sub(2)));
            Prompt {
                text: String::new(),
                token_ids,
                video: Some(Arc::new(clip)),
                begun: String::new(),
            }
        };
        Ok((0..self.questions).map(prompt).collect())
    }

    fn clip(&self, question: usize) -> VideoPatches {
        let count = self.grid_thw.iter().product::<usize>() * VideoPatches::PATCH_DIM;
        let wave = |index: usize| (index as f32 * 0.01 + question as f32).sin();
        VideoPatches {
            values: (0..count).map(wave).collect(),
            grid_thw: self.grid_thw,
            second_per_grid: 1.0,
            text_after: TextAfterVideo::default(),
        }
    }

    /// The prompts with completions of ids from the whole vocabulary, every token a target.
    pub(super) fn packed(&self, spec: &Spec, prompts: &[Prompt]) -> Result<PackedInputs> {
        // Below the special tokens of every tokenizer that a vocabulary of this size belongs to.
        let ids = spec.text.vocab_size.min(spec.tokens.pad as usize).max(2);
        let completion = |row: usize| -> Vec<u32> {
            let token = |index: usize| ((row * 7919 + index * 104_729) % ids) as u32;
            (0..self.completion_tokens).map(token).collect()
        };
        let completions: Vec<Vec<u32>> = (0..prompts.len() * self.group_size)
            .map(completion)
            .collect();
        let groups: Vec<PackedGroup> = prompts
            .iter()
            .zip(completions.chunks(self.group_size))
            .map(|(prompt, group)| {
                PackedGroup::of_completions(prompt, group.iter().map(Vec::as_slice))
            })
            .collect();
        PackedInputs::new(spec, &groups).map_err(candle_core::Error::wrap)
    }
}
