//! A clip: which frames to take, at what size, and the model's visual input made from them.
//!
//! Frames are those of qwen-vl-utils with decord, bit for bit on x86-64, on clips that decord reads rightly;
//! on open GOPs, edit lists and AVI, where it does not, they are those of a full decode.

use crate::config::VideoConfig;
use crate::video::decode::Reader;
use crate::video::resize::Resizer;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

mod cache;
mod decode;
mod error;
mod ffmpeg;
mod index;
mod loader;
mod patches;
pub mod plan;
pub mod resize;

pub use cache::ClipLoader;
pub use error::VideoError;
pub(crate) use ffmpeg::init as init_ffmpeg;
pub use loader::Prefetcher;
pub use patches::VideoPatches;

/// What was taken from a clip, as `inspect video` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Displayable frames in the file.
    pub total_frames: usize,
    /// Frames per second of the file (average).
    pub fps: f64,
    /// Positions of the frames taken, in display order from 0.
    pub indices: Vec<usize>,
    /// Frames taken per second of video.
    pub sample_fps: f64,
    /// Height and width in the file, after its rotation.
    pub source_size: [usize; 2],
    /// Height and width given to the model.
    pub resized: [usize; 2],
    /// Temporal grids, patch rows, patch columns.
    pub grid_thw: [usize; 3],
    /// Tokens that the clip takes in a prompt.
    pub video_tokens: usize,
    /// Seconds between temporal grids, from the frames really taken.
    pub second_per_grid: f64,
}

/// Sampled and resized RGB frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Frames {
    /// Row-major `[T, 3, H, W]`, 0..=255.
    pub values: Vec<u8>,
    /// `[T, 3, H, W]`.
    pub shape: [usize; 4],
    /// Seconds between pairs of frames.
    pub second_per_grid: f64,
}

/// Decodes, samples and resizes a clip.
pub fn load(path: &Path, config: &VideoConfig) -> Result<(Clip, Frames), VideoError> {
    load_unless_stopped(path, config, &Arc::default())
}

/// Decodes a clip into the model's visual input.
pub fn load_patches(
    path: &Path,
    config: &VideoConfig,
) -> Result<(Clip, Arc<VideoPatches>), VideoError> {
    let (clip, frames) = load(path, config)?;
    Ok((clip, Arc::new(frames.patches())))
}

/// As [`load`]; setting `stop` ends it early with [`VideoError::Stopped`].
fn load_unless_stopped(
    path: &Path,
    config: &VideoConfig,
    stop: &Arc<AtomicBool>,
) -> Result<(Clip, Frames), VideoError> {
    let mut reader = Reader::open(path, stop)?;
    let clip = Clip::new(
        path,
        reader.total_frames(),
        reader.fps(),
        reader.size(),
        config,
    )?;
    let [height, width] = clip.resized;
    let shape = [clip.indices.len(), 3, height, width];
    let plane = height * width;
    let mut values = vec![0u8; shape.iter().product()];
    let mut resizer = Resizer::new(clip.source_size, clip.resized);
    let mut resized = vec![0u8; plane * 3];
    reader.read(&clip.indices, &mut |slot, rgb| {
        resizer.resize(rgb, &mut resized);
        let frame = &mut values[slot * plane * 3..(slot + 1) * plane * 3];
        for (channel, values) in frame.chunks_exact_mut(plane).enumerate() {
            for (value, pixel) in values.iter_mut().zip(resized.chunks_exact(3)) {
                *value = pixel[channel];
            }
        }
    })?;
    let second_per_grid = clip.second_per_grid;
    let frames = Frames {
        values,
        shape,
        second_per_grid,
    };
    Ok((clip, frames))
}

impl Clip {
    /// Applies the rules of [`plan`] to a file of `total_frames` frames of `source_size` `[height, width]`.
    fn new(
        path: &Path,
        total_frames: usize,
        fps: f64,
        source_size: [usize; 2],
        config: &VideoConfig,
    ) -> Result<Self, VideoError> {
        let count = plan::frame_count(total_frames, fps, config).ok_or_else(|| {
            VideoError::TooFewFrames {
                path: path.to_owned(),
                total: total_frames,
                needed: plan::TEMPORAL_PATCH,
            }
        })?;
        let min_pixels = config.min_pixels as f64;
        let max_pixels = plan::frame_max_pixels(count, config);
        if min_pixels > max_pixels {
            return Err(VideoError::PixelBudget {
                path: path.to_owned(),
                min_pixels: config.min_pixels,
                max_pixels: max_pixels as usize,
            });
        }
        let [height, width] = source_size;
        let resized = plan::frame_size(height, width, min_pixels, max_pixels).ok_or_else(|| {
            VideoError::AspectRatio {
                path: path.to_owned(),
                width,
                height,
                limit: plan::MAX_RATIO,
            }
        })?;
        let sample_fps = count as f64 / total_frames as f64 * fps;
        let grid_thw = [
            count / plan::TEMPORAL_PATCH,
            resized[0] / plan::PATCH,
            resized[1] / plan::PATCH,
        ];
        Ok(Self {
            total_frames,
            fps,
            indices: plan::frame_indices(total_frames, count),
            sample_fps,
            source_size,
            resized,
            grid_thw,
            video_tokens: grid_thw.iter().product::<usize>() / (plan::MERGE * plan::MERGE),
            second_per_grid: plan::TEMPORAL_PATCH as f64 / sample_fps,
        })
    }
}
