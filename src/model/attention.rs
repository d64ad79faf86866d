//! Causal attention over a packed tensor: a prompt's keys and values serve its completions without being copied.
//!
//! Shapes: `N` rows, `P` prompt rows, `G` completions of at most `C` rows, `n` query heads of width `d` that share
//! `m` key/value heads (`r = n / m` query heads each). Query heads of one key/value head are folded into rows.

use crate::kernels;
use crate::kernels::attention::Attended;
use crate::model::attention_cpu;
use crate::model::attention_kernels;
use crate::model::packed::{GroupLayout, PackedLayout};
use crate::model::spec::TextSpec;
use candle_core::{D, DType, Device, Result, Tensor};

/// How the width of queries, keys and values divides into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads (n).
    pub num_heads: usize,
    /// Key/value heads (m).
    pub num_kv_heads: usize,
    /// Width of a head (d).
    pub head_dim: usize,
}

impl Heads {
    /// The decoder's heads.
    pub fn of(spec: &TextSpec) -> Self {
        Self {
            num_heads: spec.num_heads,
            num_kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim(),
        }
    }

    /// Query heads per key/value head (r).
    pub fn group_size(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// Scores are multiplied by 1/√d.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// Causal self-attention inside every group of `layout`; completions see their whole prompt and themselves.
///
/// `q [N, n·d]`, `k`, `v` `[N, m·d]` → `[N, n·d]`.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    layout: &PackedLayout,
) -> Result<Tensor> {
    Ok(attention_saved(q, k, v, heads, layout)?.0)
}

/// [`attention`], and what spares its backward pass computing it again, where a kernel leaves that.
pub fn attention_saved(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    layout: &PackedLayout,
) -> Result<(Tensor, Option<Attended>)> {
    if kernels::applies(q) {
        let attended = attention_kernels::forward([q, k, v], heads, layout)?;
        return Ok((attended.output.clone(), Some(attended)));
    }
    let value = if attention_cpu::applies(q) {
        attention_cpu::forward(q, k, v, heads, &attention_cpu::packed(layout))?
    } else {
        composed_value(q, k, v, heads, layout)?
    };
    Ok((value, None))
}

/// The value in candle's operations, on any device and in any number format.
fn composed_value(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    layout: &PackedLayout,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    for group in Group::all(heads, layout, q.device())? {
        let parts_of_group = group.probabilities(q, k, v)?;
        let prompt = &parts_of_group.prompt;
        parts.push(group.unfold_prompt(&prompt.weights.matmul(&prompt.v)?, heads.num_heads)?);
        if let Some(own) = &parts_of_group.completions {
            let to_prompt = own.to_prompt.matmul(&prompt.v)?;
            let to_own = own.to_own.matmul(&own.v)?;
            let out = (to_prompt + to_own.reshape(own.q.shape())?)?;
            parts.push(group.unfold_completions(&out, heads.num_heads)?);
        }
    }
    Tensor::cat(&parts, 0)
}

/// Gradients of [`attention`] with respect to `q`, `k`, `v`; the probabilities are computed again, from what
/// [`attention_saved`] left where it did.
pub fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    layout: &PackedLayout,
    saved: Option<&Attended>,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    if kernels::applies(q) {
        return attention_kernels::backward([q, k, v], heads, layout, saved, upstream);
    }
    if attention_cpu::applies(q) {
        return attention_cpu::backward(q, k, v, heads, &attention_cpu::packed(layout), upstream);
    }
    composed_backward(q, k, v, heads, layout, upstream)
}

/// The gradients in candle's operations, on any device and in any number format.
fn composed_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    layout: &PackedLayout,
    upstream: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for group in Group::all(heads, layout, q.device())? {
        let Parts {
            prompt,
            completions,
        } = group.probabilities(q, k, v)?;
        let d_out = group.fold_prompt(upstream, heads.num_heads)?;
        let mut d_prompt_v = prompt.weights.t()?.matmul(&d_out)?;
        let d_weights = d_out.matmul(&prompt.v.t()?)?;
        let along = (&d_weights * &prompt.weights)?.sum_keepdim(D::Minus1)?;
        let d_scores = (d_weights.broadcast_sub(&along)? * &prompt.weights)?;
        let d_prompt_q = d_scores.matmul(&prompt.k)?;
        let mut d_prompt_k = d_scores.t()?.matmul(&prompt.q)?;

        let mut own_parts = None;
        if let Some(own) = completions {
            let d_out = group.fold_completions(upstream, heads.num_heads, true)?;
            let d_out_own = d_out.reshape(own.q_own.shape())?;
            d_prompt_v = (d_prompt_v + own.to_prompt.t()?.matmul(&d_out)?)?;
            let d_own_v = own.to_own.t()?.matmul(&d_out_own)?;
            let d_to_prompt = d_out.matmul(&prompt.v.t()?)?;
            let d_to_own = d_out_own.matmul(&own.v.t()?)?;
            let along_prompt = (&d_to_prompt * &own.to_prompt)?.sum_keepdim(D::Minus1)?;
            let along_own = (&d_to_own * &own.to_own)?.sum_keepdim(D::Minus1)?;
            let along = (along_prompt.reshape(along_own.shape())? + along_own)?;
            let d_to_own = (d_to_own.broadcast_sub(&along)? * &own.to_own)?;
            let (m, rows, _) = d_to_prompt.dims3()?;
            let d_to_prompt =
                (d_to_prompt.broadcast_sub(&along.reshape((m, rows, 1))?)? * &own.to_prompt)?;
            let d_own_q = (d_to_prompt.matmul(&prompt.k)?
                + d_to_own.matmul(&own.k)?.reshape(own.q.shape())?)?;
            d_prompt_k = (d_prompt_k + d_to_prompt.t()?.matmul(&own.q)?)?;
            let d_own_k = d_to_own.t()?.matmul(&own.q_own)?;
            own_parts = Some((d_own_q, d_own_k, d_own_v));
        }
        // The scale was folded into q, so k's gradient has it already and q's needs it once more.
        let m = heads.num_kv_heads;
        dq.push((group.unfold_prompt(&d_prompt_q, heads.num_heads)? * heads.scale())?);
        dk.push(group.unfold_prompt(&d_prompt_k, m)?);
        dv.push(group.unfold_prompt(&d_prompt_v, m)?);
        if let Some((d_own_q, d_own_k, d_own_v)) = own_parts {
            dq.push((group.unfold_completions(&d_own_q, heads.num_heads)? * heads.scale())?);
            dk.push(group.unfold_completions(&d_own_k, m)?);
            dv.push(group.unfold_completions(&d_own_v, m)?);
        }
    }
    Ok((
        Tensor::cat(&dq, 0)?,
        Tensor::cat(&dk, 0)?,
        Tensor::cat(&dv, 0)?,
    ))
}

/// Where one group lies in the packed tensor and how its ragged completions are padded.
struct Group {
    heads: Heads,
    start: usize,
    prompt_len: usize,
    /// Completions that have rows, and the longest one's rows.
    completions: usize,
    longest: usize,
    prompt_mask: Tensor,
    own_mask: Option<Tensor>,
    /// `None` when all completions are equally long.
    padding: Option<Padding>,
}

struct Padding {
    /// Padded row → packed row (any valid row where there is none), `[G·C]`.
    rows: Tensor,
    /// 1 where a padded row exists, `[G·C, 1]`.
    exists: Tensor,
    /// Completion row → padded row.
    back: Tensor,
}

/// Folded tensors of one group and its attention weights.
struct Parts {
    prompt: PromptPart,
    completions: Option<OwnPart>,
}

struct PromptPart {
    /// `[m, r·P, d]`, scaled.
    q: Tensor,
    /// `[m, P, d]`
    k: Tensor,
    v: Tensor,
    /// `[m, r·P, P]`
    weights: Tensor,
}

struct OwnPart {
    /// `[m, G·r·C, d]`, scaled; the same as `[m·G, r·C, d]`.
    q: Tensor,
    q_own: Tensor,
    /// `[m·G, C, d]`
    k: Tensor,
    v: Tensor,
    /// `[m, G·r·C, P]`
    to_prompt: Tensor,
    /// `[m·G, r·C, C]`
    to_own: Tensor,
}

impl Group {
    fn all(heads: Heads, layout: &PackedLayout, device: &Device) -> Result<Vec<Self>> {
        let mut start = 0;
        let mut groups = Vec::with_capacity(layout.groups.len());
        for group in &layout.groups {
            groups.push(Self::new(heads, group, start, device)?);
            start += group.num_rows();
        }
        Ok(groups)
    }

    fn new(heads: Heads, group: &GroupLayout, start: usize, device: &Device) -> Result<Self> {
        let lens: Vec<usize> = group
            .completion_lens
            .iter()
            .copied()
            .filter(|&len| len > 0)
            .collect();
        let longest = lens.iter().copied().max().unwrap_or(0);
        let own_mask = (longest > 0)
            .then(|| causal_mask(longest, device))
            .transpose()?;
        let padding = lens
            .iter()
            .any(|&len| len != longest)
            .then(|| Padding::new(&lens, longest, start + group.prompt_len, device))
            .transpose()?;
        Ok(Self {
            heads,
            start,
            prompt_len: group.prompt_len,
            completions: lens.len(),
            longest,
            prompt_mask: causal_mask(group.prompt_len, device)?,
            own_mask,
            padding,
        })
    }

    /// Packed `[N, h·d]` → the prompt's rows `[m, h/m·P, d]`.
    fn fold_prompt(&self, x: &Tensor, num_heads: usize) -> Result<Tensor> {
        let (p, d, m) = (
            self.prompt_len,
            self.heads.head_dim,
            self.heads.num_kv_heads,
        );
        x.narrow(0, self.start, p)?
            .reshape((p, num_heads, d))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((m, num_heads / m * p, d))
    }

    fn unfold_prompt(&self, x: &Tensor, num_heads: usize) -> Result<Tensor> {
        let (p, d) = (self.prompt_len, self.heads.head_dim);
        x.reshape((num_heads, p, d))?
            .transpose(0, 1)?
            .contiguous()?
            .reshape((p, num_heads * d))
    }

    /// Packed `[N, h·d]` → the completions' padded rows `[m, G·h/m·C, d]`; `zero` clears the padding.
    fn fold_completions(&self, x: &Tensor, num_heads: usize, zero: bool) -> Result<Tensor> {
        let (g, c, d) = (self.completions, self.longest, self.heads.head_dim);
        let m = self.heads.num_kv_heads;
        let rows = match &self.padding {
            None => x.narrow(0, self.start + self.prompt_len, g * c)?,
            Some(padding) => {
                let rows = x.index_select(&padding.rows, 0)?;
                if zero {
                    rows.broadcast_mul(&padding.exists.to_dtype(x.dtype())?)?
                } else {
                    rows
                }
            }
        };
        rows.reshape((g, c, m, num_heads / m, d))?
            .permute((2, 0, 3, 1, 4))?
            .contiguous()?
            .reshape((m, g * (num_heads / m) * c, d))
    }

    fn unfold_completions(&self, x: &Tensor, num_heads: usize) -> Result<Tensor> {
        let (g, c, d) = (self.completions, self.longest, self.heads.head_dim);
        let m = self.heads.num_kv_heads;
        let rows = x
            .reshape((m, g, num_heads / m, c, d))?
            .permute((1, 3, 0, 2, 4))?
            .contiguous()?
            .reshape((g * c, num_heads * d))?;
        match &self.padding {
            None => Ok(rows),
            Some(padding) => rows.index_select(&padding.back, 0),
        }
    }

    fn probabilities(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Parts> {
        let Heads {
            num_heads: n,
            num_kv_heads: m,
            head_dim: d,
        } = self.heads;
        let (p, g, c) = (self.prompt_len, self.completions, self.longest);
        let r = self.heads.group_size();
        let scale = self.heads.scale();
        let prompt_q = (self.fold_prompt(q, n)? * scale)?;
        let (prompt_k, prompt_v) = (self.fold_prompt(k, m)?, self.fold_prompt(v, m)?);
        let scores = prompt_q.matmul(&prompt_k.t()?)?.to_dtype(DType::F32)?;
        let scores = scores
            .reshape((m * r, p, p))?
            .broadcast_add(&self.prompt_mask)?;
        let weights = softmax(&scores)?
            .reshape((m, r * p, p))?
            .to_dtype(q.dtype())?;

        let mut completions = None;
        if let Some(own_mask) = &self.own_mask {
            let own_q = (self.fold_completions(q, n, false)? * scale)?;
            let own_k = self.fold_completions(k, m, false)?.reshape((m * g, c, d))?;
            let own_v = self.fold_completions(v, m, false)?.reshape((m * g, c, d))?;
            let q_own = own_q.reshape((m * g, r * c, d))?;
            let to_prompt = own_q.matmul(&prompt_k.t()?)?.to_dtype(DType::F32)?;
            let to_own = q_own.matmul(&own_k.t()?)?.to_dtype(DType::F32)?;
            let to_own = to_own
                .reshape((m * g * r, c, c))?
                .broadcast_add(own_mask)?
                .reshape((m, g * r * c, c))?;
            let both = softmax(&Tensor::cat(&[to_prompt, to_own], 2)?)?.to_dtype(q.dtype())?;
            completions = Some(OwnPart {
                q: own_q,
                q_own,
                k: own_k,
                v: own_v,
                to_prompt: both.narrow(2, 0, p)?.contiguous()?,
                to_own: both
                    .narrow(2, p, c)?
                    .contiguous()?
                    .reshape((m * g, r * c, c))?,
            });
        }
        Ok(Parts {
            prompt: PromptPart {
                q: prompt_q,
                k: prompt_k,
                v: prompt_v,
                weights,
            },
            completions,
        })
    }
}

impl Padding {
    fn new(lens: &[usize], longest: usize, first: usize, device: &Device) -> Result<Self> {
        let (mut rows, mut exists, mut back) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = first;
        for (i, &len) in lens.iter().enumerate() {
            for j in 0..longest {
                rows.push((start + j.min(len - 1)) as u32);
                exists.push(f32::from(u8::from(j < len)));
            }
            back.extend((0..len).map(|j| (i * longest + j) as u32));
            start += len;
        }
        Ok(Self {
            rows: Tensor::new(rows, device)?,
            exists: Tensor::new(exists, device)?.unsqueeze(1)?,
            back: Tensor::new(back, device)?,
        })
    }
}

/// `[len, len]` in f32: 0 on and below the diagonal, −∞ above.
fn causal_mask(len: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..len)
        .flat_map(|i| (0..len).map(move |j| if j <= i { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(mask, (len, len), device)
}

/// Softmax over the last dimension of a detached tensor.
pub(crate) fn softmax(scores: &Tensor) -> Result<Tensor> {
    #[expect(
        clippy::disallowed_methods,
        reason = "detached: the callers state the derivative or need none"
    )]
    candle_nn::ops::softmax_last_dim(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 6,
    };

    fn group(prompt_len: usize, completion_lens: &[usize]) -> GroupLayout {
        GroupLayout {
            prompt_len,
            completion_lens: completion_lens.to_vec(),
        }
    }

    /// Ragged and even completions, none at all, of one row, of no row, and sequences of several blocks.
    fn layouts() -> Vec<PackedLayout> {
        [
            vec![group(7, &[1, 5, 3]), group(4, &[2, 2]), group(3, &[])],
            vec![group(5, &[4])],
            vec![group(1, &[0, 1, 2]), group(140, &[3, 131])],
        ]
        .map(|groups| PackedLayout { groups })
        .to_vec()
    }

    fn random(rows: usize, heads: usize) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, (rows, heads * HEADS.head_dim), &Device::Cpu)
    }

    fn close(got: &Tensor, want: &Tensor) -> Result<()> {
        let error = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error < 2e-5, "off by {error:e}");
        Ok(())
    }

    /// Every row by itself: the plain definition.
    fn by_rows(q: &Tensor, k: &Tensor, v: &Tensor, layout: &PackedLayout) -> Result<Tensor> {
        let (d, r) = (HEADS.head_dim, HEADS.group_size());
        let mut start = 0;
        let mut output = Vec::new();
        for group in &layout.groups {
            let prompt: Vec<u32> = (start..start + group.prompt_len as u32).collect();
            let mut push = |seen: &[u32], row: u32| -> Result<()> {
                let seen = Tensor::new(seen, &Device::Cpu)?;
                for head in 0..HEADS.num_heads {
                    let q = q.narrow(0, row as usize, 1)?.narrow(1, head * d, d)?;
                    let k = k.index_select(&seen, 0)?.narrow(1, head / r * d, d)?;
                    let v = v.index_select(&seen, 0)?.narrow(1, head / r * d, d)?;
                    let scores = (q.matmul(&k.t()?)? * HEADS.scale())?;
                    output.push(softmax(&scores.contiguous()?)?.matmul(&v)?);
                }
                Ok(())
            };
            for (i, &row) in prompt.iter().enumerate() {
                push(&prompt[..=i], row)?;
            }
            start += group.prompt_len as u32;
            for &len in &group.completion_lens {
                let mut seen = prompt.clone();
                for row in start..start + len as u32 {
                    seen.push(row);
                    push(&seen, row)?;
                }
                start += len as u32;
            }
        }
        Tensor::cat(&output, 1)?.reshape(q.shape())
    }

    #[test]
    fn both_implementations_follow_the_definition() -> Result<()> {
        for layout in layouts() {
            let rows = layout.num_rows();
            let (q, k, v) = (random(rows, 4)?, random(rows, 2)?, random(rows, 2)?);
            let want = by_rows(&q, &k, &v, &layout)?;
            close(&composed_value(&q, &k, &v, HEADS, &layout)?, &want)?;
            close(
                &attention_cpu::forward(&q, &k, &v, HEADS, &attention_cpu::packed(&layout))?,
                &want,
            )?;
            let upstream = random(rows, 4)?;
            let a = composed_backward(&q, &k, &v, HEADS, &layout, &upstream)?;
            let b = attention_cpu::backward(
                &q,
                &k,
                &v,
                HEADS,
                &attention_cpu::packed(&layout),
                &upstream,
            )?;
            close(&a.0, &b.0)?;
            close(&a.1, &b.1)?;
            close(&a.2, &b.2)?;
        }
        Ok(())
    }

    #[test]
    fn the_derivative_agrees_with_finite_differences() -> Result<()> {
        let layout = PackedLayout {
            groups: vec![group(4, &[1, 3])],
        };
        let rows = layout.num_rows();
        let inputs = [random(rows, 4)?, random(rows, 2)?, random(rows, 2)?];
        let upstream = random(rows, 4)?;
        let [q, k, v] = &inputs;
        let (dq, dk, dv) = attention_backward([q, k, v], HEADS, &layout, None, &upstream)?;
        for (index, gradient) in [dq, dk, dv].iter().enumerate() {
            let direction = inputs[index].randn_like(0.0, 1.0)?;
            let at = |step: f64| -> Result<f32> {
                let mut moved = inputs.clone();
                moved[index] = (&moved[index] + (&direction * step)?)?;
                let value = attention(&moved[0], &moved[1], &moved[2], HEADS, &layout)?;
                (value * &upstream)?.sum_all()?.to_scalar()
            };
            let numeric = (at(1e-2)? - at(-1e-2)?) / 2e-2;
            let exact = (gradient * &direction)?.sum_all()?.to_scalar::<f32>()?;
            assert!(
                (numeric - exact).abs() < 1e-2 * (1.0 + exact.abs()),
                "{numeric} != {exact}"
            );
        }
        Ok(())
    }
}
