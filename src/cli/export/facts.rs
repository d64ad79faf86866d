//! What a run has left that a model card tells.

use crate::cli::BadArgument;
use crate::config::Config;
use crate::config::Verb;
use crate::config::is_hub_name;
use crate::data::read_questions;
use crate::eval::ScoreFile;
use crate::eval::fingerprint;
use crate::train::checkpoint::read_state;
use crate::train::checkpoint::trainer_folder;
use crate::util::file;
use crate::util::json_lines;
use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use std::path::Path;
use std::path::PathBuf;

/// How many trainings one after the other are followed back to the model that the first began with.
const STAGES: usize = 8;

/// A line of `metrics.jsonl`, as far as a card tells it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct StepLine {
    pub(super) step: usize,
    pub(super) loss: Option<f64>,
    pub(super) reward: Option<f64>,
    #[serde(rename = "rewards/accuracy/mean")]
    pub(super) accuracy: Option<f64>,
    #[serde(rename = "rewards/format/mean")]
    pub(super) format: Option<f64>,
    #[serde(rename = "completions/mean_length")]
    pub(super) length: Option<f64>,
    pub(super) kl: Option<f64>,
}

/// `environment.json` of a run directory, as far as a card tells it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Environment {
    pub(super) videothinker: Option<String>,
    pub(super) commit: Option<String>,
    pub(super) command: Option<String>,
    /// Where the training ran.
    directory: Option<PathBuf>,
    pub(super) device: Option<String>,
    pub(super) ranks: Option<usize>,
}

/// The training that made the model.
#[derive(Debug, Clone)]
pub(super) struct Training {
    pub(super) config: Config,
    pub(super) steps: usize,
    pub(super) verb: Verb,
    pub(super) environment: Environment,
    /// How many questions the file of the questions holds, where it is still there.
    pub(super) questions: Option<usize>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) training: Option<Training>,
    /// The hub id of the model that the first training began with.
    pub(super) base_model: Option<String>,
    pub(super) metrics: Vec<StepLine>,
    pub(super) evaluations: Vec<ScoreFile>,
}

impl Facts {
    /// Of the checkpoint or model folder `source`, and of the evaluations in the folders `evaluations`.
    pub(super) fn gather(source: &Path, evaluations: &[PathBuf]) -> Result<Self> {
        let mut facts = Self::default();
        if trainer_folder(source).join("state.json").is_file() {
            facts.add_training(source)?;
        }
        if evaluations.is_empty() {
            return Ok(facts);
        }
        let weights = fingerprint::of_weights(source)?;
        for folder in evaluations {
            let scores = ScoreFile::read(folder)?;
            if scores.settings.weights != weights {
                return Err(BadArgument(format!(
                    "--eval {}: it is of other weights ({}) than those in {}; evaluate that folder",
                    folder.display(),
                    scores.settings.model,
                    source.display()
                ))
                .into());
            }
            facts.evaluations.push(scores);
        }
        Ok(facts)
    }

    fn add_training(&mut self, checkpoint: &Path) -> Result<()> {
        let (state, config) = read_state(checkpoint)?;
        let run = checkpoint.parent().and_then(Path::parent);
        let mut environment = Environment::default();
        if let Some(run) = run {
            let path = run.join("environment.json");
            if file::exists(&path)? {
                let text = file::read(&path)?;
                environment = serde_json::from_slice(&text)
                    .with_context(|| format!("{}: not what a run writes", path.display()))?;
            }
            let path = run.join("metrics.jsonl");
            if file::exists(&path)? {
                self.metrics = json_lines::read(&path)?;
                self.metrics.retain(|line| line.step <= state.step);
            }
        }
        let places = places_of(checkpoint);
        let questions =
            find(&config.data.questions, &places).and_then(|path| match read_questions(&path) {
                Ok(questions) => Some(questions.len()),
                Err(error) => {
                    tracing::info!("the card does not count the questions: {error}");
                    None
                }
            });
        self.base_model = base_of(&config.model.path, checkpoint);
        self.training = Some(Training {
            verb: verb_of(environment.command.as_deref(), &config),
            steps: state.step,
            environment,
            questions,
            config,
        });
        Ok(())
    }
}

/// The command of the training.
fn verb_of(command: Option<&str>, config: &Config) -> Verb {
    let known = [
        Verb::TrainSft,
        Verb::TrainBias,
        Verb::TrainGrpo,
        Verb::TrainCdpo,
    ];
    let named = known
        .into_iter()
        .find(|verb| Some(verb.as_str()) == command);
    // A checkpoint without its run directory does not say.
    named.unwrap_or(if config.model.bias_model.is_none() {
        Verb::TrainGrpo
    } else {
        Verb::TrainCdpo
    })
}

/// The hub id that a model's ancestors go back to. `path` is what the training of `checkpoint` began with.
fn base_of(path: &str, checkpoint: &Path) -> Option<String> {
    let (mut path, mut checkpoint) = (path.to_owned(), checkpoint.to_owned());
    for _ in 0..STAGES {
        match origin(&path, &places_of(&checkpoint)) {
            Origin::Hub(id) => return Some(id),
            Origin::Folder(folder) if trainer_folder(&folder).join("state.json").is_file() => {
                let (_, config) = read_state(&folder).ok()?;
                // `latest` is a link, and the run lies above what it leads to.
                (path, checkpoint) = (config.model.path, folder.canonicalize().ok()?);
            }
            Origin::Folder(_) | Origin::Unknown => return None,
        }
    }
    None
}

/// What a training began with.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Hub(String),
    Folder(PathBuf),
    Unknown,
}

/// What `path` meant in a training whose relative paths start from one of `places`. Where this program runs says nothing of that.
fn origin(path: &str, places: &[PathBuf]) -> Origin {
    if let Some(folder) = find(Path::new(path), places) {
        return Origin::Folder(folder);
    }
    let owner = path.split('/').next().unwrap_or_default();
    if !is_hub_name(path) || find(Path::new(owner), places).is_some() {
        return Origin::Unknown;
    }
    let id = path.split_once('@').map_or(path, |(id, _)| id);
    Origin::Hub(id.to_owned())
}

/// Where the relative paths of a checkpoint's config may start: where its training ran, else one of the folders it lies in.
fn places_of(checkpoint: &Path) -> Vec<PathBuf> {
    let run = checkpoint.parent().and_then(Path::parent);
    let environment = run.map(|run| run.join("environment.json"));
    let environment = environment.and_then(|path| std::fs::read(path).ok());
    let environment: Option<Environment> =
        environment.and_then(|text| serde_json::from_slice(&text).ok());
    match environment.and_then(|environment| environment.directory) {
        Some(directory) => vec![directory],
        None => checkpoint.ancestors().map(Path::to_owned).collect(),
    }
}

/// The first of `places` that holds `path`, with it; a path that is not relative is itself.
fn find(path: &Path, places: &[PathBuf]) -> Option<PathBuf> {
    let mut candidates = places.iter().map(|place| place.join(path));
    candidates.find(|candidate| candidate.exists())
}

/// A path as others may read it: a hub id, or the last names of a folder.
pub(super) fn public_name(path: &str) -> String {
    if is_hub_name(path) {
        return path.to_owned();
    }
    let names: Vec<&str> = path
        .split(['/', '\\'])
        .filter(|name| !name.is_empty())
        .collect();
    names[names.len().saturating_sub(3)..].join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_model_is_told_from_a_folder_by_where_the_training_ran() {
        let ran_in = tempfile::tempdir().unwrap();
        let base = ran_in.path().join("runs/base");
        std::fs::create_dir_all(&base).unwrap();
        let places = [ran_in.path().to_owned()];
        let qwen = "Qwen/Qwen2.5-VL-3B-Instruct";
        assert_eq!(origin(qwen, &places), Origin::Hub(qwen.to_owned()));
        assert_eq!(
            origin("Qwen/x@main", &places),
            Origin::Hub("Qwen/x".to_owned())
        );
        assert_eq!(origin("runs/base", &places), Origin::Folder(base.clone()));
        assert_eq!(origin("runs/gone", &places), Origin::Unknown);
        assert_eq!(origin("/nowhere/model", &places), Origin::Unknown);
        // `src/cli` is a folder of the directory that this test runs in.
        assert_eq!(
            origin("src/cli", &places),
            Origin::Hub("src/cli".to_owned())
        );
        // Runs of before the directory was recorded lie in it, most of them.
        let checkpoint = ran_in.path().join("runs/own/checkpoints/step-000001");
        let places = places_of(&checkpoint);
        assert_eq!(origin("runs/base", &places), Origin::Folder(base));
        std::fs::create_dir_all(&checkpoint).unwrap();
        let environment = ran_in.path().join("runs/own/environment.json");
        std::fs::write(environment, "{\"directory\": \"/somewhere\"}").unwrap();
        assert_eq!(places_of(&checkpoint), [PathBuf::from("/somewhere")]);
    }

    #[test]
    fn a_path_does_not_say_where_it_lies() {
        assert_eq!(
            public_name("Qwen/Qwen2.5-VL-3B-Instruct"),
            "Qwen/Qwen2.5-VL-3B-Instruct"
        );
        let path = "/home/somebody/secret/runs/bias/checkpoints/step-000500";
        assert_eq!(public_name(path), "bias/checkpoints/step-000500");
        assert_eq!(public_name("data/mini"), "data/mini");
    }
}
