//! Two evaluations of the same questions, paired question by question.

use super::error::EvalError;
use super::judge;
use super::log;
use super::prediction::Prediction;
use super::score;
use super::score::MeanEstimate;
use super::score_file::ScoreFile;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What one split says about two evaluations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PairedScores {
    /// Questions that both answered.
    pub(crate) questions: usize,
    /// Accuracy of the first (exact).
    pub(crate) first: f64,
    /// Accuracy of the second (exact).
    pub(crate) second: f64,
    /// Second less first, with its 95 % interval from the pairs, clustered by clip.
    pub(crate) difference: MeanEstimate,
    /// Second less first with partial credit.
    pub(crate) soft_difference: MeanEstimate,
    /// Questions that only the first got right.
    pub(crate) only_first_right: usize,
    /// Questions that only the second got right.
    pub(crate) only_second_right: usize,
}

/// Two evaluations side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// The first model as it was named.
    pub(crate) first: String,
    pub(crate) second: String,
    /// Settings that differ, with both values; empty when the two can be compared.
    pub(crate) differences: Vec<String>,
    /// Questions that only one of the two answered; they are not compared.
    pub(crate) unpaired: usize,
    /// By split.
    pub(crate) splits: BTreeMap<String, PairedScores>,
}

/// Compares the evaluations in two folders. Unless told `across_protocols`, conditions that differ are an error.
pub(crate) fn compare(
    first: &Path,
    second: &Path,
    across_protocols: bool,
) -> Result<Comparison, EvalError> {
    let (a, b) = (ScoreFile::read(first)?, ScoreFile::read(second)?);
    let differences = a.settings.differences(&b.settings)?;
    if !differences.is_empty() && !across_protocols {
        return Err(EvalError::NotComparable { differences });
    }
    let mut predictions = log::read_finished(first, &a)?;
    let mut others = log::read_finished(second, &b)?;
    for (out, scores, predictions) in [(first, &a, &mut predictions), (second, &b, &mut others)] {
        judge::score_all(out, scores, predictions)?;
        if score::is_unknown(predictions.iter()) {
            return Err(EvalError::Unjudged {
                path: out.to_owned(),
            });
        }
        let waiting = predictions.iter().filter(|one| one.is_unjudged()).count();
        if waiting > 0 {
            tracing::warn!(
                "{}: {waiting} answers wait for a judge and count as wrong",
                out.display()
            );
        }
    }
    let splits = pair(&predictions, &others);
    let paired = splits.get("all").map_or(0, |all| all.questions);
    if paired == 0 {
        return Err(EvalError::NothingInCommon {
            first: first.to_owned(),
            second: second.to_owned(),
        });
    }
    Ok(Comparison {
        first: a.settings.model,
        second: b.settings.model,
        differences,
        unpaired: predictions.len() + others.len() - 2 * paired,
        splits,
    })
}

fn pair(predictions: &[Prediction], others: &[Prediction]) -> BTreeMap<String, PairedScores> {
    let by_id: BTreeMap<&str, &Prediction> =
        others.iter().map(|one| (one.id.as_str(), one)).collect();
    score::by_split(predictions)
        .into_iter()
        .filter_map(|(name, members)| {
            let pairs: Vec<(&Prediction, &Prediction)> = members
                .into_iter()
                .filter_map(|one| Some((one, *by_id.get(one.id.as_str())?)))
                .collect();
            (!pairs.is_empty()).then(|| (name, paired(&pairs)))
        })
        .collect()
}

fn paired(pairs: &[(&Prediction, &Prediction)]) -> PairedScores {
    let count = pairs.len() as f64;
    let difference = |value: fn(&Prediction) -> f64| {
        score::clustered_mean(
            pairs
                .iter()
                .map(|(a, b)| (a.video.as_str(), value(b) - value(a))),
        )
    };
    let right = |one: &Prediction| one.exact > 0.5;
    PairedScores {
        questions: pairs.len(),
        first: pairs.iter().map(|(a, _)| a.exact).sum::<f64>() / count,
        second: pairs.iter().map(|(_, b)| b.exact).sum::<f64>() / count,
        difference: difference(|one| one.exact),
        soft_difference: difference(|one| one.soft),
        only_first_right: pairs.iter().filter(|(a, b)| right(a) && !right(b)).count(),
        only_second_right: pairs.iter().filter(|(a, b)| !right(a) && right(b)).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(scores: &[f64], video: impl Fn(usize) -> String) -> Vec<Prediction> {
        let numbered = scores.iter().enumerate();
        numbered
            .map(|(index, exact)| {
                let line = serde_json::json!({
                    "id": index.to_string(), "video": video(index), "solution": "A",
                    "samples": [], "exact": exact, "soft": exact, "kind": "inferential",
                });
                serde_json::from_value(line).unwrap()
            })
            .collect()
    }

    #[test]
    fn pairs_are_compared_question_by_question() {
        let own = |index: usize| index.to_string();
        let first = predictions(&[1.0, 0.0, 1.0, 0.0], own);
        let second = predictions(&[1.0, 1.0, 0.0, 1.0, 1.0], own);
        let splits = pair(&first, &second);
        assert_eq!(splits.keys().collect::<Vec<_>>(), ["all", "inferential"]);
        let all = &splits["all"];
        assert_eq!(all.questions, 4);
        assert_eq!((all.only_first_right, all.only_second_right), (1, 2));
        assert!((all.first - 0.5).abs() < 1e-12 && (all.second - 0.75).abs() < 1e-12);
        assert!((all.difference.mean - 0.25).abs() < 1e-12);
        // Differences 0, 1, −1, 1: standard deviation 0.957, over √4.
        let expected = 1.96 * (11.0_f64 / 12.0).sqrt() / 2.0;
        assert!((all.difference.half_width.unwrap() - expected).abs() < 1e-9);
    }

    #[test]
    fn equal_answers_leave_no_doubt_and_clips_count_once() {
        let first = predictions(&[1.0, 0.0, 1.0, 0.0], |_| "one".into());
        let splits = pair(&first, &first);
        assert_eq!(splits["all"].difference.half_width, None);
        let apart = predictions(&[1.0, 0.0], |index| index.to_string());
        let same = pair(&apart, &apart)["all"].difference;
        assert!(same.mean.abs() < 1e-12 && same.half_width.unwrap().abs() < 1e-12);
    }
}
