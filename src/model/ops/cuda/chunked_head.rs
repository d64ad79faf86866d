//! The head over chunks of rows: a chunk is its logits in f32 and a few numbers per row.

use crate::model::ops::cpu::head as on_cpu;
use crate::model::ops::cuda::head;
use crate::model::ops::cuda::product;
use crate::model::ops::linear::weight_gradient;
use crate::model::ops::target_rows::{TargetRows, TokenScores};
use candle_core::{DType, Result, Tensor};

/// Logits of some rows `[c, V]` in f32, those of the bias model, and the targets' scores.
#[derive(Debug)]
pub(in crate::model::ops) struct Chunk {
    logits: Tensor,
    bias: Option<Tensor>,
    scores: head::DeviceScores,
}

/// `hidden [R, H] · weightᵀ` → `[R, V]` in f32.
pub(in crate::model::ops) fn logits(hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match hidden.dtype() {
        DType::F32 => hidden.matmul(&weight.t()?),
        // There is no cuBLAS to emulate.
        _ if hidden.device().is_cpu() => on_cpu::logits(hidden, weight),
        _ => product::in_f32(hidden, weight),
    }
}

/// What the targets get, with one copy to the host for all chunks; `kept` is the only chunk, where one is all there is.
pub(in crate::model::ops) fn score(
    rows: &TargetRows,
    kept: &mut Option<Chunk>,
) -> Result<TokenScores> {
    let count = rows.hidden.dim(0)?;
    let (mut logprob, mut entropy, mut full_kl) = (Vec::new(), Vec::new(), Vec::new());
    for (start, len) in rows.chunks()? {
        let chunk = Chunk::new(rows, start, len)?;
        logprob.push(chunk.scores.logprob()?);
        entropy.push(chunk.scores.entropy()?);
        full_kl.extend(chunk.scores.full_kl()?);
        *kept = (len == count).then_some(chunk);
    }
    if logprob.is_empty() {
        return Ok(TokenScores::default());
    }
    let all: Vec<Tensor> = [logprob, entropy, full_kl].concat();
    let mut values = Tensor::cat(&all, 0)?.to_vec1::<f32>()?.into_iter();
    Ok(TokenScores {
        logprob: values.by_ref().take(count).collect(),
        entropy: values.by_ref().take(count).collect(),
        full_kl: values.collect(),
    })
}

/// Gradients of the hidden rows and of the weight.
pub(in crate::model::ops) fn backward(
    rows: &TargetRows,
    mut kept: Option<Chunk>,
    d_logprob: &[f32],
    d_full_kl: &[f32],
) -> Result<(Tensor, Tensor)> {
    let (device, count) = (rows.hidden.device(), rows.hidden.dim(0)?);
    let d_logprob = Tensor::new(d_logprob, device)?;
    let d_full_kl = (!d_full_kl.is_empty())
        .then(|| Tensor::new(d_full_kl, device))
        .transpose()?;
    let mut d_hidden = Vec::new();
    let mut d_weight: Option<Tensor> = None;
    for (start, len) in rows.chunks()? {
        let chunk = match kept.take() {
            Some(chunk) => chunk,
            None => Chunk::new(rows, start, len)?,
        };
        let d_full_kl = d_full_kl
            .as_ref()
            .map(|d_full_kl| d_full_kl.narrow(0, start, len))
            .transpose()?;
        let Chunk {
            logits,
            bias,
            scores,
        } = chunk;
        let d_logits = head::backward(
            &logits,
            rows.weight.dtype(),
            &Tensor::new(&rows.target_ids[start..start + len], device)?,
            &scores,
            &d_logprob.narrow(0, start, len)?,
            bias.as_ref().zip(d_full_kl.as_ref()),
        )?;
        // The products need neither.
        drop((logits, bias));
        d_hidden.push(d_logits.matmul(rows.weight)?);
        let part = weight_gradient(&d_logits, &rows.hidden.narrow(0, start, len)?)?;
        match &d_weight {
            // One part is the gradient; several add up in f32.
            None if len == count => d_weight = Some(part),
            None => d_weight = Some(part.to_dtype(DType::F32)?),
            Some(sum) => head::add_in_place(sum, &part)?,
        }
    }
    rows.gradients(&d_hidden, d_weight)
}

impl Chunk {
    fn new(rows: &TargetRows, start: usize, len: usize) -> Result<Self> {
        let target_ids = &rows.target_ids[start..start + len];
        let target_ids = Tensor::new(target_ids, rows.hidden.device())?;
        let own = logits(&rows.hidden.narrow(0, start, len)?, rows.weight)?;
        let bias = match &rows.bias {
            None => None,
            Some(bias) => Some(logits(&bias.hidden.narrow(0, start, len)?, bias.weight)?),
        };
        let scores = head::scores(&own, &target_ids, bias.as_ref())?;
        Ok(Self {
            logits: own,
            bias,
            scores,
        })
    }
}
