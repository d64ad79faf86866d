//! What a run takes on GPUs that are not here, from their data sheets: its models and questions may be missing too.

use super::duration::DurationEstimate;
use super::gpus::PlannedGpu;
use super::memory::MemoryEstimate;
use super::num_parameters;
use super::step_shape::StepShape;
use crate::config::Config;
use crate::config::Verb;
use crate::config::Wording;
use crate::data::Question;
use crate::model::device::is_cpu;
use crate::model::hub;
use crate::model::hub::HubSettings;
use crate::model::random::three_billion;
use crate::model::spec::Spec;
use crate::model::spec::SpecialTokens;
use crate::policy::parallel::passes_on;
use crate::prompt::Processor;
use anyhow::Result;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Tokens of a question and the words around it, where neither questions nor a tokenizer say it: CLEVRER's have about as
/// many at most.
const TEXT: usize = 200;

/// A run on `ranks` GPUs of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunEstimate {
    pub(crate) card: PlannedGpu,
    /// GPUs, each of which takes its part of a step's questions.
    pub(crate) ranks: usize,
    /// On each of them.
    pub(crate) memory: MemoryEstimate,
    /// Whether that is less than the card has.
    pub(crate) fits: bool,
    /// Without the time in which the GPUs exchange gradients; absent for supervised training, and for a card whose rates are
    /// not known.
    pub(crate) duration: Option<DurationEstimate>,
    /// What was assumed because it is not here.
    pub(crate) assumed: Vec<String>,
}

impl RunEstimate {
    /// For a run of `verb` as `config` says, with these questions (or with none, when they are not here yet).
    ///
    /// # Errors
    /// A model folder that is there and broken.
    pub(crate) fn new(
        config: &Config,
        verb: Verb,
        questions: &[Question],
        card: PlannedGpu,
        ranks: usize,
    ) -> Result<Self> {
        let mut config = config.clone();
        config.model.device = "cuda:0".into();
        config.train.questions_per_step = config.train.questions_per_step.div_ceil(ranks);
        let sizes = RunSizes::read(&config, verb, questions)?;
        let memory = sizes.memory(&config, verb);
        let duration = match card {
            PlannedGpu::Kind(kind) if verb.is_rl() => {
                let bias = sizes.bias.is_some();
                let (spec, words) = (&sizes.spec, sizes.words);
                Some(DurationEstimate::by_data_sheet(
                    spec, &config, bias, words, kind,
                ))
            }
            _ => None,
        };
        Ok(Self {
            card,
            ranks,
            fits: memory.peak < card.memory(),
            memory,
            duration,
            assumed: sizes.assumed,
        })
    }
}

/// What a run's memory follows from, read where its models are on this machine and assumed where they are not.
#[derive(Debug, Clone)]
pub(crate) struct RunSizes {
    spec: Spec,
    bias: Option<Spec>,
    /// Tokens of the longest prompt beside its clip's.
    words: usize,
    /// Tokens of the longest worked answer.
    answer: usize,
    /// What was assumed because it is not here.
    assumed: Vec<String>,
}

impl RunSizes {
    /// # Errors
    /// A model folder that is there and broken.
    pub(crate) fn read(config: &Config, verb: Verb, questions: &[Question]) -> Result<Self> {
        let mut assumed = Vec::new();
        let folder = on_this_machine(&config.model.path);
        let spec = if let Some(folder) = &folder {
            Spec::load(folder)?
        } else {
            let name = &config.model.path;
            assumed.push(format!(
                "{name} is not on this machine: the sizes of Qwen2.5-VL-3B are taken"
            ));
            qwen_3b()
        };
        let repelling = (verb == Verb::TrainCdpo)
            .then_some(config.model.bias_model.as_deref())
            .flatten();
        let bias = match repelling.map(|name| (name, on_this_machine(name))) {
            None => None,
            Some((_, Some(folder))) => Some(Spec::load(&folder)?),
            Some((name, None)) => {
                assumed.push(format!(
                    "{name} is not on this machine: it is taken to be as large as the model"
                ));
                Some(spec.clone())
            }
        };
        let processor = folder.as_deref().map(Processor::load).transpose()?;
        let words = if let (Some(processor), Some(text)) = (&processor, longest(questions)) {
            processor.count_tokens(&text, Wording::Training, 0)?
        } else {
            assumed.push(format!("prompts of {TEXT} tokens beside those of the clip"));
            TEXT
        };
        let answers = questions.iter().filter_map(|q| q.response.as_deref());
        let answer = match (&processor, answers.max_by_key(|answer| answer.len())) {
            (Some(processor), Some(answer)) => processor.encode(answer)?.len() + 1,
            _ => TEXT,
        };
        Ok(Self {
            spec,
            bias,
            words,
            answer,
            assumed,
        })
    }

    /// What a run of these sizes takes as `config` says, on the kind of device that it names.
    pub(crate) fn memory(&self, config: &Config, verb: Verb) -> MemoryEstimate {
        let passes = passes_on(is_cpu(&config.model));
        let shape = StepShape::largest(config, verb, passes, self.words, self.answer);
        MemoryEstimate::estimate(&self.spec, self.bias.as_ref(), config, &shape, 0)
    }

    /// Weights of the model.
    pub(crate) fn parameters(&self) -> u64 {
        num_parameters(&self.spec)
    }
}

/// The published model whose sizes are known before it is downloaded.
pub(crate) const THREE_BILLION: &str = "Qwen/Qwen2.5-VL-3B-Instruct";

/// The folder of a model that need not be downloaded.
pub(crate) fn on_this_machine(name: &str) -> Option<PathBuf> {
    let settings = HubSettings {
        offline: true,
        ..HubSettings::from_env()
    };
    hub::resolve_with(name, &settings).ok()
}

fn longest(questions: &[Question]) -> Option<String> {
    questions.iter().map(Question::text).max_by_key(String::len)
}

/// Qwen2.5-VL-3B-Instruct.
fn qwen_3b() -> Spec {
    three_billion(SpecialTokens::published())
}

impl fmt::Display for RunEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let memory = gb(self.card.memory());
        let ranks = self.ranks;
        match self.card {
            PlannedGpu::Kind(kind) => writeln!(
                f,
                "{ranks} × {} ({memory:.1} GB each), computed from sizes and the card's data sheet: nothing of it is measured",
                kind.name()
            ),
            PlannedGpu::Memory(_) => writeln!(
                f,
                "{ranks} × a card of {memory:.1} GB, computed from sizes: nothing of it is measured, and no time follows from a \
                 card's memory"
            ),
        }?;
        for assumption in &self.assumed {
            writeln!(f, "  assumed: {assumption}")?;
        }
        writeln!(f, "{}", self.memory)?;
        let (peak, all) = (gb(self.memory.peak), memory);
        if self.fits {
            writeln!(f, "  fits: {peak:.1} of {all:.1} GB")?;
        } else {
            writeln!(
                f,
                "  does not fit: {peak:.1} of {all:.1} GB; set optimizer.memory = \"compact\", or \"host\" with \
                 model.bias_placement = \"host\""
            )?;
        }
        if let Some(duration) = &self.duration {
            write!(f, "{duration}")?;
            if self.ranks > 1 {
                write!(f, ", without the exchange of gradients between the GPUs")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::gpus::GpuKind;
    use super::*;

    #[test]
    fn the_papers_run_is_planned_without_its_models() {
        let mut config = Config::default();
        config.model.path = "owner/never-downloaded-3B".into();
        config.model.bias_model = Some("runs/absent/checkpoints/step-000500".into());
        let plan = |config: &Config, card, ranks| {
            RunEstimate::new(config, Verb::TrainCdpo, &[], card, ranks).unwrap()
        };
        let one = plan(&config, PlannedGpu::Kind(GpuKind::H200), 1);
        assert!(one.fits && one.assumed.len() == 3, "{one}");
        // The table in docs/memory.md, of the same lengths.
        assert!((69e9..72e9).contains(&(one.memory.peak as f64)), "{one}");
        let full = plan(&config, PlannedGpu::Kind(GpuKind::A6000), 2);
        assert!(
            !full.fits && full.to_string().contains("\"compact\""),
            "{full}"
        );
        config.optimizer.memory = crate::config::OptimizerMemory::Compact;
        let two = plan(&config, PlannedGpu::Kind(GpuKind::A6000), 2);
        assert!(two.fits, "{two}");
        let (one, two) = (one.duration.unwrap(), two.duration.unwrap());
        assert!(two.total() > one.total(), "{one} {two}");
        assert!(two.to_string().contains("data sheet"), "{two}");

        let bare = plan(&config, PlannedGpu::Memory(24_000_000_000), 1);
        assert!(!bare.fits && bare.duration.is_none(), "{bare}");
        assert!(bare.to_string().contains("of 24.0 GB"), "{bare}");
    }
}
