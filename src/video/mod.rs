//! A clip: which frames to take, at what size, and the model's visual input made from them.

/// The visual input of the model: normalised patches and their grid.
#[derive(Debug, Clone, PartialEq)]
pub struct VideoPatches {
    /// Row-major `[t·h·w, 1176]`, rows in the processor's order (merge blocks of 2 × 2 together).
    pub values: Vec<f32>,
    /// Temporal grids, patch rows, patch columns `[t, h, w]`.
    pub grid_thw: [usize; 3],
    /// Seconds between temporal grids: temporal_patch_size / sampled fps.
    pub second_per_grid: f64,
}

impl VideoPatches {
    /// Values per patch: 3 channels × 2 frames × 14 × 14 pixels.
    pub const PATCH_DIM: usize = 3 * 2 * 14 * 14;

    /// Tokens after the 2 × 2 merge.
    pub fn num_tokens(&self) -> usize {
        self.grid_thw.iter().product::<usize>() / 4
    }
}
