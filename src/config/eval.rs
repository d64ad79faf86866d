//! `[eval]`: how a benchmark is asked and scored.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

/// `[eval]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalConfig {
    /// What `data.questions` holds: a benchmark's official file or folder, or its questions in the shape of the Video-R1
    /// family. Absent: questions as for training.
    #[schemars(example = &"videomme")]
    pub(crate) benchmark: Option<Benchmark>,
    /// Sets wording, extraction, frames, pixels and lengths together, and refuses others. Absent: they are as they stand.
    #[schemars(example = &"authors")]
    pub(crate) protocol: Option<Protocol>,
    /// A clone of the repository whose protocol it is (the authors', or the benchmark's): its own words are read there and
    /// asked. Absent: other words in the same order.
    #[schemars(length(min = 1), example = &"upstream/VideoThinker", extend("errorMessage" = {"minLength": "must be a folder"}))]
    pub(crate) protocol_from: Option<PathBuf>,
    /// Which wording follows the question.
    pub(crate) wording: Wording,
    /// Asked instead of `eval.wording`; `{question}` in it stands for the question with its options.
    #[schemars(regex(pattern = r"\{question\}"), example = &"{question} Answer with a letter.", extend("errorMessage" = {"pattern": "has no {question}, so nothing would be asked"}))]
    pub(crate) template: Option<String>,
    /// How the answer is found in what the model wrote.
    pub(crate) extraction: Extraction,
    /// Answers per question; the most frequent one counts, among equals the one that came first.
    #[schemars(range(min = 1, max = 1024))]
    pub(crate) samples: usize,
    /// Softmax temperature; 0 is greedy.
    #[schemars(range(min = 0.0))]
    pub(crate) temperature: f64,
    /// Questions answered together.
    #[schemars(range(min = 1, max = 65_536))]
    pub(crate) batch_size: usize,
    /// Show only the part of a clip that the question names (MVBench).
    pub(crate) clip_bounds: bool,
    /// Folder of `.srt` files: what is said around the frames stands before the question (Video-MME).
    #[schemars(length(min = 1), example = &"data/videomme/subtitle", extend("errorMessage" = {"minLength": "must be a folder"}))]
    pub(crate) subtitles: Option<PathBuf>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            benchmark: None,
            protocol: None,
            protocol_from: None,
            wording: Wording::Evaluation,
            template: None,
            extraction: Extraction::Strict,
            samples: 1,
            temperature: 0.0,
            batch_size: 8,
            clip_bounds: true,
            subtitles: None,
        }
    }
}

/// The benchmarks whose files are read as they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Benchmark {
    /// CLEVRER, counterfactual questions of the validation set.
    Clevrer,
    /// MMVU, the 625 multiple-choice questions of the validation set.
    Mmvu,
    /// MMVU, the 375 open-ended questions, compared word by word or by a judge (`eval judge`).
    MmvuOpen,
    /// Video-Holmes, seven types of question.
    VideoHolmes,
    /// MVBench, 20 tasks.
    Mvbench,
    /// TempCompass: multiple choice, yes or no, caption matching.
    Tempcompass,
    /// TempCompass, all four tasks as the authors count them: a caption is a question about which information is right.
    TempcompassFlat,
    /// TempCompass, captioning: a judge (`eval judge`) answers questions from the captions.
    TempcompassCaptioning,
    /// Video-MME.
    Videomme,
}

impl Benchmark {
    /// The word used in files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Clevrer => "clevrer",
            Self::Mmvu => "mmvu",
            Self::MmvuOpen => "mmvu_open",
            Self::VideoHolmes => "video_holmes",
            Self::Mvbench => "mvbench",
            Self::Tempcompass => "tempcompass",
            Self::TempcompassFlat => "tempcompass_flat",
            Self::TempcompassCaptioning => "tempcompass_captioning",
            Self::Videomme => "videomme",
        }
    }

    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Clevrer,
        Self::Mmvu,
        Self::MmvuOpen,
        Self::VideoHolmes,
        Self::Mvbench,
        Self::Tempcompass,
        Self::TempcompassFlat,
        Self::TempcompassCaptioning,
        Self::Videomme,
    ];

    /// The benchmark of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }

    /// How many questions the published file has, where that is known.
    pub fn published_questions(self) -> Option<usize> {
        match self {
            Self::Clevrer => None,
            Self::Mmvu => Some(625),
            Self::MmvuOpen => Some(375),
            Self::VideoHolmes => Some(1837),
            Self::Mvbench => Some(4000),
            // Multiple choice, yes or no, caption matching.
            Self::Tempcompass => Some(1580 + 2453 + 1503),
            Self::TempcompassFlat => Some(1580 + 2453 + 1503 + 2004),
            Self::TempcompassCaptioning => Some(2004),
            Self::Videomme => Some(2700),
        }
    }
}

/// The settings that produced published numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The authors' `eval_bench.py` and `eval_bench.sh`.
    Authors,
    /// The benchmark's own.
    Official,
}

impl Protocol {
    /// The word used in files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Authors => "authors",
            Self::Official => "official",
        }
    }
}

/// How the answer is found in what a model wrote. An empty or missing answer is never right.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Extraction {
    /// Option letters by a fixed grammar, inside the tags or as all that is written; two different answers are none.
    Strict,
    /// The first tags' text, else all that is written, must be the solution to the letter.
    Authors,
    /// As the training reward reads it.
    Training,
    /// The benchmark's own rule; what that leaves open goes to a judge where the benchmark has one.
    Official,
}

impl Extraction {
    /// The word used in files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Authors => "authors",
            Self::Training => "training",
            Self::Official => "official",
        }
    }
}

/// The text put around a question (`prompt::template` holds the words).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Wording {
    /// The authors' training prompt.
    Training,
    /// Our own evaluation prompt: thinking and an answer in tags.
    Evaluation,
    /// The question as it is.
    None,
}

impl Wording {
    /// The word used in files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Evaluation => "evaluation",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_names_are_those_of_the_files() {
        for benchmark in Benchmark::ALL {
            let written = serde_json::to_value(benchmark).unwrap();
            assert_eq!(written, benchmark.as_str());
        }
        let mut settings = Config::settings().iter();
        let setting = settings.find(|setting| setting.key == "eval.benchmark");
        let words = setting.unwrap().choices().iter();
        let words: Vec<&str> = words.map(|choice| choice.word.as_str()).collect();
        assert_eq!(
            words,
            Benchmark::ALL.map(Benchmark::as_str),
            "Benchmark::ALL"
        );
    }
}
