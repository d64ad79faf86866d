//! Keys and values of a running generation, owned by the caller.
//!
//! All memory is taken at the start. A prompt's keys and values lie in one *slot*, however many rows continue it; what a
//! row adds lies in its *place*. Rows join and leave at any time and have ages of their own: their slots and places are
//! used again, nothing is moved, concatenated or repeated per head.
//!
//! Shapes: `Q` slots of at most `P` prompt rows, `R` places of at most `T` tokens, `B` rows in the batch now, `m`
//! key/value heads of width `d`, `r` query heads each.

pub use crate::model::ops::layer_cache::{CacheSize, LayerCache};

use crate::model::ops::Ops;
use crate::model::ops::decode::DecodePlan;
use crate::model::ops::heads::Heads;
use crate::model::ops::layer_cache::CachedRow;
use crate::model::packed::PackedLayout;
use crate::model::spec::TextSpec;
use candle_core::{DType, Device, Result, bail};

/// The cache of one generation.
#[derive(Debug)]
pub(crate) struct KvCache {
    ops: Ops,
    device: Device,
    size: CacheSize,
    heads: Heads,
    layers: Vec<LayerCache>,
    /// Tokens of the prompt in each slot; `None` where the slot is free.
    prompt_lens: Vec<Option<usize>>,
    free_places: Vec<usize>,
    rows: Vec<CachedRow>,
}

impl KvCache {
    /// An empty cache for a decoder as `spec` describes.
    pub(crate) fn new(
        ops: Ops,
        spec: &TextSpec,
        size: CacheSize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let heads = Heads::of(spec);
        let layers = (0..spec.num_layers)
            .map(|_| ops.layer_cache(heads, size, dtype, device))
            .collect::<Result<_>>()?;
        Ok(Self {
            ops,
            device: device.clone(),
            size,
            heads,
            layers,
            prompt_lens: vec![None; size.prompts],
            // Taken from the end: the first row gets the first place.
            free_places: (0..size.rows).rev().collect(),
            rows: Vec::new(),
        })
    }

    /// Rows in the batch (B).
    #[cfg(test)]
    fn num_rows(&self) -> usize {
        self.rows.len()
    }

    /// Rows that can join now.
    pub(crate) fn free_places(&self) -> usize {
        self.free_places.len()
    }

    /// Prompts that can be stored now.
    pub(crate) fn free_slots(&self) -> usize {
        self.prompt_lens.iter().filter(|len| len.is_none()).count()
    }

    pub(crate) fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// Takes a free slot for each of the prompts packed as `layout` (no completions), for every layer to fill.
    ///
    /// # Errors
    /// Too few free slots, or a prompt longer than P.
    pub(crate) fn reserve(&mut self, layout: &PackedLayout) -> Result<Vec<usize>> {
        let mut slots = Vec::with_capacity(layout.groups().len());
        for group in layout.groups() {
            let Some(slot) = self.prompt_lens.iter().position(Option::is_none) else {
                bail!("the cache holds {} prompts and is full", self.size.prompts);
            };
            if group.prompt_len > self.size.prompt_len {
                bail!(
                    "a prompt of {} tokens in a cache for prompts of {}",
                    group.prompt_len,
                    self.size.prompt_len
                );
            }
            self.prompt_lens[slot] = Some(group.prompt_len);
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Frees a slot; no row of its prompt may be left.
    pub(crate) fn release(&mut self, slot: usize) -> Result<()> {
        if self.rows.iter().any(|row| row.slot == slot) {
            bail!("slot {slot} of the cache is in use");
        }
        self.prompt_lens[slot] = None;
        Ok(())
    }

    /// Adds a row that continues the prompt in `slot`, behind the rows of the batch.
    ///
    /// # Errors
    /// No free place, or no prompt in the slot.
    pub(crate) fn join(&mut self, slot: usize) -> Result<()> {
        let Some(prompt_len) = self.prompt_lens[slot] else {
            bail!("slot {slot} of the cache holds no prompt");
        };
        let Some(place) = self.free_places.pop() else {
            bail!("the cache holds {} rows and is full", self.size.rows);
        };
        self.rows.push(CachedRow {
            slot,
            prompt_len,
            place,
            own_len: 0,
        });
        Ok(())
    }

    /// Keeps only these rows of the batch (ascending); the others' places are free.
    pub(crate) fn keep_rows(&mut self, keep: &[usize]) {
        let mut kept = Vec::with_capacity(keep.len());
        let mut keep = keep.iter().peekable();
        for (index, row) in self.rows.iter().enumerate() {
            if keep.next_if_eq(&&index).is_some() {
                kept.push(*row);
            } else {
                self.free_places.push(row.place);
            }
        }
        self.rows = kept;
    }

    /// What the layers need for one token of every row; [`Self::advance`] ends the step.
    ///
    /// # Errors
    /// A row that already has T tokens.
    pub(crate) fn plan(&self) -> Result<DecodePlan> {
        if self
            .rows
            .iter()
            .any(|row| row.own_len == self.size.capacity)
        {
            bail!(
                "the cache holds {} tokens per row and is full",
                self.size.capacity
            );
        }
        self.ops
            .plan_decode(&self.rows, self.heads, self.size.capacity, &self.device)
    }

    /// How much it holds.
    pub(crate) fn size(&self) -> CacheSize {
        self.size
    }

    /// The rows of the batch.
    pub(crate) fn rows(&self) -> &[CachedRow] {
        &self.rows
    }

    /// Counts the token that every layer has just stored for every row.
    pub(crate) fn advance(&mut self) {
        for row in &mut self.rows {
            row.own_len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::composed;
    use crate::model::packed::GroupLayout;
    use candle_core::Tensor;

    const SPEC: TextSpec = TextSpec {
        hidden_size: 24,
        num_layers: 1,
        num_heads: 4,
        num_kv_heads: 2,
        intermediate_size: 8,
        vocab_size: 8,
        rope_theta: 100.0,
        rms_norm_eps: 1e-6,
        mrope_section: [1, 1, 1],
    };

    fn random(rows: usize, width: usize) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu)
    }

    fn layout(lens: &[usize]) -> PackedLayout {
        let group = |&prompt_len: &usize| GroupLayout {
            prompt_len,
            completion_lens: vec![],
        };
        PackedLayout::new(lens.iter().map(group).collect())
    }

    /// A cache, and what is in it: keys and values `[tokens, m·d]`.
    struct Known {
        cache: KvCache,
        /// Of each slot.
        prompts: Vec<Option<[Tensor; 2]>>,
        /// The slot of each row of the batch, and what the row has added.
        rows: Vec<(usize, Vec<[Tensor; 2]>)>,
    }

    impl Known {
        fn new(size: CacheSize) -> Result<Self> {
            Ok(Self {
                cache: KvCache::new(Ops::Cpu, &SPEC, size, DType::F32, &Device::Cpu)?,
                prompts: vec![None; size.prompts],
                rows: Vec::new(),
            })
        }

        fn store(&mut self, lens: &[usize]) -> Result<Vec<usize>> {
            let slots = self.cache.reserve(&layout(lens))?;
            let count = lens.iter().sum();
            let (k, v) = (random(count, 12)?, random(count, 12)?);
            let prompts = slots.iter().copied().zip(lens.iter().copied());
            self.cache.layers[0].store_prompts(&k, &v, prompts)?;
            let mut start = 0;
            for (&slot, &len) in slots.iter().zip(lens) {
                self.prompts[slot] = Some([k.narrow(0, start, len)?, v.narrow(0, start, len)?]);
                start += len;
            }
            Ok(slots)
        }

        fn join(&mut self, slot: usize) -> Result<()> {
            self.rows.push((slot, Vec::new()));
            self.cache.join(slot)
        }

        fn keep_rows(&mut self, keep: &[usize]) {
            self.rows = keep.iter().map(|&row| self.rows[row].clone()).collect();
            self.cache.keep_rows(keep);
        }

        /// One token of every row, attended to as is defined.
        fn step(&mut self) -> Result<()> {
            let b = self.cache.num_rows();
            let x = random(b, 48)?;
            let plan = self.cache.plan()?;
            // Projections that take queries, keys and values as they stand side by side in `x`, and angles of 0.
            let columns = |start, len| -> Result<(Tensor, Tensor)> {
                let all = Tensor::eye(48, DType::F32, &Device::Cpu)?;
                let bias = Tensor::zeros(len, DType::F32, &Device::Cpu)?;
                Ok((all.narrow(0, start, len)?.contiguous()?, bias))
            };
            let (query, key, value) = (columns(0, 24)?, columns(24, 12)?, columns(36, 12)?);
            let angles = Tensor::zeros((b, 3), DType::F32, &Device::Cpu)?;
            let got = Ops::Cpu.decode_attention(
                &x,
                [&query, &key, &value],
                &angles.cos()?,
                &angles.sin()?,
                &self.cache.layers[0],
                &plan,
            )?;
            for (row, (slot, added)) in self.rows.iter_mut().enumerate() {
                let x = x.narrow(0, row, 1)?;
                added.push([x.narrow(1, 24, 12)?, x.narrow(1, 36, 12)?]);
                let all = |which: usize| -> Result<Tensor> {
                    let prompt = self.prompts[*slot].iter().map(|prompt| &prompt[which]);
                    let own = added.iter().map(|token| &token[which]);
                    Tensor::cat(&prompt.chain(own).collect::<Vec<_>>(), 0)
                };
                let qkv = [&x.narrow(1, 0, 24)?, &all(0)?, &all(1)?];
                let want = composed::attention(qkv, Heads::of(&SPEC), |_, _| true)?;
                let error = (got.narrow(0, row, 1)? - want)?.abs()?.max_all()?;
                let error = error.to_scalar::<f32>()?;
                assert!(error < 1e-5, "off by {error:e}");
            }
            self.cache.advance();
            Ok(())
        }
    }

    #[test]
    fn rows_attend_to_what_is_theirs_while_others_come_and_go() -> Result<()> {
        let mut known = Known::new(CacheSize {
            prompts: 3,
            prompt_len: 7,
            rows: 5,
            capacity: 4,
        })?;
        let slots = known.store(&[5, 3])?;
        for slot in [0, 0, 1, 0] {
            known.join(slots[slot])?;
        }
        known.step()?;
        known.step()?;
        // Rows of two ages, of a third prompt, in a place that was used before.
        known.keep_rows(&[0, 3]);
        known.cache.release(slots[1])?;
        let later = known.store(&[7, 1])?;
        assert_eq!(later, [1, 2]);
        for slot in [0, 1, 1] {
            known.join(later[slot])?;
        }
        let cache = &known.cache;
        assert_eq!((cache.num_rows(), cache.free_places()), (5, 0));
        known.step()?;
        known.keep_rows(&[1, 4]);
        known.step()?;
        assert!(known.cache.plan().is_err(), "a row of four tokens is full");
        known.keep_rows(&[1]);
        known.step()
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let size = CacheSize {
            prompts: 1,
            prompt_len: 3,
            rows: 1,
            capacity: 2,
        };
        let mut cache = KvCache::new(Ops::Cpu, &SPEC, size, DType::F32, &Device::Cpu)?;
        assert!(cache.join(0).is_err(), "no prompt");
        assert!(cache.reserve(&layout(&[4])).is_err(), "too long");
        let slots = cache.reserve(&layout(&[3]))?;
        assert!(cache.reserve(&layout(&[1])).is_err(), "no slot");
        cache.join(slots[0])?;
        assert!(cache.join(slots[0]).is_err(), "no place");
        assert!(cache.release(slots[0]).is_err(), "in use");
        cache.keep_rows(&[]);
        cache.release(slots[0])?;
        assert_eq!((cache.free_slots(), cache.free_places()), (1, 1));
        Ok(())
    }
}
