//! Attention in training, in the vision tower and in decoding.

use crate::emulator::on_cpu;
use crate::{close, random};
use candle_core::{D, DType, Device, Result, Tensor};
use videothinker::model::ops::Ops;
use videothinker::model::ops::cuda::attention::BlockTables;
use videothinker::model::ops::cuda::decode::{Cached, IDLE, Projected, append, attend, rotary};
use videothinker::model::ops::heads::Heads;
use videothinker::model::ops::sequences::{Sequence, SequenceLayout};
use videothinker::model::packed::{GroupLayout, PackedLayout};

/// What rounding the weights and slopes of a row to `dtype` allows, and its output.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::BF16 { 2e-2 } else { 5e-5 }
}

fn wide(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F32).unwrap()
}

fn group(prompt_len: usize, completion_lens: &[usize]) -> GroupLayout {
    GroupLayout {
        prompt_len,
        completion_lens: completion_lens.to_vec(),
    }
}

/// One layout in f32 and bf16: the kernels against the CPU's own implementation.
fn packed(heads: Heads, groups: &[GroupLayout]) -> Result<()> {
    let layout = PackedLayout::new(groups.to_vec());
    let plan = layout.plan();
    let (rows, dim) = (layout.num_rows(), heads.head_dim);
    for dtype in [DType::F32, DType::BF16] {
        let [q, above] = [0; 2].map(|_| random(&[rows, heads.num_heads * dim], dtype).unwrap());
        let [k, v] = [0; 2].map(|_| random(&[rows, heads.num_kv_heads * dim], dtype).unwrap());
        let (got, gradients) = on_cpu(|| -> Result<_> {
            let (ops, qkv) = (Ops::of(&q)?, [&q, &k, &v]);
            let (value, saved) = ops.attention(qkv, heads, plan)?;
            assert!(saved.is_some(), "the kernels were not used");
            let saved = saved.as_ref();
            let first = ops.attention_backward(qkv, heads, plan, saved, &above)?;
            let again = ops.attention_backward(qkv, heads, plan, None, &above)?;
            for (first, again) in [(&first.0, &again.0), (&first.1, &again.1)] {
                close(first, again, 0.0);
            }
            Ok((value, first))
        })?;
        let [q, k, v, above] = [&q, &k, &v, &above].map(wide);
        let (ops, qkv) = (Ops::of(&q)?, [&q, &k, &v]);
        let (want, none) = ops.attention(qkv, heads, plan)?;
        assert!(none.is_none());
        let wanted = ops.attention_backward(qkv, heads, plan, None, &above)?;
        close(&got, &want, tolerance(dtype));
        close(&gradients.0, &wanted.0, tolerance(dtype));
        close(&gradients.1, &wanted.1, tolerance(dtype));
        close(&gradients.2, &wanted.2, tolerance(dtype));
    }
    Ok(())
}

fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Heads {
    Heads {
        num_heads,
        num_kv_heads,
        head_dim,
    }
}

#[test]
fn packed_attention_is_its_twin_for_ragged_groups() -> Result<()> {
    // None, of no row, of one row, several; heads of a width that is no multiple of anything.
    packed(
        heads(4, 2, 6),
        &[
            group(7, &[1, 5, 0, 3]),
            group(1, &[2]),
            group(3, &[]),
            group(40, &[17, 1]),
        ],
    )
}

#[test]
fn packed_attention_is_its_twin_across_blocks() -> Result<()> {
    packed(heads(4, 1, 32), &[group(70, &[130, 64])])
}

#[test]
fn packed_attention_is_its_twin_for_a_single_row_and_for_one_completion() -> Result<()> {
    packed(heads(1, 1, 16), &[group(1, &[])])?;
    packed(heads(2, 2, 16), &[group(16, &[16])])
}

#[test]
fn packed_attention_is_its_twin_at_the_full_width() -> Result<()> {
    packed(heads(8, 1, 128), &[group(20, &[9, 1])])
}

/// Attention inside segments by the definition, in f32: output, and gradients of `(output · above).sum()`.
fn segments(
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    lens: &[usize],
    above: &Tensor,
) -> Result<[Tensor; 4]> {
    let vars = [q, k, v].map(|x| candle_core::Var::from_tensor(x).unwrap());
    let dim = q.dim(1)? / heads;
    let (mut start, mut parts) = (0, Vec::new());
    for &len in lens {
        let [q, k, v] = [0, 1, 2].map(|i| {
            let rows = vars[i].narrow(0, start, len).unwrap();
            let rows = rows.reshape((len, heads, dim)).unwrap();
            rows.transpose(0, 1).unwrap().contiguous().unwrap()
        });
        let scores = (q.matmul(&k.t()?)? / (dim as f64).sqrt())?;
        let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let part = weights.matmul(&v)?.transpose(0, 1)?.contiguous()?;
        parts.push(part.reshape((len, heads * dim))?);
        start += len;
    }
    let output = Tensor::cat(&parts, 0)?;
    let gradients = (&output * above)?.sum_all()?.backward()?;
    let [dq, dk, dv] = [0, 1, 2].map(|i| gradients.get(&vars[i]).unwrap().clone());
    Ok([output.detach(), dq, dk, dv])
}

#[test]
fn windows_go_through_one_launch() -> Result<()> {
    let cases: [(usize, usize, &[usize]); 3] = [
        (2, 80, &[16, 1, 64, 20]),
        (3, 32, &[65, 4, 100, 64, 8]),
        (1, 8, &[1]),
    ];
    for (num_heads, dim, lens) in cases {
        let rows: usize = lens.iter().sum();
        let layout = SequenceLayout::bidirectional(lens);
        let heads = heads(num_heads, num_heads, dim);
        for dtype in [DType::F32, DType::BF16] {
            let [q, k, v, above] = [0; 4].map(|_| random(&[rows, num_heads * dim], dtype).unwrap());
            let (attended, gradients) = on_cpu(|| -> Result<_> {
                let tables = BlockTables::new(&layout, dtype, &Device::Cpu)?;
                let attended = tables.forward(&q, &k, &v, heads)?;
                let gradients = tables.backward([&q, &k, &v], heads, &attended, &above)?;
                Ok((attended, gradients))
            })?;
            let [q, k, v, above] = [&q, &k, &v, &above].map(wide);
            let want = segments([&q, &k, &v], num_heads, lens, &above)?;
            let got = [attended.output, gradients.0, gradients.1, gradients.2];
            for (got, want) in got.iter().zip(&want) {
                close(got, want, tolerance(dtype));
            }
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() {
    let sequence = Sequence {
        rows: 0..3,
        before: 0..0,
        seen_until: 3,
    };
    let of_width = |dim: usize, rows: usize, dtype: DType| {
        on_cpu(|| -> Result<()> {
            let layout = SequenceLayout::causal(vec![sequence.clone()]);
            let tables = BlockTables::new(&layout, dtype, &Device::Cpu)?;
            let q = random(&[rows, 2 * dim], DType::F32)?;
            let k = random(&[rows, dim], DType::F32)?;
            tables.forward(&q, &k, &k, heads(2, 1, dim)).map(|_| ())
        })
    };
    assert!(of_width(128, 3, DType::F32).is_ok());
    assert!(of_width(129, 3, DType::F32).is_err(), "too wide");
    assert!(
        of_width(128, 4, DType::F32).is_err(),
        "another number of rows"
    );
    assert!(
        of_width(128, 3, DType::BF16).is_err(),
        "tables for another dtype"
    );
}

/// Decoding rows: of which prompt, how many tokens of their own, where.
struct Decoding {
    heads: Heads,
    prompt_lens: Vec<usize>,
    prompt_stride: usize,
    capacity: usize,
    /// Slot and own tokens of each row; row i lies in place i + 1.
    rows: Vec<(usize, usize)>,
}

impl Decoding {
    fn table(&self) -> Result<Tensor> {
        let rows = self.rows.iter().enumerate();
        let values: Vec<u32> = rows
            .flat_map(|(i, &(slot, own_len))| {
                [slot, self.prompt_lens[slot], i + 1, own_len].map(|value| value as u32)
            })
            .collect();
        Tensor::from_vec(values, (self.rows.len(), 4), &Device::Cpu)
    }

    /// Row `row`'s output by the definition, in f32; `q [n·d]`, caches as they are after the append.
    fn row(&self, row: usize, q: &Tensor, caches: &[Tensor; 4]) -> Result<Tensor> {
        let (slot, own_len) = self.rows[row];
        let Heads {
            num_heads,
            num_kv_heads: m,
            head_dim: dim,
        } = self.heads;
        let mut outputs = Vec::new();
        for head in 0..num_heads {
            let kv_head = head / (num_heads / m);
            let all = |prompts: &Tensor, owns: &Tensor| -> Result<Tensor> {
                let prompt = prompts.get(slot * m + kv_head)?;
                let first = ((row + 1) * m + kv_head) * self.capacity;
                Tensor::cat(
                    &[
                        &prompt.narrow(0, 0, self.prompt_lens[slot])?,
                        &owns.narrow(0, first, own_len + 1)?,
                    ],
                    0,
                )
            };
            let (k, v) = (all(&caches[0], &caches[2])?, all(&caches[1], &caches[3])?);
            let q = q.narrow(0, head * dim, dim)?.unsqueeze(0)?;
            let scores = (q.matmul(&k.t()?)? / (dim as f64).sqrt())?;
            let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
            outputs.push(weights.matmul(&v)?.squeeze(0)?);
        }
        Tensor::cat(&outputs, 0)
    }

    /// One step by the kernels and by the definition.
    fn check(&self, dtype: DType) -> Result<()> {
        let (b, dim, m) = (
            self.rows.len(),
            self.heads.head_dim,
            self.heads.num_kv_heads,
        );
        let prompts = [self.prompt_lens.len() * m, self.prompt_stride, dim];
        let owns = [(b + 2) * m * self.capacity, dim];
        let caches = [
            random(&prompts, dtype)?,
            random(&prompts, dtype)?,
            random(&owns, dtype)?,
            random(&owns, dtype)?,
        ];
        let q = random(&[b, self.heads.num_heads * dim], dtype)?;
        let [k, v] = [0; 2].map(|_| random(&[b, m * dim], dtype).unwrap());
        let q_bias = random(&[self.heads.num_heads * dim], dtype)?;
        let [k_bias, v_bias] = [0; 2].map(|_| random(&[m * dim], dtype).unwrap());
        let positions: Vec<u32> = (0..b as u32).map(|row| 3 + 977 * row).collect();
        let frequencies: Vec<f32> = (0..dim / 2).map(|i| 0.7f32.powi(i as i32)).collect();
        let angles: Vec<f32> = positions
            .iter()
            .flat_map(|&position| frequencies.iter().map(move |f| position as f32 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (b, dim / 2), &Device::Cpu)?;
        let rows = self.table()?;

        // The twin first: the kernels write to the caches.
        let biased = |x: &Tensor, bias: &Tensor| wide(x).broadcast_add(&wide(bias));
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let want_q = Ops::Cpu.rotary(&biased(&q, &q_bias)?, &cos, &sin)?;
        let want_k = Ops::Cpu.rotary(&biased(&k, &k_bias)?, &cos, &sin)?;
        let want_v = biased(&v, &v_bias)?;
        let mut want_caches = caches.each_ref().map(wide);
        for (cache, new) in [(2, &want_k), (3, &want_v)] {
            for (row, &(_, own_len)) in self.rows.iter().enumerate() {
                let new = new.get(row)?.reshape((m, dim))?;
                for head in 0..m {
                    let at = ((row + 1) * m + head) * self.capacity + own_len;
                    let new = new.narrow(0, head, 1)?.contiguous()?;
                    want_caches[cache].slice_set(&new, 0, at)?;
                }
            }
        }
        want_caches = want_caches.map(|cache| wide(&cache.to_dtype(dtype).unwrap()));

        let (turned, output) = on_cpu(|| -> Result<_> {
            let positions = Tensor::new(positions, &Device::Cpu)?;
            let (cos, sin) = rotary(&positions, &Tensor::new(frequencies, &Device::Cpu)?)?;
            let cached = Cached {
                prompt_k: &caches[0],
                prompt_v: &caches[1],
                own_k: &caches[2],
                own_v: &caches[3],
                capacity: self.capacity,
            };
            let projected = Projected {
                q: &q,
                k: &k,
                v: &v,
                biases: [&q_bias, &k_bias, &v_bias],
            };
            let turned = append(&projected, &cos, &sin, &cached, self.heads, &rows)?;
            let output = attend(&turned, &cached, self.heads, &rows)?;
            Ok((turned, output))
        })?;
        let rounding = if dtype == DType::BF16 { 5e-3 } else { 2e-5 };
        close(&turned, &want_q, rounding);
        for (cache, want) in caches.iter().zip(&want_caches) {
            close(cache, want, rounding);
        }
        // From here on the kernel's own rotated values, so that their rounding does not count twice.
        let caches = caches.each_ref().map(wide);
        for row in 0..b {
            let want = self.row(row, &wide(&turned).get(row)?, &caches)?;
            close(&output.get(row)?, &want, tolerance(dtype));
        }
        Ok(())
    }
}

#[test]
fn decoding_rows_attend_to_their_prompt_and_themselves() -> Result<()> {
    let cases = [
        // Siblings of different ages, prompts of one token and of several runs of keys.
        Decoding {
            heads: heads(4, 2, 16),
            prompt_lens: vec![5, 1, 300],
            prompt_stride: 300,
            capacity: 270,
            rows: vec![(0, 0), (0, 3), (1, 0), (2, 0), (2, 211), (2, 269)],
        },
        Decoding {
            heads: heads(16, 2, 128),
            prompt_lens: vec![33, 70],
            prompt_stride: 70,
            capacity: 4,
            rows: vec![(1, 3), (0, 1)],
        },
        Decoding {
            heads: heads(16, 1, 80),
            prompt_lens: vec![40],
            prompt_stride: 41,
            capacity: 2,
            rows: vec![(0, 1)],
        },
        Decoding {
            heads: heads(3, 3, 6),
            prompt_lens: vec![2],
            prompt_stride: 2,
            capacity: 1,
            rows: vec![(0, 0)],
        },
    ];
    for case in &cases {
        for dtype in [DType::F32, DType::BF16] {
            case.check(dtype)?;
        }
    }
    Ok(())
}

#[test]
fn an_idle_row_stores_nothing_and_gets_zeros() -> Result<()> {
    let (dim, capacity) = (8, 3);
    let heads = heads(2, 1, dim);
    for dtype in [DType::F32, DType::BF16] {
        let caches = [[1, 4, dim], [1, 4, dim]].map(|shape| random(&shape, dtype).unwrap());
        let owns = [0; 2].map(|_| random(&[2 * capacity, dim], dtype).unwrap());
        let before = owns.each_ref().map(|own| own.copy().unwrap());
        let q = random(&[2, 2 * dim], dtype)?;
        let k = random(&[2, dim], dtype)?;
        let zeros = |width: usize| Tensor::zeros(width, dtype, &Device::Cpu);
        let rows = Tensor::new(&[[0, 4, 1, 2], [IDLE, 0, 0, 0]], &Device::Cpu)?;
        let output = on_cpu(|| -> Result<_> {
            let positions = Tensor::new(&[6u32, 0], &Device::Cpu)?;
            let frequencies = Tensor::new(&[1.0f32, 0.5, 0.2, 0.1], &Device::Cpu)?;
            let (cos, sin) = rotary(&positions, &frequencies)?;
            let cached = Cached {
                prompt_k: &caches[0],
                prompt_v: &caches[1],
                own_k: &owns[0],
                own_v: &owns[1],
                capacity,
            };
            let projected = Projected {
                q: &q,
                k: &k,
                v: &k,
                biases: [&zeros(2 * dim)?, &zeros(dim)?, &zeros(dim)?],
            };
            let turned = append(&projected, &cos, &sin, &cached, heads, &rows)?;
            attend(&turned, &cached, heads, &rows)
        })?;
        close(&output.get(1)?, &output.get(1)?.zeros_like()?, 0.0);
        for (own, before) in owns.iter().zip(&before) {
            close(&own.narrow(0, 0, 5)?, &before.narrow(0, 0, 5)?, 0.0);
        }
    }
    Ok(())
}
