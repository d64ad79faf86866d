//! Would every question of a file make a prompt? Each clip is decoded as a run would decode it, and each prompt counted.

use super::Processor;
use crate::config::{VideoConfig, Wording};
use crate::data::{Change, ClipRecord, Fragment, Manifest, Question};
use crate::video::{self, Flaws, VideoError};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A clip and the questions about it.
#[derive(Debug, Clone)]
pub(crate) struct AskedClip<'a> {
    /// The path by which the questions name it.
    pub(crate) video: &'a Path,
    /// The file or folder of images, with the part of it that is meant.
    pub(crate) file: PathBuf,
    /// In file order.
    pub(crate) questions: Vec<&'a Question>,
}

/// The clips of a list of questions, in the order in which they are first named.
pub(crate) fn asked_clips<'a>(questions: &'a [Question], video_root: &Path) -> Vec<AskedClip<'a>> {
    let mut places: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut clips: Vec<AskedClip> = Vec::new();
    for question in questions {
        let video = question.video.as_path();
        let place = *places.entry(video).or_insert_with(|| {
            clips.push(AskedClip {
                video,
                file: video_root.join(video),
                questions: Vec::new(),
            });
            clips.len() - 1
        });
        clips[place].questions.push(question);
    }
    clips
}

/// What can be wrong with a clip or the questions about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Problem {
    /// There is no such file, or no image in a folder.
    Missing,
    /// Its frames do not come out.
    Corrupt,
    /// Its frames come out, some of them damaged, or the file ends early.
    Damaged,
    /// What stands behind its name names no part of it.
    Part,
    /// It, or the part that is meant, has too few frames.
    Short,
    /// Its frames, or the prompt with it, are more than allowed.
    TooLong,
    /// The frames' size does not fit the settings or the decoder.
    FrameSize,
    /// The question's text makes no prompt.
    Prompt,
    /// The same content is among the clips to be kept apart.
    Duplicate,
    /// It is not what it was when the manifest was written.
    Changed,
}

impl Problem {
    /// The word in tables and JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::Damaged => "damaged",
            Self::Part => "part",
            Self::Short => "short",
            Self::TooLong => "too-long",
            Self::FrameSize => "frame-size",
            Self::Prompt => "prompt",
            Self::Duplicate => "duplicate",
            Self::Changed => "changed",
        }
    }

    fn of(error: &VideoError) -> Self {
        match error {
            VideoError::NotFound { .. } | VideoError::NoImages { .. } => Self::Missing,
            VideoError::Part { .. } => Self::Part,
            VideoError::TooFewFrames { .. } | VideoError::NothingThere { .. } => Self::Short,
            VideoError::TooLong { .. } | VideoError::TimedOut { .. } => Self::TooLong,
            VideoError::TooLarge { .. }
            | VideoError::ImageSize { .. }
            | VideoError::AspectRatio { .. }
            | VideoError::PixelBudget { .. } => Self::FrameSize,
            _ => Self::Corrupt,
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) problem: Problem,
    /// The clip, as the questions name it.
    pub(crate) video: PathBuf,
    /// Ids of the questions concerned.
    pub(crate) questions: Vec<String>,
    /// What exactly, and what to do.
    pub(crate) reason: String,
}

impl Finding {
    fn new(problem: Problem, clip: &AskedClip, reason: String) -> Self {
        let ids = clip.questions.iter().map(|question| question.id.clone());
        Self {
            problem,
            video: clip.video.to_owned(),
            questions: ids.collect(),
            reason,
        }
    }
}

/// Smallest, largest and mean of some counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Span {
    /// The smallest.
    pub(crate) least: usize,
    /// The largest.
    pub(crate) most: usize,
    pub(crate) mean: f64,
}

impl Span {
    /// Of all counts; `None` without any.
    pub(crate) fn of(counts: impl Iterator<Item = usize> + Clone) -> Option<Self> {
        let (number, sum) = (counts.clone().count(), counts.clone().sum::<usize>());
        Some(Self {
            least: counts.clone().min()?,
            most: counts.max()?,
            mean: sum as f64 / number as f64,
        })
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Questions checked.
    pub(crate) questions: usize,
    /// Different clips they are about.
    pub(crate) clips: usize,
    /// Tokens of each clip that decodes.
    pub(crate) video_tokens: Option<Span>,
    /// Tokens of each prompt; absent where no tokenizer was at hand.
    pub(crate) prompt_tokens: Option<Span>,
    /// Parts that end later than their clip, and so with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) beyond_end: Vec<String>,
    /// What is wrong, in file order.
    pub(crate) findings: Vec<Finding>,
}

/// How clips and prompts are checked.
#[derive(Debug)]
pub(crate) struct Preflight<'a> {
    /// Which frames are taken, at what size.
    pub(crate) video: &'a VideoConfig,
    /// Counts a prompt's tokens; without, only those of the clips are known.
    pub(crate) processor: Option<&'a Processor>,
    /// What follows a question that has no wording of its own.
    pub(crate) wording: Wording,
    /// `sampling.max_prompt_tokens`.
    pub(crate) max_prompt_tokens: usize,
}

/// What the check of one clip gives.
#[derive(Debug, Default)]
struct Checked {
    video_tokens: Option<usize>,
    prompt_tokens: Vec<usize>,
    findings: Vec<Finding>,
    /// Said where the part that is meant ends later than the clip.
    beyond_end: Option<String>,
}

impl Preflight<'_> {
    /// Decodes every clip, several at a time, and counts every prompt. `progress` is told each finished clip.
    pub(crate) fn run(&self, clips: &[AskedClip], progress: &(dyn Fn() + Sync)) -> Report {
        // Clips are decoded side by side; where they are fewer than the cores, so are the parts of a clip.
        let threads = rayon::current_num_threads() / clips.len().max(1);
        let checked: Vec<Checked> = clips
            .par_iter()
            .map(|clip| {
                let checked = self.check(clip, threads.max(1));
                progress();
                checked
            })
            .collect();
        let prompts = checked.iter().flat_map(|clip| &clip.prompt_tokens).copied();
        Report {
            questions: clips.iter().map(|clip| clip.questions.len()).sum(),
            clips: clips.len(),
            video_tokens: Span::of(checked.iter().filter_map(|clip| clip.video_tokens)),
            prompt_tokens: Span::of(prompts),
            beyond_end: clips
                .iter()
                .zip(&checked)
                .filter_map(|(clip, checked)| {
                    Some(format!(
                        "{}: {}",
                        clip.video.display(),
                        checked.beyond_end.as_ref()?
                    ))
                })
                .collect(),
            findings: checked.into_iter().flat_map(|clip| clip.findings).collect(),
        }
    }

    fn check(&self, asked: &AskedClip, threads: usize) -> Checked {
        let (clip, flaws) = match video::check(&asked.file, self.video, threads) {
            Ok(clip) => clip,
            Err(error) => {
                // The table names the clip already.
                let path = format!("{}: ", error.path().display());
                let reason = error.to_string();
                let reason = reason.strip_prefix(&path).unwrap_or(&reason).to_owned();
                return Checked {
                    findings: vec![Finding::new(Problem::of(&error), asked, reason)],
                    ..Checked::default()
                };
            }
        };
        let mut checked = Checked {
            video_tokens: Some(clip.video_tokens),
            beyond_end: beyond_end(&asked.file, clip.total_frames as f64 / clip.fps),
            ..Checked::default()
        };
        if flaws != Flaws::default() {
            let finding = Finding::new(Problem::Damaged, asked, flaws.to_string());
            checked.findings.push(finding);
        }
        for question in &asked.questions {
            match self.tokens(question, clip.video_tokens) {
                Ok(None) => {}
                Ok(Some(tokens)) => checked.prompt_tokens.push(tokens),
                Err((problem, reason)) => {
                    let questions = vec![question.id.clone()];
                    let finding = Finding::new(problem, asked, reason);
                    checked.findings.push(Finding {
                        questions,
                        ..finding
                    });
                }
            }
        }
        checked
    }

    /// Tokens of a question's prompt, where a tokenizer can tell.
    fn tokens(
        &self,
        question: &Question,
        video_tokens: usize,
    ) -> Result<Option<usize>, (Problem, String)> {
        let limit = self.max_prompt_tokens;
        let too_long = |tokens| {
            let reason = format!(
                "the prompt has {tokens} tokens ({video_tokens} of them video), more than sampling.max_prompt_tokens = \
                 {limit}; lower video.max_frames or video.max_pixels, or raise the limit"
            );
            (Problem::TooLong, reason)
        };
        let Some(processor) = self.processor else {
            return if video_tokens > limit {
                Err(too_long(video_tokens))
            } else {
                Ok(None)
            };
        };
        let wording = question.wording.unwrap_or(self.wording);
        match processor.count_tokens(&question.text(), wording, video_tokens) {
            Ok(tokens) if tokens > limit => Err(too_long(tokens)),
            Ok(tokens) => Ok(Some(tokens)),
            Err(error) => Err((Problem::Prompt, error.to_string())),
        }
    }
}

/// Says that a part of a clip of so many seconds ends later than it: it ends with the clip then.
fn beyond_end(path: &Path, seconds: f64) -> Option<String> {
    let end = Fragment::split(path).1.span?.end;
    let is_beyond = end.is_finite() && end > seconds + MOST_BEYOND;
    is_beyond.then(|| format!("the clip has {seconds:.2} s"))
}

/// Seconds by which a part may end later than its clip: times are rounded.
const MOST_BEYOND: f64 = 1.0;

/// Hashes clips, several at a time; those that cannot be read are left out, which the log says.
pub(crate) fn record(clips: &[AskedClip]) -> Manifest {
    let records = clips
        .par_iter()
        .filter_map(|clip| match ClipRecord::of(&clip.file) {
            Ok(record) => Some((clip.video.to_owned(), record)),
            Err(error) => {
                tracing::warn!("{} has no hash: {error}", clip.file.display());
                None
            }
        });
    Manifest {
        clips: records.collect::<Vec<_>>().into_iter().collect(),
    }
}

/// Clips whose content is also that of a clip in `others`, a manifest called `name`.
pub(crate) fn duplicates(
    clips: &[AskedClip],
    records: &Manifest,
    others: &Manifest,
    name: &str,
) -> Vec<Finding> {
    let by_hash: BTreeMap<&str, &PathBuf> = others
        .clips
        .iter()
        .map(|(video, record)| (record.sha256.as_str(), video))
        .collect();
    let finding = |clip: &AskedClip| {
        let record = records.clips.get(clip.video)?;
        let other = by_hash.get(record.sha256.as_str())?;
        let reason = format!("same content as {} of {name}", other.display());
        Some(Finding::new(Problem::Duplicate, clip, reason))
    };
    clips.iter().filter_map(finding).collect()
}

/// Clips that are not what a manifest says. With `always_hash` every file is read; without, only those whose time
/// differs.
pub(crate) fn changes(clips: &[AskedClip], manifest: &Manifest, always_hash: bool) -> Vec<Finding> {
    let finding = |clip: &AskedClip| {
        let change = manifest.verify(clip.video, &clip.file, always_hash);
        let change: Change = change.err()?;
        Some(Finding::new(Problem::Changed, clip, change.to_string()))
    };
    clips.par_iter().filter_map(finding).collect()
}
