//! The training loop and the one enum in which the stages differ.

use crate::config::Config;
use crate::config::DivergenceGuard;
use crate::config::QuestionOrder;
use crate::config::Verb;
use crate::data::Dataset;
use crate::data::read_questions;
use crate::data::too_few;
use crate::dist::ProcessGroup;
use crate::model::device;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use checkpoint::Checkpoints;
use console::Progress;
use estimate::Memory;
use feed::Feed;
use files::JsonLines;
use metrics::MetricsLog;
use metrics::StepMetrics;
use metrics::StepTimings;
use metrics::Stopwatch;
use replay::Replayed;
use rundir::RunDir;
use signals::StopRequest;
use start::Steps;
use start::plan_replay;
use start::starting_point;
use std::fmt::Write;
use std::path::Path;

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
pub mod plan;
pub mod replay;
pub mod rundir;
mod sft;
pub mod signals;
mod start;
pub mod step;
mod tally;
pub mod tensorboard;
mod trainer;
mod words;

pub use start::Resume;
pub use start::RunOptions;
pub use trainer::Objective;
pub use trainer::Trainer;
pub use words::objective_in_words;

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
pub fn dry_run(config: &Config, verb: Verb, options: &RunOptions, ranks: usize) -> Result<String> {
    let dataset = load_dataset(config, verb)?;
    if let Some(path) = &options.replay {
        plan_replay(&dataset, replay::read(path)?, config)?;
    }
    let mut text = String::new();
    for line in objective_in_words(config, verb) {
        writeln!(text, "{line}")?;
    }
    let train = &config.train;
    let stops = match train.stop_after {
        Some(stop) if stop < train.steps => format!("The first {stop} of "),
        _ => String::new(),
    };
    writeln!(
        text,
        "{stops}{} steps of {} from {} questions ({} left out), output in {}.",
        train.steps,
        config.train.questions_per_step,
        dataset.len(),
        dataset.num_skipped(),
        config.output_dir.display()
    )?;
    let available = dataset.len() + dataset.num_skipped();
    if let Some(message) = config
        .data
        .samples
        .and_then(|samples| too_few(samples, available))
    {
        writeln!(text, "{message}.")?;
    }
    let last = config.train.last_step();
    let keep = &config.checkpoint.keep_steps;
    if let Some(step) = keep.iter().find(|step| **step > last) {
        writeln!(
            text,
            "checkpoint.keep_steps names step {step}, but the run ends at {last}: there will be no such checkpoint."
        )?;
    }
    if verb.is_rl() && config.data.order == QuestionOrder::Trainer {
        writeln!(text, "They come in the order of transformers' Trainer.")?;
    }
    let mut config = config.clone();
    if ranks > 1 {
        config.train.questions_per_step = config.train.questions_per_step.div_ceil(ranks);
        writeln!(
            text,
            "{ranks} ranks, each with {} of a step's questions; memory and time are one rank's.",
            config.train.questions_per_step
        )?;
    }
    let memory = Memory::before_start(&config, verb, dataset.questions())?;
    writeln!(
        text,
        "Memory, at the longest prompts and completions:\n{memory}"
    )?;
    if verb.is_rl() {
        let duration = measure::Duration::in_words(&config, dataset.questions())?;
        writeln!(text, "{duration}")?;
    }
    Ok(text)
}

/// Runs one training verb from its config to its last checkpoint, as one of `dist`'s ranks.
///
/// # Errors
/// Bad input, a full disk, another process on the same run directory, too many bad steps in a row, a rank that failed.
pub fn run(
    config: &Config,
    verb: Verb,
    options: &RunOptions,
    mut dist: ProcessGroup,
) -> Result<Ending> {
    let ended = run_rank(config, verb, options, &mut dist);
    if let Err(error) = &ended {
        dist.fail(error);
    }
    ended
}

fn run_rank(
    config: &Config,
    verb: Verb,
    options: &RunOptions,
    dist: &mut ProcessGroup,
) -> Result<Ending> {
    let stop = StopRequest::listen().context("cannot listen to signals")?;
    let folders = dist.is_first().then(|| Folders::open(config));
    let folders = folders.transpose()?;
    if dist.is_first() {
        for line in objective_in_words(config, verb) {
            tracing::info!("{line}");
        }
        if dist.size() > 1 {
            tracing::info!("{} ranks share the questions of a step", dist.size());
        }
    }
    let dataset = load_dataset(config, verb)?;
    let start = folders.as_ref().map(|Folders { dir, checkpoints }| {
        starting_point(config, checkpoints, dir, &options.resume)
    });
    let (checkpoint, state) = dist.broadcast(start.transpose()?)?;
    let steps = match &options.replay {
        None => Steps::in_order(&dataset, config, verb, &state),
        Some(path) => plan_replay(&dataset, replay::read(path)?, config)?.after(state.step, config),
    };
    start::agree(dist, config, &steps)?;
    let device = device::of_rank(&config.model, dist.size(), |gpus| dist.gpu(gpus))?;
    dist.connect(&device)?;
    let dist = &*dist;
    let step = state.step;
    let trainer = Trainer::load(config, &device, checkpoint.as_deref(), state, dist)?;
    let task = if verb == Verb::TrainSft {
        Task::Supervised
    } else {
        Task::Reinforced(Objective::load(config, &trainer.policy)?)
    };
    let files = folders.map(|folders| {
        folders.dir.describe(config, verb, &device, dist.size())?;
        Files::open(folders, checkpoint.as_ref().map(|_| step), step)
    });
    let mut run = Run {
        feed: Feed::start(steps.portion(config, dist), config)?,
        questions: steps.questions.len(),
        replayed: steps.replayed,
        last: steps.last,
        files: files.transpose()?,
        trainer,
        task,
        stop,
        video_seconds: 0.0,
    };
    run.all_steps()
}

/// The run directory, which rank 0 alone has open.
struct Folders {
    dir: RunDir,
    checkpoints: Checkpoints,
}

impl Folders {
    fn open(config: &Config) -> Result<Self> {
        let dir = RunDir::open(&config.output_dir)?;
        let checkpoints = Checkpoints::open(dir.path(), &config.checkpoint)?;
        Ok(Self { dir, checkpoints })
    }
}

/// Where a run's records go.
struct Files {
    checkpoints: Checkpoints,
    /// Step of the newest checkpoint.
    saved_at: Option<usize>,
    log: MetricsLog,
    rollouts: JsonLines,
    bad_steps: JsonLines,
    /// Locked until the run ends.
    _dir: RunDir,
}

impl Files {
    /// Files in which nothing is later than `step`.
    fn open(folders: Folders, saved_at: Option<usize>, step: usize) -> Result<Self> {
        let path = folders.dir.path();
        Ok(Self {
            checkpoints: folders.checkpoints,
            saved_at,
            log: MetricsLog::open_at(path, step)?,
            rollouts: JsonLines::open_at(&path.join("rollouts.jsonl"), step)?,
            bad_steps: JsonLines::open_at(&path.join("bad_steps.jsonl"), step)?,
            _dir: folders.dir,
        })
    }

    /// Records a step.
    fn append(&mut self, done: &Step, timings: &StepTimings) -> Result<()> {
        for line in &done.rollouts {
            self.rollouts.append_line(line)?;
        }
        if let Some(sample) = &done.bad_sample {
            self.bad_steps.append(sample)?;
        }
        self.log.append(&done.metrics, timings)
    }
}

fn load_dataset(config: &Config, verb: Verb) -> Result<Dataset> {
    let path = &config.data.questions;
    let mut questions = read_questions(path)?;
    if verb == Verb::TrainSft {
        questions = sft::with_worked_answers(questions, path)?;
    }
    Ok(Dataset::new(questions, &config.data, config.seed)?)
}

/// What a step learns from.
enum Task {
    /// Worked answers.
    Supervised,
    /// Rewards.
    Reinforced(Objective),
}

/// What a step did.
#[derive(Debug, Default)]
struct Step {
    metrics: StepMetrics,
    /// Lines of `rollouts.jsonl`, of all ranks in the order of questions.
    rollouts: Vec<String>,
    /// A line of `bad_steps.jsonl`.
    bad_sample: Option<serde_json::Value>,
}

impl From<StepMetrics> for Step {
    fn from(metrics: StepMetrics) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }
}

/// A run between its start and its end.
struct Run<'a> {
    trainer: Trainer<'a>,
    task: Task,
    feed: Feed<'a>,
    /// Questions to come, of all ranks.
    questions: usize,
    replayed: Option<Vec<Replayed>>,
    last: usize,
    /// Rank 0's.
    files: Option<Files>,
    stop: StopRequest,
    /// What the video threads had worked when the last step began.
    video_seconds: f64,
}

impl Run<'_> {
    fn all_steps(&mut self) -> Result<Ending> {
        let dist = self.trainer.dist;
        let first = dist.is_first();
        let progress = first.then(|| Progress::start(self.trainer.state.step, self.last));
        while self.trainer.state.step < self.last {
            if dist.any(self.stop.is_set())? {
                self.save()?;
                tracing::info!("stopped at step {}", self.trainer.state.step);
                return Ok(Ending::Stopped);
            }
            let metrics = self.step().with_context(|| self.step_in_words())?;
            if let Some(progress) = &progress {
                progress.step(self.trainer.state.step, &in_brief(&metrics));
            }
            self.check_health(&metrics)?;
            let (step, due) = (self.trainer.state.step, &self.trainer.config.checkpoint);
            if step.is_multiple_of(due.every) || due.keep_steps.contains(&step) {
                self.save()?;
            }
        }
        self.save()?;
        let (step, all) = (self.trainer.state.step, self.trainer.config.train.steps);
        if self
            .trainer
            .config
            .train
            .stop_after
            .is_some_and(|stop| stop < all)
        {
            tracing::info!("done: {step} of {all} steps (train.stop_after)");
        } else {
            tracing::info!("done: {step} steps");
        }
        Ok(Ending::Finished)
    }

    /// The step that fails, on a GPU with what it was expected to take of its memory, once that is known.
    fn step_in_words(&self) -> String {
        let step = self.trainer.state.step + 1;
        match self.trainer.memory.largest {
            Some(bytes) if self.trainer.policy.model().device().is_cuda() => {
                let gb = bytes as f64 / 1e9;
                format!("step {step} (estimated to take at most {gb:.1} GB of the GPU's memory)")
            }
            _ => format!("step {step}"),
        }
    }

    /// One step and its records.
    fn step(&mut self) -> Result<StepMetrics> {
        let mut watch = Stopwatch::on(self.trainer.policy.model().device());
        let count = self.trainer.config.train.questions_per_step;
        let due = count.min(self.questions);
        self.questions -= due;
        let own = self.trainer.dist.portion(due).len();
        let skipped_before = self.feed.skipped();
        let lessons = watch.time("video", || self.feed.next_lessons(own))?;
        // Waiting is above; this is the work, most of it done while the steps before this one ran.
        let worked = self.feed.worked_seconds();
        watch.add("video_work", worked - self.video_seconds);
        self.video_seconds = worked;
        self.trainer.counts.skipped_videos += self.feed.skipped() - skipped_before;
        self.trainer.memory.clips = self.feed.held_bytes() + feed::bytes_of(&lessons);
        let replayed = self
            .replayed
            .as_mut()
            .map(|lines| lines.drain(..due).collect::<Vec<_>>());
        let mut done = match &self.task {
            Task::Supervised => self.trainer.supervised_step(&lessons, &mut watch)?,
            Task::Reinforced(objective) => self.trainer.reinforced_step(
                objective,
                &lessons,
                replayed.as_deref(),
                &mut watch,
            )?,
        };
        let graph_use = self.trainer.count_together()?;
        let state = &mut self.trainer.state;
        state.step += 1;
        state.next_question += count;
        done.metrics.num_tokens = state.num_tokens;
        done.metrics.skipped_videos = state.skipped_videos;
        let sampling = &self.trainer.config.sampling;
        let mut timings = StepTimings {
            estimate_bytes: self.trainer.memory.largest,
            decoding: sampling.cuda_graph.then(|| graph_use.into()),
            ..watch.finish(done.metrics.step)
        };
        match measure::peak_bytes(self.trainer.policy.model().device()) {
            Ok(Some(bytes)) => timings.peak_bytes = bytes,
            Ok(None) => {}
            // The step is done, and stands without this number.
            Err(error) => {
                timings.peak_bytes = 0;
                tracing::warn!(
                    "memory/peak_bytes is not known: {}",
                    device::in_words(&error.to_string())
                );
            }
        }
        if let Some(files) = &mut self.files {
            files.append(&done, &timings)?;
        }
        Ok(done.metrics)
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
                if self.trainer.dist.is_first() {
                    tracing::warn!(
                        "format reward {format:.3}: kl.coefficient halved to {}",
                        self.trainer.state.kl_coefficient
                    );
                }
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

    /// Writes a checkpoint, unless this step has one, nothing was done yet, the run keeps none, or another rank does.
    fn save(&mut self) -> Result<()> {
        let step = self.trainer.state.step;
        let keeps_none = self.trainer.config.checkpoint.every == 0;
        self.trainer.check_weights()?;
        let Some(files) = &mut self.files else {
            return Ok(());
        };
        if step == 0 || files.saved_at == Some(step) || keeps_none {
            return Ok(());
        }
        let path = files
            .checkpoints
            .save(step, |folder: &Path| self.trainer.save(folder))?;
        files.saved_at = Some(step);
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
