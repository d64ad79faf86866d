//! Floating-point operations that a pass needs, from sizes alone.

use super::Count;
use super::count;
use crate::model::packed::GroupLayout;
use crate::model::spec::{Spec, TextSpec, VisionSpec};
use crate::policy::inputs::PackedInputs;
use std::num::Saturating;
use std::ops::Add;

/// Operations of a forward pass; a multiplication and an addition are two.
///
/// Matrix products only, of the rows that are there: a group's prompt counts once. Attention counts the pairs that see
/// each other, not the ones a kernel computes and masks. Norms, rotations, activations and softmax are left out, as
/// is usual where a share of the peak (MFU) is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flops {
    /// The vision tower.
    pub(crate) vision: u64,
    /// The decoder's layers.
    pub(crate) layers: u64,
    /// The head, for the target rows.
    pub(crate) head: u64,
}

impl Flops {
    /// Of one forward pass over `inputs`.
    pub(crate) fn forward(spec: &Spec, inputs: &PackedInputs) -> Self {
        let grids = inputs.videos.iter().map(|video| video.grid_thw);
        Self::of(spec, grids, inputs.layout.groups(), inputs.num_targets())
    }

    /// As [`Self::forward`], of clips with these grids, groups of these lengths, and so many target rows.
    pub(super) fn of(
        spec: &Spec,
        grids: impl Iterator<Item = [usize; 3]>,
        groups: &[GroupLayout],
        targets: usize,
    ) -> Self {
        let weights = count(spec.text.vocab_size) * count(spec.text.hidden_size);
        Self {
            vision: grids
                .map(|grid| vision(&spec.vision, grid))
                .fold(Count::default(), Count::add)
                .0,
            layers: layers(&spec.text, groups).0,
            head: products(count(targets), weights).0,
        }
    }

    /// The sum.
    pub(crate) fn total(self) -> u64 {
        (Saturating(self.vision) + Saturating(self.layers) + Saturating(self.head)).0
    }

    /// Of learning from the pass: each product has two in its backward pass. Computing layers again, a choice of the
    /// implementation, is not counted.
    pub(crate) fn learning(self, trains_vision: bool) -> u64 {
        let vision = Saturating(if trains_vision { 3 } else { 1 }) * Saturating(self.vision);
        let decoder = Saturating(self.layers) + Saturating(self.head);
        (vision + Saturating(3) * decoder).0
    }
}

/// `rows` vectors through matrices of `weights` weights in all.
fn products(rows: Count, weights: Count) -> Count {
    Saturating(2) * rows * weights
}

/// Scores and mixed values of `pairs` of positions, all heads.
fn attention(pairs: Count, width: Count) -> Count {
    Saturating(4) * pairs * width
}

fn layers(text: &TextSpec, groups: &[GroupLayout]) -> Count {
    let (hidden, keys) = (text.hidden_size, text.num_kv_heads * text.head_dim());
    let weights = count(hidden) * count(2 * hidden + 2 * keys + 3 * text.intermediate_size);
    let causal = |len: Count| len * (len + Saturating(1)) / Saturating(2);
    let (mut rows, mut pairs) = (Count::default(), Count::default());
    for group in groups {
        let prompt = count(group.prompt_len);
        rows += prompt;
        pairs += causal(prompt);
        for len in group.completion_lens.iter().map(|&len| count(len)) {
            rows += len;
            pairs += len * prompt + causal(len);
        }
    }
    count(text.num_layers) * (products(rows, weights) + attention(pairs, count(hidden)))
}

fn vision(vision: &VisionSpec, [t, h, w]: [usize; 3]) -> Count {
    let [frames, h, w] = [t, h, w].map(count);
    let (patches, width) = (frames * h * w, count(vision.hidden_size));
    let block = width * count(4 * vision.hidden_size + 3 * vision.intermediate_size);
    let side = count(vision.window_size / vision.patch_size);
    // Windows tile a frame; those at its right and lower edges are smaller.
    let squares = |len: Count| len / side * side * side + (len % side) * (len % side);
    let in_windows = frames * squares(h) * squares(w);
    let in_frames = frames * (h * w) * (h * w);
    let full = vision.fullatt_block_indexes.len();
    let windowed = count(vision.depth.saturating_sub(full));
    let pairs = windowed * in_windows + count(full) * in_frames;
    let unit = count(vision.merge_unit());
    let merged = width * unit;
    let weights = count(vision.patch_dim()) * width + count(vision.depth) * block;
    products(patches, weights)
        + attention(pairs, width)
        + products(
            patches / unit,
            merged * (merged + count(vision.out_hidden_size)),
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextAfterVideo;
    use crate::model::random::three_billion;
    use crate::model::spec::SpecialTokens;
    use crate::policy::inputs::{PackedGroup, Suffix};
    use crate::video::VideoPatches;
    use std::sync::Arc;

    fn spec() -> Spec {
        three_billion(SpecialTokens::published())
    }

    fn inputs(spec: &Spec, prompt: usize, completions: &[Vec<u32>]) -> PackedInputs {
        let prefix = vec![9; prompt];
        let suffixes = completions.iter().map(|token_ids| Suffix {
            token_ids,
            first_target: 0,
        });
        let group = PackedGroup {
            prefix: &prefix,
            video: None,
            suffixes: suffixes.collect(),
        };
        PackedInputs::new(spec, &[group]).unwrap()
    }

    /// 2.775 billion weights in the decoder's linear layers, a multiplication and an addition each.
    #[test]
    fn a_row_costs_twice_the_linear_weights() {
        let spec = spec();
        let flops = Flops::forward(&spec, &inputs(&spec, 1, &[vec![7]]));
        let linear = 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11_008);
        assert_eq!(linear, 2_774_532_096);
        assert_eq!(flops.layers, 2 * linear + 36 * 4 * 2048);
        assert_eq!(flops.head, 2 * 151_936 * 2048);
        assert_eq!(flops.vision, 0);
        assert_eq!(flops.learning(true), 3 * flops.total());
    }

    #[test]
    fn a_shared_prompt_costs_once() {
        let spec = spec();
        let one = Flops::forward(&spec, &inputs(&spec, 1200, &[vec![7; 300]]));
        let eight = Flops::forward(&spec, &inputs(&spec, 1200, &vec![vec![7; 300]; 8]));
        // A group of 1,200 + 8 × 300 tokens: 22.6 TFLOP with its head (2,400 rows).
        let total = eight.total() as f64 / 1e12;
        assert!((total - 22.6).abs() < 0.3, "{total}");
        assert!(eight.layers < 3 * one.layers);
        assert_eq!(eight.head, 8 * one.head);
    }

    #[test]
    fn windows_at_the_edges_are_smaller() {
        let mut spec = spec();
        spec.vision.fullatt_block_indexes.clear();
        let of = |grid| vision(&spec.vision, grid).0;
        // Four windows of 8 × 8 patches are four times one.
        assert_eq!(of([1, 16, 16]), 4 * of([1, 8, 8]));
        assert_eq!(of([3, 8, 8]), 3 * of([1, 8, 8]));
        // 10 × 8 patches: a window of 64 and one of 16.
        let pairs = |grid: [usize; 3]| {
            let linear = {
                let mut without = spec.vision.clone();
                without.window_size = 28;
                let patches = grid.iter().product::<usize>();
                (vision(&without, grid) - attention(count(32 * patches * 4), count(1280))).0
            };
            (of(grid) - linear) / (4 * 1280 * 32)
        };
        assert_eq!(pairs([1, 10, 8]), 64 * 64 + 16 * 16);
        let clip = VideoPatches {
            values: Vec::new(),
            grid_thw: [1, 8, 8],
            second_per_grid: 1.0,
            text_after: TextAfterVideo::default(),
        };
        let mut with_clip = inputs(&spec, 4, &[vec![7]]);
        with_clip.videos.push(Arc::new(clip));
        assert_eq!(Flops::forward(&spec, &with_clip).vision, of([1, 8, 8]));
    }
}
