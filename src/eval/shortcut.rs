//! Questions asked without what they are about: without their clip, or without the order of its frames. Where the answer is
//! right all the same, a shortcut works, and the question is observational.

use super::error::EvalError;
use super::prediction::BatchReplies;
use super::prompt_format::PromptFormat;
use super::responder::Responder;
use super::responder::sample;
use super::settings::Settings;
use crate::config::BadVideoPolicy;
use crate::config::Config;
use crate::data::Question;
use crate::data::shuffle::permutation;
use crate::prompt::Prompt;
use crate::util::hash::Fnv;
use crate::video;
use crate::video::Frames;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// What a question is asked without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Without {
    /// Its clip.
    Clip,
    /// The order of its clip's frames.
    Order,
}

impl Without {
    /// How questions are asked, in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Clip => "asked without the clip",
            Self::Order => "asked with the clip's frames shuffled",
        }
    }
}

/// A model that is asked so.
#[derive(Debug)]
pub(crate) struct BlindAsker<'a> {
    config: &'a Config,
    without: Without,
    format: PromptFormat,
    /// The clip shown last: questions about one clip stand together.
    shown: Option<(PathBuf, Arc<VideoPatches>)>,
}

impl<'a> BlindAsker<'a> {
    /// As `[eval]`, `[video]` and `seed` say.
    pub(crate) fn new(config: &'a Config, without: Without) -> Result<Self, EvalError> {
        Ok(Self {
            config,
            without,
            format: PromptFormat::new(&config.eval)?,
            shown: None,
        })
    }

    /// Under which conditions the questions are asked.
    pub(crate) fn settings(
        &self,
        model: &str,
        model_dir: &Path,
        questions: &[Question],
    ) -> Result<Settings, EvalError> {
        Ok(Settings {
            subset: format!("all, {}", self.without.words()),
            ..Settings::of(self.config, model, model_dir, questions)?
        })
    }

    /// Replies to a batch of questions; `None` where a clip cannot be used and is skipped.
    pub(crate) fn answer(
        &mut self,
        responder: &Responder,
        batch: &[&Question],
    ) -> Result<BatchReplies> {
        let mut asked: Vec<(usize, Prompt)> = Vec::with_capacity(batch.len());
        let mut read_with = Vec::with_capacity(batch.len());
        for (index, question) in batch.iter().enumerate() {
            let name = || format!("question {}", question.id);
            let video = match self.without {
                Without::Clip => None,
                Without::Order => match (self.clip(question), self.config.data.on_bad_video) {
                    (Ok(clip), _) => Some(clip),
                    (Err(error), BadVideoPolicy::Skip) => {
                        tracing::warn!("{} is skipped: {error}", name());
                        continue;
                    }
                    (Err(error), BadVideoPolicy::Error) => return Err(error).with_context(name),
                },
            };
            let formatted = self.format.apply(question, None);
            let prompt = responder.processor().prompt_of(&formatted.turn, video);
            asked.push((index, prompt.with_context(name)?));
            read_with.push(formatted.read_with);
        }
        let prompts: Vec<&Prompt> = asked.iter().map(|(_, prompt)| prompt).collect();
        let ids: Vec<&str> = asked
            .iter()
            .map(|(index, _)| batch[*index].id.as_str())
            .collect();
        let completions = responder.complete(&prompts, &ids)?;
        let mut replies = vec![None; batch.len()];
        for (((index, _), group), read_with) in asked.iter().zip(completions).zip(read_with) {
            let samples = group.iter().map(|completion| sample(completion, read_with));
            replies[*index] = Some(samples.collect());
        }
        Ok(replies)
    }

    /// The question's clip, its frames in another order.
    fn clip(&mut self, question: &Question) -> Result<Arc<VideoPatches>> {
        let path = &question.video;
        if let Some((known, patches)) = &self.shown
            && known == path
        {
            return Ok(Arc::clone(patches));
        }
        let (_, mut frames) = video::load(path, &self.config.video)?;
        // Wherever the clips lie, they are shuffled alike.
        let name = path.file_name().map_or(&[][..], OsStr::as_encoded_bytes);
        shuffle(&mut frames, self.config.seed, name);
        let patches = Arc::new(frames.patches());
        self.shown = Some((path.clone(), Arc::clone(&patches)));
        Ok(patches)
    }
}

/// Puts frames into another order than theirs.
fn shuffle(frames: &mut Frames, seed: u64, name: &[u8]) {
    let count = frames.shape[0];
    let mut order = permutation(&[seed, Fnv::of(name).value()], count);
    if order.is_sorted() {
        order.rotate_left(1.min(count));
    }
    let size = frames.values.len() / count.max(1);
    let values = order
        .into_iter()
        .flat_map(|index| &frames.values[index * size..(index + 1) * size]);
    frames.values = values.copied().collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextAfterVideo;

    #[test]
    fn frames_come_in_another_order_and_always_the_same() {
        let frames = |count: usize| Frames {
            values: (0..count as u8).flat_map(|frame| [frame; 3]).collect(),
            shape: [count, 3, 1, 1],
            second_per_grid: 1.0,
            text_after: TextAfterVideo::Largest,
        };
        let shuffled = |count: usize, seed: u64| {
            let mut frames = frames(count);
            shuffle(&mut frames, seed, b"clip.mp4");
            frames.values
        };
        for seed in 0..20 {
            for count in [2, 3, 8] {
                let values = shuffled(count, seed);
                assert_ne!(values, frames(count).values, "{count} frames, seed {seed}");
                assert_eq!(values, shuffled(count, seed));
                let mut sorted = values.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, frames(count).values);
                assert!(values.chunks(3).all(|frame| frame == [frame[0]; 3]));
            }
        }
        assert_ne!(shuffled(8, 1), shuffled(8, 2));
        assert_eq!(shuffled(1, 1), [0, 0, 0]);
    }
}
