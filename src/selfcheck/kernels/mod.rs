//! Whether a device computes what is defined: every operation that has a kernel, on random values.
//!
//! What an operation is defined to give is composed of candle's plain operations, in f64 on the CPU, from the same values
//! as rounded to the dtype under test. How far off a result may be follows from the magnitudes of what it is made of
//! (`ball.rs`). On a GPU this checks the kernels, on a CPU their twins.

mod attention;
mod ball;
mod head;
mod layers;
mod optimizer;
mod sampler;

use crate::model::ops::Ops;
use ball::Ball;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::Var;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Width of the rows: that of the 3B model, and one that is not a whole number of the packs that kernels read.
const WIDTHS: [usize; 2] = [2048, 1283];

/// How much there is to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProblemSizes {
    /// Rows of the operations that treat each row alike.
    pub(crate) rows: usize,
    /// Tokens that the head and the sampler know, at least 1,000.
    pub(crate) vocabulary: usize,
}

impl ProblemSizes {
    /// More rows than a launch has blocks on small cards, and the 3B model's vocabulary.
    pub(crate) const FULL: Self = Self {
        rows: 300,
        vocabulary: 151_936,
    };
    /// For tools that make a kernel a hundred times slower.
    pub(crate) const SMALL: Self = Self {
        rows: 20,
        vocabulary: 4099,
    };
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KernelComparison {
    /// The operation, and which of its results.
    pub(crate) kernel: &'static str,
    /// Of its inputs.
    pub(crate) dtype: DType,
    /// The error of the value that is worst off, measured by its own bound; infinite where a value is not a number.
    pub(crate) max_error: f64,
    /// The largest error of that value that is all right.
    pub(crate) bound: f64,
}

impl KernelComparison {
    /// Whether the error is within its bound.
    pub(crate) fn holds(&self) -> bool {
        self.max_error <= self.bound
    }
}

/// Compares every operation on `device`: in f32, and on a GPU in bf16 too.
pub(crate) fn compare_kernels(
    device: &Device,
    sizes: ProblemSizes,
) -> Result<Vec<KernelComparison>> {
    let mut found = Vec::new();
    let ops = Ops::of(&Tensor::zeros(1, DType::F32, device)?)?;
    let dtypes: &[DType] = match ops {
        Ops::Cuda => &[DType::F32, DType::BF16],
        Ops::Cpu => &[DType::F32],
    };
    for &dtype in dtypes {
        let mut check = KernelCheck {
            ops,
            device,
            dtype,
            sizes,
            generator: ChaCha8Rng::seed_from_u64(1),
            found: &mut found,
        };
        for width in WIDTHS {
            check.norms(width)?;
            check.swiglu(width)?;
        }
        check.rotary()?;
        check.head()?;
        check.adamw()?;
        check.attention()?;
        if ops == Ops::Cuda {
            check.windows()?;
            check.decoding()?;
            check.sum_squares()?;
        }
        if !device.is_cpu() {
            check.sampler()?;
        }
    }
    Ok(found)
}

struct KernelCheck<'a> {
    ops: Ops,
    device: &'a Device,
    dtype: DType,
    sizes: ProblemSizes,
    generator: ChaCha8Rng,
    found: &'a mut Vec<KernelComparison>,
}

/// The same values on the device in the dtype under test, and on the CPU in f64.
struct TestTensor {
    on_device: Tensor,
    exact: Tensor,
}

impl TestTensor {
    fn ball(&self) -> Result<Ball> {
        Ball::exact(&self.exact)
    }
}

impl KernelCheck<'_> {
    /// Values of variance 1.
    fn random(&mut self, shape: &[usize]) -> Result<TestTensor> {
        let count = shape.iter().product();
        let limit = 3f32.sqrt();
        let values: Vec<f32> = (0..count)
            .map(|_| self.generator.random_range(-limit..limit))
            .collect();
        let rounded = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?;
        Ok(TestTensor {
            on_device: rounded.to_device(self.device)?,
            exact: rounded.to_dtype(DType::F64)?,
        })
    }

    fn several<const N: usize>(&mut self, shape: &[usize]) -> Result<[TestTensor; N]> {
        let pairs = (0..N).map(|_| self.random(shape));
        let pairs: Vec<TestTensor> = pairs.collect::<Result<_>>()?;
        pairs
            .try_into()
            .map_err(|_| candle_core::Error::Msg("as many as asked for".into()))
    }

    /// Compares with `want`, what is defined, in f64; `ball` is the same with what rounding may do to it.
    fn compare(
        &mut self,
        kernel: &'static str,
        got: &Tensor,
        want: &Tensor,
        ball: &Ball,
    ) -> Result<()> {
        let values = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let got = values(&got.to_device(&Device::Cpu)?)?;
        let bounds = values(ball.bounds_of(want)?)?;
        self.compare_values(kernel, &got, &values(want)?, &bounds);
        Ok(())
    }

    fn compare_values(&mut self, kernel: &'static str, got: &[f64], want: &[f64], bounds: &[f64]) {
        // How many bounds off, how far, and the bound.
        let mut worst = (0.0, 0.0, bounds.first().copied().unwrap_or(0.0));
        if got.len() != want.len() || want.len() != bounds.len() {
            worst = (f64::INFINITY, f64::INFINITY, 0.0);
        }
        for ((got, want), &bound) in got.iter().zip(want).zip(bounds) {
            let error = (got - want).abs();
            let error = if error.is_nan() { f64::INFINITY } else { error };
            // 0 of 0 is as good as can be.
            let share = if error > 0.0 { error / bound } else { 0.0 };
            if share > worst.0 {
                worst = (share, error, bound);
            }
        }
        self.found.push(KernelComparison {
            kernel,
            dtype: self.dtype,
            max_error: worst.1,
            bound: worst.2,
        });
    }
}

/// Gradients of `(f(inputs) · grad_output).sum()` as candle gives them, in f64.
fn gradients(
    inputs: &[&TestTensor],
    grad_output: &TestTensor,
    f: impl Fn(&[Var]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let vars = inputs.iter().map(|input| Var::from_tensor(&input.exact));
    let vars: Vec<Var> = vars.collect::<Result<_>>()?;
    let store = (f(&vars)? * &grad_output.exact)?.sum_all()?.backward()?;
    vars.iter()
        .map(|var| match store.get(var) {
            Some(gradient) => Ok(gradient.clone()),
            None => candle_core::bail!("an input has no gradient"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
