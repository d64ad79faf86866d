//! Every setting: its meaning, unit, default and paper symbol. Loaded, overridden and validated once.
//!
//! The defaults are the paper's recipe (arXiv 2605.01324 and the code that produced its numbers). A field is the one place of its
//! setting: the doc comment says what it means, `schemars` attributes its range and an example, `Default` its default. What the
//! program accepts and says about a setting is read from there ([`Setting`]).

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use std::path::PathBuf;

mod data;
mod eval;
pub(crate) mod foreign;
mod load;
mod model;
mod model_folder;
mod objective;
mod protocol;
mod schema;
mod trained;
mod training;
mod validate;
mod verb;
mod video;

pub use data::{BadQuestionPolicy, BadVideoPolicy, DataConfig, QuestionKind, QuestionOrder};
pub use eval::{Benchmark, EvalConfig, Extraction, Protocol, Wording};
pub use load::{ConfigError, Origin, Origins};
pub(crate) use model::is_hub_name;
pub(crate) use model::where_it_lies;
pub use model::{BiasPlacement, DTypeName, ModelConfig, is_hub_id};
pub(crate) use model_folder::adapter;
pub(crate) use model_folder::instead_by_names;
pub(crate) use model_folder::instead_of_weights;
pub use objective::{
    AccuracyRule, DivergenceGuard, KlConfig, KlDirection, KlEstimator, LossKind, ObjectiveConfig,
    RewardConfig, RewardedAnswer, SamplingConfig,
};
pub use schema::{Choice, MayDiffer, Setting, ValueType};
pub(crate) use trained::{Departure, TrainedWith};
pub use training::{
    CheckpointConfig, OptimizerConfig, OptimizerMemory, Schedule, SftConfig, TrainConfig,
};
pub use verb::Verb;
pub use video::{FramePositions, SecondsPerGrid, TextAfterVideo, VideoConfig};

/// A whole run, as written in a TOML file with `--set` applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Seed of everything random: question order, sampling, initialisation.
    #[schemars(range(max = i64::MAX))]
    pub(crate) seed: u64,
    /// Run directory: resolved config, metrics, rollouts, checkpoints.
    #[schemars(
        length(min = 1),
        extend("x-mayDiffer" = "machines", "errorMessage" = {"minLength": "must be a folder"})
    )]
    pub output_dir: PathBuf,
    /// Which model, and where it runs.
    pub model: ModelConfig,
    /// Which questions.
    pub(crate) data: DataConfig,
    /// Frames and pixels per clip.
    pub(crate) video: VideoConfig,
    /// How completions are sampled.
    pub sampling: SamplingConfig,
    /// How completions are scored.
    pub(crate) reward: RewardConfig,
    /// The policy-gradient loss.
    pub objective: ObjectiveConfig,
    /// The KL term against the bias model (`train-cdpo` only).
    pub kl: KlConfig,
    /// AdamW and its schedule.
    pub optimizer: OptimizerConfig,
    /// Length of the run.
    pub train: TrainConfig,
    /// What `train-sft` learns beside the worked answers.
    pub(crate) sft: SftConfig,
    /// When checkpoints are written and how many are kept.
    pub checkpoint: CheckpointConfig,
    /// How `eval` asks.
    pub(crate) eval: EvalConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 42,
            output_dir: PathBuf::from("runs/run"),
            model: ModelConfig::default(),
            data: DataConfig::default(),
            video: VideoConfig::default(),
            sampling: SamplingConfig::default(),
            reward: RewardConfig::default(),
            objective: ObjectiveConfig::default(),
            kl: KlConfig::default(),
            optimizer: OptimizerConfig::default(),
            train: TrainConfig::default(),
            sft: SftConfig::default(),
            checkpoint: CheckpointConfig::default(),
            eval: EvalConfig::default(),
        }
    }
}
