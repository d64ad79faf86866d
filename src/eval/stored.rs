//! Evaluations that are finished: scored anew without a model, or put together from their shards.

use super::error::EvalError;
use super::files::read_json;
use super::files::write_json;
use super::judge;
use super::log;
use super::prediction::Prediction;
use super::score;
use super::score_file::ScoreFile;
use super::settings::Settings;
use super::shard::Shard;
use crate::config::Extraction;
use crate::util::atomic;
use crate::util::file::FileError;
use crate::util::json_lines;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// Scores the stored answers of the folder `out` anew, by its own rule or by `extraction`, and returns where the scores
/// were written: `scores.json` for its own rule, `scores-RULE.json` for another.
pub fn rescore(
    out: &Path,
    extraction: Option<Extraction>,
) -> Result<(ScoreFile, PathBuf), EvalError> {
    let before = ScoreFile::read(out)?;
    let mut predictions = log::read_finished(out, &before)?;
    let own = Settings::read(out)?.extraction;
    let rule = extraction.unwrap_or(own);
    if rule == Extraction::Official && before.settings.rule().benchmark.is_none() {
        return Err(EvalError::NoOfficialRule {
            path: out.to_owned(),
        });
    }
    // What a judge has said of answers read by one rule says nothing of those read by another.
    let judge = before.settings.judge.clone().filter(|_| rule == own);
    let mut scores = ScoreFile {
        judge_url: before.judge_url.filter(|_| judge.is_some()),
        settings: Settings {
            extraction: rule,
            judge,
            ..before.settings
        },
        ..before
    };
    judge::score_all(out, &scores, &mut predictions)?;
    scores.splits = score::splits(&predictions);
    let name = if rule == own {
        "scores.json".to_owned()
    } else {
        format!("scores-{}.json", rule.as_str())
    };
    let path = out.join(name);
    write_json(&path, &scores)?;
    Ok((scores, path))
}

/// The finished evaluation in the folder `out`: its settings, and its answers scored by its own rule and judge.
pub(crate) fn read(out: &Path) -> Result<(ScoreFile, Vec<Prediction>), EvalError> {
    let scores = ScoreFile::read(out)?;
    let mut predictions = log::read_finished(out, &scores)?;
    judge::score_all(out, &scores, &mut predictions)?;
    Ok((scores, predictions))
}

/// Puts the finished shards in the folder `out` together: `outputs.jsonl` and `scores.json` as one process writes them.
pub(crate) fn merge(out: &Path) -> Result<ScoreFile, EvalError> {
    let shards = find_shards(out)?;
    let settings = Settings::read(out)?;
    let whole = out.join("outputs.jsonl");
    if whole.exists() {
        return Err(EvalError::Merged { path: whole });
    }
    let (mut predictions, mut lines) = (Vec::<Prediction>::new(), Vec::<u8>::new());
    let (mut skipped, mut missing) = (0, 0);
    for shard in shards {
        let path = out.join(shard.scores_file());
        if !path.exists() {
            return Err(EvalError::Unfinished { path, shard });
        }
        let scores: ScoreFile = read_json(&path)?;
        skipped += scores.questions_skipped;
        missing = scores.questions_missing;
        let path = out.join(shard.outputs_file());
        let bytes = json_lines::read_bytes(&path)?;
        predictions.extend(json_lines::parse::<Prediction>(&path, &bytes)?);
        lines.extend(bytes);
    }
    for one in &mut predictions {
        one.score(settings.rule());
    }
    let ids: BTreeSet<&str> = predictions.iter().map(|one| one.id.as_str()).collect();
    let found = ids.len() + skipped;
    if ids.len() < predictions.len() || found != settings.questions_asked {
        return Err(EvalError::Incomplete {
            path: out.to_owned(),
            found,
            asked: settings.questions_asked,
        });
    }
    let scores = ScoreFile {
        judge_url: None,
        questions_answered: predictions.len(),
        questions_skipped: skipped,
        questions_missing: missing,
        splits: score::splits(&predictions),
        settings,
    };
    atomic::write(&whole, &lines)?;
    write_json(&out.join("scores.json"), &scores)?;
    Ok(scores)
}

/// All shards of the evaluation in `out`, by the names of the files there.
fn find_shards(out: &Path) -> Result<Vec<Shard>, EvalError> {
    let failed = |error| FileError::reading(out, error);
    let mut counts = BTreeSet::new();
    for entry in std::fs::read_dir(out).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        counts.extend(Shard::of_outputs_file(&name.to_string_lossy()).map(|shard| shard.count));
    }
    let mut counts = counts.into_iter();
    match (counts.next(), counts.next()) {
        (Some(count), None) => Ok((1..=count).map(|index| Shard { index, count }).collect()),
        (None, _) => Err(EvalError::NoShards {
            path: out.to_owned(),
        }),
        (Some(one), Some(other)) => Err(EvalError::MixedShards {
            path: out.to_owned(),
            one,
            other,
        }),
    }
}
