//! The AdamW update in one pass over weights, state and gradient, with the state in f32 or in 8 bits.
//!
//! Its twin, and what the formats mean, is in `train::optimizer`; both give the same bits.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, module};
use candle_core::{DType, Result, Tensor, bail};

static MODULE: Module = module!("adamw");
const THREADS: u32 = 256;

/// Values of an 8-bit moment that share a scale.
pub(crate) const BLOCK: usize = THREADS as usize;

/// The numbers of one parameter's update: m ← m + `first`·(g·`scale` − m), v ← `keep_second`·v + `second`·(g·`scale`)²,
/// w ← `keep`·w − `size`·m / (√v / `correction` + `epsilon`).
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the formula says it")]
pub struct Rates {
    pub scale: f32,
    pub first: f32,
    pub keep_second: f32,
    pub second: f32,
    pub keep: f32,
    pub size: f32,
    pub correction: f32,
    pub epsilon: f32,
}

impl Rates {
    fn given<'a>(&self, launch: Launch<'a>) -> Launch<'a> {
        let values = [
            self.scale,
            self.first,
            self.keep_second,
            self.second,
            self.keep,
            self.size,
            self.correction,
            self.epsilon,
        ];
        values.into_iter().fold(launch, Launch::float)
    }
}

/// Moves `master`, `first` and `second` (f32) in place by `gradient`; `weight` is set to the new masters nearest in bf16,
/// or there is none and gradient and master are f32.
///
/// # Errors
/// Shapes or formats that do not fit.
pub fn full(
    [master, first, second]: [&Tensor; 3],
    gradient: &Tensor,
    weight: Option<&Tensor>,
    rates: &Rates,
) -> Result<()> {
    let dtype = weight.map_or(DType::F32, Tensor::dtype);
    check(master, DType::F32, gradient, dtype)?;
    check(first, DType::F32, second, DType::F32)?;
    check(master, DType::F32, first, DType::F32)?;
    let launch = Launch::of_dtype(&MODULE, "adamw", dtype)?
        .tensor(master)
        .tensor(first)
        .tensor(second)
        .tensor(gradient);
    let launch = match weight {
        None => launch,
        Some(weight) => {
            check(master, DType::F32, weight, DType::BF16)?;
            launch.tensor(weight)
        }
    };
    let count = master.elem_count();
    rates
        .given(launch.size(count))
        .run(Grid::covering(count, THREADS))
}

/// As [`full`] with moments of `[codes [n], scales [⌈n / BLOCK⌉]]`. A bf16 `weight` has its masters' low halves `[n]`
/// (i16) beside it, an f32 one is its own master. `seed` decides how codes are rounded.
///
/// # Errors
/// Shapes or formats that do not fit.
pub(crate) fn compact(
    weight: &Tensor,
    low: Option<&Tensor>,
    [first, second]: [[&Tensor; 2]; 2],
    gradient: &Tensor,
    seed: u32,
    rates: &Rates,
) -> Result<()> {
    let dtype = if low.is_some() {
        DType::BF16
    } else {
        DType::F32
    };
    check(weight, dtype, gradient, dtype)?;
    let count = weight.elem_count();
    let blocks = count.div_ceil(BLOCK);
    let parts = [
        (low, DType::I16, count),
        (Some(first[0]), DType::U8, count),
        (Some(first[1]), DType::F32, blocks),
        (Some(second[0]), DType::U8, count),
        (Some(second[1]), DType::F32, blocks),
    ];
    let mut launch = Launch::of_dtype(&MODULE, "adamw_compact", dtype)?.tensor(weight);
    for (tensor, dtype, len) in parts {
        let Some(tensor) = tensor else { continue };
        if tensor.dtype() != dtype || tensor.dims() != [len] {
            bail!("adamw: {len} of {dtype:?} expected, found {tensor:?}");
        }
        launch = launch.tensor(tensor);
    }
    let launch = launch.tensor(gradient).size(count).size(seed as usize);
    rates.given(launch).run(Grid::new(blocks, THREADS))
}

fn check(a: &Tensor, a_dtype: DType, b: &Tensor, b_dtype: DType) -> Result<()> {
    if a.shape() != b.shape() || a.dtype() != a_dtype || b.dtype() != b_dtype {
        bail!(
            "adamw: {:?} {:?} beside {:?} {:?}",
            a.shape(),
            a.dtype(),
            b.shape(),
            b.dtype()
        );
    }
    Ok(())
}
