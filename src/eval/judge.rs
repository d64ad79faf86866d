//! A judge: another language model that says of stored answers whether they are right, where no rule can.
//!
//! It is asked over an OpenAI-compatible endpoint (vLLM, SGLang, OpenAI), at temperature 0. Every reply is kept as it came
//! in `judgements.jsonl`: a judging that was interrupted goes on where it was, and scoring again needs no judge. A reply that
//! says neither leaves its answer unjudged, which never counts as right.

use super::EvalError;
use super::Scores;
use super::Settings;
use super::answered::Answered;
use super::fingerprint;
use super::log;
use super::score;
use super::write_json;
use crate::data::JudgeTask;
use crate::data::answer::AnswerForm;
use crate::data::answer::ReadBy;
use crate::data::answer::option::choices_in;
use crate::data::answer::strict;
use client::Asked;
use client::Client;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::fs::TryLockError;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

pub mod client;

/// What a judge says of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Right,
    /// It is wrong.
    Wrong,
    /// The reply says neither.
    Unread,
}

/// Which judge, in `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedBy {
    /// Its name at the endpoint.
    pub model: String,
    /// A fingerprint of the words it is asked in.
    pub wording_hash: String,
}

impl JudgedBy {
    fn of(model: &str) -> Self {
        let tasks = [
            JudgeTask::Caption(String::new()),
            JudgeTask::Open(String::new()),
        ];
        let words = tasks.map(|task| words(&task, "", ""));
        Self {
            model: model.to_owned(),
            wording_hash: fingerprint::of_text(&words.join("\u{0}")),
        }
    }
}

/// What the judge reads; TempCompass's and MMVU's procedures in our own words.
fn words(task: &JudgeTask, answer: &str, truth: &str) -> String {
    match task {
        JudgeTask::Caption(question) => format!(
            "Here is what somebody wrote about a video, and a question about that video. Which option agrees with the text? Go by \
                 the text alone. If it says nothing that tells the options apart, the reply is: none\n\n\
                 Text:\n{answer}\n\nQuestion:\n{question}\n\nReply with one option's letter, or none, and with nothing else."
        ),
        JudgeTask::Open(question) => format!(
            "Somebody answered a question about a video. Does the answer mean the same as the right answer? Other words, spellings and \
                 units, or more detail, are no fault; another thing, number or claim is.\n\n\
                 Question:\n{question}\n\nRight answer:\n{truth}\n\nAnswer:\n{answer}\n\nReply with the word correct or incorrect, and with \
                 nothing else."
        ),
    }
}

/// What a reply says. An option other than the right one, and none, are wrong.
fn verdict(task: &JudgeTask, reply: &str, truth: &str) -> Verdict {
    let word = strict::read(reply, AnswerForm::Words).answer;
    match task {
        JudgeTask::Caption(_) if word.eq_ignore_ascii_case("none") => Verdict::Wrong,
        JudgeTask::Caption(question) => {
            let options = choices_in(question);
            let read = strict::read(reply, AnswerForm::Options(&options));
            match read.answer.as_str() {
                // A judge is to name the option, not to talk of it.
                _ if read.read_by == ReadBy::Prose => Verdict::Unread,
                "" => Verdict::Unread,
                letter if letter == truth => Verdict::Right,
                _ => Verdict::Wrong,
            }
        }
        JudgeTask::Open(_) if word.eq_ignore_ascii_case("correct") => Verdict::Right,
        JudgeTask::Open(_) if word.eq_ignore_ascii_case("incorrect") => Verdict::Wrong,
        JudgeTask::Open(_) => Verdict::Unread,
    }
}

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
struct Case<'a> {
    id: &'a str,
    prompt: String,
    prompt_hash: String,
}

impl<'a> Case<'a> {
    /// `None` where there is nothing to judge: no task, or no answer, which is wrong.
    fn of(answered: &'a Answered) -> Option<Self> {
        let (task, text) = (answered.judge_task()?, answered.judged_text());
        if text.is_empty() {
            return None;
        }
        let prompt = words(&task, text, &answered.truth_in_words());
        Some(Self {
            id: &answered.id,
            prompt_hash: fingerprint::of_text(&prompt),
            prompt,
        })
    }
}

impl Case<'_> {
    /// Logs a reply; returns why there is none.
    fn record(
        &self,
        asked: Asked,
        client: &Client,
        judgements: &mut log::Log,
        path: &Path,
    ) -> Result<Option<String>, EvalError> {
        let reply = match asked {
            Asked::Reply(reply) => reply,
            Asked::Refused(reason) => {
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
        judgements.append(&line).map_err(|source| EvalError::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(None)
    }
}

/// Replies by question id and fingerprint of what was asked.
type Replies = BTreeMap<(String, String), String>;

/// Has the stored answers of the folder `out` judged, `at_once` at a time, and writes `scores.json` anew. `progress` is told of
/// the replies that have come and how many are due.
///
/// # Errors
/// A folder that is no finished evaluation, or of a benchmark that a rule scores; an endpoint that does not answer. Replies
/// that had come by then are kept.
pub fn judge(
    out: &Path,
    client: &Client,
    at_once: usize,
    progress: impl FnMut(usize, usize),
) -> Result<(Scores, PathBuf), EvalError> {
    let before = Scores::read(out)?;
    let mut answered = log::read_finished(out, &before)?;
    // The judge reads what the rule takes for the answer, or leaves open.
    for one in &mut answered {
        one.score(before.settings.rule());
    }
    if answered.iter().all(|one| one.judge_task().is_none()) {
        return Err(EvalError::NothingToJudge {
            path: out.to_owned(),
        });
    }
    let path = log_of(out);
    let _lock = lock(out)?;
    let replies = replies(&path, &client.model)?;
    let is_new =
        |case: &Case| !replies.contains_key(&(case.id.to_owned(), case.prompt_hash.clone()));
    let cases: Vec<Case> = answered
        .iter()
        .filter_map(Case::of)
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
    let scores = Scores {
        settings: Settings {
            judge: Some(JudgedBy::of(&client.model)),
            ..before.settings
        },
        judge_url: Some(client.shown_url()),
        ..before
    };
    score_all(out, &scores, &mut answered)?;
    let scores = Scores {
        splits: score::splits(&answered),
        ..scores
    };
    let path = out.join("scores.json");
    write_json(&path, &scores)?;
    Ok((scores, path))
}

/// Scores answers by the rule of `scores`, and those that its judge, if any, is for by what that has said of them.
pub(super) fn score_all(
    out: &Path,
    scores: &Scores,
    answered: &mut [Answered],
) -> Result<(), EvalError> {
    for one in answered.iter_mut() {
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
    for one in answered {
        let Some(task) = one.judge_task() else {
            continue;
        };
        let verdict = Case::of(one).map_or(Verdict::Wrong, |case| {
            let reply = replies.get(&(case.id.to_owned(), case.prompt_hash));
            reply.map_or(Verdict::Unread, |reply| verdict(&task, reply, &one.truth()))
        });
        one.set_verdict(verdict);
    }
    Ok(())
}

/// One judging of a folder at a time: two would pay twice.
fn lock(out: &Path) -> Result<File, EvalError> {
    let path = out.join("judge.lock");
    let failed = |source| EvalError::File {
        path: path.clone(),
        source,
    };
    let lock = File::create(&path).map_err(failed)?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Err(EvalError::Judging {
            path: out.to_owned(),
        }),
        // Some network file systems know no locks; that alone is no reason not to judge.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
    }
}

fn log_of(out: &Path) -> PathBuf {
    out.join("judgements.jsonl")
}

/// What `judge` has replied so far.
fn replies(path: &Path, judge: &str) -> Result<Replies, EvalError> {
    if !path.exists() {
        return Ok(Replies::new());
    }
    let lines: Vec<Judgement> = log::read(path)?;
    Ok(lines
        .into_iter()
        .filter(|line| line.judge == judge)
        .map(|line| ((line.id, line.prompt_hash), line.reply))
        .collect())
}

/// Asks about every case, several at once; replies are logged as they come. What fails for all questions ends it, one that is
/// refused is left out. Returns how many replies came, and why the last refused one was.
fn ask_all(
    cases: &[Case],
    client: &Client,
    at_once: usize,
    path: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<(usize, Option<String>), EvalError> {
    let (mut judgements, _) = log::Log::open::<Judgement>(path)?;
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
        for (done, (case, asked)) in receiver.into_iter().enumerate() {
            match asked.and_then(|asked| case.record(asked, client, &mut judgements, path)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_verdict_or_none() {
        let caption = JudgeTask::Caption("Where to?\nA. left\nB. right".into());
        for (reply, want) in [
            ("A", Verdict::Right),
            (" a. ", Verdict::Right),
            ("(A) left", Verdict::Right),
            ("<think>B? no</think>\n\nA", Verdict::Right),
            ("Answer: left", Verdict::Right),
            ("B", Verdict::Wrong),
            ("right.", Verdict::Wrong),
            ("A, B", Verdict::Wrong),
            ("None.", Verdict::Wrong),
            ("C", Verdict::Unread),
            ("The text says that it goes left", Verdict::Unread),
            ("<think>A", Verdict::Unread),
            ("", Verdict::Unread),
        ] {
            assert_eq!(verdict(&caption, reply, "A"), want, "{reply:?}");
        }
        let open = JudgeTask::Open("Which style?".into());
        for (reply, want) in [
            ("correct", Verdict::Right),
            ("**Correct.**", Verdict::Right),
            ("<think>incorrect?</think>correct", Verdict::Right),
            ("Incorrect", Verdict::Wrong),
            ("not correct", Verdict::Unread),
            ("", Verdict::Unread),
        ] {
            assert_eq!(verdict(&open, reply, "Gothic"), want, "{reply:?}");
        }
    }

    #[test]
    fn the_judge_reads_the_answer_and_for_open_questions_the_truth() {
        let caption = words(
            &JudgeTask::Caption("Where to?\nA. left".into()),
            "It rolls.",
            "A",
        );
        assert!(caption.contains("It rolls.") && caption.contains("A. left"));
        let open = words(
            &JudgeTask::Open("Which style?".into()),
            "Baroque",
            "Late Gothic",
        );
        for part in ["Which style?", "Baroque", "Late Gothic"] {
            assert!(open.contains(part), "{open}");
        }
    }
}
