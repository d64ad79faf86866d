//! Floating-point operations that a pass needs, from sizes alone.

use crate::model::packed::GroupLayout;
use crate::model::spec::{Spec, TextSpec, VisionSpec};
use crate::policy::inputs::PackedInputs;

/// Operations of a forward pass; a multiplication and an addition are two.
///
/// Matrix products only, of the rows that are there: a group's prompt counts once. Attention counts the pairs that see
/// each other, not the ones a kernel computes and masks. Norms, rotations, activations and softmax are left out, as
/// is usual where a share of the peak (MFU) is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flops {
    /// The vision tower.
    pub vision: u64,
    /// The decoder's layers.
    pub layers: u64,
    /// The head, for the target rows.
    pub head: u64,
}

impl Flops {
    /// Of one forward pass over `inputs`.
    pub fn forward(spec: &Spec, inputs: &PackedInputs) -> Self {
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
        Self {
            vision: grids.map(|grid| vision(&spec.vision, grid)).sum(),
            layers: layers(&spec.text, groups),
            head: products(targets, spec.text.vocab_size * spec.text.hidden_size),
        }
    }

    /// The sum.
    pub fn total(self) -> u64 {
        self.vision + self.layers + self.head
    }

    /// Of learning from the pass: each product has two in its backward pass. Computing layers again, a choice of the
    /// implementation, is not counted.
    pub fn learning(self, trains_vision: bool) -> u64 {
        let vision = if trains_vision { 3 } else { 1 };
        vision * self.vision + 3 * (self.layers + self.head)
    }
}

/// `rows` vectors through matrices of `weights` weights in all.
fn products(rows: usize, weights: usize) -> u64 {
    2 * rows as u64 * weights as u64
}

/// Scores and mixed values of `pairs` of positions, all heads.
fn attention(pairs: usize, width: usize) -> u64 {
    4 * pairs as u64 * width as u64
}

fn layers(text: &TextSpec, groups: &[GroupLayout]) -> u64 {
    let rows = groups.iter().map(GroupLayout::num_rows).sum();
    let (hidden, keys) = (text.hidden_size, text.num_kv_heads * text.head_dim());
    let weights = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * text.intermediate_size;
    let causal = |len: usize| len * (len + 1) / 2;
    let pairs: usize = groups
        .iter()
        .map(|group| {
            let own = group.completion_lens.iter();
            let own = own.map(|&len| len * group.prompt_len + causal(len));
            causal(group.prompt_len) + own.sum::<usize>()
        })
        .sum();
    text.num_layers as u64 * (products(rows, weights) + attention(pairs, hidden))
}

fn vision(vision: &VisionSpec, [t, h, w]: [usize; 3]) -> u64 {
    let (patches, width) = (t * h * w, vision.hidden_size);
    let weights = 4 * width * width + 3 * width * vision.intermediate_size;
    let side = vision.window_size / vision.patch_size;
    // Windows tile a frame; those at its right and lower edges are smaller.
    let squares = |len: usize| -> usize {
        let whole = (len / side) * side * side;
        whole + (len % side) * (len % side)
    };
    let (in_windows, in_frames) = (t * squares(h) * squares(w), t * (h * w) * (h * w));
    let full = vision.fullatt_block_indexes.len();
    let pairs = (vision.depth - full) * in_windows + full * in_frames;
    let merged = width * vision.merge_unit();
    products(patches, vision.patch_dim() * width + vision.depth * weights)
        + attention(pairs, width)
        + products(
            patches / vision.merge_unit(),
            merged * (merged + vision.out_hidden_size),
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
        three_billion(SpecialTokens {
            vision_start: 1,
            vision_end: 2,
            image_pad: 3,
            video_pad: 4,
            eos: vec![5],
            pad: 6,
        })
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
        let of = |grid| vision(&spec.vision, grid);
        // Four windows of 8 × 8 patches are four times one.
        assert_eq!(of([1, 16, 16]), 4 * of([1, 8, 8]));
        assert_eq!(of([3, 8, 8]), 3 * of([1, 8, 8]));
        // 10 × 8 patches: a window of 64 and one of 16.
        let pairs = |grid: [usize; 3]| {
            let linear = {
                let mut without = spec.vision.clone();
                without.window_size = 28;
                let patches = grid.iter().product::<usize>();
                vision(&without, grid) - attention(32 * patches * 4, 1280)
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
