//! One file per verb; here the command line itself, logging and exit codes.

use crate::config::Config;
use crate::config::ConfigError;
use crate::config::Departure;
use crate::config::TrainedWith;
use crate::config::Verb;
use crate::config::is_hub_id;
use crate::data::DataError;
use crate::data::Fragment;
use crate::dist::DistError;
use crate::dist::rendezvous::Rendezvous;
use crate::eval::EvalError;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::device;
use crate::train::rundir::RunDirError;
use crate::util::console;
use crate::util::file::FileError;
use crate::video::VideoError;
use anyhow::Result;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

mod ask;
mod check;
mod completions;
mod data;
mod doctor;
mod download;
mod estimate;
mod eval;
mod examples;
mod export;
mod import;
pub mod init;
mod inspect;
mod inspect_answers;
mod inspect_config;
mod inspect_device;
mod inspect_model;
mod label;
mod output;
mod process;
mod setup;
mod split;
mod stats;
mod study;
mod training;
mod usage;

/// Trains a video-language model to reason instead of taking perceptual shortcuts: bias-model GRPO, then CDPO.
///
/// `init` writes a config for own videos, `doctor` looks at this machine.
/// stdout carries only a command's result; logs and the progress bar go to stderr (RUST_LOG sets the level).
/// Exit codes: 0 done, 1 failed, 2 bad arguments or config, 3 stopped by a signal with a checkpoint saved,
/// 130 or 143 ended at once by a second signal.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask what is needed to train on own videos, and write a config that fits the card
    Init(setup::SetupArgs),
    /// What this program and this machine have, what they lack, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Supervised warm start: cross-entropy on worked answers
    TrainSft(training::TrainingArgs),
    /// Stage 1: GRPO without a KL term, observational questions only
    TrainBias(training::TrainingArgs),
    /// Plain GRPO on all questions, without a KL term
    TrainGrpo(training::ReplayArgs),
    /// Stage 2: GRPO on all questions and the KL term against the frozen bias model
    TrainCdpo(training::ReplayArgs),
    /// Questions and clips: import, label, count and check them; make the miniature world; convert official CLEVRER files
    Data(data::DataArgs),
    /// Answer a benchmark and score it; merge, rescore, judge or compare finished evaluations
    Eval(Box<eval::EvalArgs>),
    /// Compare many runs of one experiment over their seeds: tables, tests, and a page with pictures
    Study(study::StudyArgs),
    /// Ask one question about one clip
    Ask(ask::AskArgs),
    /// What the model sees and thinks, as JSON: for debugging and for comparison with other implementations
    Inspect(inspect::InspectArgs),
    /// The memory and time a run takes, before anything is loaded
    Estimate(estimate::EstimateArgs),
    /// Print a shell's completions of commands and options
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one for every command
    Man(completions::ManArgs),
    /// Write a run's model as a clean folder, with a model card, and upload it to the hub
    Export(Box<export::ExportArgs>),
}

impl Command {
    fn trains(&self) -> bool {
        matches!(
            self,
            Self::TrainSft(_) | Self::TrainBias(_) | Self::TrainGrpo(_) | Self::TrainCdpo(_)
        )
    }
}

/// Which settings: a file and changes to it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// TOML file with the settings that differ from the defaults
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Change one setting, for example --set kl.coefficient=0.02 (repeatable, same checks as the file)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

impl ConfigArgs {
    /// The settings, validated for `verb`.
    ///
    /// # Errors
    /// [`ConfigError`], see [`Config::load`].
    pub(crate) fn load(&self, verb: Verb) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), &self.overrides, verb)
    }

    /// The settings for asking the model in `folder`: as it was trained, unless the file, an argument or a protocol says
    /// otherwise; what departs is logged.
    ///
    /// # Errors
    /// [`ConfigError`], see [`Config::load`].
    pub(crate) fn load_for_model(&self, verb: Verb, folder: &Path) -> Result<Config, ConfigError> {
        let Some(trained) = TrainedWith::read(folder)? else {
            return self.load(verb);
        };
        let file = self.config.as_deref();
        let (config, departures) =
            Config::load_for_model(file, &self.overrides, verb, Some(&trained))?;
        let named: Vec<String> = departures.iter().map(ToString::to_string).collect();
        let where_from = trained.path().display();
        if named.is_empty() {
            tracing::info!("asked as the model was trained ({where_from})");
        } else if departures.iter().all(Departure::is_by_protocol) {
            tracing::info!(
                "the protocol asks otherwise than the model was trained ({where_from}): {}",
                named.join(", ")
            );
        } else {
            tracing::warn!(
                "not asked as the model was trained ({where_from}): {}",
                named.join(", ")
            );
        }
        Ok(config)
    }
}

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was asked is done.
    Done,
    /// The command ran and its answer is no: something it checked is broken.
    Failed,
    /// A signal stopped it; a checkpoint is saved.
    Stopped,
}

/// An argument that is wrong in a way only the command can see; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadArgument(pub(crate) String);

/// Refuses an argument or a setting that names what is not there.
fn must_exist(path: &Path) -> Result<(), BadArgument> {
    if path.exists() {
        return Ok(());
    }
    Err(BadArgument(format!("there is no file {}", path.display())))
}

/// The exit code of a command that ended so, after a failure 2 where the arguments or the config are wrong, else 1. Where a
/// thread is left inside a library the process ends here.
pub fn end(ended: &Result<Outcome>) -> ExitCode {
    process::end(match ended {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Failed) => 1,
        Ok(Outcome::Stopped) => 3,
        Err(error) => exit_code(error),
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|cause| {
        let run_dir = cause.downcast_ref::<RunDirError>();
        cause.is::<ConfigError>()
            || cause.is::<BadArgument>()
            || matches!(cause.downcast_ref(), Some(DistError::Environment { .. }))
            // Of a hub id the hub says so, and what it says depends on the network.
            || matches!(cause.downcast_ref(), Some(CheckpointError::NotFound { name, .. }) if !is_hub_id(name))
            || run_dir.is_some_and(RunDirError::is_usage)
            || unusable(cause).is_some_and(is_argument)
    });
    if usage { 2 } else { 1 }
}

/// The file that an error says is not there, or has a name under which it is not read.
fn unusable<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Path> {
    let absent = |error: &'a FileError| error.is_absent().then_some(error.path.as_path());
    if let Some(error) = cause.downcast_ref() {
        return absent(error);
    }
    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(DataError::File(error)), _) => absent(error),
        (Some(DataError::Extension { path, .. }), _)
        | (_, Some(VideoError::NotFound { path } | VideoError::Address { path })) => Some(path),
        _ => None,
    }
}

/// Whether an argument of this process names the file, perhaps a part of the clip that it is.
fn is_argument(path: &Path) -> bool {
    std::env::args_os().skip(1).any(|argument| {
        let argument = argument.to_string_lossy();
        let value = argument
            .split_once('=')
            .map_or(&*argument, |(_, value)| value);
        [&*argument, value]
            .into_iter()
            .any(|named| Path::new(named) == path || Fragment::split(Path::new(named)).0 == path)
    })
}

/// An error and its causes, outermost first, one a line; a cause already said by its parent is left out. Codes of the
/// CUDA libraries are put into words, with what can be done about them.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  because: ");
            text.push_str(&cause);
        }
    }
    console::visible(&device::in_words(&text)).into_owned()
}

/// Parses the arguments and runs the command.
///
/// # Errors
/// Whatever the command fails with; [`end`] ends the process then.
pub fn run() -> Result<Outcome> {
    process::tune_allocator();
    process::tune_threads();
    let cli = usage::parse();
    start_logging();
    if !cli.command.trains() {
        process::end_quietly_on_closed_pipe();
    }
    let ended = match cli.command {
        Command::Init(args) => setup::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::TrainSft(args) => training::sft(&args),
        Command::TrainBias(args) => training::bias(&args),
        Command::TrainGrpo(args) => training::grpo(&args),
        Command::TrainCdpo(args) => training::cdpo(&args),
        Command::Data(args) => data::run(&args),
        Command::Eval(args) => eval::run(*args),
        Command::Study(args) => study::run(&args),
        Command::Ask(args) => ask::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Estimate(args) => estimate::run(&args),
        Command::Completions(args) => completions::print(&args),
        Command::Man(args) => completions::manual(&args),
        Command::Export(args) => export::run(&args),
    };
    match ended {
        Err(error) if is_stop(&error) => {
            tracing::info!("{}", error.root_cause());
            Ok(Outcome::Stopped)
        }
        ended => ended,
    }
}

/// Whether a signal has ended a command.
fn is_stop(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(EvalError::Stopped))
            || matches!(cause.downcast_ref(), Some(CheckpointError::Stopped))
    })
}

/// Logs go to stderr at the level of RUST_LOG (default info; warn for other ranks than 0), and to `log.txt` once a run directory is open.
fn start_logging() {
    let rendezvous = Rendezvous::from_environment(|name| std::env::var(name).ok());
    let level = match rendezvous {
        Ok(Some(rendezvous)) if rendezvous.rank > 0 => "warn",
        _ => "info",
    };
    let filter = || EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = tracing_subscriber::fmt::layer()
        .with_writer(|| console::Stderr)
        .with_ansi(console::has_colours())
        .with_target(false)
        .with_filter(filter().and(filter_fn(|line| line.target() != console::FILE_ONLY)));
    let file = tracing_subscriber::fmt::layer()
        .with_writer(|| console::LogFile)
        .with_ansi(false)
        .with_filter(filter());
    tracing_subscriber::registry()
        .with(terminal)
        .with(file)
        .init();
}
