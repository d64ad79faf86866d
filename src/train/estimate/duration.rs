//! The time a run takes, from sizes and from what its device just reached: no model is loaded.

use super::count;
use super::flops::Flops;
use super::gpus::GpuKind;
use super::pass::parameters;
use super::rates::DeviceRates;
use crate::config::{Config, DTypeName, Wording};
use crate::data::Question;
use crate::model::Qwen25Vl;
use crate::model::device::DeviceError;
use crate::model::packed::GroupLayout;
use crate::model::spec::Spec;
use crate::model::{device, hub};
use crate::prompt::Processor;
use crate::util::console;
use anyhow::Result;
use serde::Serialize;
use std::fmt;
use std::num::Saturating;

/// Shares of the measured rates that products and reading are taken to reach in a step.
const PRODUCTS: f64 = 0.4;
const READING: f64 = 0.5;

/// What a run of one of the RL stages takes if every prompt and completion is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct DurationEstimate {
    /// Seconds of a step in which completions are sampled.
    pub(crate) sampling: f64,
    /// Seconds of a step in which it is learnt from them, the bias model's part included.
    pub(crate) learning: f64,
    /// Steps of the run.
    pub(crate) steps: usize,
    rates: DeviceRates,
    /// Whose data sheet the rates are from; absent: they were measured.
    card: Option<GpuKind>,
}

impl DurationEstimate {
    /// Measures the rates of the config's device and reads the sizes of its model, whose `processor` this is.
    ///
    /// # Errors
    /// A model folder that is none; a device that does not answer.
    pub(crate) fn before_start(
        config: &Config,
        questions: &[Question],
        processor: &Processor,
    ) -> Result<Self> {
        let folder = hub::resolve(&config.model.path)?;
        let longest = questions.iter().map(Question::text).max_by_key(String::len);
        let text = longest.unwrap_or_default();
        let words = processor.count_tokens(&text, Wording::Training, 0)?;
        let rates = DeviceRates::measure(&device::device(&config.model)?)?;
        let bias = config.model.bias_model.is_some();
        Ok(Self::estimate(
            &Spec::load(&folder)?,
            config,
            bias,
            words,
            rates,
        ))
    }

    /// As [`Self::before_start`], in words; also where the GPU that would run it is not here, as on a cluster's login node.
    ///
    /// # Errors
    /// As there, but for the device.
    pub(crate) fn in_words(
        config: &Config,
        questions: &[Question],
        processor: &Processor,
    ) -> Result<String> {
        match Self::before_start(config, questions, processor) {
            Ok(duration) => Ok(duration.to_string()),
            Err(error) if error.is::<DeviceError>() => Ok(format!(
                "Time: it is measured where the run is to take place, and {}\n`estimate --card` goes by a data sheet instead.",
                device::in_words(&error.to_string())
            )),
            Err(error) => Err(error),
        }
    }

    /// What `config` takes on a card that is not here; with a bias model or without, prompts of `words` tokens beside
    /// their clips'.
    pub(crate) fn by_data_sheet(
        spec: &Spec,
        config: &Config,
        bias: bool,
        words: usize,
        card: GpuKind,
    ) -> Self {
        Self {
            card: Some(card),
            ..Self::estimate(spec, config, bias, words, card.rates())
        }
    }

    /// With prompts of `words` tokens beside their clips'.
    fn estimate(
        spec: &Spec,
        config: &Config,
        bias: bool,
        words: usize,
        rates: DeviceRates,
    ) -> Self {
        let sampling = &config.sampling;
        let questions = config.train.questions_per_step;
        let patch = spec.vision.patch_size * spec.vision.patch_size;
        // As square as patches that merge in twos allow.
        let side = ((config.video.max_pixels / patch) as f64).sqrt() as usize / 2 * 2;
        let frames = config.video.max_frames / spec.vision.temporal_patch_size;
        let grid = [frames, side, side];
        let patches = grid
            .iter()
            .fold(1usize, |all, &side| all.saturating_mul(side));
        let prompt_len = words.saturating_add(patches / spec.vision.merge_unit());
        let groups = |completion_lens: Vec<usize>| {
            vec![
                GroupLayout {
                    prompt_len,
                    completion_lens,
                };
                questions
            ]
        };
        let flops = |lens: Vec<usize>, targets| {
            Flops::of(
                spec,
                std::iter::repeat_n(grid, questions),
                &groups(lens),
                targets,
            )
        };
        let rows = questions.saturating_mul(sampling.group_size);
        let len = sampling.max_new_tokens;
        let prompts = flops(Vec::new(), 0);
        let step = flops(
            vec![len.saturating_sub(1); sampling.group_size],
            rows.saturating_mul(len),
        );
        let bias = u64::from(bias);
        let updates = config.train.updates_per_rollout as u64;
        let learning = bias
            .saturating_mul(step.total())
            .saturating_add(updates.saturating_mul(step.learning(config.model.train_vision)));

        let (bytes, rate) = match config.model.dtype {
            DTypeName::Bf16 => (2, rates.bf16),
            DTypeName::F32 => (4, rates.f32),
        };
        let most = match sampling.max_rows {
            0 => rows,
            most => most.min(rows),
        };
        let prompt_tokens = questions.saturating_mul(prompt_len);
        let read = decoding_step_bytes(spec, bytes, prompt_tokens, most.saturating_mul(len) / 2);
        let read = (count(rows.div_ceil(most)) * count(len) * Saturating(read)).0 as f64;
        let products = |flops: u64| flops as f64 / (PRODUCTS * rate);
        Self {
            sampling: products(prompts.total()) + read / (READING * rates.copy),
            learning: products(learning),
            steps: config.train.last_step(),
            rates,
            card: None,
        }
    }

    /// Seconds of all steps.
    pub(crate) fn total(&self) -> f64 {
        self.steps as f64 * (self.sampling + self.learning)
    }
}

/// Bytes that one decoding step must read at `bytes` a value: the decoder's weights and the head once, every key and value
/// once (those of a prompt for all of its completions together).
pub(crate) fn decoding_step_bytes(
    spec: &Spec,
    bytes: usize,
    prompt_tokens: usize,
    own_tokens: usize,
) -> u64 {
    let text = &spec.text;
    let weights = parameters(spec, |name| {
        let is_table_only = name == Qwen25Vl::EMBEDDING && !spec.tie_word_embeddings;
        !name.starts_with("visual.") && !is_table_only
    });
    let per_token = count(2 * text.num_layers) * count(text.num_kv_heads * text.head_dim());
    let tokens = count(prompt_tokens) + count(own_tokens);
    ((weights + tokens * per_token) * count(bytes)).0
}

impl fmt::Display for DurationEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.card {
            None => "what this device just did".to_owned(),
            Some(card) => format!("the data sheet of an {}", card.name()),
        };
        writeln!(
            f,
            "Time, at the longest prompts and completions, if products reach {:.0} % and reading {:.0} % of {whose} \
             ({:.3} TFLOP/s in bf16, {:.3} in f32, {:.1} GB/s):",
            100.0 * PRODUCTS,
            100.0 * READING,
            self.rates.bf16 / 1e12,
            self.rates.f32 / 1e12,
            self.rates.copy / 1e9
        )?;
        for (name, seconds) in [("sampling", self.sampling), ("learning", self.learning)] {
            let time = console::duration(seconds);
            writeln!(f, "  {name:<24}{time:>14} a step")?;
        }
        let all = console::duration(self.total());
        write!(f, "  {:<24}{all:>14}", "all steps")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Verb;
    use crate::model::random::{three_billion, tiny};
    use crate::model::spec::SpecialTokens;
    use crate::model::weights::init_weights;
    use crate::train::estimate::{MemoryEstimate, StepShape};
    use candle_core::{DType, Device};

    #[test]
    fn the_papers_run_on_a_card_of_round_numbers() {
        let spec = three_billion(SpecialTokens::published());
        let rates = DeviceRates {
            copy: 4e12,
            bf16: 1e15,
            f32: 1e14,
        };
        let bias_in = |config: &Config| config.model.bias_model.is_some();
        let mut config = Config::default();
        config.model.bias_model = Some("bias".into());
        let with_bias = DurationEstimate::estimate(&spec, &config, bias_in(&config), 200, rates);
        // 768 steps that read 6.2 GB of weights and some cache at half of 4 TB/s take about 2.5 s.
        assert!((2.3..3.3).contains(&with_bias.sampling), "{with_bias:?}");
        assert!((with_bias.total() / 500.0 - with_bias.sampling - with_bias.learning).abs() < 1e-9);
        config.model.bias_model = None;
        let alone = DurationEstimate::estimate(&spec, &config, bias_in(&config), 200, rates);
        // Three passes instead of four.
        assert!((with_bias.learning / alone.learning - 4.0 / 3.0).abs() < 1e-6);
        config.sampling.max_rows = 8;
        let in_turn = DurationEstimate::estimate(&spec, &config, bias_in(&config), 200, rates);
        assert!(in_turn.sampling > 1.8 * alone.sampling);
    }

    /// Of a model and settings as large as can be, numbers end at the largest one instead of starting again.
    #[test]
    fn absurd_sizes_give_absurd_estimates() {
        let mut spec = three_billion(SpecialTokens::published());
        let largest = 1 << 20;
        spec.text.hidden_size = largest;
        spec.text.num_heads = 1;
        spec.text.num_kv_heads = 1;
        spec.text.intermediate_size = largest;
        spec.text.vocab_size = largest;
        spec.vision.hidden_size = largest;
        spec.vision.intermediate_size = largest;
        spec.vision.out_hidden_size = largest;
        spec.vision.spatial_merge_size = largest;
        let mut config = Config::default();
        config.model.device = "cuda:0".into();
        config.video.max_pixels = usize::MAX;
        config.video.max_frames = usize::MAX;
        config.sampling.max_new_tokens = usize::MAX;
        config.sampling.max_prompt_tokens = usize::MAX;
        let shape = StepShape::largest(&config, Verb::TrainCdpo, 1, 200, 0);
        assert_eq!(shape.targets, usize::MAX);
        let memory = MemoryEstimate::estimate(&spec, Some(&spec), &config, &shape, 0);
        assert_eq!(memory.peak, u64::MAX);
        let duration = DurationEstimate::by_data_sheet(&spec, &config, true, 200, GpuKind::H200);
        assert!(duration.total().is_finite() && duration.total() > 1e9);
    }

    #[test]
    fn a_step_reads_the_decoder_and_the_cache() {
        let spec = tiny(SpecialTokens::published(), 1000);
        let weights = init_weights(&spec, 0.02, 1, DType::F32, &Device::Cpu).unwrap();
        let tower = weights
            .iter()
            .filter(|(name, _)| name.starts_with("visual."));
        let tower: usize = tower.map(|(_, tensor)| tensor.elem_count()).sum();
        let decoder = 4 * (weights.num_values() - tower) as u64;
        assert_eq!(decoding_step_bytes(&spec, 4, 0, 0), decoder);
        // 2 layers, keys and values, one head of 128.
        assert_eq!(
            decoding_step_bytes(&spec, 4, 200, 30),
            decoder + 4 * 230 * 512
        );
    }
}
