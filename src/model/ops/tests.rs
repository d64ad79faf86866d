//! The operations on a CPU against their composed forms and candle's autograd.

use super::Ops;
use super::composed;
use super::heads::Heads;
use super::linear::{sum_rows, weight_gradient};
use crate::model::packed::{GroupLayout, PackedLayout};
use candle_core::{DType, Device, Result, Tensor};

const OPS: Ops = Ops::Cpu;

const HEADS: Heads = Heads {
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 6,
};

fn random(shape: (usize, usize)) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

fn close(got: &Tensor, want: &Tensor) -> Result<()> {
    let error = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(error < 2e-5, "off by {error:e}");
    Ok(())
}

#[test]
fn rms_norm_has_the_gradients_of_its_definition() -> Result<()> {
    let (x, above) = (random((150, 128))?, random((150, 128))?);
    let weight = random((1, 128))?.squeeze(0)?;
    let want = composed::gradients(&[x.clone(), weight.clone()], &above, |v| {
        composed::rms_norm(&v[0], &v[1], 1e-2)
    })?;
    close(
        &OPS.rms_norm(&x, &weight, 1e-2)?,
        &composed::rms_norm(&x, &weight, 1e-2)?,
    )?;
    let (dx, dw) = OPS.rms_norm_backward(&x, &weight, 1e-2, &above, None)?;
    close(&dx, &want[0])?;
    close(&(dw / 100.0)?, &(&want[1] / 100.0)?)?;
    let (dx, _) = OPS.rms_norm_backward(&x, &weight, 1e-2, &above, Some(&x))?;
    close(&dx, &(&want[0] + &x)?)
}

#[test]
fn swiglu_has_the_gradients_of_its_definition() -> Result<()> {
    let inputs = [random((150, 128))?, random((150, 128))?];
    let above = random((150, 128))?;
    let want = composed::gradients(&inputs, &above, |v| v[0].silu()? * v[1].as_tensor())?;
    let (d_gate, d_up) = OPS.swiglu_backward(&inputs[0], &inputs[1], &above)?;
    close(&d_gate, &want[0])?;
    close(&d_up, &want[1])?;
    let value = OPS.swiglu(&inputs[0], &inputs[1])?;
    close(&value, &(inputs[0].silu()? * &inputs[1])?)
}

#[test]
fn rotary_turns_half_against_half_and_back() -> Result<()> {
    let x = random((3, 16))?;
    let angles = random((3, 4))?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let turned = OPS.rotary(&x, &cos, &sin)?;
    for (row, head, i) in [(0, 0, 0), (2, 1, 3), (1, 0, 2)] {
        let at =
            |x: &Tensor, column: usize| -> Result<f32> { x.get(row)?.get(column)?.to_scalar() };
        let (a, b) = (at(&x, head * 8 + i)?, at(&x, head * 8 + 4 + i)?);
        let (c, s) = (at(&cos, i)?, at(&sin, i)?);
        assert!((at(&turned, head * 8 + i)? - (a * c - b * s)).abs() < 1e-6);
        assert!((at(&turned, head * 8 + 4 + i)? - (b * c + a * s)).abs() < 1e-6);
    }
    close(&OPS.rotary_backward(&turned, &cos, &sin)?, &x)?;
    let above = random((3, 16))?;
    let want = composed::gradients(&[x], &above, |v| composed::rotary(&v[0], &cos, &sin))?;
    close(&OPS.rotary_backward(&above, &cos, &sin)?, &want[0])
}

#[test]
fn linear_has_the_gradients_of_a_product() -> Result<()> {
    let bias = random((1, 4))?.squeeze(0)?;
    let inputs = [random((7, 5))?, random((4, 5))?, bias];
    let above = random((7, 4))?;
    let want = composed::gradients(&inputs, &above, |v| {
        v[0].matmul(&v[1].t()?)?.broadcast_add(&v[2])
    })?;
    let [x, weight, bias] = &inputs;
    let value = x.matmul(&weight.t()?)?;
    close(&OPS.linear(x, weight, None)?, &value)?;
    close(
        &OPS.linear(x, weight, Some(bias))?,
        &value.broadcast_add(bias)?,
    )?;
    close(&OPS.linear(&above, &weight.t()?, None)?, &want[0])?;
    close(&weight_gradient(&above, x)?, &want[1])?;
    close(&sum_rows(&above)?, &want[2])
}

fn group(prompt_len: usize, completion_lens: &[usize]) -> GroupLayout {
    GroupLayout {
        prompt_len,
        completion_lens: completion_lens.to_vec(),
    }
}

/// Which rows of `groups` see which: the plain definition.
fn sees(groups: &[GroupLayout]) -> impl Fn(usize, usize) -> bool {
    // Group and completion of each row; completion 0 is the prompt.
    let mut rows = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let lens = std::iter::once(&group.prompt_len).chain(&group.completion_lens);
        for (completion, &len) in lens.enumerate() {
            rows.extend(std::iter::repeat_n((index, completion), len));
        }
    }
    move |row, key| {
        let (of_row, of_key) = (rows[row], rows[key]);
        key <= row && of_row.0 == of_key.0 && (of_key.1 == 0 || of_key.1 == of_row.1)
    }
}

#[test]
fn attention_has_the_value_and_the_gradients_of_its_definition() -> Result<()> {
    // Ragged and even completions, none at all, of one row, of no row, and sequences of several blocks.
    for groups in [
        vec![group(7, &[1, 5, 3]), group(4, &[2, 2]), group(3, &[])],
        vec![group(5, &[4])],
        vec![group(1, &[0, 1, 2]), group(140, &[3, 131])],
    ] {
        let layout = PackedLayout::new(groups.clone());
        let rows = layout.num_rows();
        let inputs = [
            random((rows, 24))?,
            random((rows, 12))?,
            random((rows, 12))?,
        ];
        let above = random((rows, 24))?;
        let (qkv, plan) = (inputs.each_ref(), layout.plan());
        let (value, saved) = OPS.attention(qkv, HEADS, plan)?;
        assert!(saved.is_none());
        close(&value, &composed::attention(qkv, HEADS, sees(&groups))?)?;
        let want = composed::gradients(&inputs, &above, |v| {
            let [q, k, v] = [0, 1, 2].map(|input| v[input].as_tensor());
            composed::attention([q, k, v], HEADS, sees(&groups))
        })?;
        let (dq, dk, dv) = OPS.attention_backward(qkv, HEADS, plan, None, &above)?;
        for (got, want) in [dq, dk, dv].iter().zip(&want) {
            close(got, want)?;
        }
    }
    Ok(())
}

#[test]
fn the_derivative_agrees_with_finite_differences() -> Result<()> {
    let layout = PackedLayout::new(vec![group(4, &[1, 3])]);
    let rows = layout.num_rows();
    let inputs = [
        random((rows, 24))?,
        random((rows, 12))?,
        random((rows, 12))?,
    ];
    let above = random((rows, 24))?;
    let plan = layout.plan();
    let (dq, dk, dv) = OPS.attention_backward(inputs.each_ref(), HEADS, plan, None, &above)?;
    for (index, gradient) in [dq, dk, dv].iter().enumerate() {
        let direction = inputs[index].randn_like(0.0, 1.0)?;
        let at = |step: f64| -> Result<f32> {
            let mut moved = inputs.clone();
            moved[index] = (&moved[index] + (&direction * step)?)?;
            let (value, _) = OPS.attention(moved.each_ref(), HEADS, plan)?;
            (value * &above)?.sum_all()?.to_scalar()
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

#[test]
fn in_bf16_an_operation_is_computed_in_f32_and_rounded_once() -> Result<()> {
    let layout = PackedLayout::new(vec![group(5, &[4, 2])]);
    let (rows, plan) = (layout.num_rows(), layout.plan());
    let narrow = |width: usize| random((rows, width))?.to_dtype(DType::BF16);
    let wide = |x: &Tensor| x.to_dtype(DType::F32);
    let bits = |x: &Tensor| -> Result<Vec<f32>> { wide(x)?.flatten_all()?.to_vec1() };
    let same = |got: &Tensor, want: &Tensor| -> Result<()> {
        assert_eq!(got.dtype(), DType::BF16);
        assert_eq!(bits(got)?, bits(&want.to_dtype(DType::BF16)?)?);
        Ok(())
    };
    let (q, k, v, above) = (narrow(24)?, narrow(12)?, narrow(12)?, narrow(24)?);
    let (wide_q, wide_k, wide_v) = (wide(&q)?, wide(&k)?, wide(&v)?);
    let (value, _) = OPS.attention([&q, &k, &v], HEADS, plan)?;
    let (want, _) = OPS.attention([&wide_q, &wide_k, &wide_v], HEADS, plan)?;
    same(&value, &want)?;
    let got = OPS.attention_backward([&q, &k, &v], HEADS, plan, None, &above)?;
    let wide_qkv = [&wide_q, &wide_k, &wide_v];
    let want = OPS.attention_backward(wide_qkv, HEADS, plan, None, &wide(&above)?)?;
    same(&got.0, &want.0)?;
    same(&got.1, &want.1)?;
    same(&got.2, &want.2)?;
    same(&OPS.swiglu(&k, &v)?, &OPS.swiglu(&wide_k, &wide_v)?)?;
    let weight = q.get(0)?;
    let (got, want) = (
        OPS.rms_norm(&q, &weight, 1e-6)?,
        OPS.rms_norm(&wide_q, &wide(&weight)?, 1e-6)?,
    );
    same(&got, &want)?;
    let (got, want) = (
        OPS.linear(&k, &v, None)?,
        OPS.linear(&wide_k, &wide_v, None)?,
    );
    same(&got, &want)?;
    let got = OPS.rms_norm_backward(&q, &weight, 1e-6, &above, None)?;
    let want = OPS.rms_norm_backward(&wide_q, &wide(&weight)?, 1e-6, &wide(&above)?, None)?;
    same(&got.0, &want.0)?;
    same(&got.1, &want.1)
}
