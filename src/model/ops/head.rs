//! Logits, and scores of targets.

use crate::model::ops::Ops;
use crate::model::ops::cpu::head as on_cpu;
use crate::model::ops::cuda::chunked_head as on_cuda;
use crate::model::ops::target_rows::{TargetRows, TokenScores};
use candle_core::{Result, Tensor};

#[cfg(test)]
pub(in crate::model) use on_cpu::PART;

/// Where kernels work on the logits, a chunk takes this many times more than on a CPU: each pass over the head's weight
/// costs as much as some hundred rows.
pub(crate) const DEVICE_CHUNK: usize = 16;

/// Scores targets, forward and backward. In between it keeps the only chunk of logits, when one is all there is.
#[derive(Debug)]
pub(in crate::model) struct Scorer(Kept);

#[derive(Debug)]
enum Kept {
    Cpu(Option<on_cpu::Chunk>),
    Cuda(Option<on_cuda::Chunk>),
}

impl Ops {
    /// `hidden [R, H] · weightᵀ` → logits `[R, V]`: sums in f32 that are not rounded to the operands' format.
    pub(in crate::model) fn logits(self, hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu => on_cpu::logits(hidden, weight),
            Self::Cuda => on_cuda::logits(hidden, weight),
        }
    }

    /// What a chunk of logits may take where it may take `bytes` on a CPU.
    pub(in crate::model) fn chunk_bytes(self, bytes: usize) -> usize {
        match self {
            Self::Cpu => bytes,
            Self::Cuda => bytes.saturating_mul(DEVICE_CHUNK),
        }
    }
}

impl Scorer {
    pub(in crate::model) fn new(ops: Ops) -> Self {
        Self(match ops {
            Ops::Cpu => Kept::Cpu(None),
            Ops::Cuda => Kept::Cuda(None),
        })
    }

    /// Log-probability and entropy of every target, and its divergence from the bias model where there is one.
    pub(in crate::model) fn score(&mut self, rows: &TargetRows) -> Result<TokenScores> {
        match &mut self.0 {
            Kept::Cpu(kept) => on_cpu::score(rows, kept),
            Kept::Cuda(kept) => on_cuda::score(rows, kept),
        }
    }

    /// Gradients `[R, H]` of the hidden rows and `[V, H]` of the weight, given those of what [`Self::score`] returns.
    pub(in crate::model) fn backward(
        self,
        rows: &TargetRows,
        d_logprob: &[f32],
        d_full_kl: &[f32],
    ) -> Result<(Tensor, Tensor)> {
        match self.0 {
            Kept::Cpu(kept) => on_cpu::backward(rows, kept, d_logprob, d_full_kl),
            Kept::Cuda(kept) => on_cuda::backward(rows, kept, d_logprob, d_full_kl),
        }
    }
}
