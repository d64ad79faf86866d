//! AdamW in f32 precision whatever the weights' format, with global-norm clipping.
//!
//! At lr 1e-6 an update is far below the spacing of bf16 numbers around a weight, so bf16 parameters have an f32 master
//! that the update goes to; the arithmetic is that of `torch.optim.AdamW`. Where master and moments lie and in which
//! format is the config's `optimizer.memory`.
//!
//! The norm that clips is that of all gradients together, so nothing moves before the last of them is there. Under `host`
//! they come to host memory while the backward pass goes on (see [`crate::train::gradients`]), and a parameter's new
//! weights return to the device while those of the next one are computed.

use crate::config::OptimizerConfig;
use crate::config::OptimizerMemory;
use crate::model::offload::Upload;
use crate::model::ops::cuda as kernels;
use candle_core::{Device, Result, Tensor, Var, bail};
use parameter::Parameter;
use std::collections::BTreeMap;

mod compact;
mod cpu;
mod parameter;
mod schedule;

pub use schedule::learning_rate;
pub(super) use schedule::share;

/// Gradients by parameter name; a parameter without one keeps its value and its moments.
pub type Gradients = BTreeMap<String, Tensor>;

/// Added to the norm before dividing by it (torch's `clip_grad_norm_`).
const CLIP_EPSILON: f64 = 1e-6;
/// Tensor name of the update counts in a saved state.
const UPDATES: &str = "updates";

/// What one update did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// False when the norm was not finite: nothing was changed.
    pub applied: bool,
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
            .map(|(name, var)| Parameter::new(name, var, config.memory))
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            parameters,
        })
    }

    /// Whether [`Self::step`] wants gradients in host memory.
    pub(crate) fn reads_gradients_on_host(&self) -> bool {
        self.config.memory == OptimizerMemory::Host
    }

    /// Clips `gradients` to `max_grad_norm` together and moves every parameter that has one. A norm that is not finite
    /// changes nothing. A name that is no parameter's is an error.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<Update> {
        let known = |name| {
            self.parameters
                .binary_search_by(|parameter| parameter.name().cmp(name))
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
        let config = &self.config;
        let mut moved = self.parameters.iter_mut().filter_map(|parameter| {
            let gradient = gradients.get(parameter.name())?;
            Some(parameter.update(gradient, grad_scale, learning_rate, config))
        });
        upload(&mut moved)?;
        Ok(Update {
            grad_norm,
            applied: true,
        })
    }

    /// Everything needed to go on later: the tensors of each parameter (see `optimizer.memory`) as `WHAT.NAME`, and
    /// the update counts. They share the optimizer's storage.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for parameter in &self.parameters {
            for (slot, tensor) in parameter.slots() {
                state.insert(format!("{slot}.{}", parameter.name()), tensor.clone());
            }
        }
        let updates: Vec<i64> = self.parameters.iter().map(Parameter::updates).collect();
        let count = updates.len();
        state.insert(
            UPDATES.to_owned(),
            Tensor::from_vec(updates, count, &Device::Cpu)?,
        );
        Ok(state)
    }

    /// Takes over a state saved under any `optimizer.memory`; missing, unexpected and misshapen tensors are named.
    ///
    /// Between `full` and `host` nothing changes. Moments are decoded exactly from `compact`, and rounded to the
    /// nearest for it; masters are exact.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let updates = match state.get(UPDATES) {
            None => bail!("optimizer state: `{UPDATES}` is missing"),
            Some(updates) if updates.dims() != [self.parameters.len()] => bail!(
                "optimizer state: `{UPDATES}` has shape {:?}, the model needs {:?}",
                updates.dims(),
                [self.parameters.len()]
            ),
            Some(updates) => updates.to_vec1::<i64>()?,
        };
        let mut unexpected: Vec<&String> = state.keys().filter(|&name| name != UPDATES).collect();
        for parameter in &self.parameters {
            let names = parameter.check(state)?;
            unexpected.retain(|name| !names.contains(name));
        }
        if let Some(name) = unexpected.first() {
            bail!("optimizer state: `{name}` is not a tensor of this model");
        }
        for (parameter, updates) in self.parameters.iter_mut().zip(updates) {
            parameter.load(state, updates)?;
        }
        Ok(())
    }
}

/// A parameter's new weights that still have to be brought to it.
type Moved = Option<(Var, Tensor)>;

/// Brings new weights to their parameters while the next ones are computed.
fn upload(moved: &mut dyn Iterator<Item = Result<Moved>>) -> Result<()> {
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<(Var, Tensor)>(1);
        let uploading = scope.spawn(move || -> Result<()> {
            let mut upload = Upload::default();
            for (var, weight) in receiver {
                upload.put(&weight, &var)?;
            }
            Ok(())
        });
        let compute = || -> Result<()> {
            for moved in moved {
                // Fails when the uploading thread has stopped, which then says why.
                if let Some(weights) = moved?
                    && sender.send(weights).is_err()
                {
                    break;
                }
            }
            Ok(())
        };
        let computed = compute();
        drop(sender);
        let uploaded = match uploading.join() {
            Ok(uploaded) => uploaded,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        computed.and(uploaded)
    })
}

/// sqrt(Σ g²) over all gradients, in name order.
pub(super) fn global_norm(gradients: &Gradients) -> Result<f64> {
    let gradients: Vec<Tensor> = gradients
        .values()
        .map(|gradient| gradient.detach().contiguous())
        .collect::<Result<_>>()?;
    match gradients.first() {
        Some(first) if kernels::applies(first) => {
            let squares = kernels::sum_squares::sum_squares(&gradients, first.device())?;
            Ok(squares.to_vec1::<f64>()?[0].sqrt())
        }
        _ => {
            let mut squares = 0.0;
            for gradient in &gradients {
                squares += cpu::sum_of_squares(gradient)?;
            }
            Ok(squares.sqrt())
        }
    }
}

#[cfg(test)]
mod tests;
