//! The vision tower: patches → windowed and full attention blocks → merged tokens, and its backward pass.
//!
//! Source: `Qwen2_5_VisionTransformerPretrainedModel` of transformers 5.
//! Shapes: `P` patches, `M = P / merge²` merged tokens, `W` the tower's width, `n` heads of width `d`, `H` the decoder's
//! width. Between `embed` and `merge` the rows lie window by window.

use crate::model::ops::Ops;
use crate::model::ops::linear::sum_rows;
use crate::model::ops::linear::weight_gradient;
use crate::model::spec::VisionSpec;
use crate::model::text::GradientSink;
use crate::model::vision_layout::VisionLayout;
use crate::model::weights::NamedTensors;
use candle_core::DType;
use candle_core::Result;
use candle_core::Tensor;

/// Added to the mean square in the tower's norms (fixed in the architecture).
const EPS: f64 = 1e-6;

/// A linear layer with bias; its gradients go by its name.
#[derive(Debug, Clone)]
struct Projection {
    ops: Ops,
    name: String,
    weight: Tensor,
    bias: Tensor,
}

impl Projection {
    fn new(ops: Ops, weights: &NamedTensors, name: String) -> Result<Self> {
        Ok(Self {
            ops,
            weight: weights.get(&format!("{name}.weight"))?,
            bias: weights.get(&format!("{name}.bias"))?,
            name,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.linear(x, &self.weight, Some(&self.bias))
    }

    /// Gives both gradients to `sink`; returns the gradient with respect to `x`.
    fn backward(
        &self,
        x: &Tensor,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        sink(
            &format!("{}.weight", self.name),
            weight_gradient(grad_output, x)?,
        )?;
        sink(&format!("{}.bias", self.name), sum_rows(grad_output)?)?;
        grad_output.matmul(&self.weight)
    }
}

/// An RMSNorm; its gradient goes by its name.
#[derive(Debug, Clone)]
struct Norm {
    ops: Ops,
    name: String,
    weight: Tensor,
}

impl Norm {
    fn new(ops: Ops, weights: &NamedTensors, name: &str) -> Result<Self> {
        let name = format!("{name}.weight");
        Ok(Self {
            ops,
            weight: weights.get(&name)?,
            name,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.ops.rms_norm(x, &self.weight, EPS)
    }

    /// `x + addend` and its norm.
    fn add_forward(&self, x: &Tensor, addend: &Tensor) -> Result<(Tensor, Tensor)> {
        self.ops.add_rms_norm(x, addend, &self.weight, EPS)
    }

    /// Gives the weight's gradient to `sink`; returns the gradient with respect to `x`, with `residual` added, the one that
    /// goes around the norm.
    fn backward(
        &self,
        x: &Tensor,
        grad_output: &Tensor,
        residual: Option<&Tensor>,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let (dx, d_weight) =
            self.ops
                .rms_norm_backward(x, &self.weight, EPS, grad_output, residual)?;
        sink(&self.name, d_weight)?;
        Ok(dx)
    }
}

/// One block: attention and MLP, each behind an RMSNorm, each added to its input.
#[derive(Debug, Clone)]
pub(crate) struct VisionBlock {
    ops: Ops,
    /// Attends to the whole frame instead of a window.
    full: bool,
    heads: usize,
    norm1: Norm,
    qkv: Projection,
    proj: Projection,
    norm2: Norm,
    gate: Projection,
    up: Projection,
    down: Projection,
}

impl VisionBlock {
    /// Block `index` from the checkpoint's tensors (`visual.blocks.{index}.…`).
    pub(crate) fn new(
        ops: Ops,
        spec: &VisionSpec,
        weights: &NamedTensors,
        index: usize,
    ) -> Result<Self> {
        let affine =
            |name: &str| Projection::new(ops, weights, format!("visual.blocks.{index}.{name}"));
        let norm = |name: &str| Norm::new(ops, weights, &format!("visual.blocks.{index}.{name}"));
        Ok(Self {
            ops,
            full: spec.fullatt_block_indexes.contains(&index),
            heads: spec.num_heads,
            norm1: norm("norm1")?,
            qkv: affine("attn.qkv")?,
            proj: affine("attn.proj")?,
            norm2: norm("norm2")?,
            gate: affine("mlp.gate_proj")?,
            up: affine("mlp.up_proj")?,
            down: affine("mlp.down_proj")?,
        })
    }

    /// `x [P, W]` → `[P, W]`.
    pub(crate) fn forward(&self, x: &Tensor, layout: &VisionLayout) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let (attended, _) = layout.attention(self.ops, &qkv, self.heads, self.full)?;
        let (x, normed) = self.norm2.add_forward(x, &self.proj.forward(&attended)?)?;
        let mixed = self
            .ops
            .swiglu(&self.gate.forward(&normed)?, &self.up.forward(&normed)?)?;
        x + self.down.forward(&mixed)?
    }

    /// The gradient with respect to `x`, given the one with respect to the output; computes the block again from `x`.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        layout: &VisionLayout,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let normed1 = self.norm1.forward(x)?;
        let qkv = self.qkv.forward(&normed1)?;
        let (attended, saved) = layout.attention(self.ops, &qkv, self.heads, self.full)?;
        let (middle, normed) = self.norm2.add_forward(x, &self.proj.forward(&attended)?)?;
        let d_middle = self.backward_mlp(&middle, normed, grad_output, sink)?;
        let d_attended = self.proj.backward(&attended, &d_middle, sink)?;
        let d_qkv = layout.attention_backward(
            self.ops,
            &qkv,
            self.heads,
            self.full,
            saved.as_ref(),
            &d_attended,
        )?;
        let d_normed = self.qkv.backward(&normed1, &d_qkv, sink)?;
        self.norm1.backward(x, &d_normed, Some(&d_middle), sink)
    }

    /// From the block's output back to `middle`, of which `normed` is the norm.
    fn backward_mlp(
        &self,
        middle: &Tensor,
        normed: Tensor,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let (gate, up) = (self.gate.forward(&normed)?, self.up.forward(&normed)?);
        let d_mixed = self
            .down
            .backward(&self.ops.swiglu(&gate, &up)?, grad_output, sink)?;
        let (d_gate, d_up) = self.ops.swiglu_backward(&gate, &up, &d_mixed)?;
        let d_normed = (self.gate.backward(&normed, &d_gate, sink)?
            + self.up.backward(&normed, &d_up, sink)?)?;
        drop(normed);
        self.norm2
            .backward(middle, &d_normed, Some(grad_output), sink)
    }
}

/// Joins the patches of a merge block and brings them to the decoder's width.
#[derive(Debug, Clone)]
struct Merger {
    norm: Norm,
    first: Projection,
    second: Projection,
}

impl Merger {
    fn new(ops: Ops, weights: &NamedTensors) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(ops, weights, "visual.merger.ln_q")?,
            first: Projection::new(ops, weights, "visual.merger.mlp.0".into())?,
            second: Projection::new(ops, weights, "visual.merger.mlp.2".into())?,
        })
    }

    /// `x [P, W]` → the first layer's input and output, both `[M, merge² · W]`.
    fn hidden(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let width = self.first.weight.dim(1)?;
        let joined = self.norm.forward(x)?.reshape(((), width))?;
        let hidden = self.first.forward(&joined)?;
        Ok((joined, hidden))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.hidden(x)?.1.gelu_erf()?)
    }

    fn backward(
        &self,
        x: &Tensor,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<Tensor> {
        let (joined, hidden) = self.hidden(x)?;
        let d_active = self
            .second
            .backward(&hidden.gelu_erf()?, grad_output, sink)?;
        let d_hidden = (d_active * gelu_slope(&hidden)?)?;
        let d_joined = self.first.backward(&joined, &d_hidden, sink)?;
        self.norm
            .backward(x, &d_joined.reshape(x.shape())?, None, sink)
    }
}

/// d gelu(x) / dx = Φ(x) + x φ(x), in f32.
fn gelu_slope(x: &Tensor) -> Result<Tensor> {
    let values = x.to_dtype(DType::F32)?;
    let cumulative = (((&values * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    let density = ((values.sqr()? * -0.5)?.exp()? / std::f64::consts::TAU.sqrt())?;
    (cumulative + values * density)?.to_dtype(x.dtype())
}

/// What the backward pass needs of a forward pass: the input of every block and of the merger.
#[derive(Debug, Clone)]
pub struct VisionTrace {
    inputs: Vec<Tensor>,
}

#[derive(Debug, Clone)]
pub struct VisionTower {
    ops: Ops,
    patch_weight: Tensor,
    blocks: Vec<VisionBlock>,
    merger: Merger,
}

impl VisionTower {
    const PATCH_WEIGHT: &'static str = "visual.patch_embed.proj.weight";

    /// The tower from the checkpoint's tensors (`visual.…`).
    pub(crate) fn new(ops: Ops, spec: &VisionSpec, weights: &NamedTensors) -> Result<Self> {
        let blocks = (0..spec.depth)
            .map(|index| VisionBlock::new(ops, spec, weights, index))
            .collect::<Result<_>>()?;
        Ok(Self {
            ops,
            patch_weight: weights.get(Self::PATCH_WEIGHT)?,
            blocks,
            merger: Merger::new(ops, weights)?,
        })
    }

    /// The blocks in order.
    pub(crate) fn blocks(&self) -> &[VisionBlock] {
        &self.blocks
    }

    /// Pixels `[P, patch values]` → `[P, W]`, window by window.
    pub(crate) fn embed(&self, pixels: &Tensor, layout: &VisionLayout) -> Result<Tensor> {
        // A convolution whose stride is its kernel is a linear layer.
        let pixels = pixels.to_dtype(self.patch_weight.dtype())?;
        self.ops.linear(
            &layout.to_windows(&pixels)?,
            &self.patch_weight.flatten_from(1)?,
            None,
        )
    }

    /// Window order `[P, W]` → tokens `[M, H]` in the order of the placeholders.
    pub(crate) fn merge(&self, x: &Tensor, layout: &VisionLayout) -> Result<Tensor> {
        layout.to_tokens(&self.merger.forward(x)?)
    }

    /// Pixels `[P, patch values]` of the clips of `layout` → their tokens `[M, H]`, one clip after another.
    pub fn forward(&self, pixels: &Tensor, layout: &VisionLayout) -> Result<Tensor> {
        let mut x = self.embed(pixels, layout)?;
        for block in &self.blocks {
            x = block.forward(&x, layout)?;
        }
        self.merge(&x, layout)
    }

    /// As [`Self::forward`], keeping what [`Self::backward`] needs.
    pub fn forward_traced(
        &self,
        pixels: &Tensor,
        layout: &VisionLayout,
    ) -> Result<(Tensor, VisionTrace)> {
        let mut inputs = vec![self.embed(pixels, layout)?];
        for block in &self.blocks {
            inputs.push(block.forward(&inputs[inputs.len() - 1], layout)?);
        }
        let tokens = self.merge(&inputs[inputs.len() - 1], layout)?;
        Ok((tokens, VisionTrace { inputs }))
    }

    /// Every weight's gradient, given the one `[M, H]` of the tokens; a block at a time, last first.
    pub fn backward(
        &self,
        pixels: &Tensor,
        layout: &VisionLayout,
        mut trace: VisionTrace,
        grad_output: &Tensor,
        sink: &mut GradientSink,
    ) -> Result<()> {
        let Some(last) = trace.inputs.pop() else {
            candle_core::bail!("the trace of a vision pass is empty");
        };
        let mut gradient =
            self.merger
                .backward(&last, &layout.tokens_to_windows(grad_output)?, sink)?;
        drop(last);
        for block in self.blocks.iter().rev() {
            let Some(input) = trace.inputs.pop() else {
                candle_core::bail!("the trace of a vision pass is too short");
            };
            gradient = block.backward(&input, layout, &gradient, sink)?;
        }
        let pixels = layout.to_windows(&pixels.to_dtype(self.patch_weight.dtype())?)?;
        let d_weight = weight_gradient(&gradient, &pixels)?;
        sink(
            Self::PATCH_WEIGHT,
            d_weight.reshape(self.patch_weight.shape())?,
        )
    }
}
