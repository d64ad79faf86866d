//! Attention in training, in windows and in decoding against its definition.

use super::ball::{Accumulation, Ball, UNSEEN};
use super::layers::{rotated, rotated_ball};
use super::{KernelCheck, TestTensor, gradients};
use crate::model::ops::cuda::attention::BlockTables;
use crate::model::ops::cuda::decode;
use crate::model::ops::heads::Heads;
use crate::model::ops::sequences::SequenceLayout;
use crate::model::packed::{GroupLayout, PackedLayout};
use candle_core::{D, DType, Device, Result, Tensor};

/// The 3B model's heads.
const TEXT: Heads = Heads {
    num_heads: 16,
    num_kv_heads: 2,
    head_dim: 128,
};
const VISION: Heads = Heads {
    num_heads: 16,
    num_kv_heads: 16,
    head_dim: 80,
};

/// `q [B, n·d]` over `k`, `v` `[T, m·d]` with `mask [B, T]` added to the scores, head by head.
pub(super) fn reference_attention(
    [q, k, v]: [&Tensor; 3],
    heads: Heads,
    mask: &Tensor,
) -> Result<Tensor> {
    let dim = heads.head_dim;
    let of_head = |head: usize| -> Result<Tensor> {
        let kv_head = head / heads.group_size();
        let part = |x: &Tensor, head: usize| x.narrow(1, head * dim, dim)?.contiguous();
        let scores = part(q, head)?.matmul(&part(k, kv_head)?.t()?)?;
        let scores = ((scores / (dim as f64).sqrt())? + mask)?;
        candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&part(v, kv_head)?)
    };
    let heads: Vec<Tensor> = (0..heads.num_heads).map(of_head).collect::<Result<_>>()?;
    Tensor::cat(&heads, 1)
}

/// As [`reference_attention`], in the formats of a kernel for `dtype`: the weights are rounded to it before they are multiplied with
/// the values, and so is the output.
pub(super) fn attention_ball(
    [q, k, v]: [&Ball; 3],
    heads: Heads,
    mask: &Tensor,
    dtype: DType,
) -> Result<Ball> {
    let parts = HeadSlices(heads);
    let of_head = |head: usize| -> Result<Ball> {
        let [q, k, v] = [
            parts.query(q, head)?,
            parts.key(k, head)?,
            parts.key(v, head)?,
        ];
        let (weights, total, _) = parts.weights(&q, &k, mask, dtype)?;
        let mixed = weights
            .rounded(dtype)?
            .matmul(&v, Accumulation::MatrixProduct(dtype))?;
        mixed.over(&total)?.rounded(dtype)
    };
    let all: Vec<Ball> = (0..heads.num_heads).map(of_head).collect::<Result<_>>()?;
    Ball::cat(&all, 1)
}

/// Gradients of [`attention_ball`] with respect to its inputs; the weights and their slopes are rounded before they are
/// multiplied.
fn gradient_balls(
    [q, k, v]: [&Ball; 3],
    grad_output: &Ball,
    output: &Ball,
    heads: Heads,
    mask: &Tensor,
    dtype: DType,
) -> Result<[Ball; 3]> {
    let parts = HeadSlices(heads);
    let sums = Accumulation::MatrixProduct(dtype);
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| Vec::new());
    for kv_head in 0..heads.num_kv_heads {
        // Query heads of a key head add up in f32.
        let mut sum: Option<[Ball; 2]> = None;
        for head in kv_head * heads.group_size()..(kv_head + 1) * heads.group_size() {
            let (own_q, own_k, own_v) = (
                parts.query(q, head)?,
                parts.key(k, head)?,
                parts.key(v, head)?,
            );
            let (own_grad_output, own_output) =
                (parts.query(grad_output, head)?, parts.query(output, head)?);
            let (_, total, below) = parts.weights(&own_q, &own_k, mask, dtype)?;
            let weights = below.minus(&total.ln()?)?.exp()?;
            let along = own_output
                .times(&own_grad_output)?
                .sum(1, Accumulation::Kernel)?;
            let slopes = own_grad_output.matmul(&own_v.t()?, sums)?.minus(&along)?;
            let slopes = weights
                .times(&slopes)?
                .scaled(heads.scale())?
                .rounded(dtype)?;
            dq.push(slopes.matmul(&own_k, sums)?.rounded(dtype)?);
            let of_head = [
                slopes.t()?.matmul(&own_q, sums)?,
                weights
                    .rounded(dtype)?
                    .t()?
                    .matmul(&own_grad_output, sums)?,
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
    Ok([Ball::cat(&dq, 1)?, Ball::cat(&dk, 1)?, Ball::cat(&dv, 1)?])
}

/// Heads of packed rows.
#[derive(Clone, Copy)]
struct HeadSlices(Heads);

impl HeadSlices {
    fn query(self, x: &Ball, head: usize) -> Result<Ball> {
        let dim = self.0.head_dim;
        x.shaped(|x| x.narrow(1, head * dim, dim)?.contiguous())
    }

    /// Of the key head that query head `head` reads.
    fn key(self, x: &Ball, head: usize) -> Result<Ball> {
        self.query(x, head / self.0.group_size())
    }

    /// exp(score − largest) of a head, its sum over the keys, and the exponents.
    fn weights(
        self,
        q: &Ball,
        k: &Ball,
        mask: &Tensor,
        dtype: DType,
    ) -> Result<(Ball, Ball, Ball)> {
        let scores = q.matmul(&k.t()?, Accumulation::MatrixProduct(dtype))?;
        let scores = scores.scaled(self.0.scale())?.plus(&Ball::exact(mask)?)?;
        let (below, _) = scores.below_largest()?;
        let weights = below.exp()?;
        let total = weights.sum(1, Accumulation::Kernel)?;
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

impl KernelCheck<'_> {
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
        let [q, grad_output] = self.several(&[rows, TEXT.num_heads * TEXT.head_dim])?;
        let [k, v] = self.several(&[rows, TEXT.num_kv_heads * TEXT.head_dim])?;
        let (here, plan) = ([&q.on_device, &k.on_device, &v.on_device], layout.plan());
        let (output, saved) = self.ops.attention(here, TEXT, plan)?;
        let saved = saved.as_ref();
        let (dq, dk, dv) =
            self.ops
                .attention_backward(here, TEXT, plan, saved, &grad_output.on_device)?;
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
            &grad_output,
            (TEXT, &mask),
        )
    }

    fn compare_attention(
        &mut self,
        names: [&'static str; 4],
        got: [&Tensor; 4],
        inputs: [&TestTensor; 3],
        grad_output: &TestTensor,
        (heads, mask): (Heads, &Tensor),
    ) -> Result<()> {
        let want = reference_attention(inputs.map(|input| &input.exact), heads, mask)?;
        let slopes = gradients(&inputs, grad_output, |v| {
            reference_attention(
                [v[0].as_tensor(), v[1].as_tensor(), v[2].as_tensor()],
                heads,
                mask,
            )
        })?;
        let ball = [inputs[0].ball()?, inputs[1].ball()?, inputs[2].ball()?];
        let ball = ball.each_ref();
        let output = attention_ball(ball, heads, mask, self.dtype)?;
        let back = gradient_balls(ball, &grad_output.ball()?, &output, heads, mask, self.dtype)?;
        let wanted = [want].into_iter().chain(slopes);
        let ball = [output].into_iter().chain(back);
        for ((name, got), (want, ball)) in names.into_iter().zip(got).zip(wanted.zip(ball)) {
            self.compare(name, got, &want, &ball)?;
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
        let [q, k, v, grad_output] = self.several(&[rows, VISION.num_heads * VISION.head_dim])?;
        let tables = BlockTables::new(&layout, self.dtype, self.device)?;
        let saved = tables.forward(&q.on_device, &k.on_device, &v.on_device, VISION)?;
        let here = [&q.on_device, &k.on_device, &v.on_device];
        let (dq, dk, dv) = tables.backward(here, VISION, &saved, &grad_output.on_device)?;
        self.compare_attention(
            [
                "windows",
                "windows_backward queries",
                "windows_backward keys",
                "windows_backward values",
            ],
            [&saved.output, &dq, &dk, &dv],
            [&q, &k, &v],
            &grad_output,
            (VISION, &mask),
        )
    }

    /// Siblings of different ages; prompts of one run of keys and of several.
    pub(super) fn decoding(&mut self) -> Result<()> {
        let (prompt_stride, capacity, m) = (600, 300, TEXT.num_kv_heads);
        let (width, kv_width) = (TEXT.num_heads * TEXT.head_dim, m * TEXT.head_dim);
        // Slot, prompt tokens, place, own tokens.
        let table: [[u32; 4]; 4] = [
            [0, 600, 1, 0],
            [0, 600, 0, 299],
            [1, 33, 3, 7],
            [1, 33, 2, 0],
        ];
        let b = table.len();
        let [prompt_k, prompt_v] = self.several(&[2 * m, prompt_stride, TEXT.head_dim])?;
        let [own_k, own_v] = self.several(&[b * m * capacity, TEXT.head_dim])?;
        let q = self.random(&[b, width])?;
        let [k, v] = self.several(&[b, kv_width])?;
        let q_bias = self.random(&[width])?;
        let [k_bias, v_bias] = self.several(&[kv_width])?;
        let positions: Vec<u32> = table.iter().map(|row| row[1] + row[3]).collect();
        let frequencies: Vec<f32> = (0..TEXT.head_dim / 2)
            .map(|i| 0.8f32.powi(i as i32))
            .collect();
        let (cos, sin) = decode::rotary(
            &Tensor::new(positions.as_slice(), self.device)?,
            &Tensor::new(frequencies.as_slice(), self.device)?,
        )?;
        let rows = Tensor::new(&table, self.device)?;
        let cached = decode::Cached {
            prompt_k: &prompt_k.on_device,
            prompt_v: &prompt_v.on_device,
            own_k: &own_k.on_device,
            own_v: &own_v.on_device,
            capacity,
        };
        let projected = decode::Projected {
            q: &q.on_device,
            k: &k.on_device,
            v: &v.on_device,
            biases: [&q_bias.on_device, &k_bias.on_device, &v_bias.on_device],
        };
        let q_rotated = decode::append(&projected, &cos, &sin, &cached, TEXT, &rows)?;
        let output = decode::attend(&q_rotated, &cached, TEXT, &rows)?;

        let to_cpu = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        self.angles(&positions, &frequencies, [&cos, &sin])?;
        let (cos, sin) = (to_cpu(&cos)?, to_cpu(&sin)?);
        let biased = |x: &TestTensor, bias: &TestTensor| x.exact.broadcast_add(&bias.exact);
        let biased_ball = |x: &TestTensor, bias: &TestTensor| x.ball()?.plus(&bias.ball()?);
        let dtype = self.dtype;
        let rotated_ball = |x: &Ball| rotated_ball(x, &cos, &sin)?.rounded(dtype);
        let want_q = rotated(&biased(&q, &q_bias)?, &cos, &sin)?;
        let ball_q = rotated_ball(&biased_ball(&q, &q_bias)?)?;
        self.compare("decode_append queries", &q_rotated, &want_q, &ball_q)?;
        let want_k = rotated(&biased(&k, &k_bias)?, &cos, &sin)?;
        let ball_k = rotated_ball(&biased_ball(&k, &k_bias)?)?;
        let want_v = biased(&v, &v_bias)?;
        let ball_v = biased_ball(&v, &v_bias)?.rounded(dtype)?;
        let (new_q, owns) = (
            to_cpu(&q_rotated)?,
            [to_cpu(&own_k.on_device)?, to_cpu(&own_v.on_device)?],
        );
        for (row, [slot, prompt_len, place, own_len]) in table.into_iter().enumerate() {
            let [slot, prompt_len, place, own_len] =
                [slot, prompt_len, place, own_len].map(|value| value as usize);
            // `[m, L, d]` → `[L, m·d]`
            let by_token = |x: &Tensor| x.transpose(0, 1)?.contiguous()?.reshape(((), kv_width));
            let keys = |prompts: &TestTensor, owns: &Tensor| -> Result<Tensor> {
                let prompt = prompts.exact.narrow(0, slot * m, m)?;
                let own = owns.reshape((b, m, capacity, TEXT.head_dim))?.get(place)?;
                let own = by_token(&own.narrow(1, 0, own_len + 1)?)?;
                Tensor::cat(&[&by_token(&prompt.narrow(1, 0, prompt_len)?)?, &own], 0)
            };
            let (all_k, all_v) = (keys(&prompt_k, &owns[0])?, keys(&prompt_v, &owns[1])?);
            let last = prompt_len + own_len;
            for (name, all, want, ball) in [
                ("decode_append keys", &all_k, &want_k, &ball_k),
                ("decode_append values", &all_v, &want_v, &ball_v),
            ] {
                let ball = ball.shaped(|x| x.get(row))?;
                self.compare(name, &all.get(last)?, &want.get(row)?, &ball)?;
            }
            let mask = Tensor::zeros((1, last + 1), DType::F64, &Device::Cpu)?;
            let q = new_q.narrow(0, row, 1)?;
            let inputs = [&q, &all_k, &all_v];
            let want = reference_attention(inputs, TEXT, &mask)?;
            let ball = [Ball::exact(&q)?, Ball::exact(&all_k)?, Ball::exact(&all_v)?];
            let ball = attention_ball(ball.each_ref(), TEXT, &mask, dtype)?;
            self.compare("decode_attention", &output.narrow(0, row, 1)?, &want, &ball)?;
        }
        Ok(())
    }

    /// The turns of `positions`, whose angles are products in f32.
    fn angles(&mut self, positions: &[u32], frequencies: &[f32], got: [&Tensor; 2]) -> Result<()> {
        let column: Vec<f64> = positions.iter().map(|&at| f64::from(at)).collect();
        let column = Tensor::from_vec(column, (positions.len(), 1), &Device::Cpu)?;
        let row: Vec<f64> = frequencies.iter().map(|&f| f64::from(f)).collect();
        let row = Tensor::from_vec(row, (1, frequencies.len()), &Device::Cpu)?;
        let angles = Ball::exact(&column)?.times(&Ball::exact(&row)?)?;
        let [want_cos, want_sin] = [angles.value().cos()?, angles.value().sin()?];
        for (name, got, want) in [
            ("decode_rotary cos", got[0], want_cos),
            ("decode_rotary sin", got[1], want_sin),
        ] {
            // Slopes of at most 1, and a function that is off by two units in the last place.
            let ball = Ball::with(want.clone(), angles.radius(), 4.0)?;
            self.compare(name, got, &want, &ball)?;
        }
        Ok(())
    }
}
