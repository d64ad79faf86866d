//! `scores.json`: what an evaluation came to.

use super::error::EvalError;
use super::files::read_json;
use super::score::SplitScores;
use super::settings::Settings;
use crate::util::file;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// `scores.json`: the result of an evaluation and the conditions it holds under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreFile {
    /// The conditions.
    #[serde(flatten)]
    pub(crate) settings: Settings,
    /// Where the judge was, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) judge_url: Option<String>,
    pub(crate) questions_answered: usize,
    /// Questions left out because their clip cannot be used (`data.on_bad_video = "skip"`).
    pub(crate) questions_skipped: usize,
    /// Questions left out because their clip does not exist (likewise).
    #[serde(default)]
    pub(crate) questions_missing: usize,
    /// The scores of `all` questions, of each kind and of what else they are sorted under.
    pub(crate) splits: BTreeMap<String, SplitScores>,
}

impl ScoreFile {
    /// Reads a `scores.json`, named by itself or by its folder.
    pub(crate) fn read(path: &Path) -> Result<Self, EvalError> {
        if !path.is_dir() {
            return read_json(path);
        }
        let scores = path.join("scores.json");
        if file::exists(&scores)? {
            return read_json(&scores);
        }
        let path = path.to_owned();
        Err(if file::exists(&path.join("settings.json"))? {
            EvalError::NotFinished { path }
        } else {
            EvalError::NotAnEvaluation { path }
        })
    }
}
