//! Keys and values of a running generation, owned by the caller.
//!
//! All memory is taken at the start. A prompt's keys and values lie in one *slot*, however many rows continue it; what a
//! row adds lies in its *place*. Rows join and leave at any time and have ages of their own: their slots and places are
//! used again, nothing is moved, concatenated or repeated per head.
//!
//! Shapes: `Q` slots of at most `P` prompt rows, `R` places of at most `T` tokens, `B` rows in the batch now, `m`
//! key/value heads of width `d`, `r` query heads each.

use crate::kernels;
use crate::kernels::decode::{Cached, Projected};
use crate::model::attention::{Heads, softmax};
use crate::model::attention_cpu;
use crate::model::packed::PackedLayout;
use crate::model::spec::TextSpec;
use candle_core::{D, DType, Device, Result, Tensor, bail};

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

impl CacheSize {
    /// Values of all keys and values that a decoder as `spec` describes keeps.
    pub fn elem_count(&self, spec: &TextSpec) -> usize {
        let tokens = self.prompts * self.prompt_len + self.rows * self.capacity;
        2 * spec.num_layers * spec.num_kv_heads * spec.head_dim() * tokens
    }
}

/// The cache of one generation.
#[derive(Debug)]
pub struct KvCache {
    size: CacheSize,
    heads: Heads,
    layers: Vec<LayerCache>,
    /// Tokens of the prompt in each slot; `None` where the slot is free.
    prompt_lens: Vec<Option<usize>>,
    free_places: Vec<usize>,
    rows: Vec<CachedRow>,
}

/// Keys and values of one decoder layer.
#[derive(Debug)]
pub struct LayerCache {
    /// `[Q·m, P, d]`
    prompt_k: Tensor,
    prompt_v: Tensor,
    /// `[R·m·T, d]`
    own_k: Tensor,
    own_v: Tensor,
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

/// What all layers need to know of one decode step.
#[derive(Debug)]
pub struct DecodePlan {
    heads: Heads,
    size: CacheSize,
    rows: Vec<CachedRow>,
    means: Means,
}

/// How a step finds and stores keys and values.
#[derive(Debug)]
enum Means {
    /// By kernels that read the rows on the device, `[B, 4]`.
    Kernels(Tensor),
    /// By operations.
    Operations {
        /// Where the new keys and values go, `[B·m, d]`.
        targets: Tensor,
        /// `None` where [`attention_cpu`] reads the rows as they are.
        batched: Option<BatchedPlan>,
    },
}

/// How rows fold into dense products: as rows of their prompt's slot, and as their own place.
#[derive(Debug)]
struct BatchedPlan {
    /// Most rows of any slot (S).
    per_slot: usize,
    /// Batch row → row of `[Q·S]`, and back (any row where there is none).
    slot_of_row: Tensor,
    row_of_slot: Tensor,
    /// Batch row → place, and back (any row where the place is free).
    place_of_row: Tensor,
    row_of_place: Tensor,
    /// Tokens of the oldest row, the new one included (L).
    longest: usize,
    /// `[B, 1, 1, P + L]`: 0 where a row has a key, −∞ elsewhere.
    mask: Tensor,
}

impl KvCache {
    /// An empty cache for a decoder as `spec` describes.
    pub fn new(spec: &TextSpec, size: CacheSize, dtype: DType, device: &Device) -> Result<Self> {
        let heads = Heads::of(spec);
        let (m, d) = (heads.num_kv_heads, heads.head_dim);
        let prompts = (size.prompts * m, size.prompt_len, d);
        let own = (size.rows * m * size.capacity, d);
        let layers = (0..spec.num_layers)
            .map(|_| {
                Ok(LayerCache {
                    prompt_k: Tensor::zeros(prompts, dtype, device)?,
                    prompt_v: Tensor::zeros(prompts, dtype, device)?,
                    own_k: Tensor::zeros(own, dtype, device)?,
                    own_v: Tensor::zeros(own, dtype, device)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
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
    pub fn num_rows(&self) -> usize {
        self.rows.len()
    }

    /// Rows that can join now.
    pub fn free_places(&self) -> usize {
        self.free_places.len()
    }

    /// Prompts that can be stored now.
    pub fn free_slots(&self) -> usize {
        self.prompt_lens.iter().filter(|len| len.is_none()).count()
    }

    /// Its layers.
    pub fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// Takes a free slot for each of the prompts packed as `layout` (no completions), for every layer to fill.
    ///
    /// # Errors
    /// Too few free slots, or a prompt longer than P.
    pub fn reserve(&mut self, layout: &PackedLayout) -> Result<Vec<usize>> {
        let mut slots = Vec::with_capacity(layout.groups.len());
        for group in &layout.groups {
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
    pub fn release(&mut self, slot: usize) -> Result<()> {
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
    pub fn join(&mut self, slot: usize) -> Result<()> {
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
    pub fn keep_rows(&mut self, keep: &[usize]) {
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
    pub fn plan(&self) -> Result<DecodePlan> {
        let Some(device) = self.layers.first().map(|layer| layer.own_k.device()) else {
            bail!("a cache needs at least one layer");
        };
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
        if kernels::applies(&self.layers[0].own_k) {
            let rows = self.rows.iter().flat_map(CachedRow::on_device);
            let rows: Vec<u32> = rows.collect();
            return Ok(self.plan_of(Tensor::from_vec(rows, (self.rows.len(), 4), device)?));
        }
        let direct = attention_cpu::applies(&self.layers[0].own_k);
        let batched = if direct {
            None
        } else {
            Some(BatchedPlan::new(&self.rows, self.size, device)?)
        };
        let m = self.heads.num_kv_heads;
        let targets: Vec<u32> = self
            .rows
            .iter()
            .flat_map(|row| {
                (0..m)
                    .map(|head| ((row.place * m + head) * self.size.capacity + row.own_len) as u32)
            })
            .collect();
        let targets = Tensor::new(targets, device)?
            .unsqueeze(1)?
            .broadcast_as((self.rows.len() * m, self.heads.head_dim))?
            .contiguous()?;
        Ok(DecodePlan {
            heads: self.heads,
            size: self.size,
            rows: self.rows.clone(),
            means: Means::Operations { targets, batched },
        })
    }

    /// A plan whose rows the kernels read from `rows [B, 4]` (see [`crate::kernels::decode`]) whenever a step runs.
    pub(crate) fn plan_of(&self, rows: Tensor) -> DecodePlan {
        DecodePlan {
            heads: self.heads,
            size: self.size,
            rows: Vec::new(),
            means: Means::Kernels(rows),
        }
    }

    /// How much it holds.
    pub fn size(&self) -> CacheSize {
        self.size
    }

    /// The rows of the batch.
    pub(crate) fn rows(&self) -> &[CachedRow] {
        &self.rows
    }

    /// Counts the token that every layer has just stored for every row.
    pub fn advance(&mut self) {
        for row in &mut self.rows {
            row.own_len += 1;
        }
    }
}

impl CachedRow {
    /// As the kernels read it.
    pub(crate) fn on_device(&self) -> [u32; 4] {
        [self.slot, self.prompt_len, self.place, self.own_len].map(|value| value as u32)
    }
}

impl DecodePlan {
    /// Whether [`LayerCache::append_and_attend_projected`] is to be used.
    pub(crate) fn uses_kernels(&self) -> bool {
        matches!(self.means, Means::Kernels(_))
    }
}

impl BatchedPlan {
    fn new(rows: &[CachedRow], size: CacheSize, device: &Device) -> Result<Self> {
        let mut of_slot: Vec<Vec<u32>> = vec![Vec::new(); size.prompts];
        for (index, row) in rows.iter().enumerate() {
            of_slot[row.slot].push(index as u32);
        }
        let per_slot = of_slot.iter().map(Vec::len).max().unwrap_or(0);
        let mut slot_of_row = vec![0u32; rows.len()];
        let mut row_of_slot = vec![0u32; size.prompts * per_slot];
        for (slot, members) in of_slot.iter().enumerate() {
            for (index, &row) in members.iter().enumerate() {
                let folded = slot * per_slot + index;
                slot_of_row[row as usize] = folded as u32;
                row_of_slot[folded] = row;
            }
        }
        let mut row_of_place = vec![0u32; size.rows];
        for (index, row) in rows.iter().enumerate() {
            row_of_place[row.place] = index as u32;
        }
        let place_of_row: Vec<u32> = rows.iter().map(|row| row.place as u32).collect();
        let longest = rows.iter().map(|row| row.own_len).max().unwrap_or(0) + 1;
        let seen = |exists: bool| if exists { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = rows
            .iter()
            .flat_map(|row| {
                let prompt = (0..size.prompt_len).map(move |key| seen(key < row.prompt_len));
                prompt.chain((0..longest).map(move |key| seen(key <= row.own_len)))
            })
            .collect();
        let keys = size.prompt_len + longest;
        Ok(Self {
            per_slot,
            slot_of_row: Tensor::new(slot_of_row, device)?,
            row_of_slot: Tensor::new(row_of_slot, device)?,
            place_of_row: Tensor::new(place_of_row, device)?,
            row_of_place: Tensor::new(row_of_place, device)?,
            longest,
            mask: Tensor::from_vec(mask, (rows.len(), 1, 1, keys), device)?,
        })
    }

    /// `[B, m, r, w]` → `[Q, m, S·r, w]`
    fn to_slots(&self, x: &Tensor) -> Result<Tensor> {
        let (_, m, r, width) = x.dims4()?;
        x.contiguous()?
            .index_select(&self.row_of_slot, 0)?
            .reshape(((), self.per_slot, m, r, width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape(((), m, self.per_slot * r, width))
    }

    /// `[Q, m, S·r, w]` → `[B, m, r, w]`
    fn to_rows(&self, x: &Tensor) -> Result<Tensor> {
        let (prompts, m, rows, width) = x.dims4()?;
        let r = rows / self.per_slot;
        x.reshape((prompts, m, self.per_slot, r, width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((prompts * self.per_slot, m, r, width))?
            .index_select(&self.slot_of_row, 0)
    }
}

impl LayerCache {
    /// Stores the keys and values `[N, m·d]` of the prompts packed as `layout` in their `slots`.
    pub(crate) fn store_prompts(
        &self,
        k: &Tensor,
        v: &Tensor,
        layout: &PackedLayout,
        slots: &[usize],
        heads: Heads,
    ) -> Result<()> {
        let (m, d) = (heads.num_kv_heads, heads.head_dim);
        let mut start = 0;
        for (group, &slot) in layout.groups.iter().zip(slots) {
            for (cache, values) in [(&self.prompt_k, k), (&self.prompt_v, v)] {
                let by_head = values
                    .narrow(0, start, group.prompt_len)?
                    .reshape((group.prompt_len, m, d))?
                    .transpose(0, 1)?
                    .contiguous()?;
                cache.narrow(0, slot * m, m)?.slice_set(&by_head, 1, 0)?;
            }
            start += group.prompt_len;
        }
        Ok(())
    }

    /// Stores the new token's key and value, then attends to the prompt and to everything the row has added.
    ///
    /// `q [B, n·d]`, `k`, `v` `[B, m·d]` → `[B, n·d]`.
    pub(crate) fn append_and_attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        plan: &DecodePlan,
    ) -> Result<Tensor> {
        let Means::Operations { targets, batched } = &plan.means else {
            bail!("a plan for kernels: they append and turn in one");
        };
        let shape = targets.dims2()?;
        for (cache, values) in [(&self.own_k, k), (&self.own_v, v)] {
            cache.scatter_set(targets, &values.contiguous()?.reshape(shape)?, 0)?;
        }
        match batched {
            None => attention_cpu::decode(q, &self.cached(plan), plan.heads),
            Some(batched) => self.attend(q, plan, batched),
        }
    }

    /// As [`Self::append_and_attend`] by kernels, from projections without bias and rotation.
    pub(crate) fn append_and_attend_projected(
        &self,
        projected: &Projected,
        cos: &Tensor,
        sin: &Tensor,
        plan: &DecodePlan,
    ) -> Result<Tensor> {
        let Means::Kernels(rows) = &plan.means else {
            bail!("a plan for operations");
        };
        let cached = Cached {
            prompt_k: &self.prompt_k,
            prompt_v: &self.prompt_v,
            own_k: &self.own_k,
            own_v: &self.own_v,
            capacity: plan.size.capacity,
        };
        let heads = plan.heads.into();
        let q = kernels::decode::append(projected, cos, sin, &cached, heads, rows)?;
        kernels::decode::attend(&q, &cached, heads, rows)
    }

    fn cached<'a>(&'a self, plan: &'a DecodePlan) -> attention_cpu::Cached<'a> {
        attention_cpu::Cached {
            prompt_k: &self.prompt_k,
            prompt_v: &self.prompt_v,
            own_k: &self.own_k,
            own_v: &self.own_v,
            prompt_stride: plan.size.prompt_len,
            own_stride: plan.size.capacity,
            rows: &plan.rows,
        }
    }

    /// Attention of one query per row in candle's operations, on any device and in any number format.
    fn attend(&self, q: &Tensor, plan: &DecodePlan, batched: &BatchedPlan) -> Result<Tensor> {
        let Heads {
            num_kv_heads: m,
            head_dim: d,
            ..
        } = plan.heads;
        let CacheSize {
            prompts,
            prompt_len,
            rows,
            capacity,
        } = plan.size;
        let (b, r, len) = (q.dim(0)?, plan.heads.group_size(), batched.longest);
        let by_slot = |x: &Tensor| x.reshape((prompts, m, prompt_len, d));
        let by_place = |x: &Tensor| x.reshape((rows, m, capacity, d))?.narrow(2, 0, len);

        let q = (q * plan.heads.scale())?.reshape((b, m, r, d))?;
        let to_prompt = batched
            .to_slots(&q)?
            .matmul(&by_slot(&self.prompt_k)?.t()?)?;
        let to_own = q
            .index_select(&batched.row_of_place, 0)?
            .matmul(&by_place(&self.own_k)?.t()?)?
            .index_select(&batched.place_of_row, 0)?;
        let scores = Tensor::cat(&[batched.to_rows(&to_prompt)?, to_own], D::Minus1)?
            .to_dtype(DType::F32)?
            .broadcast_add(&batched.mask)?;
        let weights = softmax(&scores)?.to_dtype(q.dtype())?;
        let to_prompt = batched.to_slots(&weights.narrow(3, 0, prompt_len)?)?;
        let to_own = weights
            .narrow(3, prompt_len, len)?
            .contiguous()?
            .index_select(&batched.row_of_place, 0)?;
        let from_prompt = batched.to_rows(&to_prompt.matmul(&by_slot(&self.prompt_v)?)?)?;
        let from_own = to_own
            .matmul(&by_place(&self.own_v)?)?
            .index_select(&batched.place_of_row, 0)?;
        (from_prompt + from_own)?.reshape((b, m * r * d))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::packed::GroupLayout;

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
        PackedLayout {
            groups: lens.iter().map(group).collect(),
        }
    }

    fn store(cache: &mut KvCache, lens: &[usize]) -> Result<Vec<usize>> {
        let layout = layout(lens);
        let slots = cache.reserve(&layout)?;
        let (k, v) = (
            random(layout.num_rows(), 12)?,
            random(layout.num_rows(), 12)?,
        );
        cache.layers[0].store_prompts(&k, &v, &layout, &slots, cache.heads)?;
        Ok(slots)
    }

    /// One token of every row, attended to by both implementations.
    fn step(cache: &mut KvCache) -> Result<()> {
        let b = cache.num_rows();
        let (q, k, v) = (random(b, 24)?, random(b, 12)?, random(b, 12)?);
        let plan = cache.plan()?;
        let layer = &cache.layers[0];
        let fast = layer.append_and_attend(&q, &k, &v, &plan)?;
        let batched = BatchedPlan::new(&plan.rows, plan.size, &Device::Cpu)?;
        let composed = layer.attend(&q, &plan, &batched)?;
        let error = (fast - composed)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error < 1e-5, "off by {error:e}");
        cache.advance();
        Ok(())
    }

    #[test]
    fn both_implementations_attend_alike_while_rows_come_and_go() -> Result<()> {
        let size = CacheSize {
            prompts: 3,
            prompt_len: 7,
            rows: 5,
            capacity: 4,
        };
        let mut cache = KvCache::new(&SPEC, size, DType::F32, &Device::Cpu)?;
        let slots = store(&mut cache, &[5, 3])?;
        for slot in [0, 0, 1, 0] {
            cache.join(slots[slot])?;
        }
        step(&mut cache)?;
        step(&mut cache)?;
        // Rows of two ages, of a third prompt, in a place that was used before.
        cache.keep_rows(&[0, 3]);
        cache.release(slots[1])?;
        let later = store(&mut cache, &[7, 1])?;
        assert_eq!(later, [1, 2]);
        for slot in [0, 1, 1] {
            cache.join(later[slot])?;
        }
        assert_eq!((cache.num_rows(), cache.free_places()), (5, 0));
        step(&mut cache)?;
        cache.keep_rows(&[1, 4]);
        step(&mut cache)?;
        assert!(cache.plan().is_err(), "a row of four tokens is full");
        cache.keep_rows(&[1]);
        step(&mut cache)
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let size = CacheSize {
            prompts: 1,
            prompt_len: 3,
            rows: 1,
            capacity: 2,
        };
        let mut cache = KvCache::new(&SPEC, size, DType::F32, &Device::Cpu)?;
        assert!(cache.join(0).is_err(), "no prompt");
        assert!(cache.reserve(&layout(&[4])).is_err(), "too long");
        let slots = store(&mut cache, &[3])?;
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
