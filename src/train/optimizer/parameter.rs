//! One trained tensor with its state, in the format and the place that `optimizer.memory` names.

use super::Moved;
use super::compact::{self, BLOCK};
use super::cpu::{self, Coded};
use crate::config::{OptimizerConfig, OptimizerMemory};
use crate::data::fnv::Fnv;
use crate::kernels::{self, adamw::Rates};
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use half::bf16;
use std::collections::BTreeMap;

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

/// A state as it is in `full`, flat and on the CPU.
struct Values {
    master: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
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

    /// The state's tensors under the names they are saved by.
    pub(super) fn slots(&self) -> Vec<(&'static str, &Tensor)> {
        match &self.state {
            State::Full {
                master,
                first,
                second,
                ..
            } => {
                let mut slots = vec![("first", first), ("second", second)];
                slots.extend(master.as_ref().map(|master| ("master", master)));
                slots
            }
            State::Compact { low, first, second } => {
                let mut slots = vec![
                    ("first_codes", &first.codes),
                    ("first_scales", &first.scales),
                    ("second_codes", &second.codes),
                    ("second_scales", &second.scales),
                ];
                slots.extend(low.as_ref().map(|low| ("low", low)));
                slots
            }
        }
    }

    /// The names of this parameter's tensors in `state`, which is whole and fits.
    pub(super) fn check(&self, state: &BTreeMap<String, Tensor>) -> Result<Vec<String>> {
        let is_compact = state.contains_key(&self.key("first_codes"));
        let count = self.var.elem_count();
        let f32_weights = self.var.dtype() == DType::F32;
        let own = || self.var.dims().to_vec();
        let blocks = || vec![count.div_ceil(BLOCK)];
        let mut expected = if is_compact {
            vec![
                ("first_codes", vec![count]),
                ("first_scales", blocks()),
                ("second_codes", vec![count]),
                ("second_scales", blocks()),
            ]
        } else {
            vec![("first", own()), ("second", own())]
        };
        match (is_compact, f32_weights) {
            (true, false) => expected.push(("low", vec![count])),
            (false, false) => expected.push(("master", own())),
            // In `host`, f32 weights have a master too.
            (false, true) if state.contains_key(&self.key("master")) => {
                expected.push(("master", own()));
            }
            (_, true) => {}
        }
        let names = expected.into_iter().map(|(slot, dims)| {
            let name = self.key(slot);
            match state.get(&name) {
                None => bail!("optimizer state: `{name}` is missing"),
                Some(saved) if saved.dims() != dims => bail!(
                    "optimizer state: `{name}` has shape {:?}, the model needs {dims:?}",
                    saved.dims()
                ),
                Some(_) => Ok(name),
            }
        });
        names.collect()
    }

    /// Takes over its part of a state that [`Self::check`] has accepted.
    pub(super) fn load(&mut self, state: &BTreeMap<String, Tensor>, updates: i64) -> Result<()> {
        let saved = |slot: &str| state.get(&self.key(slot));
        let same = self
            .slots()
            .iter()
            .all(|(slot, own)| saved(slot).is_some_and(|saved| saved.dtype() == own.dtype()));
        if same {
            self.take(state)?;
        } else {
            let values = self.values_of(state)?;
            self.set_values(&values)?;
        }
        self.updates = updates;
        self.restore_weight()
    }

    fn key(&self, slot: &str) -> String {
        format!("{slot}.{}", self.name)
    }

    /// A state of the same format, bit by bit.
    fn take(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let (name, device) = (self.name.clone(), self.var.device().clone());
        // A copy of our own: in-place updates must not reach the caller's tensors.
        let fresh = |slot: &str, device: &Device| -> Result<Tensor> {
            state[&format!("{slot}.{name}")].to_device(device)?.copy()
        };
        match &mut self.state {
            State::Full {
                master,
                first,
                second,
                on_host,
            } => {
                let device = if *on_host { &Device::Cpu } else { &device };
                (*first, *second) = (fresh("first", device)?, fresh("second", device)?);
                if let Some(master) = master {
                    *master = fresh("master", device)?;
                }
            }
            State::Compact { low, first, second } => {
                for (moment, codes, scales) in [
                    (first, "first_codes", "first_scales"),
                    (second, "second_codes", "second_scales"),
                ] {
                    moment.codes = fresh(codes, &device)?;
                    moment.scales = fresh(scales, &device)?;
                }
                if let Some(low) = low {
                    *low = fresh("low", &device)?;
                }
            }
        }
        Ok(())
    }

    /// The weights of a state that was loaded are those of its masters, whatever they were.
    fn restore_weight(&self) -> Result<()> {
        match &self.state {
            State::Full {
                master: Some(master),
                ..
            } => {
                let weight = master.to_dtype(self.var.dtype())?;
                self.var.set(&weight.to_device(self.var.device())?)
            }
            _ => Ok(()),
        }
    }

    /// What a state of either format means.
    fn values_of(&self, state: &BTreeMap<String, Tensor>) -> Result<Values> {
        let saved = |slot: &str| state.get(&self.key(slot));
        let weight = self.var.as_detached_tensor().to_device(&Device::Cpu)?;
        let moment = |slot: &str, decode: fn(u8, f32) -> f32| {
            if let Some(values) = saved(slot) {
                return flat(values);
            }
            let codes = on_cpu(&state[&self.key(&format!("{slot}_codes"))])?.to_vec1::<u8>()?;
            let scales = flat(&state[&self.key(&format!("{slot}_scales"))])?;
            let blocks = codes.chunks(BLOCK).zip(scales);
            let decoded = |(codes, scale): (&[u8], f32)| -> Vec<f32> {
                codes.iter().map(|code| decode(*code, scale)).collect()
            };
            Ok(blocks.flat_map(decoded).collect())
        };
        let master = match (saved("master"), saved("low")) {
            (Some(master), _) => flat(master)?,
            (None, Some(low)) => {
                let weight = weight.flatten_all()?.to_vec1::<bf16>()?;
                let halves = weight.iter().zip(on_cpu(low)?.to_vec1::<i16>()?);
                halves
                    .map(|(weight, low)| compact::join(weight.to_bits(), low))
                    .collect()
            }
            (None, None) => flat(&weight)?,
        };
        Ok(Values {
            master,
            first: moment("first", compact::first)?,
            second: moment("second", compact::second)?,
        })
    }

    fn set_values(&mut self, values: &Values) -> Result<()> {
        let (shape, device) = (self.var.shape().clone(), self.var.device().clone());
        match &mut self.state {
            State::Full {
                master,
                first,
                second,
                on_host,
            } => {
                let device = if *on_host { &Device::Cpu } else { &device };
                let tensor = |values: &[f32]| Tensor::from_slice(values, &shape, device);
                (*first, *second) = (tensor(&values.first)?, tensor(&values.second)?);
                match master {
                    Some(master) => *master = tensor(&values.master)?,
                    None => self.var.set(&tensor(&values.master)?)?,
                }
            }
            State::Compact { low, first, second } => {
                *first = Moment::of(&values.first, compact::first_code, &device)?;
                *second = Moment::of(&values.second, compact::second_code, &device)?;
                match low {
                    None => {
                        let weight = Tensor::from_slice(&values.master, &shape, &device)?;
                        self.var.set(&weight)?;
                    }
                    Some(low) => {
                        let halves = values.master.iter().map(|master| compact::split(*master));
                        let (weight, rest): (Vec<bf16>, Vec<i16>) = halves
                            .map(|(weight, rest)| (bf16::from_bits(weight), rest))
                            .unzip();
                        let count = rest.len();
                        *low = Tensor::from_vec(rest, count, &device)?;
                        self.var.set(&Tensor::from_vec(weight, &shape, &device)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn master(&self) -> Vec<f32> {
        let slots = self.slots();
        let named = |name: &str| slots.iter().find(|(slot, _)| *slot == name);
        let state: BTreeMap<String, Tensor> = ["master", "low"]
            .iter()
            .filter_map(|name| Some((self.key(name), named(name)?.1.clone())))
            .chain(["first", "second"].map(|name| (self.key(name), self.var.as_detached_tensor())))
            .collect();
        self.values_of(&state).unwrap().master
    }
}

impl Moment {
    fn zeros(count: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            codes: Tensor::zeros(count, DType::U8, device)?,
            scales: Tensor::zeros(count.div_ceil(BLOCK), DType::F32, device)?,
        })
    }

    /// The nearest codes.
    fn of(values: &[f32], encode: fn(f32, f32, u32) -> u8, device: &Device) -> Result<Self> {
        /// Half of what would carry to the next code.
        const HALF: u32 = 0x8000;
        let largest = |block: &[f32]| block.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scales: Vec<f32> = values.chunks(BLOCK).map(largest).collect();
        let blocks = values.chunks(BLOCK).zip(&scales);
        let codes: Vec<u8> = blocks
            .flat_map(|(block, &scale)| block.iter().map(move |x| encode(*x, scale, HALF)))
            .collect();
        let (count, blocks) = (codes.len(), scales.len());
        Ok(Self {
            codes: Tensor::from_vec(codes, count, device)?,
            scales: Tensor::from_vec(scales, blocks, device)?,
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

/// Σ g².
pub(super) fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous()?;
    match (gradient.device().is_cpu(), gradient.dtype()) {
        (true, DType::F32) => cpu::sum_of_squares::<f32>(&gradient),
        (true, DType::BF16) => cpu::sum_of_squares::<bf16>(&gradient),
        _ => {
            /// Values that are in f32 at a time.
            const SLICE: usize = 1 << 24;
            let flat = gradient.flatten_all()?;
            let count = flat.elem_count();
            let mut sum = 0.0;
            for start in (0..count).step_by(SLICE) {
                let slice = flat.narrow(0, start, SLICE.min(count - start))?;
                let squares = slice.to_dtype(DType::F32)?.sqr()?.sum_all()?;
                sum += f64::from(squares.to_scalar::<f32>()?);
            }
            Ok(sum)
        }
    }
}

fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = on_cpu(tensor)?.to_dtype(DType::F32)?;
    tensor.flatten_all()?.to_vec1()
}
