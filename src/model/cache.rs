//! Keys and values of a running generation, owned by the caller.
//!
//! A prompt's keys and values are stored once, however many rows continue it. What the rows add goes in place into
//! preallocated tensors: nothing is concatenated per token and no head is repeated.
//!
//! Shapes: `Q` prompts of at most `P` rows, `B` rows, `T` tokens a row may add, `m` key/value heads of width `d`,
//! `r` query heads each. Rows of one prompt take `R` slots, the largest number of rows of any prompt.

use crate::model::attention::{Heads, softmax};
use crate::model::attention_cpu;
use crate::model::packed::PackedLayout;
use candle_core::{D, DType, Device, Result, Tensor};

/// The cache of one generation: several prompts, several rows each.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    plan: SlotPlan,
    /// Prompt of each row, ascending.
    group_of_row: Vec<usize>,
    prompt_lens: Vec<usize>,
    capacity: usize,
}

/// Keys and values of one decoder layer.
#[derive(Debug)]
pub struct LayerCache {
    /// `[Q, m, P, d]`
    prompt_k: Tensor,
    prompt_v: Tensor,
    /// `[B, m, T, d]`
    own_k: Tensor,
    own_v: Tensor,
}

/// Which row sits in which slot, and how many tokens the rows have added.
#[derive(Debug)]
pub struct SlotPlan {
    prompts: usize,
    slots: usize,
    written: usize,
    /// Each row's prompt and that prompt's tokens.
    prompt_of_row: Vec<(usize, usize)>,
    /// `None` when every prompt has the same number of rows: then row and slot are the same.
    maps: Option<(Tensor, Tensor)>,
    /// `[Q, 1, 1, P]`: 0 where a prompt has a token, −∞ behind its end; `None` when all are equally long.
    mask: Option<Tensor>,
}

impl KvCache {
    /// A cache for prompts that went through `prefill` packed as `layout` (no completions).
    ///
    /// `prefilled`: keys and values `[N, m·d]` of each layer. `rows_per_prompt[i]` rows will continue prompt `i`,
    /// adding at most `capacity` tokens each.
    pub fn new(
        prefilled: &[(Tensor, Tensor)],
        layout: &PackedLayout,
        heads: Heads,
        rows_per_prompt: &[usize],
        capacity: usize,
    ) -> Result<Self> {
        let prompt_lens: Vec<usize> = layout.groups.iter().map(|g| g.prompt_len).collect();
        let longest = prompt_lens.iter().copied().max().unwrap_or(0);
        let group_of_row: Vec<usize> = rows_per_prompt
            .iter()
            .enumerate()
            .flat_map(|(group, &rows)| std::iter::repeat_n(group, rows))
            .collect();
        let Some((first, _)) = prefilled.first() else {
            candle_core::bail!("a cache needs at least one layer");
        };
        let device = first.device().clone();
        let mut padded = Vec::new();
        let mut start = 0;
        for &len in &prompt_lens {
            padded.extend((0..longest).map(|i| (start + i.min(len - 1)) as u32));
            start += len;
        }
        let padded = Tensor::new(padded, &device)?;
        let (q, m, d) = (prompt_lens.len(), heads.num_kv_heads, heads.head_dim);
        let fold = |x: &Tensor| -> Result<Tensor> {
            x.index_select(&padded, 0)?
                .reshape((q, longest, m, d))?
                .transpose(1, 2)?
                .contiguous()
        };
        let own = (group_of_row.len(), m, capacity, d);
        let layers = prefilled
            .iter()
            .map(|(k, v)| {
                Ok(LayerCache {
                    prompt_k: fold(k)?,
                    prompt_v: fold(v)?,
                    own_k: Tensor::zeros(own, k.dtype(), &device)?,
                    own_v: Tensor::zeros(own, v.dtype(), &device)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            plan: SlotPlan::new(&group_of_row, &prompt_lens, 0, &device)?,
            group_of_row,
            prompt_lens,
            capacity,
        })
    }

    /// Rows that are still being continued (B).
    pub fn num_rows(&self) -> usize {
        self.group_of_row.len()
    }

    /// Prompt of each row, as an index into the prompts that are left.
    pub fn group_of_row(&self) -> &[usize] {
        &self.group_of_row
    }

    /// Tokens every row has added.
    pub fn num_written(&self) -> usize {
        self.plan.written
    }

    /// Tokens a row may add (T).
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The layers and the plan they share, for one decode step; [`Self::advance`] ends the step.
    pub fn parts(&self) -> (&[LayerCache], &SlotPlan) {
        (&self.layers, &self.plan)
    }

    /// Counts the token that every layer has just stored.
    pub fn advance(&mut self) {
        self.plan.written += 1;
    }

    /// Keeps only these rows (ascending); prompts left without a row go too.
    pub fn keep_rows(&mut self, rows: &[usize]) -> Result<()> {
        if rows.len() == self.num_rows() {
            return Ok(());
        }
        let groups: Vec<usize> = rows.iter().map(|&row| self.group_of_row[row]).collect();
        let mut kept = groups.clone();
        kept.dedup();
        let Some(device) = self.layers.first().map(|l| l.own_k.device().clone()) else {
            return Ok(());
        };
        let row_index = Tensor::new(rows.iter().map(|&r| r as u32).collect::<Vec<_>>(), &device)?;
        let prompt_index =
            Tensor::new(kept.iter().map(|&g| g as u32).collect::<Vec<_>>(), &device)?;
        for layer in &mut self.layers {
            layer.own_k = layer.own_k.index_select(&row_index, 0)?;
            layer.own_v = layer.own_v.index_select(&row_index, 0)?;
            if kept.len() < self.prompt_lens.len() {
                layer.prompt_k = layer.prompt_k.index_select(&prompt_index, 0)?;
                layer.prompt_v = layer.prompt_v.index_select(&prompt_index, 0)?;
            }
        }
        self.prompt_lens = kept.iter().map(|&g| self.prompt_lens[g]).collect();
        self.group_of_row = groups
            .iter()
            .map(|group| kept.iter().position(|k| k == group).unwrap_or(0))
            .collect();
        let longest = match self.layers.first() {
            Some(layer) => layer.prompt_k.dim(2)?,
            None => 0,
        };
        let mut plan = SlotPlan::new(
            &self.group_of_row,
            &self.prompt_lens,
            self.plan.written,
            &device,
        )?;
        plan.mask = prompt_mask(&self.prompt_lens, longest, &device)?;
        self.plan = plan;
        Ok(())
    }
}

impl SlotPlan {
    fn new(
        group_of_row: &[usize],
        prompt_lens: &[usize],
        written: usize,
        device: &Device,
    ) -> Result<Self> {
        let prompts = prompt_lens.len();
        let mut counts = vec![0; prompts];
        for &group in group_of_row {
            counts[group] += 1;
        }
        let slots = counts.iter().copied().max().unwrap_or(0);
        let maps = if counts.iter().all(|&count| count == slots) {
            None
        } else {
            let (mut slot_of_row, mut row_of_slot) = (Vec::new(), Vec::new());
            let mut first = 0;
            for (group, &count) in counts.iter().enumerate() {
                slot_of_row.extend((0..count).map(|i| (group * slots + i) as u32));
                row_of_slot.extend((0..slots).map(|i| (first + i.min(count - 1)) as u32));
                first += count;
            }
            Some((
                Tensor::new(slot_of_row, device)?,
                Tensor::new(row_of_slot, device)?,
            ))
        };
        let longest = prompt_lens.iter().copied().max().unwrap_or(0);
        Ok(Self {
            prompts,
            slots,
            written,
            prompt_of_row: group_of_row
                .iter()
                .map(|&group| (group, prompt_lens[group]))
                .collect(),
            maps,
            mask: prompt_mask(prompt_lens, longest, device)?,
        })
    }

    /// `[B, m, r, w]` → `[Q, m, R·r, w]`
    fn to_slots(&self, x: &Tensor) -> Result<Tensor> {
        let (_, m, r, width) = x.dims4()?;
        let rows = match &self.maps {
            None => x.clone(),
            Some((_, row_of_slot)) => x.index_select(row_of_slot, 0)?,
        };
        rows.reshape((self.prompts, self.slots, m, r, width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((self.prompts, m, self.slots * r, width))
    }

    /// `[Q, m, R·r, w]` → `[B, m, r, w]`
    fn to_rows(&self, x: &Tensor) -> Result<Tensor> {
        let (prompts, m, rows, width) = x.dims4()?;
        let r = rows / self.slots;
        let rows = x
            .reshape((prompts, m, self.slots, r, width))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((prompts * self.slots, m, r, width))?;
        match &self.maps {
            None => Ok(rows),
            Some((slot_of_row, _)) => rows.index_select(slot_of_row, 0),
        }
    }
}

impl LayerCache {
    /// Stores the new token's key and value, then attends to the prompt and to everything the row has added.
    ///
    /// `q [B, n·d]`, `k`, `v` `[B, m·d]` → `[B, n·d]`.
    pub(crate) fn append_and_attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: Heads,
        plan: &SlotPlan,
    ) -> Result<Tensor> {
        let (b, m, d) = (q.dim(0)?, heads.num_kv_heads, heads.head_dim);
        self.own_k
            .slice_set(&k.reshape((b, m, 1, d))?, 2, plan.written)?;
        self.own_v
            .slice_set(&v.contiguous()?.reshape((b, m, 1, d))?, 2, plan.written)?;
        let len = plan.written + 1;
        if attention_cpu::applies(q) {
            let cached = attention_cpu::Cached {
                prompt_k: &self.prompt_k,
                prompt_v: &self.prompt_v,
                own_k: &self.own_k,
                own_v: &self.own_v,
                own_len: len,
                prompts: &plan.prompt_of_row,
            };
            return attention_cpu::decode(q, &cached, heads);
        }
        self.attend(q, len, heads, plan)
    }

    /// Attention of one query per row in candle's operations, on any device and in any number format.
    fn attend(&self, q: &Tensor, len: usize, heads: Heads, plan: &SlotPlan) -> Result<Tensor> {
        let (b, m, d, r) = (
            q.dim(0)?,
            heads.num_kv_heads,
            heads.head_dim,
            heads.group_size(),
        );
        let own_k = self.own_k.narrow(2, 0, len)?;
        let own_v = self.own_v.narrow(2, 0, len)?;

        let q = (q * heads.scale())?.reshape((b, m, r, d))?;
        let to_prompt = plan
            .to_slots(&q)?
            .matmul(&self.prompt_k.t()?)?
            .to_dtype(DType::F32)?;
        let to_prompt = match &plan.mask {
            None => to_prompt,
            Some(mask) => to_prompt.broadcast_add(mask)?,
        };
        let to_own = q.matmul(&own_k.t()?)?.to_dtype(DType::F32)?;
        let scores = Tensor::cat(&[plan.to_rows(&to_prompt)?, to_own], D::Minus1)?;
        let weights = softmax(&scores)?.to_dtype(q.dtype())?;
        let prompt_len = self.prompt_k.dim(2)?;
        let to_prompt = plan.to_slots(&weights.narrow(3, 0, prompt_len)?.contiguous()?)?;
        let to_own = weights.narrow(3, prompt_len, len)?.contiguous()?;
        let from_prompt = plan.to_rows(&to_prompt.matmul(&self.prompt_v)?)?;
        (from_prompt + to_own.matmul(&own_v)?)?.reshape((b, m * r * d))
    }
}

fn prompt_mask(lens: &[usize], longest: usize, device: &Device) -> Result<Option<Tensor>> {
    if lens.iter().all(|&len| len == longest) {
        return Ok(None);
    }
    let mask: Vec<f32> = lens
        .iter()
        .flat_map(|&len| (0..longest).map(move |i| if i < len { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Ok(Some(Tensor::from_vec(
        mask,
        (lens.len(), 1, 1, longest),
        device,
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::packed::GroupLayout;

    #[test]
    fn both_implementations_attend_alike_after_rows_have_left() -> Result<()> {
        let heads = Heads {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 6,
        };
        let lens = [5, 3, 7];
        let groups = lens.map(|prompt_len| GroupLayout {
            prompt_len,
            completion_lens: vec![],
        });
        let layout = PackedLayout {
            groups: groups.to_vec(),
        };
        let random =
            |rows: usize, width: usize| Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu);
        let prefilled = vec![(random(15, 12)?, random(15, 12)?)];
        let mut cache = KvCache::new(&prefilled, &layout, heads, &[3, 1, 2], 4)?;
        for rows in [&[0, 1, 2, 3, 4, 5][..], &[0, 2, 4, 5], &[0, 1], &[1]] {
            cache.keep_rows(rows)?;
            let b = cache.num_rows();
            let (q, k, v) = (random(b, 24)?, random(b, 12)?, random(b, 12)?);
            let layer = &cache.layers[0];
            let fast = layer.append_and_attend(&q, &k, &v, heads, &cache.plan)?;
            let composed = layer.attend(&q, cache.plan.written + 1, heads, &cache.plan)?;
            let error = (fast - composed)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(error < 1e-5, "off by {error:e}");
            cache.advance();
        }
        Ok(())
    }
}
