//! Multimodal rotary positions (M-RoPE): where every token stands in time, height and width.
//!
//! Source: `get_rope_index` of transformers 4.50's `Qwen2_5_VLForConditionalGeneration` (and of transformers 5's
//! `Qwen2_5_VLModel` for [`TextAfterVideo::Spatial`]), `Qwen2_5_VLRotaryEmbedding`.
//! Shapes: `L` tokens, `N` rows, `D` head width.

use crate::config::TextAfterVideo;
use crate::model::spec::Spec;
use crate::model::spec::TextSpec;
use crate::video::VideoPatches;
use candle_core::Device;
use candle_core::Tensor;

/// Positions of `L` tokens: `[time, height, width]`, each of length `L`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// `axes[0]` is time, `axes[1]` height, `axes[2]` width.
    pub axes: [Vec<u32>; 3],
}

impl Positions {
    /// `length` text tokens from position `start`: the three axes are equal.
    pub fn text(start: u32, length: usize) -> Self {
        let axis: Vec<u32> = (start..).take(length).collect();
        Self {
            axes: [axis.clone(), axis.clone(), axis],
        }
    }

    /// Number of tokens (L).
    pub(crate) fn len(&self) -> usize {
        self.axes[0].len()
    }

    /// Puts `other` behind these.
    pub fn extend(&mut self, other: &Self) {
        for (axis, more) in self.axes.iter_mut().zip(&other.axes) {
            axis.extend_from_slice(more);
        }
    }

    fn push(&mut self, position: [u32; 3]) {
        for (axis, value) in self.axes.iter_mut().zip(position) {
            axis.push(value);
        }
    }
}

/// What positions need to know of a clip. It brings its own rule, so that no pass can take another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoSpan {
    /// Temporal grids, patch rows, patch columns, before the merge.
    pub grid_thw: [usize; 3],
    /// Seconds between temporal grids.
    pub second_per_grid: f64,
    /// Where the text behind it goes on.
    pub text_after: TextAfterVideo,
}

impl From<&VideoPatches> for VideoSpan {
    fn from(video: &VideoPatches) -> Self {
        Self {
            grid_thw: video.grid_thw,
            second_per_grid: video.second_per_grid,
            text_after: video.text_after,
        }
    }
}

/// Why no positions can be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PositionError {
    /// Placeholders and clip disagree.
    #[error(
        "video {index}: the prompt holds {placeholders} <|video_pad|> in a row, the clip has {tokens} tokens"
    )]
    TokenCount {
        /// Which clip, from 0.
        index: usize,
        /// Placeholders in the prompt.
        placeholders: usize,
        /// Tokens of the clip after the merge.
        tokens: usize,
    },
    /// Number of runs of placeholders and number of clips disagree.
    #[error("the prompt has places for {runs} videos, {videos} were given")]
    VideoCount { runs: usize, videos: usize },
}

/// Positions of a prompt, and the position of the token after it; tokens that are generated go on from there one by one.
///
/// `videos` are the clips in the order of their placeholders in `token_ids`.
pub fn prompt_positions(
    spec: &Spec,
    token_ids: &[u32],
    videos: &[VideoSpan],
) -> Result<(Positions, u32), PositionError> {
    let mut positions = Positions::default();
    let (mut next, mut index, mut video) = (0u32, 0, 0);
    while index < token_ids.len() {
        let is_video = token_ids[index] == spec.tokens.video_pad;
        let run = token_ids[index..]
            .iter()
            .take_while(|&&id| (id == spec.tokens.video_pad) == is_video)
            .count();
        index += run;
        if !is_video {
            positions.extend(&Positions::text(next, run));
            next += run as u32;
            continue;
        }
        if let Some(span) = videos.get(video) {
            next = push_video(&mut positions, spec, span, next, (video, run))?;
        }
        video += 1;
    }
    if video == videos.len() {
        Ok((positions, next))
    } else {
        Err(PositionError::VideoCount {
            runs: video,
            videos: videos.len(),
        })
    }
}

/// Appends one clip that starts at `start`; returns where text goes on. `run` is (clip index, placeholders).
fn push_video(
    positions: &mut Positions,
    spec: &Spec,
    span: &VideoSpan,
    start: u32,
    run: (usize, usize),
) -> Result<u32, PositionError> {
    let merge = spec.vision.spatial_merge_size;
    let [grids, rows, columns] = span.grid_thw;
    let (rows, columns) = (rows / merge, columns / merge);
    if grids * rows * columns != run.1 {
        return Err(PositionError::TokenCount {
            index: run.0,
            placeholders: run.1,
            tokens: grids * rows * columns,
        });
    }
    // transformers multiplies in f32, in this order, and truncates. Its versions 4.52 to 4.57 truncate the seconds themselves
    // first: time stands still in a clip of more than 2 frames a second. That is a defect and not followed.
    let seconds = span.second_per_grid as f32;
    let per_second = spec.vision.tokens_per_second as f32;
    let mut largest = 0;
    for grid in 0..grids {
        let time = (grid as f32 * seconds * per_second) as u32;
        for row in 0..rows as u32 {
            for column in 0..columns as u32 {
                positions.push([start + time, start + row, start + column]);
            }
        }
        largest = largest.max(time);
    }
    let spatial = rows.max(columns) as u32;
    Ok(start
        + match span.text_after {
            TextAfterVideo::Largest => spatial.max(largest + 1),
            TextAfterVideo::Spatial => spatial,
        })
}

/// Cosines and sines `[N, D/2]` (f32) of the rotary angles.
///
/// Frequency `i` turns with the axis whose section holds `i`; the two halves of a head share their angles.
pub(crate) fn rotary_table(
    spec: &TextSpec,
    positions: &Positions,
    device: &Device,
) -> candle_core::Result<(Tensor, Tensor)> {
    let half = spec.head_dim() / 2;
    let frequencies = inverse_frequencies(spec.rope_theta, spec.head_dim());
    let axis_of: Vec<usize> = (0..3)
        .flat_map(|axis| std::iter::repeat_n(axis, spec.mrope_section[axis]))
        .collect();
    if axis_of.len() != half {
        candle_core::bail!(
            "mrope_section {:?} does not add up to half a head ({half})",
            spec.mrope_section
        );
    }
    let rows = positions.len();
    let mut angles = Vec::with_capacity(rows * half);
    for row in 0..rows {
        let turns = axis_of.iter().zip(&frequencies);
        angles.extend(turns.map(|(&axis, frequency)| positions.axes[axis][row] as f32 * frequency));
    }
    table_from_angles(&angles, (rows, half), device)
}

/// `1 / base^(2i/width)` for `i` in `0..width/2`, in f32 as torch computes it.
pub(crate) fn inverse_frequencies(base: f64, width: usize) -> Vec<f32> {
    (0..width / 2)
        .map(|i| 1.0 / (base as f32).powf((2 * i) as f32 / width as f32))
        .collect()
}

/// Cosines and sines of row-major `angles`.
pub(crate) fn table_from_angles(
    angles: &[f32],
    shape: (usize, usize),
    device: &Device,
) -> candle_core::Result<(Tensor, Tensor)> {
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    Ok((
        Tensor::from_vec(cos, shape, device)?,
        Tensor::from_vec(sin, shape, device)?,
    ))
}
