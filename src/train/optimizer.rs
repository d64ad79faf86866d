//! AdamW in f32 precision whatever the weights' format, global-norm clipping and the learning-rate schedules.
//!
//! At lr 1e-6 an update is far below the spacing of bf16 numbers around a weight, so bf16 parameters have an f32 master
//! copy that the update goes to; the moments are always f32 (the arithmetic of `torch.optim.AdamW`).

use crate::config::{OptimizerConfig, Schedule};
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, Var, bail};
use std::collections::BTreeMap;

mod cpu;

/// Gradients by parameter name; a parameter without one keeps its value and its moments.
pub type Gradients = BTreeMap<String, Tensor>;

/// Added to the norm before dividing by it (torch's `clip_grad_norm_`).
const CLIP_EPSILON: f64 = 1e-6;
/// Tensor name of the update counts in a saved state.
const UPDATES: &str = "updates";

/// The learning rate of optimizer step `step` (from 0) of `total`, by Hugging Face's definitions.
pub fn learning_rate(config: &OptimizerConfig, step: usize, total: usize) -> f64 {
    let warmup = config.warmup_steps;
    if step < warmup {
        return config.learning_rate * step as f64 / warmup as f64;
    }
    let rest = total.saturating_sub(warmup).max(1) as f64;
    let progress = (step - warmup) as f64 / rest;
    let factor = match config.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => (1.0 - progress).max(0.0),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
    };
    config.learning_rate * factor
}

/// What one update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// False when the norm was not finite: nothing was changed.
    pub applied: bool,
}

/// One trained tensor and its state.
#[derive(Debug)]
struct Parameter {
    name: String,
    var: Var,
    /// The f32 value of a parameter kept in another format.
    master: Option<Tensor>,
    /// First moment m, f32.
    first: Tensor,
    /// Second moment v, f32.
    second: Tensor,
    /// Updates so far (t); counts only steps that had a gradient.
    updates: i64,
}

/// The numbers of one parameter's update.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Gradients are multiplied by this (clipping).
    grad_scale: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// lr · weight decay.
    decay: f64,
    /// lr / (1 − β1^t).
    size: f64,
    /// sqrt(1 − β2^t).
    second_correction: f64,
}

/// AdamW over named parameters, in name order.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    parameters: Vec<Parameter>,
}

impl AdamW {
    /// Zero moments for each of `parameters`.
    pub fn new(
        parameters: impl IntoIterator<Item = (String, Var)>,
        config: &OptimizerConfig,
    ) -> Result<Self> {
        let ordered: BTreeMap<String, Var> = parameters.into_iter().collect();
        let parameters = ordered
            .into_iter()
            .map(|(name, var)| {
                let zeros = || Tensor::zeros(var.shape(), DType::F32, var.device());
                let master = match var.dtype() {
                    DType::F32 => None,
                    _ => Some(var.as_detached_tensor().to_dtype(DType::F32)?),
                };
                Ok(Parameter {
                    name,
                    master,
                    first: zeros()?,
                    second: zeros()?,
                    updates: 0,
                    var,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            parameters,
        })
    }

    /// Clips `gradients` to `max_grad_norm` together and moves every parameter that has one. A norm that is not finite
    /// changes nothing. A name that is no parameter's is an error.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<Update> {
        let known = |name| {
            self.parameters
                .binary_search_by(|parameter| parameter.name.as_str().cmp(name))
        };
        if let Some(name) = gradients.keys().find(|name| known(name).is_err()) {
            bail!("optimizer: gradient `{name}` belongs to no parameter");
        }
        let grad_norm = global_norm(gradients)?;
        if !grad_norm.is_finite() {
            return Ok(Update {
                grad_norm,
                applied: false,
            });
        }
        let grad_scale = (self.config.max_grad_norm / (grad_norm + CLIP_EPSILON)).min(1.0);
        for parameter in &mut self.parameters {
            if let Some(gradient) = gradients.get(&parameter.name) {
                parameter.update(gradient, grad_scale, learning_rate, &self.config)?;
            }
        }
        Ok(Update {
            grad_norm,
            applied: true,
        })
    }

    /// Everything needed to go on later, by name: `first.NAME`, `second.NAME`, `master.NAME` (not for f32
    /// parameters) and the update counts. The tensors share the optimizer's storage.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for parameter in &self.parameters {
            for (key, tensor) in parameter.slots() {
                state.insert(key, tensor.clone());
            }
        }
        let updates: Vec<i64> = self.parameters.iter().map(|p| p.updates).collect();
        let count = updates.len();
        state.insert(
            UPDATES.to_owned(),
            Tensor::from_vec(updates, count, &Device::Cpu)?,
        );
        Ok(state)
    }

    /// Takes over a saved state; missing, unexpected and misshapen tensors are named.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let expected: BTreeMap<String, Tensor> = self.state()?;
        for (name, own) in &expected {
            match state.get(name) {
                None => bail!("optimizer state: `{name}` is missing"),
                Some(saved) if saved.shape() != own.shape() => bail!(
                    "optimizer state: `{name}` has shape {:?}, the model needs {:?}",
                    saved.dims(),
                    own.dims()
                ),
                Some(_) => {}
            }
        }
        if let Some(name) = state.keys().find(|name| !expected.contains_key(*name)) {
            bail!("optimizer state: `{name}` is not a tensor of this model");
        }
        let updates = state[UPDATES].to_vec1::<i64>()?;
        for (parameter, updates) in self.parameters.iter_mut().zip(updates) {
            parameter.load(state)?;
            parameter.updates = updates;
        }
        Ok(())
    }
}

impl Parameter {
    /// The state tensors under the names they are saved by.
    fn slots(&self) -> Vec<(String, &Tensor)> {
        let mut slots = vec![
            (format!("first.{}", self.name), &self.first),
            (format!("second.{}", self.name), &self.second),
        ];
        slots.extend(
            self.master
                .as_ref()
                .map(|master| (format!("master.{}", self.name), master)),
        );
        slots
    }

    fn load(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let device = self.var.device().clone();
        // A copy of our own: in-place updates must not reach the caller's tensors.
        let fresh = |prefix: &str| {
            state[&format!("{prefix}.{}", self.name)]
                .to_dtype(DType::F32)?
                .to_device(&device)?
                .copy()
        };
        let (first, second) = (fresh("first")?, fresh("second")?);
        if self.master.is_some() {
            let master = fresh("master")?;
            self.var.set(&master.to_dtype(self.var.dtype())?)?;
            self.master = Some(master);
        }
        (self.first, self.second) = (first, second);
        Ok(())
    }

    fn update(
        &mut self,
        gradient: &Tensor,
        grad_scale: f64,
        learning_rate: f64,
        config: &OptimizerConfig,
    ) -> Result<()> {
        if gradient.shape() != self.var.shape() {
            bail!(
                "optimizer: gradient of `{}` has shape {:?}, the parameter {:?}",
                self.name,
                gradient.dims(),
                self.var.dims()
            );
        }
        self.updates += 1;
        let t = self.updates as f64;
        let step = Step {
            grad_scale,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            decay: learning_rate * config.weight_decay,
            size: learning_rate / (1.0 - config.beta1.powf(t)),
            second_correction: (1.0 - config.beta2.powf(t)).sqrt(),
        };
        let gradient = gradient.detach().to_dtype(DType::F32)?.contiguous()?;
        if self.var.device().is_cpu() {
            let weight = self.master.as_ref().unwrap_or_else(|| self.var.as_tensor());
            cpu::update(weight, &self.first, &self.second, &gradient, &step)?;
            if let Some(master) = &self.master {
                self.var.set(&master.to_dtype(self.var.dtype())?)?;
            }
            return Ok(());
        }
        self.update_composed(&gradient, &step)
    }

    /// The same update by tensor operations, for every device.
    fn update_composed(&mut self, gradient: &Tensor, step: &Step) -> Result<()> {
        let gradient = (gradient * step.grad_scale)?;
        self.first = ((&self.first * step.beta1)? + (&gradient * (1.0 - step.beta1))?)?;
        self.second = ((&self.second * step.beta2)? + (gradient.sqr()? * (1.0 - step.beta2))?)?;
        let weight = match &self.master {
            Some(master) => master.clone(),
            None => self.var.as_detached_tensor(),
        };
        let denominator = ((self.second.sqrt()? / step.second_correction)? + step.epsilon)?;
        let moved = (&self.first / denominator)?;
        let weight = ((weight * (1.0 - step.decay))? - (moved * step.size)?)?;
        self.var.set(&weight.to_dtype(self.var.dtype())?)?;
        if self.master.is_some() {
            self.master = Some(weight);
        }
        Ok(())
    }
}

/// sqrt(Σ g²) over all gradients, in name order.
fn global_norm(gradients: &Gradients) -> Result<f64> {
    let mut squares = 0.0;
    for gradient in gradients.values() {
        squares += sum_of_squares(&gradient.detach())?;
    }
    Ok(squares.sqrt())
}

fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.to_dtype(DType::F32)?.contiguous()?;
    {
        let (storage, layout) = gradient.storage_and_layout();
        if let Storage::Cpu(CpuStorage::F32(values)) = &*storage {
            let start = layout.start_offset();
            return Ok(cpu::sum_of_squares(
                &values[start..start + layout.shape().elem_count()],
            ));
        }
    }
    Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are meant")]
mod tests {
    use super::*;

    fn config() -> OptimizerConfig {
        OptimizerConfig {
            learning_rate: 1e-2,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            ..OptimizerConfig::default()
        }
    }

    fn wave(count: usize, phase: f64) -> Vec<f32> {
        (0..count)
            .map(|i| (i as f64 * 0.7 + phase).sin() as f32)
            .collect()
    }

    fn tensor(count: usize, phase: f64) -> Tensor {
        Tensor::from_vec(wave(count, phase), count, &Device::Cpu).unwrap()
    }

    fn optimizer(dtype: DType) -> (AdamW, Var) {
        let var = Var::from_tensor(&tensor(300, 0.0).to_dtype(dtype).unwrap()).unwrap();
        let adamw = AdamW::new([("w".to_owned(), var.clone())], &config()).unwrap();
        (adamw, var)
    }

    fn gradients(phase: f64) -> Gradients {
        Gradients::from([("w".to_owned(), tensor(300, phase))])
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn fused_and_composed_updates_agree() {
        for dtype in [DType::F32, DType::BF16] {
            let (mut fused, a) = optimizer(dtype);
            let (mut composed, b) = optimizer(dtype);
            for step in 0..4 {
                let gradient = tensor(300, f64::from(step));
                let parameter = &mut fused.parameters[0];
                parameter.update(&gradient, 0.3, 1e-2, &config()).unwrap();
                let t = parameter.updates as f64;
                let step = Step {
                    grad_scale: 0.3,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    decay: 1e-3,
                    size: 1e-2 / (1.0 - 0.9f64.powf(t)),
                    second_correction: (1.0 - 0.999f64.powf(t)).sqrt(),
                };
                composed.parameters[0]
                    .update_composed(&gradient, &step)
                    .unwrap();
            }
            for (a, b) in values(&a).iter().zip(values(&b)) {
                assert!((a - b).abs() < 1e-6, "{dtype:?}: {a} != {b}");
            }
        }
    }

    #[test]
    fn bf16_weights_move_at_a_small_rate() {
        let mut slow = config();
        slow.learning_rate = 1e-6;
        slow.weight_decay = 0.0;
        let start = Tensor::full(0.02f32, 64, &Device::Cpu).unwrap();
        let var = Var::from_tensor(&start.to_dtype(DType::BF16).unwrap()).unwrap();
        let before = values(&var)[0];
        let mut adamw = AdamW::new([("w".to_owned(), var.clone())], &slow).unwrap();
        let ones = Tensor::ones(64, DType::BF16, &Device::Cpu).unwrap();
        for _ in 0..200 {
            let gradients = Gradients::from([("w".to_owned(), ones.clone())]);
            adamw.step(&gradients, 1e-6).unwrap();
        }
        let moved = before - values(&var)[0];
        assert!((moved - 2e-4).abs() < 7e-5, "{moved}");
        let master = adamw.parameters[0].master.as_ref().unwrap();
        assert!((before - values(master)[0] - 2e-4).abs() < 1e-6);
    }

    #[test]
    fn a_resumed_optimizer_goes_on_as_if_never_stopped() {
        for dtype in [DType::F32, DType::BF16] {
            let (mut whole, a) = optimizer(dtype);
            let (mut first, b) = optimizer(dtype);
            for step in 0..2 {
                whole.step(&gradients(f64::from(step)), 1e-2).unwrap();
                first.step(&gradients(f64::from(step)), 1e-2).unwrap();
            }
            let var = Var::from_tensor(&b.as_detached_tensor()).unwrap();
            let mut second = AdamW::new([("w".to_owned(), var.clone())], &config()).unwrap();
            second.load_state(&first.state().unwrap()).unwrap();
            let untouched = values(&first.parameters[0].first);
            whole.step(&gradients(9.0), 1e-2).unwrap();
            second.step(&gradients(9.0), 1e-2).unwrap();
            assert_eq!(values(&a), values(&var));
            assert_eq!(untouched, values(&first.parameters[0].first));
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_named() {
        let (mut adamw, _) = optimizer(DType::F32);
        let whole = adamw.state().unwrap();
        let mut missing = whole.clone();
        missing.remove("second.w");
        let error = adamw.load_state(&missing).unwrap_err().to_string();
        assert!(error.contains("`second.w` is missing"), "{error}");
        let mut wrong = whole.clone();
        wrong.insert("first.w".to_owned(), tensor(3, 0.0));
        assert!(adamw.load_state(&wrong).is_err());
        let mut more = whole;
        more.insert("master.w".to_owned(), tensor(300, 0.0));
        assert!(adamw.load_state(&more).is_err());
    }

    #[test]
    fn a_bad_gradient_changes_nothing() {
        let (mut adamw, var) = optimizer(DType::F32);
        let before = values(&var);
        let mut bad = wave(300, 1.0);
        bad[17] = f32::NAN;
        let bad = Tensor::from_vec(bad, 300, &Device::Cpu).unwrap();
        let update = adamw
            .step(&Gradients::from([("w".to_owned(), bad)]), 1e-2)
            .unwrap();
        assert!(!update.applied);
        assert_eq!(before, values(&var));
        assert_eq!(adamw.parameters[0].updates, 0);
        let stranger = Gradients::from([("x".to_owned(), tensor(300, 0.0))]);
        assert!(adamw.step(&stranger, 1e-2).is_err());
    }

    #[test]
    fn schedules_are_those_of_transformers() {
        // get_{linear,cosine,constant}_schedule_with_warmup(warmup 2, total 6), lr 1.
        let cases = [
            (Schedule::Linear, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]),
            (Schedule::Constant, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
            (
                Schedule::Cosine,
                [0.0, 0.5, 1.0, 0.853_553_39, 0.5, 0.146_446_61, 0.0],
            ),
        ];
        for (schedule, want) in cases {
            let config = OptimizerConfig {
                learning_rate: 1.0,
                warmup_steps: 2,
                schedule,
                ..OptimizerConfig::default()
            };
            for (step, want) in want.into_iter().enumerate() {
                let got = learning_rate(&config, step, 6);
                assert!((got - want).abs() < 1e-8, "{schedule:?} {step}: {got}");
            }
        }
        assert_eq!(learning_rate(&OptimizerConfig::default(), 0, 500), 1e-6);
    }
}
