//! The network token by token: prompts once, then one token per row and step.

use crate::model::Qwen25Vl;
use crate::model::attention::Heads;
use crate::model::cache::KvCache;
use crate::model::layers::linear;
use crate::model::packed::PackedLayout;
use crate::model::positions::Positions;
use candle_core::{DType, Result, Tensor};

impl Qwen25Vl {
    /// Final norm and head: `[N, H]` → logits `[N, V]` in f32.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        linear(&self.norm(x)?, &self.head, None)?.to_dtype(DType::F32)
    }

    /// Prompts packed as `layout` (no completions), once: their cache and their outputs `[N, H]` before the norm.
    ///
    /// `rows_per_prompt[i]` rows will continue prompt `i` by at most `capacity` tokens each.
    pub fn prefill(
        &self,
        embedded: &Tensor,
        positions: &Positions,
        layout: &PackedLayout,
        rows_per_prompt: &[usize],
        capacity: usize,
    ) -> Result<(KvCache, Tensor)> {
        let (cos, sin) = self.rotary(positions)?;
        let mut x = embedded.clone();
        let mut prefilled = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, k, v) = layer.prefill(&x, &cos, &sin, layout)?;
            x = y;
            prefilled.push((k, v));
        }
        let heads = Heads::of(&self.spec.text);
        let cache = KvCache::new(&prefilled, layout, heads, rows_per_prompt, capacity)?;
        Ok((cache, x))
    }

    /// One new token per cached row at `positions`: ids `[B]` → outputs `[B, H]` before the norm.
    pub fn decode(
        &self,
        token_ids: &[u32],
        positions: &Positions,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (cos, sin) = self.rotary(positions)?;
        let mut x = self.embed(token_ids, &[], None)?;
        let (layers, plan) = cache.parts();
        for (layer, cached) in self.layers.iter().zip(layers) {
            x = layer.decode(&x, &cos, &sin, cached, plan)?;
        }
        cache.advance();
        Ok(x)
    }
}
