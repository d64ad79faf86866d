//! `outputs.jsonl`, a line per answered question: appended as they come, readable after a kill at any moment.

use super::error::EvalError;
use super::prediction::Prediction;
use super::score_file::ScoreFile;
use crate::util::json_lines;
use std::collections::BTreeSet;
use std::path::Path;

/// The answers of a finished evaluation: those that its scores are about, each once.
pub(super) fn read_finished(out: &Path, scores: &ScoreFile) -> Result<Vec<Prediction>, EvalError> {
    let path = out.join("outputs.jsonl");
    let predictions: Vec<Prediction> = json_lines::read(&path)?;
    let ids: BTreeSet<&str> = predictions.iter().map(|one| one.id.as_str()).collect();
    let (found, lines, scored) = (ids.len(), predictions.len(), scores.questions_answered);
    if found != lines || found != scored {
        return Err(EvalError::OtherAnswers {
            path,
            found,
            lines,
            scored,
        });
    }
    Ok(predictions)
}
