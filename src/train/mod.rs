//! The training loop and the one enum in which the stages differ.

use crate::config::Config;
use crate::config::DivergenceGuard;
use crate::config::Verb;
use crate::data::Dataset;
use crate::data::Question;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use checkpoint::Checkpoints;
use checkpoint::TrainerState;
use console::Progress;
use estimate::Memory;
use feed::Feed;
use metrics::MetricsLog;
use metrics::StepMetrics;
use metrics::StepTimings;
use metrics::Stopwatch;
use replay::Replayed;
use rundir::RunDir;
use rundir::RunDirError;
use signals::StopRequest;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

pub mod backward;
pub mod checkpoint;
pub mod console;
pub mod estimate;
pub mod feed;
pub mod files;
pub mod gradients;
pub mod measure;
pub mod metrics;
pub mod optimizer;
pub mod parity;
mod part;
pub mod replay;
pub mod rundir;
mod sft;
pub mod signals;
pub mod step;
pub mod tensorboard;
mod trainer;
mod words;

pub use trainer::Objective;
pub use trainer::Trainer;
pub use words::objective_in_words;

/// How a training run is started.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// From where to go on.
    pub resume: Resume,
    /// Completions of each step, instead of sampling (`train-cdpo`).
    pub replay: Option<PathBuf>,
}

/// From where a run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Resume {
    /// The run directory's last checkpoint, if it has one.
    #[default]
    Auto,
    /// Start anew; a run directory with checkpoints in it is an error.
    Never,
    /// This checkpoint folder.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" => Self::Never,
            path => Self::From(PathBuf::from(path)),
        })
    }
}

/// How a run ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// A signal asked it to stop; a checkpoint is saved.
    Stopped,
}

/// Checks everything a run needs without loading a model, and says in words what it would do.
///
/// # Errors
/// Whatever would stop the run before its first step.
pub fn dry_run(config: &Config, verb: Verb, options: &RunOptions) -> Result<String> {
    let dataset = load_dataset(config, verb)?;
    if let Some(path) = &options.replay {
        plan_replay(&dataset, replay::read(path)?, config)?;
    }
    let mut text = String::new();
    for line in objective_in_words(config, verb) {
        writeln!(text, "{line}")?;
    }
    writeln!(
        text,
        "{} steps of {} from {} questions ({} left out), output in {}.",
        config.train.steps,
        config.train.questions_per_step,
        dataset.len(),
        dataset.num_skipped(),
        config.output_dir.display()
    )?;
    let memory = Memory::before_start(config, verb, dataset.questions())?;
    writeln!(
        text,
        "Memory, at the longest prompts and completions:\n{memory}"
    )?;
    if verb.is_rl() {
        let duration = measure::Duration::before_start(config, dataset.questions())?;
        writeln!(text, "{duration}")?;
    }
    Ok(text)
}

/// Runs one training verb from its config to its last checkpoint.
///
/// # Errors
/// Bad input, a full disk, another process on the same run directory, too many bad steps in a row.
pub fn run(config: &Config, verb: Verb, options: &RunOptions) -> Result<Ending> {
    let stop = StopRequest::listen().context("cannot listen to signals")?;
    let dir = RunDir::open(&config.output_dir)?;
    let checkpoints = Checkpoints::open(dir.path(), config.checkpoint.keep)?;
    for line in objective_in_words(config, verb) {
        tracing::info!("{line}");
    }
    let dataset = load_dataset(config, verb)?;
    let (checkpoint, state) = starting_point(config, &checkpoints, &dir, &options.resume)?;
    let steps = match &options.replay {
        None => Steps::in_order(&dataset, config, verb, &state),
        Some(path) => plan_replay(&dataset, replay::read(path)?, config)?.after(state.step, config),
    };
    let trainer = Trainer::load(config, checkpoint.as_deref(), state, dir.path())?;
    let device = trainer.policy.model().device();
    dir.describe(config, verb, device)?;
    let task = if verb == Verb::TrainSft {
        Task::Supervised
    } else {
        Task::Reinforced(Objective::load(config, &trainer.policy)?)
    };
    let log = MetricsLog::open_at(dir.path(), trainer.state.step)?;
    let mut run = Run {
        feed: Feed::start(steps.questions, config)?,
        replayed: steps.replayed,
        last: steps.last,
        saved_at: checkpoint.map(|_| trainer.state.step),
        trainer,
        task,
        checkpoints,
        log,
        stop,
        video_seconds: 0.0,
    };
    run.all_steps()
}

fn load_dataset(config: &Config, verb: Verb) -> Result<Dataset> {
    let dataset = Dataset::load(&config.data, config.seed)?;
    if verb == Verb::TrainSft {
        sft::check_responses(&dataset)?;
    }
    Ok(dataset)
}

/// The checkpoint to go on from and where it stood; the beginning when there is none.
fn starting_point(
    config: &Config,
    checkpoints: &Checkpoints,
    dir: &RunDir,
    resume: &Resume,
) -> Result<(Option<PathBuf>, TrainerState)> {
    let found = match resume {
        Resume::Auto => checkpoints.latest()?,
        Resume::Never => {
            if let Some(path) = checkpoints.latest()? {
                return Err(RunDirError::Occupied {
                    path: dir.path().to_path_buf(),
                    checkpoint: path.display().to_string(),
                }
                .into());
            }
            None
        }
        Resume::From(path) => Some(
            path.canonicalize()
                .with_context(|| format!("--resume {}", path.display()))?,
        ),
    };
    let Some(path) = found else {
        let state = TrainerState {
            step: 0,
            next_question: 0,
            num_tokens: 0,
            skipped_videos: 0,
            bad_steps: 0,
            kl_coefficient: config.kl.coefficient,
        };
        return Ok((None, state));
    };
    let (state, before) = checkpoint::read_state(&path)?;
    rundir::check_same_config(&path, &before, config)?;
    if let Some((_, later)) = checkpoints
        .complete()?
        .pop()
        .filter(|(step, _)| *step > state.step)
    {
        return Err(RunDirError::Occupied {
            path: dir.path().to_path_buf(),
            checkpoint: format!("{}, later than {}", later.display(), path.display()),
        }
        .into());
    }
    tracing::info!("going on from {} (step {})", path.display(), state.step);
    Ok((Some(path), state))
}

/// The questions of the steps to come.
struct Steps<'a> {
    questions: Vec<&'a Question>,
    /// What was written to each of them, in a replay.
    replayed: Option<Vec<Replayed>>,
    /// The last step.
    last: usize,
}

impl<'a> Steps<'a> {
    fn in_order(dataset: &'a Dataset, config: &Config, verb: Verb, state: &TrainerState) -> Self {
        let end = config.train.steps * config.train.questions_per_step;
        let questions = if verb == Verb::TrainSft {
            feed::in_clip_order(dataset, config.seed, state.next_question, end)
        } else {
            feed::in_order(dataset, state.next_question, end)
        };
        Self {
            questions,
            replayed: None,
            last: config.train.steps,
        }
    }

    /// Without the first `step` steps.
    fn after(mut self, step: usize, config: &Config) -> Self {
        let done = (step * config.train.questions_per_step).min(self.questions.len());
        self.questions.drain(..done);
        if let Some(replayed) = &mut self.replayed {
            replayed.drain(..done);
        }
        self
    }
}

/// The questions a replay file names; it ends the run when it has no more steps.
fn plan_replay<'a>(
    dataset: &'a Dataset,
    replayed: Vec<Replayed>,
    config: &Config,
) -> Result<Steps<'a>> {
    let by_id: BTreeMap<&str, &Question> = dataset
        .questions()
        .iter()
        .map(|question| (question.id.as_str(), question))
        .collect();
    let questions = replayed
        .iter()
        .map(|line| {
            by_id
                .get(line.question_id.as_str())
                .copied()
                .with_context(|| {
                    format!(
                        "the replay file names question {}, which {} does not have",
                        line.question_id,
                        config.data.questions.display()
                    )
                })
        })
        .collect::<Result<Vec<_>>>()?;
    let available = questions.len().div_ceil(config.train.questions_per_step);
    Ok(Steps {
        questions,
        replayed: Some(replayed),
        last: available.min(config.train.steps),
    })
}

/// What a step learns from.
enum Task {
    /// Worked answers.
    Supervised,
    /// Rewards.
    Reinforced(Objective),
}

/// A run between its start and its end.
struct Run<'a> {
    trainer: Trainer<'a>,
    task: Task,
    feed: Feed<'a>,
    replayed: Option<Vec<Replayed>>,
    last: usize,
    checkpoints: Checkpoints,
    /// Step of the newest checkpoint.
    saved_at: Option<usize>,
    log: MetricsLog,
    stop: StopRequest,
    /// What the video threads had worked when the last step began.
    video_seconds: f64,
}

impl Run<'_> {
    fn all_steps(&mut self) -> Result<Ending> {
        let progress = Progress::start(self.trainer.state.step, self.last);
        while self.trainer.state.step < self.last {
            if self.stop.is_set() {
                self.save()?;
                tracing::info!("stopped at step {}", self.trainer.state.step);
                return Ok(Ending::Stopped);
            }
            let metrics = self
                .step()
                .with_context(|| format!("step {}", self.trainer.state.step + 1))?;
            progress.step(self.trainer.state.step, &in_brief(&metrics));
            self.check_health(&metrics)?;
            if self
                .trainer
                .state
                .step
                .is_multiple_of(self.trainer.config.checkpoint.every)
            {
                self.save()?;
            }
        }
        self.save()?;
        tracing::info!("done: {} steps", self.trainer.state.step);
        Ok(Ending::Finished)
    }

    /// One step and its records.
    fn step(&mut self) -> Result<StepMetrics> {
        let mut watch = Stopwatch::default();
        let count = self.trainer.config.train.questions_per_step;
        let skipped_before = self.feed.skipped();
        let lessons = watch.time("video", || self.feed.next_lessons(count))?;
        // Waiting is above; this is the work, most of it done while the steps before this one ran.
        let worked = self.feed.worked_seconds();
        watch.add("video_work", worked - self.video_seconds);
        self.video_seconds = worked;
        self.trainer.state.skipped_videos += self.feed.skipped() - skipped_before;
        self.trainer.memory.clips = self.feed.held_bytes() + feed::bytes_of(&lessons);
        let replayed = self.replayed.as_mut().map(|lines| {
            let taken = count.min(lines.len());
            lines.drain(..taken).collect::<Vec<_>>()
        });
        let mut metrics = match &self.task {
            Task::Supervised => self.trainer.supervised_step(&lessons, &mut watch)?,
            Task::Reinforced(objective) => self.trainer.reinforced_step(
                objective,
                &lessons,
                replayed.as_deref(),
                &mut watch,
            )?,
        };
        let state = &mut self.trainer.state;
        state.step += 1;
        state.next_question += count;
        metrics.skipped_videos = state.skipped_videos;
        let mut timings = StepTimings {
            estimate_bytes: self.trainer.memory.largest,
            ..watch.finish(metrics.step)
        };
        if let Some(bytes) = measure::peak_bytes(self.trainer.policy.model().device())? {
            timings.peak_bytes = bytes;
        }
        self.log.append(&metrics, &timings)?;
        Ok(metrics)
    }

    /// Stops after too many bad steps, and acts when repulsion has destroyed the format.
    fn check_health(&mut self, metrics: &StepMetrics) -> Result<()> {
        let config = self.trainer.config;
        if self.trainer.state.bad_steps >= config.train.max_bad_steps {
            bail!(
                "loss or gradient were not finite in {} steps in a row; see bad_steps.jsonl in {}",
                self.trainer.state.bad_steps,
                config.output_dir.display()
            );
        }
        let repelled = matches!(self.task, Task::Reinforced(Objective::Cdpo(_)))
            && self.trainer.state.kl_coefficient > 0.0;
        let format = metrics.rl.as_ref().map(|rl| rl.format);
        let Some(format) = format.filter(|&format| repelled && format < config.kl.guard_format)
        else {
            return Ok(());
        };
        match config.kl.guard {
            DivergenceGuard::Off => {}
            DivergenceGuard::Halve => {
                self.trainer.state.kl_coefficient /= 2.0;
                tracing::warn!(
                    "format reward {format:.3}: kl.coefficient halved to {}",
                    self.trainer.state.kl_coefficient
                );
            }
            DivergenceGuard::Stop => {
                self.save()?;
                bail!(
                    "format reward {format:.3} fell below kl.guard_format = {}: the policy diverges; a checkpoint of step {} is \
                     saved",
                    config.kl.guard_format,
                    self.trainer.state.step
                );
            }
        }
        Ok(())
    }

    /// Writes a checkpoint, unless this step has one, nothing was done yet, or the run keeps none.
    fn save(&mut self) -> Result<()> {
        let step = self.trainer.state.step;
        let keeps_none = self.trainer.config.checkpoint.every == 0;
        if step == 0 || self.saved_at == Some(step) || keeps_none {
            return Ok(());
        }
        let path = self
            .checkpoints
            .save(step, |folder: &Path| self.trainer.save(folder))?;
        self.saved_at = Some(step);
        tracing::info!("saved {}", path.display());
        // The folder this run came from may be pruned; the newest checkpoint never is.
        self.trainer.source = path;
        Ok(())
    }
}

/// The numbers worth watching.
fn in_brief(metrics: &StepMetrics) -> String {
    let Some(rl) = &metrics.rl else {
        return format!(
            "loss {:.4} · gradient {:.3}",
            metrics.loss, metrics.grad_norm
        );
    };
    let kl = rl
        .kl
        .map_or_else(String::new, |kl| format!(" · KL {kl:.4}"));
    format!(
        "reward {:.3} · accuracy {:.3} · format {:.3}{kl} · length {:.0}",
        rl.reward, rl.accuracy, rl.format, rl.mean_length
    )
}

/// The mean in f64; 0 of nothing.
fn mean(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
    sum / values.len().max(1) as f64
}
