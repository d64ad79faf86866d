//! Clips that a player turns before it shows them.

use ffmpeg_next::packet;

/// Clockwise turn that a player applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    None,
    Quarter,
    Half,
    ThreeQuarters,
}

impl Rotation {
    /// From the track's display matrix, to the nearest quarter turn.
    pub(super) fn of(track: &ffmpeg_next::Stream) -> Self {
        let matrix = track.side_data().find_map(|side_data| {
            let is_matrix = side_data.kind() == packet::side_data::Type::DisplayMatrix;
            let bytes = side_data.data().get(..36)?;
            is_matrix.then(|| {
                let entry = |i: usize| {
                    let bytes: [u8; 4] = std::array::from_fn(|b| bytes[i * 4 + b]);
                    f64::from(i32::from_ne_bytes(bytes))
                };
                [entry(0), entry(1), entry(3), entry(4)]
            })
        });
        let Some([a, b, c, d]) = matrix else {
            return Self::None;
        };
        let degrees = (b / b.hypot(d)).atan2(a / a.hypot(c)).to_degrees();
        let quarters = (degrees / 90.0).round();
        let off = (degrees - 90.0 * quarters).abs();
        if off.is_nan() || off >= 1.0 {
            return Self::None;
        }
        match (quarters as i32).rem_euclid(4) {
            1 => Self::Quarter,
            2 => Self::Half,
            3 => Self::ThreeQuarters,
            _ => Self::None,
        }
    }

    pub(super) fn swaps_sides(self) -> bool {
        matches!(self, Self::Quarter | Self::ThreeQuarters)
    }

    /// Turns an RGB image of `[width, height]`.
    pub(super) fn apply(self, rgb: &[u8], [width, height]: [usize; 2]) -> Vec<u8> {
        let (out_width, out_height) = if self.swaps_sides() {
            (height, width)
        } else {
            (width, height)
        };
        let mut turned = Vec::with_capacity(rgb.len());
        for y in 0..out_height {
            for x in 0..out_width {
                let (from_x, from_y) = match self {
                    Self::None => (x, y),
                    Self::Quarter => (y, height - 1 - x),
                    Self::Half => (width - 1 - x, height - 1 - y),
                    Self::ThreeQuarters => (width - 1 - y, x),
                };
                let at = (from_y * width + from_x) * 3;
                turned.extend_from_slice(&rgb[at..at + 3]);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_moves_the_bottom_left_pixel_to_the_top_left() {
        // 2 wide, 3 high; the red channel counts the pixels.
        let image: Vec<u8> = (0..6).flat_map(|i| [i, 0, 0]).collect();
        let red = |rotation: Rotation| -> Vec<u8> {
            let turned = rotation.apply(&image, [2, 3]);
            turned.chunks_exact(3).map(|pixel| pixel[0]).collect()
        };
        assert_eq!(red(Rotation::Quarter), [4, 2, 0, 5, 3, 1]);
        assert_eq!(red(Rotation::Half), [5, 4, 3, 2, 1, 0]);
        assert_eq!(red(Rotation::ThreeQuarters), [1, 3, 5, 0, 2, 4]);
    }
}
