//! What a run has left that a model card tells.

use crate::cli::BadArgument;
use crate::config::Config;
use crate::config::Verb;
use crate::config::is_hub_id;
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
        let questions = match read_questions(&config.data.questions) {
            Ok(questions) => Some(questions.len()),
            Err(error) => {
                tracing::info!("the card does not count the questions: {error}");
                None
            }
        };
        self.base_model = base_of(&config.model.path);
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

/// The hub id that a model's ancestors go back to.
fn base_of(path: &str) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..STAGES {
        if is_hub_id(&path) {
            let id = path.split_once('@').map_or(path.as_str(), |(id, _)| id);
            return Some(id.to_owned());
        }
        let folder = Path::new(&path);
        if !trainer_folder(folder).join("state.json").is_file() {
            return None;
        }
        let (_, config) = read_state(folder).ok()?;
        path = config.model.path;
    }
    None
}

/// A path as others may read it: a hub id, or the last names of a folder.
pub(super) fn public_name(path: &str) -> String {
    if is_hub_id(path) {
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
