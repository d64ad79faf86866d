//! Sizes of what one pass holds at its moments.

use super::memory::{F32, Load};
use crate::model::head::{CHUNK_BYTES, DEVICE_CHUNK};
use crate::model::spec::Spec;
use crate::model::weights::expected_shapes;
use crate::policy::generate::PREFILL_TOKENS;
use crate::train::gradients::GradientPlacement;

/// What is alive at one moment of learning, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moment {
    pub(super) gradients: u64,
    pub(super) activations: u64,
    pub(super) logits: u64,
}

impl Moment {
    pub(super) fn sum(&self) -> u64 {
        self.gradients + self.activations + self.logits
    }
}

/// Parameters whose name `which` accepts.
pub(super) fn parameters(spec: &Spec, which: impl Fn(&str) -> bool) -> u64 {
    let shapes = expected_shapes(spec).into_iter();
    shapes
        .filter(|(name, _)| which(name))
        .map(|(_, shape)| shape.elem_count() as u64)
        .sum()
}

/// Sizes of one pass.
pub(super) struct Sizes<'a> {
    pub(super) spec: &'a Spec,
    pub(super) load: &'a Load,
    /// Bytes of a weight or an activation.
    pub(super) bytes: u64,
    pub(super) trains_vision: bool,
    /// Where gradients wait for the update.
    pub(super) home: GradientPlacement,
    /// Kernels do the work.
    pub(super) by_kernels: bool,
    /// The loss reads the bias model's logits too.
    pub(super) exact_kl: bool,
}

impl Sizes<'_> {
    pub(super) fn parameters(&self, which: impl Fn(&str) -> bool) -> u64 {
        parameters(self.spec, which)
    }

    pub(super) fn is_trained(&self, name: &str) -> bool {
        self.trains_vision || !name.starts_with("visual.")
    }

    /// Activations of `per_row` values for each of `rows` rows.
    fn activations(&self, rows: usize, per_row: usize) -> u64 {
        (rows * per_row) as u64 * self.bytes
    }

    /// Width of the decoder, of its keys, and of its MLP.
    fn widths(&self) -> [usize; 3] {
        let text = &self.spec.text;
        let keys = text.num_kv_heads * text.head_dim();
        [text.hidden_size, keys, text.intermediate_size]
    }

    /// Reading as many prompts as go through the model at once.
    pub(super) fn prefill(&self) -> u64 {
        let [hidden, keys, mlp] = self.widths();
        let longest = self.load.cache.map_or(0, |cache| cache.prompt_len);
        let rows = self.load.prompt_tokens.min(PREFILL_TOKENS.max(longest));
        let share = rows as f64 / self.load.prompt_tokens.max(1) as f64;
        let patches = (self.load.patches as f64 * share).ceil() as usize;
        // The embedded prompts, a layer's input, its output so far, queries and attention's output; the MLP.
        let layer = self.activations(rows, 6 * hidden + 2 * keys + 3 * mlp);
        layer.max(self.pixels(patches) + self.vision_forward(patches))
    }

    /// Pixels of `patches` on the device.
    fn pixels(&self, patches: usize) -> u64 {
        (patches * self.spec.vision.patch_dim()) as u64 * F32
    }

    /// The tower's forward pass without what it keeps: patches in window order, or a block.
    fn vision_forward(&self, patches: usize) -> u64 {
        let vision = &self.spec.vision;
        let (width, mlp) = (vision.hidden_size, vision.intermediate_size);
        let embed = self.activations(patches, vision.patch_dim() + width);
        let attention = self.activations(patches, 10 * width);
        let block = self.activations(patches, 7 * width + 3 * mlp);
        embed.max(attention).max(block)
    }

    /// The peak of one pass of `backward`, which keeps the inputs of all layers and then consumes them from the last.
    pub(super) fn learning(&self) -> Moment {
        let (load, text, vision) = (self.load, &self.spec.text, &self.spec.vision);
        let [hidden, keys, mlp] = self.widths();
        let gradients = |prefix: &str| {
            let of = |name: &str| name.starts_with(prefix) && self.is_trained(name);
            self.parameters(of) * self.bytes
        };
        let table = (text.vocab_size * hidden) as u64 * self.bytes;
        let layers = gradients("model.layers.");
        let one_layer = gradients("model.layers.0.");
        // Gradients for host memory are on the device until they are copied: a layer's, or the table's.
        let kept = |here: u64, on_their_way: u64| match self.home {
            GradientPlacement::Device => here,
            GradientPlacement::Host => on_their_way,
        };

        let trace = if load.patches == 0 {
            0
        } else {
            self.activations(load.patches, (vision.depth + 1) * vision.hidden_size)
        };
        let video = self.pixels(load.patches) + trace;
        let inputs = self.activations(load.rows, text.num_layers * hidden);
        let layer = self
            .activations(load.rows, 7 * hidden + 2 * keys + 5 * mlp)
            .max(self.attention_backward());
        let moment = |gradients, activations| Moment {
            gradients,
            activations,
            logits: 0,
        };

        let first = moment(0, video + self.vision_forward(load.patches));
        let mut head = self.head();
        head.activations += video + inputs;
        let last_layer = moment(table, video + inputs + layer);
        let first_layer = moment(
            kept(table + layers, table.max(2 * one_layer)),
            video + layer,
        );
        // The table of embeddings, to which the decoder's input adds; on its way, that is a table of its own.
        let embedding = moment(
            kept(layers + table, 2 * table + one_layer),
            video + self.sums_by_id(),
        );
        let tower = if self.trains_vision {
            let block = gradients("visual.blocks.0.");
            moment(
                kept(layers + table, table + 2 * block),
                video + self.vision_backward(),
            )
        } else {
            Moment::default()
        };
        let end = moment(kept(gradients(""), table), 0);
        [first, head, last_layer, first_layer, embedding, tower, end]
            .into_iter()
            .max_by_key(Moment::sum)
            .unwrap_or_default()
    }

    /// What is beside the table while the embedding's gradients add up by token in f32: the rows, and twice the sums.
    fn sums_by_id(&self) -> u64 {
        let [hidden, ..] = self.widths();
        self.activations(self.load.rows, 2 * hidden) + 3 * (self.load.rows * hidden) as u64 * F32
    }

    /// A layer's attention and its gradients by kernels; those of keys and values are there once for each of the query
    /// heads that share them, in f32, before they are added up.
    fn attention_backward(&self) -> u64 {
        if !self.by_kernels {
            return 0;
        }
        let [hidden, keys, _] = self.widths();
        let parts = 2 * (self.load.rows * hidden) as u64 * F32;
        self.activations(self.load.rows, 7 * hidden + 4 * keys) + parts
    }

    /// The target rows, their logits a chunk at a time, the head's gradient.
    fn head(&self) -> Moment {
        let [hidden, ..] = self.widths();
        let vocabulary = self.spec.text.vocab_size;
        let weight = (vocabulary * hidden) as u64;
        // Logits are f32 in every model.
        let chunk = |most: usize| {
            let all = (self.load.targets * vocabulary) as u64 * F32;
            (all.min(most as u64), all > most as u64)
        };
        let models = if self.exact_kl { 2 } else { 1 };
        if self.by_kernels {
            let (chunk, several) = chunk(CHUNK_BYTES * DEVICE_CHUNK);
            // The sum over several chunks in f32.
            let sum = if several { weight * F32 } else { 0 };
            // In the model's format; in f32 it takes the logits' place.
            let slopes = chunk / F32 * self.bytes;
            let beside = if self.bytes == F32 { 0 } else { slopes };
            let moment = |gradients, logits| Moment {
                gradients,
                activations: self.activations(self.load.targets, (2 + models as usize) * hidden),
                logits,
            };
            let scored = moment(sum, models * chunk + beside);
            let multiplied = moment(sum + weight * self.bytes, slopes);
            return if scored.sum() > multiplied.sum() {
                scored
            } else {
                multiplied
            };
        }
        let (chunk, _) = chunk(CHUNK_BYTES);
        Moment {
            gradients: weight * F32,
            activations: self.activations(self.load.targets, 2 * hidden),
            logits: models * chunk,
        }
    }

    /// One block of the tower computed again with its gradients: attention or the MLP.
    fn vision_backward(&self) -> u64 {
        let (vision, patches) = (&self.spec.vision, self.load.patches);
        let (width, mlp) = (vision.hidden_size, vision.intermediate_size);
        let rows = if self.by_kernels { 20 } else { 17 };
        let attention = self.activations(patches, rows * width);
        attention.max(self.activations(patches, 9 * width + 5 * mlp))
    }
}
