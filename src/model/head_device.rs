//! The head where kernels do the work: a chunk is its logits in f32 and a few numbers per row.

use crate::kernels::head as kernels;
use crate::model::head::{Head, TokenScores, chunks, logits};
use crate::model::layers::weight_gradient;
use candle_core::{DType, Result, Tensor};

/// Logits of some rows `[c, V]` in f32, those of the bias model, and the targets' scores.
#[derive(Debug)]
pub(super) struct DeviceChunk {
    logits: Tensor,
    bias: Option<Tensor>,
    scores: kernels::Scores,
}

impl Head<'_> {
    /// As [`Head::scores`], with one copy to the host for all chunks.
    pub(super) fn device_scores(&mut self) -> Result<TokenScores> {
        let rows = self.hidden.dim(0)?;
        let (mut logprob, mut entropy, mut full_kl) = (Vec::new(), Vec::new(), Vec::new());
        for (start, len) in chunks(rows, self.chunk_rows) {
            let chunk = self.device_chunk(start, len)?;
            logprob.push(chunk.scores.logprob()?);
            entropy.push(chunk.scores.entropy()?);
            full_kl.extend(chunk.scores.full_kl()?);
            self.kept_on_device = (len == rows).then_some(chunk);
        }
        if logprob.is_empty() {
            return Ok(TokenScores::default());
        }
        let all: Vec<Tensor> = [logprob, entropy, full_kl].concat();
        let mut values = Tensor::cat(&all, 0)?.to_vec1::<f32>()?.into_iter();
        Ok(TokenScores {
            logprob: values.by_ref().take(rows).collect(),
            entropy: values.by_ref().take(rows).collect(),
            full_kl: values.collect(),
        })
    }

    /// As [`Head::backward`].
    pub(super) fn device_backward(
        mut self,
        d_logprob: &[f32],
        d_full_kl: &[f32],
    ) -> Result<(Tensor, Tensor)> {
        let device = self.hidden.device();
        let d_logprob = Tensor::new(d_logprob, device)?;
        let d_full_kl = (!d_full_kl.is_empty())
            .then(|| Tensor::new(d_full_kl, device))
            .transpose()?;
        let mut d_hidden = Vec::new();
        let mut d_weight: Option<Tensor> = None;
        let rows = self.hidden.dim(0)?;
        for (start, len) in chunks(rows, self.chunk_rows) {
            let chunk = match self.kept_on_device.take() {
                Some(chunk) => chunk,
                None => self.device_chunk(start, len)?,
            };
            let d_full_kl = d_full_kl
                .as_ref()
                .map(|d_full_kl| d_full_kl.narrow(0, start, len))
                .transpose()?;
            let DeviceChunk {
                logits,
                bias,
                scores,
            } = chunk;
            let d_logits = kernels::backward(
                &logits,
                self.weight.dtype(),
                &Tensor::new(&self.target_ids[start..start + len], device)?,
                &scores,
                &d_logprob.narrow(0, start, len)?,
                bias.as_ref().zip(d_full_kl.as_ref()),
            )?;
            // The products need neither.
            drop((logits, bias));
            d_hidden.push(d_logits.matmul(self.weight)?);
            let part = weight_gradient(&d_logits, &self.hidden.narrow(0, start, len)?)?;
            match &d_weight {
                // One part is the gradient; several add up in f32.
                None if len == rows => d_weight = Some(part),
                None => d_weight = Some(part.to_dtype(DType::F32)?),
                Some(sum) => kernels::add_in_place(sum, &part)?,
            }
        }
        self.gradients(&d_hidden, d_weight)
    }

    fn device_chunk(&self, start: usize, len: usize) -> Result<DeviceChunk> {
        let target_ids = &self.target_ids[start..start + len];
        let target_ids = Tensor::new(target_ids, self.hidden.device())?;
        let own = logits(&self.hidden.narrow(0, start, len)?, self.weight)?;
        let bias = match &self.bias {
            None => None,
            Some(bias) => Some(logits(&bias.hidden.narrow(0, start, len)?, bias.weight)?),
        };
        let scores = kernels::scores(&own, &target_ids, bias.as_ref())?;
        Ok(DeviceChunk {
            logits: own,
            bias,
            scores,
        })
    }
}
