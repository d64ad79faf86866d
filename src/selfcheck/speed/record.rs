//! Made-up work and what the model says of it, in a file that other programs read.

use crate::policy::inputs::PackedInputs;
use crate::prompt::Prompt;
use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// Writes a safetensors file with, for Q questions of equal prompts (P tokens) and G completions (L tokens) of each:
/// `prompt_ids [Q, P]`, `completion_ids [Q, G, L]`, `video_grid_thw [Q, 3]` (i64); `pixel_values_videos [Q, patches, 1176]`,
/// `second_per_grid_ts [Q]` and `logprob [Q, G, L]`, that of every completion token (f32).
///
/// # Errors
/// Prompts or completions of different lengths, a prompt without a clip, a file that cannot be written.
pub(super) fn write(
    path: &Path,
    prompts: &[Prompt],
    inputs: &PackedInputs,
    logprob: &[f32],
) -> Result<()> {
    let cpu = &Device::Cpu;
    let of_all = |values: Vec<Tensor>| Tensor::stack(&values, 0);
    let ids = |ids: &[u32]| Tensor::from_iter(ids.iter().map(|&id| i64::from(id)), cpu);
    let clips = prompts.iter().map(|prompt| prompt.video.as_deref());
    let clips = clips
        .collect::<Option<Vec<_>>>()
        .context("a prompt without a clip")?;
    let prompt_ids = prompts.iter().map(|prompt| ids(&prompt.token_ids));
    let grids = clips
        .iter()
        .map(|clip| ids(&clip.grid_thw.map(|side| side as u32)));
    let pixels = clips.iter().map(|clip| {
        let patches = clip.grid_thw.iter().product::<usize>();
        Tensor::from_slice(&clip.values, (patches, ()), cpu)
    });
    let seconds = clips.iter().map(|clip| clip.second_per_grid as f32);
    let group_size = inputs.suffix_targets.first().map_or(0, Vec::len);
    let shape = (prompts.len(), group_size, ());
    let targets = inputs.num_targets();
    let collected: candle_core::Result<Vec<(&str, Tensor)>> = [
        (
            "prompt_ids",
            prompt_ids
                .collect::<candle_core::Result<_>>()
                .and_then(of_all),
        ),
        (
            "completion_ids",
            ids(&inputs.target_ids).and_then(|ids| ids.reshape(shape)),
        ),
        (
            "video_grid_thw",
            grids.collect::<candle_core::Result<_>>().and_then(of_all),
        ),
        (
            "pixel_values_videos",
            pixels.collect::<candle_core::Result<_>>().and_then(of_all),
        ),
        ("second_per_grid_ts", Tensor::from_iter(seconds, cpu)),
        (
            "logprob",
            Tensor::from_slice(logprob, targets, cpu).and_then(|all| all.reshape(shape)),
        ),
    ]
    .into_iter()
    .map(|(name, tensor)| Ok((name, tensor?)))
    .collect();
    let tensors: HashMap<&str, Tensor> = collected?.into_iter().collect();
    candle_core::safetensors::save(&tensors, path).with_context(|| path.display().to_string())
}
