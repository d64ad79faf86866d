//! The AdamW update on a CPU: one pass over a parameter by all cores, nothing allocated.

use super::compact::{self, BLOCK};
use crate::model::ops::cuda::adamw::Rates;
use crate::model::ops::vectorized;
use candle_core::{
    CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail,
};
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;

/// Elements per task; also the blocks whose sums are added in order, so that the thread count changes no result.
const TASK: usize = 1 << 15;

/// A number format of weights and gradients.
pub(super) trait Value: WithDType + Stored {
    fn widen(self) -> f32;
    /// The nearest value; ties go to the even neighbour.
    fn nearest(value: f32) -> Self;
}

impl Value for f32 {
    #[inline]
    fn widen(self) -> f32 {
        self
    }
    #[inline]
    fn nearest(value: f32) -> Self {
        value
    }
}

impl Value for bf16 {
    #[inline]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline]
    fn nearest(value: f32) -> Self {
        let bits = value.to_bits();
        Self::from_bits((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
    }
}

/// What a CPU tensor can hold.
pub(super) trait Stored: Sized {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! stored {
    ($($name:ident: $type:ty),*) => {
        $(impl Stored for $type {
            fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    CpuStorage::$name(values) => Some(values),
                    _ => None,
                }
            }
        })*
    };
}
stored!(F32: f32, BF16: bf16, U8: u8, I16: i16);

/// Gives the values of a contiguous CPU tensor to `work`, to be changed in place.
pub(super) fn lend<T: Stored, R>(
    tensor: &Tensor,
    work: impl FnOnce(&mut [T]) -> Result<R>,
) -> Result<R> {
    struct Lend<F, R> {
        work: Cell<Option<F>>,
        result: Cell<Option<R>>,
        run: fn(F, &mut CpuStorage, &Layout) -> Result<R>,
    }
    impl<F, R> InplaceOp1 for Lend<F, R> {
        fn name(&self) -> &'static str {
            "adamw"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            if let Some(work) = self.work.take() {
                self.result.set(Some((self.run)(work, storage, layout)?));
            }
            Ok(())
        }
    }
    let lend = Lend {
        work: Cell::new(Some(work)),
        result: Cell::new(None),
        run: |work, storage, layout| match (T::of(storage), layout.contiguous_offsets()) {
            (Some(values), Some((start, end))) => work(&mut values[start..end]),
            _ => bail!("adamw: expected contiguous values of another format"),
        },
    };
    tensor.inplace_op1(&lend)?;
    match lend.result.take() {
        Some(result) => Ok(result),
        None => bail!("adamw: no values were lent"),
    }
}

/// Reads the values of a contiguous CPU tensor.
fn read<T: WithDType, R>(tensor: &Tensor, work: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => {
            work(&T::cpu_storage_as_slice(storage)?[start..end])
        }
        _ => bail!("adamw: expected contiguous values on the CPU"),
    }
}

/// Moves `master`, `first` and `second` (f32) in place; the values of the new masters nearest in `rounded`'s format go
/// there. All are contiguous and of one shape.
pub(super) fn update_full<G: Value, W: Value>(
    [master, first, second]: [&Tensor; 3],
    gradient: &Tensor,
    rounded: Option<&Tensor>,
    rates: &Rates,
) -> Result<()> {
    read::<G, _>(gradient, |gradient| {
        lend::<f32, _>(master, |master| {
            lend::<f32, _>(first, |first| {
                lend::<f32, _>(second, |second| {
                    let parts = master
                        .par_chunks_mut(TASK)
                        .zip(first.par_chunks_mut(TASK).zip(second.par_chunks_mut(TASK)))
                        .zip(gradient.par_chunks(TASK));
                    match rounded {
                        None => parts.for_each(|((w, (m, v)), g)| full(w, m, v, g, rates)),
                        Some(rounded) => lend::<W, _>(rounded, |rounded| {
                            parts.zip(rounded.par_chunks_mut(TASK)).for_each(
                                |(((w, (m, v)), g), rounded)| {
                                    full(w, m, v, g, rates);
                                    vectorized(|| {
                                        for (rounded, w) in rounded.iter_mut().zip(w) {
                                            *rounded = W::nearest(*w);
                                        }
                                    });
                                },
                            );
                            Ok(())
                        })?,
                    }
                    Ok(())
                })
            })
        })
    })
}

/// m ← m + (1 − β1)·(g − m); v ← β2·v + (1 − β2)·g²;
/// w ← (1 − lr·λ)·w − lr/(1 − β1^t) · m / (sqrt(v)/sqrt(1 − β2^t) + ε)
fn full<G: Value>(
    master: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[G],
    rates: &Rates,
) {
    vectorized(|| {
        let moments = first.iter_mut().zip(second.iter_mut());
        for ((w, (m, v)), g) in master.iter_mut().zip(moments).zip(gradient) {
            *w = moved(*w, m, v, g.widen(), rates);
        }
    });
}

#[expect(clippy::inline_always, reason = "a part of a vectorized loop")]
#[inline(always)]
fn moved(w: f32, m: &mut f32, v: &mut f32, gradient: f32, rates: &Rates) -> f32 {
    let g = gradient * rates.scale;
    *m += rates.first * (g - *m);
    *v = rates.keep_second * *v + rates.second * g * g;
    rates.keep * w - rates.size * (*m / (v.sqrt() / rates.correction + rates.epsilon))
}

/// A moment in 8 bits: `codes [n]` and a scale for each [`BLOCK`] of them.
#[derive(Clone, Copy)]
pub(super) struct Coded<'a> {
    pub(super) codes: &'a Tensor,
    pub(super) scales: &'a Tensor,
}

impl Coded<'_> {
    fn lend<R>(self, work: impl FnOnce(&mut [u8], &mut [f32]) -> Result<R>) -> Result<R> {
        lend::<u8, _>(self.codes, |codes| {
            lend::<f32, _>(self.scales, |scales| work(codes, scales))
        })
    }
}

/// As [`update_full`] for moments in 8 bits. `low` holds the masters' low halves of a bf16 `weight`; an f32 weight is
/// its own master.
pub(super) fn update_compact<G: Value>(
    weight: &Tensor,
    low: Option<&Tensor>,
    [first, second]: [Coded; 2],
    gradient: &Tensor,
    seed: u32,
    rates: &Rates,
) -> Result<()> {
    read::<G, _>(gradient, |gradient| {
        first.lend(|first, first_scales| {
            second.lend(|second, second_scales| {
                let first = first.par_chunks_mut(BLOCK).zip(first_scales);
                let second = second.par_chunks_mut(BLOCK).zip(second_scales);
                let blocks = first
                    .zip(second)
                    .zip(gradient.par_chunks(BLOCK))
                    .enumerate()
                    .with_min_len(TASK / BLOCK);
                let Some(low) = low else {
                    return lend::<f32, _>(weight, |weight| {
                        blocks.zip(weight.par_chunks_mut(BLOCK)).for_each(
                            |((index, ((m, v), g)), weight)| {
                                compact_block(weight, m, v, g, index, seed, rates);
                            },
                        );
                        Ok(())
                    });
                };
                lend::<bf16, _>(weight, |weight| {
                    lend::<i16, _>(low, |low| {
                        let halves = weight.par_chunks_mut(BLOCK).zip(low.par_chunks_mut(BLOCK));
                        blocks
                            .zip(halves)
                            .for_each(|((index, ((m, v), g)), halves)| {
                                split_block(halves, m, v, g, index, seed, rates);
                            });
                        Ok(())
                    })
                })
            })
        })
    })
}

/// A block whose masters are split over its weights and their low halves.
fn split_block<G: Value>(
    (weight, low): (&mut [bf16], &mut [i16]),
    first: (&mut [u8], &mut f32),
    second: (&mut [u8], &mut f32),
    gradient: &[G],
    index: usize,
    seed: u32,
    rates: &Rates,
) {
    let mut master = [0f32; BLOCK];
    let master = &mut master[..weight.len()];
    for (master, (weight, low)) in master.iter_mut().zip(weight.iter().zip(low.iter())) {
        *master = compact::join(weight.to_bits(), *low);
    }
    compact_block(master, first, second, gradient, index, seed, rates);
    for (master, (weight, low)) in master.iter().zip(weight.iter_mut().zip(low)) {
        let (high, rest) = compact::split(*master);
        (*weight, *low) = (bf16::from_bits(high), rest);
    }
}

/// Block `index` of a parameter: its moments are decoded, move the masters as they are, and are encoded again.
fn compact_block<G: Value>(
    master: &mut [f32],
    (first, first_scale): (&mut [u8], &mut f32),
    (second, second_scale): (&mut [u8], &mut f32),
    gradient: &[G],
    index: usize,
    seed: u32,
    rates: &Rates,
) {
    let start = (index * BLOCK) as u32;
    vectorized(|| {
        let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (m, v) = (&mut m[..first.len()], &mut v[..first.len()]);
        for i in 0..first.len() {
            m[i] = compact::first(first[i], *first_scale);
            v[i] = compact::second(second[i], *second_scale);
            master[i] = moved(master[i], &mut m[i], &mut v[i], gradient[i].widen(), rates);
        }
        let largest = |largest: f32, x: &f32| largest.max(x.abs());
        *first_scale = m.iter().fold(0.0, largest);
        *second_scale = v.iter().fold(0.0, largest);
        for i in 0..first.len() {
            let noise = compact::hash(seed, start.wrapping_add(i as u32));
            first[i] = compact::first_code(m[i], *first_scale, noise & 0xffff);
            second[i] = compact::second_code(v[i], *second_scale, noise >> 16);
        }
    });
}

/// Σ x² of a contiguous f32 or bf16 tensor, block sums in f64.
pub(super) fn sum_of_squares(values: &Tensor) -> Result<f64> {
    match values.dtype() {
        DType::F32 => read(values, |values: &[f32]| Ok(squares(values))),
        DType::BF16 => read(values, |values: &[bf16]| Ok(squares(values))),
        other => bail!("optimizer: a gradient of {other:?}"),
    }
}

fn squares<G: Value>(values: &[G]) -> f64 {
    let blocks: Vec<f64> = values
        .par_chunks(TASK)
        .map(|block| {
            let squares = block.iter().map(|x| f64::from(x.widen()).powi(2));
            squares.sum()
        })
        .collect();
    blocks.iter().sum()
}
