//! Whether a device computes what is defined: every operation that has a kernel, on random values.
//!
//! What an operation is defined to give is composed of candle's plain operations, in f32 on the CPU, from the same values
//! as rounded to the dtype under test. On a GPU this checks the kernels, on a CPU their twins.

mod attention;

use crate::config::OptimizerConfig;
use crate::config::OptimizerMemory;
use crate::config::SamplingConfig;
use crate::kernels;
use crate::model::head::BiasRows;
use crate::model::head::CHUNK_BYTES;
use crate::model::head::Head;
use crate::model::layers;
use crate::policy::sampler::QuestionSeed;
use crate::policy::sampler::Sampler;
use crate::train::optimizer::AdamW;
use crate::train::optimizer::Gradients;
use candle_core::D;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::Var;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const EPS: f64 = 1e-6;
/// Width of the rows: that of the 3B model, and one that is not a whole number of the packs that kernels read.
const WIDTHS: [usize; 2] = [2048, 1283];
/// One rounding to bf16, which has eight significant bits, and what f32 leaves.
const ROUNDED: f64 = 1.0 / 256.0 + 1e-4;
/// Logits of up to 8 in bf16 are off by 1/64, a difference of two of them by twice that.
const LOGITS: f64 = 1.0 / 32.0;
/// f32 sums in another order.
const REORDERED: f64 = 1e-4;

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
    /// The largest error, relative to the larger of 1 and the value; infinite where a value is not a number.
    pub max_error: f64,
    /// The largest that is all right.
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
    let dtypes: &[DType] = if device.is_cpu() {
        &[DType::F32]
    } else {
        &[DType::F32, DType::BF16]
    };
    for &dtype in dtypes {
        let mut probe = Probe {
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
        if !device.is_cpu() {
            probe.windows()?;
            probe.decoding()?;
            probe.sampler()?;
            probe.sum_squares()?;
        }
    }
    Ok(found)
}

struct Probe<'a> {
    device: &'a Device,
    dtype: DType,
    sizes: Sizes,
    generator: ChaCha8Rng,
    found: &'a mut Vec<Parity>,
}

/// The same values on the device in the dtype under test, and on the CPU in f32.
struct Pair {
    here: Tensor,
    wide: Tensor,
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
            wide: rounded.to_dtype(DType::F32)?,
        })
    }

    fn bound(&self, narrow: f64) -> f64 {
        if self.dtype == DType::F32 {
            REORDERED
        } else {
            narrow
        }
    }

    fn compare(
        &mut self,
        kernel: &'static str,
        got: &Tensor,
        want: &Tensor,
        bound: f64,
    ) -> Result<()> {
        let got = got.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let got: Vec<f32> = got.flatten_all()?.to_vec1()?;
        let want = want.to_dtype(DType::F32)?;
        let want: Vec<f32> = want.flatten_all()?.to_vec1()?;
        self.compare_values(kernel, &got, &want, bound);
        Ok(())
    }

    fn compare_values(&mut self, kernel: &'static str, got: &[f32], want: &[f32], bound: f64) {
        let errors = got.iter().zip(want).map(|(got, want)| {
            let error = f64::from((got - want).abs() / want.abs().max(1.0));
            if error.is_nan() { f64::INFINITY } else { error }
        });
        let all = got.len() == want.len();
        self.found.push(Parity {
            kernel,
            dtype: self.dtype,
            max_error: errors.fold(if all { 0.0 } else { f64::INFINITY }, f64::max),
            bound,
        });
    }

    fn norms(&mut self, width: usize) -> Result<()> {
        let [x, addend, above] = self.several(&[self.sizes.rows, width])?;
        let weight = self.random(&[width])?;
        let bound = self.bound(ROUNDED);
        let got = layers::rms_norm(&x.here, &weight.here, EPS)?;
        let want = normed(&x.wide, &weight.wide)?;
        self.compare("rms_norm", &got, &want, bound)?;

        let (sum, got) = layers::add_rms_norm(&x.here, &addend.here, &weight.here, EPS)?;
        let want = (&x.wide + &addend.wide)?.to_dtype(self.dtype)?;
        let want = want.to_dtype(DType::F32)?;
        self.compare("add_rms_norm sum", &sum, &want, bound)?;
        self.compare("add_rms_norm", &got, &normed(&want, &weight.wide)?, bound)?;

        let want = gradients(&[&x, &weight], &above, |v| normed(&v[0], &v[1]))?;
        let (dx, dw) =
            layers::rms_norm_backward_add(&x.here, &weight.here, EPS, &above.here, &addend.here)?;
        let want_dx = (&want[0] + &addend.wide)?;
        self.compare("rms_norm_backward x", &dx, &want_dx, bound)?;
        // A sum over rows, of which some cancel.
        let bound = bound * (self.sizes.rows as f64).sqrt();
        self.compare("rms_norm_backward weight", &dw, &want[1], bound)
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
        let bound = self.bound(ROUNDED);
        let got = layers::swiglu(&gate.here, &up.here)?;
        let want = (gate.wide.silu()? * &up.wide)?;
        self.compare("swiglu", &got, &want, bound)?;
        let (d_gate, d_up) = layers::swiglu_backward(&gate.here, &up.here, &above.here)?;
        let want = gradients(&[&gate, &up], &above, |v| v[0].silu()? * v[1].as_tensor())?;
        self.compare("swiglu_backward gate", &d_gate, &want[0], bound)?;
        self.compare("swiglu_backward up", &d_up, &want[1], bound)
    }

    fn rotary(&mut self) -> Result<()> {
        let (heads, half, rows) = ([16, 2], 64, self.sizes.rows);
        let angles: Vec<f32> = (0..rows * half)
            .map(|_| self.generator.random_range(0.0..std::f32::consts::TAU))
            .collect();
        let angles = Tensor::from_vec(angles, (rows, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let tables = (cos.to_device(self.device)?, sin.to_device(self.device)?);
        let x = self.random(&[self.sizes.rows, 16])?;
        let mut projections = Vec::new();
        for heads in heads {
            let width = heads * 2 * half;
            projections.push((self.random(&[width, 16])?, self.random(&[width])?));
        }
        let here = |at: usize| {
            let (weight, bias): &(Pair, Pair) = &projections[at];
            (weight.here.clone(), bias.here.clone())
        };
        let (q, k) = layers::rotary_projections(&x.here, &here(0), &here(1), &tables.0, &tables.1)?;
        // A product is rounded before its bias is added.
        let bound = self.bound(5.0 * ROUNDED);
        for (kernel, got, (weight, bias)) in [
            ("rotary queries", &q, &projections[0]),
            ("rotary keys", &k, &projections[1]),
        ] {
            let projected = x
                .wide
                .matmul(&weight.wide.t()?)?
                .broadcast_add(&bias.wide)?;
            self.compare(kernel, got, &turned(&projected, &cos, &sin)?, bound)?;
        }
        let above = self.random(&[self.sizes.rows, 2 * 2 * half])?;
        let got = layers::rotary_backward(&above.here, &tables.0, &tables.1)?;
        let want = turned(&above.wide, &cos, &sin.neg()?)?;
        let bound = self.bound(ROUNDED);
        self.compare("rotary_backward", &got, &want, bound)
    }

    fn head(&mut self) -> Result<()> {
        let (rows, vocabulary) = (6, self.sizes.vocabulary);
        let [hidden, bias_hidden] = self.several(&[rows, 4])?;
        let [weight, bias_weight] = self.several(&[vocabulary, 4])?;
        let last = vocabulary as u32 - 1;
        let targets = [0, 7, last, 7, last / 2, 123];
        let [d_logprob, d_full_kl] = [
            [0.3f32, -1.0, 0.2, 0.7, 0.0, 1.0],
            [1.0, 0.1, -0.6, 0.0, 0.9, 0.4],
        ];
        // In f64: over so many tokens, sums in f32 are off by more than what is compared.
        let exact = |pair: &Pair| pair.wide.to_dtype(DType::F64);
        let (h, w) = (
            Var::from_tensor(&exact(&hidden)?)?,
            Var::from_tensor(&exact(&weight)?)?,
        );
        let policy = candle_nn::ops::log_softmax(&h.matmul(&w.t()?)?, 1)?;
        let other = exact(&bias_hidden)?.matmul(&exact(&bias_weight)?.t()?)?;
        let other = candle_nn::ops::log_softmax(&other, 1)?;
        let ids = Tensor::new(&targets, &Device::Cpu)?.unsqueeze(1)?;
        let logprob = policy.gather(&ids, 1)?.squeeze(1)?;
        let entropy = (policy.exp()? * &policy)?.sum(1)?.neg()?;
        let full_kl = (policy.exp()? * (&policy - other)?)?.sum(1)?;
        let slopes = [d_logprob, d_full_kl].map(|slopes| slopes.map(f64::from));
        let loss = ((&logprob * Tensor::new(&slopes[0], &Device::Cpu)?)?.sum_all()?
            + (&full_kl * Tensor::new(&slopes[1], &Device::Cpu)?)?.sum_all()?)?;
        let gradients = loss.backward()?;
        let in_f32 = |values: &Tensor| values.to_dtype(DType::F32)?.to_vec1();
        let [logprob, entropy, full_kl] = [&logprob, &entropy, &full_kl].map(in_f32);
        let (logprob, entropy, full_kl) = (logprob?, entropy?, full_kl?);
        let (Some(d_h), Some(d_w)) = (gradients.get(&h), gradients.get(&w)) else {
            candle_core::bail!("the head has no gradients");
        };

        let bias = BiasRows {
            hidden: &bias_hidden.here,
            weight: &bias_weight.here,
        };
        let bound = self.bound(LOGITS);
        // One chunk, and several.
        for chunk_bytes in [CHUNK_BYTES, vocabulary] {
            let (hidden, weight) = (&hidden.here, &weight.here);
            let mut head = Head::new(hidden, weight, &targets, Some(bias), chunk_bytes)?;
            let scores = head.scores()?;
            let (d_hidden, d_weight) = head.backward(&d_logprob, &d_full_kl)?;
            self.compare_values("head logprob", &scores.logprob, &logprob, bound);
            self.compare_values("head entropy", &scores.entropy, &entropy, bound);
            self.compare_values("head full_kl", &scores.full_kl, &full_kl, bound);
            self.compare("head_backward hidden", &d_hidden, d_h, bound)?;
            self.compare("head_backward weight", &d_weight, d_w, bound)?;
        }
        Ok(())
    }

    /// The CPU's sampler is the definition.
    fn sampler(&mut self) -> Result<()> {
        let rows = 16;
        let vocabulary = self.sizes.vocabulary as u32;
        let logits = self.random(&[rows, self.sizes.vocabulary])?;
        let (here, wide) = ((&logits.here * 4.0)?, (&logits.wide * 4.0)?);
        let seed = QuestionSeed::new(1, 2, "parity");
        let seeds: Vec<_> = (0..rows).map(|row| seed.completion(row)).collect();
        let positions: Vec<usize> = (0..rows).collect();
        for (kernel, temperature, top_k, top_p) in [
            ("sampler", 1.0, 0, 1.0),
            ("sampler top-k", 1.0, 50, 1.0),
            ("sampler top-p", 0.7, 0, 0.9),
            ("sampler greedy", 0.0, 0, 1.0),
        ] {
            let config = SamplingConfig {
                temperature,
                top_k,
                top_p,
                ..SamplingConfig::default()
            };
            let sampler = Sampler::new(&config, &[vocabulary - 281, vocabulary - 280]);
            let values = |logits: &Tensor| -> Result<Vec<f32>> {
                let draws = sampler.draw_rows(logits, &seeds, &positions)?;
                let values = draws.iter().flat_map(|draw| [draw.id as f32, draw.logprob]);
                Ok(values.collect())
            };
            self.compare_values(kernel, &values(&here)?, &values(&wide)?, 1e-5);
        }
        Ok(())
    }

    fn sum_squares(&mut self) -> Result<()> {
        let [x, y] = self.several(&[self.sizes.rows, WIDTHS[1]])?;
        let got = kernels::sum_squares::sum_squares([&x.here, &y.here], self.device)?;
        let got = got.to_vec1::<f64>()?[0];
        let mut want = 0.0;
        for x in [x.wide, y.wide] {
            let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
            want += values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        }
        self.found.push(Parity {
            kernel: "sum_squares",
            dtype: self.dtype,
            max_error: (got / want - 1.0).abs(),
            bound: 1e-6,
        });
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
            let updated = |device: &Device| -> Result<Vec<f32>> {
                let var = Var::from_tensor(&start.here.to_device(device)?)?;
                let mut adamw = AdamW::new([("w".to_owned(), var.clone())], &config)?;
                let gradient = gradient.here.to_device(device)?;
                for _ in 0..3 {
                    let gradients = Gradients::from([("w".to_owned(), gradient.clone())]);
                    adamw.step(&gradients, 1e-3)?;
                }
                let weight = var.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                weight.flatten_all()?.to_vec1()
            };
            let (got, want) = (updated(self.device)?, updated(&Device::Cpu)?);
            self.compare_values(kernel, &got, &want, 0.0);
        }
        Ok(())
    }
}

fn normed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
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

/// Gradients of `(f(inputs) · upstream).sum()` as candle gives them.
fn gradients(
    inputs: &[&Pair],
    upstream: &Pair,
    f: impl Fn(&[Var]) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let vars = inputs.iter().map(|input| Var::from_tensor(&input.wide));
    let vars: Vec<Var> = vars.collect::<Result<_>>()?;
    let store = (f(&vars)? * &upstream.wide)?.sum_all()?.backward()?;
    vars.iter()
        .map(|var| match store.get(var) {
            Some(gradient) => Ok(gradient.clone()),
            None => candle_core::bail!("an input has no gradient"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes_what_is_defined() {
        for sizes in [Sizes::FULL, Sizes::SMALL] {
            let found = parity(&Device::Cpu, sizes).unwrap();
            assert!(found.len() > 20, "{}", found.len());
            for parity in found {
                assert!(parity.holds(), "{parity:?}");
            }
        }
    }

    #[test]
    fn errors_and_missing_values_are_seen() {
        let mut found = Vec::new();
        let mut probe = Probe {
            device: &Device::Cpu,
            dtype: DType::F32,
            sizes: Sizes::SMALL,
            generator: ChaCha8Rng::seed_from_u64(1),
            found: &mut found,
        };
        probe.compare_values("same", &[1.0, -20.0], &[1.0, -20.0], 0.0);
        probe.compare_values("near", &[1.0, -20.1], &[1.0, -20.0], 0.006);
        probe.compare_values("far", &[1.0, -20.1], &[1.0, -20.0], 0.004);
        probe.compare_values("not a number", &[f32::NAN], &[1.0], 9.0);
        probe.compare_values("fewer", &[1.0], &[1.0, 1.0], 9.0);
        let holds: Vec<bool> = found.iter().map(Parity::holds).collect();
        assert_eq!(holds, [true, true, false, false, false]);
    }
}
