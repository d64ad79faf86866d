//! Elementwise arithmetic that compilers turn into vector instructions, at the width that the CPU has.
//!
//! Sums go over a fixed number of lanes and nothing is contracted, so results are the same on every width.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined keeps the instructions of the narrowest CPU"
)]

/// Lanes of a reduction: two 512-bit registers.
const LANES: usize = 32;

/// Runs `compute` compiled for the vector instructions of this CPU. Everything it calls must be inlined.
#[inline(always)]
pub(crate) fn vectorized<T>(compute: impl FnOnce() -> T) -> T {
    struct Task<F>(F);
    impl<T, F: FnOnce() -> T> pulp::NullaryFnOnce for Task<F> {
        type Output = T;
        #[inline(always)]
        fn call(self) -> T {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Task(compute))
}

/// eˣ within two units in the last place; 0 below −87.3, where `f32` has no normal numbers.
///
/// eˣ = 2ⁿ · eʳ with n the integer nearest x / ln 2; the polynomial is the one of the Cephes library's `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the low bits with the exponent's bias added.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    const LOWEST: f32 = -87.3;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let inside = x.clamp(LOWEST, 88.02);
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (inside - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits() << 23);
    let value = ((p * r) * r + r + 1.0) * power;
    if x < LOWEST {
        0.0
    } else if x > 88.02 {
        f32::INFINITY
    } else {
        value
    }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn reduce(
    len: usize,
    start: f32,
    value: impl Fn(usize) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let whole = len / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, result) in lanes.iter_mut().enumerate() {
            *result = combine(*result, value(first + lane));
        }
    }
    for index in whole..len {
        lanes[index - whole] = combine(lanes[index - whole], value(index));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ of each of the N numbers that `values` gives for the indices below `len`: sums of blocks, so that a long sum is as
/// exact as a short one.
#[inline(always)]
pub(super) fn sums<const N: usize>(len: usize, values: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    const BLOCK: usize = 64 * LANES;
    let mut lanes = [[0f32; LANES]; N];
    for start in (0..len).step_by(BLOCK) {
        let end = (start + BLOCK).min(len);
        let mut of_block = [[0f32; LANES]; N];
        let whole = start + (end - start) / LANES * LANES;
        for first in (start..whole).step_by(LANES) {
            for lane in 0..LANES {
                for (lanes, value) in of_block.iter_mut().zip(values(first + lane)) {
                    lanes[lane] += value;
                }
            }
        }
        for index in whole..end {
            for (lanes, value) in of_block.iter_mut().zip(values(index)) {
                lanes[index - whole] += value;
            }
        }
        for (lanes, of_block) in lanes.iter_mut().zip(&of_block) {
            for (lane, value) in lanes.iter_mut().zip(of_block) {
                *lane += value;
            }
        }
    }
    lanes.map(|lanes| sum(&lanes))
}

#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    reduce(x.len(), 0.0, |i| x[i], |a, b| a + b)
}

#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let y = &y[..x.len()];
    reduce(x.len(), 0.0, |i| x[i] * y[i], |a, b| a + b)
}

/// The largest value; −∞ of none. NaN is passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    reduce(x.len(), f32::NEG_INFINITY, |i| x[i], larger)
}

/// Softmax of `scale · scores`, in place.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], scale: f32) {
    let largest = max(scores);
    for score in scores.iter_mut() {
        *score = exp((*score - largest) * scale);
    }
    let inverse = 1.0 / sum(scores);
    for score in scores {
        *score *= inverse;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_the_last_places() {
        let mut worst = 0f64;
        for step in -870_000..=880_000 {
            let x = step as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert!((exp(0.0) - 1.0).abs() < f32::MIN_POSITIVE);
        assert!(exp(f32::NEG_INFINITY) < f32::MIN_POSITIVE);
        assert!(exp(-1e4) < f32::MIN_POSITIVE);
        assert!(exp(89.0).is_infinite() && exp(f32::INFINITY).is_infinite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_take_every_value_once() {
        for len in [0, 1, 31, 32, 33, 64, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
            let y: Vec<f32> = (0..len).map(|i| (i % 5) as f32).collect();
            let total: f32 = x.iter().sum();
            let product: f32 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let close = |a: f32, b: f32| a <= b && b <= a;
            assert!(
                close(sum(&x), total) && close(dot(&x, &y), product),
                "{len}"
            );
            assert!(close(max(&x), largest), "{len}");
        }
    }

    #[test]
    fn a_vectorized_softmax_is_the_plain_one() {
        let scores: Vec<f32> = (0..77).map(|i| (i * 31 % 17) as f32 * 0.5 - 3.0).collect();
        let mut plain = scores.clone();
        softmax(&mut plain, 0.7);
        let mut wide = scores.clone();
        vectorized(|| softmax(&mut wide, 0.7));
        assert_eq!(plain, wide);
        let total: f64 = scores.iter().map(|&s| (f64::from(s) * 0.7).exp()).sum();
        for (got, score) in wide.iter().zip(&scores) {
            let want = (f64::from(*score) * 0.7).exp() / total;
            assert!((f64::from(*got) - want).abs() < 1e-6 * want + 1e-9);
        }
    }
}
