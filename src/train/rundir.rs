//! The run directory: one process at a time, the resolved config, the environment, the log.

use crate::config::Config;
use crate::config::MayDiffer;
use crate::config::Schedule;
use crate::config::Verb;
use crate::util::atomic;
use crate::util::console;
use crate::util::file;
use crate::util::lock::Lock;
use crate::util::lock::LockError;
use anyhow::Context;
use anyhow::Result;
use candle_core::Device;
use candle_core::DeviceLocation;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// Mistakes about a run directory that a person can repair.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunDirError {
    /// Another process writes here.
    #[error(
        "the run directory {path} is in use by process {pid}; wait for it, stop it, or choose another output_dir"
    )]
    InUse {
        path: PathBuf,
        /// The process that holds the lock.
        pid: String,
    },
    /// The directory holds a run that this start would overwrite.
    #[error(
        "{path} already holds a run ({checkpoint}): go on with --resume auto, the default, or start anew in another output_dir"
    )]
    Occupied {
        path: PathBuf,
        /// A checkpoint in it.
        checkpoint: String,
    },
    /// A resumed run must be the same run.
    #[error(
        "cannot resume {checkpoint}: settings that change the result differ:\n{differences}\nput them back, or choose \
         another output_dir{advice}"
    )]
    ConfigChanged {
        checkpoint: PathBuf,
        /// One line per key.
        differences: String,
        /// What else can be done, if anything.
        advice: String,
    },
    /// A resumed run must have the same questions.
    #[error(
        "{} was trained with other questions, {before} of them, than the {now} that are drawn from {} now: a text, an answer, a clip's name \
         or the order has changed; put the file back, or choose another output_dir; --accept-changed-data goes on with them (their \
         order begins anew)", checkpoint.display(), questions.display()
    )]
    DataChanged {
        checkpoint: PathBuf,
        /// The file of today's.
        questions: PathBuf,
        /// How many there were.
        before: usize,
        /// How many there are.
        now: usize,
    },
    /// There are checkpoints, and none can be used.
    #[error(
        "{} cannot be gone on from, and there is no other checkpoint: {reason}; restore it, or start anew in another output_dir",
        path.display()
    )]
    AllDamaged {
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// `--resume` names nothing that is there.
    #[error(
        "--resume {}: there is no such folder; it is auto, never, or a checkpoint such as runs/NAME/checkpoints/latest", path.display()
    )]
    NoCheckpoint { path: PathBuf },
    /// `--resume` names a run and not one of its checkpoints.
    #[error("--resume {}: that is the folder of a run; its newest checkpoint is {}", path.display(), latest.display())]
    ARun {
        path: PathBuf,
        /// The checkpoint it probably meant.
        latest: PathBuf,
    },
}

impl RunDirError {
    /// Whether an argument or a setting is wrong, and not the machine.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::InUse { .. } | Self::Occupied { .. } | Self::AllDamaged { .. }
        )
    }
}

/// An open run directory. The lock lasts as long as this value, and ends with the process however it ends.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: Lock,
}

impl RunDir {
    /// Creates the directory, takes its lock and sends the log there too.
    ///
    /// # Errors
    /// [`RunDirError::InUse`], or the directory cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        file::create_folders(path)?;
        let lock = take_lock(path)?;
        atomic::remove_unfinished(path)?;
        console::log_to(&path.join("log.txt"))?;
        Ok(Self {
            path: path.to_path_buf(),
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `config.toml` and `environment.json`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn describe(
        &self,
        config: &Config,
        verb: Verb,
        device: &Device,
        ranks: usize,
    ) -> Result<()> {
        let text = config
            .to_toml()
            .context("the config cannot be written as TOML")?;
        atomic::write(&self.path.join("config.toml"), text.as_bytes())?;
        let environment = serde_json::to_string_pretty(&environment(verb, device, ranks))?;
        let path = self.path.join("environment.json");
        atomic::write(&path, (environment + "\n").as_bytes())?;
        Ok(())
    }
}

/// Refuses a run directory in which another process works.
///
/// # Errors
/// [`RunDirError::InUse`].
pub(super) fn check_free(path: &Path) -> Result<()> {
    if file::exists(&path.join("run.lock"))? {
        take_lock(path)?;
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<Lock> {
    let own = std::process::id().to_string();
    match Lock::take(&path.join("run.lock"), &own, "this run directory") {
        Err(LockError::Held { holder }) => Err(RunDirError::InUse {
            path: path.to_path_buf(),
            pid: holder,
        }
        .into()),
        taken => Ok(taken?),
    }
}

/// What one needs to know to understand the numbers of this run.
fn environment(verb: Verb, device: &Device, ranks: usize) -> serde_json::Value {
    // `null` on systems that do not say.
    let cpu = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
    json!({
        "videothinker": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("VIDEOTHINKER_COMMIT"),
        "candle": "0.11.1",
        "command": verb.as_str(),
        // What relative paths of the config start from.
        "directory": std::env::current_dir().ok(),
        "device": match device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        },
        "ranks": ranks,
        "threads": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "cpu": cpu,
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "optimised": !cfg!(debug_assertions),
    })
}

/// The keys with both values, a line each, that differ between flattened configs, but for those that may differ between
/// `allowed`, those of evaluations, and `free`.
pub(super) fn differences(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    allowed: MayDiffer,
    free: Option<&str>,
) -> Vec<String> {
    let settings = Config::settings().iter();
    let may_differ = settings.filter(|setting| setting.may_differ >= Some(allowed));
    let may_differ: BTreeSet<&str> = may_differ.map(|setting| setting.key.as_str()).collect();
    let is_free = |key: &str| may_differ.contains(key) || Some(key) == free;
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let show = |value: Option<&String>| value.map_or_else(|| "absent".to_owned(), Clone::clone);
    keys.into_iter()
        .filter(|key| !is_free(key) && !key.starts_with("eval."))
        .map(|key| (key, old.get(key), new.get(key)))
        .filter(|(_, old, new)| old != new)
        .map(|(key, old, new)| format!("  {key}: was {}, is {}", show(old), show(new)))
        .collect()
}

/// Refuses to go on from `checkpoint` when a setting that changes the result differs from the one it was trained with.
///
/// # Errors
/// [`RunDirError::ConfigChanged`] names every such key with both values.
pub(crate) fn check_same_config(checkpoint: &Path, before: &Config, now: &Config) -> Result<()> {
    let schedules = [now.optimizer.schedule, now.kl.schedule];
    let constant = schedules
        .iter()
        .all(|schedule| *schedule == Schedule::Constant);
    let free = constant.then_some("train.steps");
    let (old, new) = (before.flattened(), now.flattened());
    let differences = differences(&old, &new, MayDiffer::Parts, free);
    if differences.is_empty() {
        return Ok(());
    }
    let is_longer = now.train.steps > before.train.steps;
    let advice = if is_longer && !constant {
        format!(
            ". A schedule that falls ends with its run, so train.steps cannot grow: to train on, start a run from its weights, with \
             model.path = \"{}\" and another output_dir",
            checkpoint.display()
        )
    } else {
        String::new()
    };
    Err(RunDirError::ConfigChanged {
        checkpoint: checkpoint.to_path_buf(),
        differences: differences.join("\n"),
        advice,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QuestionOrder;
    use crate::config::TextAfterVideo;

    #[test]
    fn changed_settings_are_named() {
        let before = Config::default();
        let mut now = Config {
            output_dir: "elsewhere".into(),
            ..Config::default()
        };
        now.checkpoint.every = 7;
        check_same_config(Path::new("c"), &before, &now).unwrap();
        now.kl.coefficient = 0.5;
        now.data.samples = Some(9);
        now.data.order = QuestionOrder::Trainer;
        now.video.text_after = TextAfterVideo::Spatial;
        let message = check_same_config(Path::new("c"), &before, &now)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("kl.coefficient: was 0.01, is 0.5"),
            "{message}"
        );
        assert!(
            message.contains("data.samples: was absent, is 9"),
            "{message}"
        );
        for line in [
            "data.order: was \"drawn\", is \"trainer\"",
            "video.text_after: was \"largest\", is \"spatial\"",
        ] {
            assert!(message.contains(line), "{message}");
        }
        assert!(!message.contains("checkpoint.every"), "{message}");
    }

    #[test]
    fn a_longer_run_needs_a_constant_schedule() {
        let mut before = Config::default();
        let mut now = Config::default();
        now.train.steps = 1000;
        let error = check_same_config(Path::new("c"), &before, &now).unwrap_err();
        let advice = "model.path = \"c\" and another output_dir";
        assert!(error.to_string().contains(advice), "{error}");
        before.optimizer.schedule = Schedule::Constant;
        now.optimizer.schedule = Schedule::Constant;
        check_same_config(Path::new("c"), &before, &now).unwrap();
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let first = RunDir::open(&path).unwrap();
        let message = RunDir::open(&path).unwrap_err().to_string();
        assert!(
            message.contains(&format!("in use by process {}", std::process::id())),
            "{message}"
        );
        drop(first);
        RunDir::open(&path).unwrap();
    }
}
