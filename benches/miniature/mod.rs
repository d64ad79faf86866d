//! Generation and one whole CDPO step on the untrained miniature model, without files and clocks.

use anyhow::Result;
use candle_core::{DType, Device};
use std::sync::Arc;
use videothinker::cli::init::write_untrained;
use videothinker::config::{Config, LossKind, TextAfterVideo, Wording};
use videothinker::policy::generate::{Completion, generate, unobserved};
use videothinker::policy::inputs::{PackedGroup, PackedInputs};
use videothinker::policy::sampler::QuestionSeed;
use videothinker::policy::{FrozenModel, Policy};
use videothinker::prompt::{Processor, Prompt};
use videothinker::rl::advantage::advantages;
use videothinker::rl::loss::{CompletionTerms, policy_loss};
use videothinker::train::backward::{Derivatives, GradientPlacement, backward};
use videothinker::train::optimizer::AdamW;
use videothinker::video::VideoPatches;

/// A miniature clip: 8 frames of 112 × 112 pixels, 64 video tokens.
const GRID: [usize; 3] = [4, 8, 8];

/// Two questions about a clip each, eight completions of up to 64 tokens, and what answers and learns.
pub(crate) struct Miniature {
    config: Config,
    processor: Processor,
    policy: Policy,
    bias: FrozenModel,
    optimizer: AdamW,
    prompts: Vec<Prompt>,
    seeds: Vec<QuestionSeed>,
}

impl Miniature {
    /// The same every time.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let question = "What will happen without the red cube?\nA. The blue sphere and the green cylinder collide";
        write_untrained(
            folder.path(),
            [question; 2].into_iter().map(str::to_owned),
            1,
        )?;
        let mut config = Config::default();
        config.sampling.max_new_tokens = 64;
        let processor = Processor::load(folder.path())?;
        let policy = Policy::load(folder.path(), DType::F32, &Device::Cpu, true)?;
        let bias = FrozenModel::load(folder.path(), DType::F32, &Device::Cpu)?;
        let vars = policy
            .vars()
            .iter()
            .map(|(name, var)| (name.clone(), var.clone()));
        let optimizer = AdamW::new(vars, &config.optimizer)?;
        let count = GRID.iter().product::<usize>() * VideoPatches::PATCH_DIM;
        let prompts = (0..2)
            .map(|phase| {
                let values = (0..count)
                    .map(|i| (i as f32 * 0.01 + phase as f32).sin())
                    .collect();
                let clip = VideoPatches {
                    values,
                    grid_thw: GRID,
                    second_per_grid: 1.0,
                    text_after: TextAfterVideo::default(),
                };
                Ok(processor.prompt(question, Wording::Training, Some(Arc::new(clip)))?)
            })
            .collect::<Result<_>>()?;
        let seeds = ["a", "b"].map(|id| QuestionSeed::new(42, 1, id)).to_vec();
        Ok(Self {
            config,
            processor,
            policy,
            bias,
            optimizer,
            prompts,
            seeds,
        })
    }

    /// All completions.
    pub(crate) fn generate(&self) -> Result<Vec<Vec<Completion>>> {
        let prompts: Vec<&Prompt> = self.prompts.iter().collect();
        let (model, sampling) = (self.policy.model(), &self.config.sampling);
        Ok(generate(
            model,
            &self.processor,
            &prompts,
            &self.seeds,
            sampling,
            &mut unobserved,
        )?)
    }

    /// One step; the loss.
    pub(crate) fn step(&mut self) -> Result<f64> {
        let completions = self.generate()?;
        let groups: Vec<PackedGroup> = self
            .prompts
            .iter()
            .zip(&completions)
            .map(|(prompt, group)| {
                PackedGroup::of_completions(prompt, group.iter().map(|c| c.token_ids.as_slice()))
            })
            .collect();
        let inputs = PackedInputs::new(&self.policy.model().spec, &groups)?;
        let bias = self.bias.score(&inputs)?.logprob;
        // An untrained model earns nothing, so the rewards are made up.
        let advantages = advantages(&[0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 1.0], LossKind::Grpo);
        let config = &self.config;
        let pass = backward(
            &self.policy,
            &inputs,
            GradientPlacement::Device,
            None,
            |scores| {
                let terms: Vec<Vec<CompletionTerms>> = inputs
                    .suffix_targets
                    .iter()
                    .map(|group| {
                        let completions = group.iter().zip(&advantages);
                        completions
                            .map(|(range, advantage)| CompletionTerms {
                                advantage: *advantage,
                                logprob: &scores.logprob[range.clone()],
                                old_logprob: None,
                                reference_logprob: Some(&bias[range.clone()]),
                                full_kl: None,
                                acts: None,
                            })
                            .collect()
                    })
                    .collect();
                let longest = config.sampling.max_new_tokens;
                let loss = policy_loss(&terms, &config.objective, Some(&config.kl), longest);
                let logprob = loss.d_logprob.clone();
                (
                    Derivatives {
                        logprob,
                        full_kl: Vec::new(),
                    },
                    loss.loss,
                )
            },
        )?;
        self.optimizer.step(&pass.gradients, 1e-6)?;
        Ok(pass.loss)
    }
}
