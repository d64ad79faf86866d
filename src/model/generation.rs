//! The network token by token: prompts once, then one token per row and step.

use crate::model::Qwen25Vl;
use crate::model::cache::{CacheSize, KvCache};
use crate::model::ops::decode::DecodePlan;
use crate::model::packed::PackedLayout;
use crate::model::positions::Positions;
use candle_core::{Result, Tensor};

impl Qwen25Vl {
    /// Final norm and head: `[N, H]` → logits `[N, V]` in f32, whatever the weights' format.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.logits(&self.norm(x)?, &self.head)
    }

    /// An empty cache for this network.
    pub(crate) fn cache(&self, size: CacheSize) -> Result<KvCache> {
        KvCache::new(self.ops, &self.spec.text, size, self.dtype(), self.device())
    }

    /// Prompts packed as `layout` (no completions), once, into free slots of `cache`: the slots, and the outputs
    /// `[N, H]` before the norm.
    pub(crate) fn prefill(
        &self,
        embedded: &Tensor,
        positions: &Positions,
        layout: &PackedLayout,
        cache: &mut KvCache,
    ) -> Result<(Vec<usize>, Tensor)> {
        let (cos, sin) = self.rotary(positions)?;
        let slots = cache.reserve(layout)?;
        let mut x = embedded.clone();
        for (layer, cached) in self.layers.iter().zip(cache.layers()) {
            let (y, k, v) = layer.prefill(&x, &cos, &sin, layout)?;
            let lens = layout.groups().iter().map(|group| group.prompt_len);
            cached.store_prompts(&k, &v, slots.iter().copied().zip(lens))?;
            x = y;
        }
        Ok((slots, x))
    }

    /// One new token per row of `cache` at `positions`: ids `[B]` → outputs `[B, H]` before the norm.
    pub(crate) fn decode(
        &self,
        token_ids: &[u32],
        positions: &Positions,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (cos, sin) = self.rotary(positions)?;
        let mut x = self.embed(token_ids, &[], None)?;
        let plan = cache.plan()?;
        for (layer, cached) in self.layers.iter().zip(cache.layers()) {
            x = layer.decode(&x, &cos, &sin, cached, &plan)?;
        }
        cache.advance();
        Ok(x)
    }

    /// As [`Self::decode`] for kernels, of rows `[B, H]` that are embedded, whose keys lie where `rows [B, 4]` says when the
    /// work runs (see [`crate::model::ops::cuda::decode`]). The cache does not count the token.
    pub(crate) fn decode_embedded(
        &self,
        mut x: Tensor,
        cos: &Tensor,
        sin: &Tensor,
        cache: &KvCache,
        rows: &Tensor,
    ) -> Result<Tensor> {
        let plan = DecodePlan::on_device(rows.clone());
        for (layer, cached) in self.layers.iter().zip(cache.layers()) {
            x = layer.decode(&x, cos, sin, cached, &plan)?;
        }
        Ok(x)
    }
}
