//! Tensors that are views: what a kernel reads may begin at any element of a storage.

use crate::emulator::on_cpu;
use crate::{DTYPES, bound, close, random};
use candle_core::{DType, Device, Result, Tensor};
use videothinker::config::SamplingConfig;
use videothinker::model::ops::cuda::attention::{Attended, BlockTables};
use videothinker::model::ops::cuda::decode::{Cached, Projected, append, attend};
use videothinker::model::ops::cuda::norm::{add_rms_norm, rms_norm, rms_norm_backward};
use videothinker::model::ops::cuda::rotary::{Projection, RotaryDirection, bias_rotary};
use videothinker::model::ops::cuda::sampler::DeviceSampler;
use videothinker::model::ops::cuda::sum_squares::sum_squares;
use videothinker::model::ops::cuda::swiglu::{swiglu, swiglu_backward};
use videothinker::model::ops::cuda::{adamw, head};
use videothinker::model::ops::heads::Heads;
use videothinker::model::ops::sequences::{Sequence, SequenceLayout};

const HEADS: Heads = Heads {
    num_heads: 2,
    num_kv_heads: 1,
    head_dim: 16,
};

/// The values of `x` as a view that begins at element `offset` of its storage.
fn view(x: &Tensor, offset: usize) -> Tensor {
    let before = Tensor::zeros(offset, x.dtype(), x.device()).unwrap();
    let flat = x.flatten_all().unwrap();
    let whole = Tensor::cat(&[before, flat], 0).unwrap();
    let view = whole.narrow(0, offset, x.elem_count()).unwrap();
    let view = view.reshape(x.shape()).unwrap();
    assert_eq!(view.layout().start_offset(), offset, "a copy");
    view
}

/// Asserts that `run` gives the same, to `tolerance`, for `inputs` and for views of them at odd and even elements and at
/// whole packs.
#[track_caller]
fn same<const N: usize>(
    inputs: &[Tensor; N],
    tolerance: f32,
    run: impl Fn(&[Tensor; N]) -> Result<Vec<Tensor>>,
) {
    let want = on_cpu(|| run(inputs)).unwrap();
    for offset in [1, 2, 8] {
        let views = inputs.each_ref().map(|x| view(x, offset));
        let got = on_cpu(|| run(&views)).unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            close(got, want, tolerance);
        }
    }
}

#[test]
fn elementwise_kernels_take_views() -> Result<()> {
    for dtype in DTYPES {
        // Rows that are read in packs add up in another order than rows that cannot be.
        let rows = |n: usize| random(&[n, 16], dtype).unwrap();
        same(
            &[rows(3), rows(3), rows(3)],
            bound(dtype),
            |[a, b, above]| {
                let (d_gate, d_up) = swiglu_backward(a, b, above)?;
                Ok(vec![
                    swiglu(a, b)?,
                    d_gate,
                    d_up,
                    sum_squares([a, b], &Device::Cpu)?,
                ])
            },
        );
        same(
            &[rows(3), rows(3), rows(3), random(&[16], dtype)?],
            bound(dtype),
            |[x, y, above, weight]| {
                let (sum, normed) = add_rms_norm(x, y, weight, 1e-6)?;
                let (dx, dw) = rms_norm_backward(x, weight, 1e-6, above, Some(y))?;
                Ok(vec![rms_norm(x, weight, 1e-6)?, sum, normed, dx, dw])
            },
        );
        let angles = || random(&[3, 4], DType::F32).unwrap();
        let inputs = [
            rows(3),
            random(&[16], dtype)?,
            random(&[3, 8], dtype)?,
            angles(),
            angles(),
        ];
        same(&inputs, bound(dtype), |[q, bias, k, cos, sin]| {
            let q = Projection {
                x: q,
                bias: Some(bias),
            };
            let (q, k) = bias_rotary(
                q,
                Projection { x: k, bias: None },
                cos,
                sin,
                RotaryDirection::Forward,
            )?;
            Ok(vec![q, k])
        });
    }
    Ok(())
}

#[test]
fn attention_takes_views() -> Result<()> {
    let sequences = SequenceLayout::causal(vec![Sequence {
        rows: 0..5,
        before: 0..0,
        seen_until: 5,
    }]);
    for dtype in DTYPES {
        let packed = BlockTables::new(&sequences, dtype, &Device::Cpu)?;
        let inputs = [
            random(&[5, 32], dtype)?,
            random(&[5, 16], dtype)?,
            random(&[5, 16], dtype)?,
            random(&[5, 32], dtype)?,
        ];
        same(&inputs, 0.0, |[q, k, v, above]| {
            let attended: Attended = packed.forward(q, k, v, HEADS)?;
            let (dq, dk, dv) = packed.backward([q, k, v], HEADS, &attended, above)?;
            Ok(vec![attended.output, dq, dk, dv])
        });
    }
    Ok(())
}

#[test]
fn decoding_takes_views_but_of_a_cache() -> Result<()> {
    let rows = Tensor::new(&[[0u32, 3, 0, 1]], &Device::Cpu)?;
    for dtype in DTYPES {
        let prompts = [0; 2].map(|_| random(&[1, 3, 16], dtype).unwrap());
        let owns = [0; 2].map(|_| random(&[2, 16], dtype).unwrap());
        let cached = |own_k| Cached {
            prompt_k: &prompts[0],
            prompt_v: &prompts[1],
            own_k,
            own_v: &owns[1],
            capacity: 2,
        };
        let inputs = [
            random(&[1, 32], dtype)?,
            random(&[1, 16], dtype)?,
            random(&[32], dtype)?,
            random(&[1, 8], DType::F32)?,
        ];
        same(&inputs, 0.0, |[q, k, bias, angles]| {
            let of_k = bias.narrow(0, 0, 16)?;
            let projected = Projected {
                q,
                k,
                v: k,
                biases: [bias, &of_k, &of_k],
            };
            let turned = append(&projected, angles, angles, &cached(&owns[0]), HEADS, &rows)?;
            Ok(vec![
                attend(q, &cached(&owns[0]), HEADS, &rows)?,
                turned,
                owns[0].clone(),
            ])
        });
        let q = random(&[1, 32], dtype)?;
        let moved = view(&owns[0], 1);
        let refused = on_cpu(|| attend(&q, &cached(&moved), HEADS, &rows)).unwrap_err();
        assert!(refused.to_string().contains("begins inside 16 bytes"));
    }
    Ok(())
}

#[test]
fn the_head_the_sampler_and_the_optimizer_take_views() -> Result<()> {
    let targets = Tensor::new(&[3u32, 0], &Device::Cpu)?;
    for dtype in DTYPES {
        let above = || random(&[2], DType::F32).unwrap();
        let logits = || random(&[2, 40], DType::F32).unwrap();
        let inputs = [
            logits(),
            logits(),
            random(&[2, 40], dtype)?,
            above(),
            above(),
        ];
        same(&inputs, 0.0, |[logits, bias, part, d_logprob, d_kl]| {
            let scores = head::scores(logits, &targets, Some(bias))?;
            let sum = view(&Tensor::zeros((2, 40), DType::F32, &Device::Cpu)?, 1);
            head::add_in_place(&sum, part)?;
            // In f32 in place, on a view of its own.
            let own = view(&logits.copy()?, 3);
            let with_bias = Some((bias, d_kl));
            let gradient = head::backward(&own, dtype, &targets, &scores, d_logprob, with_bias)?;
            Ok(vec![scores.logprob()?, scores.entropy()?, sum, gradient])
        });
        let config = SamplingConfig {
            top_k: 9,
            top_p: 0.9,
            ..SamplingConfig::default()
        };
        let sampler = DeviceSampler::new(&config, &[2], 40, &Device::Cpu)?;
        let keys = Tensor::arange(0u32, 16, &Device::Cpu)?.reshape((2, 8))?;
        same(&[random(&[2, 40], dtype)?], 0.0, |[logits]| {
            let (ids, logprobs) = sampler.draw(logits, &keys, &targets)?;
            Ok(vec![ids, logprobs])
        });
    }
    let rates = adamw::Rates {
        scale: 0.5,
        first: 0.1,
        keep_second: 0.99,
        second: 0.01,
        keep: 0.999,
        size: 0.01,
        correction: 0.3,
        epsilon: 1e-8,
    };
    let state = || random(&[300], DType::F32).unwrap().abs().unwrap();
    same(&[state(), state(), state(), state()], 0.0, |inputs| {
        // Copies at the same element, since the update is in place.
        let offset = inputs[0].layout().start_offset();
        let [w, m, v, gradient] = inputs.each_ref().map(|x| view(&x.copy().unwrap(), offset));
        adamw::full([&w, &m, &v], &gradient, None, &rates)?;
        Ok(vec![w, m, v])
    });
    Ok(())
}
