//! The compact state's number formats: an f32 master split over a bf16 weight and 16 more bits, and moments of 8 bits.
//!
//! **Master.** A weight is its master rounded to the nearest bf16, and beside it lie the master's low 16 bits. Rounding
//! carried into the upper half exactly when the low half, read as a signed number, is negative, so adding that number
//! to the weight's bits gives the master back, bit by bit. This asks for ties to go away from zero; `to_dtype` sends
//! them to the even neighbour. Both are nearest, and one master in 65,536 is a tie.
//!
//! **Moments.** [`BLOCK`] values share an f32 scale, their largest magnitude (block-wise quantisation: Dettmers et al.,
//! arXiv 2110.02861; no zero in the second moment's map: Li, Chen, Zhu, arXiv 2309.01507). The map is an 8-bit floating
//! point number relative to the scale with three bits of mantissa: neighbours are 6 to 12.5 % apart over the whole range.
//! - m: a sign, and magnitudes 0 and 2⁻¹⁶·1.25 … 1;
//! - v: magnitudes 2⁻³²·1.125 … 1 without zero, the range of m's squares, so that no root of v vanishes under an m
//!   that does not.
//!
//! A decaying average moves by less than the spacing (β2 = 0.999: by 0.1 % a step), so rounding to the nearest would hold it
//! in place. Values are rounded to either neighbour with the probability that keeps the mean, by a hash of parameter,
//! update and element: unbiased, and the same in every run.

#![expect(
    clippy::inline_always,
    reason = "parts of a loop that is compiled for the vector instructions of the CPU at hand"
)]

pub(super) use crate::model::ops::cuda::adamw::BLOCK;

/// Bits of an f32 below the three of a code's mantissa.
const DROPPED: u32 = 20;
/// Bits of 1.0, the largest relative magnitude, without the dropped ones.
const ONE: u32 = 1.0f32.to_bits() >> DROPPED;
/// What a code of m, and of v, lacks to those of its value's bits that are not dropped.
const FIRST_OFFSET: u32 = ONE - 127;
const SECOND_OFFSET: u32 = ONE - 255;
const SIGN: u8 = 0x80;

/// A master's bits → the nearest bf16's bits and the master's low half.
#[inline(always)]
pub(super) fn split(master: f32) -> (u16, i16) {
    let bits = master.to_bits();
    ((bits.wrapping_add(0x8000) >> 16) as u16, bits as i16)
}

/// The master that [`split`] gave these halves.
#[inline(always)]
pub(super) fn join(weight: u16, low: i16) -> f32 {
    f32::from_bits((u32::from(weight) << 16).wrapping_add(i32::from(low) as u32))
}

/// 32 bits that look random and follow from both numbers (the mixer `lowbias32` of C. Wellons).
#[inline(always)]
pub(super) fn hash(seed: u32, index: u32) -> u32 {
    let mut x = seed ^ index;
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// m of a code and its block's scale.
#[inline(always)]
pub(super) fn first(code: u8, scale: f32) -> f32 {
    let magnitude = u32::from(code & !SIGN);
    let kept = if magnitude == 0 {
        0
    } else {
        magnitude + FIRST_OFFSET
    };
    f32::from_bits(kept << DROPPED | u32::from(code & SIGN) << 24) * scale
}

/// v of a code and its block's scale.
#[inline(always)]
pub(super) fn second(code: u8, scale: f32) -> f32 {
    f32::from_bits((u32::from(code) + SECOND_OFFSET) << DROPPED) * scale
}

/// A code of m = `value`, |m| ≤ `scale`; `noise` (16 bits) decides between neighbours.
#[inline(always)]
pub(super) fn first_code(value: f32, scale: f32, noise: u32) -> u8 {
    // Below the smallest magnitude, the neighbours are that and zero.
    const SMALLEST: u32 = (FIRST_OFFSET + 1) << DROPPED;
    let relative = relative(value.abs(), scale);
    let magnitude = if relative.to_bits() < SMALLEST {
        let threshold = (noise as f32 + 0.5) * f32::from_bits(SMALLEST) * (1.0 / 65_536.0);
        u32::from(relative > threshold)
    } else {
        rounded(relative, noise) - FIRST_OFFSET
    };
    magnitude.min(127) as u8 | ((value.to_bits() >> 24) as u8 & SIGN)
}

/// A code of v = `value`, 0 ≤ v ≤ `scale`; `noise` (16 bits) decides between neighbours.
#[inline(always)]
pub(super) fn second_code(value: f32, scale: f32, noise: u32) -> u8 {
    rounded(relative(value, scale), noise)
        .saturating_sub(SECOND_OFFSET)
        .min(255) as u8
}

#[inline(always)]
fn relative(value: f32, scale: f32) -> f32 {
    if scale > 0.0 { value / scale } else { 0.0 }
}

/// The bits that are kept, after adding up to one unit of the last of them.
#[inline(always)]
fn rounded(relative: f32, noise: u32) -> u32 {
    (relative.to_bits() + (noise << (DROPPED - 16))) >> DROPPED
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are meant")]
mod tests {
    use super::*;
    use half::bf16;

    /// Bits spread over all exponents and both signs, and what lies around ties and carries.
    fn masters() -> impl Iterator<Item = f32> {
        let spread = (0..200_000u32).map(|i| hash(7, i));
        let edges = (0..=0xffffu32)
            .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| high << 16 | low));
        spread.chain(edges).map(f32::from_bits)
    }

    #[test]
    fn a_split_master_is_exact_and_its_weight_is_the_nearest() {
        for master in masters() {
            let (weight, low) = split(master);
            assert_eq!(join(weight, low).to_bits(), master.to_bits());
            if master.is_finite() {
                let weight = bf16::from_bits(weight);
                let nearest = bf16::from_f32(master);
                let tie = master.to_bits() & 0xffff == 0x8000;
                assert!(weight == nearest || tie, "{master:e}");
                if weight.is_finite() && nearest.is_finite() {
                    let distance = |w: bf16| (f64::from(w) - f64::from(master)).abs();
                    assert_eq!(distance(weight), distance(nearest), "{master:e}");
                }
            }
        }
    }

    #[test]
    fn codes_decode_to_themselves_and_neighbours_are_close() {
        for noise in [0, 1, 0x7fff, 0xffff] {
            for code in 0..=255u8 {
                if code != SIGN {
                    let value = first(code, 3.0);
                    assert_eq!(first_code(value, 3.0, noise), code, "{noise}");
                }
                assert_eq!(second_code(second(code, 3.0), 3.0, noise), code, "{noise}");
            }
        }
        for code in 1..127 {
            let step = first(code + 1, 1.0) / first(code, 1.0);
            assert!((1.06..=1.125).contains(&step), "{code}: {step}");
        }
        assert_eq!((first(127, 2.0), first(255, 2.0)), (2.0, -2.0));
        assert_eq!((first(0, 2.0), second(255, 2.0)), (0.0, 2.0));
        assert!(second(0, 1.0) > 0.0 && first(1, 1.0).powi(2) >= second(0, 1.0));
        assert_eq!((first_code(0.0, 0.0, 9), second_code(0.0, 0.0, 9)), (0, 0));
    }

    #[test]
    fn rounding_keeps_the_mean() {
        for value in [0.9, 0.31, 1e-3, 2e-5, 1e-6] {
            let draws = 1 << 16;
            let mean = |decoded: &dyn Fn(u32) -> f32| {
                let sum: f64 = (0..draws).map(|noise| f64::from(decoded(noise))).sum();
                sum / f64::from(draws)
            };
            let m = mean(&|noise| first(first_code(-value, 1.0, noise), 1.0));
            let v = mean(&|noise| second(second_code(value, 1.0, noise), 1.0));
            let value = f64::from(value);
            assert!((m + value).abs() < 1e-4 * value + 1e-9, "m {value}: {m}");
            assert!((v - value).abs() < 1e-4 * value, "v {value}: {v}");
        }
    }
}
