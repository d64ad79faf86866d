//! The trainable policy (variables, and a model that reads their storage) and the frozen model.

use crate::model::Qwen25Vl;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::head::{ReferenceRows, TokenScores};
use crate::model::spec::Spec;
use crate::model::weights;
use crate::model::weights::NamedTensors;
use crate::policy::inputs::PackedInputs;
use candle_core::{DType, Device, Result, Tensor, Var};
use std::collections::BTreeMap;
use std::path::Path;

mod cuda_graph;
pub mod decode;
mod device_steps;
pub mod generate;
pub mod inputs;
pub mod logprobs;
pub(crate) mod parallel;
pub mod reference;
pub mod sampler;

pub(crate) use cuda_graph::GraphUse;

/// Start of the names of the vision tower's tensors.
const VISION: &str = "visual.";

/// A model that is being trained.
///
/// Every trainable tensor is a [`Var`]; [`Self::model`] reads the same storage, so an optimizer step is seen at once.
#[derive(Debug)]
pub struct Policy {
    vars: BTreeMap<String, Var>,
    frozen: NamedTensors,
    model: Qwen25Vl,
}

impl Policy {
    /// Reads a checkpoint folder. Without `train_vision` the tower's tensors are plain: no gradient is computed.
    pub fn load(
        folder: &Path,
        dtype: DType,
        device: &Device,
        train_vision: bool,
    ) -> std::result::Result<Self, CheckpointError> {
        let spec = Spec::load(folder)?;
        let tensors = weights::load(folder, &spec, dtype, device)?;
        Ok(Self::new(&spec, tensors, train_vision)?)
    }

    /// A policy of these tensors, which it takes over.
    pub fn new(spec: &Spec, tensors: NamedTensors, train_vision: bool) -> Result<Self> {
        let (mut vars, mut frozen) = (BTreeMap::new(), NamedTensors::default());
        for (name, tensor) in tensors {
            if train_vision || !name.starts_with(VISION) {
                vars.insert(name, Var::from_tensor(&tensor)?);
            } else {
                frozen.insert(name, tensor.detach());
            }
        }
        let model = Qwen25Vl::new(spec, &views(&vars, &frozen))?;
        Ok(Self {
            vars,
            frozen,
            model,
        })
    }

    /// The model over views of the variables' storage: nothing records a graph.
    pub fn model(&self) -> &Qwen25Vl {
        &self.model
    }

    /// The trainable tensors by name.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// All tensors by name, for saving.
    pub fn tensors(&self) -> NamedTensors {
        views(&self.vars, &self.frozen)
    }

    /// Whether the vision tower is trained.
    pub(crate) fn trains_vision(&self) -> bool {
        self.frozen.is_empty()
    }
}

/// All tensors by name, over the storage of `vars` and `frozen`.
fn views(vars: &BTreeMap<String, Var>, frozen: &NamedTensors) -> NamedTensors {
    let trained = vars
        .iter()
        .map(|(name, var)| (name.clone(), var.as_detached_tensor()));
    let fixed = frozen
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    trained.chain(fixed).collect()
}

/// A model that is only read. The one that CDPO is measured against is a [`reference::ReferenceModel`].
#[derive(Debug)]
pub struct FrozenModel {
    model: Qwen25Vl,
}

impl FrozenModel {
    /// Reads a checkpoint folder.
    pub fn load(
        folder: &Path,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, CheckpointError> {
        let spec = Spec::load(folder)?;
        let tensors = weights::load(folder, &spec, dtype, device)?;
        Ok(Self::new(&spec, &tensors)?)
    }

    /// A frozen model of these tensors.
    pub(crate) fn new(spec: &Spec, tensors: &NamedTensors) -> Result<Self> {
        Ok(Self {
            model: Qwen25Vl::new(spec, tensors)?,
        })
    }

    /// The network, whose weights nothing changes.
    pub fn model(&self) -> &Qwen25Vl {
        &self.model
    }

    /// Log-probability and entropy it gives to every target of `inputs`.
    pub fn score(&self, inputs: &PackedInputs) -> Result<TokenScores> {
        logprobs::score(&self.model, inputs, None)
    }

    /// Its normed output `[R, H]` at the target rows, from which [`Self::reference_rows`] makes exact divergences.
    pub fn target_hidden(&self, inputs: &PackedInputs) -> Result<Tensor> {
        logprobs::target_hidden(&self.model, inputs)
    }

    /// The bias model's side of an exact divergence, from [`Self::target_hidden`].
    pub fn reference_rows<'a>(&'a self, hidden: &'a Tensor) -> ReferenceRows<'a> {
        ReferenceRows {
            hidden,
            weight: &self.model.head,
        }
    }
}
