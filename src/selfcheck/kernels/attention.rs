//! Attention in training, in windows and in decoding against its definition.

use super::near::{Near, Sums, UNSEEN};
use super::{Pair, Probe, gradients, near_turned, turned};
use crate::model::ops::cuda::attention::{BlockTables, HeadCounts};
use crate::model::ops::cuda::decode;
use crate::model::ops::heads::Heads;
use crate::model::ops::sequences::SequenceLayout;
use crate::model::packed::{GroupLayout, PackedLayout};
use candle_core::{D, DType, Device, Result, Tensor};

/// The 3B model's heads.
const TEXT: HeadCounts = HeadCounts {
    queries: 16,
    keys: 2,
};
const TEXT_DIM: usize = 128;
const VISION: HeadCounts = HeadCounts {
    queries: 16,
    keys: 16,
};
const VISION_DIM: usize = 80;

/// `q [B, n·d]` over `k`, `v` `[T, m·d]` with `mask [B, T]` added to the scores, head by head.
pub(super) fn attended(
    [q, k, v]: [&Tensor; 3],
    heads: HeadCounts,
    mask: &Tensor,
) -> Result<Tensor> {
    let dim = q.dim(1)? / heads.queries;
    let of_head = |head: usize| -> Result<Tensor> {
        let kv_head = head / (heads.queries / heads.keys);
        let part = |x: &Tensor, head: usize| x.narrow(1, head * dim, dim)?.contiguous();
        let scores = part(q, head)?.matmul(&part(k, kv_head)?.t()?)?;
        let scores = ((scores / (dim as f64).sqrt())? + mask)?;
        candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&part(v, kv_head)?)
    };
    let heads: Vec<Tensor> = (0..heads.queries).map(of_head).collect::<Result<_>>()?;
    Tensor::cat(&heads, 1)
}

/// As [`attended`], in the formats of a kernel for `dtype`: the weights are rounded to it before they are multiplied with
/// the values, and so is the output.
pub(super) fn near_attended(
    [q, k, v]: [&Near; 3],
    heads: HeadCounts,
    mask: &Tensor,
    dtype: DType,
) -> Result<Near> {
    let parts = Parts::of(q, heads)?;
    let of_head = |head: usize| -> Result<Near> {
        let [q, k, v] = [
            parts.query(q, head)?,
            parts.key(k, head)?,
            parts.key(v, head)?,
        ];
        let (weights, total, _) = parts.weights(&q, &k, mask, dtype)?;
        let mixed = weights.rounded(dtype)?.matmul(&v, Sums::Product(dtype))?;
        mixed.over(&total)?.rounded(dtype)
    };
    let all: Vec<Near> = (0..heads.queries).map(of_head).collect::<Result<_>>()?;
    Near::cat(&all, 1)
}

/// Gradients of [`near_attended`] with respect to its inputs; the weights and their slopes are rounded before they are
/// multiplied.
fn near_gradients(
    [q, k, v]: [&Near; 3],
    above: &Near,
    output: &Near,
    heads: HeadCounts,
    mask: &Tensor,
    dtype: DType,
) -> Result<[Near; 3]> {
    let parts = Parts::of(q, heads)?;
    let sums = Sums::Product(dtype);
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| Vec::new());
    for kv_head in 0..heads.keys {
        // Query heads of a key head add up in f32.
        let mut sum: Option<[Near; 2]> = None;
        for head in kv_head * parts.group()..(kv_head + 1) * parts.group() {
            let (own_q, own_k, own_v) = (
                parts.query(q, head)?,
                parts.key(k, head)?,
                parts.key(v, head)?,
            );
            let (own_above, own_output) = (parts.query(above, head)?, parts.query(output, head)?);
            let (_, total, below) = parts.weights(&own_q, &own_k, mask, dtype)?;
            let weights = below.minus(&total.ln()?)?.exp()?;
            let along = own_output.times(&own_above)?.sum(1, Sums::Ours)?;
            let slopes = own_above.matmul(&own_v.t()?, sums)?.minus(&along)?;
            let slopes = weights
                .times(&slopes)?
                .scaled(parts.scale())?
                .rounded(dtype)?;
            dq.push(slopes.matmul(&own_k, sums)?.rounded(dtype)?);
            let of_head = [
                slopes.t()?.matmul(&own_q, sums)?,
                weights.rounded(dtype)?.t()?.matmul(&own_above, sums)?,
            ];
            sum = Some(match sum {
                None => of_head,
                Some([k, v]) => [k.plus(&of_head[0])?, v.plus(&of_head[1])?],
            });
        }
        let Some([k_sum, v_sum]) = sum else {
            candle_core::bail!("a key head without queries");
        };
        dk.push(k_sum.rounded(dtype)?);
        dv.push(v_sum.rounded(dtype)?);
    }
    Ok([Near::cat(&dq, 1)?, Near::cat(&dk, 1)?, Near::cat(&dv, 1)?])
}

/// Heads of packed rows.
#[derive(Clone, Copy)]
struct Parts {
    heads: HeadCounts,
    dim: usize,
}

impl Parts {
    fn of(q: &Near, heads: HeadCounts) -> Result<Self> {
        let dim = q.value().dim(1)? / heads.queries;
        Ok(Self { heads, dim })
    }

    fn group(self) -> usize {
        self.heads.queries / self.heads.keys
    }

    fn scale(self) -> f64 {
        1.0 / (self.dim as f64).sqrt()
    }

    fn query(self, x: &Near, head: usize) -> Result<Near> {
        x.shaped(|x| x.narrow(1, head * self.dim, self.dim)?.contiguous())
    }

    /// Of the key head that query head `head` reads.
    fn key(self, x: &Near, head: usize) -> Result<Near> {
        self.query(x, head / self.group())
    }

    /// exp(score − largest) of a head, its sum over the keys, and the exponents.
    fn weights(
        self,
        q: &Near,
        k: &Near,
        mask: &Tensor,
        dtype: DType,
    ) -> Result<(Near, Near, Near)> {
        let scores = q.matmul(&k.t()?, Sums::Product(dtype))?;
        let scores = scores.scaled(self.scale())?.plus(&Near::exact(mask)?)?;
        let (below, _) = scores.below_largest()?;
        let weights = below.exp()?;
        let total = weights.sum(1, Sums::Ours)?;
        Ok((weights, total, below))
    }
}

/// `[N, N]`: 0 where `sees(query, key)`, [`UNSEEN`] elsewhere.
pub(super) fn mask(rows: usize, sees: impl Fn(usize, usize) -> bool) -> Result<Tensor> {
    let values: Vec<f64> = (0..rows * rows)
        .map(|at| {
            if sees(at / rows, at % rows) {
                0.0
            } else {
                UNSEEN
            }
        })
        .collect();
    Tensor::from_vec(values, (rows, rows), &Device::Cpu)
}

impl Probe<'_> {
    /// A prompt of several blocks with ragged completions, and a short one.
    pub(super) fn attention(&mut self) -> Result<()> {
        let group = |prompt_len: usize, completion_lens: &[usize]| GroupLayout {
            prompt_len,
            completion_lens: completion_lens.to_vec(),
        };
        let layout = PackedLayout::new(vec![group(150, &[70, 1, 33]), group(5, &[3])]);
        let rows = layout.num_rows();
        // The sequence of each row, and the last row of the prompt that it continues.
        let starts = [0, 150, 220, 221, 254, 259, rows];
        let prompts = [0..0, 0..150, 0..150, 0..150, 254..254, 254..259];
        let sequence = |row: usize| starts.iter().filter(|&&start| start <= row).count() - 1;
        let mask = mask(rows, |query, key| {
            let of_query = sequence(query);
            prompts[of_query].contains(&key) || (sequence(key) == of_query && key <= query)
        })?;
        let heads = Heads {
            num_heads: TEXT.queries,
            num_kv_heads: TEXT.keys,
            head_dim: TEXT_DIM,
        };
        let [q, above] = self.several(&[rows, TEXT.queries * TEXT_DIM])?;
        let [k, v] = self.several(&[rows, TEXT.keys * TEXT_DIM])?;
        let (here, plan) = ([&q.here, &k.here, &v.here], layout.plan());
        let (output, saved) = self.ops.attention(here, heads, plan)?;
        let saved = saved.as_ref();
        let (dq, dk, dv) = self
            .ops
            .attention_backward(here, heads, plan, saved, &above.here)?;
        let inputs = [&q, &k, &v];
        self.compare_attention(
            [
                "attention",
                "attention_backward queries",
                "attention_backward keys",
                "attention_backward values",
            ],
            [&output, &dq, &dk, &dv],
            inputs,
            &above,
            (TEXT, &mask),
        )
    }

    fn compare_attention(
        &mut self,
        names: [&'static str; 4],
        got: [&Tensor; 4],
        inputs: [&Pair; 3],
        above: &Pair,
        (heads, mask): (HeadCounts, &Tensor),
    ) -> Result<()> {
        let want = attended(inputs.map(|input| &input.exact), heads, mask)?;
        let slopes = gradients(&inputs, above, |v| {
            attended(
                [v[0].as_tensor(), v[1].as_tensor(), v[2].as_tensor()],
                heads,
                mask,
            )
        })?;
        let near = [inputs[0].near()?, inputs[1].near()?, inputs[2].near()?];
        let near = near.each_ref();
        let output = near_attended(near, heads, mask, self.dtype)?;
        let back = near_gradients(near, &above.near()?, &output, heads, mask, self.dtype)?;
        let wanted = [want].into_iter().chain(slopes);
        let near = [output].into_iter().chain(back);
        for ((name, got), (want, near)) in names.into_iter().zip(got).zip(wanted.zip(near)) {
            self.compare(name, got, &want, &near)?;
        }
        Ok(())
    }

    /// Windows of different lengths in one launch.
    pub(super) fn windows(&mut self) -> Result<()> {
        let lens = [64, 64, 16, 1, 100];
        let layout = SequenceLayout::bidirectional(&lens);
        let rows = layout.num_rows();
        let window = |row: usize| layout.sequences.iter().position(|s| s.rows.contains(&row));
        let mask = mask(rows, |query, key| window(query) == window(key))?;
        let [q, k, v, above] = self.several(&[rows, VISION.queries * VISION_DIM])?;
        let tables = BlockTables::new(&layout, self.dtype, self.device)?;
        let saved = tables.forward(&q.here, &k.here, &v.here, VISION)?;
        let here = [&q.here, &k.here, &v.here];
        let (dq, dk, dv) = tables.backward(here, VISION, &saved, &above.here)?;
        self.compare_attention(
            [
                "windows",
                "windows_backward queries",
                "windows_backward keys",
                "windows_backward values",
            ],
            [&saved.output, &dq, &dk, &dv],
            [&q, &k, &v],
            &above,
            (VISION, &mask),
        )
    }

    /// Siblings of different ages; prompts of one run of keys and of several.
    pub(super) fn decoding(&mut self) -> Result<()> {
        let (prompt_stride, capacity, m) = (600, 300, TEXT.keys);
        let (width, kv_width) = (TEXT.queries * TEXT_DIM, m * TEXT_DIM);
        // Slot, prompt tokens, place, own tokens.
        let table: [[u32; 4]; 4] = [
            [0, 600, 1, 0],
            [0, 600, 0, 299],
            [1, 33, 3, 7],
            [1, 33, 2, 0],
        ];
        let b = table.len();
        let [prompt_k, prompt_v] = self.several(&[2 * m, prompt_stride, TEXT_DIM])?;
        let [own_k, own_v] = self.several(&[b * m * capacity, TEXT_DIM])?;
        let q = self.random(&[b, width])?;
        let [k, v] = self.several(&[b, kv_width])?;
        let q_bias = self.random(&[width])?;
        let [k_bias, v_bias] = self.several(&[kv_width])?;
        let positions: Vec<u32> = table.iter().map(|row| row[1] + row[3]).collect();
        let frequencies: Vec<f32> = (0..TEXT_DIM / 2).map(|i| 0.8f32.powi(i as i32)).collect();
        let (cos, sin) = decode::rotary(
            &Tensor::new(positions.as_slice(), self.device)?,
            &Tensor::new(frequencies.as_slice(), self.device)?,
        )?;
        let rows = Tensor::new(&table, self.device)?;
        let cached = decode::Cached {
            prompt_k: &prompt_k.here,
            prompt_v: &prompt_v.here,
            own_k: &own_k.here,
            own_v: &own_v.here,
            capacity,
        };
        let projected = decode::Projected {
            q: &q.here,
            k: &k.here,
            v: &v.here,
            biases: [&q_bias.here, &k_bias.here, &v_bias.here],
        };
        let q_turned = decode::append(&projected, &cos, &sin, &cached, TEXT, &rows)?;
        let output = decode::attend(&q_turned, &cached, TEXT, &rows)?;

        let to_cpu = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        self.angles(&positions, &frequencies, [&cos, &sin])?;
        let (cos, sin) = (to_cpu(&cos)?, to_cpu(&sin)?);
        let biased = |x: &Pair, bias: &Pair| x.exact.broadcast_add(&bias.exact);
        let near_biased = |x: &Pair, bias: &Pair| x.near()?.plus(&bias.near()?);
        let dtype = self.dtype;
        let near_turned = |x: &Near| near_turned(x, &cos, &sin)?.rounded(dtype);
        let want_q = turned(&biased(&q, &q_bias)?, &cos, &sin)?;
        let near_q = near_turned(&near_biased(&q, &q_bias)?)?;
        self.compare("decode_append queries", &q_turned, &want_q, &near_q)?;
        let want_k = turned(&biased(&k, &k_bias)?, &cos, &sin)?;
        let near_k = near_turned(&near_biased(&k, &k_bias)?)?;
        let want_v = biased(&v, &v_bias)?;
        let near_v = near_biased(&v, &v_bias)?.rounded(dtype)?;
        let (new_q, owns) = (
            to_cpu(&q_turned)?,
            [to_cpu(&own_k.here)?, to_cpu(&own_v.here)?],
        );
        for (row, [slot, prompt_len, place, own_len]) in table.into_iter().enumerate() {
            let [slot, prompt_len, place, own_len] =
                [slot, prompt_len, place, own_len].map(|value| value as usize);
            // `[m, L, d]` → `[L, m·d]`
            let by_token = |x: &Tensor| x.transpose(0, 1)?.contiguous()?.reshape(((), kv_width));
            let keys = |prompts: &Pair, owns: &Tensor| -> Result<Tensor> {
                let prompt = prompts.exact.narrow(0, slot * m, m)?;
                let own = owns.reshape((b, m, capacity, TEXT_DIM))?.get(place)?;
                let own = by_token(&own.narrow(1, 0, own_len + 1)?)?;
                Tensor::cat(&[&by_token(&prompt.narrow(1, 0, prompt_len)?)?, &own], 0)
            };
            let (all_k, all_v) = (keys(&prompt_k, &owns[0])?, keys(&prompt_v, &owns[1])?);
            let last = prompt_len + own_len;
            for (name, all, want, near) in [
                ("decode_append keys", &all_k, &want_k, &near_k),
                ("decode_append values", &all_v, &want_v, &near_v),
            ] {
                let near = near.shaped(|x| x.get(row))?;
                self.compare(name, &all.get(last)?, &want.get(row)?, &near)?;
            }
            let mask = Tensor::zeros((1, last + 1), DType::F64, &Device::Cpu)?;
            let q = new_q.narrow(0, row, 1)?;
            let inputs = [&q, &all_k, &all_v];
            let want = attended(inputs, TEXT, &mask)?;
            let near = [Near::exact(&q)?, Near::exact(&all_k)?, Near::exact(&all_v)?];
            let near = near_attended(near.each_ref(), TEXT, &mask, dtype)?;
            self.compare("decode_attention", &output.narrow(0, row, 1)?, &want, &near)?;
        }
        Ok(())
    }

    /// The turns of `positions`, whose angles are products in f32.
    fn angles(&mut self, positions: &[u32], frequencies: &[f32], got: [&Tensor; 2]) -> Result<()> {
        let column: Vec<f64> = positions.iter().map(|&at| f64::from(at)).collect();
        let column = Tensor::from_vec(column, (positions.len(), 1), &Device::Cpu)?;
        let row: Vec<f64> = frequencies.iter().map(|&f| f64::from(f)).collect();
        let row = Tensor::from_vec(row, (1, frequencies.len()), &Device::Cpu)?;
        let angles = Near::exact(&column)?.times(&Near::exact(&row)?)?;
        let [want_cos, want_sin] = [angles.value().cos()?, angles.value().sin()?];
        for (name, got, want) in [
            ("decode_rotary cos", got[0], want_cos),
            ("decode_rotary sin", got[1], want_sin),
        ] {
            // Slopes of at most 1, and a function that is off by two units in the last place.
            let near = Near::with(want.clone(), angles.off(), 4.0)?;
            self.compare(name, got, &want, &near)?;
        }
        Ok(())
    }
}
