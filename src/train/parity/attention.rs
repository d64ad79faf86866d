//! Attention in training, in windows and in decoding against its definition.

use super::{Pair, Probe, ROUNDED, gradients, turned};
use crate::kernels::attention::{HeadCounts, Sequence, Sequences};
use crate::kernels::decode;
use crate::model::attention::{Heads, attention_backward, attention_saved};
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
fn attended([q, k, v]: [&Tensor; 3], heads: HeadCounts, mask: &Tensor) -> Result<Tensor> {
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

/// `[N, N]`: 0 where `sees(query, key)`, −∞ elsewhere.
fn mask(rows: usize, sees: impl Fn(usize, usize) -> bool) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * rows)
        .map(|at| {
            if sees(at / rows, at % rows) {
                0.0
            } else {
                f32::NEG_INFINITY
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
        let layout = PackedLayout {
            groups: vec![group(150, &[70, 1, 33]), group(5, &[3])],
        };
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
        let (output, saved) = attention_saved(&q.here, &k.here, &v.here, heads, &layout)?;
        let here = [&q.here, &k.here, &v.here];
        let (dq, dk, dv) = attention_backward(here, heads, &layout, saved.as_ref(), &above.here)?;
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
        let want = attended(inputs.map(|input| &input.wide), heads, mask)?;
        let slopes = gradients(&inputs, above, |v| {
            attended(
                [v[0].as_tensor(), v[1].as_tensor(), v[2].as_tensor()],
                heads,
                mask,
            )
        })?;
        // Weights and slopes are rounded before they are summed, over all rows and the query heads of a key head.
        let bound = self.bound(8.0 * ROUNDED);
        let wanted = [want].into_iter().chain(slopes);
        for ((name, got), want) in names.into_iter().zip(got).zip(wanted) {
            self.compare(name, got, &want, bound)?;
        }
        Ok(())
    }

    /// Windows of different lengths in one launch.
    pub(super) fn windows(&mut self) -> Result<()> {
        let lens = [64, 64, 16, 1, 100];
        let mut start = 0;
        let sequences = lens.map(|len| {
            let rows = start..start + len;
            start = rows.end;
            Sequence {
                before: rows.start..rows.start,
                seen_until: rows.end,
                rows,
            }
        });
        let window = |row: usize| sequences.iter().position(|s| s.rows.contains(&row));
        let mask = mask(start, |query, key| window(query) == window(key))?;
        let [q, k, v, above] = self.several(&[start, VISION.queries * VISION_DIM])?;
        let tables = Sequences::new(&sequences, start, false, self.dtype, self.device)?;
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
            &Tensor::new(positions, self.device)?,
            &Tensor::new(frequencies, self.device)?,
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

        let to_cpu = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F32);
        let (cos, sin) = (to_cpu(&cos)?, to_cpu(&sin)?);
        let biased = |x: &Pair, bias: &Pair| x.wide.broadcast_add(&bias.wide);
        let want_k = turned(&biased(&k, &k_bias)?, &cos, &sin)?;
        let want_v = biased(&v, &v_bias)?;
        let bound = self.bound(ROUNDED);
        let want_q = turned(&biased(&q, &q_bias)?, &cos, &sin)?;
        self.compare("decode_append queries", &q_turned, &want_q, bound)?;
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
                let prompt = prompts.wide.narrow(0, slot * m, m)?;
                let own = owns.reshape((b, m, capacity, TEXT_DIM))?.get(place)?;
                let own = by_token(&own.narrow(1, 0, own_len + 1)?)?;
                Tensor::cat(&[&by_token(&prompt.narrow(1, 0, prompt_len)?)?, &own], 0)
            };
            let (all_k, all_v) = (keys(&prompt_k, &owns[0])?, keys(&prompt_v, &owns[1])?);
            let last = prompt_len + own_len;
            self.compare(
                "decode_append keys",
                &all_k.get(last)?,
                &want_k.get(row)?,
                bound,
            )?;
            self.compare(
                "decode_append values",
                &all_v.get(last)?,
                &want_v.get(row)?,
                bound,
            )?;
            let mask = Tensor::zeros((1, last + 1), DType::F32, &Device::Cpu)?;
            let q = new_q.narrow(0, row, 1)?;
            let want = attended([&q, &all_k, &all_v], TEXT, &mask)?;
            let bound = self.bound(5.0 * ROUNDED);
            self.compare("decode_attention", &output.narrow(0, row, 1)?, &want, bound)?;
        }
        Ok(())
    }
}
