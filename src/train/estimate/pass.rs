//! What one pass holds at its moments.

use super::Count;
use super::F32;
use super::count;
use super::step_shape::StepShape;
use crate::model::cache::CacheSize;
use crate::model::head::{CHUNK_BYTES, DEVICE_CHUNK};
use crate::model::spec::Spec;
use crate::model::weights::expected_shapes;
use crate::policy::generate::PREFILL_TOKENS;
use crate::train::gradients::GradientPlacement;
use std::num::Saturating;

const ONE: Count = Saturating(1);
const TWO: Count = Saturating(2);

/// What is alive at one moment of learning, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LiveBytes {
    pub(super) gradients: Count,
    pub(super) activations: Count,
    pub(super) logits: Count,
}

impl LiveBytes {
    pub(super) fn sum(&self) -> Count {
        self.gradients + self.activations + self.logits
    }
}

/// Parameters whose name `which` accepts.
pub(super) fn parameters(spec: &Spec, which: impl Fn(&str) -> bool) -> Count {
    let shapes = expected_shapes(spec).into_iter();
    shapes
        .filter(|(name, _)| which(name))
        .map(|(_, shape)| shape.dims().iter().fold(ONE, |all, &dim| all * count(dim)))
        .fold(Count::default(), |sum, values| sum + values)
}

/// Bytes of `per_row` f32 values for each of `rows` rows.
fn f32_bytes(rows: usize, per_row: usize) -> Count {
    count(rows) * count(per_row) * F32
}

/// The memory of one pass, by what there is in it.
pub(super) struct PassMemory<'a> {
    pub(super) spec: &'a Spec,
    pub(super) shape: &'a StepShape,
    /// Bytes of a weight or an activation.
    pub(super) bytes: Count,
    pub(super) trains_vision: bool,
    /// Where gradients wait for the update.
    pub(super) gradient_placement: GradientPlacement,
    /// Kernels do the work.
    pub(super) by_kernels: bool,
    /// The loss reads the bias model's logits too.
    pub(super) exact_kl: bool,
}

impl PassMemory<'_> {
    pub(super) fn parameters(&self, which: impl Fn(&str) -> bool) -> Count {
        parameters(self.spec, which)
    }

    pub(super) fn is_trained(&self, name: &str) -> bool {
        self.trains_vision || !name.starts_with("visual.")
    }

    /// Activations of `per_row` values for each of `rows` rows.
    fn activations(&self, rows: usize, per_row: usize) -> Count {
        count(rows) * count(per_row) * self.bytes
    }

    /// Width of the decoder, of its keys, and of its MLP.
    fn widths(&self) -> [usize; 3] {
        let text = &self.spec.text;
        let keys = text.num_kv_heads * text.head_dim();
        [text.hidden_size, keys, text.intermediate_size]
    }

    /// All keys and values.
    pub(super) fn cache(&self, size: &CacheSize) -> Count {
        let [_, keys, _] = self.widths();
        let tokens =
            count(size.prompts) * count(size.prompt_len) + count(size.rows) * count(size.capacity);
        // A CPU keeps them as attention reads them, in f32.
        let bytes = if self.by_kernels { self.bytes } else { F32 };
        TWO * count(self.spec.text.num_layers) * count(keys) * tokens * bytes
    }

    /// Reading as many prompts as go through the model at once.
    pub(super) fn prefill(&self) -> Count {
        let [hidden, keys, mlp] = self.widths();
        let longest = self.shape.cache.map_or(0, |cache| cache.prompt_len);
        let rows = self.shape.prompt_tokens.min(PREFILL_TOKENS.max(longest));
        let share = rows as f64 / self.shape.prompt_tokens.max(1) as f64;
        let patches = (self.shape.patches as f64 * share).ceil() as usize;
        // The embedded prompts, a layer's input, its output so far, queries and attention's output; the MLP.
        let layer = self.activations(rows, 6 * hidden + 2 * keys + 3 * mlp);
        layer.max(self.pixels(patches) + self.vision_forward(patches))
    }

    /// Pixels of `patches` on the device.
    fn pixels(&self, patches: usize) -> Count {
        f32_bytes(patches, self.spec.vision.patch_dim())
    }

    /// The tower's forward pass without what it keeps: patches in window order, or a block.
    fn vision_forward(&self, patches: usize) -> Count {
        let vision = &self.spec.vision;
        let (width, mlp) = (vision.hidden_size, vision.intermediate_size);
        let embed = self.activations(patches, vision.patch_dim() + width);
        let attention = self.activations(patches, 10 * width);
        let block = self.activations(patches, 7 * width + 3 * mlp);
        embed.max(attention).max(block)
    }

    /// The peak of one pass of `backward`, which keeps the inputs of all layers and then consumes them from the last.
    pub(super) fn learning(&self) -> LiveBytes {
        let (shape, text, vision) = (self.shape, &self.spec.text, &self.spec.vision);
        let [hidden, keys, mlp] = self.widths();
        let gradients = |prefix: &str| {
            let of = |name: &str| name.starts_with(prefix) && self.is_trained(name);
            self.parameters(of) * self.bytes
        };
        let table = self.activations(text.vocab_size, hidden);
        let layers = gradients("model.layers.");
        let one_layer = gradients("model.layers.0.");
        // Gradients for host memory are on the device until they are copied: a layer's, or the table's.
        let kept = |here: Count, on_their_way: Count| match self.gradient_placement {
            GradientPlacement::Device => here,
            GradientPlacement::Host => on_their_way,
        };

        let trace = if shape.patches == 0 {
            Count::default()
        } else {
            self.activations(shape.patches, (vision.depth + 1) * vision.hidden_size)
        };
        let video = self.pixels(shape.patches) + trace;
        let inputs = self.activations(shape.rows, text.num_layers * hidden);
        let layer = self
            .activations(shape.rows, 7 * hidden + 2 * keys + 5 * mlp)
            .max(self.attention_backward());
        let moment = |gradients, activations| LiveBytes {
            gradients,
            activations,
            logits: Count::default(),
        };

        let none = Count::default();
        let first = moment(none, video + self.vision_forward(shape.patches));
        let mut head = self.head();
        head.activations += video + inputs;
        let last_layer = moment(table, video + inputs + layer);
        let first_layer = moment(
            kept(table + layers, table.max(TWO * one_layer)),
            video + layer,
        );
        // The table of embeddings, to which the decoder's input adds; on its way, that is a table of its own.
        let embedding = moment(
            kept(layers + table, TWO * table + one_layer),
            video + self.sums_by_id(),
        );
        let tower = if self.trains_vision {
            let block = gradients("visual.blocks.0.");
            moment(
                kept(layers + table, table + TWO * block),
                video + self.vision_backward(),
            )
        } else {
            LiveBytes::default()
        };
        let end = moment(kept(gradients(""), table), none);
        [first, head, last_layer, first_layer, embedding, tower, end]
            .into_iter()
            .max_by_key(LiveBytes::sum)
            .unwrap_or_default()
    }

    /// What is beside the table while the embedding's gradients add up by token in f32: the rows, and twice the sums.
    fn sums_by_id(&self) -> Count {
        let [hidden, ..] = self.widths();
        self.activations(self.shape.rows, 2 * hidden) + f32_bytes(self.shape.rows, 3 * hidden)
    }

    /// A layer's attention and its gradients by kernels; those of keys and values are there once for each of the query
    /// heads that share them, in f32, before they are added up.
    fn attention_backward(&self) -> Count {
        if !self.by_kernels {
            return Count::default();
        }
        let [hidden, keys, _] = self.widths();
        let parts = f32_bytes(self.shape.rows, 2 * hidden);
        self.activations(self.shape.rows, 7 * hidden + 4 * keys) + parts
    }

    /// The target rows, their logits a chunk at a time, the head's gradient.
    fn head(&self) -> LiveBytes {
        let [hidden, ..] = self.widths();
        let vocabulary = self.spec.text.vocab_size;
        let weight = count(vocabulary) * count(hidden);
        // Logits are f32 in every model.
        let all = f32_bytes(self.shape.targets, vocabulary);
        let (models, read) = if self.exact_kl { (TWO, 4) } else { (ONE, 3) };
        if !self.by_kernels {
            return LiveBytes {
                gradients: weight * F32,
                activations: self.activations(self.shape.targets, 2 * hidden),
                logits: models * all.min(count(CHUNK_BYTES)),
            };
        }
        let most = count(CHUNK_BYTES * DEVICE_CHUNK);
        let chunk = all.min(most);
        let none = Count::default();
        // The sum over several chunks in f32.
        let sum = if all > most { weight * F32 } else { none };
        // In the model's format; in f32 it takes the logits' place.
        let slopes = chunk / F32 * self.bytes;
        let beside = if self.bytes == F32 { none } else { slopes };
        let moment = |gradients, logits| LiveBytes {
            gradients,
            activations: self.activations(self.shape.targets, read * hidden),
            logits,
        };
        let scored = moment(sum, models * chunk + beside);
        let multiplied = moment(sum + weight * self.bytes, slopes);
        if scored.sum() > multiplied.sum() {
            scored
        } else {
            multiplied
        }
    }

    /// One block of the tower computed again with its gradients: attention or the MLP.
    fn vision_backward(&self) -> Count {
        let (vision, patches) = (&self.spec.vision, self.shape.patches);
        let (width, mlp) = (vision.hidden_size, vision.intermediate_size);
        let rows = if self.by_kernels { 20 } else { 17 };
        let attention = self.activations(patches, rows * width);
        attention.max(self.activations(patches, 9 * width + 5 * mlp))
    }
}
