//! What rounding may do to a result, in ball arithmetic: each value is a ball, whose radius is the most that a computation
//! in f32, rounded where its definition says so, can be off it.
//!
//! An operation is composed of [`Ball`] values in f64, and each step adds what it can contribute (a running error
//! analysis; Higham, Accuracy and Stability of Numerical Algorithms, 3.3). So a bound follows the magnitudes of the very
//! numbers that are added up: a product of size 20 that is rounded to bf16 may be off by 1/16, one of size 0.1 by 1/2500.

use candle_core::{D, DType, Device, Result, Tensor, bail};

/// Half a unit in the last place of a number, relative to it.
const F32: f64 = 1.0 / (1 << 24) as f64;
const BF16: f64 = 1.0 / (1 << 8) as f64;
/// What f32 does not hold apart from 0.
const TINY: f64 = 1e-37;
/// Terms that our own kernels, and what takes their place on a CPU, add up in a row: longer sums are sums of parts.
const IN_A_ROW: usize = 320;
/// Standard errors, as it were: see [`Accumulation::MatrixProduct`].
const CONFIDENCE: f64 = 8.0;
/// Stands for −∞ in scores: its exponential is 0, its differences are numbers.
pub(super) const UNSEEN: f64 = -1e4;

/// Who adds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Accumulation {
    /// Our kernels, in f32: as a product, but never more than [`IN_A_ROW`] terms in one sum of a sum of sums.
    Kernel,
    /// A matrix product of this format, whose order of sums nobody states.
    ///
    /// In f32 each addition is rounded to nearest and the errors are as often up as down, whatever the order: after n
    /// of them λ √n u Σ|terms| is exceeded with a probability of at most 2 exp(−λ²/2) for each addition (Higham and
    /// Mary, SIAM J. Sci. Comput. 41, 2019, A2815), for λ = 8 some 10⁻⁹ in the longest sum. The bound without
    /// probability, n u Σ|terms|, would be 50 times that: too wide to see a part of a sum left out. Tensor cores, which
    /// take bf16, cut off where they align some products to add them, so that their errors have a sign: there it must be
    /// n u, a few units for every eight products.
    MatrixProduct(DType),
}

impl Accumulation {
    /// Relative to Σ|terms|.
    fn growth(self, terms: usize) -> f64 {
        let rounded_to_nearest = |n: f64| n.min(CONFIDENCE * n.sqrt()) * F32;
        let n = terms as f64;
        match self {
            Self::Kernel => rounded_to_nearest(n.min(IN_A_ROW as f64)),
            Self::MatrixProduct(DType::F32) => rounded_to_nearest(n),
            Self::MatrixProduct(_) => (n + CONFIDENCE) * F32,
        }
    }
}

/// Values, and how far off each may be.
#[derive(Debug, Clone)]
pub(super) struct Ball {
    value: Tensor,
    radius: Tensor,
}

impl Ball {
    /// What a computation starts from.
    pub(super) fn exact(values: &Tensor) -> Result<Self> {
        let value = values.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let radius = value.zeros_like()?;
        Ok(Self { value, radius })
    }

    /// `value` after a step: `radius` is what its inputs bring, `units` roundings of f32 come to it.
    pub(super) fn with(value: Tensor, radius: &Tensor, units: f64) -> Result<Self> {
        let radius = ((radius + (value.abs()? + radius)? * (units * F32))? + TINY)?;
        Ok(Self { value, radius })
    }

    /// As they are, for other values that the same computation gives: those of an independent definition.
    ///
    /// # Errors
    /// They are others, so the bounds would be of something else.
    pub(super) fn bounds_of(&self, values: &Tensor) -> Result<&Tensor> {
        let apart = (values - &self.value)?.abs()?;
        let scale = (self.value.abs()? + 1.0)?;
        let most = (apart / scale)?.flatten_all()?.max(0)?;
        let most = most.to_scalar::<f64>()?;
        if most.is_nan() || most > 1e-9 {
            bail!("a bound is of values that are {most:e} apart from the ones compared");
        }
        Ok(&self.radius)
    }

    pub(super) fn value(&self) -> &Tensor {
        &self.value
    }

    pub(super) fn radius(&self) -> &Tensor {
        &self.radius
    }

    fn magnitude(&self) -> Result<Tensor> {
        self.value.abs()? + &self.radius
    }

    /// Another view or choice of the same values.
    pub(super) fn shaped(&self, shape: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            value: shape(&self.value)?,
            radius: shape(&self.radius)?,
        })
    }

    /// Side by side along `dim`.
    pub(super) fn cat(parts: &[Self], dim: usize) -> Result<Self> {
        let all = |which: fn(&Self) -> &Tensor| {
            let parts: Vec<&Tensor> = parts.iter().map(which).collect();
            Tensor::cat(&parts, dim)
        };
        Ok(Self {
            value: all(Self::value)?,
            radius: all(Self::radius)?,
        })
    }

    /// Rounded to `dtype` where a result, or one on the way, is stored so.
    pub(super) fn rounded(&self, dtype: DType) -> Result<Self> {
        let units = if dtype == DType::F32 { 0.0 } else { BF16 / F32 };
        Self::with(self.value.clone(), &self.radius, units)
    }

    pub(super) fn plus(&self, other: &Self) -> Result<Self> {
        let radius = self.radius.broadcast_add(&other.radius)?;
        Self::with(self.value.broadcast_add(&other.value)?, &radius, 1.0)
    }

    pub(super) fn minus(&self, other: &Self) -> Result<Self> {
        self.plus(&other.shaped_value(Tensor::neg)?)
    }

    /// Exact functions of the value that keep its distance.
    fn shaped_value(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self {
            value: f(&self.value)?,
            radius: self.radius.clone(),
        })
    }

    pub(super) fn times(&self, other: &Self) -> Result<Self> {
        let value = self.value.broadcast_mul(&other.value)?;
        let most = self.magnitude()?.broadcast_mul(&other.magnitude()?)?;
        Self::with(value.clone(), &(most - value.abs()?)?, 1.0)
    }

    pub(super) fn scaled(&self, by: f64) -> Result<Self> {
        Self::with((&self.value * by)?, &(&self.radius * by.abs())?, 1.0)
    }

    /// `self / other`, which is far from 0.
    pub(super) fn over(&self, other: &Self) -> Result<Self> {
        let value = self.value.broadcast_div(&other.value)?;
        let radius = self
            .radius
            .broadcast_add(&value.abs()?.broadcast_mul(&other.radius)?)?;
        let least = (other.value.abs()? - &other.radius)?;
        Self::with(value, &radius.broadcast_div(&least)?, 2.0)
    }

    /// 1 / √self of positive values.
    pub(super) fn inverse_root(&self) -> Result<Self> {
        let value = self.value.sqrt()?.recip()?;
        let least = (&self.value - &self.radius)?.sqrt()?.recip()?;
        Self::with(value.clone(), &(least - value)?, 4.0)
    }

    /// exp(self): good functions are off by two units in the last place, and the argument, rounded once more on its way
    /// to a power of two, by its own size.
    pub(super) fn exp(&self) -> Result<Self> {
        let value = self.value.exp()?;
        let units = ((self.value.abs()? * 2.0)? + 4.0)?;
        let radius = ((self.radius.exp()? - 1.0)? + (units * F32)?)?;
        Self::with(value.clone(), &(value * radius)?, 0.0)
    }

    /// ln(self) of positive values.
    pub(super) fn ln(&self) -> Result<Self> {
        let least = (&self.value - &self.radius)?;
        let value = self.value.log()?;
        Self::with(value, &((&self.radius / least)? + 2.0 * F32)?, 4.0)
    }

    /// Σ along `dim`, which stays with length 1.
    pub(super) fn sum(&self, dim: usize, sums: Accumulation) -> Result<Self> {
        let terms = self.value.dim(dim)?;
        let radius = self.radius.sum_keepdim(dim)?;
        let by_order = (self.magnitude()?.sum_keepdim(dim)? * sums.growth(terms))?;
        Self::with(self.value.sum_keepdim(dim)?, &(radius + by_order)?, 0.0)
    }

    /// The matrix product.
    pub(super) fn matmul(&self, other: &Self, sums: Accumulation) -> Result<Self> {
        let product = |a: &Tensor, b: &Tensor| a.contiguous()?.matmul(&b.contiguous()?);
        let terms = self.value.dim(D::Minus1)?;
        let most = product(&self.magnitude()?, &other.magnitude()?)?;
        let least = product(&self.value.abs()?, &other.value.abs()?)?;
        let radius = ((&most - least)? + (most * (sums.growth(terms) + F32))?)?;
        Self::with(product(&self.value, &other.value)?, &radius, 0.0)
    }

    pub(super) fn t(&self) -> Result<Self> {
        self.shaped(Tensor::t)
    }

    /// Less the largest value of each row, as an exponential needs it; that value is the same number everywhere.
    pub(super) fn below_largest(&self) -> Result<(Self, Tensor)> {
        let largest = self.value.max_keepdim(D::Minus1)?;
        Ok((self.minus(&Self::exact(&largest)?)?, largest))
    }
}
