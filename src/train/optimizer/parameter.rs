//! One trained tensor with its state, in the format and the place that `optimizer.memory` names.

use super::Moved;
use super::compact::{self, BLOCK};
use super::cpu::{self, Coded};
use crate::config::{OptimizerConfig, OptimizerMemory};
use crate::model::ops::cuda::{self as kernels, adamw::Rates};
use crate::util::hash::Fnv;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use half::bf16;

mod saved;

/// One trained tensor and its state.
#[derive(Debug)]
pub(super) struct Parameter {
    name: String,
    var: Var,
    state: State,
    /// Updates so far (t); counts only steps that had a gradient.
    updates: i64,
}

#[derive(Debug)]
enum State {
    /// In f32, on the device or in host memory.
    Full {
        /// The f32 value of a parameter that is kept in another format or elsewhere.
        master: Option<Tensor>,
        first: Tensor,
        second: Tensor,
        on_host: bool,
    },
    /// See [`compact`]; on the device.
    Compact {
        /// Low halves of the masters of bf16 weights, as many as there are.
        low: Option<Tensor>,
        first: Moment,
        second: Moment,
    },
}

/// `codes [n]` (u8) and `scales [⌈n / BLOCK⌉]`.
#[derive(Debug)]
struct Moment {
    codes: Tensor,
    scales: Tensor,
}

impl Parameter {
    /// Zero moments.
    pub(super) fn new(name: String, var: Var, memory: OptimizerMemory) -> Result<Self> {
        let device = var.device();
        let state = match memory {
            OptimizerMemory::Full => {
                let zeros = || Tensor::zeros(var.shape(), DType::F32, device);
                let master = match var.dtype() {
                    DType::F32 => None,
                    _ => Some(var.as_detached_tensor().to_dtype(DType::F32)?),
                };
                State::Full {
                    master,
                    first: zeros()?,
                    second: zeros()?,
                    on_host: false,
                }
            }
            OptimizerMemory::Host => {
                let zeros = || Tensor::zeros(var.shape(), DType::F32, &Device::Cpu);
                let weight = var.as_detached_tensor().to_device(&Device::Cpu)?;
                State::Full {
                    // A copy of its own, also of an f32 weight on the CPU.
                    master: Some(weight.to_dtype(DType::F32)?.copy()?),
                    first: zeros()?,
                    second: zeros()?,
                    on_host: true,
                }
            }
            OptimizerMemory::Compact => {
                let count = var.elem_count();
                let low = match var.dtype() {
                    DType::BF16 => Some(Tensor::zeros(count, DType::I16, device)?),
                    DType::F32 => None,
                    other => bail!("optimizer.memory = \"compact\" holds no {other:?} weights"),
                };
                State::Compact {
                    low,
                    first: Moment::zeros(count, device)?,
                    second: Moment::zeros(count, device)?,
                }
            }
        };
        Ok(Self {
            name,
            var,
            state,
            updates: 0,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn updates(&self) -> i64 {
        self.updates
    }

    /// Moves the weights; those of a state in host memory are given back to be uploaded.
    pub(super) fn update(
        &mut self,
        gradient: &Tensor,
        grad_scale: f64,
        learning_rate: f64,
        config: &OptimizerConfig,
    ) -> Result<Moved> {
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
        let rates = Rates {
            scale: grad_scale as f32,
            first: (1.0 - config.beta1) as f32,
            keep_second: config.beta2 as f32,
            second: (1.0 - config.beta2) as f32,
            keep: (1.0 - learning_rate * config.weight_decay) as f32,
            size: (learning_rate / (1.0 - config.beta1.powf(t))) as f32,
            correction: (1.0 - config.beta2.powf(t)).sqrt() as f32,
            epsilon: config.epsilon as f32,
        };
        let gradient = gradient.detach().contiguous()?;
        match &self.state {
            State::Full {
                master: Some(master),
                first,
                second,
                on_host: true,
            } => {
                let gradient = gradient.to_device(&Device::Cpu)?;
                let weight = Tensor::zeros(self.var.shape(), self.var.dtype(), &Device::Cpu)?;
                update_full([master, first, second], &gradient, Some(&weight), &rates)?;
                return Ok(Some((self.var.clone(), weight)));
            }
            State::Full {
                master,
                first,
                second,
                ..
            } => {
                let weight = self.var.as_detached_tensor();
                match master {
                    None => update_full([&weight, first, second], &gradient, None, &rates)?,
                    Some(master) => {
                        update_full([master, first, second], &gradient, Some(&weight), &rates)?;
                    }
                }
            }
            State::Compact { low, first, second } => {
                let weight = self.var.as_detached_tensor();
                let name = Fnv::of(self.name.as_bytes()).value() as u32;
                let seed = compact::hash(name, self.updates as u32);
                let moments = [first, second];
                update_compact(&weight, low.as_ref(), moments, &gradient, seed, &rates)?;
            }
        }
        Ok(None)
    }
}

impl Moment {
    fn zeros(count: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            codes: Tensor::zeros(count, DType::U8, device)?,
            scales: Tensor::zeros(count.div_ceil(BLOCK), DType::F32, device)?,
        })
    }

    fn coded(&self) -> Coded<'_> {
        Coded {
            codes: &self.codes,
            scales: &self.scales,
        }
    }
}

/// Moves masters and moments, and sets the weights where they are not their own masters.
fn update_full(
    state: [&Tensor; 3],
    gradient: &Tensor,
    weight: Option<&Tensor>,
    rates: &Rates,
) -> Result<()> {
    // In host memory an f32 weight is beside its master.
    let bf16_weight = weight.is_some_and(|weight| weight.dtype() == DType::BF16);
    if kernels::applies(state[0]) && (bf16_weight || weight.is_none()) {
        return kernels::adamw::full(state, gradient, weight, rates);
    }
    match (gradient.dtype(), bf16_weight) {
        (DType::F32, false) => cpu::update_full::<f32, f32>(state, gradient, weight, rates),
        (DType::F32, true) => cpu::update_full::<f32, bf16>(state, gradient, weight, rates),
        (DType::BF16, false) => cpu::update_full::<bf16, f32>(state, gradient, weight, rates),
        (DType::BF16, true) => cpu::update_full::<bf16, bf16>(state, gradient, weight, rates),
        (other, _) => bail!("optimizer: a gradient of {other:?}"),
    }
}

fn update_compact(
    weight: &Tensor,
    low: Option<&Tensor>,
    [first, second]: [&Moment; 2],
    gradient: &Tensor,
    seed: u32,
    rates: &Rates,
) -> Result<()> {
    if kernels::applies(weight) {
        let moments = [first, second].map(|moment| [&moment.codes, &moment.scales]);
        return kernels::adamw::compact(weight, low, moments, gradient, seed, rates);
    }
    let moments = [first.coded(), second.coded()];
    match gradient.dtype() {
        DType::F32 => cpu::update_compact::<f32>(weight, low, moments, gradient, seed, rates),
        DType::BF16 => cpu::update_compact::<bf16>(weight, low, moments, gradient, seed, rates),
        other => bail!("optimizer: a gradient of {other:?}"),
    }
}
