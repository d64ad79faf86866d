//! `init`: from a question file and a card to a config that fits, and the commands that come next.
//! (`inspect model --init`, which makes a random model, is in `init`.)

use super::BadArgument;
use super::Outcome;
use super::output;
use crate::config::Config;
use crate::config::Verb;
use crate::train::estimate::PlannedGpu;
use crate::util::atomic;
use crate::util::file;
use anyhow::Result;
use clap::Args;
use clap::ValueEnum;
use plan::Fit;
use plan::Plan;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;
use wishes::Wishes;

mod next;
mod plan;
mod text;
mod wishes;

pub(super) use next::quoted as shell_quoted;
pub(super) use next::shell as shell_path;

/// Arguments of `init`; what is not given is asked for on a terminal.
#[derive(Debug, Args)]
pub(super) struct SetupArgs {
    /// The file to write (.toml), or a folder for config.toml, or for bias.toml and cdpo.toml
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    path: PathBuf,
    /// Question file: .json (an array) or .jsonl (an object a line)
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Folder that the questions' clip paths are relative to
    #[arg(long, value_name = "DIR")]
    video_root: Option<PathBuf>,
    /// Model to train, a folder or a hub id [default: Qwen/Qwen2.5-VL-3B-Instruct]
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
    /// Where it is to run: h200, h100, a100, a6000, a card's memory such as 24GB, or cpu [default: the card in this machine]
    #[arg(long, value_name = "CARD")]
    card: Option<Target>,
    /// What to train
    #[arg(long, value_enum)]
    stage: Option<Stage>,
    /// Folder for what training writes [default: runs/own]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Ask nothing: take the defaults for what is not given
    #[arg(long)]
    yes: bool,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Plain GRPO on all questions
    Grpo,
    /// Stage 1 alone: the bias model, from observational questions
    Bias,
    /// Both stages: the bias model, then CDPO
    Cdpo,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Grpo => "grpo",
            Self::Bias => "bias",
            Self::Cdpo => "cdpo",
        }
    }
}

/// Where a run is to take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Gpu(PlannedGpu),
    Cpu,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().eq_ignore_ascii_case("cpu") {
            return Ok(Self::Cpu);
        }
        let gpu = text.parse().map(Self::Gpu);
        gpu.map_err(|problem: String| format!("{problem}, nor cpu"))
    }
}

impl Target {
    fn in_words(self) -> String {
        match self {
            Self::Gpu(PlannedGpu::Kind(kind)) => format!("an {}", kind.name()),
            Self::Gpu(PlannedGpu::Memory(bytes)) => {
                format!("a card of {:.0} GB", bytes as f64 / 1e9)
            }
            Self::Cpu => "a CPU".to_owned(),
        }
    }
}

/// A file to be written: its settings, and the command they are for.
struct Written {
    path: PathBuf,
    verb: Verb,
    plan: Plan,
}

impl Written {
    /// Whether it fits, as far as that is known.
    fn may_fit(&self) -> bool {
        self.plan.fit.as_ref().is_none_or(Fit::fits)
    }
}

/// Runs `init`; the command fails where what is written does not fit.
pub(super) fn run(args: &SetupArgs) -> Result<Outcome> {
    // Before anything is asked.
    let given = args.stage.map(|stage| places(&args.path, stage));
    let given = given.transpose()?;
    for (_, path) in given.iter().flatten() {
        refuse_overwriting(path, args.force)?;
    }
    let wishes = Wishes::of(args)?;
    let mut files = Vec::new();
    for (verb, path) in places(&args.path, wishes.stage)? {
        refuse_overwriting(&path, args.force)?;
        let plan = Plan::new(&wishes, verb)?;
        files.push(Written { path, verb, plan });
    }
    for one in &files {
        let folder = one.path.parent().unwrap_or(Path::new(""));
        if !folder.as_os_str().is_empty() {
            file::create_folders(folder)?;
        }
        let text = text::config(&one.plan, &wishes, one.verb, &one.path);
        atomic::write(&one.path, text.as_bytes())?;
    }
    output::text(&next::in_words(&wishes, &files))?;
    Ok(if files.iter().all(Written::may_fit) {
        Outcome::Done
    } else {
        Outcome::Failed
    })
}

/// Which files are written for which commands.
fn places(path: &Path, stage: Stage) -> Result<Vec<(Verb, PathBuf)>> {
    let is_file = path.extension().is_some_and(|end| end == "toml");
    let folder = if path == Path::new(".") {
        Path::new("")
    } else {
        path
    };
    Ok(match stage {
        Stage::Cdpo if is_file => {
            let problem = format!(
                "{}: --stage cdpo writes two files, bias.toml and cdpo.toml: name a folder",
                path.display()
            );
            return Err(BadArgument(problem).into());
        }
        Stage::Cdpo => vec![
            (Verb::TrainBias, folder.join("bias.toml")),
            (Verb::TrainCdpo, folder.join("cdpo.toml")),
        ],
        Stage::Bias if is_file => vec![(Verb::TrainBias, path.to_owned())],
        Stage::Bias => vec![(Verb::TrainBias, folder.join("bias.toml"))],
        Stage::Grpo if is_file => vec![(Verb::TrainGrpo, path.to_owned())],
        Stage::Grpo => vec![(Verb::TrainGrpo, folder.join("config.toml"))],
    })
}

fn refuse_overwriting(path: &Path, force: bool) -> Result<()> {
    if force || !file::exists(path)? {
        return Ok(());
    }
    let problem = format!(
        "{} is there already: name another file or folder, or replace it with --force",
        path.display()
    );
    Err(BadArgument(problem).into())
}

/// The settings that every file has, whatever their defaults are.
const ALWAYS: [&str; 5] = [
    "output_dir",
    "model.path",
    "data.questions",
    "data.video_root",
    "train.steps",
];

/// Settings of `config` to be written: those that always are, and those that are not the default.
fn differing(config: &Config) -> Vec<(&'static str, String)> {
    let (values, defaults) = (config.flattened(), Config::default().flattened());
    let settings = Config::settings().iter();
    let written = settings.filter_map(|setting| {
        let key = setting.key.as_str();
        let value = values.get(key)?;
        let is_empty_root = key == "data.video_root" && value == "\"\"";
        let differs = defaults.get(key) != Some(value) || ALWAYS.contains(&key);
        (differs && !is_empty_root).then(|| (key, value.clone()))
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::estimate::GpuKind;

    #[test]
    fn cards_are_named_or_given_by_their_memory() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(
            target("H100"),
            Ok(Target::Gpu(PlannedGpu::Kind(GpuKind::H100)))
        );
        assert_eq!(
            target("24GB"),
            Ok(Target::Gpu(PlannedGpu::Memory(24_000_000_000)))
        );
        assert_eq!(target("24 gb"), target("24"));
        assert_eq!(target("CPU"), Ok(Target::Cpu));
        for wrong in ["gpu", "0", "-24GB", "nan", "rtx4090", "4090"] {
            assert!(target(wrong).unwrap_err().contains("24GB"), "{wrong}");
        }
    }

    #[test]
    fn two_stages_are_two_files() {
        let names = |path: &str, stage| {
            let places = places(Path::new(path), stage).unwrap();
            let names = places.iter().map(|(_, path)| path.display().to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(".", Stage::Grpo), ["config.toml"]);
        assert_eq!(names("a/own.toml", Stage::Grpo), ["a/own.toml"]);
        assert_eq!(names("a", Stage::Cdpo), ["a/bias.toml", "a/cdpo.toml"]);
        let error = places(Path::new("own.toml"), Stage::Cdpo).unwrap_err();
        assert!(error.to_string().contains("name a folder"), "{error}");
    }
}
