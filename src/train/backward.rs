//! Gradients of a packed pass, one layer at a time.
//!
//! The forward pass keeps each layer's input and nothing else. The backward pass goes from the head to the first
//! layer, computes each layer again from its input, and has its weight gradients before it turns to the next. What
//! follows from the log-probabilities is the caller's: GRPO, CDPO and a supervised step differ in one closure.

use crate::model::Qwen25Vl;
use crate::model::head::{CHUNK_BYTES, Head, ReferenceRows, TokenScores};
use crate::policy::Policy;
use crate::policy::inputs::PackedInputs;
use candle_core::{DType, Device, Result, Tensor};

pub(crate) use crate::policy::parallel::{passes_at_once, side_by_side};
pub use crate::rl::loss::Derivatives;
pub use crate::train::gradients::GradientPlacement;
pub use crate::train::optimizer::Gradients;

use crate::train::gradients::GradientCollector;

/// What one pass gives.
#[derive(Debug)]
pub struct Pass<T> {
    /// Scores of the targets under the weights before the update.
    pub scores: TokenScores,
    /// Gradient of every trainable tensor.
    pub gradients: Gradients,
    /// What the caller's closure returned beside the derivatives.
    pub loss: T,
}

/// Scores the targets of `inputs`, asks `loss` for its derivatives, and carries them back to every
/// trainable tensor, whose gradients are left where `placement` says.
///
/// `reference` (the frozen model's rows for the same inputs) is given when the loss uses exact divergences.
pub fn backward<T>(
    policy: &Policy,
    inputs: &PackedInputs,
    placement: GradientPlacement,
    reference: Option<ReferenceRows>,
    loss: impl FnOnce(&TokenScores) -> (Derivatives, T),
) -> Result<Pass<T>> {
    let model = policy.model();
    let video = match inputs.videos.as_slice() {
        [] => None,
        videos => Some(model.video_input(videos)?),
    };
    let traced = video
        .as_ref()
        .map(|video| model.visual.forward_traced(&video.pixels, &video.layout))
        .transpose()?;
    let (tokens, trace) = traced.unzip();
    let mut output = model.embed(&inputs.token_ids, &inputs.video_rows, tokens.as_ref())?;
    drop(tokens);
    let (cos, sin) = model.rotary(&inputs.positions)?;
    let mut layer_inputs = Vec::with_capacity(model.layers.len());
    for layer in &model.layers {
        let next = layer.forward_packed(&output, &cos, &sin, &inputs.layout)?;
        layer_inputs.push(std::mem::replace(&mut output, next));
    }

    let mut gradients = GradientCollector::new(placement);
    let target_rows = Tensor::new(inputs.target_rows.as_slice(), model.device())?;
    let chosen = output.index_select(&target_rows, 0)?;
    let (shape, dtype) = (output.shape().clone(), output.dtype());
    drop(output);
    let (scores, d_chosen, loss) =
        backward_head(model, &chosen, inputs, reference, loss, &mut gradients)?;
    // Rows that predict several targets (a prompt's last) add up, in f32.
    let mut grad_output = Tensor::zeros(&shape, DType::F32, model.device())?
        .index_add(&target_rows, &d_chosen.to_dtype(DType::F32)?, 0)?
        .to_dtype(dtype)?;

    let mut sink = |name: &str, gradient: Tensor| gradients.add(name, gradient);
    while let Some(input) = layer_inputs.pop() {
        let layer = &model.layers[layer_inputs.len()];
        grad_output =
            layer.backward(&input, &cos, &sin, &inputs.layout, &grad_output, &mut sink)?;
    }
    // A tied head has left its part already.
    let head_part = gradients.take(Qwen25Vl::EMBEDDING);
    let (d_table, d_tokens) = model.embed_backward(
        &inputs.token_ids,
        &inputs.video_rows,
        &grad_output,
        head_part,
    )?;
    drop(grad_output);
    gradients.add(Qwen25Vl::EMBEDDING, d_table)?;
    if let (Some(video), Some(trace), Some(d_tokens), true) =
        (video, trace, d_tokens, policy.trains_vision())
    {
        let mut sink = |name: &str, gradient: Tensor| gradients.add(name, gradient);
        model
            .visual
            .backward(&video.pixels, &video.layout, trace, &d_tokens, &mut sink)?;
    }
    let mut gradients = gradients.finish()?;
    fill_in(policy, placement, &mut gradients)?;
    Ok(Pass {
        scores,
        gradients,
        loss,
    })
}

/// The sum of several passes' gradients, added in their order.
pub(crate) fn add_gradients(parts: impl IntoIterator<Item = Gradients>) -> Result<Gradients> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        for (name, gradient) in part {
            let total = match sum.remove(&name) {
                Some(total) => (total + gradient)?,
                None => gradient,
            };
            sum.insert(name, total);
        }
    }
    Ok(sum)
}

/// Head, loss and final norm over the target rows `chosen [R, H]`; returns the gradient with respect to them.
fn backward_head<T>(
    model: &Qwen25Vl,
    chosen: &Tensor,
    inputs: &PackedInputs,
    reference: Option<ReferenceRows>,
    loss: impl FnOnce(&TokenScores) -> (Derivatives, T),
    gradients: &mut GradientCollector,
) -> Result<(TokenScores, Tensor, T)> {
    let normed = model.norm(chosen)?;
    let (ops, weight) = (model.ops(), &model.head);
    let mut head = Head::new(
        ops,
        &normed,
        weight,
        &inputs.target_ids,
        reference,
        CHUNK_BYTES,
    )?;
    let scores = head.scores()?;
    let (derivatives, loss) = loss(&scores);
    if derivatives.logprob.len() != inputs.num_targets() {
        candle_core::bail!(
            "{} derivatives for {} targets",
            derivatives.logprob.len(),
            inputs.num_targets()
        );
    }
    let (d_normed, d_head) = head.backward(&derivatives.logprob, &derivatives.full_kl)?;
    let (d_chosen, d_norm) = model.norm_backward(chosen, &d_normed)?;
    let name = if model.spec.tie_word_embeddings {
        Qwen25Vl::EMBEDDING
    } else {
        Qwen25Vl::HEAD
    };
    gradients.add(name, d_head)?;
    gradients.add(Qwen25Vl::NORM, d_norm)?;
    Ok((scores, d_chosen, loss))
}

/// Of a pass that did not take place.
pub(super) fn zero_gradients(policy: &Policy, placement: GradientPlacement) -> Result<Gradients> {
    let mut gradients = Gradients::new();
    fill_in(policy, placement, &mut gradients)?;
    Ok(gradients)
}

/// A pass without a clip does not reach the tower: its gradients are zero, not absent.
fn fill_in(policy: &Policy, placement: GradientPlacement, gradients: &mut Gradients) -> Result<()> {
    for (name, var) in policy.vars() {
        if !gradients.contains_key(name) {
            let device = match placement {
                GradientPlacement::Device => var.device(),
                GradientPlacement::Host => &Device::Cpu,
            };
            let zeros = Tensor::zeros(var.shape(), var.dtype(), device)?;
            gradients.insert(name.clone(), zeros);
        }
    }
    Ok(())
}
