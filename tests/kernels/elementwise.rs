//! SwiGLU.

use crate::emulator::on_cpu;
use crate::{bound, close, random};
use candle_core::{DType, Result, Tensor};
use videothinker::kernels::swiglu as kernels;
use videothinker::model::layers;

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

#[test]
fn swiglu_is_its_twin() -> Result<()> {
    for dtype in DTYPES {
        let [gate, up, above] = [0; 3].map(|_| random(&[37, 48], dtype).unwrap());
        let [wide_gate, wide_up, wide_above] = [wide(&gate)?, wide(&up)?, wide(&above)?];
        let got = on_cpu(|| kernels::swiglu(&gate, &up))?;
        close(&got, &layers::swiglu(&wide_gate, &wide_up)?, bound(dtype));
        let (d_gate, d_up) = on_cpu(|| kernels::swiglu_backward(&gate, &up, &above))?;
        let want = layers::swiglu_backward(&wide_gate, &wide_up, &wide_above)?;
        close(&d_gate, &want.0, bound(dtype));
        close(&d_up, &want.1, bound(dtype));
    }
    Ok(())
}
