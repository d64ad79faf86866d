//! The tensor-core functions against the PTX manual's tables.

use crate::emulator::on_cpu;
use crate::{close, random, wide};
use candle_core::{DType, Device, Result, Tensor};
use videothinker::model::ops::cuda::launch::{Grid, Launch, Module};

static MODULE: Module = Module {
    name: "fragments",
    ptx: "",
};

#[test]
fn every_lane_holds_the_elements_that_the_manual_says() -> Result<()> {
    let found = Tensor::zeros((32, 24), DType::F32, &Device::Cpu)?;
    let wanted = found.copy()?;
    on_cpu(|| {
        Launch::new(&MODULE, "fragment_places")
            .tensor(&found)
            .tensor(&wanted)
            .run(Grid::new(1, 32))
    })?;
    let (found, wanted) = (found.to_vec2::<f32>()?, wanted.to_vec2::<f32>()?);
    for lane in 0..32 {
        assert_eq!(found[lane], wanted[lane], "lane {lane}");
    }
    // Lane 6 is member 2 of group 1: a0 to a7, b0 to b3, c0 to c3 as 16 · row + column.
    let lane_6 = [20., 21., 148., 149., 28., 29., 156., 157.];
    assert_eq!(found[6][..8], lane_6);
    assert_eq!(found[6][8..12], [65., 81., 193., 209.]);
    assert_eq!(found[6][12..16], [20., 21., 148., 149.]);
    Ok(())
}

#[test]
fn a_product_of_tiles_is_the_product() -> Result<()> {
    let (a, b) = (
        random(&[16, 16], DType::BF16)?,
        random(&[16, 8], DType::BF16)?,
    );
    let product = Tensor::zeros((16, 8), DType::F32, &Device::Cpu)?;
    on_cpu(|| {
        Launch::new(&MODULE, "fragment_product")
            .tensor(&a)
            .tensor(&b)
            .tensor(&product)
            .run(Grid::new(1, 32))
    })?;
    close(&product, &(wide(&a)?.matmul(&wide(&b)?)? + 1.0)?, 1e-5);
    Ok(())
}
