//! Benchmarks: questions in, `outputs.jsonl` and `scores.json` out. An interrupted evaluation continues where it was.

use crate::config::Config;
use crate::config::VideoConfig;
use crate::config::Wording;
use crate::data::Question;
use crate::policy::generate::Finish;
use log::Log;
use score::Answered;
use score::Split;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

pub mod extract;
mod fingerprint;
mod log;
pub mod respond;
pub mod score;
pub mod table;

/// Why an evaluation could not be run or read.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: not what `eval` writes: {reason}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// A line of the log is broken, and it is not the last.
    #[error("{}:{line}: not an answered question ({reason}); remove the line to have it answered again", path.display())]
    Line {
        /// The log.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the reader says.
        reason: String,
    },
    /// The folder holds answers that were given under other conditions.
    #[error(
        "{} holds answers given with another `{setting}`: name another folder with --out, or remove this one",
        path.display()
    )]
    OtherSettings {
        /// The folder.
        path: PathBuf,
        /// The first setting that differs.
        setting: String,
    },
    /// There is nothing to score.
    #[error("no question was answered: every clip was skipped")]
    Nothing,
}

/// Everything that decides about the answers: two evaluations with equal settings give equal scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The model as named on the command line.
    pub model: String,
    /// A fingerprint of its weights, so that a folder with newly trained weights counts as another model.
    pub weights: String,
    /// The question file.
    pub questions: PathBuf,
    /// A fingerprint of the question file and of every setting that changes an answer.
    pub config_hash: String,
    /// The words after the question.
    pub wording: Wording,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Frames and pixels.
    pub video: VideoConfig,
}

impl Settings {
    /// The settings of an evaluation of `model`, whose files are in `model_dir`.
    pub fn new(config: &Config, model: &str, model_dir: &Path) -> Result<Self, EvalError> {
        Ok(Self {
            model: model.to_owned(),
            weights: fingerprint::of_weights(model_dir)?,
            questions: config.data.questions.clone(),
            config_hash: fingerprint::of_config(config)?,
            wording: config.eval.wording,
            temperature: config.eval.temperature,
            max_new_tokens: config.sampling.max_new_tokens,
            video: config.video.clone(),
        })
    }
}

/// `scores.json`: the result of an evaluation and the conditions it holds under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The conditions.
    #[serde(flatten)]
    pub settings: Settings,
    /// Questions answered.
    pub questions_answered: usize,
    /// Questions left out because their clip cannot be used (`data.on_bad_video = "skip"`).
    pub questions_skipped: usize,
    /// The scores of `all` questions and of each kind.
    pub splits: BTreeMap<String, Split>,
}

impl Scores {
    /// Reads a `scores.json`, named by itself or by its folder.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let path = if path.is_dir() {
            path.join("scores.json")
        } else {
            path.to_owned()
        };
        read_json(&path)
    }
}

/// What a model wrote to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The text without special tokens.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Its length.
    pub tokens: usize,
}

/// An evaluation in its folder: what is answered, and what is still to be.
///
/// Batches are always cut at the same places: one that an interruption left half logged is answered again as a whole,
/// so the scores equal those of an uninterrupted evaluation even where a batch's numbers depend on its size.
#[derive(Debug)]
pub struct Evaluation<'a> {
    settings: &'a Settings,
    questions: &'a [Question],
    batch_size: usize,
    out: &'a Path,
    log: Log,
    answered: BTreeMap<String, Answered>,
}

impl<'a> Evaluation<'a> {
    /// Makes the folder `out`, or takes up the evaluation in it.
    pub fn open(
        settings: &'a Settings,
        questions: &'a [Question],
        batch_size: usize,
        out: &'a Path,
    ) -> Result<Self, EvalError> {
        open_folder(out, settings)?;
        let (log, logged) = Log::open(&out.join("outputs.jsonl"))?;
        let answered = logged
            .into_iter()
            .map(|one| (one.id.clone(), one))
            .collect();
        Ok(Self {
            settings,
            questions,
            batch_size: batch_size.max(1),
            out,
            log,
            answered,
        })
    }

    /// The batches that hold a question without an answer, in order.
    pub fn pending(&self) -> Vec<&'a [Question]> {
        self.questions
            .chunks(self.batch_size)
            .filter(|batch| {
                batch
                    .iter()
                    .any(|question| !self.answered.contains_key(&question.id))
            })
            .collect()
    }

    /// Has the pending batches answered, scores everything, and writes `scores.json`.
    ///
    /// `answer` returns a reply for each question of a batch, `None` where the clip is to be skipped. `progress` is
    /// told after each batch how many questions have an answer.
    pub fn run(
        mut self,
        mut answer: impl FnMut(&[Question]) -> anyhow::Result<Vec<Option<Reply>>>,
        mut progress: impl FnMut(usize),
    ) -> anyhow::Result<Scores> {
        for batch in self.pending() {
            for (question, reply) in batch.iter().zip(answer(batch)?) {
                if let Some(reply) = reply {
                    self.record(question, reply)?;
                }
            }
            progress(self.answered.len());
        }
        let in_order: Vec<Answered> = self
            .questions
            .iter()
            .filter_map(|question| self.answered.remove(&question.id))
            .collect();
        if in_order.is_empty() {
            return Err(EvalError::Nothing.into());
        }
        let scores = Scores {
            settings: self.settings.clone(),
            questions_answered: in_order.len(),
            questions_skipped: self.questions.len() - in_order.len(),
            splits: score::splits(&in_order),
        };
        write_json(&self.out.join("scores.json"), &scores)?;
        Ok(scores)
    }

    fn record(&mut self, question: &Question, reply: Reply) -> Result<(), EvalError> {
        if self.answered.contains_key(&question.id) {
            return Ok(());
        }
        let one = Answered::new(question, reply.text, reply.finish, reply.tokens);
        self.log.append(&one).map_err(|source| EvalError::File {
            path: self.out.join("outputs.jsonl"),
            source,
        })?;
        self.answered.insert(question.id.clone(), one);
        Ok(())
    }
}

/// Makes the folder, or checks that its answers were given under the same conditions.
fn open_folder(out: &Path, settings: &Settings) -> Result<(), EvalError> {
    std::fs::create_dir_all(out).map_err(|source| EvalError::File {
        path: out.to_owned(),
        source,
    })?;
    let path = out.join("settings.json");
    if !path.exists() {
        if out.join("outputs.jsonl").exists() {
            return Err(EvalError::OtherSettings {
                path: out.to_owned(),
                setting: "settings.json".into(),
            });
        }
        return write_json(&path, settings);
    }
    let there: serde_json::Map<String, serde_json::Value> = read_json(&path)?;
    let here = serde_json::to_value(settings).map_err(|error| EvalError::Json {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let different = here
        .as_object()
        .into_iter()
        .flatten()
        .find(|(key, value)| there.get(*key) != Some(value));
    match different {
        Some((key, _)) => Err(EvalError::OtherSettings {
            path: out.to_owned(),
            setting: key.clone(),
        }),
        None => Ok(()),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, EvalError> {
    let text = std::fs::read_to_string(path).map_err(|source| EvalError::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|error| EvalError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Writes under a temporary name and renames, so that the file is there whole or not at all.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let failed = |source| EvalError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = serde_json::to_string_pretty(value).map_err(|error| EvalError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    text.push('\n');
    let temporary = path.with_extension("json.tmp");
    std::fs::write(&temporary, text).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            model: "m".into(),
            weights: "w".into(),
            questions: "q.json".into(),
            config_hash: "c".into(),
            wording: Wording::Training,
            temperature: 0.0,
            max_new_tokens: 8,
            video: VideoConfig::default(),
        }
    }

    fn questions(count: usize) -> Vec<Question> {
        (0..count)
            .map(|i| {
                let line = format!(
                    r#"{{"id":"q{i}","problem":"Why?","solution":"<answer>A</answer>","video":"{}.mp4"}}"#,
                    i / 2
                );
                serde_json::from_str(&line).unwrap()
            })
            .collect()
    }

    fn run(
        settings: &Settings,
        questions: &[Question],
        batch_size: usize,
        out: &Path,
        answer: impl FnMut(&[Question]) -> anyhow::Result<Vec<Option<Reply>>>,
    ) -> anyhow::Result<Scores> {
        Evaluation::open(settings, questions, batch_size, out)?.run(answer, |_| ())
    }

    /// Right on every third question; the batch's size is part of the text.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "stands in for a model, which can fail"
    )]
    fn answer(batch: &[Question]) -> anyhow::Result<Vec<Option<Reply>>> {
        let replies = batch.iter().map(|question| {
            let right = question.id[1..].parse::<usize>().unwrap().is_multiple_of(3);
            let letter = if right { 'A' } else { 'B' };
            Some(Reply {
                text: format!("<think>{}</think><answer>{letter}</answer>", batch.len()),
                finish: Finish::Stop,
                tokens: 4,
            })
        });
        Ok(replies.collect())
    }

    #[test]
    fn a_kill_at_any_byte_changes_nothing() {
        let questions = questions(7);
        let whole = tempfile::tempdir().unwrap();
        let scores = run(&settings(), &questions, 3, whole.path(), answer).unwrap();
        assert_eq!(scores.questions_answered, 7);
        assert!((scores.splits["all"].soft.mean - 3.0 / 7.0).abs() < 1e-12);
        let log = std::fs::read(whole.path().join("outputs.jsonl")).unwrap();
        for cut in (0..log.len()).step_by(97) {
            let killed = tempfile::tempdir().unwrap();
            std::fs::copy(
                whole.path().join("settings.json"),
                killed.path().join("settings.json"),
            )
            .unwrap();
            std::fs::write(killed.path().join("outputs.jsonl"), &log[..cut]).unwrap();
            let mut asked = 0;
            let again = run(&settings(), &questions, 3, killed.path(), |batch| {
                asked += batch.len();
                answer(batch)
            })
            .unwrap();
            assert_eq!(again, scores);
            assert_eq!(
                std::fs::read(killed.path().join("outputs.jsonl")).unwrap(),
                log
            );
            let lines = log[..cut].split(|byte| *byte == b'\n').count() - 1;
            assert!(asked <= 7 - lines / 3 * 3, "{asked} asked after {lines}");
        }
    }

    #[test]
    fn answers_under_other_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let questions = questions(2);
        run(&settings(), &questions, 2, folder.path(), answer).unwrap();
        let mut other = settings();
        other.weights = "newly trained".into();
        let error = run(&other, &questions, 2, folder.path(), answer).unwrap_err();
        assert!(error.to_string().contains("another `weights`"), "{error}");
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let questions = questions(2);
        run(&settings(), &questions, 2, folder.path(), answer).unwrap();
        let path = folder.path().join("outputs.jsonl");
        let log = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, log.replacen("{\"id\"", "\"id\"", 1)).unwrap();
        let error = run(&settings(), &questions, 2, folder.path(), answer).unwrap_err();
        assert!(error.to_string().contains("outputs.jsonl:1:"), "{error}");
    }

    #[test]
    fn skipped_clips_are_counted_and_not_scored() {
        let folder = tempfile::tempdir().unwrap();
        let skip_second = |batch: &[Question]| {
            let mut replies = answer(batch)?;
            replies[1] = None;
            Ok(replies)
        };
        let scores = run(&settings(), &questions(4), 4, folder.path(), skip_second).unwrap();
        assert_eq!(
            (scores.questions_answered, scores.questions_skipped),
            (3, 1)
        );
        assert_eq!(scores.splits["all"].questions, 3);
    }
}
