//! Logits, log-probabilities and exact divergences of chosen tokens, a chunk of rows at a time.
//!
//! The backward pass is closed: with p the softmax of a row, ∂ log p(t) / ∂ logits = onehot(t) − p and
//! ∂ KL(p ‖ b) / ∂ logits = p · (log p − log b − KL). Shapes: `R` rows, `H` hidden, `V` vocabulary.

use crate::kernels;
use crate::model::head_cpu::CpuChunk;
use crate::model::head_device::DeviceChunk;
use candle_core::{Result, Tensor};

/// Logits of one chunk may take about this much; those of the bias model as much again.
pub const CHUNK_BYTES: usize = 48 << 20;
/// Where kernels work on the logits in place, a chunk takes this many times more: each pass over the head's weight costs
/// as much as some hundred rows.
pub const DEVICE_CHUNK: usize = 16;

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
    pub(super) target_ids: &'a [u32],
    /// The only chunk, kept for the backward pass when one is all there is.
    pub(super) kept_on_cpu: Option<CpuChunk>,
    /// The same where kernels do the work.
    pub(super) kept_on_device: Option<DeviceChunk>,
    pub(super) chunk_rows: usize,
}

impl<'a> Head<'a> {
    /// `hidden [R, H]` (normed, detached), `weight [V, H]`; one target per row.
    pub fn new(
        hidden: &'a Tensor,
        weight: &'a Tensor,
        target_ids: &'a [u32],
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
            target_ids,
            kept_on_cpu: None,
            kept_on_device: None,
            chunk_rows: (chunk_bytes / row_bytes).max(1),
        })
    }

    /// Log-probability and entropy of every target, and its divergence from the bias model where there is one.
    pub fn scores(&mut self) -> Result<TokenScores> {
        if kernels::applies(self.hidden) {
            return self.device_scores();
        }
        self.cpu_scores()
    }

    /// Gradients `[R, H]` of the hidden rows and `[V, H]` of the weight.
    ///
    /// `d_logprob`, `d_full_kl`: one entry per target; the latter empty when the divergence is not used.
    pub fn backward(self, d_logprob: &[f32], d_full_kl: &[f32]) -> Result<(Tensor, Tensor)> {
        if kernels::applies(self.hidden) {
            return self.device_backward(d_logprob, d_full_kl);
        }
        self.cpu_backward(d_logprob, d_full_kl)
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
