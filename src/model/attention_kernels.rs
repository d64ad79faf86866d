//! Packed attention by the kernels of [`crate::kernels::attention`].

use crate::kernels::attention::{Attended, HeadCounts, Sequence, Sequences};
use crate::model::attention::Heads;
use crate::model::packed::PackedLayout;
use candle_core::{Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Layouts whose tables are kept: those of the passes of one step.
const KEPT: usize = 8;

impl From<Heads> for HeadCounts {
    fn from(heads: Heads) -> Self {
        Self {
            queries: heads.num_heads,
            keys: heads.num_kv_heads,
        }
    }
}

/// `q [N, n·d]`, `k`, `v` `[N, m·d]` → `[N, n·d]`.
pub(super) fn forward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    layout: &PackedLayout,
) -> Result<Attended> {
    sequences(layout, q)?.forward(
        &q.contiguous()?,
        &k.contiguous()?,
        &v.contiguous()?,
        heads.into(),
    )
}

/// Gradients with respect to `q`, `k`, `v`.
pub(super) fn backward(
    qkv: [&Tensor; 3],
    heads: Heads,
    layout: &PackedLayout,
    saved: Option<&Attended>,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let [q, k, v] = qkv;
    let recomputed;
    let attended = if let Some(attended) = saved {
        attended
    } else {
        recomputed = forward(qkv, heads, layout)?;
        &recomputed
    };
    sequences(layout, q)?.backward(
        [&q.contiguous()?, &k.contiguous()?, &v.contiguous()?],
        heads.into(),
        attended,
        &upstream.contiguous()?,
    )
}

/// The tables of `layout` for tensors like `x`: every layer and pass over the same rows reads the same.
fn sequences(layout: &PackedLayout, x: &Tensor) -> Result<Arc<Sequences>> {
    static KNOWN: Mutex<Vec<(PackedLayout, Arc<Sequences>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known
        .iter()
        .find(|(other, tables)| other == layout && tables.fit(x));
    if let Some((_, tables)) = found {
        return Ok(Arc::clone(tables));
    }
    let tables = Arc::new(Sequences::new(
        &sequences_of(layout),
        layout.num_rows(),
        true,
        x.dtype(),
        x.device(),
    )?);
    if known.len() == KEPT {
        known.remove(0);
    }
    known.push((layout.clone(), Arc::clone(&tables)));
    Ok(tables)
}

/// Prompts and completions; the rows of a group up to its end see its prompt.
fn sequences_of(layout: &PackedLayout) -> Vec<Sequence> {
    let (mut sequences, mut start) = (Vec::new(), 0);
    for group in &layout.groups {
        let end = start + group.num_rows();
        let prompt = start..start + group.prompt_len;
        sequences.push(Sequence {
            rows: prompt.clone(),
            before: start..start,
            seen_until: end,
        });
        let mut first = prompt.end;
        for &len in &group.completion_lens {
            sequences.push(Sequence {
                rows: first..first + len,
                before: prompt.clone(),
                seen_until: first + len,
            });
            first += len;
        }
        start = end;
    }
    sequences
}
