//! Which frames of a clip are taken and at what size: the arithmetic of qwen-vl-utils 0.0.14
//! (`vision_process.py`), which the model was trained with.

use crate::config::FramePositions;
use crate::config::VideoConfig;

/// Frames that share one temporal grid; frame counts are multiples of it.
pub(crate) const TEMPORAL_PATCH: usize = 2;
/// Side of a patch in pixels.
pub(crate) const PATCH: usize = 14;
/// Patches per side that merge into one token.
pub(crate) const MERGE: usize = 2;
/// Frame sides are multiples of this (a merged patch).
pub(crate) const SIZE_FACTOR: usize = PATCH * MERGE;
/// One side may be at most this many times the other.
pub(crate) const MAX_RATIO: usize = 200;

/// Most pixels of one frame, whatever `video.max_pixels` allows (`VIDEO_MAX_TOKEN_NUM`).
pub(crate) const FRAME_MAX_PIXELS: usize = 768 * SIZE_FACTOR * SIZE_FACTOR;
/// Most tokens of one clip (`MODEL_SEQ_LEN` × 0.9).
const CLIP_MAX_TOKENS: f64 = 128_000.0;

/// Number of frames taken from `total` at `video_fps` (`smart_nframes`): even, within the configured bounds. Segments each give
/// one, of a short clip the same more than once. `None` when fewer than two frames remain or the rate is not a positive number.
pub fn frame_count(total: usize, video_fps: f64, config: &VideoConfig) -> Option<usize> {
    if !(video_fps.is_finite() && video_fps > 0.0) {
        return None;
    }
    let least = config.min_frames.next_multiple_of(TEMPORAL_PATCH) as f64;
    let most = (config.max_frames / TEMPORAL_PATCH * TEMPORAL_PATCH) as f64;
    let wanted = total as f64 / video_fps * config.fps;
    let available = match config.positions {
        FramePositions::Ends => total as f64,
        FramePositions::Segments => f64::INFINITY,
    };
    let count = wanted.max(least).min(most).min(available);
    let count = (count / TEMPORAL_PATCH as f64).floor() as usize * TEMPORAL_PATCH;
    (total > 0 && count >= TEMPORAL_PATCH).then_some(count)
}

/// Which of `total` frames are taken, `count` of them, in rising order.
pub(crate) fn positions(total: usize, count: usize, positions: FramePositions) -> Vec<usize> {
    match positions {
        FramePositions::Ends => frame_indices(total, count),
        FramePositions::Segments => segment_middles(total, count),
    }
}

/// The frame in the middle of each of `count` equal segments between the first and the last of `total` frames: MVBench's
/// `get_index` (`mvbench.ipynb`), which rounds halves to even.
fn segment_middles(total: usize, count: usize) -> Vec<usize> {
    let last = total.saturating_sub(1);
    let segment = last as f64 / count as f64;
    (0..count)
        .map(|i| (segment / 2.0 + (segment * i as f64).round_ties_even()) as usize)
        .map(|index| index.min(last))
        .collect()
}

/// `round(linspace(0, total - 1, count))` in integers.
///
/// Upstream rounds in f32; `count` is even, so exact ties cannot occur and the two agree for every clip
/// of fewer than 136,000 frames at 64 frames taken.
pub fn frame_indices(total: usize, count: usize) -> Vec<usize> {
    let steps = count.saturating_sub(1).max(1);
    let last = total.saturating_sub(1);
    (0..count)
        .map(|i| (2 * last * i + steps) / (2 * steps))
        .collect()
}

/// Pixels allowed per frame when `count` frames are taken (`fetch_video`'s `max_pixels`).
pub(crate) fn frame_max_pixels(count: usize, config: &VideoConfig) -> f64 {
    let token = (SIZE_FACTOR * SIZE_FACTOR) as f64;
    let share = CLIP_MAX_TOKENS * token * 0.9 / count as f64 * TEMPORAL_PATCH as f64;
    let floor = (config.min_pixels as f64 * 1.05).floor();
    let limit = (FRAME_MAX_PIXELS as f64).min(share).max(floor);
    limit.min(config.max_pixels as f64)
}

/// Height and width after resizing (`smart_resize`): multiples of [`SIZE_FACTOR`], the area within
/// the bounds, the ratio kept as well as that allows. `None` beyond [`MAX_RATIO`].
///
/// Where upstream's rule would give a side of zero, one factor is kept (as in transformers).
pub fn frame_size(
    height: usize,
    width: usize,
    min_pixels: f64,
    max_pixels: f64,
) -> Option<[usize; 2]> {
    let (h, w, factor) = (height as f64, width as f64, SIZE_FACTOR as f64);
    if height == 0 || width == 0 || h.max(w) / h.min(w) > MAX_RATIO as f64 {
        return None;
    }
    let nearest = |side: f64| ((side / factor).round_ties_even() * factor).max(factor);
    let (near_h, near_w) = (nearest(h), nearest(w));
    let [h, w] = if near_h * near_w > max_pixels {
        let beta = (h * w / max_pixels).sqrt();
        [h, w].map(|side| ((side / beta / factor).floor() * factor).max(factor))
    } else if near_h * near_w < min_pixels {
        let beta = (min_pixels / (h * w)).sqrt();
        [h, w].map(|side| (side * beta / factor).ceil() * factor)
    } else {
        [near_h, near_w]
    };
    Some([h as usize, w as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clevrer_clip_gives_ten_frames() {
        let config = VideoConfig::default();
        assert_eq!(frame_count(128, 25.0, &config), Some(10));
        let indices = frame_indices(128, 10);
        assert_eq!(indices, [0, 14, 28, 42, 56, 71, 85, 99, 113, 127]);
        assert_eq!(frame_size(320, 480, 100_352.0, 153_664.0), Some([308, 476]));
    }

    #[test]
    fn segments_give_their_middles() {
        // numpy: int(seg / 2 + np.round(seg * i)) for i in range(16), seg = (n - 1) / 16
        let of_128 = [
            3, 11, 19, 27, 35, 43, 51, 59, 67, 74, 82, 90, 98, 106, 114, 122,
        ];
        assert_eq!(segment_middles(128, 16), of_128);
        let of_5 = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4];
        assert_eq!(segment_middles(5, 16), of_5);
        let config = VideoConfig {
            positions: FramePositions::Segments,
            min_frames: 16,
            ..VideoConfig::default()
        };
        assert_eq!(frame_count(5, 25.0, &config), Some(16));
        assert_eq!(frame_count(0, 25.0, &config), None);
    }

    #[test]
    fn unusable_clips_give_nothing() {
        let config = VideoConfig::default();
        assert_eq!(frame_count(1, 25.0, &config), None);
        assert_eq!(frame_count(100, 0.0, &config), None);
        assert_eq!(frame_count(100, f64::NAN, &config), None);
        assert_eq!(frame_size(1, 201, 784.0, 78_400.0), None);
        assert_eq!(frame_size(0, 20, 784.0, 78_400.0), None);
    }

    #[test]
    fn many_frames_share_the_clip_budget() {
        let config = VideoConfig {
            max_pixels: usize::MAX,
            ..VideoConfig::default()
        };
        let pixels = |count| frame_max_pixels(count, &config) as usize;
        assert_eq!(pixels(16), 768 * 784);
        assert_eq!(pixels(600), 128_000 * 784 * 9 / 10 / 600 * 2);
        // Never below min_pixels and a twentieth.
        assert_eq!(pixels(100_000), 105_369);
    }
}
