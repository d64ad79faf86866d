//! Frames → the model's visual input: normalised patches in the order of transformers' `Qwen2VLVideoProcessor`.

use crate::config::TextAfterVideo;
use crate::video::Frames;
use crate::video::plan::{MERGE, PATCH, TEMPORAL_PATCH};

/// Mean of each channel on a 0..1 scale (CLIP).
pub(crate) const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of each channel on a 0..1 scale (CLIP).
pub(crate) const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The visual input of the model: normalised patches and their grid.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoPatches {
    /// Row-major `[t·h·w, 1176]`, rows in the processor's order (merge blocks of 2 × 2 together).
    pub values: Vec<f32>,
    /// Temporal grids, patch rows, patch columns `[t, h, w]`.
    pub grid_thw: [usize; 3],
    /// Seconds between temporal grids, as `video.seconds_per_grid` says.
    pub second_per_grid: f64,
    /// Where the positions of the text behind the clip go on (`video.text_after`). It travels with the clip, so that
    /// every pass over a prompt (sampling, bias model, learning, scoring) has the same positions.
    pub text_after: TextAfterVideo,
}

impl VideoPatches {
    /// Values per patch: 3 channels × 2 frames × 14 × 14 pixels.
    pub const PATCH_DIM: usize = 3 * TEMPORAL_PATCH * PATCH * PATCH;

    /// Tokens after the 2 × 2 merge.
    pub fn num_tokens(&self) -> usize {
        self.grid_thw.iter().product::<usize>() / (MERGE * MERGE)
    }
}

impl Frames {
    /// Temporal grids, patch rows and patch columns of these frames; the last frame of an odd count counts twice.
    pub(crate) fn grid_thw(&self) -> [usize; 3] {
        let [count, _, height, width] = self.shape;
        [
            count.div_ceil(TEMPORAL_PATCH),
            height / PATCH,
            width / PATCH,
        ]
    }

    /// Normalises and cuts into patches.
    ///
    /// Rows go over (t, block row, block column, row in block, column in block), values of a row over
    /// (channel, frame of the pair, y, x). An odd frame count repeats the last frame.
    pub fn patches(&self) -> VideoPatches {
        let grid_thw = self.grid_thw();
        let [grid_t, grid_h, grid_w] = grid_thw;
        let [count, channels, height, width] = self.shape;
        let tables = normalisation_tables();
        let mut values = Vec::with_capacity(grid_t * grid_h * grid_w * VideoPatches::PATCH_DIM);
        for t in 0..grid_t {
            for (row, column) in block_order(grid_h, grid_w) {
                for (channel, table) in tables.iter().enumerate() {
                    for pair in 0..TEMPORAL_PATCH {
                        let frame = (t * TEMPORAL_PATCH + pair).min(count - 1);
                        let plane = (frame * channels + channel) * height * width;
                        for y in row * PATCH..(row + 1) * PATCH {
                            let start = plane + y * width + column * PATCH;
                            let pixels = &self.values[start..start + PATCH];
                            values.extend(pixels.iter().map(|&p| table[usize::from(p)]));
                        }
                    }
                }
            }
        }
        VideoPatches {
            values,
            grid_thw,
            second_per_grid: self.second_per_grid,
            text_after: self.text_after,
        }
    }
}

/// Patch coordinates with the patches of a merge block next to each other.
fn block_order(grid_h: usize, grid_w: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..grid_h / MERGE).flat_map(move |block_row| {
        (0..grid_w / MERGE).flat_map(move |block_column| {
            (0..MERGE * MERGE).map(move |inner| {
                (
                    block_row * MERGE + inner / MERGE,
                    block_column * MERGE + inner % MERGE,
                )
            })
        })
    })
}

/// Normalised value of each byte, per channel. Mean and deviation are scaled to 0..255 first, as
/// transformers' fused rescale-and-normalise does, so that the f32 rounding is the same.
fn normalisation_tables() -> [[f32; 256]; 3] {
    std::array::from_fn(|channel| {
        let (mean, std) = (MEAN[channel] * 255.0, STD[channel] * 255.0);
        std::array::from_fn(|byte| (byte as f32 - mean) / std)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_blocks_stay_together() {
        let order: Vec<_> = block_order(2, 4).collect();
        let expected = [
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 1),
            (0, 2),
            (0, 3),
            (1, 2),
            (1, 3),
        ];
        assert_eq!(order, expected);
    }
}
