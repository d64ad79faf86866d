//! The decoder layer: packed forward, its own backward, prefill and decode.
//!
//! Shapes: `N` packed rows, `H` hidden, `n`/`m` query and key/value heads of width `d`.

use crate::model::cache::LayerCache;
use crate::model::ops::Ops;
use crate::model::ops::decode::DecodePlan;
use crate::model::ops::heads::Heads;
use crate::model::ops::linear::{Affine, sum_rows, weight_gradient};
use crate::model::packed::PackedLayout;
use crate::model::spec::TextSpec;
use crate::model::weights::NamedTensors;
use candle_core::{Result, Tensor};

/// Receives a parameter's name and gradient as soon as it is known.
pub(crate) type GradientSink<'a> = dyn FnMut(&str, Tensor) -> Result<()> + 'a;

/// One decoder layer: attention and MLP, each behind an RMSNorm, each added to its input.
#[derive(Debug, Clone)]
pub struct DecoderLayer {
    ops: Ops,
    prefix: String,
    heads: Heads,
    eps: f64,
    input_norm: Tensor,
    query: Affine,
    key: Affine,
    value: Affine,
    output: Tensor,
    mlp_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// What attention needs of a layer's input: the rotated queries and keys, and the values.
struct Projected {
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl DecoderLayer {
    /// Layer `index` from the checkpoint's tensors (`model.layers.{index}.…`).
    pub(crate) fn new(
        ops: Ops,
        spec: &TextSpec,
        weights: &NamedTensors,
        index: usize,
    ) -> Result<Self> {
        let prefix = format!("model.layers.{index}.");
        let get = |name: &str| weights.get(&format!("{prefix}{name}"));
        let with_bias = |name: &str| -> Result<Affine> {
            Ok((
                get(&format!("self_attn.{name}.weight"))?,
                get(&format!("self_attn.{name}.bias"))?,
            ))
        };
        Ok(Self {
            ops,
            heads: Heads::of(spec),
            eps: spec.rms_norm_eps,
            input_norm: get("input_layernorm.weight")?,
            query: with_bias("q_proj")?,
            key: with_bias("k_proj")?,
            value: with_bias("v_proj")?,
            output: get("self_attn.o_proj.weight")?,
            mlp_norm: get("post_attention_layernorm.weight")?,
            gate: get("mlp.gate_proj.weight")?,
            up: get("mlp.up_proj.weight")?,
            down: get("mlp.down_proj.weight")?,
            prefix,
        })
    }

    /// How this layer's width divides into heads.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// The layer over packed rows: `x [N, H]`, `cos`, `sin` `[N, d/2]` → `[N, H]`.
    pub fn forward_packed(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        layout: &PackedLayout,
    ) -> Result<Tensor> {
        Ok(self.prefill(x, cos, sin, layout)?.0)
    }

    /// As [`Self::forward_packed`], with the rotated keys and the values `[N, m·d]` for a cache.
    pub(crate) fn prefill(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        layout: &PackedLayout,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let Projected { q, k, v, .. } = self.project(x, cos, sin)?;
        let (attended, _) = self
            .ops
            .attention([&q, &k, &v], self.heads, layout.plan())?;
        Ok((self.finish(x, &attended)?, k, v))
    }

    /// One new token per cached row: `x [B, H]`, `cos`, `sin` `[B, d/2]` → `[B, H]`.
    pub(crate) fn decode(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        cache: &LayerCache,
        plan: &DecodePlan,
    ) -> Result<Tensor> {
        let normed = self.ops.rms_norm(x, &self.input_norm, self.eps)?;
        let projections = [&self.query, &self.key, &self.value];
        let attended = self
            .ops
            .decode_attention(&normed, projections, cos, sin, cache, plan)?;
        self.finish(x, &attended)
    }

    fn project(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Projected> {
        let normed = self.ops.rms_norm(x, &self.input_norm, self.eps)?;
        let (q, k) = self
            .ops
            .rotary_projections(&normed, &self.query, &self.key, cos, sin)?;
        let v = self
            .ops
            .linear(&normed, &self.value.0, Some(&self.value.1))?;
        Ok(Projected { normed, q, k, v })
    }

    fn finish(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let added = self.ops.linear(attended, &self.output, None)?;
        let (x, normed) = self.ops.add_rms_norm(x, &added, &self.mlp_norm, self.eps)?;
        let gate = self.ops.linear(&normed, &self.gate, None)?;
        let up = self.ops.linear(&normed, &self.up, None)?;
        x + self
            .ops
            .linear(&self.ops.swiglu(&gate, &up)?, &self.down, None)?
    }

    /// The gradient with respect to `x`, given the one with respect to the layer's output.
    ///
    /// Computes the layer again from its input; each weight's gradient goes to `sink` at once.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        layout: &PackedLayout,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let projected = self.project(x, cos, sin)?;
        let Projected { q, k, v, .. } = &projected;
        let plan = layout.plan();
        let (attended, saved) = self.ops.attention([q, k, v], self.heads, plan)?;
        let added = self.ops.linear(&attended, &self.output, None)?;
        let (middle, normed) = self.ops.add_rms_norm(x, &added, &self.mlp_norm, self.eps)?;
        drop(added);
        let d_middle = self.backward_mlp(&middle, normed, grad_output, sink)?;
        drop(middle);
        self.emit(
            sink,
            "self_attn.o_proj.weight",
            weight_gradient(&d_middle, &attended)?,
        )?;
        let d_attended = d_middle.matmul(&self.output)?;
        drop(attended);
        let d_qkv = self.ops.attention_backward(
            [q, k, v],
            self.heads,
            plan,
            saved.as_ref(),
            &d_attended,
        )?;
        drop(saved);
        let d_normed = self.backward_projections(&projected.normed, cos, sin, d_qkv, sink)?;
        let (dx, d_norm) = self.ops.rms_norm_backward(
            x,
            &self.input_norm,
            self.eps,
            &d_normed,
            Some(&d_middle),
        )?;
        self.emit(sink, "input_layernorm.weight", d_norm)?;
        Ok(dx)
    }

    /// From the layer's output back to `x + attention(x)`, of which `normed` is the norm.
    fn backward_mlp(
        &self,
        middle: &Tensor,
        normed: Tensor,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let gate = self.ops.linear(&normed, &self.gate, None)?;
        let up = self.ops.linear(&normed, &self.up, None)?;
        let d_down = weight_gradient(grad_output, &self.ops.swiglu(&gate, &up)?)?;
        self.emit(sink, "mlp.down_proj.weight", d_down)?;
        let (d_gate, d_up) =
            self.ops
                .swiglu_backward(&gate, &up, &grad_output.matmul(&self.down)?)?;
        drop((gate, up));
        self.emit(
            sink,
            "mlp.gate_proj.weight",
            weight_gradient(&d_gate, &normed)?,
        )?;
        self.emit(sink, "mlp.up_proj.weight", weight_gradient(&d_up, &normed)?)?;
        drop(normed);
        let d_normed = (d_gate.matmul(&self.gate)? + d_up.matmul(&self.up)?)?;
        let (d_middle, d_norm) = self.ops.rms_norm_backward(
            middle,
            &self.mlp_norm,
            self.eps,
            &d_normed,
            Some(grad_output),
        )?;
        self.emit(sink, "post_attention_layernorm.weight", d_norm)?;
        Ok(d_middle)
    }

    /// From queries, keys and values back to the normed input.
    fn backward_projections(
        &self,
        normed: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        (dq, dk, dv): (Tensor, Tensor, Tensor),
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let dq = self.ops.rotary_backward(&dq, cos, sin)?;
        let dk = self.ops.rotary_backward(&dk, cos, sin)?;
        let mut d_normed: Option<Tensor> = None;
        for (name, (weight, _), d) in [
            ("q_proj", &self.query, dq),
            ("k_proj", &self.key, dk),
            ("v_proj", &self.value, dv),
        ] {
            self.emit(
                sink,
                &format!("self_attn.{name}.weight"),
                weight_gradient(&d, normed)?,
            )?;
            self.emit(sink, &format!("self_attn.{name}.bias"), sum_rows(&d)?)?;
            let part = d.matmul(weight)?;
            d_normed = Some(match d_normed {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        d_normed.ok_or_else(|| candle_core::Error::Msg("no projection".into()))
    }

    fn emit(&self, sink: &mut GradientSink, name: &str, gradient: Tensor) -> Result<()> {
        sink(&format!("{}{name}", self.prefix), gradient)
    }
}
