//! The head on a CPU: a chunk is its logits in f32 and a few numbers per row, and its gradient takes the logits' place.

use crate::model::ops::cpu::linear::linear;
use crate::model::ops::cpu::matrix::{Matrix, Target, wide_product, with_slices};
use crate::model::ops::cpu::simd::{exp, max, sums, vectorized};
use crate::model::ops::linear::weight_gradient;
use crate::model::ops::target_rows::{TargetRows, TokenScores};
use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a weight in bf16 that are in f32 at a time: all of them would be as much as a small model.
pub(in crate::model) const PART: usize = 4096;

/// `hidden [R, H] · weightᵀ` → `[R, V]` in f32.
pub(in crate::model::ops) fn logits(hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if hidden.dtype() == DType::F32 {
        return linear(hidden, weight, None);
    }
    let (hidden, vocabulary) = (hidden.to_dtype(DType::F32)?, weight.dim(0)?);
    let parts = (0..vocabulary).step_by(PART).map(|start| {
        let part = weight.narrow(0, start, PART.min(vocabulary - start))?;
        linear(&hidden, &part.to_dtype(DType::F32)?, None)
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 1)?.contiguous()
}

/// Logits `[c, V]` of some rows in f32, those of the bias model, and what each row comes to.
#[derive(Debug)]
pub(in crate::model::ops) struct Chunk {
    logits: Tensor,
    bias: Option<Tensor>,
    rows: Vec<RowScores>,
}

/// A row's distribution p, and the bias model's b.
#[derive(Debug, Clone, Copy, Default)]
struct RowScores {
    /// Largest logit, and the logarithm of Σ exp(logit − largest).
    largest: f32,
    log_sum: f32,
    /// The same of the bias model.
    bias_largest: f32,
    bias_log_sum: f32,
    logprob: f32,
    entropy: f32,
    full_kl: f32,
}

impl RowScores {
    fn of(logits: &[f32], bias: Option<&[f32]>, target: usize) -> Self {
        let len = logits.len();
        let largest = max(logits);
        let (bias_largest, bias_log_sum) = bias.map_or((0.0, 0.0), |bias| {
            let largest = max(bias);
            let [sum] = sums(len, |i| [exp(bias[i] - largest)]);
            (largest, sum.ln())
        });
        let [sum, weighted, apart] = match bias {
            None => {
                let [sum, weighted] = sums(len, |i| {
                    let below = logits[i] - largest;
                    let weight = exp(below);
                    [weight, weight * below]
                });
                [sum, weighted, 0.0]
            }
            Some(bias) => sums(len, |i| {
                let below = logits[i] - largest;
                let weight = exp(below);
                let apart = below - (bias[i] - bias_largest);
                [weight, weight * below, weight * apart]
            }),
        };
        let log_sum = sum.ln();
        Self {
            largest,
            log_sum,
            bias_largest,
            bias_log_sum,
            logprob: logits[target] - largest - log_sum,
            entropy: log_sum - weighted / sum,
            full_kl: apart / sum + (bias_log_sum - log_sum),
        }
    }

    /// Puts the loss's derivatives in the logits' place.
    fn to_gradient(
        self,
        logits: &mut [f32],
        bias: Option<&[f32]>,
        target: usize,
        d_logprob: f32,
        d_full_kl: f32,
    ) {
        match bias {
            None => {
                for logit in logits.iter_mut() {
                    *logit = -d_logprob * exp(*logit - self.largest - self.log_sum);
                }
            }
            Some(bias) => {
                for (logit, bias) in logits.iter_mut().zip(bias) {
                    let log_p = *logit - self.largest - self.log_sum;
                    let log_b = bias - self.bias_largest - self.bias_log_sum;
                    let slope = (log_p - log_b - self.full_kl) * d_full_kl - d_logprob;
                    *logit = slope * exp(log_p);
                }
            }
        }
        logits[target] += d_logprob;
    }
}

/// What the targets get; `kept` is the only chunk, where one is all there is.
pub(in crate::model::ops) fn score(
    rows: &TargetRows,
    kept: &mut Option<Chunk>,
) -> Result<TokenScores> {
    let mut scores = TokenScores::default();
    let count = rows.hidden.dim(0)?;
    for (start, len) in rows.chunks()? {
        let chunk = Chunk::new(rows, start..start + len)?;
        scores
            .logprob
            .extend(chunk.rows.iter().map(|row| row.logprob));
        scores
            .entropy
            .extend(chunk.rows.iter().map(|row| row.entropy));
        if chunk.bias.is_some() {
            scores
                .full_kl
                .extend(chunk.rows.iter().map(|row| row.full_kl));
        }
        *kept = (len == count).then_some(chunk);
    }
    Ok(scores)
}

/// Gradients of the hidden rows and of the weight.
pub(in crate::model::ops) fn backward(
    rows: &TargetRows,
    mut kept: Option<Chunk>,
    d_logprob: &[f32],
    d_full_kl: &[f32],
) -> Result<(Tensor, Tensor)> {
    let dtype = rows.weight.dtype();
    let mut d_hidden = Vec::new();
    let mut d_weight = None;
    for (start, len) in rows.chunks()? {
        let range = start..start + len;
        let chunk = match kept.take() {
            Some(chunk) => chunk,
            None => Chunk::new(rows, range.clone())?,
        };
        let d_logits = chunk.into_gradient(
            &rows.target_ids[range.clone()],
            &d_logprob[range.clone()],
            d_full_kl.get(range).unwrap_or_default(),
        )?;
        let d_logits = d_logits.to_dtype(dtype)?;
        d_hidden.push(if len == 1 {
            // A product of one row sums up the whole vocabulary one by one, which costs two digits.
            let twice = Tensor::cat(&[&d_logits, &d_logits], 0)?;
            twice.matmul(rows.weight)?.narrow(0, 0, 1)?
        } else {
            d_logits.matmul(rows.weight)?
        });
        let hidden = rows.hidden.narrow(0, start, len)?;
        d_weight = Some(match d_weight {
            Some(sum) if dtype == DType::F32 => {
                add_weight_gradient(&sum, &d_logits, &hidden.contiguous()?)?;
                sum
            }
            sum => add_part(sum, weight_gradient(&d_logits, &hidden)?)?,
        });
    }
    rows.gradients(&d_hidden, d_weight)
}

impl Chunk {
    fn new(rows: &TargetRows, range: Range<usize>) -> Result<Self> {
        let of_range = |hidden: &Tensor, weight: &Tensor| {
            logits(&hidden.narrow(0, range.start, range.len())?, weight)
        };
        let bias = match &rows.bias {
            None => None,
            Some(bias) => Some(of_range(bias.hidden, bias.weight)?),
        };
        let logits = of_range(rows.hidden, rows.weight)?;
        let vocabulary = logits.dim(1)?;
        let targets = &rows.target_ids[range];
        let rows = with_slices(&[&logits, bias.as_ref().unwrap_or(&logits)], |slices| {
            let of_bias = slices[1].par_chunks_exact(vocabulary);
            let rows = slices[0].par_chunks_exact(vocabulary).zip(of_bias);
            rows.zip(targets)
                .map(|((logits, of_bias), &target)| {
                    let of_bias = bias.is_some().then_some(of_bias);
                    vectorized(|| RowScores::of(logits, of_bias, target as usize))
                })
                .collect()
        })?;
        Ok(Self { logits, bias, rows })
    }

    /// The loss's derivatives with respect to the logits `[c, V]`; `d_full_kl` is empty where the divergence is not used.
    fn into_gradient(
        self,
        targets: &[u32],
        d_logprob: &[f32],
        d_full_kl: &[f32],
    ) -> Result<Tensor> {
        let bias = self.bias.as_ref().filter(|_| !d_full_kl.is_empty());
        let vocabulary = self.logits.dim(1)?;
        let of_bias: Vec<&Tensor> = bias.into_iter().collect();
        with_slices(&of_bias, |of_bias| {
            let of_bias = of_bias.first().copied();
            let row = |index: usize| index * vocabulary..(index + 1) * vocabulary;
            let each = |(index, logits): (usize, &mut [f32])| {
                let of_bias = of_bias.map(|values| &values[row(index)]);
                let d_full_kl = d_full_kl.get(index).copied().unwrap_or(0.0);
                let (target, d_logprob) = (targets[index] as usize, d_logprob[index]);
                vectorized(|| {
                    self.rows[index].to_gradient(logits, of_bias, target, d_logprob, d_full_kl);
                });
            };
            self.logits.inplace_op1(&InPlace(|logits: &mut [f32]| {
                let rows = logits.par_chunks_exact_mut(vocabulary);
                rows.enumerate().for_each(each);
            }))
        })??;
        Ok(self.logits)
    }
}

/// Lets a function change a tensor's values.
struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => {
                (self.0)(&mut values[start..end]);
                Ok(())
            }
            _ => bail!("expected contiguous f32 values"),
        }
    }
}

/// The sum of the chunks' parts of a gradient: one part as it is, several in f32.
fn add_part(sum: Option<Tensor>, part: Tensor) -> Result<Tensor> {
    match sum {
        None => Ok(part),
        Some(sum) => sum.to_dtype(DType::F32)? + part.to_dtype(DType::F32)?,
    }
}

/// `sum [V, H] += d_logitsᵀ · hidden`, in place.
fn add_weight_gradient(sum: &Tensor, d_logits: &Tensor, hidden: &Tensor) -> Result<()> {
    sum.inplace_op3(d_logits, hidden, &AddWeightGradient)
}

struct AddWeightGradient;

impl InplaceOp3 for AddWeightGradient {
    fn name(&self) -> &'static str {
        "add-weight-gradient"
    }

    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        d_logits: &CpuStorage,
        d_layout: &Layout,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
    ) -> Result<()> {
        let (vocabulary, width) = sum_layout.shape().dims2()?;
        let (rows, _) = d_layout.shape().dims2()?;
        let (
            (CpuStorage::F32(sum), Some((start, end))),
            (CpuStorage::F32(d_logits), Some((d_start, _))),
            (CpuStorage::F32(hidden), Some((hidden_start, _))),
        ) = (
            (sum, sum_layout.contiguous_offsets()),
            (d_logits, d_layout.contiguous_offsets()),
            (hidden, hidden_layout.contiguous_offsets()),
        )
        else {
            bail!("expected contiguous f32 values");
        };
        wide_product(
            [vocabulary, width, rows],
            Matrix::new(d_logits, d_start, vocabulary).transposed(),
            Matrix::new(hidden, hidden_start, width),
            &mut Target::new(&mut sum[start..end], 0, width),
            true,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers spread over −10 to 10.
    fn spread(factor: u32) -> Vec<f32> {
        let value = |i: u32| f64::from(i.wrapping_mul(factor)) / f64::from(u32::MAX) * 20.0 - 10.0;
        (0..151_936).map(|i| value(i) as f32).collect()
    }

    fn log_softmax(logits: &[f32]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let log = |&logit: &f32| f64::from(logit) - sum.ln();
        logits.iter().map(log).collect()
    }

    #[test]
    fn a_large_vocabulary_costs_no_digits() {
        let (logits, bias, target) = (spread(2_654_435_761), spread(1_597_334_677), 5);
        let (p, b) = (log_softmax(&logits), log_softmax(&bias));
        let each = || p.iter().zip(&b);
        let full_kl: f64 = each().map(|(p, b)| p.exp() * (p - b)).sum();
        let entropy: f64 = p.iter().map(|p| -p.exp() * p).sum();
        let row = vectorized(|| RowScores::of(&logits, Some(&bias), target));
        for (got, want) in [
            (row.logprob, p[target]),
            (row.entropy, entropy),
            (row.full_kl, full_kl),
        ] {
            assert!((f64::from(got) - want).abs() < 5e-6, "{got} {want}");
        }
        let mut gradient = logits.clone();
        row.to_gradient(&mut gradient, Some(&bias), target, 0.3, 0.7);
        for (index, (p, b)) in each().enumerate() {
            let at_target = if index == target { 0.3 } else { 0.0 };
            let want = p.exp() * ((p - b - full_kl) * 0.7 - 0.3) + at_target;
            assert!((f64::from(gradient[index]) - want).abs() < 1e-7, "{index}");
        }
    }
}
