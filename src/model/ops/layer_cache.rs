//! Keys and values of one decoder layer, where decoding rows find them.
//!
//! Shapes: `Q` prompts of at most `P` tokens, `R` rows of at most `T` tokens, `m` key/value heads of width `d`.

use crate::model::ops::heads::Heads;
use candle_core::{DType, Device, Result, Tensor};

/// How much a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSize {
    /// Prompts at a time (Q).
    pub prompts: usize,
    /// Tokens of the longest prompt (P).
    pub prompt_len: usize,
    /// Rows at a time (R).
    pub rows: usize,
    /// Tokens a row may add (T).
    pub capacity: usize,
}

/// Keys and values of one decoder layer.
#[derive(Debug)]
pub struct LayerCache {
    pub(in crate::model::ops) heads: Heads,
    /// T.
    pub(in crate::model::ops) capacity: usize,
    /// `[Q·m, P, d]`
    pub(in crate::model::ops) prompt_k: Tensor,
    pub(in crate::model::ops) prompt_v: Tensor,
    /// `[R·m·T, d]`
    pub(in crate::model::ops) own_k: Tensor,
    pub(in crate::model::ops) own_v: Tensor,
}

/// One row of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CachedRow {
    /// Its prompt's slot, and that prompt's tokens.
    pub(crate) slot: usize,
    pub(crate) prompt_len: usize,
    /// Where its own tokens lie, and how many there are.
    pub(crate) place: usize,
    pub(crate) own_len: usize,
}

impl LayerCache {
    /// Room for keys and values in `dtype`.
    pub(in crate::model::ops) fn new(
        heads: Heads,
        size: CacheSize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (m, d) = (heads.num_kv_heads, heads.head_dim);
        let prompts = (size.prompts * m, size.prompt_len, d);
        let own = (size.rows * m * size.capacity, d);
        Ok(Self {
            heads,
            capacity: size.capacity,
            prompt_k: Tensor::zeros(prompts, dtype, device)?,
            prompt_v: Tensor::zeros(prompts, dtype, device)?,
            own_k: Tensor::zeros(own, dtype, device)?,
            own_v: Tensor::zeros(own, dtype, device)?,
        })
    }

    /// Stores the keys and values `[N, m·d]` of prompts behind each other: each one's slot, and its tokens.
    pub(crate) fn store_prompts(
        &self,
        k: &Tensor,
        v: &Tensor,
        prompts: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<()> {
        let (m, d) = (self.heads.num_kv_heads, self.heads.head_dim);
        let mut start = 0;
        for (slot, len) in prompts {
            for (cache, values) in [(&self.prompt_k, k), (&self.prompt_v, v)] {
                let by_head = values
                    .narrow(0, start, len)?
                    .reshape((len, m, d))?
                    .transpose(0, 1)?
                    .contiguous()?
                    .to_dtype(cache.dtype())?;
                cache.narrow(0, slot * m, m)?.slice_set(&by_head, 1, 0)?;
            }
            start += len;
        }
        Ok(())
    }
}

impl CachedRow {
    /// As kernels read it.
    pub(crate) fn on_device(&self) -> [u32; 4] {
        [self.slot, self.prompt_len, self.place, self.own_len].map(|value| value as u32)
    }
}
