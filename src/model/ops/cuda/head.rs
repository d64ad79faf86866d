//! What a loss needs of rows of logits, and its gradient with respect to them. Logits are f32 whatever the model's format.
//!
//! With p the softmax of a row and b the bias model's: ∂ log p(t) / ∂ logits = onehot(t) − p and
//! ∂ KL(p ‖ b) / ∂ logits = p · (log p − log b − KL). Shapes: `c` rows, `V` vocabulary.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, module, unwritten};
use candle_core::{DType, Result, Tensor, bail};

static MODULE: Module = module!("head");
const THREADS: u32 = 512;
/// Values that a thread of [`add_in_place`] takes.
const VALUES: usize = 8;

/// Rows of the scores.
const LOGPROB: usize = 0;
const ENTROPY: usize = 1;
const FULL_KL: usize = 4;

/// Scores of the targets of some rows, on the device.
#[derive(Debug, Clone)]
pub struct DeviceScores {
    /// `[5, c]` in f32; the last two rows only with a bias model.
    values: Tensor,
    with_bias: bool,
}

impl DeviceScores {
    /// log p(target) `[c]`.
    pub fn logprob(&self) -> Result<Tensor> {
        self.values.get(LOGPROB)
    }

    /// Entropy of p in nats `[c]`.
    pub fn entropy(&self) -> Result<Tensor> {
        self.values.get(ENTROPY)
    }

    /// KL(p ‖ b) in nats `[c]`, with a bias model.
    pub(crate) fn full_kl(&self) -> Result<Option<Tensor>> {
        self.with_bias.then(|| self.values.get(FULL_KL)).transpose()
    }
}

/// Scores of `targets [c]` (u32) under `logits [c, V]`, all in f32, with a bias model's logits of the same shape.
pub fn scores(logits: &Tensor, targets: &Tensor, bias: Option<&Tensor>) -> Result<DeviceScores> {
    let (rows, vocabulary) = check(logits, targets, bias)?;
    let values = unwritten((5, rows), DType::F32, logits.device())?;
    Launch::new(&MODULE, "head_scores")
        .tensor(logits)
        .tensor(targets)
        .optional(bias)
        .tensor(&values)
        .size(rows)
        .size(vocabulary)
        .run(Grid::new(rows, THREADS))?;
    Ok(DeviceScores {
        values,
        with_bias: bias.is_some(),
    })
}

/// The loss's gradient with respect to `logits`, in `dtype`, given the ones `[c]` (f32) with respect to the targets'
/// log-probabilities and, where the loss has it, to the divergence from `bias`. In f32 it takes the logits' place.
pub fn backward(
    logits: &Tensor,
    dtype: DType,
    targets: &Tensor,
    scores: &DeviceScores,
    d_logprob: &Tensor,
    d_full_kl: Option<(&Tensor, &Tensor)>,
) -> Result<Tensor> {
    let (bias, d_full_kl) = d_full_kl.unzip();
    let (rows, vocabulary) = check(logits, targets, bias)?;
    if bias.is_some() && !scores.with_bias {
        bail!("head: a divergence that was not scored");
    }
    let gradient = match dtype {
        DType::F32 => logits.clone(),
        _ => unwritten(logits.shape(), dtype, logits.device())?,
    };
    Launch::of_dtype(&MODULE, "head_backward", dtype)?
        .tensor(logits)
        .tensor(targets)
        .optional(bias)
        .tensor(&scores.values)
        .tensor(d_logprob)
        .optional(d_full_kl)
        .tensor(&gradient)
        .size(rows)
        .size(vocabulary)
        .run(Grid::new(rows, THREADS))?;
    Ok(gradient)
}

/// Adds `part` to `sum` (f32, of its shape) in place.
pub fn add_in_place(sum: &Tensor, part: &Tensor) -> Result<()> {
    if sum.shape() != part.shape() || sum.dtype() != DType::F32 {
        bail!("head: {part:?} is not added to {sum:?}");
    }
    let count = part.elem_count();
    Launch::of_dtype(&MODULE, "head_add", part.dtype())?
        .tensor(sum)
        .tensor(part)
        .size(count)
        .run(Grid::covering(count.div_ceil(VALUES), 256))
}

fn check(logits: &Tensor, targets: &Tensor, bias: Option<&Tensor>) -> Result<(usize, usize)> {
    let (rows, vocabulary) = logits.dims2()?;
    if logits.dtype() != DType::F32 {
        bail!("head: logits in {:?}, not in f32", logits.dtype());
    }
    if targets.dtype() != DType::U32 || targets.dims() != [rows] {
        bail!("head: targets {targets:?} for {rows} rows");
    }
    if let Some(bias) = bias
        && (bias.shape() != logits.shape() || bias.dtype() != logits.dtype())
    {
        bail!(
            "head: the bias model's logits are {:?}, not {:?}",
            bias.shape(),
            logits.shape()
        );
    }
    Ok((rows, vocabulary))
}
