//! `[video]`: which frames a clip contributes, at what size, and where they stand in time.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

/// More than an hour at a frame a second; Qwen2.5-VL itself takes up to 768.
const MAX_FRAMES: usize = 4096;
/// Qwen2.5-VL's own limit: 16,384 tokens of 28 × 28 pixels.
const MAX_PIXELS: usize = 16_384 * 28 * 28;
const EVEN: &str = "must be even: two frames make one patch";

/// `[video]`: which frames a clip contributes and at what size (qwen-vl-utils' rules).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VideoConfig {
    /// Frames sampled per second of video; fewer or more where that is below `min_frames` or above `max_frames`.
    #[schemars(range(max = 1000.0), extend("exclusiveMinimum" = 0))]
    pub fps: f64,
    /// Where in the clip the frames stand.
    pub positions: FramePositions,
    /// At least this many frames (even).
    #[schemars(range(min = 2, max = MAX_FRAMES), extend("multipleOf" = 2, "errorMessage" = {"multipleOf": EVEN}))]
    pub min_frames: usize,
    /// At most this many frames (even).
    #[schemars(range(min = 2, max = MAX_FRAMES), extend("multipleOf" = 2, "errorMessage" = {"multipleOf": EVEN}))]
    pub max_frames: usize,
    /// At least this many pixels per frame after resizing (128 × 28 × 28). A token of the model is 28 × 28 pixels of two frames.
    #[schemars(range(min = 784, max = MAX_PIXELS))]
    pub min_pixels: usize,
    /// At most this many pixels per frame after resizing (196 × 28 × 28).
    #[schemars(range(min = 784, max = MAX_PIXELS))]
    pub max_pixels: usize,
    /// Where the positions of text go on after a clip.
    pub text_after: TextAfterVideo,
    /// What the model is told of the time between two pairs of frames.
    pub seconds_per_grid: SecondsPerGrid,
}

/// Where the frames that are taken from a clip stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
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
