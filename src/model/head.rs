//! Logits, log-probabilities and exact divergences of chosen tokens, a chunk of rows at a time.
//!
//! The backward pass is closed: with p the softmax of a row, ∂ log p(t) / ∂ logits = onehot(t) − p and
//! ∂ KL(p ‖ b) / ∂ logits = p · (log p − log b − KL). Shapes: `R` rows, `H` hidden, `V` vocabulary.
//!
//! Logits are f32 in a bf16 model too, for scores, gradients and sampling alike: values of bf16 from 16 to 32 are 1/8
//! apart, and a divergence between two models that differ by less would be mostly the error of rounding them (a test
//! here shows how much). transformers rounds them to the model's format, so in bf16 its log-probabilities are the
//! coarser ones.

pub(crate) use crate::model::ops::head::DEVICE_CHUNK;
pub use crate::model::ops::target_rows::{ReferenceRows, TokenScores};

use crate::model::ops::Ops;
use crate::model::ops::head::Scorer;
use crate::model::ops::target_rows::TargetRows;
use candle_core::{Result, Tensor};

/// Logits of one chunk may take about this much; those of the bias model as much again. On a GPU
/// [`DEVICE_CHUNK`] times as much.
pub const CHUNK_BYTES: usize = 48 << 20;

/// The head over target rows.
#[derive(Debug)]
pub struct Head<'a> {
    rows: TargetRows<'a>,
    scorer: Scorer,
}

impl<'a> Head<'a> {
    /// `hidden [R, H]` (normed), `weight [V, H]`; one target per row.
    pub fn new(
        ops: Ops,
        hidden: &'a Tensor,
        weight: &'a Tensor,
        target_ids: &'a [u32],
        bias: Option<ReferenceRows<'a>>,
        chunk_bytes: usize,
    ) -> Result<Self> {
        let row_bytes = weight.dim(0)? * size_of::<f32>();
        let rows = TargetRows {
            hidden,
            weight,
            bias,
            target_ids,
            chunk_rows: (ops.chunk_bytes(chunk_bytes) / row_bytes).max(1),
        };
        Ok(Self {
            rows,
            scorer: Scorer::new(ops),
        })
    }

    /// Log-probability and entropy of every target, and its divergence from the bias model where there is one.
    pub fn scores(&mut self) -> Result<TokenScores> {
        self.scorer.score(&self.rows)
    }

    /// Gradients `[R, H]` of the hidden rows and `[V, H]` of the weight.
    ///
    /// `d_logprob`, `d_full_kl`: one entry per target; the latter empty when the divergence is not used.
    pub fn backward(self, d_logprob: &[f32], d_full_kl: &[f32]) -> Result<(Tensor, Tensor)> {
        self.scorer.backward(&self.rows, d_logprob, d_full_kl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::head::PART;
    use candle_core::{DType, Device, Var};

    fn composed(
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        bias: ReferenceRows,
    ) -> Result<(Tensor, Tensor)> {
        let log_softmax =
            |h: &Tensor, w: &Tensor| candle_nn::ops::log_softmax(&h.matmul(&w.t()?)?, 1);
        let policy = log_softmax(hidden, weight)?;
        let other = log_softmax(bias.hidden, bias.weight)?;
        let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
        let logprob = policy.gather(&targets, 1)?.squeeze(1)?;
        let divergence = (policy.exp()? * (&policy - other)?)?.sum(1)?;
        Ok((logprob, divergence))
    }

    #[test]
    fn agrees_with_the_composed_form_in_one_chunk_and_in_many() -> Result<()> {
        let device = Device::Cpu;
        let (rows, width, vocabulary) = (7, 6, 11);
        let hidden = Var::randn(0f32, 1.0, (rows, width), &device)?;
        let weight = Var::randn(0f32, 1.0, (vocabulary, width), &device)?;
        let bias_hidden = Tensor::randn(0f32, 1.0, (rows, 4), &device)?;
        let bias_weight = Tensor::randn(0f32, 1.0, (vocabulary, 4), &device)?;
        let bias = ReferenceRows {
            hidden: &bias_hidden,
            weight: &bias_weight,
        };
        let targets = [0, 3, 10, 3, 7, 1, 2];
        let d_logprob = [0.3, -1.0, 0.2, 0.7, 0.0, -0.4, 1.5];
        let d_full_kl = [1.0, 0.1, -0.6, 0.0, 0.9, 0.4, -0.2];

        let (logprob, divergence) = composed(&hidden, &weight, &targets, bias)?;
        let loss = ((&logprob * Tensor::new(&d_logprob, &device)?)?.sum_all()?
            + (&divergence * Tensor::new(&d_full_kl, &device)?)?.sum_all()?)?;
        let gradients = loss.backward()?;

        for chunk_bytes in [usize::MAX, 3 * vocabulary * 4, 1] {
            let (h, w) = (hidden.as_detached_tensor(), weight.as_detached_tensor());
            let mut head = Head::new(Ops::Cpu, &h, &w, &targets, Some(bias), chunk_bytes)?;
            let scores = head.scores()?;
            close(&scores.logprob, &logprob.to_vec1()?);
            close(&scores.full_kl, &divergence.to_vec1()?);
            let (d_hidden, d_weight) = head.backward(&d_logprob, &d_full_kl)?;
            for (got, var) in [(d_hidden, &hidden), (d_weight, &weight)] {
                let want = gradients.get(var).map(Tensor::flatten_all).transpose()?;
                let want = want.map(|w| w.to_vec1()).transpose()?.unwrap_or_default();
                close(&got.flatten_all()?.to_vec1()?, &want);
            }
        }
        Ok(())
    }

    #[test]
    fn an_unlikely_target_keeps_its_log_probability() -> Result<()> {
        let device = Device::Cpu;
        let hidden = Tensor::new(&[[1.0f32]], &device)?;
        let weight = Tensor::new(&[[0.0f32], [300.0], [0.0]], &device)?;
        let mut head = Head::new(Ops::Cpu, &hidden, &weight, &[2], None, CHUNK_BYTES)?;
        let scores = head.scores()?;
        close(&scores.logprob, &[-300.0]);
        close(&scores.entropy, &[0.0]);
        Ok(())
    }

    #[test]
    fn sums_of_bf16_are_not_rounded_and_lie_side_by_side() -> Result<()> {
        let in_bf16 = |x: Tensor| x.to_dtype(DType::BF16);
        // 16 + 1/64: between two values of bf16, which are 1/8 apart there.
        let hidden = in_bf16(Tensor::new(&[[4f32, 0.125], [0.0, -1.0]], &Device::Cpu)?)?;
        let first = Tensor::new(&[[4f32, 0.125]], &Device::Cpu)?;
        let rest = Tensor::arange(0u32, 2 * PART as u32, &Device::Cpu)?.to_dtype(DType::F32)?;
        let weight = in_bf16(Tensor::cat(&[first, rest.reshape((PART, 2))?], 0)?)?;
        let got = Ops::Cpu.logits(&hidden, &weight)?.to_vec2::<f32>()?;
        assert!((got[0][0] - 16.015_625).abs() < 1e-9);
        let columns = weight.to_dtype(DType::F32)?.t()?.to_vec2::<f32>()?;
        let negative: Vec<f32> = columns[1].iter().map(|x| -x).collect();
        assert!(got[1] == negative);
        Ok(())
    }

    /// log-softmax of `logits [R, V]` in f64.
    fn log_softmax(logits: &Tensor) -> Result<Vec<Vec<f64>>> {
        let logits = logits.to_dtype(DType::F64)?;
        candle_nn::ops::log_softmax(&logits, 1)?.to_vec2()
    }

    /// Divergences of every token: over the vocabulary, and estimated from the target alone as the loss does it.
    fn divergences(policy: &[f64], bias: &[f64], target: usize) -> [f64; 2] {
        let full = policy.iter().zip(bias).map(|(p, b)| p.exp() * (p - b));
        let apart = bias[target] - policy[target];
        [full.sum(), apart.exp() - apart - 1.0]
    }

    /// A model in bf16 whose largest logits are 20 to 30, and one whose weights differ by a few roundings: what rounding
    /// their logits to bf16 adds to a token's divergence, and what is left without: of 1.0e-2 over the vocabulary 2.1e-3 and
    /// 1.1e-7, of 1.1e-2 from the targets 3.8e-3 and 9.0e-8.
    #[test]
    fn divergences_of_bf16_models_have_no_floor() -> Result<()> {
        let device = Device::Cpu;
        let (rows, width, vocabulary) = (192, 64, 4096);
        let random = |seed: u64, count: usize| -> Vec<f32> {
            use rand::{Rng, SeedableRng};
            let mut numbers = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            (0..count)
                .map(|_| numbers.random_range(-1.5..1.5))
                .collect()
        };
        let in_bf16 = |values: Vec<f32>, shape: (usize, usize)| {
            Tensor::from_vec(values, shape, &device)?.to_dtype(DType::BF16)
        };
        let hidden = in_bf16(random(1, rows * width), (rows, width))?;
        let weights = random(2, vocabulary * width);
        let nudge = random(3, weights.len());
        let nudged = weights.iter().zip(nudge).map(|(w, n)| w + 0.03 * n);
        let other = in_bf16(nudged.collect(), (vocabulary, width))?;
        let weight = in_bf16(weights, (vocabulary, width))?;

        let wide = |x: &Tensor| x.to_dtype(DType::F64);
        let exact = |w: &Tensor| wide(&hidden)?.matmul(&wide(w)?.t()?);
        let rounded = |w: &Tensor| exact(w)?.to_dtype(DType::BF16);
        let largest = exact(&weight)?.max(1)?.to_vec1::<f64>()?;
        assert!(largest.iter().all(|&most| (14.0..40.0).contains(&most)));
        let (policy, bias) = (
            log_softmax(&exact(&weight)?)?,
            log_softmax(&exact(&other)?)?,
        );
        let (coarse_policy, coarse_bias) = (
            log_softmax(&rounded(&weight)?)?,
            log_softmax(&rounded(&other)?)?,
        );
        // Tokens as they are drawn: the row's quantile of its distribution.
        let targets: Vec<u32> = (0..rows)
            .map(|row| {
                let mut left = (row as f64 + 0.5) / rows as f64;
                let drawn = policy[row].iter().position(|log_p| {
                    left -= log_p.exp();
                    left <= 0.0
                });
                drawn.unwrap_or(vocabulary - 1) as u32
            })
            .collect();
        let reference_rows = ReferenceRows {
            hidden: &hidden,
            weight: &other,
        };
        let own = Head::new(
            Ops::Cpu,
            &hidden,
            &weight,
            &targets,
            Some(reference_rows),
            CHUNK_BYTES,
        )?
        .scores()?;
        let others = Head::new(Ops::Cpu, &hidden, &other, &targets, None, CHUNK_BYTES)?.scores()?;

        // Mean divergence, mean error before and after; of both estimators.
        let [mut mean, mut before, mut after] = [[0.0; 2]; 3];
        for (row, &target) in targets.iter().enumerate() {
            let target = target as usize;
            let want = divergences(&policy[row], &bias[row], target);
            let coarse = divergences(&coarse_policy[row], &coarse_bias[row], target);
            let apart = f64::from(others.logprob[row]) - f64::from(own.logprob[row]);
            let got = [f64::from(own.full_kl[row]), apart.exp() - apart - 1.0];
            for which in 0..2 {
                mean[which] += want[which] / rows as f64;
                before[which] += (coarse[which] - want[which]).abs() / rows as f64;
                after[which] += (got[which] - want[which]).abs() / rows as f64;
            }
        }
        println!("divergence {mean:?}, error of rounded logits {before:?}, of these {after:?}");
        for which in 0..2 {
            assert!((5e-3..2e-2).contains(&mean[which]), "{mean:?}");
            assert!(before[which] > 7e-4, "{before:?}");
            assert!(after[which] < 5e-6, "{after:?}");
        }
        Ok(())
    }

    fn close(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!(
                (got - want).abs() < 2e-5 * (1.0 + want.abs()),
                "{got} != {want}"
            );
        }
    }
}
