//! Drawing tokens where the logits are: the draws of the CPU's sampler, up to rounding. Shapes: `B` rows, `V` vocabulary.

use crate::config::SamplingConfig;
use crate::model::ops::cuda::launch::{Grid, Launch, Module, module, unwritten};
use candle_core::{DType, Device, Result, Tensor, bail};

static MODULE: Module = module!("sampler");
/// Ids that a thread looks at, below the most threads of a block.
const IDS: usize = 8;

/// The id that stands for a row whose logits are not finite.
pub(crate) const NOT_FINITE: u32 = u32::MAX;

/// A sampler on a device.
#[derive(Debug, Clone)]
pub struct DeviceSampler {
    temperature: f32,
    /// 0: all.
    top_k: usize,
    top_p: f64,
    /// One bit per id.
    banned: Tensor,
    vocabulary: usize,
}

impl DeviceSampler {
    /// As `config` says, for ids below `vocabulary`, never drawing one of `banned`.
    pub fn new(
        config: &SamplingConfig,
        banned: &[u32],
        vocabulary: usize,
        device: &Device,
    ) -> Result<Self> {
        let mut mask = vec![0u32; vocabulary.div_ceil(32)];
        for &id in banned.iter().filter(|id| (**id as usize) < vocabulary) {
            mask[id as usize / 32] |= 1 << (id % 32);
        }
        let allowed = vocabulary
            - mask
                .iter()
                .map(|word| word.count_ones() as usize)
                .sum::<usize>();
        if allowed == 0 {
            bail!("sampler: every token is banned");
        }
        Ok(Self {
            temperature: config.temperature as f32,
            top_k: if config.top_k < allowed {
                config.top_k
            } else {
                0
            },
            top_p: config.top_p,
            banned: Tensor::new(mask, device)?,
            vocabulary,
        })
    }

    /// One token per row of `logits [B, V]`: ids `[B]` (u32; [`NOT_FINITE`] where there is none) and their
    /// log-probabilities `[B]` (f32) under the whole softmax of logits / temperature.
    ///
    /// `keys [B, 8]` (u32) are the words of the ChaCha8 key of each row's completion, `positions [B]` (u32) the index of
    /// the token in it.
    pub fn draw(
        &self,
        logits: &Tensor,
        keys: &Tensor,
        positions: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, vocabulary) = logits.dims2()?;
        if vocabulary != self.vocabulary
            || keys.dims() != [rows, 8]
            || positions.dims() != [rows]
            || [keys.dtype(), positions.dtype()] != [DType::U32; 2]
        {
            bail!(
                "sampler: {keys:?} and {positions:?} for logits {:?}",
                logits.shape()
            );
        }
        let ids = unwritten(rows, DType::U32, logits.device())?;
        let logprobs = unwritten(rows, DType::F32, logits.device())?;
        Launch::of_dtype(&MODULE, "sample", logits.dtype())?
            .tensor(logits)
            .tensor(&self.banned)
            .tensor(keys)
            .tensor(positions)
            .tensor(&ids)
            .tensor(&logprobs)
            .size(vocabulary)
            .float(self.temperature)
            .size(self.top_k)
            .double(self.top_p)
            .run(Grid::new(rows, threads(vocabulary)))?;
        Ok((ids, logprobs))
    }
}

/// Whole warps, and at least two, among which the search for the drawn token divides the ids.
fn threads(vocabulary: usize) -> u32 {
    let threads = vocabulary.div_ceil(IDS).next_multiple_of(32);
    threads.clamp(64, 1024) as u32
}
