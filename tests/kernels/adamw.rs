//! AdamW: the kernels and the CPU's update give the same bits.

use crate::emulator::on_cpu;
use crate::random;
use candle_core::{DType, Result, Tensor, Var};
use std::collections::BTreeMap;
use videothinker::config::{OptimizerConfig, OptimizerMemory};
use videothinker::train::optimizer::{AdamW, Gradients};

/// Rows and columns: some blocks of 256 and a part of one.
const SHAPE: [usize; 2] = [13, 60];

fn adamw(start: &Tensor, memory: OptimizerMemory, max_grad_norm: f64) -> Result<(AdamW, Var)> {
    let config = OptimizerConfig {
        weight_decay: 0.1,
        max_grad_norm,
        memory,
        ..OptimizerConfig::default()
    };
    let var = Var::from_tensor(start)?;
    let adamw = AdamW::new([("w".to_owned(), var.clone())], &config)?;
    Ok((adamw, var))
}

/// Every tensor's values as they are, wide.
fn values(adamw: &AdamW, var: &Var) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut state = adamw.state()?;
    state.insert("w".to_owned(), var.as_detached_tensor());
    let wide = |(name, tensor): (String, Tensor)| {
        let tensor = tensor.flatten_all()?.to_dtype(DType::F64)?;
        Ok((name, tensor.to_vec1()?))
    };
    state.into_iter().map(wide).collect()
}

#[test]
fn one_pass_gives_the_bits_of_the_cpu() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        for memory in [OptimizerMemory::Full, OptimizerMemory::Compact] {
            let start = random(&SHAPE, dtype)?;
            let (mut kernel, a) = adamw(&start, memory, 1e9)?;
            let (mut twin, b) = adamw(&start, memory, 1e9)?;
            // Growing gradients, so that every tensor changes: the codes of a v that only decays stay.
            for step in 0..4 {
                let gradient = (random(&SHAPE, dtype)? * 10f64.powi(step))?;
                let gradients = Gradients::from([("w".to_owned(), gradient)]);
                let before = values(&kernel, &a)?;
                on_cpu(|| kernel.step(&gradients, 1e-3))?;
                twin.step(&gradients, 1e-3)?;
                let got = values(&kernel, &a)?;
                assert_eq!(got, values(&twin, &b)?, "{dtype:?} {memory:?}, step {step}");
                assert!(got.iter().all(|(name, values)| before[name] != *values));
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_clipped_to_the_norm_that_the_kernel_sums() -> Result<()> {
    for dtype in [DType::F32, DType::BF16] {
        let start = random(&SHAPE, dtype)?;
        let (mut kernel, a) = adamw(&start, OptimizerMemory::Full, 2.0)?;
        let (mut twin, b) = adamw(&start, OptimizerMemory::Full, 2.0)?;
        let gradients = Gradients::from([("w".to_owned(), random(&SHAPE, dtype)?)]);
        let got = on_cpu(|| kernel.step(&gradients, 1e-3))?;
        let want = twin.step(&gradients, 1e-3)?;
        assert!(want.grad_norm > 20.0);
        assert!((got.grad_norm / want.grad_norm - 1.0).abs() < 1e-6);
        let (got, want) = (values(&kernel, &a)?, values(&twin, &b)?);
        for (got, want) in got["first.w"].iter().zip(&want["first.w"]) {
            assert!((got - want).abs() < 1e-6 * want.abs(), "{got} {want}");
        }
    }
    Ok(())
}
