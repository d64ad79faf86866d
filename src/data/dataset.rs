//! The questions of a run, checked up front, in their seeded order.

use super::clip_file::exists;
use super::clip_paths::locate;
use super::draw::draw;
use super::fragment::Fragment;
use super::manifest::Manifest;
use super::mersenne::randperm;
use super::read::{DataError, read_questions};
use super::shuffle::permutation;
use super::{Change, Question};
use crate::config::{BadVideoPolicy, DataConfig, QuestionOrder};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The questions of a run. Their `video` paths are resolved and known to exist.
#[derive(Debug)]
pub struct Dataset {
    questions: Vec<Question>,
    seed: u64,
    rule: QuestionOrder,
    skipped: usize,
    /// The epoch asked for last and its order: a run walks through epochs one after the other.
    order: Mutex<Option<(usize, Arc<[usize]>)>>,
}

impl Dataset {
    /// The questions of the question file, as [`Dataset::new`] takes them.
    pub fn load(config: &DataConfig, seed: u64) -> Result<Self, DataError> {
        Self::new(read_questions(&config.questions)?, config, seed)
    }

    /// Draws from `questions` ([`draw`]) and checks that every clip exists.
    pub(crate) fn new(
        questions: Vec<Question>,
        config: &DataConfig,
        seed: u64,
    ) -> Result<Self, DataError> {
        let mut questions = draw(questions, config, seed)?;
        locate(&mut questions, config)?;
        if let Some(manifest) = &config.manifest {
            verify_videos(manifest, &config.video_root, &questions)?;
        }
        for question in &mut questions {
            // An absolute path, which exists then, replaces the root.
            question.video = config.video_root.join(&question.video);
        }
        let skipped = check_videos(config, &mut questions)?;
        Ok(Self {
            questions,
            seed,
            rule: config.order,
            skipped,
            order: Mutex::new(None),
        })
    }

    /// The questions: in file order, or in drawing order when `samples` was set ([`draw`]).
    pub fn questions(&self) -> &[Question] {
        &self.questions
    }

    pub(crate) fn len(&self) -> usize {
        self.questions.len()
    }

    /// Questions left out because their clip does not exist (`on_bad_video = "skip"`).
    pub(crate) fn num_skipped(&self) -> usize {
        self.skipped
    }

    /// The question a run of `per_step` questions a step takes as its `index`-th: epoch after epoch, each newly shuffled.
    /// It depends on seed and these two only, so a resumed run continues exactly.
    ///
    /// With `data.order = "trainer"` an epoch is whole steps: its last one is filled with the epoch's first questions, as
    /// accelerate fills the processes' last batches.
    pub(crate) fn question_at(&self, index: usize, per_step: usize) -> &Question {
        let count = self.questions.len();
        let length = match self.rule {
            QuestionOrder::Drawn => count,
            QuestionOrder::Trainer => count.next_multiple_of(per_step),
        };
        &self.questions[self.order_of(index / length)[index % length % count]]
    }

    /// The order of one epoch, as indices into `questions`.
    pub(crate) fn order_of(&self, epoch: usize) -> Arc<[usize]> {
        let mut last = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_ref() {
            Some((known, order)) if *known == epoch => Arc::clone(order),
            _ => {
                let (count, epoch_number) = (self.questions.len(), epoch as u64);
                let order: Arc<[usize]> = match self.rule {
                    QuestionOrder::Drawn => permutation(&[self.seed, epoch_number], count),
                    QuestionOrder::Trainer => randperm(self.seed + epoch_number, count),
                }
                .into();
                *last = Some((epoch, Arc::clone(&order)));
                order
            }
        }
    }
}

/// Compares the clips that exist with the manifest.
fn verify_videos(path: &Path, root: &Path, questions: &[Question]) -> Result<(), DataError> {
    let manifest = Manifest::read(path)?;
    let videos: BTreeSet<&Path> = questions.iter().map(|question| &*question.video).collect();
    let total = videos.len();
    let changed: Vec<(&Path, Change)> = videos
        .into_par_iter()
        .filter_map(|video| {
            let file = root.join(video);
            let change = manifest.verify(video, &file, false).err()?;
            exists(&file).then_some((video, change))
        })
        .collect();
    match changed.first() {
        None => Ok(()),
        Some((video, change)) => Err(DataError::Content {
            path: path.to_owned(),
            place: format!("clip {}", video.display()),
            problem: format!(
                "{change} ({} of {total} clips are not as the manifest says): fetch the clips again, or run \
                 `data check --manifest` again",
                changed.len()
            ),
        }),
    }
}

/// Looks for every clip; leaves out or reports those that do not exist. Returns the number left out.
fn check_videos(config: &DataConfig, questions: &mut Vec<Question>) -> Result<usize, DataError> {
    // As plain bytes: comparing paths part by part shows in profiles.
    let mut known: BTreeMap<OsString, bool> = BTreeMap::new();
    let mut first = None;
    for question in questions.iter() {
        let found = *known
            .entry(question.video.clone().into_os_string())
            .or_insert_with(|| exists(&question.video));
        if !found && first.is_none() {
            first = Some((question.video.clone(), question.id.clone()));
        }
    }
    let Some((path, question)) = first else {
        return Ok(0);
    };
    if let Some((place, problem)) = part_problem(questions, &known) {
        let path = config.questions.clone();
        return Err(DataError::Content {
            path,
            place,
            problem,
        });
    }
    let missing = DataError::MissingVideos {
        missing: known.values().filter(|found| !**found).count(),
        total: known.len(),
        path,
        question,
        skipped: config.on_bad_video == BadVideoPolicy::Skip,
    };
    if config.on_bad_video == BadVideoPolicy::Error {
        return Err(missing);
    }
    let before = questions.len();
    questions.retain(|question| known[question.video.as_os_str()]);
    if questions.is_empty() {
        let root = config.video_root.display();
        return Err(DataError::Empty {
            path: config.questions.clone(),
            problem: format!(
                "no question is left: {missing}. Set data.video_root, now \"{root}\", to the folder that the paths are \
                 relative to, or fetch the clips"
            ),
        });
    }
    let skipped = before - questions.len();
    tracing::warn!("{skipped} of {before} questions skipped: {missing}");
    Ok(skipped)
}

/// The first question whose clip is no file because what stands behind the file's name is no part of a clip, and why.
fn part_problem(
    questions: &[Question],
    known: &BTreeMap<OsString, bool>,
) -> Option<(String, String)> {
    let mut lost = questions
        .iter()
        .filter(|question| !known[question.video.as_os_str()]);
    lost.find_map(|question| {
        let problem = Fragment::problem(&question.video)?;
        let place = format!(
            "question {}, clip {}",
            question.id,
            question.video.display()
        );
        Some((place, problem))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ClipRecord;
    use std::path::PathBuf;

    /// Ten questions, every third inferential, clips `0.mp4` … `9.mp4` present unless in `missing`.
    fn world(missing: &[usize]) -> (tempfile::TempDir, DataConfig) {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = String::new();
        for index in 0..10 {
            let kind = if index % 3 == 0 {
                "inferential"
            } else {
                "observational"
            };
            lines.push_str(&format!(
                "{{\"id\":\"q{index}\",\"problem\":\"Q?\",\"solution\":\"A\",\"video\":\"{index}.mp4\",\"kind\":\"{kind}\"}}\n"
            ));
            if !missing.contains(&index) {
                std::fs::write(folder.path().join(format!("{index}.mp4")), "x").unwrap();
            }
        }
        let questions = folder.path().join("q.jsonl");
        std::fs::write(&questions, lines).unwrap();
        let config = DataConfig {
            questions,
            video_root: folder.path().to_owned(),
            ..DataConfig::default()
        };
        (folder, config)
    }

    fn ids(dataset: &Dataset) -> Vec<&str> {
        dataset
            .questions()
            .iter()
            .map(|question| question.id.as_str())
            .collect()
    }

    /// A sequence of rows of tests/golden/order (scripts/make_golden_order.py): whole when short, else its ends.
    #[derive(serde::Deserialize)]
    struct Kept {
        count: usize,
        rows: Option<Vec<usize>>,
        first: Option<Vec<usize>>,
        last: Option<Vec<usize>>,
        digest: String,
    }

    impl Kept {
        fn check(&self, ours: &[usize]) {
            assert_eq!(ours.len(), self.count);
            let part = |part: &Option<Vec<usize>>, ours: &[usize]| {
                assert_eq!(ours, part.as_deref().unwrap_or(ours));
            };
            let end = |part: &Option<Vec<usize>>| part.as_ref().map_or(0, Vec::len);
            part(&self.rows, ours);
            part(&self.first, &ours[..end(&self.first)]);
            part(&self.last, &ours[self.count - end(&self.last)..]);
            let digest = ours.iter().fold(0u64, |digest, &row| {
                digest.wrapping_mul(31).wrapping_add(row as u64)
            });
            assert_eq!(digest.to_string(), self.digest);
        }
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        seed: u64,
        permutations: Vec<Permutation>,
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Permutation {
        seed: u64,
        count: usize,
        order: Kept,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        rows: usize,
        samples: usize,
        questions_per_step: usize,
        epochs: Vec<Kept>,
    }

    fn golden() -> Golden {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("tests/golden/order/order.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn equals_torch() {
        for case in golden().permutations {
            case.order.check(&randperm(case.seed, case.count));
        }
    }

    /// Step after step, epoch after epoch, on one GPU and on two.
    #[test]
    fn the_trainers_order_is_that_of_datasets_and_transformers() {
        let (_folder, mut config) = world(&[]);
        config.order = QuestionOrder::Trainer;
        let golden = golden();
        assert_eq!(golden.cases.len(), 16);
        for case in golden.cases {
            config.samples = Some(case.samples);
            let one = read_questions(&config.questions).unwrap().remove(0);
            let questions = (0..case.rows).map(|row| Question {
                id: row.to_string(),
                ..one.clone()
            });
            let dataset = Dataset::new(questions.collect(), &config, golden.seed).unwrap();
            let mut taken = 0;
            for epoch in case.epochs {
                let steps = taken..taken + epoch.count;
                taken = steps.end;
                let ours: Vec<usize> = steps
                    .map(|index| dataset.question_at(index, case.questions_per_step))
                    .map(|question| question.id.parse().unwrap())
                    .collect();
                epoch.check(&ours);
            }
        }
    }

    #[test]
    fn clips_of_another_machine_are_found() {
        let (folder, mut config) = world(&[]);
        let text = std::fs::read_to_string(&config.questions).unwrap();
        let foreign = text.replace("\"video\":\"", "\"video\":\"/CLEVRER/train_video/");
        std::fs::write(&config.questions, foreign).unwrap();
        let dataset = Dataset::load(&config, 1).unwrap();
        assert_eq!(dataset.questions()[3].video, folder.path().join("3.mp4"));
        config.video_strip = Some("/CLEVRER".into());
        let message = Dataset::load(&config, 1).unwrap_err().to_string();
        assert!(message.contains("train_video/0.mp4"), "{message}");
        config.video_strip = Some("/CLEVRER/train_video".into());
        assert_eq!(Dataset::load(&config, 1).unwrap().len(), 10);
    }

    #[test]
    fn every_epoch_is_a_new_order_of_all() {
        let (_folder, config) = world(&[]);
        let dataset = Dataset::load(&config, 3).unwrap();
        let walk = |from: usize| -> Vec<String> {
            (from..from + 10)
                .map(|index| dataset.question_at(index, 3).id.clone())
                .collect()
        };
        let (first, second) = (walk(0), walk(10));
        assert_ne!(first, second);
        let mut sorted = first.clone();
        sorted.sort();
        assert_eq!(sorted, ids(&dataset));
        // Asked again from the middle, as a resumed run does.
        assert_eq!(walk(10), second);
        assert_eq!(dataset.question_at(4, 3).id, first[4]);
    }

    #[test]
    fn changed_clips_are_counted_and_named() {
        let (folder, mut config) = world(&[3]);
        let clips = (0..10).filter(|index| *index != 3).map(|index| {
            let video = PathBuf::from(format!("{index}.mp4"));
            let record = ClipRecord::of(&folder.path().join(&video)).unwrap();
            (video, record)
        });
        let manifest = Manifest {
            clips: clips.collect(),
        };
        let path = folder.path().join("manifest.json");
        manifest.write(&path).unwrap();
        config.manifest = Some(path);
        config.on_bad_video = BadVideoPolicy::Skip;
        let dataset = Dataset::load(&config, 1).unwrap();
        assert_eq!(dataset.len(), 9, "the missing clip is the policy's affair");
        for index in [6, 8] {
            std::fs::write(folder.path().join(format!("{index}.mp4")), "longer").unwrap();
        }
        let message = Dataset::load(&config, 1).unwrap_err().to_string();
        for part in [
            "manifest.json",
            "6.mp4",
            "6 bytes",
            "2 of 10 clips",
            "data check",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }

    #[test]
    fn parts_that_are_none_are_named_and_files_of_such_names_are_files() {
        let (folder, mut config) = world(&[]);
        let text = std::fs::read_to_string(&config.questions).unwrap();
        let rename = |name: &str| {
            std::fs::write(&config.questions, text.replace("4.mp4", name)).unwrap();
        };
        rename("4.mp4#t=5,2");
        config.on_bad_video = BadVideoPolicy::Skip;
        let message = Dataset::load(&config, 1).unwrap_err().to_string();
        for part in [
            "question q4",
            "4.mp4#t=5,2",
            "ends at 2 s and begins at 5 s",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        rename("4#fps=x");
        std::fs::write(folder.path().join("4#fps=x"), "x").unwrap();
        assert_eq!(Dataset::load(&config, 1).unwrap().len(), 10);
        rename("4.mp4#t=1");
        assert_eq!(Dataset::load(&config, 1).unwrap().len(), 10);
    }

    #[test]
    fn missing_clips_are_counted_and_named() {
        let (_folder, mut config) = world(&[4, 7]);
        let message = Dataset::load(&config, 1).unwrap_err().to_string();
        for part in ["2 of 10 clips", "4.mp4", "q4", "video_root"] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        config.on_bad_video = BadVideoPolicy::Skip;
        let dataset = Dataset::load(&config, 1).unwrap();
        assert_eq!((dataset.len(), dataset.num_skipped()), (8, 2));
    }
}
