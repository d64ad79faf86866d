//! A clip: which frames to take, at what size, and the model's visual input made from them.
//!
//! Frames are those of qwen-vl-utils with decord, bit for bit on x86-64, on clips that decord reads rightly;
//! on open GOPs, edit lists and AVI, where it does not, they are those of a full decode.

use crate::config::{FramePositions, SecondsPerGrid, TextAfterVideo, VideoConfig};
use crate::data::folder_images;
use crate::data::local_path;
use crate::data::{Fragment, Span};
use crate::video::decode::{Reader, Source};
use crate::video::images::ImageFolder;
use crate::video::resize::Resizer;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZero;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

mod avi;
mod cache;
mod decode;
mod error;
mod ffmpeg;
mod h264;
mod images;
mod index;
mod loader;
mod packets;
pub(crate) mod patches;
pub mod plan;
pub mod resize;
mod rotation;
mod version;

pub use cache::ClipLoader;
pub use error::VideoError;
pub(crate) use ffmpeg::init as init_ffmpeg;
pub use loader::Prefetcher;
pub use patches::VideoPatches;
pub use version::decoder_version;
pub(crate) use version::missing_decoders;

/// What was taken from a clip, as `inspect video` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Displayable frames in the file, or images in the folder.
    pub total_frames: usize,
    /// Frames per second of the file (average), or as the path says.
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
    /// Seconds between temporal grids, as the model is told: from the frames really taken, unless
    /// `video.seconds_per_grid` says otherwise.
    pub second_per_grid: f64,
}

/// Sampled and resized RGB frames.
#[derive(Debug, Clone, PartialEq)]
pub struct Frames {
    /// Row-major `[T, 3, H, W]`, 0..=255.
    pub values: Vec<u8>,
    /// `[T, 3, H, W]`.
    pub shape: [usize; 4],
    /// Seconds between pairs of frames, as the model is told.
    pub second_per_grid: f64,
    /// Where text goes on behind them.
    pub text_after: TextAfterVideo,
}

/// What is wrong with a clip whose frames come out all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flaws {
    /// The decoder reports damage: some frames are not what was filmed.
    pub(crate) damaged: bool,
    /// Frames that the header promises and the file lacks.
    pub(crate) cut_frames: usize,
}

impl fmt::Display for Flaws {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.damaged {
            formatter
                .write_str("the decoder reports damage, some frames are not what was filmed")?;
        }
        if self.cut_frames > 0 {
            let joint = if self.damaged { "; " } else { "" };
            let missing = self.cut_frames;
            write!(
                formatter,
                "{joint}the file is cut off, {missing} of the frames that it promises are missing"
            )?;
        }
        formatter.write_str("; download it again")
    }
}

/// Decodes, samples and resizes a clip (a file, or a folder of images), or the part of it that the path names
/// ([`Fragment`]); a long one on all cores.
pub fn load(path: &Path, config: &VideoConfig) -> Result<(Clip, Frames), VideoError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (clip, frames, _) = load_unless_stopped(path, config, threads, &Arc::default())?;
    Ok((clip, frames))
}

/// As [`load`], on up to `threads` threads; tells what is wrong with the clip instead of its frames.
pub fn check(
    path: &Path,
    config: &VideoConfig,
    threads: usize,
) -> Result<(Clip, Flaws), VideoError> {
    let (clip, _, flaws) = load_unless_stopped(path, config, threads, &Arc::default())?;
    Ok((clip, flaws))
}

/// Decodes a clip into the model's visual input.
pub fn load_patches(
    path: &Path,
    config: &VideoConfig,
) -> Result<(Clip, Arc<VideoPatches>), VideoError> {
    let (clip, frames) = load(path, config)?;
    Ok((clip, Arc::new(frames.patches())))
}

/// Decodes the frames that [`load`] takes on up to `threads` threads and hands each to `sink` in the file's own size: its
/// place among them (a repeated frame's first), and its RGB values `[height, width, 3]`. They come in any order; of one that comes
/// twice, the later holds.
pub fn decode_frames(
    path: &Path,
    config: &VideoConfig,
    threads: usize,
    sink: &mut dyn FnMut(usize, &[u8]),
) -> Result<Clip, VideoError> {
    let (mut source, clip) = open(path, config, &Arc::default())?;
    let pictures = pictures(source.as_ref(), &clip);
    read_once(source.as_mut(), &pictures, threads, sink)?;
    Ok(clip)
}

/// What the frames of a clip show: two that are the same show the same picture.
fn pictures(source: &dyn Source, clip: &Clip) -> Vec<usize> {
    let frames = clip.indices.iter();
    frames.map(|&frame| source.picture_of(frame)).collect()
}

/// Reads the pictures `indices`, which do not fall; one that is taken more than once is handed to `sink` for its first place.
fn read_once(
    source: &mut dyn Source,
    indices: &[usize],
    threads: usize,
    sink: &mut dyn FnMut(usize, &[u8]),
) -> Result<bool, VideoError> {
    let is_new = |slot: &usize| *slot == 0 || indices[slot - 1] != indices[*slot];
    let slots: Vec<usize> = (0..indices.len()).filter(is_new).collect();
    let different: Vec<usize> = slots.iter().map(|&slot| indices[slot]).collect();
    source.read(&different, threads, &mut |index, rgb| {
        sink(slots[index], rgb);
    })
}

/// A clip's file and the part of it that its path names; a `file://` URL is the path that it stands for.
fn split(path: &Path) -> Result<(PathBuf, Fragment), VideoError> {
    let part = |problem| VideoError::Part {
        path: path.to_owned(),
        problem,
    };
    let local = path.to_str().filter(|_| !path.exists()).map(local_path);
    let local = local.transpose().map_err(|problem| {
        // The error names the path by itself.
        let rest = path.to_str().and_then(|path| problem.strip_prefix(path));
        part(rest.map_or_else(|| problem.clone(), |rest| rest.trim().to_owned()))
    })?;
    let local = local.map_or_else(|| path.to_owned(), PathBuf::from);
    match Fragment::problem(&local) {
        Some(problem) => Err(part(problem)),
        None => Ok(Fragment::split(&local)),
    }
}

/// Says by the file's head alone, without decoding, that no frame lies in the part of a clip that a path names. What else may be
/// wrong with the clip is for [`check`].
///
/// # Errors
/// The path names no part ([`VideoError::Part`]), or one that begins behind the clip's end ([`VideoError::NothingThere`]).
pub fn check_part(path: &Path) -> Result<(), VideoError> {
    let (file, Fragment { span, fps }) = split(path)?;
    let Some(span) = span else {
        return Ok(());
    };
    let seconds = match fps {
        _ if file.is_dir() => {
            let count = folder_images(&file).map_or(0, |images| images.len());
            fps.map(|fps| count as f64 / fps)
        }
        // Its frames are shown at another rate than its head says.
        Some(_) => None,
        None => decode::seconds_by_head(&file),
    };
    match seconds.filter(|seconds| *seconds > 0.0 && span.start >= *seconds) {
        Some(seconds) => Err(VideoError::NothingThere {
            path: file,
            part: span.to_string(),
            seconds,
        }),
        None => Ok(()),
    }
}

/// A clip and what to take from it.
fn open(
    path: &Path,
    config: &VideoConfig,
    stop: &Arc<AtomicBool>,
) -> Result<(Box<dyn Source>, Clip), VideoError> {
    let (path, Fragment { span, fps }) = split(path)?;
    let source: Box<dyn Source> = if path.is_dir() {
        Box::new(ImageFolder::open(&path, fps, stop)?)
    } else {
        Box::new(Reader::open(&path, fps, stop)?)
    };
    let clip = Clip::new(
        &path,
        span,
        source.total_frames(),
        source.fps(),
        source.size(),
        config,
    )?;
    Ok((source, clip))
}

/// As [`load`] on up to `threads` threads; setting `stop` ends it early with [`VideoError::Stopped`].
fn load_unless_stopped(
    path: &Path,
    config: &VideoConfig,
    threads: usize,
    stop: &Arc<AtomicBool>,
) -> Result<(Clip, Frames, Flaws), VideoError> {
    let (mut source, clip) = open(path, config, stop)?;
    let [height, width] = clip.resized;
    let shape = [clip.indices.len(), 3, height, width];
    let plane = height * width;
    let mut values = vec![0u8; shape.iter().product()];
    let mut resizer = Resizer::new(clip.source_size, clip.resized);
    let frame = |slot: usize| slot * plane * 3..(slot + 1) * plane * 3;
    let pictures = pictures(source.as_ref(), &clip);
    let damaged = read_once(source.as_mut(), &pictures, threads, &mut |slot, rgb| {
        resizer.resize(rgb, &mut values[frame(slot)]);
    })?;
    for slot in 1..pictures.len() {
        if pictures[slot - 1] == pictures[slot] {
            values.copy_within(frame(slot - 1), frame(slot).start);
        }
    }
    let second_per_grid = clip.second_per_grid;
    let frames = Frames {
        values,
        shape,
        second_per_grid,
        text_after: config.text_after,
    };
    let flaws = Flaws {
        damaged,
        cut_frames: source.cut_frames(),
    };
    Ok((clip, frames, flaws))
}

impl Clip {
    /// Applies the rules of [`plan`] to a file of `total_frames` frames of `source_size` `[height, width]`, or to the part
    /// of it that `span` names.
    fn new(
        path: &Path,
        span: Option<Span>,
        total_frames: usize,
        fps: f64,
        source_size: [usize; 2],
        config: &VideoConfig,
    ) -> Result<Self, VideoError> {
        let all = (0, total_frames.saturating_sub(1));
        let part = span.map_or(Some(all), |span| match config.positions {
            FramePositions::Ends => span.frames(total_frames, fps),
            FramePositions::Segments => {
                span.nearest_frames(total_frames, fps, usize::from(path.is_dir()))
            }
        });
        let (first, last) = match (part, span) {
            (Some(part), _) => part,
            (None, Some(span)) if total_frames > 0 => {
                return Err(VideoError::NothingThere {
                    path: path.to_owned(),
                    part: span.to_string(),
                    seconds: total_frames as f64 / fps,
                });
            }
            (None, _) => (1, 0),
        };
        let usable = (last + 1).saturating_sub(first).min(total_frames);
        let count =
            plan::frame_count(usable, fps, config).ok_or_else(|| VideoError::TooFewFrames {
                path: path.to_owned(),
                part: span.map(|span| span.to_string()),
                total: usable,
                needed: plan::TEMPORAL_PATCH,
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
        let sample_fps = count as f64 / usable as f64 * fps;
        let grid_thw = [
            count / plan::TEMPORAL_PATCH,
            resized[0] / plan::PATCH,
            resized[1] / plan::PATCH,
        ];
        Ok(Self {
            total_frames,
            fps,
            indices: plan::positions(usable, count, config.positions)
                .into_iter()
                .map(|index| first + index)
                .collect(),
            sample_fps,
            source_size,
            resized,
            grid_thw,
            video_tokens: grid_thw.iter().product::<usize>() / (plan::MERGE * plan::MERGE),
            second_per_grid: match config.seconds_per_grid {
                SecondsPerGrid::Sampled => plan::TEMPORAL_PATCH as f64 / sample_fps,
                SecondsPerGrid::Authors => 1.0,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clip of which MVBench's evaluator takes these frames (`scripts/make_golden_segments.py`).
    #[derive(Deserialize)]
    struct Taken {
        total: usize,
        fps: f64,
        bound: Option<[f64; 2]>,
        folder: bool,
        frames: Vec<usize>,
    }

    #[test]
    fn segments_are_those_of_mvbenchs_evaluator() {
        let golden = include_str!("../../tests/golden/video/segments.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let cases: Vec<Taken> = serde_json::from_value(golden["cases"].clone()).unwrap();
        assert_eq!(cases.len(), 46);
        let config = VideoConfig {
            positions: FramePositions::Segments,
            min_frames: 16,
            max_frames: 16,
            ..VideoConfig::default()
        };
        let folder = tempfile::tempdir().unwrap();
        for case in cases {
            let path = if case.folder {
                folder.path()
            } else {
                Path::new("clip.mp4")
            };
            let span = case.bound.map(|[start, end]| Span { start, end });
            let clip = Clip::new(path, span, case.total, case.fps, [240, 320], &config).unwrap();
            assert_eq!(clip.indices, case.frames, "{} {span:?}", case.total);
        }
    }
}
