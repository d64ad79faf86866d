//! Attention over packed rows: forward, and gradients from the forward pass's log-sum-exp.
//!
//! No score matrix lies in memory, keys and values are not repeated per query head, and all sequences of a pass go
//! through one launch. Shapes: `N` rows, `n` query heads of width `d` ≤ 128 that share `m` key/value heads.

use crate::model::ops::cuda::launch::{Grid, Launch, Module, aligned, module, unwritten};
use crate::model::ops::heads::Heads;
use crate::model::ops::sequences::{Sequence, SequenceLayout};
use candle_core::{DType, Device, Result, Tensor, bail};

static MODULE: Module = module!("attention");

/// Which rows see which, as the kernels read it: made once for all layers and passes over the same rows.
#[derive(Debug, Clone)]
pub struct BlockTables {
    num_rows: usize,
    causal: bool,
    dtype: DType,
    /// Rows and what they see, `[blocks, 6]`: start, end, `before`, their own sequence's rows seen.
    query_blocks: Tensor,
    /// Keys and the rows that may see them, `[blocks, 4]`.
    key_blocks: Tensor,
}

/// What a forward pass leaves.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[N, n·d]`
    pub output: Tensor,
    /// Logarithm of the sum of the exponentials of each row's scores, `[N, n]` in f32.
    pub(crate) lse: Tensor,
}

impl BlockTables {
    /// For tensors of `dtype` whose rows lie as `layout` says.
    pub fn new(layout: &SequenceLayout, dtype: DType, device: &Device) -> Result<Self> {
        let (causal, num_rows) = (layout.causal, layout.num_rows());
        let block_rows = block(dtype).rows;
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        for Sequence {
            rows,
            before,
            seen_until,
        } in &layout.sequences
        {
            for start in rows.clone().step_by(block_rows) {
                let end = (start + block_rows).min(rows.end);
                let own_end = if causal { end } else { rows.end };
                queries.extend([start, end, before.start, before.end, rows.start, own_end]);
                let first = if causal { start } else { rows.start };
                keys.extend([start, end, first, *seen_until]);
            }
        }
        let table = |values: Vec<usize>, columns: usize| {
            let values: Vec<u32> = values.into_iter().map(|value| value as u32).collect();
            Tensor::from_vec(values.clone(), (values.len() / columns, columns), device)
        };
        Ok(Self {
            num_rows,
            causal,
            dtype,
            query_blocks: table(queries, 6)?,
            key_blocks: table(keys, 4)?,
        })
    }

    /// Whether these are tables for tensors like `x`: on its device, of its dtype.
    pub(crate) fn fit(&self, x: &Tensor) -> bool {
        self.dtype == x.dtype() && self.query_blocks.device().same_device(x.device())
    }

    /// `[N, n·d]`, `[N, m·d]` twice → outputs.
    ///
    /// # Errors
    /// Shapes or dtypes that do not fit, or heads wider than 128.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Attended> {
        self.check(q, k, v, heads)?;
        let (q, k, v) = (&aligned(q)?, &aligned(k)?, &aligned(v)?);
        let output = unwritten(q.shape(), q.dtype(), q.device())?;
        let lse = unwritten((self.num_rows, heads.num_heads), DType::F32, q.device())?;
        let launch = self.launch("forward", heads.head_dim)?;
        let launch = launch.tensor(q).tensor(k).tensor(v).tensor(&output);
        let launch = launch.tensor(&lse).tensor(&self.query_blocks);
        self.shape(launch, heads)
            .run(self.grid(&self.query_blocks, heads)?)?;
        Ok(Attended { output, lse })
    }

    /// Gradients with respect to `q`, `k` and `v`, given that of the output `[N, n·d]`.
    pub fn backward(
        &self,
        [q, k, v]: [&Tensor; 3],
        heads: Heads,
        attended: &Attended,
        grad_output: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        self.check(q, k, v, heads)?;
        if grad_output.shape() != q.shape() || grad_output.dtype() != q.dtype() {
            bail!(
                "attention: the gradient of the output has {:?}",
                grad_output.shape()
            );
        }
        let (q, k, v, grad_output) = (
            &aligned(q)?,
            &aligned(k)?,
            &aligned(v)?,
            &aligned(grad_output)?,
        );
        let (rows, device) = (self.num_rows, q.device());
        let delta = unwritten((rows, heads.num_heads), DType::F32, device)?;
        Launch::of_dtype(&MODULE, "attention_row_products", q.dtype())?
            .tensor(&attended.output)
            .tensor(grad_output)
            .tensor(&delta)
            .size(delta.elem_count())
            .size(heads.head_dim)
            .run(Grid::covering(delta.elem_count() * 32, 256))?;
        let inputs = |name: &str| -> Result<Launch> {
            let launch = self.launch(name, heads.head_dim)?;
            let launch = launch.tensor(q).tensor(k).tensor(v).tensor(grad_output);
            Ok(launch.tensor(&attended.lse).tensor(&delta))
        };

        let dq = unwritten(q.shape(), q.dtype(), device)?;
        let launch = inputs("backward_queries")?.tensor(&dq);
        self.shape(launch.tensor(&self.query_blocks), heads)
            .run(self.grid(&self.query_blocks, heads)?)?;

        let parts = (
            heads.group_size(),
            rows,
            heads.num_kv_heads * heads.head_dim,
        );
        let dk_parts = unwritten(parts, DType::F32, device)?;
        let dv_parts = unwritten(parts, DType::F32, device)?;
        let launch = inputs("backward_keys")?.tensor(&dk_parts).tensor(&dv_parts);
        self.shape(launch.tensor(&self.key_blocks), heads)
            .run(self.grid(&self.key_blocks, heads)?)?;
        Ok((dq, sum_parts(&dk_parts, k)?, sum_parts(&dv_parts, v)?))
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<()> {
        let kv_shape = (self.num_rows, heads.num_kv_heads * heads.head_dim);
        if q.dims2()? != (self.num_rows, heads.num_heads * heads.head_dim)
            || !heads.num_heads.is_multiple_of(heads.num_kv_heads)
            || k.dims2()? != kv_shape
            || v.dims2()? != kv_shape
        {
            bail!(
                "attention: {:?}, {:?} and {:?} for {} rows of {heads:?}",
                q.shape(),
                k.shape(),
                v.shape(),
                self.num_rows
            );
        }
        if [q, k, v].iter().any(|x| x.dtype() != self.dtype) {
            bail!("attention: {:?} is not {:?}", q.dtype(), self.dtype);
        }
        Ok(())
    }

    fn launch(&self, name: &str, dim: usize) -> Result<Launch<'static>> {
        launch_for(&MODULE, &format!("attention_{name}"), self.dtype, dim)
    }

    fn shape<'a>(&self, launch: Launch<'a>, heads: Heads) -> Launch<'a> {
        launch
            .size(self.num_rows)
            .size(heads.num_heads)
            .size(heads.num_kv_heads)
            .size(heads.head_dim)
            .size(usize::from(self.causal))
            .float((heads.head_dim as f32).sqrt().recip())
    }

    fn grid(&self, blocks: &Tensor, heads: Heads) -> Result<Grid> {
        Ok(Grid {
            blocks: [blocks.dim(0)? as u32, heads.num_heads as u32, 1],
            ..Grid::new(1, block(self.dtype).threads)
        })
    }
}

/// The rows and threads of a block.
struct Block {
    rows: usize,
    threads: u32,
}

/// bf16 uses tensor cores, which take more rows at a time.
fn block(dtype: DType) -> Block {
    match dtype {
        DType::BF16 => Block {
            rows: 64,
            threads: 128,
        },
        _ => Block {
            rows: 16,
            threads: 64,
        },
    }
}

/// The kernel called `{name}_{dtype}_{width}`, compiled for heads of up to `width` ≥ `dim`.
pub(super) fn launch_for(
    module: &'static Module,
    name: &str,
    dtype: DType,
    dim: usize,
) -> Result<Launch<'static>> {
    let widths: &[usize] = match dtype {
        DType::BF16 => &[32, 80, 128],
        DType::F32 => &[32, 128],
        _ => bail!("kernel {name}: no variant for {dtype:?}"),
    };
    match widths.iter().find(|&&width| width >= dim) {
        Some(width) => Ok(Launch::new(
            module,
            &format!("{name}_{}_{width}", dtype.as_str()),
        )),
        None => bail!("kernel {name}: heads of width {dim}, at most 128"),
    }
}

/// Threads of a block of the kernels of [`launch_for`].
pub(super) fn threads(dtype: DType) -> u32 {
    block(dtype).threads
}

/// `parts [p, …]` in f32 → their sum in the shape and dtype of `like`.
fn sum_parts(parts: &Tensor, like: &Tensor) -> Result<Tensor> {
    let sum = unwritten(like.shape(), like.dtype(), like.device())?;
    Launch::of_dtype(&MODULE, "attention_sum_parts", like.dtype())?
        .tensor(parts)
        .tensor(&sum)
        .size(parts.dim(0)?)
        .size(sum.elem_count())
        .run(Grid::covering(sum.elem_count(), 256))?;
    Ok(sum)
}
