//! An evaluation while it runs: batches are answered and logged, what an interruption left is continued, and the scores written.

use super::batches;
use super::error::EvalError;
use super::files::write_json;
use super::prediction::BatchReplies;
use super::prediction::Prediction;
use super::prediction::Sample;
use super::score;
use super::score_file::ScoreFile;
use super::settings::Settings;
use super::shard::Shard;
use crate::data::Question;
use crate::util::json_lines::JsonLines;
use crate::util::lock::Lock;
use crate::util::lock::LockError;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RunningScore {
    /// Questions answered.
    pub(crate) answered: usize,
    /// The share of them that is right (exact); absent where a judge will say.
    pub(crate) accuracy: Option<f64>,
}

/// An evaluation, or one shard of it, in its folder: what is answered, and what is still to be.
///
/// Batches are always cut at the same places: one that an interruption left half logged is answered again as a whole,
/// so the scores equal those of an uninterrupted evaluation even where a batch's numbers depend on its size.
#[derive(Debug)]
pub(crate) struct Evaluation<'a> {
    settings: &'a Settings,
    /// The batches, or those of this shard.
    batches: Vec<Vec<&'a Question>>,
    scores_file: PathBuf,
    log: JsonLines,
    predictions: BTreeMap<String, Prediction>,
    _lock: Lock,
}

/// One process at a time answers what goes into the file `outputs` of `out`: two would answer and log everything twice.
fn lock(out: &Path, outputs: &str) -> Result<Lock, EvalError> {
    let path = out.join(outputs).with_extension("lock");
    let own = format!("process {}", std::process::id());
    match Lock::take_passing(&path, &own, "this evaluation") {
        Err(LockError::Held { holder }) => Err(EvalError::InUse {
            path: out.to_owned(),
            holder,
        }),
        Err(LockError::File(error)) => Err(error.into()),
        Ok(lock) => Ok(lock),
    }
}

impl<'a> Evaluation<'a> {
    /// Makes the folder `out`, or takes up the evaluation in it.
    pub(crate) fn open(
        settings: &'a Settings,
        questions: &'a [Question],
        batch_size: usize,
        shard: Option<Shard>,
        out: &Path,
    ) -> Result<Self, EvalError> {
        settings.open_folder(out)?;
        let all = batches::batches(questions, batch_size);
        let (batches, outputs, scores) = match shard {
            Some(shard) => (
                shard.part(&all).to_vec(),
                shard.outputs_file(),
                shard.scores_file(),
            ),
            None => (all, "outputs.jsonl".into(), "scores.json".into()),
        };
        let lock = lock(out, &outputs)?;
        let (log, mut logged) = JsonLines::open::<Prediction>(&out.join(outputs))?;
        // What waits for a judge is not in the log.
        for one in &mut logged {
            one.score(settings.rule());
        }
        let predictions = logged
            .into_iter()
            .map(|one| (one.id.clone(), one))
            .collect();
        Ok(Self {
            settings,
            batches,
            scores_file: out.join(scores),
            log,
            predictions,
            _lock: lock,
        })
    }

    /// Questions that are asked here.
    pub(crate) fn len(&self) -> usize {
        self.batches.iter().map(Vec::len).sum()
    }

    /// The batches that hold a question without an answer, in order.
    pub(crate) fn pending(&self) -> Vec<&[&'a Question]> {
        self.batches
            .iter()
            .map(Vec::as_slice)
            .filter(|batch| {
                batch
                    .iter()
                    .any(|question| !self.predictions.contains_key(&question.id))
            })
            .collect()
    }

    /// Has the pending batches answered, scores everything, and writes the scores. `missing` questions were left out
    /// before, because their clip does not exist.
    ///
    /// `answer` returns a reply for each question of a batch. `progress` is told after each batch how far it is.
    pub(crate) fn run(
        mut self,
        missing: usize,
        mut answer: impl FnMut(&[&Question]) -> anyhow::Result<BatchReplies>,
        mut progress: impl FnMut(RunningScore),
    ) -> anyhow::Result<ScoreFile> {
        let pending: Vec<Vec<&Question>> = self.pending().into_iter().map(<[_]>::to_vec).collect();
        for batch in pending {
            for (question, reply) in batch.iter().zip(answer(&batch)?) {
                if let Some(samples) = reply {
                    self.record(question, samples)?;
                }
            }
            progress(self.running());
        }
        let asked = self.len();
        let in_order: Vec<Prediction> = self
            .batches
            .iter()
            .flatten()
            .filter_map(|question| self.predictions.remove(&question.id))
            .collect();
        if in_order.is_empty() && asked > 0 {
            return Err(EvalError::Nothing.into());
        }
        let scores = ScoreFile {
            settings: self.settings.clone(),
            judge_url: None,
            questions_answered: in_order.len(),
            questions_skipped: asked - in_order.len(),
            questions_missing: missing,
            splits: score::splits(&in_order),
        };
        write_json(&self.scores_file, &scores)?;
        Ok(scores)
    }

    fn running(&self) -> RunningScore {
        let right: f64 = self.predictions.values().map(|one| one.exact).sum();
        let waiting = self.predictions.values().any(Prediction::is_unjudged);
        RunningScore {
            answered: self.predictions.len(),
            accuracy: (!waiting).then_some(right / self.predictions.len().max(1) as f64),
        }
    }

    fn record(&mut self, question: &Question, samples: Vec<Sample>) -> Result<(), EvalError> {
        if self.predictions.contains_key(&question.id) {
            return Ok(());
        }
        let one = Prediction::new(question, samples, self.settings.rule());
        self.log.append(&one)?;
        self.predictions.insert(question.id.clone(), one);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare;
    use super::super::stored;
    use super::*;

    fn settings() -> Settings {
        let settings = serde_json::json!({
            "model": "m", "weights": "w", "protocol": "own", "questions": "q.json", "questions_hash": "h",
            "questions_asked": 7, "subset": "all", "config_hash": "c", "wording": "training", "wording_hash": "x",
            "extraction": "strict", "samples": 1, "temperature": 0.0, "max_new_tokens": 8, "video": {},
            "clip_bounds": true, "subtitles": false, "decoder": "d",
        });
        serde_json::from_value(settings).unwrap()
    }

    #[test]
    fn evaluations_older_than_the_rule_of_positions_differ_from_later_ones() {
        let older = settings();
        let now = Settings {
            video: crate::config::VideoConfig::default(),
            ..older.clone()
        };
        let differences = older.differences(&now).unwrap();
        assert_eq!(differences, ["video.text_after (spatial / largest)"]);
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
        answer: impl FnMut(&[&Question]) -> anyhow::Result<BatchReplies>,
    ) -> anyhow::Result<ScoreFile> {
        Evaluation::open(settings, questions, batch_size, None, out)?.run(0, answer, |_| ())
    }

    /// Right on every third question; the batch's size is part of the text.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "stands in for a model, which can fail"
    )]
    fn answer(batch: &[&Question]) -> anyhow::Result<BatchReplies> {
        let replies = batch.iter().map(|question| {
            let right = question.id[1..].parse::<usize>().unwrap().is_multiple_of(3);
            let letter = if right { 'A' } else { 'B' };
            Some(vec![Sample {
                completion: format!("<think>{}</think><answer>{letter}</answer>", batch.len()),
                truncated: false,
                tokens: 4,
            }])
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
            // Two questions a clip: batches of two, two and three.
            let kept = [4, 2, 0].into_iter().find(|kept| *kept <= lines).unwrap();
            assert_eq!(asked, 7 - kept, "after {lines} lines");
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
        assert!(
            error.to_string().contains("weights (w / newly trained)"),
            "{error}"
        );
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
        let skip_second = |batch: &[&Question]| {
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

    #[test]
    fn shards_merge_to_what_one_process_writes() {
        let questions = questions(7);
        let whole = tempfile::tempdir().unwrap();
        let scores = run(&settings(), &questions, 2, whole.path(), answer).unwrap();
        let parts = tempfile::tempdir().unwrap();
        let shard = |index| {
            let shard = Some(Shard { index, count: 3 });
            Evaluation::open(&settings(), &questions, 2, shard, parts.path())
                .unwrap()
                .run(0, answer, |_| ())
                .unwrap()
        };
        shard(3);
        shard(1);
        let error = stored::merge(parts.path()).unwrap_err().to_string();
        assert!(error.contains("shard 2-of-3 is not finished"), "{error}");
        shard(2);
        assert_eq!(stored::merge(parts.path()).unwrap(), scores);
        for name in ["outputs.jsonl", "scores.json", "settings.json"] {
            let read = |folder: &Path| std::fs::read_to_string(folder.join(name)).unwrap();
            assert_eq!(read(parts.path()), read(whole.path()), "{name}");
        }
        let error = stored::merge(parts.path()).unwrap_err().to_string();
        assert!(error.contains("there already"), "{error}");
    }

    #[test]
    fn a_shard_that_does_not_belong_is_found() {
        let parts = tempfile::tempdir().unwrap();
        let fewer = questions(4);
        for index in 1..=2 {
            let shard = Some(Shard { index, count: 2 });
            Evaluation::open(&settings(), &fewer, 2, shard, parts.path())
                .unwrap()
                .run(0, answer, |_| ())
                .unwrap();
        }
        let error = stored::merge(parts.path()).unwrap_err().to_string();
        assert!(error.contains("hold 4 of 7 questions"), "{error}");
        std::fs::write(parts.path().join("outputs-1-of-5.jsonl"), "").unwrap();
        let error = stored::merge(parts.path()).unwrap_err().to_string();
        assert!(error.contains("shards of 2 and of 5"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        write_json(&empty.path().join("settings.json"), &settings()).unwrap();
        let error = stored::merge(empty.path()).unwrap_err().to_string();
        assert!(error.contains("--shard I/N"), "{error}");
    }

    #[test]
    fn stored_answers_are_scored_anew_by_any_rule() {
        let folder = tempfile::tempdir().unwrap();
        let bare = |batch: &[&Question]| -> anyhow::Result<BatchReplies> {
            let replies = answer(batch)?.into_iter().map(|reply| {
                let mut samples = reply?;
                samples[0].completion = samples[0].completion.to_lowercase();
                Some(samples)
            });
            Ok(replies.collect())
        };
        let scores = run(&settings(), &questions(7), 3, folder.path(), bare).unwrap();
        let written = std::fs::read(folder.path().join("scores.json")).unwrap();
        let (again, path) = stored::rescore(folder.path(), None).unwrap();
        assert_eq!((again, path), (scores, folder.path().join("scores.json")));
        assert_eq!(
            std::fs::read(folder.path().join("scores.json")).unwrap(),
            written
        );
        let (authors, path) =
            stored::rescore(folder.path(), Some(crate::config::Extraction::Authors)).unwrap();
        assert_eq!(path, folder.path().join("scores-authors.json"));
        assert!(authors.splits["all"].exact.mean.abs() < 1e-12);
        assert_eq!(
            std::fs::read(folder.path().join("scores.json")).unwrap(),
            written
        );
    }

    #[test]
    fn one_process_at_a_time_answers() {
        let folder = tempfile::tempdir().unwrap();
        let (settings, questions) = (settings(), questions(4));
        let open = |shard| Evaluation::open(&settings, &questions, 2, shard, folder.path());
        let first = open(None).unwrap();
        let error = open(None).unwrap_err();
        assert!(matches!(error, EvalError::InUse { .. }), "{error}");
        let own = format!("answered by process {}: wait", std::process::id());
        assert!(error.to_string().contains(&own), "{error}");
        drop(first);
        // What a killed process leaves is no obstacle, and nothing is left in the end.
        let lock = folder.path().join("outputs.lock");
        assert!(!lock.exists());
        std::fs::write(&lock, "process 1\n").unwrap();
        drop(open(None).unwrap());
        assert!(!lock.exists());
    }

    #[test]
    fn the_running_accuracy_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        Evaluation::open(&settings(), &questions(4), 2, None, folder.path())
            .unwrap()
            .run(0, answer, |running| told.push(running))
            .unwrap();
        let accuracies: Vec<f64> = told.iter().filter_map(|running| running.accuracy).collect();
        assert_eq!(told[1].answered, 4);
        assert!((accuracies[0] - 0.5).abs() < 1e-12 && (accuracies[1] - 0.5).abs() < 1e-12);
    }

    #[test]
    fn other_conditions_are_not_compared_silently() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run(&settings(), &questions(7), 3, one.path(), answer).unwrap();
        let mut wider = settings();
        wider.video.max_frames = 32;
        wider.protocol = "authors".into();
        run(&wider, &questions(7), 3, other.path(), answer).unwrap();
        let error = compare::compare(one.path(), other.path(), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("protocol (own / authors)") && error.contains("video"),
            "{error}"
        );
        let both = compare::compare(one.path(), other.path(), true).unwrap();
        assert_eq!(both.differences.len(), 2);
        assert_eq!((both.splits["all"].questions, both.unpaired), (7, 0));
    }
}
