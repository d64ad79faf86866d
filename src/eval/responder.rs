//! A model that answers: prompts made as its own files say, completions sampled or greedy.

use crate::config::BadVideoPolicy;
use crate::config::Config;
use crate::config::RewardConfig;
use crate::config::RewardedAnswer;
use crate::config::SamplingConfig;
use crate::data::Question;
use crate::eval::prediction::BatchReplies;
use crate::eval::prediction::Sample;
use crate::eval::prompt_format::PromptFormat;
use crate::eval::subtitles::Subtitles;
use crate::model::Qwen25Vl;
use crate::model::device;
use crate::policy::FrozenModel;
use crate::policy::GraphUse;
use crate::policy::generate::Completion;
use crate::policy::generate::Finish;
use crate::policy::generate::Observer;
use crate::policy::generate::generate_counted;
use crate::policy::generate::generate_side_by_side;
use crate::policy::sampler::QuestionSeed;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::prompt::tokenizer::read_json;
use crate::rl::honest;
use crate::rl::honest::Obstacle;
use crate::video::Clip;
use crate::video::Prefetcher;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// A frozen model with its processor, and how it is asked.
#[derive(Debug)]
pub(crate) struct Responder {
    model: FrozenModel,
    processor: Processor,
    sampling: SamplingConfig,
    seed: u64,
    graph_use: Mutex<GraphUse>,
}

impl Responder {
    /// Loads the model folder; `samples` completions per prompt are sampled as `config.sampling` says, at `temperature`.
    pub(crate) fn load(
        folder: &Path,
        config: &Config,
        temperature: f64,
        samples: usize,
    ) -> Result<Self> {
        let device = device::device(&config.model)?;
        let processor = Processor::load(folder)?;
        say_what_other_programs_apply(folder, &config.sampling)?;
        let sampling = SamplingConfig {
            group_size: samples,
            temperature,
            ..config.sampling.clone()
        };
        Ok(Self {
            processor: processor.with_max_prompt_tokens(sampling.max_prompt_tokens),
            model: FrozenModel::load(folder, device::dtype(&config.model), &device)
                .with_context(|| format!("while {} was loaded", folder.display()))?,
            sampling,
            seed: config.seed,
            graph_use: Mutex::default(),
        })
    }

    /// Warns where a right answer to some of `questions`, asked of this model, read from `folder`, could not be read as one.
    ///
    /// # Errors
    /// A tokenizer or template that fails.
    pub(crate) fn warn_of_hindrances(&self, questions: &[Question], folder: &Path) -> Result<()> {
        // What evaluations read at most; whether the format is kept is the training's affair.
        let reading = RewardConfig {
            answer: RewardedAnswer::Strict,
            format_weight: 0.0,
            ..RewardConfig::default()
        };
        for one in honest::hindrances(questions, &reading, Some((&self.processor, folder)))? {
            // Of solutions it is said elsewhere.
            if one.obstacle != Obstacle::Solution {
                tracing::warn!("{one}");
            }
        }
        Ok(())
    }

    /// How the tokens of all answers were drawn, in words; `None` where no CUDA graph was asked for.
    pub(crate) fn decoding_in_words(&self) -> Option<String> {
        let used = self
            .graph_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let words = format!(
            "{} decoding steps from a CUDA graph, {} without",
            used.captured, used.plain
        );
        let why = used.without_graph();
        let why = why.map_or_else(String::new, |why| format!(" (no graph: {why})"));
        self.sampling.cuda_graph.then_some(words + &why)
    }

    fn count(&self, graph_use: &GraphUse) {
        let mut used = self
            .graph_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.add(graph_use);
    }

    /// The network.
    pub(crate) fn model(&self) -> &Qwen25Vl {
        self.model.model()
    }

    /// Chat template and tokenizer.
    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }

    /// One completion of the prompt, each token told to `observer`; `id` names the draws.
    pub(crate) fn answer(
        &self,
        prompt: &Prompt,
        id: &str,
        observer: &mut Observer,
    ) -> Result<Completion> {
        let (model, processor) = (self.model(), &self.processor);
        let seeds = self.seeds(&[id]);
        let generated = generate_counted(
            model,
            processor,
            &[prompt],
            &seeds,
            &self.sampling,
            observer,
        )?;
        self.count(&generated.graph_use);
        let mut completions = generated.completions.into_iter().flatten();
        completions.next().context("the model gave no completion")
    }

    /// `ids` name the draws, so that an answer does not depend on what else is asked.
    fn seeds(&self, ids: &[&str]) -> Vec<QuestionSeed> {
        let seed = |id: &&str| QuestionSeed::new(self.seed, 0, id);
        ids.iter().map(seed).collect()
    }

    /// Replies to a batch of questions, whose clips are the next ones of `clips`; `None` for a clip that is skipped.
    pub(crate) fn answer_batch(
        &self,
        batch: &[&Question],
        clips: &mut Prefetcher,
        prompt_format: &PromptFormat,
        subtitles: Option<&Subtitles>,
        on_bad_video: BadVideoPolicy,
    ) -> Result<BatchReplies> {
        let mut asked: Vec<(usize, Prompt)> = Vec::with_capacity(batch.len());
        let mut read_with = Vec::with_capacity(batch.len());
        for (index, question) in batch.iter().enumerate() {
            let Some((clip, video)) = next_clip(question, clips, on_bad_video)? else {
                continue;
            };
            let said = subtitles
                .map(|subtitles| subtitles.at(&question.video, &clip))
                .transpose()?;
            let formatted = prompt_format.apply(question, said.as_deref());
            let prompt = self
                .processor
                .prompt_of(&formatted.turn, Some(video))
                .with_context(|| format!("question {}", question.id))?;
            asked.push((index, prompt));
            read_with.push(formatted.read_with);
        }
        let prompts: Vec<&Prompt> = asked.iter().map(|(_, prompt)| prompt).collect();
        let ids: Vec<&str> = asked
            .iter()
            .map(|(index, _)| batch[*index].id.as_str())
            .collect();
        let completions = self.complete(&prompts, &ids)?;
        let mut replies = vec![None; batch.len()];
        for (((index, _), group), read_with) in asked.iter().zip(completions).zip(read_with) {
            let samples = group.iter().map(|completion| sample(completion, read_with));
            replies[*index] = Some(samples.collect());
        }
        Ok(replies)
    }

    /// The completions of each prompt; `ids` name the draws.
    pub(super) fn complete(
        &self,
        prompts: &[&Prompt],
        ids: &[&str],
    ) -> Result<Vec<Vec<Completion>>> {
        let generated = generate_side_by_side(
            self.model(),
            &self.processor,
            prompts,
            &self.seeds(ids),
            &self.sampling,
        )?;
        self.count(&generated.graph_use);
        Ok(generated.completions)
    }
}

/// Says which settings of `generation_config.json` change what other programs sample and are not in force here.
fn say_what_other_programs_apply(folder: &Path, sampling: &SamplingConfig) -> Result<()> {
    let path = folder.join("generation_config.json");
    let stored = read_json(&path)?.unwrap_or_default();
    let penalty = stored.get("repetition_penalty").and_then(Value::as_f64);
    let differs =
        penalty.filter(|stored| (stored - sampling.repetition_penalty).abs() > f64::EPSILON);
    if let Some(penalty) = differs {
        tracing::info!(
            "{} sets repetition_penalty = {penalty}: transformers and vLLM's server apply it by themselves, this program only with \
             --set sampling.repetition_penalty={penalty} (now {})",
            path.display(),
            sampling.repetition_penalty
        );
    }
    let is_set = |name: &&str| {
        stored.get(*name).is_some_and(|value| {
            !value.is_null() && *value != json!(0) && *value != json!(1) && *value != json!(1.0)
        })
    };
    let others: Vec<&str> = NOT_APPLIED.into_iter().filter(is_set).collect();
    if !others.is_empty() {
        tracing::warn!(
            "{} sets {}, which other programs apply and this one does not",
            path.display(),
            others.join(", ")
        );
    }
    Ok(())
}

/// What changes which tokens `generate` of transformers draws, beside what `sampling` and `eval` set.
const NOT_APPLIED: [&str; 15] = [
    "num_beams",
    "min_new_tokens",
    "min_length",
    "length_penalty",
    "forced_eos_token_id",
    "top_n_sigma",
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "min_p",
    "typical_p",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "sequence_bias",
];

/// A completion behind the words that the answer was begun with and that are read with it.
pub(super) fn sample(completion: &Completion, read_with: &str) -> Sample {
    Sample {
        truncated: completion.finish == Finish::Length,
        tokens: completion.token_ids.len(),
        completion: read_with.to_owned() + &completion.text,
    }
}

/// The question's clip, or `None` when it cannot be used and is to be skipped.
fn next_clip(
    question: &Question,
    clips: &mut Prefetcher,
    on_bad_video: BadVideoPolicy,
) -> Result<Option<(Clip, Arc<VideoPatches>)>> {
    let loaded = clips
        .next()
        .context("a clip was asked for that is not in the list")?;
    match (loaded, on_bad_video) {
        (Ok(clip), _) => Ok(Some(clip)),
        (Err(error), BadVideoPolicy::Skip) => {
            tracing::warn!("question {} is skipped: {error}", question.id);
            Ok(None)
        }
        (Err(error), BadVideoPolicy::Error) => Err(error).with_context(|| question.with_bad_clip()),
    }
}
