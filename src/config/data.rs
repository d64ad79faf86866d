//! `[data]`: which questions and clips, and what is kept of them.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

/// An exbibyte: beyond any memory, and in bytes still far from overflow.
pub(super) const MAX_MIB: usize = 1 << 30;

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Question file: `.json` (an array) or `.jsonl` (an object a line).
    #[schemars(example = &"data/clevrer/train.json")]
    pub questions: PathBuf,
    /// Relative video paths are resolved against this folder. Of an absolute path that does not exist, such as one of
    /// another machine, the longest end that exists below it is taken.
    #[schemars(example = &"data/clevrer/videos", extend("x-mayDiffer" = "machines"))]
    pub video_root: PathBuf,
    /// Cut from video paths, with everything before it: `/CLEVRER` makes `/data/CLEVRER/a/b.mp4` the relative `a/b.mp4`.
    #[schemars(regex(pattern = r"[^/\\]"), example = &"/CLEVRER", extend("x-mayDiffer" = "machines", "errorMessage" = {"pattern": "names no folder: write the part of a path after which what is below data.video_root begins, such as /CLEVRER"}))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video_strip: Option<String>,
    /// Draw this many questions, with `seed`; all when absent.
    #[schemars(range(min = 1, max = 1_000_000_000), example = 2000)]
    pub samples: Option<usize>,
    /// In which order they come; `train-sft` keeps those of one clip together.
    pub order: QuestionOrder,
    /// Keep only these kinds; empty keeps every question.
    #[schemars(extend("uniqueItems" = true), example = ["observational"])]
    pub kinds: Vec<QuestionKind>,
    /// The kind of questions that have none, where a file holds one kind only, such as the authors' observational ones;
    /// absent: unknown.
    #[schemars(example = &"observational")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assume_kind: Option<QuestionKind>,
    /// What to do with a clip that cannot be used.
    pub on_bad_video: BadVideoPolicy,
    /// What to do with a question that no answer can be right for, such as one whose solution is none of its options.
    pub on_bad_question: BadQuestionPolicy,
    /// What `data check --manifest` wrote: a run does not start when a clip has changed since.
    #[schemars(length(min = 1), example = &"data/clevrer/manifest.json", extend("errorMessage" = {"minLength": "must be a file that `data check --manifest` wrote"}))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<PathBuf>,
    /// Decoded frames are kept in memory for later epochs, up to this many MiB; 0 keeps none.
    #[schemars(range(max = MAX_MIB), extend("x-mayDiffer" = "machines"))]
    pub cache_mib: usize,
    /// Decoded frames are also kept in files in this folder, for later runs and the second stage; absent: in none.
    #[schemars(length(min = 1), example = &"/scratch/frames", extend("x-mayDiffer" = "machines", "errorMessage" = {"minLength": "must be a folder"}))]
    pub cache_dir: Option<PathBuf>,
    /// The files of `cache_dir` take up to this many MiB.
    #[schemars(range(max = MAX_MIB), extend("x-mayDiffer" = "machines"))]
    pub cache_dir_mib: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            questions: PathBuf::new(),
            video_root: PathBuf::new(),
            video_strip: None,
            samples: None,
            order: QuestionOrder::default(),
            kinds: Vec::new(),
            assume_kind: None,
            on_bad_video: BadVideoPolicy::default(),
            on_bad_question: BadQuestionPolicy::default(),
            manifest: None,
            cache_mib: 256,
            cache_dir: None,
            cache_dir_mib: 32 * 1024,
        }
    }
}

/// The paper's split of counterfactual questions.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    /// What is seen in the unmodified video already gives the right answer (the shortcut works).
    Observational,
    /// The removed object changes the answer: it must be reasoned out.
    Inferential,
}

impl QuestionKind {
    /// The word used in files and metric names.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Observational => "observational",
            Self::Inferential => "inferential",
        }
    }
}

/// The order in which a run takes its questions. The draw of `data.samples` from more questions is the same:
/// `datasets.shuffle(seed)` of Hugging Face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuestionOrder {
    /// What is drawn is shuffled anew in every epoch with a generator of its own.
    #[default]
    Drawn,
    /// As the authors' runs: transformers' Trainer shuffles what is drawn with torch, `seed` plus the epoch being its
    /// `data_seed`, and fills an epoch's last step with the epoch's first questions.
    Trainer,
}

/// What happens to a question whose clip cannot be used. It is never replaced by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadVideoPolicy {
    /// Stop and name it.
    #[default]
    Error,
    /// Skip, count and log it.
    Skip,
}

/// What happens to a question of a training run that no answer can be right for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BadQuestionPolicy {
    /// Stop and name it.
    #[default]
    Error,
    /// Leave it out before questions are drawn, and say how many.
    Skip,
}
