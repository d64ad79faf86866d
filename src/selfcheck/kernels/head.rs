//! The head's scores and gradients against their definition.

use super::KernelCheck;
use super::ball::{Accumulation, Ball};
use crate::model::head::{CHUNK_BYTES, DEVICE_CHUNK, Head, ReferenceRows};
use crate::model::ops::Ops;
use candle_core::{DType, Device, Result, Tensor, Var};

const D_LOGPROB: [f32; 6] = [0.3, -1.0, 0.2, 0.7, 0.0, 1.0];
const D_FULL_KL: [f32; 6] = [1.0, 0.1, -0.6, 0.0, 0.9, 0.4];

/// What the head gives: log-probability, entropy and divergence of each target, and the gradients of the hidden rows and
/// of the weight.
pub(super) struct HeadReference {
    pub(super) scores: [Tensor; 3],
    pub(super) d_hidden: Tensor,
    pub(super) d_weight: Tensor,
}

/// The definition in f64: over so many tokens, sums in f32 are off by more than what is compared.
pub(super) fn reference(
    [hidden, bias_hidden]: [&Tensor; 2],
    [weight, bias_weight]: [&Tensor; 2],
) -> Result<HeadReference> {
    let (h, w) = (Var::from_tensor(hidden)?, Var::from_tensor(weight)?);
    let log_softmax = |h: &Tensor, w: &Tensor| candle_nn::ops::log_softmax(&h.matmul(&w.t()?)?, 1);
    let policy = log_softmax(&h, &w)?;
    let other = log_softmax(bias_hidden, bias_weight)?;
    let ids = Tensor::new(&targets(weight.dim(0)?), &Device::Cpu)?.unsqueeze(1)?;
    let logprob = policy.gather(&ids, 1)?.squeeze(1)?;
    let entropy = (policy.exp()? * &policy)?.sum(1)?.neg()?;
    let full_kl = (policy.exp()? * (&policy - other)?)?.sum(1)?;
    let loss = ((&logprob * slopes(&D_LOGPROB)?)?.sum_all()?
        + (&full_kl * slopes(&D_FULL_KL)?)?.sum_all()?)?;
    let gradients = loss.backward()?;
    let (Some(d_hidden), Some(d_weight)) = (gradients.get(&h), gradients.get(&w)) else {
        candle_core::bail!("the head has no gradients");
    };
    Ok(HeadReference {
        scores: [&logprob, &entropy, &full_kl].map(Tensor::detach),
        d_hidden: d_hidden.detach(),
        d_weight: d_weight.detach(),
    })
}

/// The first and the last token, one of them twice.
fn targets(vocabulary: usize) -> [u32; 6] {
    let last = vocabulary as u32 - 1;
    [0, 7, last, 7, last / 2, 123]
}

fn slopes(of_targets: &[f32; 6]) -> Result<Tensor> {
    Tensor::new(of_targets, &Device::Cpu)?.to_dtype(DType::F64)
}

/// Of a row: the logits below the largest, their weights, and the logarithm of the weights' sum.
struct Softmax {
    below: Ball,
    weights: Ball,
    total: Ball,
    log_total: Ball,
}

impl Softmax {
    fn of(hidden: &Tensor, weight: &Tensor, dtype: DType) -> Result<Self> {
        let (hidden, weight) = (Ball::exact(hidden)?, Ball::exact(weight)?);
        // The logits stay in f32.
        let logits = hidden.matmul(&weight.t()?, Accumulation::MatrixProduct(dtype))?;
        let (below, _) = logits.below_largest()?;
        let weights = below.exp()?;
        let total = weights.sum(1, Accumulation::Kernel)?;
        let log_total = total.ln()?;
        Ok(Self {
            below,
            weights,
            total,
            log_total,
        })
    }

    fn log_p(&self) -> Result<Ball> {
        self.below.minus(&self.log_total)
    }
}

/// What rounding may do to each number of [`reference()`], where the weight's gradient is the sum of those of `chunks` rows.
pub(super) struct HeadBounds {
    pub(super) scores: [Ball; 3],
    /// Of the logits, on the way.
    #[cfg(test)]
    pub(super) d_logits: Ball,
    pub(super) d_hidden: Ball,
    pub(super) d_weight: Ball,
}

pub(super) fn bounds(
    [hidden, bias_hidden]: [&Tensor; 2],
    [weight, bias_weight]: [&Tensor; 2],
    dtype: DType,
    chunks: &[usize],
) -> Result<HeadBounds> {
    let policy = Softmax::of(hidden, weight, dtype)?;
    let bias = Softmax::of(bias_hidden, bias_weight, dtype)?;
    let (log_p, log_b) = (policy.log_p()?, bias.log_p()?);
    let ids = Tensor::new(&targets(weight.dim(0)?), &Device::Cpu)?.unsqueeze(1)?;
    let logprob = log_p.shaped(|x| x.gather(&ids, 1))?;
    let mean = |of: &Ball| {
        let sum = policy.weights.times(of)?.sum(1, Accumulation::Kernel)?;
        sum.over(&policy.total)
    };
    let entropy = policy.log_total.minus(&mean(&policy.below)?)?;
    let apart = mean(&policy.below.minus(&bias.below)?)?;
    let full_kl = apart.minus(&policy.log_total)?.plus(&bias.log_total)?;

    let column = |of_targets: &[f32; 6]| Ball::exact(&slopes(of_targets)?.unsqueeze(1)?);
    let (d_logprob, d_full_kl) = (column(&D_LOGPROB)?, column(&D_FULL_KL)?);
    let slope = log_p.minus(&log_b)?.minus(&full_kl)?.times(&d_full_kl)?;
    let pulled = slope.minus(&d_logprob)?.times(&log_p.exp()?)?;
    let at_target = log_p.value().zeros_like()?;
    let at_target = at_target.scatter_add(&ids, d_logprob.value(), 1)?;
    let d_logits = pulled.plus(&Ball::exact(&at_target)?)?.rounded(dtype)?;

    let (hidden, weight) = (Ball::exact(hidden)?, Ball::exact(weight)?);
    let sums = Accumulation::MatrixProduct(dtype);
    let d_hidden = d_logits.matmul(&weight, sums)?.rounded(dtype)?;
    let mut start = 0;
    let mut d_weight: Option<Ball> = None;
    for &rows in chunks {
        let part = |x: &Tensor| x.narrow(0, start, rows);
        let part = d_logits
            .shaped(part)?
            .t()?
            .matmul(&hidden.shaped(part)?, sums)?;
        let part = part.rounded(dtype)?;
        d_weight = Some(match d_weight {
            None => part,
            Some(sum) => sum.plus(&part)?,
        });
        start += rows;
    }
    let Some(d_weight) = d_weight else {
        candle_core::bail!("no rows");
    };
    let flat = |of: Ball| of.shaped(|x| x.squeeze(1));
    Ok(HeadBounds {
        scores: [flat(logprob)?, flat(entropy)?, flat(full_kl)?],
        #[cfg(test)]
        d_logits,
        d_hidden,
        d_weight: d_weight.rounded(dtype)?,
    })
}

impl KernelCheck<'_> {
    pub(super) fn head(&mut self) -> Result<()> {
        let vocabulary = self.sizes.vocabulary;
        let targets = targets(vocabulary);
        let rows = targets.len();
        let [hidden, bias_hidden] = self.several(&[rows, 4])?;
        let [weight, bias_weight] = self.several(&[vocabulary, 4])?;
        let (hiddens, weights) = (
            [&hidden.exact, &bias_hidden.exact],
            [&weight.exact, &bias_weight.exact],
        );
        let want = reference(hiddens, weights)?;
        let bias = ReferenceRows {
            hidden: &bias_hidden.on_device,
            weight: &bias_weight.on_device,
        };
        // Four rows of logits.
        let several = match self.ops {
            Ops::Cuda => 4 * 4 * vocabulary / DEVICE_CHUNK,
            Ops::Cpu => 4 * 4 * vocabulary,
        };
        for (chunk_bytes, chunks) in [(CHUNK_BYTES, vec![rows]), (several, vec![4, rows - 4])] {
            let bounds = bounds(hiddens, weights, self.dtype, &chunks)?;
            let (hidden, weight) = (&hidden.on_device, &weight.on_device);
            let mut head = Head::new(self.ops, hidden, weight, &targets, Some(bias), chunk_bytes)?;
            let scores = head.scores()?;
            let (d_hidden, d_weight) = head.backward(&D_LOGPROB, &D_FULL_KL)?;
            let got = [scores.logprob, scores.entropy, scores.full_kl];
            let names = ["head logprob", "head entropy", "head full_kl"];
            for (index, (kernel, got)) in names.into_iter().zip(got).enumerate() {
                let got = Tensor::new(got, &Device::Cpu)?;
                self.compare(kernel, &got, &want.scores[index], &bounds.scores[index])?;
            }
            self.compare(
                "head_backward hidden",
                &d_hidden,
                &want.d_hidden,
                &bounds.d_hidden,
            )?;
            self.compare(
                "head_backward weight",
                &d_weight,
                &want.d_weight,
                &bounds.d_weight,
            )?;
        }
        Ok(())
    }
}
