//! torchvision's antialiased bicubic resize of 8-bit RGB frames, bit for bit on x86-64 with AVX2 and FMA.
//!
//! `functional.resize` casts to f32, filters rows then columns with Keys' cubic (a = -0.5) widened by the
//! scale, clamps and rounds half to even. The order of the f32 operations follows PyTorch's x86 builds:
//! the cubic is evaluated with fused multiply-add; of each weighted sum, the taps after the first go in
//! groups of four as multiply, then add, and the rest with fused multiply-add.

/// Side of the cubic's support at scale 1.
const CUBIC_SUPPORT: f32 = 2.0;
/// Taps that PyTorch's compiler vectorises together.
const TAP_GROUP: usize = 4;
/// Rows filtered together in the horizontal pass.
const ROWS: usize = 8;
/// A pixel's three values and the next one's first, of each row: fours make whole vectors.
const LANES: usize = ROWS * 4;
/// Values filtered together in the vertical pass.
const COLUMNS: usize = 32;

/// Filter taps of every output position along one axis.
struct Taps {
    /// First input position and number of taps, per output position.
    spans: Vec<(usize, usize)>,
    /// `stride` weights per output position, the unused ones zero.
    weights: Vec<f32>,
    stride: usize,
}

impl Taps {
    /// Weights from `input` to `output` positions (aten `_compute_indices_weights_aa`, with its mix of f32 and f64).
    fn new(input: usize, output: usize) -> Self {
        let scale = input as f32 / output as f32;
        let widening = scale.max(1.0);
        let support = CUBIC_SUPPORT * widening;
        let narrowing = (1.0 / f64::from(widening)) as f32;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Self {
            spans: Vec::with_capacity(output),
            weights: vec![0.0; stride * output],
            stride,
        };
        for (i, weights) in taps.weights.chunks_exact_mut(stride).enumerate() {
            let center = (f64::from(scale) * (i as f64 + 0.5)) as f32;
            let low = (f64::from(center - support) + 0.5).max(0.0) as usize;
            let high = ((f64::from(center + support) + 0.5) as usize).min(input);
            let count = (high - low).min(stride);
            let mut total = 0.0f32;
            for (j, weight) in weights[..count].iter_mut().enumerate() {
                let offset = f64::from((j + low) as f32 - center) + 0.5;
                *weight = cubic((offset * f64::from(narrowing)) as f32);
                total += *weight;
            }
            if total != 0.0 {
                for weight in weights {
                    *weight /= total;
                }
            }
            taps.spans.push((low, count));
        }
        taps
    }

    /// First input position and the weights of output position `i`.
    #[inline]
    fn at(&self, i: usize) -> (usize, &[f32]) {
        let (low, count) = self.spans[i];
        let start = i * self.stride;
        (low, &self.weights[start..start + count])
    }
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f32) -> f32 {
    const A: f32 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0).mul_add(x, -(A + 3.0)) * x).mul_add(x, 1.0)
    } else if x < 2.0 {
        A.mul_add(x, -5.0 * A)
            .mul_add(x, 8.0 * A)
            .mul_add(x, -4.0 * A)
    } else {
        0.0
    }
}

/// Resizes frames of one size to another; keeps its tables and buffers between frames.
pub struct Resizer {
    horizontal: Taps,
    vertical: Taps,
    source: [usize; 2],
    target: [usize; 2],
    /// `ROWS` input rows `[width, 3]`, a value more behind each.
    rows: Vec<f32>,
    /// Rows after the horizontal pass `[height rounded up, target width, 3]`, a value more behind each.
    filtered: Vec<f32>,
    /// One output row `[target width, 3]`.
    output_row: Vec<u8>,
}

impl Resizer {
    /// From `[height, width]` to `[height, width]`.
    pub fn new(source: [usize; 2], target: [usize; 2]) -> Self {
        Self {
            horizontal: Taps::new(source[1], target[1]),
            vertical: Taps::new(source[0], target[0]),
            source,
            target,
            rows: vec![0.0; ROWS * (source[1] * 3 + 1)],
            filtered: vec![0.0; source[0].next_multiple_of(ROWS) * (target[1] * 3 + 1)],
            output_row: vec![0; target[1] * 3],
        }
    }

    /// Resizes one interleaved RGB frame `[H, W, 3]` into `output`, channel by channel `[3, H, W]`.
    ///
    /// # Panics
    /// When a slice does not have the size given to [`Resizer::new`].
    pub fn resize(&mut self, frame: &[u8], output: &mut [u8]) {
        assert_eq!(frame.len(), self.source[0] * self.source[1] * 3);
        assert_eq!(output.len(), self.target[0] * self.target[1] * 3);
        #[cfg(target_arch = "x86_64")]
        if has_fma() {
            self.resize_with_fma(frame, output);
            return;
        }
        self.run::<false>(frame, output);
    }

    /// The same with fused multiply-add, as PyTorch's AVX2 and AVX-512 builds.
    #[cfg(target_arch = "x86_64")]
    #[expect(
        unsafe_code,
        reason = "calls code compiled for CPU features checked at run time"
    )]
    fn resize_with_fma(&mut self, frame: &[u8], output: &mut [u8]) {
        #[target_feature(enable = "avx2,fma")]
        fn run(resizer: &mut Resizer, frame: &[u8], output: &mut [u8]) {
            resizer.run::<true>(frame, output);
        }
        assert!(has_fma());
        // SAFETY: the CPU has AVX2 and FMA, asserted above.
        unsafe { run(self, frame, output) }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "takes on the caller's CPU features")]
    fn run<const FMA: bool>(&mut self, frame: &[u8], output: &mut [u8]) {
        if self.source == self.target {
            split_channels(frame, output, 0);
            return;
        }
        self.filter_rows::<FMA>(frame);
        self.filter_columns::<FMA>(output);
    }

    /// Horizontal pass, `ROWS` rows at a time.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "takes on the caller's CPU features")]
    fn filter_rows<const FMA: bool>(&mut self, frame: &[u8]) {
        let (source_len, target_len) = (self.source[1] * 3 + 1, self.target[1] * 3 + 1);
        let blocks = frame.chunks(ROWS * self.source[1] * 3);
        for (block, filtered) in blocks.zip(self.filtered.chunks_exact_mut(ROWS * target_len)) {
            // Rows beyond the frame are those of the block before; their results are never read.
            let bytes = block.chunks_exact(self.source[1] * 3);
            for (row, bytes) in self.rows.chunks_exact_mut(source_len).zip(bytes) {
                for (value, byte) in row.iter_mut().zip(bytes) {
                    *value = f32::from(*byte);
                }
            }
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|r| &self.rows[r * source_len..(r + 1) * source_len]);
            for x in 0..self.target[1] {
                let (low, weights) = self.horizontal.at(x);
                let sums = weighted_sum::<FMA, LANES>(weights, |j| {
                    let mut lanes = [0f32; LANES];
                    let at = (low + j) * 3;
                    for r in 0..ROWS {
                        lanes[r * 4..r * 4 + 4].copy_from_slice(&rows[r][at..at + 4]);
                    }
                    lanes
                });
                for r in 0..ROWS {
                    let at = r * target_len + x * 3;
                    filtered[at..at + 4].copy_from_slice(&sums[r * 4..r * 4 + 4]);
                }
            }
        }
    }

    /// Vertical pass, `COLUMNS` values at a time, with clamp and rounding.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "takes on the caller's CPU features")]
    fn filter_columns<const FMA: bool>(&mut self, output: &mut [u8]) {
        let row_len = self.target[1] * 3 + 1;
        for y in 0..self.target[0] {
            let (low, weights) = self.vertical.at(y);
            let rows = &self.filtered[low * row_len..];
            let mut blocks = self.output_row.chunks_exact_mut(COLUMNS);
            let mut x = 0;
            for block in &mut blocks {
                let sums = weighted_sum::<FMA, COLUMNS>(weights, |j| {
                    let mut lanes = [0f32; COLUMNS];
                    lanes.copy_from_slice(&rows[x + j * row_len..x + j * row_len + COLUMNS]);
                    lanes
                });
                for (byte, sum) in block.iter_mut().zip(sums) {
                    *byte = to_byte(sum);
                }
                x += COLUMNS;
            }
            for byte in blocks.into_remainder() {
                *byte = to_byte(weighted_sum::<FMA, 1>(weights, |j| [rows[x + j * row_len]])[0]);
                x += 1;
            }
            split_channels(&self.output_row, output, y * self.target[1]);
        }
    }
}

/// Copies interleaved RGB values into the channels of `output`, from position `start` of each on.
#[inline(always)]
#[expect(clippy::inline_always, reason = "takes on the caller's CPU features")]
fn split_channels(rgb: &[u8], output: &mut [u8], start: usize) {
    let (plane, end) = (output.len() / 3, start + rgb.len() / 3);
    let (red, rest) = output.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let channels = red[start..end]
        .iter_mut()
        .zip(&mut green[start..end])
        .zip(&mut blue[start..end]);
    for (((red, green), blue), pixel) in channels.zip(rgb.chunks_exact(3)) {
        (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
    }
}

/// Σ_j `values(j)` · `weights[j]`, in PyTorch's order of operations.
#[inline(always)]
#[expect(clippy::inline_always, reason = "takes on the caller's CPU features")]
fn weighted_sum<const FMA: bool, const N: usize>(
    weights: &[f32],
    values: impl Fn(usize) -> [f32; N],
) -> [f32; N] {
    let grouped = 1 + weights.len().saturating_sub(1) / TAP_GROUP * TAP_GROUP;
    let mut sums = [0f32; N];
    for (j, &weight) in weights.iter().enumerate() {
        let values = values(j);
        if FMA && j >= grouped {
            for l in 0..N {
                sums[l] = values[l].mul_add(weight, sums[l]);
            }
        } else {
            for l in 0..N {
                sums[l] += values[l] * weight;
            }
        }
    }
    sums
}

/// Clamps to 0..=255 and rounds half to even: adding 1.5 · 2²³ leaves the rounded integer in the low bits.
#[inline]
fn to_byte(value: f32) -> u8 {
    const ROUNDER: f32 = 12_582_912.0;
    (value.clamp(0.0, 255.0) + ROUNDER).to_bits() as u8
}

/// Whether results are those of PyTorch on this CPU.
pub fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_frame_stays_flat() {
        for target in [[28, 28], [56, 84], [140, 28], [50, 37]] {
            let frame = [17, 130, 255].repeat(50 * 37);
            let mut output = vec![0; target[0] * target[1] * 3];
            Resizer::new([50, 37], target).resize(&frame, &mut output);
            let channels = output.chunks_exact(target[0] * target[1]);
            for (channel, value) in channels.zip([17, 130, 255]) {
                assert!(channel.iter().all(|found| *found == value), "{target:?}");
            }
        }
    }

    #[test]
    fn portable_code_differs_by_one_at_most() {
        let frame: Vec<u8> = (0..61 * 47 * 3u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let mut resizer = Resizer::new([61, 47], [28, 56]);
        let mut fast = vec![0; 28 * 56 * 3];
        let mut portable = fast.clone();
        resizer.resize(&frame, &mut fast);
        resizer.run::<false>(&frame, &mut portable);
        let largest = fast
            .iter()
            .zip(&portable)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(largest <= Some(1), "{largest:?}");
    }

    #[test]
    fn weights_of_a_position_sum_to_one() {
        for (input, output) in [(320, 252), (100, 364), (7, 28), (1080, 28)] {
            let taps = Taps::new(input, output);
            for i in 0..output {
                let (low, weights) = taps.at(i);
                assert!(low + weights.len() <= input);
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn halves_round_to_even() {
        let rounded = [0.5f32, 1.5, 2.5, 254.5, 255.4, 300.0, -3.0].map(to_byte);
        assert_eq!(rounded, [0, 2, 2, 254, 255, 255, 0]);
    }
}
