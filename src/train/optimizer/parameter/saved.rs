//! A parameter's state as it is saved, and from what was saved in any format.

use super::{Moment, Parameter, State};
use crate::train::optimizer::compact::{self, BLOCK};
use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;
use std::collections::BTreeMap;

/// A state as it is in `full`, flat and on the CPU.
struct Values {
    master: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Parameter {
    /// The state's tensors under the names they are saved by.
    pub(in crate::train::optimizer) fn slots(&self) -> Vec<(&'static str, &Tensor)> {
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
    pub(in crate::train::optimizer) fn check(
        &self,
        state: &BTreeMap<String, Tensor>,
    ) -> Result<Vec<String>> {
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
    pub(in crate::train::optimizer) fn load(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        updates: i64,
    ) -> Result<()> {
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
    pub(in crate::train::optimizer) fn master(&self) -> Vec<f32> {
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
}

fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = on_cpu(tensor)?.to_dtype(DType::F32)?;
    tensor.flatten_all()?.to_vec1()
}
