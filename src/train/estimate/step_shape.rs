//! How much there is in a training step: what its memory depends on beside the model and the settings.

use super::F32;
use super::count;
use crate::config::Config;
use crate::config::SamplingConfig;
use crate::config::Verb;
use crate::config::VideoConfig;
use crate::model::cache::CacheSize;
use crate::policy::generate::cache_size;
use crate::policy::inputs::PackedInputs;
use crate::video::VideoPatches;
use std::num::Saturating;

/// What a step works on: the largest of the passes that run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepShape {
    /// Passes side by side.
    pub(crate) passes: usize,
    /// Packed rows (N).
    pub(crate) rows: usize,
    /// Target tokens (R).
    pub(crate) targets: usize,
    /// Patches of its clips.
    pub(crate) patches: usize,
    /// Patches of the largest frame.
    pub(crate) frame_patches: usize,
    /// Tokens of its prompts.
    pub(crate) prompt_tokens: usize,
    /// The key/value cache of its completions; `None` where nothing is sampled.
    pub(crate) cache: Option<CacheSize>,
    /// Bytes of the clips in the host's memory, those of later steps included.
    pub(crate) clips: u64,
}

impl StepShape {
    /// A step whose passes read `parts`, of completions that were sampled as `sampling` says.
    pub(crate) fn of(
        parts: &[&PackedInputs],
        sampling: Option<&SamplingConfig>,
        clips: u64,
    ) -> Self {
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
        let patches = frame_patches.saturating_mul(max_frames) / 2;
        let prompt = prompt_text.saturating_add(patches / 4);
        let prompt = prompt.min(config.sampling.max_prompt_tokens);
        let questions = config.train.questions_per_step;
        let passes = passes.min(questions);
        let per_pass = questions.div_ceil(passes);
        let (completions, len) = if verb.is_rl() {
            let sampling = &config.sampling;
            (sampling.group_size, sampling.max_new_tokens)
        } else {
            (1, answer)
        };
        let completions = per_pass.saturating_mul(completions);
        let targets = completions.saturating_mul(len);
        let prompts = per_pass.saturating_mul(prompt);
        let clip = count(patches) * count(VideoPatches::PATCH_DIM);
        let jobs = count(config.train.last_step()) * count(questions);
        let mib = |mib: usize| count(mib) * Saturating(1 << 20);
        let ahead = (jobs * clip * F32).min(mib(config.train.prefetch_mib));
        let kept = (jobs * clip).min(mib(config.data.cache_mib));
        Self {
            passes,
            // A completion's last token is a target that no row reads.
            rows: prompts.saturating_add(targets) - completions,
            targets,
            patches: per_pass.saturating_mul(patches),
            frame_patches,
            prompt_tokens: prompts,
            cache: verb
                .is_rl()
                .then(|| cache_size(per_pass, prompt, &config.sampling)),
            clips: (count(questions) * clip * F32 + ahead + kept).0,
        }
    }
}
