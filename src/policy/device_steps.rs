//! Several tokens of every row without the host: what a step reads and changes stays on the device.
//!
//! Every place of the cache is a row of the batch, those that are free are idle. A step therefore is the same work at
//! the same addresses whatever runs: it can be captured once and replayed, and a row's numbers do not depend on how many
//! others there are.

use crate::model::Qwen25Vl;
use crate::model::cache::KvCache;
use crate::model::ops::Ops;
use crate::model::ops::cuda::decode::{IDLE, MAX_ROWS, Steps, embed, rotary};
use crate::model::ops::cuda::sampler::{DeviceSampler, NOT_FINITE};
use crate::model::ops::layer_cache::CachedRow;
use crate::model::positions::inverse_frequencies;
use crate::policy::cuda_graph::{GraphUse, Replay};
use crate::policy::sampler::{Draw, Pending};
use candle_core::{DType, Result, Tensor, bail};

/// Tokens of every row between two copies to the host. A row that ends draws on until then, in vain.
pub(super) const STEPS_PER_COPY: usize = 8;

/// The rows of a running generation on the device.
#[derive(Debug)]
pub(super) struct DeviceSteps {
    state: Steps,
    /// `[B, 8]`: what names each row's draws.
    keys: Tensor,
    frequencies: Tensor,
    sampler: DeviceSampler,
    replay: Replay,
}

impl DeviceSteps {
    /// Whether the rows of `cache` can decode so.
    pub(super) fn supports(model: &Qwen25Vl, cache: &KvCache) -> bool {
        model.ops() == Ops::Cuda && cache.size().rows <= MAX_ROWS
    }

    /// State for as many rows as `cache` has places. With `graph` a step is captured and replayed, where that works.
    pub(super) fn new(
        model: &Qwen25Vl,
        cache: &KvCache,
        sampler: DeviceSampler,
        graph: bool,
    ) -> Result<Self> {
        let (rows, device) = (cache.size().rows, model.device());
        let text = &model.spec.text;
        let frequencies = inverse_frequencies(text.rope_theta, text.head_dim());
        let zeros = |len: usize| Tensor::zeros(len, DType::U32, device);
        let log = (STEPS_PER_COPY, rows);
        Ok(Self {
            state: Steps {
                tokens: zeros(rows)?,
                positions: zeros(rows)?,
                indices: zeros(rows)?,
                rows: Tensor::zeros((rows, 4), DType::U32, device)?,
                step: zeros(1)?,
                token_log: Tensor::zeros(log, DType::U32, device)?,
                logprob_log: Tensor::zeros(log, DType::F32, device)?,
            },
            keys: Tensor::zeros((rows, 8), DType::U32, device)?,
            frequencies: Tensor::new(frequencies, device)?,
            sampler,
            replay: Replay::new(graph),
        })
    }

    /// How the steps ran so far.
    pub(super) fn graph_use(&self) -> &GraphUse {
        self.replay.used()
    }

    /// `steps` ≤ [`STEPS_PER_COPY`] tokens of each of the rows of `cache`, which stand at `positions`: what each step drew.
    ///
    /// # Errors
    /// A row's logits are not finite.
    pub(super) fn run(
        &mut self,
        model: &Qwen25Vl,
        cache: &KvCache,
        pending: &[Pending],
        positions: &[u32],
        steps: usize,
    ) -> Result<Vec<Vec<Draw>>> {
        if steps > STEPS_PER_COPY {
            bail!("{steps} steps at once, at most {STEPS_PER_COPY}");
        }
        self.upload(cache, pending, positions)?;
        let Self {
            state,
            keys,
            frequencies,
            sampler,
            replay,
        } = self;
        for _ in 0..steps {
            replay.run(model.device(), || {
                let x = embed(&state.tokens, &model.embed_tokens)?;
                let (cos, sin) = rotary(&state.positions, frequencies)?;
                let x = model.decode_embedded(x, &cos, &sin, cache, &state.rows)?;
                let (drawn, logprobs) = sampler.draw(&model.logits(&x)?, keys, &state.indices)?;
                state.advance(&drawn, &logprobs, cache.size().capacity)
            })?;
        }
        let ids = self.state.token_log.to_vec2::<u32>()?;
        let logprobs = self.state.logprob_log.to_vec2::<f32>()?;
        let draws = ids.into_iter().zip(logprobs).take(steps);
        draws
            .map(|(ids, logprobs)| {
                let draws = ids.into_iter().zip(logprobs).take(pending.len());
                draws
                    .map(|(id, logprob)| match id {
                        NOT_FINITE => bail!("sampler: the logits are not finite"),
                        id => Ok(Draw { id, logprob }),
                    })
                    .collect()
            })
            .collect()
    }

    fn upload(&self, cache: &KvCache, pending: &[Pending], positions: &[u32]) -> Result<()> {
        let count = cache.size().rows;
        let write = |to: &Tensor, mut values: Vec<u32>, idle: u32| -> Result<()> {
            values.resize(to.elem_count(), idle);
            to.slice_set(&Tensor::from_vec(values, to.shape(), to.device())?, 0, 0)
        };
        let state = &self.state;
        let tokens = pending.iter().map(|row| row.token).collect();
        write(&state.tokens, tokens, 0)?;
        write(&state.positions, positions.to_vec(), 0)?;
        let indices = pending.iter().map(|row| row.index as u32).collect();
        write(&state.indices, indices, 0)?;
        let rows = cache.rows().iter().flat_map(CachedRow::on_device);
        let idle = (cache.rows().len()..count).flat_map(|_| [IDLE, 0, 0, 0]);
        write(&state.rows, rows.chain(idle).collect(), 0)?;
        write(&state.step, vec![0], 0)?;
        let keys = pending.iter().flat_map(|row| row.seed.words()).collect();
        write(&self.keys, keys, 0)
    }
}
