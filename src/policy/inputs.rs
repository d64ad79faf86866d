//! Prompts and what follows them, packed into the rows of one tensor: what a training, scoring or warm-start pass reads.
//!
//! A group is a shared prefix (a prompt with its clip) and its suffixes: completions in reinforcement learning,
//! question and worked answer in a supervised step. A suffix's last token is only predicted, never read, so it takes
//! no row.

use crate::model::packed::GroupLayout;
use crate::model::packed::PackedLayout;
use crate::model::positions::{PositionError, Positions, VideoSpan, prompt_positions};
use crate::model::spec::Spec;
use crate::prompt::Prompt;
use crate::video::VideoPatches;
use std::ops::Range;
use std::sync::Arc;

/// A shared prefix and what follows it.
#[derive(Debug, Clone)]
pub struct PackedGroup<'a> {
    /// Token ids every suffix continues, one `<|video_pad|>` per video token.
    pub prefix: &'a [u32],
    /// The clip behind the placeholders, if there are any.
    pub video: Option<&'a Arc<VideoPatches>>,
    /// The continuations.
    pub suffixes: Vec<Suffix<'a>>,
}

/// One continuation of a prefix.
#[derive(Debug, Clone, Copy)]
pub struct Suffix<'a> {
    /// All that follows the prefix.
    pub token_ids: &'a [u32],
    /// Tokens from here on are targets; those before are only read (a question before its answer).
    pub first_target: usize,
}

impl<'a> PackedGroup<'a> {
    /// A prompt and completions of which every token is a target.
    pub fn of_completions(
        prompt: &'a Prompt,
        completions: impl IntoIterator<Item = &'a [u32]>,
    ) -> Self {
        Self {
            prefix: &prompt.token_ids,
            video: prompt.video.as_ref(),
            suffixes: completions
                .into_iter()
                .map(|token_ids| Suffix {
                    token_ids,
                    first_target: 0,
                })
                .collect(),
        }
    }
}

/// The rows of one pass, and which of them predict what.
#[derive(Debug, Clone)]
pub struct PackedInputs {
    /// Token id of each row (N).
    pub token_ids: Vec<u32>,
    /// Position of each row.
    pub positions: Positions,
    /// Position of the token behind each group's prefix.
    pub(crate) next_positions: Vec<u32>,
    /// Which rows belong together.
    pub layout: PackedLayout,
    /// The clips, in the order of their rows.
    pub(crate) videos: Vec<Arc<VideoPatches>>,
    /// Rows that stand for video tokens, in order.
    pub video_rows: Vec<u32>,
    /// Row whose output predicts each target (R).
    pub target_rows: Vec<u32>,
    /// Token each target row is to predict.
    pub target_ids: Vec<u32>,
    /// Targets of each suffix, group by group, as ranges into `target_rows`.
    pub suffix_targets: Vec<Vec<Range<usize>>>,
}

impl PackedInputs {
    /// Packs `groups` for the model that `spec` describes.
    pub fn new(spec: &Spec, groups: &[PackedGroup]) -> Result<Self, PositionError> {
        let mut packed = Self {
            token_ids: Vec::new(),
            positions: Positions::default(),
            next_positions: Vec::new(),
            layout: PackedLayout::default(),
            videos: Vec::new(),
            video_rows: Vec::new(),
            target_rows: Vec::new(),
            target_ids: Vec::new(),
            suffix_targets: Vec::new(),
        };
        for group in groups {
            packed.push_group(spec, group)?;
        }
        Ok(packed)
    }

    /// All rows (N).
    pub fn num_rows(&self) -> usize {
        self.token_ids.len()
    }

    /// All targets (R).
    pub fn num_targets(&self) -> usize {
        self.target_rows.len()
    }

    /// Slices of a per-target vector, one per suffix of every group.
    pub(crate) fn per_suffix<'a, T>(&self, values: &'a [T]) -> Vec<Vec<&'a [T]>> {
        self.suffix_targets
            .iter()
            .map(|group| group.iter().map(|range| &values[range.clone()]).collect())
            .collect()
    }

    /// Adds targets beside those of the suffixes: `row` is to predict `token_id`. They stand behind all others, in
    /// no range of [`Self::suffix_targets`].
    pub(crate) fn push_target(&mut self, row: u32, token_id: u32) {
        self.target_rows.push(row);
        self.target_ids.push(token_id);
    }

    fn push_group(&mut self, spec: &Spec, group: &PackedGroup) -> Result<(), PositionError> {
        let spans: Vec<VideoSpan> = group.video.iter().map(|video| (&***video).into()).collect();
        let (positions, next) = prompt_positions(spec, group.prefix, &spans)?;
        let start = self.token_ids.len();
        self.video_rows.extend(
            (start..)
                .zip(group.prefix)
                .filter(|&(_, &id)| id == spec.tokens.video_pad)
                .map(|(row, _)| row as u32),
        );
        self.token_ids.extend_from_slice(group.prefix);
        self.positions.extend(&positions);
        self.next_positions.push(next);
        self.videos.extend(group.video.cloned());

        let last_of_prefix = self.token_ids.len() - 1;
        let mut completion_lens = Vec::with_capacity(group.suffixes.len());
        let mut ranges = Vec::with_capacity(group.suffixes.len());
        for suffix in &group.suffixes {
            let first_row = self.token_ids.len();
            let read = suffix.token_ids.len().saturating_sub(1);
            let first_target = self.target_rows.len();
            for (token, &id) in suffix
                .token_ids
                .iter()
                .enumerate()
                .skip(suffix.first_target)
            {
                let row = match token {
                    0 => last_of_prefix,
                    _ => first_row + token - 1,
                };
                self.target_rows.push(row as u32);
                self.target_ids.push(id);
            }
            ranges.push(first_target..self.target_rows.len());
            self.token_ids.extend_from_slice(&suffix.token_ids[..read]);
            self.positions.extend(&Positions::text(next, read));
            completion_lens.push(read);
        }
        self.suffix_targets.push(ranges);
        self.layout.push(GroupLayout {
            prompt_len: group.prefix.len(),
            completion_lens,
        });
        Ok(())
    }
}
