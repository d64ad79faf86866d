//! SwiGLU, norms, rotations, sums of squares.

use crate::emulator::on_cpu;
use crate::{DTYPES, bound, close, random, wide};
use candle_core::{DType, Device, Result, Tensor};
use videothinker::model::ops::Ops;
use videothinker::model::ops::cuda::norm;
use videothinker::model::ops::cuda::rotary::{Projection, RotaryDirection, bias_rotary, rotary};
use videothinker::model::ops::cuda::sum_squares::sum_squares;
use videothinker::model::ops::cuda::swiglu;

const EPS: f64 = 1e-6;

/// Shapes whose rows are whole packs of 16 bytes, and whose rows are not.
const SHAPES: [[usize; 2]; 3] = [[37, 48], [5, 13], [1, 1000]];

#[test]
fn swiglu_is_its_twin() -> Result<()> {
    for (dtype, shape) in DTYPES.iter().flat_map(|d| SHAPES.map(|s| (*d, s))) {
        let [gate, up, above] = [0; 3].map(|_| random(&shape, dtype).unwrap());
        let [wide_gate, wide_up, wide_above] = [wide(&gate)?, wide(&up)?, wide(&above)?];
        let got = on_cpu(|| swiglu::swiglu(&gate, &up))?;
        close(&got, &Ops::Cpu.swiglu(&wide_gate, &wide_up)?, bound(dtype));
        let (d_gate, d_up) = on_cpu(|| swiglu::swiglu_backward(&gate, &up, &above))?;
        let want = Ops::Cpu.swiglu_backward(&wide_gate, &wide_up, &wide_above)?;
        close(&d_gate, &want.0, bound(dtype));
        close(&d_up, &want.1, bound(dtype));
    }
    Ok(())
}

#[test]
fn rms_norm_is_its_twin() -> Result<()> {
    for (dtype, shape) in DTYPES.iter().flat_map(|d| SHAPES.map(|s| (*d, s))) {
        let [x, addend, above, residual] = [0; 4].map(|_| random(&shape, dtype).unwrap());
        let weight = random(&shape[1..], dtype)?;
        let wide_weight = wide(&weight)?;
        let got = on_cpu(|| norm::rms_norm(&x, &weight, EPS))?;
        close(
            &got,
            &Ops::Cpu.rms_norm(&wide(&x)?, &wide_weight, EPS)?,
            bound(dtype),
        );

        let (sum, normed) = on_cpu(|| norm::add_rms_norm(&x, &addend, &weight, EPS))?;
        let want = (&x + &addend)?;
        close(&sum, &want, 0.0);
        close(
            &normed,
            &Ops::Cpu.rms_norm(&wide(&want)?, &wide_weight, EPS)?,
            bound(dtype),
        );

        let twin =
            Ops::Cpu.rms_norm_backward(&wide(&x)?, &wide_weight, EPS, &wide(&above)?, None)?;
        let (dx, dw) = on_cpu(|| norm::rms_norm_backward(&x, &weight, EPS, &above, None))?;
        close(&dx, &twin.0, bound(dtype));
        close(&dw, &twin.1, bound(dtype));
        let backward = || norm::rms_norm_backward(&x, &weight, EPS, &above, Some(&residual));
        let (dx, dw) = on_cpu(backward)?;
        close(&dx, &(twin.0 + wide(&residual)?)?, bound(dtype));
        close(&dw, &twin.1, bound(dtype));
    }
    Ok(())
}

#[test]
fn more_rows_than_blocks_all_count_in_the_norms_weight() -> Result<()> {
    let (x, above) = (
        random(&[700, 8], DType::F32)?,
        random(&[700, 8], DType::F32)?,
    );
    let weight = random(&[8], DType::F32)?;
    let (dx, dw) = on_cpu(|| norm::rms_norm_backward(&x, &weight, EPS, &above, None))?;
    let want = Ops::Cpu.rms_norm_backward(&x, &weight, EPS, &above, None)?;
    close(&dx, &want.0, 1e-5);
    close(&dw, &want.1, 1e-5);
    Ok(())
}

#[test]
fn bias_and_rotary_are_their_twins() -> Result<()> {
    let (rows, half) = (7, 8);
    let angles = random(&[rows, half], DType::F32)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    for dtype in DTYPES {
        let [q, k] = [6, 2].map(|heads| random(&[rows, heads * 2 * half], dtype).unwrap());
        let [q_bias, k_bias] = [&q, &k].map(|x| random(&x.dims()[1..], dtype).unwrap());
        let with_bias = |x, bias| Projection {
            x,
            bias: Some(bias),
        };
        let (got_q, got_k) = on_cpu(|| {
            let (q, k) = (with_bias(&q, &q_bias), with_bias(&k, &k_bias));
            bias_rotary(q, k, &cos, &sin, RotaryDirection::Forward)
        })?;
        for (x, bias, got) in [(&q, &q_bias, got_q), (&k, &k_bias, got_k)] {
            let want = wide(x)?.broadcast_add(&wide(bias)?)?;
            close(&got, &Ops::Cpu.rotary(&want, &cos, &sin)?, bound(dtype));
        }
        let back = on_cpu(|| rotary(&k, &cos, &sin, RotaryDirection::Backward))?;
        close(
            &back,
            &Ops::Cpu.rotary_backward(&wide(&k)?, &cos, &sin)?,
            bound(dtype),
        );
    }
    Ok(())
}

#[test]
fn squares_add_up_over_tensors() -> Result<()> {
    let tensors: Vec<Tensor> = [&[3, 5][..], &[40_000], &[64, 8]]
        .iter()
        .flat_map(|shape| DTYPES.map(|dtype| random(shape, dtype).unwrap()))
        .collect();
    let got = on_cpu(|| sum_squares(&tensors, &Device::Cpu))?.to_vec1::<f64>()?[0];
    let mut want = 0.0;
    for tensor in &tensors {
        let values: Vec<f32> = wide(tensor)?.flatten_all()?.to_vec1()?;
        want += values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    }
    assert!((got / want - 1.0).abs() < 1e-7, "{got} {want}");
    Ok(())
}
