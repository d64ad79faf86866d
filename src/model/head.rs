//! Logits, log-probabilities and exact divergences of chosen tokens, a chunk of rows at a time.
//!
//! The backward pass is closed: with p the softmax of a row, ∂ log p(t) / ∂ logits = onehot(t) − p and
//! ∂ KL(p ‖ b) / ∂ logits = p · (log p − log b − KL). Shapes: `R` rows, `H` hidden, `V` vocabulary.

use crate::kernels;
use crate::model::attention::softmax;
use crate::model::head_device::DeviceChunk;
use crate::model::layers::weight_gradient;
use candle_core::{D, DType, Result, Tensor};

/// Logits of one chunk may take about this much; a few tensors of that size live at a time.
pub const CHUNK_BYTES: usize = 96 << 20;
/// Where kernels work on the logits in place, a chunk takes this many times more: each pass over the head's weight costs
/// as much as some hundred rows.
pub const DEVICE_CHUNK: usize = 8;

/// What the model gives to each target token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenScores {
    /// log p(target).
    pub logprob: Vec<f32>,
    /// Entropy of the distribution the target was drawn from, in nats.
    pub entropy: Vec<f32>,
    /// KL(p ‖ bias model) over the vocabulary; empty without a bias model.
    pub full_kl: Vec<f32>,
}

/// The bias model's side of an exact divergence.
#[derive(Debug, Clone, Copy)]
pub struct BiasRows<'a> {
    /// Its normed output at the target rows `[R, H']`.
    pub hidden: &'a Tensor,
    /// Its head `[V, H']`.
    pub weight: &'a Tensor,
}

/// The head over target rows.
#[derive(Debug)]
pub struct Head<'a> {
    pub(super) hidden: &'a Tensor,
    pub(super) weight: &'a Tensor,
    pub(super) bias: Option<BiasRows<'a>>,
    pub(super) target_ids: Tensor,
    /// The only chunk's distribution, kept for the backward pass when one chunk is all there is.
    kept: Option<Chunk>,
    /// The same where kernels do the work.
    pub(super) kept_on_device: Option<DeviceChunk>,
    pub(super) chunk_rows: usize,
}

#[derive(Debug, Clone)]
struct Chunk {
    /// `[c, V]` in f32.
    probabilities: Tensor,
    /// `log p − log b`, `[c, V]`, with a bias model.
    log_ratio: Option<Tensor>,
    logprob: Tensor,
    entropy: Tensor,
}

impl<'a> Head<'a> {
    /// `hidden [R, H]` (normed, detached), `weight [V, H]`; one target per row.
    pub fn new(
        hidden: &'a Tensor,
        weight: &'a Tensor,
        target_ids: &[u32],
        bias: Option<BiasRows<'a>>,
        chunk_bytes: usize,
    ) -> Result<Self> {
        let (row_bytes, chunk_bytes) = if kernels::applies(hidden) {
            let row_bytes = weight.dim(0)? * weight.dtype().size_in_bytes();
            (row_bytes, chunk_bytes.saturating_mul(DEVICE_CHUNK))
        } else {
            (weight.dim(0)? * size_of::<f32>(), chunk_bytes)
        };
        Ok(Self {
            hidden,
            weight,
            bias,
            target_ids: Tensor::new(target_ids, hidden.device())?,
            kept: None,
            kept_on_device: None,
            chunk_rows: (chunk_bytes / row_bytes).max(1),
        })
    }

    /// Log-probability and entropy of every target, and its divergence from the bias model where there is one.
    pub fn scores(&mut self) -> Result<TokenScores> {
        if kernels::applies(self.hidden) {
            return self.device_scores();
        }
        let mut scores = TokenScores::default();
        let rows = self.hidden.dim(0)?;
        for (start, len) in chunks(rows, self.chunk_rows) {
            let chunk = self.chunk(start, len)?;
            scores.logprob.extend(chunk.logprob.to_vec1::<f32>()?);
            scores.entropy.extend(chunk.entropy.to_vec1::<f32>()?);
            if let Some(divergence) = chunk.divergence()? {
                scores
                    .full_kl
                    .extend(divergence.flatten_all()?.to_vec1::<f32>()?);
            }
            self.kept = (len == rows).then_some(chunk);
        }
        Ok(scores)
    }

    /// Gradients `[R, H]` of the hidden rows and `[V, H]` of the weight.
    ///
    /// `d_logprob`, `d_full_kl`: one entry per target; the latter empty when the divergence is not used.
    pub fn backward(mut self, d_logprob: &[f32], d_full_kl: &[f32]) -> Result<(Tensor, Tensor)> {
        if kernels::applies(self.hidden) {
            return self.device_backward(d_logprob, d_full_kl);
        }
        let device = self.hidden.device();
        let d_logprob = Tensor::new(d_logprob, device)?.unsqueeze(1)?;
        let d_full_kl = match d_full_kl {
            [] => None,
            values => Some(Tensor::new(values, device)?.unsqueeze(1)?),
        };
        let mut d_hidden = Vec::new();
        let mut d_weight: Option<Tensor> = None;
        for (start, len) in chunks(self.hidden.dim(0)?, self.chunk_rows) {
            let chunk = match self.kept.take() {
                Some(chunk) => chunk,
                None => self.chunk(start, len)?,
            };
            let d_logprob = d_logprob.narrow(0, start, len)?;
            let mut d_logits = match (&d_full_kl, &chunk.log_ratio) {
                (Some(d_full_kl), Some(log_ratio)) => {
                    let divergence = (log_ratio * &chunk.probabilities)?.sum_keepdim(1)?;
                    let slope = log_ratio
                        .broadcast_sub(&divergence)?
                        .broadcast_mul(&d_full_kl.narrow(0, start, len)?)?
                        .broadcast_sub(&d_logprob)?;
                    (slope * &chunk.probabilities)?
                }
                _ => chunk.probabilities.broadcast_mul(&d_logprob.neg()?)?,
            };
            drop(chunk);
            let target_ids = self.target_ids.narrow(0, start, len)?.unsqueeze(1)?;
            d_logits = d_logits.scatter_add(
                &target_ids.contiguous()?,
                &d_logprob.contiguous()?,
                D::Minus1,
            )?;
            let d_logits = d_logits.to_dtype(self.weight.dtype())?;
            let hidden = self.hidden.narrow(0, start, len)?;
            d_hidden.push(d_logits.matmul(self.weight)?);
            d_weight = Some(add_part(d_weight, weight_gradient(&d_logits, &hidden)?)?);
        }
        self.gradients(&d_hidden, d_weight)
    }

    /// The chunks' gradients together.
    pub(super) fn gradients(
        &self,
        d_hidden: &[Tensor],
        d_weight: Option<Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        match d_weight {
            Some(d_weight) => Ok((
                Tensor::cat(d_hidden, 0)?,
                d_weight.to_dtype(self.weight.dtype())?,
            )),
            None => Ok((self.hidden.zeros_like()?, self.weight.zeros_like()?)),
        }
    }

    fn chunk(&self, start: usize, len: usize) -> Result<Chunk> {
        let target_ids = self.target_ids.narrow(0, start, len)?;
        let (logits, log_total, probabilities) =
            distribution(&self.hidden.narrow(0, start, len)?, self.weight)?;
        let chosen = logits.gather(&target_ids.unsqueeze(1)?.contiguous()?, 1)?;
        let logprob = (chosen - &log_total)?.squeeze(1)?;
        let expected = (&probabilities * &logits)?.sum_keepdim(1)?;
        let entropy = (&log_total - expected)?.squeeze(1)?;
        let log_ratio = match &self.bias {
            None => None,
            Some(bias) => {
                let (bias_logits, bias_total, _) =
                    distribution(&bias.hidden.narrow(0, start, len)?, bias.weight)?;
                let shift = (bias_total - &log_total)?;
                Some((logits - bias_logits)?.broadcast_add(&shift)?)
            }
        };
        Ok(Chunk {
            probabilities,
            log_ratio,
            logprob,
            entropy,
        })
    }
}

impl Chunk {
    fn divergence(&self) -> Result<Option<Tensor>> {
        match &self.log_ratio {
            None => Ok(None),
            Some(log_ratio) => Ok(Some((log_ratio * &self.probabilities)?.sum_keepdim(1)?)),
        }
    }
}

/// Logits `[c, V]`, their log-sum-exp `[c, 1]` and their softmax, all in f32.
fn distribution(hidden: &Tensor, weight: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let logits = hidden.matmul(&weight.t()?)?.to_dtype(DType::F32)?;
    let probabilities = softmax(&logits)?;
    // The largest probability is at least 1/V, so its logarithm is exact where a target's might underflow.
    let log_total = (logits.max_keepdim(1)? - probabilities.max_keepdim(1)?.log()?)?;
    Ok((logits, log_total, probabilities))
}

/// The sum of the chunks' parts of a gradient: one part as it is, several in f32.
fn add_part(sum: Option<Tensor>, part: Tensor) -> Result<Tensor> {
    match sum {
        None => Ok(part),
        Some(sum) => sum.to_dtype(DType::F32)? + part.to_dtype(DType::F32)?,
    }
}

pub(super) fn chunks(rows: usize, chunk_rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows)
        .step_by(chunk_rows)
        .map(move |start| (start, chunk_rows.min(rows - start)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn composed(
        hidden: &Tensor,
        weight: &Tensor,
        targets: &[u32],
        bias: BiasRows,
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
        let bias = BiasRows {
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
            let mut head = Head::new(&h, &w, &targets, Some(bias), chunk_bytes)?;
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
        let mut head = Head::new(&hidden, &weight, &[2], None, CHUNK_BYTES)?;
        let scores = head.scores()?;
        close(&scores.logprob, &[-300.0]);
        close(&scores.entropy, &[0.0]);
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
