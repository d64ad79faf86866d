//! Time and memory of a training step's learning half: bias log-probabilities, backward pass, update.

use super::Share;
use super::record;
use crate::config::{Config, KlEstimator};
use crate::model::device;
use crate::model::device::memory::{other_bytes, peak_bytes, reset_peak};
use crate::model::head::TokenScores;
use crate::policy::Policy;
use crate::policy::inputs::PackedInputs;
use crate::policy::reference::ReferenceModel;
use crate::prompt::Processor;
use crate::rl::loss::policy_loss;
use crate::selfcheck::Workload;
use crate::selfcheck::step::terms;
use crate::train::backward::{Derivatives, GradientPlacement, backward};
use crate::train::estimate::{DeviceRates, Flops, MemoryEstimate, StepShape, sorted_seconds};
use crate::train::metrics::{peak_resident_bytes, resident_bytes};
use crate::train::optimizer::AdamW;
use anyhow::{Context, Result};
use candle_core::{DType, Device};
use serde::Serialize;
use std::path::Path;

/// What one step costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct LearningSpeed {
    /// Rows of the packed pass.
    pub(crate) rows: usize,
    /// Target tokens.
    pub(crate) targets: usize,
    /// Operations of a forward pass.
    pub(crate) forward_flops: u64,
    /// Seconds in which the bias model scores the targets; the median of the repeats, as of the other phases.
    pub(crate) bias_seconds: f64,
    /// Seconds of the backward pass, its own forward pass included.
    pub(crate) backward_seconds: f64,
    /// Seconds of clipping and moving the weights.
    pub(crate) update_seconds: f64,
    /// The fastest and the slowest repeat.
    pub(crate) bias_range: [f64; 2],
    /// The fastest and the slowest repeat.
    pub(crate) backward_range: [f64; 2],
    /// The fastest and the slowest repeat.
    pub(crate) update_range: [f64; 2],
    /// Operations a second of the backward pass (three forward passes; layers computed again count for nothing); possible
    /// is the measured rate of a large product in the weights' format. The share is the MFU.
    pub(crate) backward_flops_per_second: Share,
    /// The most bytes of tensors alive at once on the device, or of the process on a CPU; possible is what `estimate` says
    /// without CUDA's own.
    pub(crate) peak_bytes: Share,
    /// Bytes of the device in use beside tensors, by CUDA itself and other processes; possible is what `estimate` takes
    /// for CUDA. Absent on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cuda_bytes: Option<Share>,
}

/// Seconds of the repeats of a phase.
#[derive(Debug, Clone, Copy)]
struct PhaseTimes {
    median: f64,
    range: [f64; 2],
}

impl PhaseTimes {
    fn of<T>(device: &Device, repeats: usize, work: impl FnMut() -> Result<T>) -> Result<Self> {
        let sorted = sorted_seconds(device, repeats, work)?;
        Ok(Self {
            median: sorted[sorted.len() / 2],
            range: [sorted[0], sorted[sorted.len() - 1]],
        })
    }
}

/// Learns from made-up completions as `workload` says, with the model in `folder` as its own bias model; each phase is timed
/// `repeats` times. `record` is a safetensors file for the work itself and the log-probabilities it gave (`record.rs` says which tensors).
///
/// # Errors
/// A folder that is no model; a file that cannot be written; a tensor operation that fails, for example for want of memory.
pub(crate) fn learning_speed(
    folder: &Path,
    config: &Config,
    workload: &Workload,
    rates: &DeviceRates,
    repeats: usize,
    record: Option<&Path>,
) -> Result<LearningSpeed> {
    let device = device::device(&config.model)?;
    let dtype = device::dtype(&config.model);
    let program = if device.is_cpu() { resident_bytes() } else { 0 };
    // What the rates were measured with is no part of a step.
    reset_peak(&device)?;
    let processor = Processor::load(folder)?;
    let policy = Policy::load(folder, dtype, &device, config.model.train_vision)?;
    let vars = policy.vars().iter();
    let vars = vars.map(|(name, var)| (name.clone(), var.clone()));
    let mut optimizer = AdamW::new(vars, &config.optimizer)?;
    let bias = ReferenceModel::load(folder, dtype, &device, config.model.bias_placement)?;
    let spec = &policy.model().spec;
    let prompts = workload.prompts(&processor, spec)?;
    let inputs = workload.packed(spec, &prompts)?;

    let exact = config.kl.estimator == KlEstimator::Full;
    let (mut reference_logprob, mut bias_hidden) = (Vec::new(), None);
    let bias_times = PhaseTimes::of(&device, repeats, || {
        if exact {
            bias_hidden = None;
            bias_hidden = Some(bias.target_hidden(&inputs)?);
        } else {
            reference_logprob = bias.score(&inputs)?.logprob;
        }
        Ok(())
    })?;
    if let Some(path) = record {
        record::write(path, &prompts, &inputs, &bias.score(&inputs)?.logprob)?;
    }
    let home = if optimizer.reads_gradients_on_host() {
        GradientPlacement::Host
    } else {
        GradientPlacement::Device
    };
    let learn = || {
        let reference_rows = bias_hidden
            .as_ref()
            .map(|hidden| bias.reference_rows(hidden));
        backward(&policy, &inputs, home, reference_rows, |scores| {
            derivatives(config, &inputs, scores, &reference_logprob)
        })
    };
    // One more pass stays alive for the update: it is the last of those timed.
    let mut pass = None;
    let backward = PhaseTimes::of(&device, repeats, || {
        pass = None;
        pass = Some(learn()?);
        Ok(())
    })?;
    let pass = pass.context("no pass was timed")?;
    let learning_rate = config.optimizer.learning_rate;
    let update = PhaseTimes::of(&device, repeats, || {
        Ok(optimizer.step(&pass.gradients, learning_rate)?)
    })?;

    let flops = Flops::forward(spec, &inputs);
    let learning = flops.learning(config.model.train_vision) as f64;
    let rate = if dtype == DType::BF16 {
        rates.bf16
    } else {
        rates.f32
    };
    let shape = StepShape::of(&[&inputs], None, clip_bytes(&inputs));
    let estimate = MemoryEstimate::estimate(spec, Some(bias.spec()), config, &shape, program);
    let peak = peak_bytes(&device)?.unwrap_or_else(peak_resident_bytes);
    Ok(LearningSpeed {
        rows: inputs.num_rows(),
        targets: inputs.num_targets(),
        forward_flops: flops.total(),
        bias_seconds: bias_times.median,
        backward_seconds: backward.median,
        update_seconds: update.median,
        bias_range: bias_times.range,
        backward_range: backward.range,
        update_range: update.range,
        backward_flops_per_second: Share::of(learning / backward.median, rate),
        peak_bytes: Share::of(peak as f64, estimate.of_tensors() as f64),
        cuda_bytes: other_bytes(&device)?
            .map(|bytes| Share::of(bytes as f64, estimate.cuda as f64)),
    })
}

fn derivatives(
    config: &Config,
    inputs: &PackedInputs,
    scores: &TokenScores,
    bias: &[f32],
) -> (Derivatives, ()) {
    let longest = config.sampling.max_new_tokens;
    let terms = terms(inputs, scores, bias);
    let loss = policy_loss(&terms, &config.objective, Some(&config.kl), longest);
    let derivatives = Derivatives {
        logprob: loss.d_logprob,
        full_kl: loss.d_full_kl,
    };
    (derivatives, ())
}

fn clip_bytes(inputs: &PackedInputs) -> u64 {
    let clips = inputs.videos.iter();
    clips
        .map(|clip| size_of_val(clip.values.as_slice()) as u64)
        .sum()
}
