//! Checkpoints: complete or absent, the last few and those of named steps kept, `latest` pointing at the newest.
//!
//! `checkpoints/step-000500/` is a model folder that other tools load unchanged; `trainer/` inside it holds what
//! going on needs. `checkpoints/latest` is a symbolic link to the newest.

use crate::config::CheckpointConfig;
use crate::config::Config;
use crate::config::QuestionKind;
use crate::data::Dataset;
use crate::model::export;
use crate::model::spec::Spec;
use crate::model::weights;
use crate::model::weights::Depth;
use crate::model::weights::NamedTensors;
use crate::prompt::Processor;
use crate::util::atomic;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash::Fnv;
use crate::util::json;
use anyhow::Context;
use anyhow::Result;
use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// A checkpoint that could not be written or is not one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrainerCheckpointError {
    /// The disk is full.
    #[error(
        "no space left for the checkpoint of step {step} in {folder}: nothing of it was kept; {previous}; make room and start the \
         same command again"
    )]
    NoSpace {
        step: usize,
        /// The folder of checkpoints.
        folder: PathBuf,
        /// What there is to go on from.
        previous: String,
    },
    /// The link to the newest is none.
    #[error(
        "{} is a folder and not a link to the newest checkpoint, perhaps from a copy that followed links: remove it, and start the same \
         command again", path.display()
    )]
    LatestIsFolder { path: PathBuf },
    /// The folder has no trainer state.
    #[error(
        "{path} cannot be resumed: {reason}; name a folder such as runs/NAME/checkpoints/step-000100"
    )]
    NotACheckpoint { path: PathBuf, reason: String },
}

/// Everything besides weights and optimizer state that going on needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainerState {
    /// Steps done.
    pub(crate) step: usize,
    /// Position in the endless order of questions.
    pub(crate) next_question: usize,
    /// Prompt and completion tokens processed.
    pub(crate) num_tokens: u64,
    /// Questions left out because their clip cannot be used.
    pub(crate) skipped_videos: usize,
    /// Steps without an update in a row.
    pub(crate) bad_steps: usize,
    /// What the KL coefficient may be now (the guard may have halved it).
    pub(crate) kl_coefficient: f64,
    /// The share of it that `kl.target` leaves.
    #[serde(default = "unsteered")]
    pub(crate) kl_steering: f64,
    /// A fingerprint of what `kl.bias_answers` holds, where it is set.
    #[serde(default)]
    pub(crate) bias_answers: Option<u64>,
    /// What the run drew from; absent in checkpoints of earlier versions.
    #[serde(default)]
    pub(crate) questions: Option<DrawnQuestions>,
}

/// The questions a run draws from, as far as they change what is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrawnQuestions {
    /// How many there are.
    pub(crate) count: usize,
    /// Of their ids, texts, answers, kinds and clips' names, in order.
    pub(crate) fingerprint: u64,
}

impl DrawnQuestions {
    /// Of a run's data.
    pub(crate) fn of(dataset: &Dataset) -> Self {
        let questions = dataset.questions();
        let mut hash = Fnv::default();
        for question in questions {
            let kind = question.kind.map_or("", QuestionKind::as_str);
            let clip = question.video.file_name().unwrap_or_default();
            for part in [
                question.id.as_bytes(),
                question.text().as_bytes(),
                question.answer().to_string().as_bytes(),
                kind.as_bytes(),
                question.response.as_deref().unwrap_or_default().as_bytes(),
                clip.as_encoded_bytes(),
            ] {
                hash.add(&part.len().to_le_bytes());
                hash.add(part);
            }
        }
        Self {
            count: questions.len(),
            fingerprint: hash.value(),
        }
    }
}

/// Of checkpoints that are older than `kl.target`, and of every run's beginning.
pub(super) fn unsteered() -> f64 {
    1.0
}

/// The folder of checkpoints of one run.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    /// Steps whose checkpoints stay.
    keep_steps: Vec<usize>,
}

const LATEST: &str = "latest";
/// Ends the name of a checkpoint that was set aside.
const DAMAGED: &str = "damaged";

impl Checkpoints {
    /// Opens `checkpoints/` of a run directory and removes what an interrupted write left.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(crate) fn open(run: &Path, config: &CheckpointConfig) -> Result<Self> {
        let opened = Self::look_into(run, config);
        file::create_folders(&opened.folder)?;
        atomic::remove_unfinished(&opened.folder)?;
        let latest = opened.folder.join(LATEST);
        if latest.is_dir() && !latest.is_symlink() {
            return Err(TrainerCheckpointError::LatestIsFolder { path: latest }.into());
        }
        Ok(opened)
    }

    /// The same without a change on the disk; there may be no such folder.
    pub(crate) fn look_into(run: &Path, config: &CheckpointConfig) -> Self {
        Self {
            folder: run.join("checkpoints"),
            keep: config.keep,
            keep_steps: config.keep_steps.clone(),
        }
    }

    /// The checkpoint to go on from: the newest complete one.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(self.complete()?.pop().map(|(_, path)| path))
    }

    /// Complete checkpoints by step.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn complete(&self) -> Result<Vec<(usize, PathBuf)>> {
        let mut found = Vec::new();
        let failed = |error| FileError::reading(&self.folder, error);
        if !file::exists(&self.folder)? {
            return Ok(found);
        }
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let step = name
                .to_str()
                .and_then(|name| name.strip_prefix("step-"))
                .and_then(|digits| digits.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Writes the checkpoint of `step` with `write`, then removes the oldest beyond the number to keep, but for those of
    /// the steps that are kept.
    ///
    /// # Errors
    /// [`TrainerCheckpointError::NoSpace`] on a full disk; whatever fails, the checkpoints that were there stay.
    pub(crate) fn save(
        &self,
        step: usize,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = format!("step-{step:06}");
        let path = self.folder.join(&name);
        atomic::write_folder(&path, write).map_err(|error| self.explain(step, error))?;
        atomic::link(&name, &self.folder.join(LATEST))?;
        self.prune()?;
        Ok(path)
    }

    /// Gives a checkpoint that cannot be used another name, and points `latest` at the newest of the others.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let mut aside = path.with_extension(DAMAGED);
        let mut number = 1;
        while file::exists(&aside)? {
            number += 1;
            aside = path.with_extension(format!("{DAMAGED}-{number}"));
        }
        std::fs::rename(path, &aside).map_err(|error| FileError::writing(&aside, error))?;
        let newest = self.latest()?;
        let name = newest
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        if let Some(name) = name {
            atomic::link(name, &self.folder.join(LATEST))?;
        }
        Ok(aside)
    }

    fn explain(&self, step: usize, error: anyhow::Error) -> anyhow::Error {
        if !is_out_of_space(&error) {
            return error.context(format!(
                "cannot write the checkpoint of step {step} in {}",
                self.folder.display()
            ));
        }
        let previous = match self.latest() {
            Ok(Some(path)) => format!("the last complete one is {}", path.display()),
            Ok(None) => "there is no earlier one".to_owned(),
            Err(error) => format!("whether there is an earlier one is not known ({error})"),
        };
        error.context(TrainerCheckpointError::NoSpace {
            step,
            folder: self.folder.clone(),
            previous,
        })
    }

    fn prune(&self) -> Result<()> {
        let complete = self.complete()?;
        let surplus = complete.len().saturating_sub(self.keep);
        if self.keep > 0 {
            for (step, path) in complete.iter().take(surplus) {
                if !self.keep_steps.contains(step) {
                    atomic::remove_folder(path)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether an error comes down to a full disk.
fn is_out_of_space(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes.any(file::is_out_of_space)
}

/// Where a checkpoint keeps what going on needs.
pub(crate) fn trainer_folder(checkpoint: &Path) -> PathBuf {
    checkpoint.join("trainer")
}

/// Writes `trainer/state.json` and `trainer/config.toml` of a checkpoint.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn write_state(checkpoint: &Path, state: &TrainerState, config: &Config) -> Result<()> {
    let folder = trainer_folder(checkpoint);
    file::create_folders(&folder)?;
    let settings = config.to_toml()? + END_OF_SETTINGS;
    let state = StateFile {
        state: state.clone(),
        settings_are_marked: true,
    };
    let text = serde_json::to_string_pretty(&state)? + "\n";
    file::write(&folder.join("state.json"), text.as_bytes())?;
    file::write(&folder.join("config.toml"), settings.as_bytes())?;
    Ok(())
}

/// The last line of `trainer/config.toml`.
const END_OF_SETTINGS: &str = "# the end\n";

/// `trainer/state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct StateFile {
    #[serde(flatten)]
    state: TrainerState,
    /// Whether `config.toml` beside it ends with a mark, for it stays readable where it is cut; not in checkpoints of earlier
    /// versions.
    #[serde(default)]
    settings_are_marked: bool,
}

/// Reads what [`write_state`] wrote.
///
/// # Errors
/// [`TrainerCheckpointError::NotACheckpoint`] names what is missing.
pub(crate) fn read_state(checkpoint: &Path) -> Result<(TrainerState, Config)> {
    let folder = trainer_folder(checkpoint);
    let not_one = |reason: String| TrainerCheckpointError::NotACheckpoint {
        path: checkpoint.to_path_buf(),
        reason,
    };
    let file = folder.join("state.json");
    let text =
        std::fs::read(&file).map_err(|error| not_one(format!("{}: {error}", file.display())))?;
    let state: StateFile =
        json::read(&text).map_err(|error| not_one(format!("{}: {error}", file.display())))?;
    let file = folder.join("config.toml");
    let config = Config::read_resolved(&file).map_err(|error| not_one(error.to_string()))?;
    let settings = file::read(&file)?;
    if state.settings_are_marked && !settings.ends_with(END_OF_SETTINGS.as_bytes()) {
        let reason = format!("{}: breaks off before its end", file.display());
        return Err(not_one(reason).into());
    }
    Ok((state.state, config))
}

/// Why a checkpoint cannot be gone on from, as far as its files tell when they are looked at so thoroughly.
pub(crate) fn damage(checkpoint: &Path, depth: Depth) -> Option<String> {
    let check = || -> Result<()> {
        read_state(checkpoint)?;
        weights::inspect(checkpoint, &Spec::load(checkpoint)?, depth)?;
        let files = tensor_files(&optimizer_folder(checkpoint))?;
        anyhow::ensure!(!files.is_empty(), "trainer/optimizer holds no state");
        Processor::load(checkpoint)?;
        for entry in std::fs::read_dir(checkpoint)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "json") {
                json::read::<serde_json::Value>(&file::read(&path)?).map_err(|error| {
                    anyhow::anyhow!("{}: not valid JSON: {error}", path.display())
                })?;
            }
        }
        for file in files {
            weights::check_file(&file)?;
        }
        Ok(())
    };
    check().err().map(|error| format!("{error:#}"))
}

fn optimizer_folder(checkpoint: &Path) -> PathBuf {
    trainer_folder(checkpoint).join("optimizer")
}

/// Writes the optimizer's state into `trainer/optimizer/` of a checkpoint.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn write_optimizer(checkpoint: &Path, state: BTreeMap<String, Tensor>) -> Result<()> {
    let mut tensors = NamedTensors::default();
    for (name, tensor) in state {
        // The format has no 64-bit integers here; the counts stay exact in f32 up to 2^24 updates.
        let tensor = match tensor.dtype() {
            DType::I64 => tensor.to_dtype(DType::F32)?,
            _ => tensor,
        };
        tensors.insert(name, tensor);
    }
    let folder = optimizer_folder(checkpoint);
    file::create_folders(&folder)?;
    export::save(&tensors, &folder, export::SHARD_BYTES)?;
    Ok(())
}

/// The files of tensors in a folder, in order.
fn tensor_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    names.retain(|name| name.extension().is_some_and(|end| end == "safetensors"));
    names.sort();
    Ok(names)
}

/// Reads what [`write_optimizer`] wrote, from one file or several, into host memory.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn read_optimizer(checkpoint: &Path) -> Result<BTreeMap<String, Tensor>> {
    let names = tensor_files(&optimizer_folder(checkpoint))?;
    let mut tensors = BTreeMap::new();
    for name in names {
        let file = candle_core::safetensors::load(&name, &Device::Cpu)
            .with_context(|| format!("cannot read {}", name.display()))?;
        tensors.extend(file);
    }
    if let Some(updates) = tensors.get_mut("updates") {
        *updates = updates.to_dtype(DType::I64)?;
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(checkpoints: &Checkpoints) -> Vec<usize> {
        let complete = checkpoints.complete().unwrap();
        complete.into_iter().map(|(step, _)| step).collect()
    }

    fn keeping(keep: usize, keep_steps: &[usize]) -> CheckpointConfig {
        CheckpointConfig {
            keep,
            keep_steps: keep_steps.to_vec(),
            ..CheckpointConfig::default()
        }
    }

    fn write(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |folder| Ok(std::fs::write(folder.join("weights"), text)?)
    }

    #[test]
    fn the_last_are_kept_and_latest_points_at_the_newest() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), &keeping(2, &[])).unwrap();
        assert!(checkpoints.latest().unwrap().is_none());
        for step in [100, 200, 1_000_000] {
            checkpoints.save(step, write("w")).unwrap();
        }
        assert_eq!(names(&checkpoints), [200, 1_000_000]);
        let latest = run.path().join("checkpoints/latest/weights");
        assert_eq!(std::fs::read_to_string(latest).unwrap(), "w");
        checkpoints.save(1_000_000, write("again")).unwrap();
        let latest = run.path().join("checkpoints/latest/weights");
        assert_eq!(std::fs::read_to_string(latest).unwrap(), "again");
        let all = Checkpoints::open(run.path(), &keeping(0, &[])).unwrap();
        all.save(1_000_001, write("w")).unwrap();
        assert_eq!(names(&all).len(), 3);
    }

    #[test]
    fn what_another_run_names_is_never_removed() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), &keeping(1, &[500, 700])).unwrap();
        for step in [400, 500, 600, 800, 900] {
            checkpoints.save(step, write("w")).unwrap();
        }
        assert_eq!(names(&checkpoints), [500, 900]);
        // A run that goes on with other settings removes it no sooner than they say.
        let other = Checkpoints::open(run.path(), &keeping(1, &[])).unwrap();
        assert_eq!(names(&other), [500, 900]);
    }

    #[test]
    fn a_failed_write_leaves_the_others() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), &keeping(1, &[])).unwrap();
        checkpoints.save(1, write("w")).unwrap();
        let error = checkpoints
            .save(2, |folder| {
                std::fs::write(folder.join("weights"), "half")?;
                Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into())
            })
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("no space left") && message.contains("step-000001"),
            "{message}"
        );
        assert_eq!(names(&checkpoints), [1]);
        let left = std::fs::read_dir(run.path().join("checkpoints")).unwrap();
        assert_eq!(left.count(), 2, "the checkpoint and `latest`");
    }

    #[test]
    fn leftovers_are_removed() {
        let run = tempfile::tempdir().unwrap();
        let left = run.path().join("checkpoints/.writing-step-000003");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("weights"), "half").unwrap();
        let checkpoints = Checkpoints::open(run.path(), &keeping(1, &[])).unwrap();
        assert!(!left.exists());
        assert!(checkpoints.latest().unwrap().is_none());
    }

    #[test]
    fn state_round_trips_and_a_model_folder_is_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let message = read_state(folder.path()).unwrap_err().to_string();
        assert!(message.contains("cannot be resumed"), "{message}");
        let mut state = TrainerState {
            step: 3,
            next_question: 6,
            num_tokens: 1 << 40,
            skipped_videos: 1,
            bad_steps: 0,
            kl_coefficient: 0.1 + 0.2,
            kl_steering: 0.7,
            questions: Some(DrawnQuestions {
                count: 9,
                fingerprint: u64::MAX,
            }),
            bias_answers: Some(u64::MAX - 1),
        };
        // Any coefficient, to the last digit: a resumed run equals one that was not interrupted.
        for _ in 0..1000 {
            write_state(folder.path(), &state, &Config::default()).unwrap();
            let (read, config) = read_state(folder.path()).unwrap();
            assert_eq!(read, state);
            assert_eq!(config, Config::default());
            state.kl_coefficient *= 0.987;
            state.kl_steering *= 0.987;
        }
        let file = trainer_folder(folder.path()).join("state.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let mut older: serde_json::Value = serde_json::from_str(&text).unwrap();
        for key in ["kl_steering", "bias_answers"] {
            older.as_object_mut().unwrap().remove(key);
        }
        std::fs::write(&file, older.to_string()).unwrap();
        let (read, _) = read_state(folder.path()).unwrap();
        assert_eq!(read.kl_steering.to_bits(), 1f64.to_bits());
        assert_eq!(read.bias_answers, None);
    }
}
