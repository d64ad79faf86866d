//! The frozen model that the KL term is measured against (CDPO's bias model), whose layers may be kept elsewhere or in another format than the policy's.

use crate::config::BiasPlacement;
use crate::model::Qwen25Vl;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::head::{CHUNK_BYTES, Head, ReferenceRows, TokenScores};
use crate::model::int8::Int8Layer;
use crate::model::offload::{self, HostLayer};
use crate::model::spec::Spec;
use crate::model::text::DecoderLayer;
use crate::model::vision::VisionBlock;
use crate::model::weights::{self, NamedTensors};
use crate::policy::inputs::PackedInputs;
use crate::policy::logprobs::{self, Layers};
use candle_core::{DType, Device, Result, Tensor};
use std::path::Path;

/// A model that says how likely it finds a completion, and nothing else.
#[derive(Debug)]
pub struct ReferenceModel {
    /// The whole model, or what is left of it without the layers that are placed elsewhere.
    model: Qwen25Vl,
    placed: Placed,
}

/// The layers, those of the decoder and of the vision tower.
#[derive(Debug)]
enum Placed {
    Device,
    Host([Vec<HostLayer>; 2]),
    Int8([Vec<Int8Layer>; 2]),
}

impl ReferenceModel {
    /// Reads a checkpoint folder for use on `device`.
    pub fn load(
        folder: &Path,
        dtype: DType,
        device: &Device,
        placement: BiasPlacement,
    ) -> std::result::Result<Self, CheckpointError> {
        let spec = Spec::load(folder)?;
        let first = match placement {
            BiasPlacement::Device => device,
            BiasPlacement::Host | BiasPlacement::Int8 => &Device::Cpu,
        };
        let tensors = weights::load(folder, &spec, dtype, first)?;
        Ok(Self::new(&spec, tensors, device, placement)?)
    }

    /// A reference model of these tensors, which are on `device` for a placement there, else on the CPU.
    pub(crate) fn new(
        spec: &Spec,
        mut tensors: NamedTensors,
        device: &Device,
        placement: BiasPlacement,
    ) -> Result<Self> {
        if placement == BiasPlacement::Device {
            return Ok(Self {
                model: Qwen25Vl::new(spec, &tensors)?,
                placed: Placed::Device,
            });
        }
        let mut take = |prefix: &str| -> NamedTensors {
            let names = tensors.iter().map(|(name, _)| name.to_owned());
            let names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
            let taken = names.into_iter().filter_map(|name| {
                let tensor = tensors.remove(&name)?;
                Some((name, tensor))
            });
            taken.collect()
        };
        let decoder: Vec<NamedTensors> = (0..spec.text.num_layers)
            .map(|index| take(&format!("model.layers.{index}.")))
            .collect();
        let tower: Vec<NamedTensors> = (0..spec.vision.depth)
            .map(|index| take(&format!("visual.blocks.{index}.")))
            .collect();
        let layers = [decoder, tower];
        let placed = match placement {
            BiasPlacement::Int8 => {
                Placed::Int8(place(layers, |layer| Int8Layer::new(layer, device))?)
            }
            _ => Placed::Host(place(layers, |layer| HostLayer::new(layer, device))?),
        };
        let mut frame = spec.clone();
        (frame.text.num_layers, frame.vision.depth) = (0, 0);
        let rest = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_device(device)?)))
            .collect::<Result<NamedTensors>>()?;
        let mut model = Qwen25Vl::new(&frame, &rest)?;
        model.spec = spec.clone();
        Ok(Self { model, placed })
    }

    /// What its checkpoint says about it.
    pub fn spec(&self) -> &Spec {
        &self.model.spec
    }

    /// Log-probability and entropy it gives to every target of `inputs`.
    pub fn score(&self, inputs: &PackedInputs) -> Result<TokenScores> {
        self.score_hidden(&self.target_hidden(inputs)?, inputs)
    }

    /// As [`Self::score`], from what [`Self::target_hidden`] gave.
    pub(crate) fn score_hidden(
        &self,
        hidden: &Tensor,
        inputs: &PackedInputs,
    ) -> Result<TokenScores> {
        let (ops, head) = (self.model.ops(), &self.model.head);
        Head::new(ops, hidden, head, &inputs.target_ids, None, CHUNK_BYTES)?.scores()
    }

    /// Its normed output `[R, H]` at the target rows, from which [`Self::reference_rows`] makes exact divergences.
    pub(crate) fn target_hidden(&self, inputs: &PackedInputs) -> Result<Tensor> {
        logprobs::target_hidden_through(&self.model, self, inputs)
    }

    /// The reference's side of an exact divergence, from [`Self::target_hidden`].
    pub(crate) fn reference_rows<'a>(&'a self, hidden: &'a Tensor) -> ReferenceRows<'a> {
        ReferenceRows {
            hidden,
            weight: &self.model.head,
        }
    }
}

fn place<T>(
    layers: [Vec<NamedTensors>; 2],
    each: impl Fn(NamedTensors) -> Result<T>,
) -> Result<[Vec<T>; 2]> {
    let all = |layers: Vec<NamedTensors>| layers.into_iter().map(&each).collect::<Result<_>>();
    let [decoder, tower] = layers;
    Ok([all(decoder)?, all(tower)?])
}

impl Layers for ReferenceModel {
    fn each_layer(&self, each: &mut dyn FnMut(&DecoderLayer) -> Result<()>) -> Result<()> {
        let (ops, spec) = (self.model.ops(), &self.model.spec.text);
        let mut index = 0;
        let mut made = |tensors: &NamedTensors| {
            each(&DecoderLayer::new(ops, spec, tensors, index)?)?;
            index += 1;
            Ok(())
        };
        match &self.placed {
            Placed::Device => self.model.each_layer(each),
            Placed::Host([layers, _]) => offload::stream(layers, self.model.device(), made),
            Placed::Int8([layers, _]) => layers.iter().try_for_each(|l| made(&l.decode()?)),
        }
    }

    fn each_block(&self, each: &mut dyn FnMut(&VisionBlock) -> Result<()>) -> Result<()> {
        let (ops, spec) = (self.model.ops(), &self.model.spec.vision);
        let mut index = 0;
        let mut made = |tensors: &NamedTensors| {
            each(&VisionBlock::new(ops, spec, tensors, index)?)?;
            index += 1;
            Ok(())
        };
        match &self.placed {
            Placed::Device => self.model.each_block(each),
            Placed::Host([_, blocks]) => offload::stream(blocks, self.model.device(), made),
            Placed::Int8([_, blocks]) => blocks.iter().try_for_each(|b| made(&b.decode()?)),
        }
    }
}
