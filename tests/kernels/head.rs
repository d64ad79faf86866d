//! Log-probabilities, entropies, divergences and their gradient.

use crate::emulator::on_cpu;
use crate::{DTYPES, close, random, wide};
use candle_core::{DType, Device, Result, Tensor};
use videothinker::model::head::{CHUNK_BYTES, Head, ReferenceRows, TokenScores};
use videothinker::model::ops::Ops;

const ROWS: usize = 5;
const VOCABULARY: usize = 1201;

struct Case {
    hidden: Tensor,
    weight: Tensor,
    bias_hidden: Tensor,
    bias_weight: Tensor,
}

impl Case {
    fn new(dtype: DType) -> Result<Self> {
        Ok(Self {
            hidden: random(&[ROWS, 6], dtype)?,
            weight: random(&[VOCABULARY, 6], dtype)?,
            bias_hidden: random(&[ROWS, 4], dtype)?,
            bias_weight: random(&[VOCABULARY, 4], dtype)?,
        })
    }

    fn wide(&self) -> Result<Self> {
        Ok(Self {
            hidden: wide(&self.hidden)?,
            weight: wide(&self.weight)?,
            bias_hidden: wide(&self.bias_hidden)?,
            bias_weight: wide(&self.bias_weight)?,
        })
    }

    /// Scores and the gradients of the hidden rows and of the weight.
    fn run(&self, with_bias: bool, chunk_bytes: usize) -> Result<(TokenScores, Tensor, Tensor)> {
        let bias = with_bias.then_some(ReferenceRows {
            hidden: &self.bias_hidden,
            weight: &self.bias_weight,
        });
        let targets = [0, 1200, 7, 600, 7];
        let ops = Ops::of(&self.hidden)?;
        let mut head = Head::new(ops, &self.hidden, &self.weight, &targets, bias, chunk_bytes)?;
        let scores = head.scores()?;
        let d_full_kl: &[f32] = if with_bias {
            &[1.0, 0.1, -0.6, 0.0, 0.9]
        } else {
            &[]
        };
        let (d_hidden, d_weight) = head.backward(&[0.3, -1.0, 0.2, 0.7, 0.0], d_full_kl)?;
        Ok((scores, d_hidden, d_weight))
    }
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn the_head_is_its_twin_in_one_chunk_and_in_many() -> Result<()> {
    for dtype in DTYPES {
        // Logits are f32 in either format, gradients are rounded on the way.
        let bound = 2e-5;
        let gradients = if dtype == DType::F32 { bound } else { 6e-3 };
        let case = Case::new(dtype)?;
        for with_bias in [false, true] {
            let want = case.wide()?.run(with_bias, CHUNK_BYTES)?;
            for chunk_bytes in [CHUNK_BYTES, 2 * VOCABULARY, 1] {
                let got = on_cpu(|| case.run(with_bias, chunk_bytes))?;
                close(&tensor(&got.0.logprob), &tensor(&want.0.logprob), bound);
                close(&tensor(&got.0.entropy), &tensor(&want.0.entropy), bound);
                close(&tensor(&got.0.full_kl), &tensor(&want.0.full_kl), bound);
                close(&got.1, &want.1, gradients);
                close(&got.2, &want.2, gradients);
            }
        }
    }
    Ok(())
}

#[test]
fn an_unlikely_target_keeps_its_log_probability() -> Result<()> {
    let hidden = Tensor::new(&[[1.0f32]], &Device::Cpu)?;
    let weight = Tensor::new(&[[0.0f32], [300.0], [0.0]], &Device::Cpu)?;
    let scores = on_cpu(|| {
        let ops = Ops::of(&hidden)?;
        Head::new(ops, &hidden, &weight, &[2], None, CHUNK_BYTES)?.scores()
    })?;
    close(&tensor(&scores.logprob), &tensor(&[-300.0]), 1e-6);
    close(&tensor(&scores.entropy), &tensor(&[0.0]), 1e-6);
    Ok(())
}
