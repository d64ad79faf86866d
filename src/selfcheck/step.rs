//! A small model on a device against the same model on the CPU in f32.

use crate::config::{BiasPlacement, Config, LossKind, SamplingConfig};
use crate::model::Qwen25Vl;
use crate::model::head::TokenScores;
use crate::model::spec::Spec;
use crate::model::weights;
use crate::model::weights::NamedTensors;
use crate::policy::GraphUse;
use crate::policy::generate::{Completion, Generated, generate_counted, unobserved};
use crate::policy::inputs::{PackedGroup, PackedInputs};
use crate::policy::reference::ReferenceModel;
use crate::policy::sampler::QuestionSeed;
use crate::policy::{FrozenModel, Policy};
use crate::prompt::{Processor, Prompt};
use crate::rl::advantage::advantages;
use crate::rl::loss::{CompletionTerms, LossOutput, policy_loss};
use crate::selfcheck::Workload;
use crate::train::backward::{Derivatives, GradientPlacement, Gradients, backward};
use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use std::path::Path;

/// Two questions, two completions each, windows and whole frames, more than one temporal grid.
const WORKLOAD: Workload = Workload {
    questions: 2,
    group_size: 2,
    grid_thw: [2, 10, 12],
    text_tokens: 24,
    completion_tokens: 12,
};
/// Share of noise in the bias model's weights: it must differ from the policy, or every divergence is 0.
const BIAS_NOISE: f64 = 0.3;

/// How far apart two computations of one quantity are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StepComparison {
    /// The quantity.
    pub(crate) what: String,
    /// Number format on the device.
    pub(crate) dtype: &'static str,
    /// Largest difference; of gradients ‖a − b‖ / ‖b‖, of anything else |a − b| / max(1, |b|).
    pub(crate) max_error: f64,
    /// What it may be.
    pub(crate) bound: f64,
}

impl StepComparison {
    /// Whether it is within its bound; a number that is not finite is not.
    pub(crate) fn holds(&self) -> bool {
        self.max_error <= self.bound
    }
}

/// What rounding may do to a model of a few layers.
struct Tolerances {
    dtype: DType,
    name: &'static str,
    logprob: f64,
    /// Beyond what the differences of the log-probabilities make of it: in bf16 those alone move it more.
    loss: f64,
    gradients: f64,
    /// Of one tensor: in those of a key's bias most of what is added up cancels.
    gradient: f64,
}

/// f32: sums in another order. bf16: every activation is rounded to 8 bits (2⁻⁹ of it), a few dozen times in a row;
/// on a CPU, a tenth to half of these bounds are seen.
const TOLERANCES: [Tolerances; 2] = [
    Tolerances {
        dtype: DType::F32,
        name: "f32",
        logprob: 1e-3,
        loss: 1e-4,
        gradients: 1e-3,
        gradient: 1e-2,
    },
    Tolerances {
        dtype: DType::BF16,
        name: "bf16",
        logprob: 0.05,
        loss: 1e-3,
        gradients: 0.1,
        gradient: 0.3,
    },
];

/// What [`compare_step`] finds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StepReport {
    /// Each quantity in each format.
    pub(crate) comparisons: Vec<StepComparison>,
    /// How the decodings ran that were to run from a CUDA graph.
    pub(crate) graph_use: GraphUse,
}

/// Runs the model in `folder` on `device` in f32 and bf16 and on the CPU in f32, from the same bf16 weights: the
/// log-probabilities of scoring and of sampling, and loss and all gradients of a CDPO step. The same step with the bias
/// model's layers and the gradients in host memory must give the same bits.
///
/// # Errors
/// A folder that is no model.
pub(crate) fn compare_step(folder: &Path, device: &Device) -> Result<StepReport> {
    let spec = Spec::load(folder)?;
    let processor = Processor::load(folder)?;
    let rounded = weights::load(folder, &spec, DType::BF16, &Device::Cpu)?;
    let noisy = with_noise(&rounded)?;
    let prompts = WORKLOAD.prompts(&processor, &spec)?;
    let inputs = WORKLOAD.packed(&spec, &prompts)?;
    let on_cpu = (DType::F32, &Device::Cpu);
    let weights = [&rounded, &noisy];
    let reference = CdpoStep::of(&spec, weights, &inputs, on_cpu, GradientPlacement::Device)?;
    let mut comparisons = Vec::new();
    let mut graph_use = GraphUse::default();
    for tolerances in &TOLERANCES {
        let mut format = FormatCheck {
            tolerances,
            comparisons: &mut comparisons,
        };
        let here = (tolerances.dtype, device);
        let step = CdpoStep::of(&spec, weights, &inputs, here, GradientPlacement::Device)?;
        let through_host = CdpoStep::of(&spec, weights, &inputs, here, GradientPlacement::Host)?;
        format.compare(&step, &reference)?;
        format.compare_through_host(&through_host, &step)?;
        let model = Qwen25Vl::new(&spec, &placed(&rounded, tolerances.dtype, device)?)?;
        let sampled = |cuda_graph| sampled(&model, &processor, &prompts, cuda_graph);
        let (completions, by_graph) = (sampled(false)?.completions, sampled(true)?);
        graph_use.add(&by_graph.graph_use);
        format.compare_completions(&by_graph.completions, &completions);
        let gap = sampler_gap(&spec, &rounded, &prompts, &completions)?;
        format.add("sampled log-probability", gap, tolerances.logprob);
    }
    Ok(StepReport {
        comparisons,
        graph_use,
    })
}

/// The comparisons of one format.
struct FormatCheck<'a> {
    tolerances: &'a Tolerances,
    comparisons: &'a mut Vec<StepComparison>,
}

impl FormatCheck<'_> {
    fn add(&mut self, what: impl Into<String>, max_error: f64, bound: f64) {
        self.comparisons.push(StepComparison {
            what: what.into(),
            dtype: self.tolerances.name,
            max_error,
            bound,
        });
    }

    fn compare(&mut self, step: &CdpoStep, reference: &CdpoStep) -> Result<()> {
        let tolerances = self.tolerances;
        let [own, bias] = [0, 1].map(|i| largest(&step.logprob[i], &reference.logprob[i]));
        self.add("log-probability", own, tolerances.logprob);
        self.add("bias log-probability", bias, tolerances.logprob);
        let expected = reference.loss.loss + reference.response(step);
        let loss = relative(step.loss.loss, expected);
        self.add("CDPO loss", loss, tolerances.loss);
        let (mut all_errors, mut all) = (0.0, 0.0);
        for (name, expected) in &reference.gradients {
            let (error, norm) = distance(step.gradients.get(name), expected)?;
            all_errors += error * error;
            all += norm * norm;
            let what = format!("gradient of {name}");
            self.add(what, error / norm, tolerances.gradient);
        }
        let error = (all_errors / all).sqrt();
        self.add("all gradients", error, tolerances.gradients);
        Ok(())
    }

    /// The way through host memory changes no bit.
    fn compare_through_host(&mut self, through_host: &CdpoStep, step: &CdpoStep) -> Result<()> {
        let bias = largest(&through_host.logprob[1], &step.logprob[1]);
        self.add("bias log-probability from host memory", bias, 0.0);
        let errors = step.gradients.iter().map(|(name, expected)| {
            let expected = expected.to_device(&Device::Cpu)?;
            Ok(distance(through_host.gradients.get(name), &expected)?.0)
        });
        let errors = errors.collect::<Result<Vec<f64>>>()?;
        self.add("gradients through host memory", errors.iter().sum(), 0.0);
        Ok(())
    }

    /// A graph runs the same kernels: it changes no token.
    fn compare_completions(&mut self, by_graph: &[Vec<Completion>], plain: &[Vec<Completion>]) {
        let pairs = plain.iter().flatten().zip(by_graph.iter().flatten());
        let changed = pairs.filter(|(a, b)| a.token_ids != b.token_ids).count();
        let what = "completions that a CUDA graph changes";
        self.add(what, changed as f64, 0.0);
    }
}

fn placed(
    tensors: &NamedTensors,
    dtype: DType,
    device: &Device,
) -> candle_core::Result<NamedTensors> {
    tensors.map(|_, tensor| tensor.to_device(device)?.to_dtype(dtype))
}

/// The same noise every time: a wave of each tensor's own size.
fn with_noise(tensors: &NamedTensors) -> candle_core::Result<NamedTensors> {
    tensors.map(|_, tensor| {
        let wide = tensor.to_dtype(DType::F32)?;
        let size = wide.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?;
        let count = tensor.elem_count() as u32;
        let wave = Tensor::arange(0u32, count, &Device::Cpu)?.to_dtype(DType::F32)?;
        let wave = wave.reshape(tensor.shape())?.sin()?;
        let noise = (wave * (BIAS_NOISE * f64::from(size)))?;
        (wide + noise)?.to_dtype(DType::BF16)
    })
}

/// What a CDPO step computes before its update.
struct CdpoStep {
    /// Log-probabilities of the policy and of the bias model.
    logprob: [Vec<f32>; 2],
    loss: LossOutput,
    /// ∂loss/∂logprob through the divergence alone, and so −∂loss/∂(bias model's logprob).
    kl_slopes: Vec<f32>,
    gradients: Gradients,
}

impl CdpoStep {
    /// With the gradients in `placement`, and the bias model's layers too.
    fn of(
        spec: &Spec,
        [own, bias]: [&NamedTensors; 2],
        inputs: &PackedInputs,
        (dtype, device): (DType, &Device),
        placement: GradientPlacement,
    ) -> Result<Self> {
        let (waiting, bias_placement) = match placement {
            GradientPlacement::Device => (device, BiasPlacement::Device),
            GradientPlacement::Host => (&Device::Cpu, BiasPlacement::Host),
        };
        let bias =
            ReferenceModel::new(spec, placed(bias, dtype, waiting)?, device, bias_placement)?;
        let policy = Policy::new(spec, placed(own, dtype, device)?, true)?;
        let bias = bias.score(inputs)?.logprob;
        let config = Config::default();
        let mut without_kl = Vec::new();
        let pass = backward(&policy, inputs, placement, None, |scores| {
            let terms = terms(inputs, scores, &bias);
            let loss = |kl| policy_loss(&terms, &config.objective, kl, WORKLOAD.completion_tokens);
            without_kl = loss(None).d_logprob;
            let loss = loss(Some(&config.kl));
            let derivatives = Derivatives {
                logprob: loss.d_logprob.clone(),
                full_kl: Vec::new(),
            };
            (derivatives, loss)
        })?;
        let slopes = pass.loss.d_logprob.iter().zip(without_kl);
        Ok(Self {
            logprob: [pass.scores.logprob, bias],
            kl_slopes: slopes.map(|(all, other)| all - other).collect(),
            loss: pass.loss,
            gradients: pass.gradients,
        })
    }

    /// What the differences of `other`'s log-probabilities make of the loss: with the mean of the slopes at both, exact to
    /// second order. With the slopes at one end, the curvature of a single token far from the bias model, exp(d), would show.
    fn response(&self, other: &Self) -> f64 {
        let sum = |slopes: [&[f32]; 2], which: usize| -> f64 {
            let pairs = other.logprob[which].iter().zip(&self.logprob[which]);
            let differences = pairs.map(|(a, b)| f64::from(a - b));
            let slopes = slopes[0].iter().zip(slopes[1]);
            let slopes = slopes.map(|(&a, &b)| f64::midpoint(f64::from(a), f64::from(b)));
            differences.zip(slopes).map(|(d, slope)| d * slope).sum()
        };
        sum([&self.loss.d_logprob, &other.loss.d_logprob], 0)
            - sum([&self.kl_slopes, &other.kl_slopes], 1)
    }
}

/// The loss's terms, with rewards of 0, 1, 2, … within a group.
pub(super) fn terms<'a>(
    inputs: &PackedInputs,
    scores: &'a TokenScores,
    bias: &'a [f32],
) -> Vec<Vec<CompletionTerms<'a>>> {
    let of_group = |ranges: &Vec<std::ops::Range<usize>>| {
        let rewards: Vec<f64> = (0..ranges.len()).map(|index| index as f64).collect();
        let advantages = advantages(&rewards, LossKind::Grpo);
        let completions = ranges.iter().zip(advantages);
        completions
            .map(|(range, advantage)| CompletionTerms {
                advantage,
                logprob: &scores.logprob[range.clone()],
                old_logprob: None,
                reference_logprob: bias.get(range.clone()),
                full_kl: scores.full_kl.get(range.clone()),
                acts: None,
            })
            .collect()
    };
    inputs.suffix_targets.iter().map(of_group).collect()
}

/// Completions from the device's own prefill, decoding steps and sampler; with `cuda_graph` a step is replayed, where
/// there is a GPU.
fn sampled(
    model: &Qwen25Vl,
    processor: &Processor,
    prompts: &[Prompt],
    cuda_graph: bool,
) -> Result<Generated> {
    let config = SamplingConfig {
        cuda_graph,
        group_size: WORKLOAD.group_size,
        max_new_tokens: WORKLOAD.completion_tokens,
        ..SamplingConfig::default()
    };
    let prompts: Vec<&Prompt> = prompts.iter().collect();
    let seeds = ["a", "b"].map(|id| QuestionSeed::new(42, 1, id));
    Ok(generate_counted(
        model,
        processor,
        &prompts,
        &seeds,
        &config,
        &mut unobserved,
    )?)
}

/// What the CPU gives the tokens that the device sampled, against what the sampler said.
fn sampler_gap(
    spec: &Spec,
    weights: &NamedTensors,
    prompts: &[Prompt],
    completions: &[Vec<Completion>],
) -> Result<f64> {
    let groups: Vec<PackedGroup> = prompts
        .iter()
        .zip(completions)
        .map(|(prompt, group)| {
            PackedGroup::of_completions(prompt, group.iter().map(|one| one.token_ids.as_slice()))
        })
        .collect();
    let inputs = PackedInputs::new(spec, &groups)?;
    let model = FrozenModel::new(spec, &placed(weights, DType::F32, &Device::Cpu)?)?;
    let expected = model.score(&inputs)?.logprob;
    let said: Vec<f32> = completions
        .iter()
        .flatten()
        .flat_map(|one| one.logprobs.iter().copied())
        .collect();
    Ok(largest(&said, &expected))
}

/// NaN where a value is, or where one is missing.
fn largest(values: &[f32], expected: &[f32]) -> f64 {
    if values.len() != expected.len() {
        return f64::NAN;
    }
    let errors = values.iter().zip(expected);
    let errors = errors.map(|(&a, &b)| relative(a.into(), b.into()));
    errors.fold(0.0, |most, error| {
        if most.is_nan() || error.is_nan() {
            f64::NAN
        } else {
            most.max(error)
        }
    })
}

fn relative(value: f64, expected: f64) -> f64 {
    (value - expected).abs() / expected.abs().max(1.0)
}

/// ‖a − b‖ and ‖b‖, the latter above 0; NaN where `value` is missing.
fn distance(value: Option<&Tensor>, expected: &Tensor) -> Result<(f64, f64)> {
    let Some(value) = value else {
        return Ok((f64::NAN, 1.0));
    };
    let value = value.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let expected = expected.to_dtype(DType::F32)?;
    let norm = |x: &Tensor| -> candle_core::Result<f64> {
        Ok(f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt())
    };
    let error = norm(&(value - &expected)?)?;
    Ok((error, norm(&expected)?.max(f64::MIN_POSITIVE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_not_a_number_is_not_small() {
        let of = |max_error| StepComparison {
            what: String::new(),
            dtype: "f32",
            max_error,
            bound: 1.0,
        };
        assert!(of(1.0).holds() && !of(1.1).holds() && !of(f64::NAN).holds());
        assert!(largest(&[1.0], &[]).is_nan());
        assert!(largest(&[f32::NAN, 1.0], &[0.0, 0.0]).is_nan());
        assert!((largest(&[1.0, -2.0], &[0.5, 1.0]) - 3.0).abs() < 1e-12);
        assert!((largest(&[12.0], &[10.0]) - 0.2).abs() < 1e-12);
        let one = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        assert!(distance(None, &one).unwrap().0.is_nan());
        let off = Tensor::new(&[3f32, 4.5], &Device::Cpu).unwrap();
        let (error, norm) = distance(Some(&off), &one).unwrap();
        assert!((error - 0.5).abs() < 1e-6 && (norm - 5.0).abs() < 1e-6);
    }
}
