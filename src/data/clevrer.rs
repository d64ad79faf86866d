//! Official CLEVRER files → questions, counterfactual ones with the observational/inferential split.

use serde::{Deserialize, Serialize};

mod condition;
mod convert;
#[cfg(test)]
mod fixture;
pub mod history;
mod kind;
mod label;
mod official;
pub mod program;
mod scribe;

pub(crate) use condition::without_condition;
pub(crate) use convert::convert;
pub use convert::{Conversion, Counts};
pub use kind::KindRule;
pub(crate) use label::Labels;
pub use official::{
    Annotation, Collision, ObjectProperty, OfficialAnswer, OfficialChoice, OfficialQuestion,
    OfficialScene, TrajectoryFrame, TrajectoryObject, for_each_scene, read_annotation,
    scene_of_clip, video_path,
};

/// What the paper counts on the official training set: observational, all. The latter is the number of
/// counterfactual questions with a right option.
pub(crate) const PAPER_COUNTS: (usize, usize) = (13_674, 18_473);

/// The four types of CLEVRER's questions.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum QuestionType {
    /// What is there and what happens; answered by one word.
    Descriptive,
    /// What is responsible for an event.
    Explanatory,
    /// What will happen next.
    Predictive,
    /// What will happen without an object.
    Counterfactual,
}

impl QuestionType {
    /// The word that official files use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Descriptive => "descriptive",
            Self::Explanatory => "explanatory",
            Self::Predictive => "predictive",
            Self::Counterfactual => "counterfactual",
        }
    }
}
