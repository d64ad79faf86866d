//! What a config is loaded for.

/// What the config is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Supervised warm start.
    TrainSft,
    /// Stage 1: GRPO on observational questions.
    TrainBias,
    /// Plain GRPO on all questions, without a KL term.
    TrainGrpo,
    /// Stage 2: GRPO with the KL term against the bias model.
    TrainCdpo,
    /// Answers a benchmark; the model comes from the command line.
    Eval,
    /// Looks at one clip or prompt; only ranges are checked.
    Inspect,
}

impl Verb {
    /// The word on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TrainSft => "train-sft",
            Self::TrainBias => "train-bias",
            Self::TrainGrpo => "train-grpo",
            Self::TrainCdpo => "train-cdpo",
            Self::Eval => "eval",
            Self::Inspect => "inspect",
        }
    }

    /// Whether it samples groups and learns from their rewards.
    pub(crate) fn is_rl(self) -> bool {
        matches!(self, Self::TrainBias | Self::TrainGrpo | Self::TrainCdpo)
    }

    /// Whether it trains a model.
    pub(crate) fn is_training(self) -> bool {
        self.is_rl() || self == Self::TrainSft
    }
}
