//! Tokens a second while completions are sampled, against what reading the weights and the cache allows.

use super::Share;
use crate::config::SamplingConfig;
use crate::model::Qwen25Vl;
use crate::policy::GraphUse;
use crate::policy::generate::{generate_counted, unobserved};
use crate::policy::sampler::QuestionSeed;
use crate::prompt::{Processor, Prompt};
use crate::selfcheck::Workload;
use crate::train::estimate::DeviceRates;
use crate::train::estimate::decoding_step_bytes;
use crate::train::estimate::seconds;
use anyhow::Result;
use serde::Serialize;

/// How fast a batch decodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DecodeSpeed {
    /// Completions in the batch.
    pub(crate) rows: usize,
    /// Whether a step was to be captured and replayed.
    pub(crate) cuda_graph: bool,
    /// Tokens of a prompt.
    pub(crate) prompt_tokens: usize,
    /// Tokens that were drawn for each completion while the time was taken.
    pub(crate) timed_tokens: usize,
    /// Seconds from the prompts to the first tokens.
    pub(crate) prefill_seconds: f64,
    /// Tokens a second of all rows together; possible is what the copy rate allows for the bytes that a step reads.
    pub(crate) tokens_per_second: Share,
    /// How the steps ran in the last run that was timed.
    #[serde(flatten)]
    pub(crate) graph_use: GraphUse,
}

/// Samples as training does, `workload.completion_tokens` for each completion and half as many: the difference is decoding
/// alone, whatever a generation costs at its start. Only tokens that were drawn count; random weights hardly ever
/// draw the end of a turn. Of `repeats` runs the median counts. `cuda_graph`: as `sampling.cuda_graph`.
///
/// # Errors
/// A tensor operation that fails, for example for want of memory.
pub(crate) fn decode_speed(
    model: &Qwen25Vl,
    processor: &Processor,
    workload: &Workload,
    rates: &DeviceRates,
    repeats: usize,
    cuda_graph: bool,
) -> Result<DecodeSpeed> {
    let prompts = workload.prompts(processor, &model.spec)?;
    let prompts: Vec<&Prompt> = prompts.iter().collect();
    let prompt_tokens = prompts.first().map_or(0, |prompt| prompt.token_ids.len());
    let seeds: Vec<QuestionSeed> = (0..prompts.len())
        .map(|index| QuestionSeed::new(42, 1, &index.to_string()))
        .collect();
    let run = |max_new_tokens: usize| -> Result<(f64, usize, GraphUse)> {
        let config = SamplingConfig {
            group_size: workload.group_size,
            max_new_tokens,
            max_rows: 0,
            cuda_graph,
            ..SamplingConfig::default()
        };
        let (mut drawn, mut graph_use) = (0, GraphUse::default());
        let time = seconds(model.device(), repeats, || -> Result<()> {
            let generated =
                generate_counted(model, processor, &prompts, &seeds, &config, &mut unobserved)?;
            let all = generated.completions.iter().flatten();
            drawn = all.map(|one| one.token_ids.len()).sum();
            graph_use = generated.graph_use;
            Ok(())
        })?;
        Ok((time, drawn, graph_use))
    };
    let (first, _, _) = run(1)?;
    let (short_time, short, _) = run(workload.completion_tokens.div_ceil(2).max(2))?;
    let (long_time, long, graph_use) = run(workload.completion_tokens.max(3))?;
    let rows = workload.questions * workload.group_size;
    anyhow::ensure!(
        long_time > short_time && long > short,
        "{long} tokens took {long_time} s, {short} of them {short_time} s: too few to be timed, or other work took the time"
    );
    let measured = (long - short) as f64 / (long_time - short_time);
    let mean_length = (long + short) / (2 * rows);
    let value = model.dtype().size_in_bytes();
    let cached = prompts.len() * prompt_tokens;
    let bytes = decoding_step_bytes(&model.spec, value, cached, rows * mean_length);
    Ok(DecodeSpeed {
        rows,
        cuda_graph,
        prompt_tokens,
        timed_tokens: (long - short) / rows,
        prefill_seconds: first,
        tokens_per_second: Share::of(measured, rows as f64 * rates.copy / bytes as f64),
        graph_use,
    })
}
