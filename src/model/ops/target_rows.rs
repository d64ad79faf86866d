//! Rows of a network's output that predict targets, and what comes of them.
//!
//! Shapes: `R` rows, `H` hidden, `V` vocabulary.

use candle_core::{Result, Tensor};

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
pub struct ReferenceRows<'a> {
    /// Its normed output at the target rows `[R, H']`.
    pub hidden: &'a Tensor,
    /// Its head `[V, H']`.
    pub weight: &'a Tensor,
}

/// Rows with a target each, and the head that scores them.
#[derive(Debug)]
pub(in crate::model) struct TargetRows<'a> {
    /// `[R, H]`, normed.
    pub(in crate::model) hidden: &'a Tensor,
    /// `[V, H]`
    pub(in crate::model) weight: &'a Tensor,
    pub(in crate::model) bias: Option<ReferenceRows<'a>>,
    pub(in crate::model) target_ids: &'a [u32],
    /// Rows whose logits exist at a time.
    pub(in crate::model) chunk_rows: usize,
}

impl TargetRows<'_> {
    /// First row and rows of each chunk.
    pub(super) fn chunks(&self) -> Result<impl Iterator<Item = (usize, usize)> + use<>> {
        let (rows, chunk_rows) = (self.hidden.dim(0)?, self.chunk_rows);
        let starts = (0..rows).step_by(chunk_rows);
        Ok(starts.map(move |start| (start, chunk_rows.min(rows - start))))
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
