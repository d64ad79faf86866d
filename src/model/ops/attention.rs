//! Attention over packed rows. Scores are softmaxed in f32 and nothing is copied per head, completion or window.
//!
//! Shapes: `N` rows, `n` query heads of width `d` that share `m` key/value heads.

use crate::model::ops::Ops;
use crate::model::ops::cpu::attention::{self as on_cpu, Segment};
use crate::model::ops::cuda::attention::{Attended, BlockTables};
use crate::model::ops::heads::Heads;
use crate::model::ops::sequences::SequenceLayout;
use candle_core::{Result, Tensor};
use std::sync::OnceLock;

/// Which rows see which, and what the backends make of that, once they need it: one for all layers and passes over the
/// same rows.
#[derive(Debug, Clone)]
pub struct AttentionPlan {
    layout: SequenceLayout,
    segments: OnceLock<Vec<Segment>>,
    tables: OnceLock<BlockTables>,
}

impl AttentionPlan {
    /// For tensors whose rows lie as `layout` says.
    pub(crate) fn new(layout: SequenceLayout) -> Self {
        Self {
            layout,
            segments: OnceLock::new(),
            tables: OnceLock::new(),
        }
    }

    fn segments(&self) -> &[Segment] {
        self.segments.get_or_init(|| on_cpu::segments(&self.layout))
    }

    /// The tables of kernels for tensors like `x`.
    fn tables(&self, x: &Tensor) -> Result<BlockTables> {
        if let Some(tables) = self.tables.get().filter(|known| known.fit(x)) {
            return Ok(tables.clone());
        }
        let tables = BlockTables::new(&self.layout, x.dtype(), x.device())?;
        // Rows serve one model: tables for another dtype would be made each time.
        self.tables.get_or_init(|| tables.clone());
        Ok(tables)
    }
}

impl Ops {
    /// `q [N, n·d]`, `k`, `v` `[N, m·d]` → `[N, n·d]`, and what spares the backward pass computing it again, where a
    /// kernel leaves that.
    pub fn attention(
        self,
        [q, k, v]: [&Tensor; 3],
        heads: Heads,
        plan: &AttentionPlan,
    ) -> Result<(Tensor, Option<Attended>)> {
        match self {
            Self::Cpu => Ok((on_cpu::forward([q, k, v], heads, plan.segments())?, None)),
            Self::Cuda => {
                let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
                let attended = plan.tables(&q)?.forward(&q, &k, &v, heads)?;
                Ok((attended.output.clone(), Some(attended)))
            }
        }
    }

    /// Gradients of [`Self::attention`] with respect to `q`, `k`, `v`; the probabilities are computed again, from what
    /// the forward pass left where it did.
    pub fn attention_backward(
        self,
        [q, k, v]: [&Tensor; 3],
        heads: Heads,
        plan: &AttentionPlan,
        saved: Option<&Attended>,
        grad_output: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        match self {
            Self::Cpu => on_cpu::backward([q, k, v], heads, plan.segments(), grad_output),
            Self::Cuda => {
                let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
                let tables = plan.tables(&q)?;
                let recomputed;
                let attended = if let Some(attended) = saved {
                    attended
                } else {
                    recomputed = tables.forward(&q, &k, &v, heads)?;
                    &recomputed
                };
                let grad_output = grad_output.contiguous()?;
                tables.backward([&q, &k, &v], heads, attended, &grad_output)
            }
        }
    }
}
