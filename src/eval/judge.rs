//! A judge: another language model that says of stored answers whether they are right, where no rule can.
//!
//! It is asked over an OpenAI-compatible endpoint (vLLM, SGLang, OpenAI), at temperature 0. Every reply is kept as it came
//! in `judgements.jsonl`: a judging that was interrupted goes on where it was, and scoring again needs no judge. A reply that
//! says neither leaves its answer unjudged, which never counts as right.

use super::error::EvalError;
use super::files::write_json;
use super::fingerprint;
use super::log;
use super::prediction::JudgeVerdict;
use super::prediction::Prediction;
use super::score;
use super::score_file::ScoreFile;
use super::settings::Settings;
use crate::util::json_lines;
use crate::util::json_lines::JsonLines;
use crate::util::lock::Lock;
use crate::util::lock::LockError;
use client::Client;
use client::JudgeResponse;
use prompt::JudgedBy;
use prompt::verdict;
use prompt::words;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

pub(crate) mod client;
pub(super) mod prompt;

/// A line of `judgements.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Judgement {
    /// Whose answer.
    id: String,
    /// The judge's name.
    judge: String,
    /// A fingerprint of what it was asked.
    prompt_hash: String,
    /// Its reply as it came.
    reply: String,
}

/// An answer that a judge is to read.
struct JudgeCase<'a> {
    id: &'a str,
    prompt: String,
    prompt_hash: String,
}

impl<'a> JudgeCase<'a> {
    /// `None` where there is nothing to judge: no task, or no answer, which is wrong.
    fn of(prediction: &'a Prediction) -> Option<Self> {
        let (task, text) = (prediction.judge_task()?, prediction.judged_text());
        if text.is_empty() {
            return None;
        }
        let prompt = words(&task, text, &prediction.truth_in_words());
        Some(Self {
            id: &prediction.id,
            prompt_hash: fingerprint::of_text(&prompt),
            prompt,
        })
    }

    /// Logs a reply; returns why there is none.
    fn record(
        &self,
        response: JudgeResponse,
        client: &Client,
        judgements: &mut JsonLines,
    ) -> Result<Option<String>, EvalError> {
        let reply = match response {
            JudgeResponse::Reply(reply) => reply,
            JudgeResponse::Refused(reason) => {
                tracing::warn!("{}: the judge does not take it: {reason}", self.id);
                return Ok(Some(reason));
            }
        };
        let line = Judgement {
            id: self.id.to_owned(),
            judge: client.model.clone(),
            prompt_hash: self.prompt_hash.clone(),
            reply,
        };
        judgements.append(&line)?;
        Ok(None)
    }
}

/// Replies by question id and fingerprint of what was asked.
type JudgeReplies = BTreeMap<(String, String), String>;

/// Has the stored answers of the folder `out` judged, `at_once` at a time, and writes `scores.json` anew. `progress` is told of
/// the replies that have come and how many are due.
///
/// # Errors
/// A folder that is no finished evaluation, or of a benchmark that a rule scores; an endpoint that does not answer. Replies
/// that had come by then are kept.
pub(crate) fn judge(
    out: &Path,
    client: &Client,
    at_once: usize,
    progress: impl FnMut(usize, usize),
) -> Result<(ScoreFile, PathBuf), EvalError> {
    let before = ScoreFile::read(out)?;
    let mut predictions = log::read_finished(out, &before)?;
    // The judge reads what the rule takes for the answer, or leaves open.
    for one in &mut predictions {
        one.score(before.settings.rule());
    }
    if predictions.iter().all(|one| one.judge_task().is_none()) {
        return Err(EvalError::NothingToJudge {
            path: out.to_owned(),
        });
    }
    let path = log_of(out);
    let _lock = lock(out)?;
    let replies = replies(&path, &client.model)?;
    let is_new =
        |case: &JudgeCase| !replies.contains_key(&(case.id.to_owned(), case.prompt_hash.clone()));
    let cases: Vec<JudgeCase> = predictions
        .iter()
        .filter_map(JudgeCase::of)
        .filter(is_new)
        .collect();
    let (new, refused) = ask_all(&cases, client, at_once, &path, progress)?;
    if let Some(reason) = refused.filter(|_| new + replies.len() == 0) {
        // None was taken: something else is wrong than a question.
        return Err(EvalError::Judge {
            url: client.shown_url(),
            reason,
        });
    }
    let scores = ScoreFile {
        settings: Settings {
            judge: Some(JudgedBy::of(&client.model)),
            ..before.settings
        },
        judge_url: Some(client.shown_url()),
        ..before
    };
    score_all(out, &scores, &mut predictions)?;
    let scores = ScoreFile {
        splits: score::splits(&predictions),
        ..scores
    };
    let path = out.join("scores.json");
    write_json(&path, &scores)?;
    Ok((scores, path))
}

/// Scores answers by the rule of `scores`, and those that its judge, if any, is for by what that has said of them.
pub(super) fn score_all(
    out: &Path,
    scores: &ScoreFile,
    predictions: &mut [Prediction],
) -> Result<(), EvalError> {
    for one in predictions.iter_mut() {
        one.score(scores.settings.rule());
    }
    let Some(judge) = &scores.settings.judge else {
        return Ok(());
    };
    if *judge != JudgedBy::of(&judge.model) {
        return Err(EvalError::OtherWords {
            path: out.to_owned(),
        });
    }
    let replies = replies(&log_of(out), &judge.model)?;
    for one in predictions {
        let Some(task) = one.judge_task() else {
            continue;
        };
        let verdict = JudgeCase::of(one).map_or(JudgeVerdict::Wrong, |case| {
            let reply = replies.get(&(case.id.to_owned(), case.prompt_hash));
            reply.map_or(JudgeVerdict::Unread, |reply| {
                verdict(&task, reply, &one.truth())
            })
        });
        one.set_verdict(verdict);
    }
    Ok(())
}

/// One judging of a folder at a time: two would pay twice.
fn lock(out: &Path) -> Result<Lock, EvalError> {
    let own = std::process::id().to_string();
    match Lock::take(&out.join("judge.lock"), &own, "this evaluation") {
        Err(LockError::Held { .. }) => Err(EvalError::Judging {
            path: out.to_owned(),
        }),
        Err(LockError::File(error)) => Err(error.into()),
        Ok(lock) => Ok(lock),
    }
}

fn log_of(out: &Path) -> PathBuf {
    out.join("judgements.jsonl")
}

/// What `judge` has replied so far.
fn replies(path: &Path, judge: &str) -> Result<JudgeReplies, EvalError> {
    if !path.exists() {
        return Ok(JudgeReplies::new());
    }
    let lines: Vec<Judgement> = json_lines::read(path)?;
    Ok(lines
        .into_iter()
        .filter(|line| line.judge == judge)
        .map(|line| ((line.id, line.prompt_hash), line.reply))
        .collect())
}

/// Asks about every case, several at once; replies are logged as they come. What fails for all questions ends it, one that is
/// refused is left out. Returns how many replies came, and why the last refused one was.
fn ask_all(
    cases: &[JudgeCase],
    client: &Client,
    at_once: usize,
    path: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<(usize, Option<String>), EvalError> {
    let (mut judgements, _) = JsonLines::open::<Judgement>(path)?;
    let (queue, stop) = (Mutex::new(cases.iter()), AtomicBool::new(false));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(cases.len()) {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed)
                    && let Some(case) = next()
                {
                    // Nobody listens any more once something has failed.
                    if sender.send((case, client.ask(&case.prompt, stop))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let (mut replies, mut refused, mut failure) = (0, None, None);
        for (done, (case, response)) in receiver.into_iter().enumerate() {
            match response.and_then(|response| case.record(response, client, &mut judgements)) {
                Ok(None) => replies += 1,
                Ok(reason) => refused = reason,
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                    continue;
                }
            }
            progress(done + 1, cases.len());
        }
        match failure {
            Some(error) => Err(error),
            None => Ok((replies, refused)),
        }
    })
}
