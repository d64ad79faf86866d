//! `[video]`: which frames a clip contributes, at what size, and where they stand in time.

use serde::{Deserialize, Serialize};

/// `[video]`: which frames a clip contributes and at what size (qwen-vl-utils' rules).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoConfig {
    /// Frames sampled per second of video.
    pub fps: f64,
    /// Where in the clip the frames stand.
    pub positions: FramePositions,
    /// At least this many frames (even).
    pub min_frames: usize,
    /// At most this many frames (even).
    pub max_frames: usize,
    /// At least this many pixels per frame after resizing (128 × 28 × 28).
    pub min_pixels: usize,
    /// At most this many pixels per frame after resizing (196 × 28 × 28).
    pub max_pixels: usize,
    /// Where the positions of text go on after a clip.
    pub text_after: TextAfterVideo,
    /// What the model is told of the time between two pairs of frames.
    pub seconds_per_grid: SecondsPerGrid,
}

/// Where the frames that are taken from a clip stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FramePositions {
    /// Evenly from the first frame to the last (qwen-vl-utils).
    #[default]
    Ends,
    /// In the middle of as many equal segments (MVBench's own evaluator).
    Segments,
}

impl Default for VideoConfig {
    fn default() -> Self {
        Self {
            fps: 2.0,
            positions: FramePositions::Ends,
            min_frames: 4,
            max_frames: 16,
            min_pixels: 128 * 28 * 28,
            max_pixels: 196 * 28 * 28,
            text_after: TextAfterVideo::default(),
            seconds_per_grid: SecondsPerGrid::default(),
        }
    }
}

/// Where text goes on after a clip of `t` grids of `h × w` merged tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextAfterVideo {
    /// One past the clip's largest position, time included: Qwen2.5-VL's own code, transformers 4.49 to 4.57
    /// (the authors' runs) and vLLM.
    #[default]
    Largest,
    /// At the clip's start + max(h, w), whatever its duration: transformers 5. For numbers to compare with its own; it
    /// differs only for clips longer in time than in space (more than 8 s at 2 positions a second and 17 columns), whose
    /// last frames then stand at positions that the question has too.
    Spatial,
}

/// Seconds between two temporal grids (frame pairs), as the positions of a clip have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecondsPerGrid {
    /// 2 / the frames really taken per second, as Qwen2.5-VL is meant to be used.
    #[default]
    Sampled,
    /// 1, whatever was taken. The authors' trainer gives the processor no frame rate, which then takes its default of 2
    /// (2 / 2 s), and leaves the time out of the log-probability pass, where the default is 1 s. Their evaluation is
    /// `sampled`.
    Authors,
}
