//! Questions: what is asked about which clip, the right answer, and the order a run takes them in.

use crate::config::QuestionKind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub mod clevrer;

/// One question about one clip, as it stands in a question file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Stable name; filled from the position in the file when the source has none.
    #[serde(default)]
    pub id: String,
    /// The question's text, options included as lines `A. …` unless `options` has them.
    pub problem: String,
    /// The right answer, `<answer>A,C</answer>`.
    pub solution: String,
    /// Path of the clip, relative to `video_root` or absolute.
    pub video: PathBuf,
    /// The paper's split, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<QuestionKind>,
    /// Options that are not part of `problem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<String>>,
    /// The source's name for the kind of question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<String>,
    /// A worked answer to learn from (`train-sft` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Whatever else the source has: kept, not interpreted.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}
