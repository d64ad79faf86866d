//! One new token per row: its key and value join the cache, its query attends to the prompt and to what the row has added.
//!
//! Shapes: `B` rows, `n` query and `m` key/value heads of width `d`.

use crate::model::ops::Ops;
use crate::model::ops::cpu::decode as on_cpu;
use crate::model::ops::cuda::decode::{self as on_cuda, Cached, Projected};
use crate::model::ops::heads::Heads;
use crate::model::ops::layer_cache::{CacheSize, CachedRow, LayerCache};
use crate::model::ops::linear::Affine;
use candle_core::{DType, Device, Result, Tensor};

/// What all layers need to know of one decode step.
#[derive(Debug)]
pub(crate) struct DecodePlan(Rows);

/// Where a step's rows lie in the cache.
#[derive(Debug)]
enum Rows {
    Cpu {
        rows: Vec<CachedRow>,
        /// Where the new keys and values go, `[B·m, d]`.
        targets: Tensor,
    },
    /// `[B, 4]` on the device, where kernels read them whenever the step runs.
    Cuda(Tensor),
}

impl DecodePlan {
    /// A plan whose rows kernels read from `rows [B, 4]` (see [`crate::model::ops::cuda::decode`]) whenever a step runs.
    pub(crate) fn on_device(rows: Tensor) -> Self {
        Self(Rows::Cuda(rows))
    }
}

impl Ops {
    /// An empty cache of one layer of a network in `dtype`. On a CPU it is kept as attention reads it, in f32.
    pub(crate) fn layer_cache(
        self,
        heads: Heads,
        size: CacheSize,
        dtype: DType,
        device: &Device,
    ) -> Result<LayerCache> {
        let dtype = match self {
            Self::Cpu => DType::F32,
            Self::Cuda => dtype,
        };
        LayerCache::new(heads, size, dtype, device)
    }

    /// The plan of a step of `rows`, which have a cache of `capacity` tokens each.
    pub(crate) fn plan_decode(
        self,
        rows: &[CachedRow],
        heads: Heads,
        capacity: usize,
        device: &Device,
    ) -> Result<DecodePlan> {
        Ok(DecodePlan(match self {
            Self::Cpu => Rows::Cpu {
                rows: rows.to_vec(),
                targets: on_cpu::targets(rows, heads, capacity)?,
            },
            Self::Cuda => {
                let values: Vec<u32> = rows.iter().flat_map(CachedRow::on_device).collect();
                Rows::Cuda(Tensor::from_vec(values, (rows.len(), 4), device)?)
            }
        }))
    }

    /// Projects `x [B, H]` to queries, keys and values, turns the first two by `cos`, `sin` `[B, d/2]`, stores keys and
    /// values, and attends: `[B, n·d]`.
    pub(crate) fn decode_attention(
        self,
        x: &Tensor,
        [query, key, value]: [&Affine; 3],
        cos: &Tensor,
        sin: &Tensor,
        cache: &LayerCache,
        plan: &DecodePlan,
    ) -> Result<Tensor> {
        match &plan.0 {
            Rows::Cpu { rows, targets } => {
                let (q, k) = self.rotary_projections(x, query, key, cos, sin)?;
                let v = self.linear(x, &value.0, Some(&value.1))?;
                on_cpu::append(cache, targets, &k, &v)?;
                on_cpu::attend(&q, cache, rows)
            }
            Rows::Cuda(rows) => {
                let projected = Projected {
                    q: &self.linear(x, &query.0, None)?,
                    k: &self.linear(x, &key.0, None)?,
                    v: &self.linear(x, &value.0, None)?,
                    biases: [&query.1, &key.1, &value.1],
                };
                let cached = Cached {
                    prompt_k: &cache.prompt_k,
                    prompt_v: &cache.prompt_v,
                    own_k: &cache.own_k,
                    own_v: &cache.own_v,
                    capacity: cache.capacity,
                };
                let heads = cache.heads;
                let q = on_cuda::append(&projected, cos, sin, &cached, heads, rows)?;
                on_cuda::attend(&q, &cached, heads, rows)
            }
        }
    }
}
