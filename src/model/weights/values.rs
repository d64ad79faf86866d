//! What the values of a tensor are like: one pass over its bytes, as fast as they come from memory.

use candle_core::DType;
use half::bf16;
use half::f16;
use rayon::iter::IndexedParallelIterator;
use rayon::iter::ParallelIterator;
use rayon::slice::ParallelSlice;

/// Weights above this are not honest: those of published models stay below some hundreds, the biases of Qwen2.5's keys among
/// them, and f16 ends at 65504.
pub(super) const HUGE: f64 = 1e4;

/// Bytes that a thread looks at in one go; a multiple of every format's width.
const CHUNK: usize = 1 << 20;

/// What is to be known of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extent {
    /// The largest magnitude; no number where one of the values is none.
    pub(crate) largest: f64,
    /// The place of the first value that is not finite, and how many there are.
    pub(crate) bad: Option<(usize, usize)>,
}

/// Looks at the little-endian values in `bytes`; `None` where they are integers.
pub(crate) fn examine(dtype: DType, bytes: &[u8]) -> Option<Extent> {
    // Without their sign, floats are ordered as their bits are, infinity and NaN at the end. As signed integers, because
    // every x86-64 compares 16-bit ones of these many at once.
    Some(match dtype {
        DType::BF16 => extent(
            bytes,
            |value| i16::from_le_bytes(value) & i16::MAX,
            |bits| bf16::from_bits(bits as u16).to_f64(),
        ),
        DType::F16 => extent(
            bytes,
            |value| i16::from_le_bytes(value) & i16::MAX,
            |bits| f16::from_bits(bits as u16).to_f64(),
        ),
        DType::F32 => extent(
            bytes,
            |value| i32::from_le_bytes(value) & i32::MAX,
            |bits| f64::from(f32::from_bits(bits as u32)),
        ),
        DType::F64 => extent(
            bytes,
            |value| i64::from_le_bytes(value) & i64::MAX,
            |bits| f64::from_bits(bits as u64),
        ),
        _ => return None,
    })
}

fn extent<const WIDTH: usize, Bits: Ord + Copy + Default + Send>(
    bytes: &[u8],
    magnitude: impl Fn([u8; WIDTH]) -> Bits + Sync,
    value: impl Fn(Bits) -> f64 + Sync,
) -> Extent {
    let largest = bytes
        .par_chunks(CHUNK)
        .map(|chunk| {
            let values = chunk.as_chunks::<WIDTH>().0.iter();
            values.fold(Bits::default(), |most, one| most.max(magnitude(*one)))
        })
        .max();
    let largest = value(largest.unwrap_or_default());
    if largest.is_finite() {
        return Extent { largest, bad: None };
    }
    let bad = bytes
        .par_chunks(CHUNK)
        .enumerate()
        .filter_map(|(chunk, bytes)| {
            let values = bytes.as_chunks::<WIDTH>().0.iter().enumerate();
            let mut bad = values.filter(|(_, one)| !value(magnitude(**one)).is_finite());
            let (first, _) = bad.next()?;
            Some((chunk * (CHUNK / WIDTH) + first, 1 + bad.count()))
        })
        .reduce_with(|a, b| (a.0.min(b.0), a.1 + b.1));
    Extent { largest, bad }
}

/// Where the value `flat` of a tensor stands in each of its dimensions.
pub(crate) fn place(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut place: Vec<usize> = dims
        .iter()
        .rev()
        .map(|size| {
            let index = flat % size;
            flat /= size;
            index
        })
        .collect();
    place.reverse();
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize, T: Copy>(values: &[T], le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| le(*value)).collect()
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_every_format() {
        // More than two chunks of the widest format.
        let mut values = vec![0.5f32; 300_000];
        values[7] = -3.0;
        let all = |values: &[f32]| {
            [
                (
                    DType::BF16,
                    bytes(values, |v| bf16::from_f32(v).to_le_bytes()),
                ),
                (
                    DType::F16,
                    bytes(values, |v| f16::from_f32(v).to_le_bytes()),
                ),
                (DType::F32, bytes(values, f32::to_le_bytes)),
                (DType::F64, bytes(values, |v| f64::from(v).to_le_bytes())),
            ]
        };
        for (dtype, bytes) in all(&values) {
            let extent = examine(dtype, &bytes).unwrap();
            assert_eq!(
                extent,
                Extent {
                    largest: 3.0,
                    bad: None
                },
                "{dtype:?}"
            );
        }
        values[299_998] = f32::NAN;
        values[280_001] = f32::NEG_INFINITY;
        for (dtype, bytes) in all(&values) {
            let extent = examine(dtype, &bytes).unwrap();
            assert!(!extent.largest.is_finite());
            assert_eq!(extent.bad, Some((280_001, 2)), "{dtype:?}");
        }
        assert_eq!(examine(DType::U8, &[255; 8]), None);
        assert_eq!(
            examine(DType::F32, &[]),
            Some(Extent {
                largest: 0.0,
                bad: None
            })
        );
        assert_eq!(place(37, &[5, 3, 4]), [3, 0, 1]);
    }
}
