//! One new token per row: rotation and cache write in one launch, attention over a shared prompt and the row's own
//! tokens, and what keeps the loop of steps on the device.
//!
//! Shapes: `B` rows, `n` query and `m` key/value heads of width `d` ≤ 128. Keys and values lie in `[Q·m, P, d]` for
//! prompts and `[R·m·T, d]` for what rows add. A row is `[slot, prompt tokens, place, own tokens]` in a table `[B, 4]`
//! of u32 on the device; the kernels read it there, so a captured launch can be replayed.

use crate::model::ops::cuda::attention::{launch_for, threads};
use crate::model::ops::cuda::launch::{
    Grid, Launch, Module, aligned, is_aligned, module, unwritten,
};
use crate::model::ops::heads::Heads;
use candle_core::{DType, Result, Tensor, bail};

static MODULE: Module = module!("decode");

/// Keys of one run, as in `decode.cu`.
const SPLIT_KEYS: usize = 256;
/// The slot of a row that stores nothing and gets zeros.
pub const IDLE: u32 = u32::MAX;
/// Most rows that [`Steps::advance`] takes.
pub(crate) const MAX_ROWS: usize = 1024;

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Cached<'a> {
    /// `[Q·m, P, d]`
    pub prompt_k: &'a Tensor,
    /// `[Q·m, P, d]`
    pub prompt_v: &'a Tensor,
    /// `[R·m·T, d]`
    pub own_k: &'a Tensor,
    /// `[R·m·T, d]`
    pub own_v: &'a Tensor,
    /// T.
    pub capacity: usize,
}

/// A layer's projections of the new tokens, before bias and rotation.
#[derive(Debug, Clone, Copy)]
pub struct Projected<'a> {
    /// `[B, n·d]`
    pub q: &'a Tensor,
    /// `[B, m·d]`
    pub k: &'a Tensor,
    /// `[B, m·d]`
    pub v: &'a Tensor,
    /// Biases of the three.
    pub biases: [&'a Tensor; 3],
}

/// Adds the biases, turns queries and keys by `cos`, `sin` `[B, d/2]` (f32), stores keys and values as each row's next
/// token, and returns the queries `[B, n·d]`.
pub fn append(
    projected: &Projected,
    cos: &Tensor,
    sin: &Tensor,
    cached: &Cached,
    heads: Heads,
    rows: &Tensor,
) -> Result<Tensor> {
    let Projected {
        q,
        k,
        v,
        biases: [q_bias, k_bias, v_bias],
    } = *projected;
    check(q, cached, heads, rows)?;
    let dim = heads.head_dim;
    if k.dims2()? != (rows.dim(0)?, heads.num_kv_heads * dim)
        || v.shape() != k.shape()
        || cos.dims2()? != (rows.dim(0)?, dim / 2)
        || sin.shape() != cos.shape()
        || q_bias.dims1()? != heads.num_heads * dim
        || k_bias.dims1()? != heads.num_kv_heads * dim
        || v_bias.dims1()? != heads.num_kv_heads * dim
    {
        bail!("decode: keys {:?}, angles {:?}", k.shape(), cos.shape());
    }
    let turned = unwritten(q.shape(), q.dtype(), q.device())?;
    Launch::of_dtype(&MODULE, "decode_append", q.dtype())?
        .tensor(q)
        .tensor(k)
        .tensor(v)
        .tensor(q_bias)
        .tensor(k_bias)
        .tensor(v_bias)
        .tensor(cos)
        .tensor(sin)
        .tensor(rows)
        .tensor(&turned)
        .tensor(cached.own_k)
        .tensor(cached.own_v)
        .size(heads.num_heads)
        .size(heads.num_kv_heads)
        .size(dim)
        .size(cached.capacity)
        .run(Grid {
            blocks: [
                rows.dim(0)? as u32,
                (heads.num_heads + 2 * heads.num_kv_heads) as u32,
                1,
            ],
            ..Grid::new(1, 64)
        })?;
    Ok(turned)
}

/// Attention of one query per row to its prompt and its own tokens, the new one included: `q [B, n·d]` → `[B, n·d]`.
///
/// # Errors
/// More than 16 query heads to a key/value head, heads wider than 128, shapes that do not fit, or a cache that is a view
/// which does not begin at a multiple of 16 bytes.
pub fn attend(q: &Tensor, cached: &Cached, heads: Heads, rows: &Tensor) -> Result<Tensor> {
    check(q, cached, heads, rows)?;
    let dim = heads.head_dim;
    if heads.group_size() > 16 {
        bail!("decode: {heads:?}, more than 16 to one");
    }
    for cache in [cached.prompt_k, cached.prompt_v, cached.own_k, cached.own_v] {
        if !is_aligned(cache) {
            bail!(
                "decode: a cache begins inside 16 bytes: {:?}",
                cache.layout()
            );
        }
    }
    let q = &aligned(q)?;
    let count = rows.dim(0)?;
    let prompt_stride = cached.prompt_k.dim(1)?;
    let runs = (prompt_stride + cached.capacity).div_ceil(SPLIT_KEYS);
    let sums = unwritten((count, heads.num_heads, runs, dim), DType::F32, q.device())?;
    let totals = unwritten((count, heads.num_heads, runs, 2), DType::F32, q.device())?;
    launch_for(&MODULE, "decode_attention", q.dtype(), dim)?
        .tensor(q)
        .tensor(cached.prompt_k)
        .tensor(cached.prompt_v)
        .tensor(cached.own_k)
        .tensor(cached.own_v)
        .tensor(rows)
        .tensor(&sums)
        .tensor(&totals)
        .size(heads.num_heads)
        .size(heads.num_kv_heads)
        .size(dim)
        .size(prompt_stride)
        .size(cached.capacity)
        .float((dim as f32).sqrt().recip())
        .run(Grid {
            blocks: [runs as u32, heads.num_kv_heads as u32, count as u32],
            ..Grid::new(1, threads(q.dtype()))
        })?;
    let output = unwritten(q.shape(), q.dtype(), q.device())?;
    Launch::of_dtype(&MODULE, "decode_join", q.dtype())?
        .tensor(&sums)
        .tensor(&totals)
        .tensor(rows)
        .tensor(&output)
        .size(heads.num_heads)
        .size(dim)
        .size(runs)
        .run(Grid::new(count * heads.num_heads, 128))?;
    Ok(output)
}

/// Cosines and sines `[B, d/2]` (f32) of text tokens at `positions [B]` (u32): all rotary axes are equal there.
/// `frequencies [d/2]` in f32.
pub fn rotary(positions: &Tensor, frequencies: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, half) = (positions.dims1()?, frequencies.dims1()?);
    let cos = unwritten((rows, half), DType::F32, positions.device())?;
    let sin = unwritten((rows, half), DType::F32, positions.device())?;
    Launch::new(&MODULE, "decode_rotary")
        .tensor(positions)
        .tensor(frequencies)
        .tensor(&cos)
        .tensor(&sin)
        .size(rows)
        .size(half)
        .run(Grid::covering(rows * half, 256))?;
    Ok((cos, sin))
}

/// Rows `tokens [B]` (u32, all below V) of the embedding `table [V, H]` → `[B, H]`.
pub(crate) fn embed(tokens: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (rows, width) = (tokens.dims1()?, table.dim(1)?);
    let output = unwritten((rows, width), table.dtype(), table.device())?;
    Launch::of_dtype(&MODULE, "decode_embed", table.dtype())?
        .tensor(tokens)
        .tensor(table)
        .tensor(&output)
        .size(rows)
        .size(width)
        .run(Grid::covering(rows * width, 256))?;
    Ok(output)
}

/// The state of rows that decode several tokens without the host.
#[derive(Debug)]
pub(crate) struct Steps {
    /// Each row's last token, the next step's input, `[B]` in u32.
    pub(crate) tokens: Tensor,
    /// Its position, `[B]` in u32.
    pub(crate) positions: Tensor,
    /// Index of the token to be drawn in its completion, `[B]` in u32.
    pub(crate) indices: Tensor,
    /// Where the rows' keys lie, `[B, 4]`.
    pub(crate) rows: Tensor,
    /// Steps done, `[1]` in u32.
    pub(crate) step: Tensor,
    /// What was drawn, `[K, B]` in u32, and its log-probability in f32.
    pub(crate) token_log: Tensor,
    /// See `token_log`.
    pub(crate) logprob_log: Tensor,
}

impl Steps {
    /// Ends a step: `drawn [B]` (u32; all ones for none) and `logprobs [B]` go to the logs; each drawn token is its row's next input, one
    /// position on, with one more token in its cache of `capacity`. A row whose cache is full stays at the last place.
    ///
    /// # Errors
    /// More than [`MAX_ROWS`] rows. More than K steps in all are not seen here: the caller counts.
    pub(crate) fn advance(&self, drawn: &Tensor, logprobs: &Tensor, capacity: usize) -> Result<()> {
        let count = self.tokens.dims1()?;
        if count > MAX_ROWS {
            bail!("decode: {count} rows, at most {MAX_ROWS}");
        }
        Launch::new(&MODULE, "decode_advance")
            .tensor(drawn)
            .tensor(logprobs)
            .tensor(&self.tokens)
            .tensor(&self.positions)
            .tensor(&self.indices)
            .tensor(&self.rows)
            .tensor(&self.step)
            .tensor(&self.token_log)
            .tensor(&self.logprob_log)
            .size(count)
            .size(capacity)
            .run(Grid::new(1, count as u32))
    }
}

fn check(q: &Tensor, cached: &Cached, heads: Heads, rows: &Tensor) -> Result<()> {
    let (count, width) = q.dims2()?;
    let dim = heads.head_dim;
    let (_, _, prompt_dim) = cached.prompt_k.dims3()?;
    if width != heads.num_heads * dim
        || !heads.num_heads.is_multiple_of(heads.num_kv_heads)
        || rows.dims2()? != (count, 4)
        || rows.dtype() != DType::U32
        || prompt_dim != dim
        || cached.own_k.dim(1)? != dim
        || cached.prompt_v.shape() != cached.prompt_k.shape()
        || cached.own_v.shape() != cached.own_k.shape()
    {
        bail!(
            "decode: {:?} for {heads:?} over {:?} and {:?}, rows {:?}",
            q.shape(),
            cached.prompt_k.shape(),
            cached.own_k.shape(),
            rows.shape()
        );
    }
    Ok(())
}
