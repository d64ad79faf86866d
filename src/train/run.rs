//! The training loop: step after step, records, checkpoints, signals.

use super::bias_answers::BiasAnswers;
use super::checkpoint::Checkpoints;
use super::checkpoint::DrawnQuestions;
use super::data_loader;
use super::data_loader::DataLoader;
use super::estimate::num_parameters;
use super::metrics::MetricsLog;
use super::metrics::StepMetrics;
use super::metrics::StepTimings;
use super::metrics::Stopwatch;
use super::objective::Objective;
use super::objective_in_words;
use super::record::StepRecord;
use super::replay;
use super::replay::Replayed;
use super::reward_watch::RewardWatch;
use super::rundir::RunDir;
use super::sft::supervised_step;
use super::starting_point;
use super::starting_point::RunOptions;
use super::starting_point::Steps;
use super::starting_point::load_dataset;
use super::starting_point::plan_replay;
use super::starting_point::warn_before_training;
use super::step::reinforced_step;
use super::trainer::Trainer;
use crate::config::Config;
use crate::config::DivergenceGuard;
use crate::config::Verb;
use crate::data::Dataset;
use crate::dist::ProcessGroup;
use crate::model::device;
use crate::model::device::memory::peak_bytes;
use crate::model::weights::Depth;
use crate::util::console::Progress;
use crate::util::json_lines::JsonLines;
use crate::util::signals::StopRequest;
use crate::util::words::counted;
use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use candle_core::Device;
use std::path::Path;

/// How a run ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// A signal asked it to stop; a checkpoint is saved.
    Stopped,
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
    if dist.is_first() {
        warn_before_training(config, dataset.questions())?;
    }
    let answers = BiasAnswers::load(config, dataset.questions())?;
    let questions = DrawnQuestions::of(&dataset);
    let start = folders.as_ref().map(|folders| {
        let run = starting_point::Run {
            config,
            checkpoints: &folders.checkpoints,
            questions,
            answers: answers.as_ref(),
            options,
            is_dry: false,
            depth: Depth::Values,
        };
        run.starting_point()
    });
    let (checkpoint, state) = dist.broadcast(start.transpose()?)?;
    let steps = match &options.replay {
        None => Steps::in_order(&dataset, config, verb, &state),
        Some(path) => plan_replay(&dataset, replay::read(path)?, config)?.after(state.step, config),
    };
    starting_point::agree(dist, config, &steps, answers.as_ref())?;
    let device = device::of_rank(&config.model, dist.size(), |gpus| dist.gpu(gpus))?;
    dist.connect(&device)?;
    let dist = &*dist;
    let step = state.step;
    let trainer = Trainer::load(config, verb, &device, checkpoint.as_deref(), state, dist)?;
    let task = if verb == Verb::TrainSft {
        Task::Supervised
    } else {
        Task::Reinforced(Objective::load(config, trainer.policy(), answers)?)
    };
    if dist.is_first() && verb.is_rl() {
        trainer.refuse_hopeless(dataset.questions())?;
    }
    if dist.is_first() && step < steps.last {
        say_what_is_trained(&trainer, &device, &dataset, steps.last, verb)?;
    }
    let files = folders.map(|folders| {
        folders.dir.describe(config, verb, &device, dist.size())?;
        Files::open(folders, checkpoint.as_ref().map(|_| step), step)
    });
    let mut run = Run {
        loader: DataLoader::start(steps.portion(config, dist), config)?,
        questions: steps.questions.len(),
        replayed: steps.replayed,
        last: steps.last,
        files: files.transpose()?,
        trainer,
        task,
        stop,
        video_seconds: 0.0,
        rewards: RewardWatch::default(),
    };
    run.all_steps()
}

/// Device, size of the model, questions and output folder, in two lines.
fn say_what_is_trained(
    trainer: &Trainer,
    device: &Device,
    dataset: &Dataset,
    last: usize,
    verb: Verb,
) -> Result<()> {
    let config = trainer.config();
    let weights = num_parameters(&trainer.policy().model().spec) as f64;
    let (weights, unit) = if weights < 1e9 {
        (weights / 1e6, "million")
    } else {
        (weights / 1e9, "billion")
    };
    tracing::info!(
        "{}: {weights:.2} {unit} weights of {} on {}",
        verb.as_str(),
        config.model.path,
        device::name(device)?
    );
    let left_out = match dataset.num_skipped() {
        0 => String::new(),
        skipped => format!(" ({skipped} left out)"),
    };
    tracing::info!(
        "steps {} to {last}, each of {} of {}{left_out}; output in {}",
        trainer.steps_done() + 1,
        config.train.questions_per_step,
        counted(dataset.len(), "question"),
        config.output_dir.display()
    );
    Ok(())
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

    fn append(&mut self, done: &StepRecord, timings: &StepTimings) -> Result<()> {
        for line in &done.rollouts {
            self.rollouts.append_line(line)?;
        }
        if let Some(sample) = &done.bad_sample {
            self.bad_steps.append(sample)?;
        }
        self.log.append(&done.metrics, timings)
    }
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
    loader: DataLoader<'a>,
    /// Questions to come, of all ranks.
    questions: usize,
    replayed: Option<Vec<Replayed>>,
    last: usize,
    /// Rank 0's.
    files: Option<Files>,
    stop: StopRequest,
    /// What the video threads had worked when the last step began.
    video_seconds: f64,
    rewards: RewardWatch,
}

impl Run<'_> {
    fn all_steps(&mut self) -> Result<Ending> {
        let dist = self.trainer.dist();
        let first = dist.is_first();
        if first && self.trainer.steps_done() >= self.last {
            tracing::info!(
                "already complete: there is nothing left to do in {}",
                self.trainer.config().output_dir.display()
            );
        }
        let progress = first.then(|| Progress::training(self.trainer.steps_done(), self.last));
        while self.trainer.steps_done() < self.last {
            if dist.any(self.stop.is_set())? {
                self.save()?;
                if first {
                    tracing::info!(
                        "stopped at step {} of {}; the same command goes on from there",
                        self.trainer.steps_done(),
                        self.last
                    );
                }
                return Ok(Ending::Stopped);
            }
            let metrics = self.step().with_context(|| self.step_in_words())?;
            if let Some(progress) = &progress {
                progress.step(self.trainer.steps_done(), &in_brief(&metrics));
            }
            self.check_health(&metrics)?;
            let (step, due) = (self.trainer.steps_done(), &self.trainer.config().checkpoint);
            if step.is_multiple_of(due.every) || due.keep_steps.contains(&step) {
                self.save()?;
            }
        }
        self.save()?;
        let (step, all) = (self.trainer.steps_done(), self.trainer.config().train.steps);
        if self
            .trainer
            .config()
            .train
            .stop_after
            .is_some_and(|stop| stop < all)
        {
            tracing::info!("done: {step} of {all} steps (train.stop_after)");
        } else {
            tracing::info!("done: {}", counted(step, "step"));
        }
        Ok(Ending::Finished)
    }

    /// The step that fails, on a GPU with what it was expected to take of its memory, once that is known.
    fn step_in_words(&self) -> String {
        let step = self.trainer.steps_done() + 1;
        match self.trainer.estimated_bytes() {
            Some(bytes) if self.trainer.device().is_cuda() => {
                let gb = bytes as f64 / 1e9;
                format!("step {step} (estimated to take at most {gb:.1} GB of the GPU's memory)")
            }
            _ => format!("step {step}"),
        }
    }

    /// One step and its records.
    fn step(&mut self) -> Result<StepMetrics> {
        let mut watch = Stopwatch::on(self.trainer.device());
        let config = self.trainer.config();
        let count = config.train.questions_per_step;
        let due = count.min(self.questions);
        self.questions -= due;
        let own = self.trainer.dist().portion(due).len();
        let skipped_before = self.loader.skipped();
        let examples = watch.time("video", || self.loader.next_examples(own))?;
        // Waiting is above; this is the work, most of it done while the steps before this one ran.
        let worked = self.loader.worked_seconds();
        watch.add("video_work", worked - self.video_seconds);
        self.video_seconds = worked;
        self.trainer.note_clips(
            self.loader.held_bytes() + data_loader::bytes_of(&examples),
            self.loader.skipped() - skipped_before,
        );
        let replayed = self
            .replayed
            .as_mut()
            .map(|lines| lines.drain(..due).collect::<Vec<_>>());
        let trainer = &mut self.trainer;
        let mut done = match &self.task {
            Task::Supervised => supervised_step(trainer, &examples, &mut watch)?,
            Task::Reinforced(objective) => reinforced_step(
                trainer,
                objective,
                &examples,
                replayed.as_deref(),
                &mut watch,
            )?,
        };
        let graph_use = trainer.finish_step(count, &mut done.metrics)?;
        let mut timings = StepTimings {
            estimate_bytes: trainer.estimated_bytes(),
            decoding: config.sampling.cuda_graph.then(|| graph_use.into()),
            ..watch.finish(done.metrics.step)
        };
        match peak_bytes(self.trainer.device()) {
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
        let config = self.trainer.config();
        if self.trainer.bad_steps() >= config.train.max_bad_steps {
            bail!(
                "loss or gradient were not finite in {} steps in a row; see bad_steps.jsonl in {}",
                self.trainer.bad_steps(),
                config.output_dir.display()
            );
        }
        let Some(rl) = &metrics.rl else {
            return Ok(());
        };
        for words in self.rewards.note(rl, config) {
            if self.trainer.dist().is_first() {
                tracing::warn!("{words}");
            }
        }
        let format = rl.format;
        let repelled = rl.kl_coefficient.is_some_and(|now| now > 0.0);
        if !repelled || format >= config.kl.guard_format {
            return Ok(());
        }
        match config.kl.guard {
            DivergenceGuard::Off => {}
            DivergenceGuard::Halve => {
                let coefficient = self.trainer.halve_kl_coefficient();
                if self.trainer.dist().is_first() {
                    tracing::warn!(
                        "format reward {format:.3}: kl.coefficient halved to {coefficient}"
                    );
                }
            }
            DivergenceGuard::Stop => {
                self.save()?;
                bail!(
                    "format reward {format:.3} fell below kl.guard_format = {}: the policy diverges; a checkpoint of step {} is \
                     saved",
                    config.kl.guard_format,
                    self.trainer.steps_done()
                );
            }
        }
        Ok(())
    }

    /// Writes a checkpoint, unless this step has one, nothing was done yet, the run keeps none, or another rank does.
    fn save(&mut self) -> Result<()> {
        let step = self.trainer.steps_done();
        let keeps_none = self.trainer.config().checkpoint.every == 0;
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
        self.trainer.saved_as(path);
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
