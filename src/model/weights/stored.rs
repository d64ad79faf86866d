//! The tensors of a checkpoint folder in their files: found, checked, read.

use super::expected_shapes;
use super::files::Files;
use super::names::Misfits;
use super::names::foreign_prefix;
use super::names::hub_name;
use super::names::is_read;
use super::values;
use crate::model::Qwen25Vl;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::spec::Spec;
use crate::model::spec::companions;
use crate::util::words::counted;
use candle_core::DType;
use candle_core::Device;
use candle_core::Shape;
use candle_core::Tensor;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Bytes of a second head that are compared where only headers are looked at.
const GLANCE: usize = 1 << 16;

/// A tensor's file and its name there.
type Place = (usize, String);

/// The tensors of a checkpoint folder, in their mapped files.
pub(crate) struct Stored {
    folder: PathBuf,
    files: Files,
    /// By the hub's names.
    places: BTreeMap<String, Place>,
    /// A head that is stored though it is the embedding.
    tied_head: Option<Place>,
}

impl Stored {
    /// Opens a folder whose every name, shape and format is as `spec` says, and whose tokenizer and processor fit it.
    ///
    /// # Errors
    /// Names what does not fit, and what to do.
    pub(crate) fn open(folder: &Path, spec: &Spec) -> Result<Self, CheckpointError> {
        let mut stored = Self {
            folder: folder.to_path_buf(),
            files: Files::open(folder)?,
            places: BTreeMap::new(),
            tied_head: None,
        };
        stored.find(spec)?;
        stored.check_formats()?;
        stored.check_index();
        stored.check_tied_head(GLANCE)?;
        companions::check(folder, spec)?;
        Ok(stored)
    }

    /// The hub's names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The hub's names of the tensors, with format and shape.
    pub(crate) fn describe(&self) -> candle_core::Result<Vec<(&str, DType, Shape)>> {
        let places = self.places.iter();
        places
            .map(|(name, place)| {
                let view = self.view(place)?;
                let dtype = DType::try_from(view.dtype())?;
                Ok((name.as_str(), dtype, Shape::from(view.shape())))
            })
            .collect()
    }

    /// The tensor that the hub calls `name`.
    pub(crate) fn tensor(&self, name: &str, device: &Device) -> candle_core::Result<Tensor> {
        match self.places.get(name) {
            Some((file, stored)) => self.files.shards[*file].mapped.load(stored, device),
            None => candle_core::bail!("no tensor is named {name}"),
        }
    }

    /// Bytes of all tensors in the files.
    pub(super) fn bytes(&self) -> u64 {
        let shards = self.files.shards.iter();
        let views = shards.flat_map(|shard| shard.mapped.tensors());
        views.map(|(_, view)| view.data().len() as u64).sum()
    }

    /// Reads every value once. Those that are huge, and matrices of zeros, are warned of.
    ///
    /// # Errors
    /// The first tensor with a value that is not finite, and a second head that is not the embedding.
    pub(crate) fn check_values(&self) -> Result<(), CheckpointError> {
        let (mut huge, mut zero) = (Vec::new(), Vec::new());
        for (name, place) in &self.places {
            let view = self.view(place)?;
            let Some(extent) = values::examine(DType::try_from(view.dtype())?, view.data()) else {
                continue;
            };
            if let Some((first, count)) = extent.bad {
                return Err(CheckpointError::NotFinite {
                    path: self.files.shards[place.0].path.clone(),
                    tensor: name.clone(),
                    place: values::place(first, view.shape()),
                    count,
                    all: view.shape().iter().product(),
                });
            }
            if extent.largest > values::HUGE {
                huge.push(format!("{name} ({:.1e})", extent.largest));
            }
            // A new bias is zero, a matrix never: it would give nothing, whatever it is given.
            if extent.largest == 0.0 && view.shape().len() > 1 {
                zero.push(name.clone());
            }
        }
        let folder = self.folder.display();
        if !huge.is_empty() {
            tracing::warn!(
                "{folder}: weights above {:.0e}, which no published model has: {}; was it damaged, or has its training diverged?",
                values::HUGE,
                few(&huge)
            );
        }
        if !zero.is_empty() {
            tracing::warn!(
                "{folder}: all zero, so that nothing comes through: {}; was the model saved whole?",
                few(&zero)
            );
        }
        self.check_tied_head(usize::MAX)
    }

    fn view(&self, (file, stored): &Place) -> candle_core::Result<TensorView<'_>> {
        self.files.shards[*file].mapped.get(stored)
    }

    /// Finds every tensor of `spec`, once every name and shape is as expected.
    fn find(&mut self, spec: &Spec) -> Result<(), CheckpointError> {
        let expected = expected_shapes(spec);
        let (mut misshapen, mut unexpected, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        let mut prefixes: BTreeMap<String, usize> = BTreeMap::new();
        for (file, shard) in self.files.shards.iter().enumerate() {
            let mut views = shard.mapped.tensors();
            views.sort_by(|a, b| a.0.cmp(&b.0));
            for (stored_name, view) in views {
                let name = hub_name(&stored_name);
                if name == Qwen25Vl::HEAD && spec.tie_word_embeddings {
                    self.tied_head = Some((file, stored_name));
                    continue;
                }
                let Some(shape) = expected.get(&name) else {
                    if !is_derived(&name) {
                        unexpected.push(stored_name);
                    }
                    continue;
                };
                if view.shape().contains(&0) {
                    empty.push(name.clone());
                }
                if shape.dims() != view.shape() {
                    let (wanted, found) = (shape.dims(), view.shape());
                    misshapen.push(format!("{name}: expected {wanted:?}, found {found:?}"));
                }
                if let Some(prefix) = foreign_prefix(&stored_name, &name) {
                    *prefixes.entry(prefix.to_owned()).or_default() += 1;
                }
                let place = (file, stored_name.clone());
                if self.places.insert(name, place).is_some() {
                    unexpected.push(format!("{stored_name} (a second time)"));
                }
            }
        }
        let missing: Vec<String> = expected
            .keys()
            .filter(|name| !self.places.contains_key(*name))
            .cloned()
            .collect();
        if missing.is_empty() && unexpected.is_empty() && misshapen.is_empty() {
            self.say_prefixes(&prefixes);
            return Ok(());
        }
        let misfits = Misfits {
            missing: &missing,
            unexpected: &unexpected,
            empty: &empty,
        };
        Err(CheckpointError::Tensors {
            folder: self.folder.clone(),
            cause: misfits.cause(),
            missing,
            unexpected,
            misshapen,
        })
    }

    fn say_prefixes(&self, prefixes: &BTreeMap<String, usize>) {
        if let Some((most, _)) = prefixes.iter().max_by_key(|(_, count)| **count) {
            tracing::info!(
                "{}: {} under names of another program, such as {most}…: taken as the hub's",
                self.folder.display(),
                counted(prefixes.values().sum(), "tensor"),
            );
        }
    }

    fn check_formats(&self) -> Result<(), CheckpointError> {
        let mut other = Vec::new();
        for (name, place) in &self.places {
            let dtype = self.view(place)?.dtype();
            if !is_read(dtype) {
                other.push(format!("{name} ({dtype:?})"));
            }
        }
        if other.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::NotWeights {
            path: self.folder.clone(),
            reason: format!(
                "{} in a format that is not read: {}: the model is quantized; take the one that it was made from, in bf16, f16 or f32",
                counted(other.len(), "tensor"),
                few(&other)
            ),
        })
    }

    /// Says which tensors lie in another file than the index says.
    fn check_index(&self) {
        let places = self.places.values().chain(&self.tied_head);
        let elsewhere: Vec<String> = places
            .filter_map(|(file, stored)| {
                let named = self.files.by_index.get(stored)?;
                let own = self.files.shards[*file].path.file_name()?.to_string_lossy();
                (own != named.as_str()).then(|| format!("{stored} (in {own}, not in {named})"))
            })
            .collect();
        if !elsewhere.is_empty() {
            tracing::warn!(
                "{}: {} in another file than the index says: {}",
                self.folder.display(),
                counted(elsewhere.len(), "tensor"),
                few(&elsewhere)
            );
        }
    }

    /// Refuses a stored head that is not the embedding, to which config.json ties it, in the first `most` bytes.
    ///
    /// transformers 4 reads the embedding for it and transformers 5 the head, so that it is not known which is meant.
    fn check_tied_head(&self, most: usize) -> Result<(), CheckpointError> {
        let (Some(head), Some(embedding)) = (&self.tied_head, self.places.get(Qwen25Vl::EMBEDDING))
        else {
            return Ok(());
        };
        let (head, embedding) = (self.view(head)?, self.view(embedding)?);
        let beginning = |view: &TensorView<'_>| view.data().len().min(most);
        let is_same = head.dtype() == embedding.dtype()
            && head.shape() == embedding.shape()
            && head.data()[..beginning(&head)] == embedding.data()[..beginning(&embedding)];
        if is_same {
            return Ok(());
        }
        Err(CheckpointError::BadField {
            path: self.folder.join("config.json"),
            field: "tie_word_embeddings".into(),
            reason: format!(
                "true, but the weights hold another {} than {}: set it to false to use that head (as transformers 5 does), or take it \
                 out of the weights to use the embedding (as transformers 4 does)",
                Qwen25Vl::HEAD,
                Qwen25Vl::EMBEDDING
            ),
        })
    }
}

/// Rotary frequencies, which follow from the configuration.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_pos_emb.inv_freq")
}

/// The first three of a list, and how many more there are.
pub(crate) fn few(all: &[String]) -> String {
    let shown = all.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
