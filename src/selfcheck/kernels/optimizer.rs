//! AdamW against the CPU's, and the norm of gradients against its definition.

use super::KernelCheck;
use super::WIDTHS;
use crate::config::OptimizerConfig;
use crate::config::OptimizerMemory;
use crate::model::ops::cuda::sum_squares::sum_squares;
use crate::train::optimizer::AdamW;
use crate::train::optimizer::Gradients;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Var;

impl KernelCheck<'_> {
    /// Weights after three updates; on every device to the bit.
    pub(super) fn adamw(&mut self) -> Result<()> {
        for (kernel, memory) in [
            ("adamw", OptimizerMemory::Full),
            ("adamw compact", OptimizerMemory::Compact),
            ("adamw in host memory", OptimizerMemory::Host),
        ] {
            let [start, gradient] = self.several(&[self.sizes.rows, WIDTHS[1]])?;
            let config = OptimizerConfig {
                memory,
                // Norms are sums, whose order differs; here none clips.
                max_grad_norm: 1e9,
                ..OptimizerConfig::default()
            };
            let updated = |device: &Device| -> Result<Vec<f64>> {
                let var = Var::from_tensor(&start.on_device.to_device(device)?)?;
                let mut adamw = AdamW::new([("w".to_owned(), var.clone())], &config)?;
                let gradient = gradient.on_device.to_device(device)?;
                for _ in 0..3 {
                    let gradients = Gradients::from([("w".to_owned(), gradient.clone())]);
                    adamw.step(&gradients, 1e-3)?;
                }
                let weight = var.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
                weight.flatten_all()?.to_vec1()
            };
            let (got, want) = (updated(self.device)?, updated(&Device::Cpu)?);
            self.compare_values(kernel, &got, &want, &vec![0.0; want.len()]);
        }
        Ok(())
    }

    pub(super) fn sum_squares(&mut self) -> Result<()> {
        let [x, y] = self.several(&[self.sizes.rows, WIDTHS[1]])?;
        let got = sum_squares([&x.on_device, &y.on_device], self.device)?;
        let got = got.to_vec1::<f64>()?[0];
        let mut want = 0.0;
        for x in [x.exact, y.exact] {
            want += x.sqr()?.sum_all()?.to_scalar::<f64>()?;
        }
        // Eight squares at most add up in f32.
        let bound = want * 9.0 / f64::from(1 << 24);
        self.compare_values("sum_squares", &[got], &[want], &[bound]);
        Ok(())
    }
}
