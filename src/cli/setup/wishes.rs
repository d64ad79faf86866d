//! What is wanted: from the arguments, from who sits at the terminal, else by default; and what the questions are like.

use super::SetupArgs;
use super::Stage;
use super::Target;
use crate::cli::BadArgument;
use crate::config::DataConfig;
use crate::config::QuestionKind;
use crate::config::instead_of_weights;
use crate::config::is_hub_id;
use crate::config::where_it_lies;
use crate::data::Fragment;
use crate::data::Question;
use crate::data::locate;
use crate::data::read_questions;
use crate::train::estimate::GpuKind;
use crate::train::estimate::PlannedGpu;
use crate::train::estimate::THREE_BILLION;
use crate::util::machine;
use crate::util::words::counted;
use anyhow::Result;
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// Everything that a config follows from.
pub(super) struct Wishes {
    pub(super) questions_file: PathBuf,
    pub(super) video_root: PathBuf,
    pub(super) model: String,
    pub(super) target: Target,
    pub(super) stage: Stage,
    pub(super) out: PathBuf,
    pub(super) questions: Vec<Question>,
    pub(super) clips: Clips,
}

/// The clips of the questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clips {
    pub(super) count: usize,
    pub(super) missing: usize,
    /// One that is missing.
    pub(super) example: Option<PathBuf>,
}

impl Wishes {
    /// # Errors
    /// [`BadArgument`] where something is missing and nobody can be asked, or does not fit; a question file that cannot be
    /// read.
    pub(super) fn of(args: &SetupArgs) -> Result<Self> {
        let asks = Asks {
            person: !args.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
        };
        let questions_file = asks.questions(args.questions.as_deref())?;
        let questions = read_questions(&questions_file)?;
        let guess = likely_root(&questions_file, &questions);
        let video_root = asks.folder(args.video_root.as_deref(), &guess)?;
        let clips = Clips::of(&questions, &questions_file, &video_root)?;
        say(&format!(
            "{}: {}",
            questions_file.display(),
            describe(&questions, &clips)
        ));
        let model = asks.model(args.model.as_deref())?;
        let target = asks.target(args.card, &model)?;
        let has_kind = count(&questions, QuestionKind::Observational) > 0;
        let stage = asks.stage(args, has_kind)?;
        if stage != Stage::Grpo && !has_kind {
            return Err(BadArgument(format!(
                "--stage {}: no question is labelled `\"kind\": \"observational\"`, and stage 1 learns from those alone: label them \
                 first (videothinker data label), or take --stage grpo, which needs no kinds",
                stage.as_str()
            ))
            .into());
        }
        let out = asks.out(args.out.as_deref())?;
        Ok(Self {
            questions_file,
            video_root,
            model,
            target,
            stage,
            out,
            questions,
            clips,
        })
    }

    /// How many of them are of a kind, of those that `stage 1` or all learn from.
    pub(super) fn count(&self, kind: QuestionKind) -> usize {
        count(&self.questions, kind)
    }
}

fn count(questions: &[Question], kind: QuestionKind) -> usize {
    let of_kind = questions.iter().filter(|one| one.kind == Some(kind));
    of_kind.count()
}

impl Clips {
    fn of(questions: &[Question], file: &Path, root: &Path) -> Result<Self> {
        let config = DataConfig {
            questions: file.to_owned(),
            video_root: root.to_owned(),
            ..DataConfig::default()
        };
        let mut found = questions.to_vec();
        locate(&mut found, &config)?;
        let file = |one: &Question| root.join(Fragment::split(&one.video).0);
        let paths: BTreeSet<PathBuf> = found.iter().map(file).collect();
        let mut missing = paths.iter().filter(|path| !path.exists());
        let example = missing.next().cloned();
        Ok(Self {
            count: paths.len(),
            missing: missing.count() + usize::from(example.is_some()),
            example,
        })
    }
}

/// What the questions are, in a line or two.
fn describe(questions: &[Question], clips: &Clips) -> String {
    let kinds = [QuestionKind::Observational, QuestionKind::Inferential].map(|kind| {
        let number = count(questions, kind);
        (number > 0).then(|| format!("{number} {}", kind.as_str()))
    });
    let kinds: Vec<String> = kinds.into_iter().flatten().collect();
    let kinds = if kinds.is_empty() {
        "none with a kind".to_owned()
    } else {
        kinds.join(", ")
    };
    let mut text = format!(
        "{} ({kinds}) about {}",
        counted(questions.len(), "question"),
        counted(clips.count, "clip")
    );
    if let Some(example) = &clips.example {
        text.push_str(&format!(
            "; missing: {}, such as {}: --video-root is the folder that their paths are relative to",
            counted(clips.missing, "clip"),
            example.display()
        ));
    }
    text
}

/// The folder below which most clips are, among those where they use to lie.
fn likely_root(file: &Path, questions: &[Question]) -> PathBuf {
    let beside = file.parent().unwrap_or(Path::new(""));
    let names = ["videos", "clips", "video", ""];
    let roots = names.map(|name| beside.join(name));
    let found = |root: &PathBuf| {
        let first = questions.iter().take(50);
        let file = |one: &Question| root.join(Fragment::split(&one.video).0);
        first.filter(|one| file(one).exists()).count()
    };
    let best = roots.iter().rev().max_by_key(|root| found(root));
    best.filter(|root| found(root) > 0)
        .cloned()
        .unwrap_or_else(|| beside.join("videos"))
}

/// The card in this machine.
fn card_here() -> Option<Target> {
    let cards = machine::cards();
    let card = cards.first()?;
    let kinds = GpuKind::value_variants().iter().copied();
    let known = kinds
        .into_iter()
        .find(|kind| kind.memory() == card.memory && card.name.contains(kind.name()));
    Some(Target::Gpu(
        known.map_or(PlannedGpu::Memory(card.memory), PlannedGpu::Kind),
    ))
}

/// Whom to ask for what is not given.
struct Asks {
    person: bool,
}

impl Asks {
    fn questions(&self, given: Option<&Path>) -> Result<PathBuf> {
        let there = [
            "questions.jsonl",
            "questions.json",
            "train.jsonl",
            "train.json",
        ];
        let there = there.iter().map(Path::new).find(|path| path.is_file());
        if given.is_none() && !self.person && there.is_none() {
            let problem = "what is to be trained on? Give --questions FILE (.json or .jsonl), or start it in a terminal, where it asks";
            return Err(BadArgument(problem.into()).into());
        }
        let default = there.map(|path| path.display().to_string());
        self.value("question file", given, default.as_deref(), |text| {
            let path = PathBuf::from(text);
            if path.is_file() {
                Ok(path)
            } else {
                Err(format!("there is no file {text}"))
            }
        })
    }

    fn folder(&self, given: Option<&Path>, guess: &Path) -> Result<PathBuf> {
        let guess = guess.display().to_string();
        let guess = if guess.is_empty() { "." } else { &guess };
        self.value("folder of the clips", given, Some(guess), |text| {
            let path = PathBuf::from(text);
            if path.is_dir() {
                Ok(path)
            } else {
                Err(format!(
                    "there is no folder {text} for the clips (--video-root)"
                ))
            }
        })
    }

    fn model(&self, given: Option<&str>) -> Result<String> {
        let given = given.map(Path::new);
        let label = "model, a folder or a hub id";
        self.value(label, given, Some(THREE_BILLION), |text| {
            let folder = Path::new(text);
            if is_hub_id(text) || folder.join("config.json").is_file() {
                return Ok(text.to_owned());
            }
            let latest = folder.join("checkpoints/latest");
            Err(if latest.exists() {
                format!(
                    "{text} is the folder of a run: its model is {}",
                    latest.display()
                )
            } else if folder.is_dir() {
                let found = instead_of_weights(folder);
                let found = found.map_or_else(String::new, |found| format!(": it {found}"));
                format!("the folder {text} has no config.json, so it is no model{found}")
            } else {
                let where_it_lies = where_it_lies(text);
                format!("there is no model folder {text}, and it is no hub id (owner/name){where_it_lies}")
            })
        })
    }

    fn target(&self, given: Option<Target>, model: &str) -> Result<Target> {
        if let Some(given) = given {
            return Ok(given);
        }
        let here = card_here();
        let default = match here {
            Some(Target::Gpu(PlannedGpu::Kind(kind))) => kind
                .to_possible_value()
                .map(|value| value.get_name().to_owned()),
            Some(Target::Gpu(PlannedGpu::Memory(bytes))) => {
                Some(format!("{}GB", bytes / 1_000_000_000))
            }
            _ if super::plan::is_small(model) => Some("cpu".to_owned()),
            _ => None,
        };
        if default.is_none() && !self.person {
            let problem = "no GPU is seen on this machine: say where it is to run, by --card h200, h100, a100 or a6000, by the memory \
                           of the card (--card 24GB), or --card cpu";
            return Err(BadArgument(problem.into()).into());
        }
        let label = "card: h200, h100, a100, a6000, its memory such as 24GB, or cpu";
        self.value(label, None, default.as_deref(), str::parse)
    }

    fn stage(&self, args: &SetupArgs, has_kind: bool) -> Result<Stage> {
        if let Some(given) = args.stage {
            return Ok(given);
        }
        // One file and one command, unless the questions are made for two stages and there is room for two files.
        let is_file = args.path.extension().is_some_and(|end| end == "toml");
        let default = if has_kind && self.person && !is_file {
            "cdpo"
        } else {
            "grpo"
        };
        let label = "grpo (all questions), bias (stage 1 alone) or cdpo (both stages; needs kinds)";
        self.value(label, None, Some(default), |text| {
            Stage::from_str(text, true).map_err(|_| format!("{text} is none of grpo, bias, cdpo"))
        })
    }

    fn out(&self, given: Option<&Path>) -> Result<PathBuf> {
        let label = "folder for what training writes";
        self.value(label, given, Some("runs/own"), |text| {
            Ok(PathBuf::from(text))
        })
    }

    /// What is given, typed in, or by default; a typed answer that does not fit is asked for again.
    fn value<T>(
        &self,
        label: &str,
        given: Option<&Path>,
        default: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T> {
        let refuse = |problem: String| anyhow::Error::from(BadArgument(problem));
        if let Some(given) = given {
            return read(&given.to_string_lossy()).map_err(refuse);
        }
        if !self.person {
            return read(default.unwrap_or_default()).map_err(refuse);
        }
        loop {
            let shown = default.map_or_else(String::new, |default| format!(" [{default}]"));
            let mut stderr = std::io::stderr();
            write!(stderr, "{label}{shown}: ")?;
            stderr.flush()?;
            let mut line = String::new();
            if std::io::stdin().read_line(&mut line)? == 0 {
                return Err(refuse(format!("nothing was answered to: {label}")));
            }
            let typed = line.trim();
            let text = if typed.is_empty() {
                default.unwrap_or_default()
            } else {
                typed
            };
            match read(text) {
                Ok(value) => return Ok(value),
                Err(problem) => say(&problem),
            }
        }
    }
}

/// A line to whom is asked.
fn say(line: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}
