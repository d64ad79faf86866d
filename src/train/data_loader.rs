//! The questions of each step with their clips, decoded ahead.

use crate::config::BadVideoPolicy;
use crate::config::Config;
use crate::data::Dataset;
use crate::data::Question;
use crate::data::shuffle::permutation;
use crate::video::ClipLoader;
use crate::video::Prefetcher;
use crate::video::VideoPatches;
use anyhow::Context;
use anyhow::Result;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

/// A question with its clip, ready for a prompt.
#[derive(Debug, Clone)]
pub(crate) struct Example<'a> {
    pub(crate) question: &'a Question,
    /// Its clip.
    pub(crate) video: Arc<VideoPatches>,
}

/// Hands out questions in the run's order; their clips are decoded on other threads.
pub(crate) struct DataLoader<'a> {
    questions: Vec<&'a Question>,
    /// Next of `questions`.
    due: usize,
    clips: Prefetcher,
    on_bad_video: BadVideoPolicy,
    skipped: usize,
}

impl<'a> DataLoader<'a> {
    /// Starts decoding for `questions`, in this order.
    ///
    /// # Errors
    /// When `data.cache_dir` cannot be used, or the system gives no threads.
    pub(crate) fn start(questions: Vec<&'a Question>, config: &Config) -> Result<Self> {
        let jobs: Vec<PathBuf> = questions.iter().map(|q| q.video.clone()).collect();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let loader = ClipLoader::new(&config.video, &config.data).context("data.cache_dir")?;
        let clips = Prefetcher::new(
            jobs,
            loader,
            config.train.prefetch_mib << 20,
            (cores / 2).clamp(1, 8),
        )
        .context("cannot start the video threads")?;
        Ok(Self {
            questions,
            due: 0,
            clips,
            on_bad_video: config.data.on_bad_video,
            skipped: 0,
        })
    }

    /// The next `count` questions. One whose clip cannot be used is an error, or, with `on_bad_video = "skip"`, is
    /// missing from the result: nothing takes its place.
    ///
    /// # Errors
    /// A clip that cannot be used, named with its question.
    pub(crate) fn next_examples(&mut self, count: usize) -> Result<Vec<Example<'a>>> {
        let end = (self.due + count).min(self.questions.len());
        let mut examples = Vec::with_capacity(count);
        for question in &self.questions[self.due..end] {
            let Some(loaded) = self.clips.next() else {
                break;
            };
            match loaded {
                Ok((_, video)) => examples.push(Example { question, video }),
                Err(error) if self.on_bad_video == BadVideoPolicy::Skip => {
                    self.skipped += 1;
                    tracing::warn!("question {} skipped: {error}", question.id);
                }
                Err(error) => {
                    return Err(error).with_context(|| question.with_bad_clip());
                }
            }
        }
        self.due = end;
        Ok(examples)
    }

    /// Seconds that the video threads have worked since the start, added up over the threads.
    pub(crate) fn worked_seconds(&self) -> f64 {
        self.clips.worked().as_secs_f64()
    }

    /// Bytes of clips that wait for their step or are kept for later epochs.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.clips.held_bytes()
    }

    /// Questions left out since the start because of their clip.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped
    }
}

/// Bytes of the clips of `examples`; neighbours may share one.
pub(crate) fn bytes_of(examples: &[Example]) -> u64 {
    examples
        .chunk_by(|a, b| Arc::ptr_eq(&a.video, &b.video))
        .map(|examples| size_of_val(examples[0].video.values.as_slice()) as u64)
        .sum()
}

/// The questions at positions `from..to` of the order of a run with `per_step` questions a step.
pub(crate) fn in_order(
    dataset: &Dataset,
    from: usize,
    to: usize,
    per_step: usize,
) -> Vec<&Question> {
    (from..to)
        .map(|index| dataset.question_at(index, per_step))
        .collect()
}

/// Positions `from..to` of an order for supervised steps: clips are shuffled anew in every epoch, the questions of one
/// clip stand together, so that a step computes what they share once.
pub(crate) fn in_clip_order(
    dataset: &Dataset,
    seed: u64,
    from: usize,
    to: usize,
) -> Vec<&Question> {
    // As plain bytes: comparing paths part by part shows in profiles.
    let mut by_clip: BTreeMap<&OsStr, Vec<&Question>> = BTreeMap::new();
    for question in dataset.questions() {
        let clip = question.video.as_os_str();
        by_clip.entry(clip).or_default().push(question);
    }
    let clips: Vec<Vec<&Question>> = by_clip.into_values().collect();
    let count = dataset.len();
    let mut ordered = Vec::with_capacity(to.saturating_sub(from));
    let mut position = from;
    while position < to {
        let epoch = position / count;
        let start = epoch * count;
        let questions = permutation(&[seed, epoch as u64], clips.len())
            .into_iter()
            .flat_map(|clip| &clips[clip])
            .skip(position - start)
            .take(to - position);
        ordered.extend(questions);
        position = (start + count).min(to);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DataConfig;
    use std::fmt::Write;

    /// Six questions about three clips (the files hold no video).
    fn dataset() -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = String::new();
        for index in 0..6 {
            let clip = format!("{}.mp4", index % 3);
            std::fs::write(folder.path().join(&clip), "no video").unwrap();
            let line = serde_json::json!({
                "id": format!("q{index}"), "problem": "Q?", "solution": "A", "video": clip,
            });
            writeln!(lines, "{line}").unwrap();
        }
        let questions = folder.path().join("q.jsonl");
        std::fs::write(&questions, lines).unwrap();
        let config = DataConfig {
            questions,
            video_root: folder.path().to_owned(),
            ..DataConfig::default()
        };
        let dataset = Dataset::load(&config, 1).unwrap();
        (folder, dataset)
    }

    #[test]
    fn clip_order_keeps_clips_together_and_resumes_anywhere() {
        let (_folder, dataset) = dataset();
        let ids = |from, to| -> Vec<&str> {
            in_clip_order(&dataset, 7, from, to)
                .iter()
                .map(|question| question.id.as_str())
                .collect()
        };
        let all = ids(0, 15);
        assert_eq!(all.len(), 15);
        for epoch in [&all[..6], &all[6..12]] {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, ["q0", "q1", "q2", "q3", "q4", "q5"]);
        }
        let clips: Vec<_> = in_clip_order(&dataset, 7, 0, 6)
            .iter()
            .map(|question| question.video.clone())
            .collect();
        assert!(clips.chunks(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(ids(4, 15), all[4..]);
    }

    #[test]
    fn a_bad_clip_is_an_error_or_skipped_and_never_replaced() {
        let (_folder, dataset) = dataset();
        let mut config = Config::default();
        let questions = in_order(&dataset, 0, 4, 2);
        let mut loader = DataLoader::start(questions.clone(), &config).unwrap();
        let message = format!("{:#}", loader.next_examples(2).unwrap_err());
        assert!(
            message.contains(&questions[0].id) && message.contains(".mp4"),
            "{message}"
        );
        config.data.on_bad_video = BadVideoPolicy::Skip;
        let mut loader = DataLoader::start(questions, &config).unwrap();
        assert!(loader.next_examples(3).unwrap().is_empty());
        assert!(loader.next_examples(3).unwrap().is_empty());
        assert_eq!(loader.skipped(), 4);
    }
}
