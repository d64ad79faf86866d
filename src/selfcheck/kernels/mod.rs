//! Whether a device computes what is defined: every operation that has a kernel, on random values.
//!
//! What an operation is defined to give is composed of candle's plain operations, in f64 on the CPU, from the same values
//! as rounded to the dtype under test. How far off a result may be follows from the magnitudes of what it is made of
//! (`near.rs`). On a GPU this checks the kernels, on a CPU their twins.

mod attention;
mod head;
mod near;

use crate::config::OptimizerConfig;
use crate::config::OptimizerMemory;
use crate::config::SamplingConfig;
use crate::model::ops::Ops;
use crate::model::ops::cuda::sum_squares::sum_squares;
use crate::policy::sampler::Draw;
use crate::policy::sampler::QuestionSeed;
use crate::policy::sampler::Sampler;
use crate::train::optimizer::AdamW;
use crate::train::optimizer::Gradients;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::Var;
use near::Near;
use near::Sums;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const EPS: f64 = 1e-6;
/// Width of the rows: that of the 3B model, and one that is not a whole number of the packs that kernels read.
const WIDTHS: [usize; 2] = [2048, 1283];
/// How much there is to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the operations that treat each row alike.
    pub rows: usize,
    /// Tokens that the head and the sampler know, at least 1,000.
    pub vocabulary: usize,
}

impl Sizes {
    /// More rows than a launch has blocks on small cards, and the 3B model's vocabulary.
    pub const FULL: Self = Self {
        rows: 300,
        vocabulary: 151_936,
    };
    /// For tools that make a kernel a hundred times slower.
    pub const SMALL: Self = Self {
        rows: 20,
        vocabulary: 4099,
    };
}

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Parity {
    /// The operation, and which of its results.
    pub kernel: &'static str,
    /// Of its inputs.
    pub dtype: DType,
    /// The error of the value that is worst off, measured by its own bound; infinite where a value is not a number.
    pub max_error: f64,
    /// The largest error of that value that is all right.
    pub bound: f64,
}

impl Parity {
    /// Whether the error is within its bound.
    pub fn holds(&self) -> bool {
        self.max_error <= self.bound
    }
}

/// Compares every operation on `device`: in f32, and on a GPU in bf16 too.
pub fn parity(device: &Device, sizes: Sizes) -> Result<Vec<Parity>> {
    let mut found = Vec::new();
    let ops = Ops::of(&Tensor::zeros(1, DType::F32, device)?)?;
    let dtypes: &[DType] = match ops {
        Ops::Cuda => &[DType::F32, DType::BF16],
        Ops::Cpu => &[DType::F32],
    };
    for &dtype in dtypes {
        let mut probe = Probe {
            ops,
            device,
            dtype,
            sizes,
            generator: ChaCha8Rng::seed_from_u64(1),
            found: &mut found,
        };
        for width in WIDTHS {
            probe.norms(width)?;
            probe.swiglu(width)?;
        }
        probe.rotary()?;
        probe.head()?;
        probe.adamw()?;
        probe.attention()?;
        if ops == Ops::Cuda {
            probe.windows()?;
            probe.decoding()?;
            probe.sum_squares()?;
        }
        if !device.is_cpu() {
            probe.sampler()?;
        }
    }
    Ok(found)
}

struct Probe<'a> {
    ops: Ops,
    device: &'a Device,
    dtype: DType,
    sizes: Sizes,
    generator: ChaCha8Rng,
    found: &'a mut Vec<Parity>,
}

/// The same values on the device in the dtype under test, and on the CPU in f64.
struct Pair {
    here: Tensor,
    exact: Tensor,
}

impl Pair {
    fn near(&self) -> Result<Near> {
        Near::exact(&self.exact)
    }
}

impl Probe<'_> {
    /// Values of variance 1.
    fn random(&mut self, shape: &[usize]) -> Result<Pair> {
        let count = shape.iter().product();
        let limit = 3f32.sqrt();
        let values: Vec<f32> = (0..count)
            .map(|_| self.generator.random_range(-limit..limit))
            .collect();
        let rounded = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?;
        Ok(Pair {
            here: rounded.to_device(self.device)?,
            exact: rounded.to_dtype(DType::F64)?,
        })
    }

    /// Compares with `want`, what is defined, in f64; `near` is the same with what rounding may do to it.
    fn compare(
        &mut self,
        kernel: &'static str,
        got: &Tensor,
        want: &Tensor,
        near: &Near,
    ) -> Result<()> {
        let values = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let got = values(&got.to_device(&Device::Cpu)?)?;
        let bounds = values(near.bounds_of(want)?)?;
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
        self.found.push(Parity {
            kernel,
            dtype: self.dtype,
            max_error: worst.1,
            bound: worst.2,
        });
    }

    fn norms(&mut self, width: usize) -> Result<()> {
        let [x, addend, above] = self.several(&[self.sizes.rows, width])?;
        let weight = self.random(&[width])?;
        let w = weight.near()?;
        let got = self.ops.rms_norm(&x.here, &weight.here, EPS)?;
        let near = Norm::of(&x.near()?)?.times(&w)?.rounded(self.dtype)?;
        let want = normed(&x.exact, &weight.exact)?;
        self.compare("rms_norm", &got, &want, &near)?;

        let (sum, got) = self
            .ops
            .add_rms_norm(&x.here, &addend.here, &weight.here, EPS)?;
        // One addition, rounded once: nothing is left to the order.
        let want = (x.exact.to_dtype(DType::F32)? + addend.exact.to_dtype(DType::F32)?)?;
        let want = want.to_dtype(self.dtype)?.to_dtype(DType::F64)?;
        let stored = Near::exact(&want)?;
        self.compare("add_rms_norm sum", &sum, &want, &stored)?;
        let near = Norm::of(&stored)?.times(&w)?.rounded(self.dtype)?;
        self.compare("add_rms_norm", &got, &normed(&want, &weight.exact)?, &near)?;

        let want = gradients(&[&x, &weight], &above, |v| normed(&v[0], &v[1]))?;
        let [near_dx, near_dw] = Norm::of(&x.near()?)?.backward(&w, &above.near()?)?;
        let (dx, dw) = self.ops.rms_norm_backward(
            &x.here,
            &weight.here,
            EPS,
            &above.here,
            Some(&addend.here),
        )?;
        let want_dx = (&want[0] + &addend.exact)?;
        let near_dx = near_dx.plus(&addend.near()?)?.rounded(self.dtype)?;
        self.compare("rms_norm_backward x", &dx, &want_dx, &near_dx)?;
        let near_dw = near_dw.rounded(self.dtype)?;
        self.compare("rms_norm_backward weight", &dw, &want[1], &near_dw)
    }

    fn several<const N: usize>(&mut self, shape: &[usize]) -> Result<[Pair; N]> {
        let pairs = (0..N).map(|_| self.random(shape));
        let pairs: Vec<Pair> = pairs.collect::<Result<_>>()?;
        pairs
            .try_into()
            .map_err(|_| candle_core::Error::Msg("as many as asked for".into()))
    }

    fn swiglu(&mut self, width: usize) -> Result<()> {
        let [gate, up, above] = self.several(&[self.sizes.rows, width])?;
        let (x, u, d) = (gate.near()?, up.near()?, above.near()?);
        let one = Near::exact(&Tensor::ones(1, DType::F64, &Device::Cpu)?)?;
        let sigmoid = one.over(&one.plus(&x.scaled(-1.0)?.exp()?)?)?;
        let silu = x.times(&sigmoid)?;
        let got = self.ops.swiglu(&gate.here, &up.here)?;
        let want = (gate.exact.silu()? * &up.exact)?;
        let near = silu.times(&u)?.rounded(self.dtype)?;
        self.compare("swiglu", &got, &want, &near)?;
        let (d_gate, d_up) = self
            .ops
            .swiglu_backward(&gate.here, &up.here, &above.here)?;
        let want = gradients(&[&gate, &up], &above, |v| v[0].silu()? * v[1].as_tensor())?;
        let slope = sigmoid.plus(&silu.times(&one.minus(&sigmoid)?)?)?;
        let near = d.times(&u)?.times(&slope)?.rounded(self.dtype)?;
        self.compare("swiglu_backward gate", &d_gate, &want[0], &near)?;
        let near = d.times(&silu)?.rounded(self.dtype)?;
        self.compare("swiglu_backward up", &d_up, &want[1], &near)
    }

    fn rotary(&mut self) -> Result<()> {
        let (heads, half, rows) = ([16, 2], 64, self.sizes.rows);
        let angles: Vec<f32> = (0..rows * half)
            .map(|_| self.generator.random_range(0.0..std::f32::consts::TAU))
            .collect();
        let angles = Tensor::from_vec(angles, (rows, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let tables = (cos.to_device(self.device)?, sin.to_device(self.device)?);
        let (cos, sin) = (cos.to_dtype(DType::F64)?, sin.to_dtype(DType::F64)?);
        let x = self.random(&[rows, 16])?;
        let mut projections = Vec::new();
        for heads in heads {
            let width = heads * 2 * half;
            projections.push((self.random(&[width, 16])?, self.random(&[width])?));
        }
        let here = |at: usize| {
            let (weight, bias): &(Pair, Pair) = &projections[at];
            (weight.here.clone(), bias.here.clone())
        };
        let (q, k) =
            self.ops
                .rotary_projections(&x.here, &here(0), &here(1), &tables.0, &tables.1)?;
        for (kernel, got, (weight, bias)) in [
            ("rotary queries", &q, &projections[0]),
            ("rotary keys", &k, &projections[1]),
        ] {
            let product = x.exact.matmul(&weight.exact.t()?)?;
            let want = turned(&product.broadcast_add(&bias.exact)?, &cos, &sin)?;
            let sums = Sums::Product(self.dtype);
            // Stored before the bias is added.
            let stored = x
                .near()?
                .matmul(&weight.near()?.t()?, sums)?
                .rounded(self.dtype)?;
            let near = near_turned(&stored.plus(&bias.near()?)?, &cos, &sin)?;
            self.compare(kernel, got, &want, &near.rounded(self.dtype)?)?;
        }
        let above = self.random(&[self.sizes.rows, 2 * 2 * half])?;
        let got = self
            .ops
            .rotary_backward(&above.here, &tables.0, &tables.1)?;
        let back = sin.neg()?;
        let want = turned(&above.exact, &cos, &back)?;
        let near = near_turned(&above.near()?, &cos, &back)?.rounded(self.dtype)?;
        self.compare("rotary_backward", &got, &want, &near)
    }

    /// The CPU's sampler is the definition.
    fn sampler(&mut self) -> Result<()> {
        let rows = 16;
        let vocabulary = self.sizes.vocabulary as u32;
        let logits = self.random(&[rows, self.sizes.vocabulary])?;
        // Four times as large in every format.
        let (here, wide) = ((&logits.here * 4.0)?, (&logits.exact * 4.0)?);
        let seed = QuestionSeed::new(1, 2, "parity");
        let seeds: Vec<_> = (0..rows).map(|row| seed.completion(row)).collect();
        let positions: Vec<usize> = (0..rows).collect();
        for (ids, logprobs, temperature, top_k, top_p) in [
            ("sampler ids", "sampler", 1.0, 0, 1.0),
            ("sampler top-k ids", "sampler top-k", 1.0, 50, 1.0),
            ("sampler top-p ids", "sampler top-p", 0.7, 0, 0.9),
            ("sampler greedy ids", "sampler greedy", 0.0, 0, 1.0),
        ] {
            let config = SamplingConfig {
                temperature,
                top_k,
                top_p,
                ..SamplingConfig::default()
            };
            let sampler = Sampler::new(&config, &[vocabulary - 281, vocabulary - 280]);
            let (got, want) = (
                sampler.draw_rows(self.ops, &here, &seeds, &positions)?,
                sampler.draw_rows(Ops::Cpu, &wide, &seeds, &positions)?,
            );
            let of_ids = |draws: &[Draw]| -> Vec<f64> {
                draws.iter().map(|draw| f64::from(draw.id)).collect()
            };
            self.compare_values(ids, &of_ids(&got), &of_ids(&want), &vec![0.0; rows]);
            let of_logprobs = |draws: &[Draw]| -> Vec<f64> {
                draws.iter().map(|draw| f64::from(draw.logprob)).collect()
            };
            // Distances of up to 20 from the largest logit in f32, and exponentials of theirs, which add up in f64.
            let bounds = vec![64.0 / f64::from(1 << 24); rows];
            self.compare_values(logprobs, &of_logprobs(&got), &of_logprobs(&want), &bounds);
        }
        Ok(())
    }

    fn sum_squares(&mut self) -> Result<()> {
        let [x, y] = self.several(&[self.sizes.rows, WIDTHS[1]])?;
        let got = sum_squares([&x.here, &y.here], self.device)?;
        let got = got.to_vec1::<f64>()?[0];
        let mut want = 0.0;
        for x in [x.exact, y.exact] {
            want += x.sqr()?.sum_all()?.to_scalar::<f64>()?;
        }
        // Eight squares at most add up in f32.
        let bound = want * 9.0 / f64::from(1 << 24);
        self.compare_values("sum_squares", &[got], &[want], &[bound]);
        Ok(())
    }

    /// Weights after three updates; on every device to the bit.
    fn adamw(&mut self) -> Result<()> {
        for (kernel, memory) in [
            ("adamw", OptimizerMemory::Full),
            ("adamw compact", OptimizerMemory::Compact),
            ("adamw in host memory", OptimizerMemory::Host),
        ] {
            let [start, gradient] = self.several(&[self.sizes.rows, WIDTHS[1]])?;
            let config = OptimizerConfig {
                memory,
                // Norms are sums, whose order differs; here none clips.
                max_grad_norm: 1e9,
                ..OptimizerConfig::default()
            };
            let updated = |device: &Device| -> Result<Vec<f64>> {
                let var = Var::from_tensor(&start.here.to_device(device)?)?;
                let mut adamw = AdamW::new([("w".to_owned(), var.clone())], &config)?;
                let gradient = gradient.here.to_device(device)?;
                for _ in 0..3 {
                    let gradients = Gradients::from([("w".to_owned(), gradient.clone())]);
                    adamw.step(&gradients, 1e-3)?;
                }
                let weight = var.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
                weight.flatten_all()?.to_vec1()
            };
            let (got, want) = (updated(self.device)?, updated(&Device::Cpu)?);
            self.compare_values(kernel, &got, &want, &vec![0.0; want.len()]);
        }
        Ok(())
    }
}

fn normed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(1)? + EPS)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// Rows `x` divided by their root mean square, of which `inverse` is the inverse.
struct Norm {
    x: Near,
    inverse: Near,
}

impl Norm {
    fn of(x: &Near) -> Result<Self> {
        let width = x.value().dim(1)? as f64;
        let eps = Near::exact(&Tensor::new(&[[EPS]], &Device::Cpu)?)?;
        let squares = x.times(x)?.sum(1, Sums::Ours)?;
        let inverse = squares.scaled(1.0 / width)?.plus(&eps)?.inverse_root()?;
        Ok(Self {
            x: x.clone(),
            inverse,
        })
    }

    fn times(&self, weight: &Near) -> Result<Near> {
        self.x.times(&self.inverse)?.times(weight)
    }

    /// Gradients of the rows and of the weight.
    fn backward(&self, weight: &Near, above: &Near) -> Result<[Near; 2]> {
        let width = self.x.value().dim(1)? as f64;
        let scaled = above.times(weight)?;
        let along = scaled.times(&self.x)?.sum(1, Sums::Ours)?;
        let pull = along.times(&self.inverse)?.times(&self.inverse)?;
        let pulled = self.x.times(&pull.scaled(1.0 / width)?)?;
        let dx = scaled.minus(&pulled)?.times(&self.inverse)?;
        let dw = above.times(&self.x)?.times(&self.inverse)?;
        Ok([dx, dw.sum(0, Sums::Ours)?.shaped(|x| x.squeeze(0))?])
    }
}

/// The first half of every head against the second.
fn turned(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, half) = cos.dims2()?;
    let halves = x.reshape((rows, (), 2, half))?;
    let (a, b) = (halves.narrow(2, 0, 1)?, halves.narrow(2, 1, 1)?);
    let (cos, sin) = (
        cos.reshape((rows, 1, 1, half))?,
        sin.reshape((rows, 1, 1, half))?,
    );
    let low = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let high = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[low, high], 2)?.reshape(x.shape())
}

/// As [`turned`].
fn near_turned(x: &Near, cos: &Tensor, sin: &Tensor) -> Result<Near> {
    let (rows, half) = cos.dims2()?;
    let part = |at: usize| x.shaped(|x| x.reshape((rows, (), 2, half))?.narrow(2, at, 1));
    let (a, b) = (part(0)?, part(1)?);
    let table = |x: &Tensor| Near::exact(&x.reshape((rows, 1, 1, half))?);
    let (cos, sin) = (table(cos)?, table(sin)?);
    let low = a.times(&cos)?.minus(&b.times(&sin)?)?;
    let high = b.times(&cos)?.plus(&a.times(&sin)?)?;
    let shape = x.value().shape();
    Near::cat(&[low, high], 2)?.shaped(|x| x.reshape(shape))
}

/// Gradients of `(f(inputs) · upstream).sum()` as candle gives them, in f64.
fn gradients(
    inputs: &[&Pair],
    upstream: &Pair,
    f: impl Fn(&[Var]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let vars = inputs.iter().map(|input| Var::from_tensor(&input.exact));
    let vars: Vec<Var> = vars.collect::<Result<_>>()?;
    let store = (f(&vars)? * &upstream.exact)?.sum_all()?.backward()?;
    vars.iter()
        .map(|var| match store.get(var) {
            Some(gradient) => Ok(gradient.clone()),
            None => candle_core::bail!("an input has no gradient"),
        })
        .collect()
}

#[cfg(test)]
mod tests;
