//! The runs of a study as they lie in its folder: `seed-N/NAME`, `seed-N/eval/NAME`, `seed-N/sampled/NAME`.

use super::error::StudyError;
use super::file::RatioPlan;
use super::file::Row;
use super::file::StudyFile;
use super::training::Absent;
use super::training::Training;
use crate::config::QuestionKind;
use crate::data::answer::AnswerRule;
use crate::eval::EvalError;
use crate::eval::Settings;
use crate::eval::prediction::Prediction;
use crate::eval::stored;
use crate::util::file;
use crate::util::file::FileError;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Runs {
    /// By seed, each with the study's rows in their order.
    pub(super) seeds: Vec<(u64, Vec<RowRuns>)>,
    /// What is missing or unfinished, a line each.
    pub(super) missing: Vec<String>,
}

/// A row in one seed.
#[derive(Debug)]
pub(super) struct RowRuns {
    pub(super) training: Result<Training, Absent>,
    pub(super) greedy: Option<Evaluation>,
    pub(super) sampled: Option<Evaluation>,
    /// Whether there is a folder of its greedy and of its sampled evaluation, finished or not.
    begun: [bool; 2],
}

/// A finished evaluation.
#[derive(Debug)]
pub(super) struct Evaluation {
    pub(super) path: PathBuf,
    pub(super) settings: Settings,
    pub(super) answers: Vec<Answer>,
}

/// One answer to one question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// The question's id.
    pub(super) id: String,
    pub(super) video: String,
    pub(super) kind: Option<QuestionKind>,
    pub(super) exact: f64,
    pub(super) thinks: bool,
}

impl Runs {
    /// Reads the folder `path` of a study.
    pub(super) fn read(study: &StudyFile, path: &Path) -> Result<Self, StudyError> {
        let folders = seed_folders(path)?;
        let parts: Vec<(&Path, &Row)> = folders
            .iter()
            .flat_map(|(_, folder)| study.rows.iter().map(|row| (folder.as_path(), row)))
            .collect();
        let read: Vec<RowRuns> = parts
            .into_par_iter()
            .map(|(folder, row)| RowRuns::read(study, folder, row))
            .collect::<Result<_, _>>()?;
        let mut read = read.into_iter();
        let rows = study.rows.len();
        let seeds = folders
            .iter()
            .map(|(seed, _)| (*seed, read.by_ref().take(rows).collect()))
            .collect();
        let mut runs = Self {
            seeds,
            missing: Vec::new(),
        };
        runs.missing = runs.find_missing(study);
        Ok(runs)
    }

    /// Seeds that were asked the same questions, whose differences do not cover the choice of questions.
    pub(super) fn equal_questions(&self) -> Option<String> {
        let mut asked: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (seed, rows) in &self.seeds {
            if let Some(evaluation) = rows.iter().find_map(|runs| runs.greedy.as_ref()) {
                let hash = evaluation.settings.questions_hash.as_str();
                asked.entry(hash).or_default().push(seed.to_string());
            }
        }
        let equal = asked.into_values().find(|seeds| seeds.len() > 1)?;
        Some(format!(
            "seeds {} were asked the same questions: their intervals cover other trainings, not other questions",
            equal.join(", ")
        ))
    }

    /// Trainings that are not what a reader expects: without records, of other lengths than in other seeds, too short.
    fn training_notes(&self, study: &StudyFile) -> Vec<String> {
        let mut notes = Vec::new();
        for (index, row) in study.rows.iter().enumerate() {
            let trained = self.row(index).filter_map(|(seed, runs)| {
                let training = runs.training.as_ref().ok()?;
                Some((seed, training))
            });
            let trained: Vec<(u64, &Training)> = trained.collect();
            let label = &row.label;
            let any_samples = trained.iter().any(|(_, one)| one.samples());
            let mut seeds_of: BTreeMap<usize, Vec<String>> = BTreeMap::new();
            for (seed, training) in &trained {
                let steps = training.last_step();
                seeds_of.entry(steps).or_default().push(seed.to_string());
                if any_samples && !training.samples() {
                    notes.push(format!(
                        "seed {seed}, {label}: no completions in its rollouts.jsonl, so nothing is said of its training"
                    ));
                }
                if !training.is_planned {
                    notes.push(format!(
                        "seed {seed}, {label}: no train.steps in its config.toml, so whether its {steps} steps are all is not known"
                    ));
                }
            }
            if let Some(steps) = seeds_of.keys().find(|steps| **steps < 2 * study.window()) {
                notes.push(format!(
                    "{label}: the first and the last {} of {steps} steps overlap",
                    study.window()
                ));
            }
            if seeds_of.len() > 1 {
                let lengths = seeds_of
                    .iter()
                    .map(|(steps, seeds)| format!("{steps} steps in {}", in_words(seeds)));
                notes.push(format!(
                    "{label} is trained for different lengths: {}",
                    lengths.collect::<Vec<_>>().join("; ")
                ));
            }
        }
        notes
    }

    /// Trained rows that are the same model in several seeds, and evaluations and trainings that are not what they seem.
    pub(super) fn notes(&self, study: &StudyFile) -> Vec<String> {
        let mut notes = self.training_notes(study);
        for (index, row) in study.rows.iter().enumerate() {
            let mut seeds_of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (seed, runs) in self.row(index) {
                let Some(evaluation) = &runs.greedy else {
                    continue;
                };
                let settings = &evaluation.settings;
                if settings.temperature > 0.0 {
                    notes.push(format!(
                        "seed {seed}, {}: sampled at temperature {}, although it stands under eval/",
                        row.label, settings.temperature
                    ));
                }
                if runs.training.is_ok() {
                    let seeds = seeds_of.entry(settings.weights.as_str()).or_default();
                    seeds.push(seed.to_string());
                }
            }
            for seeds in seeds_of.into_values().filter(|seeds| seeds.len() > 1) {
                notes.push(format!(
                    "{} is the same model in seeds {}: they are one training, not several",
                    row.label,
                    seeds.join(", ")
                ));
            }
        }
        notes
    }

    /// A row in every seed.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = (u64, &RowRuns)> {
        self.seeds
            .iter()
            .map(move |(seed, rows)| (*seed, &rows[row]))
    }

    /// A row's finished trainings that sample completions.
    pub(super) fn trainings(&self, row: usize) -> impl Iterator<Item = (u64, &Training)> {
        self.row(row).filter_map(|(seed, runs)| {
            let training = runs.training.as_ref().ok()?;
            training.samples().then_some((seed, training))
        })
    }

    /// Rows without anything, and what one seed lacks of another's. A training or sampled answers are missed only where another
    /// seed of the row has them.
    fn find_missing(&self, study: &StudyFile) -> Vec<String> {
        let begun = |index: usize| self.row(index).any(|(_, runs)| runs.has_begun());
        let rows = study.rows.iter().enumerate();
        let absent: Vec<&str> = rows
            .filter(|(index, _)| !begun(*index))
            .map(|(_, row)| row.label.as_str())
            .collect();
        let mut lines = Vec::new();
        if !absent.is_empty() {
            lines.push(format!("in no seed: {}", absent.join("; ")));
        }
        for (index, row) in study.rows.iter().enumerate() {
            if begun(index) {
                lines.extend(self.missing_of(index, row));
            }
        }
        lines
    }

    /// What seeds lack of a row that others have, a line for all that lack the same.
    fn missing_of(&self, index: usize, row: &Row) -> Vec<String> {
        let others = || self.row(index).map(|(_, other)| other);
        let is_trained = others().any(|other| !matches!(other.training, Err(Absent::Missing)));
        let is_sampled = others().any(|other| other.begun[1]);
        let mut lacks: Vec<(String, &str, Vec<u64>)> = Vec::new();
        for (seed, runs) in self.row(index) {
            let mut add = |what: String, folder: &'static str| match lacks
                .iter_mut()
                .find(|(other, ..)| *other == what)
            {
                Some((.., seeds)) => seeds.push(seed),
                None => lacks.push((what, folder, vec![seed])),
            };
            if !runs.has_begun() {
                let folder = if is_trained { "" } else { "eval/" };
                add("nothing yet".to_owned(), folder);
                continue;
            }
            match runs.training {
                Err(Absent::Unfinished { done, of }) => {
                    add(format!("training at step {done} of {of}"), "");
                }
                Err(Absent::Missing) if is_trained => add("no training".to_owned(), ""),
                _ => {}
            }
            match runs.greedy {
                None if runs.begun[0] => add("evaluation not finished".to_owned(), "eval/"),
                None => add("no evaluation".to_owned(), "eval/"),
                Some(_) => {}
            }
            match runs.sampled {
                None if runs.begun[1] => {
                    add("sampled evaluation not finished".to_owned(), "sampled/");
                }
                None if is_sampled => add("no sampled evaluation".to_owned(), "sampled/"),
                _ => {}
            }
        }
        let (name, label) = (row.name.get_ref(), &row.label);
        let line = |(what, folder, seeds): (String, &str, Vec<u64>)| match seeds.as_slice() {
            [seed] => format!("{label}: {what} in seed {seed} (seed-{seed}/{folder}{name})"),
            seeds => {
                let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
                let seeds = in_words(&seeds);
                format!("{label}: {what} in {seeds} (seed-N/{folder}{name})")
            }
        };
        lacks.into_iter().map(line).collect()
    }
}

impl RowRuns {
    /// Whether there is anything of it.
    fn has_begun(&self) -> bool {
        let trained = !matches!(self.training, Err(Absent::Missing));
        trained || self.begun.contains(&true)
    }

    fn read(study: &StudyFile, folder: &Path, row: &Row) -> Result<Self, StudyError> {
        let (name, thinks) = (row.name.get_ref(), study.thinks.as_deref());
        let of_row = |plan: &&RatioPlan| plan.row.get_ref() == name;
        let ratios = study.ratios.as_ref().filter(of_row);
        let greedy = folder.join("eval").join(name);
        let sampled = folder.join("sampled").join(name);
        Ok(Self {
            training: Training::read(&folder.join(name), thinks, ratios)?,
            begun: [file::exists(&greedy)?, file::exists(&sampled)?],
            greedy: Evaluation::read(greedy, thinks)?,
            sampled: Evaluation::read(sampled, thinks)?,
        })
    }
}

impl Evaluation {
    /// Reads the evaluation in the folder `path`; none where there is no finished one.
    fn read(path: PathBuf, thinks: Option<&str>) -> Result<Option<Self>, StudyError> {
        if !file::exists(&path)? {
            return Ok(None);
        }
        let (scores, predictions) = match stored::read(&path) {
            Err(EvalError::NotFinished { .. } | EvalError::NotAnEvaluation { .. }) => {
                return Ok(None);
            }
            read => read?,
        };
        let rule = scores.settings.rule();
        let answers = predictions
            .iter()
            .flat_map(|one| answers(one, rule, thinks))
            .collect();
        Ok(Some(Self {
            path,
            settings: scores.settings,
            answers,
        }))
    }
}

/// What was answered to a question. Of several samples each is an answer, not what most of them say.
fn answers(prediction: &Prediction, rule: AnswerRule, thinks: Option<&str>) -> Vec<Answer> {
    let answer = |one: &Prediction| Answer {
        id: one.id.clone(),
        video: one.video.clone(),
        kind: one.kind,
        exact: one.exact,
        thinks: thinks.is_some_and(|text| {
            let mut samples = one.samples.iter();
            samples.any(|sample| sample.completion.contains(text))
        }),
    };
    if prediction.samples.len() < 2 {
        return vec![answer(prediction)];
    }
    let samples = prediction.samples.iter().map(|sample| {
        let mut one = Prediction {
            samples: vec![sample.clone()],
            ..prediction.clone()
        };
        one.score(rule);
        answer(&one)
    });
    samples.collect()
}

/// `seed 1`, or `seeds 1, 2`.
fn in_words(seeds: &[String]) -> String {
    let plural = if seeds.len() == 1 { "" } else { "s" };
    format!("seed{plural} {}", seeds.join(", "))
}

/// The folders `seed-N` in order of N.
fn seed_folders(path: &Path) -> Result<Vec<(u64, PathBuf)>, StudyError> {
    let reading = |error| FileError::reading(path, error);
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(path).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let name = entry.file_name();
        let seed = name.to_str().and_then(|name| name.strip_prefix("seed-"));
        // `seed-01` would be a second seed 1.
        if let Some((seed, text)) = seed.and_then(|text| Some((text.parse::<u64>().ok()?, text)))
            && seed.to_string() == text
        {
            let folder = entry.path();
            let metadata = std::fs::metadata(&folder);
            let metadata = metadata.map_err(|error| FileError::reading(&folder, error))?;
            if metadata.is_dir() {
                folders.push((seed, folder));
            }
        }
    }
    if folders.is_empty() {
        return Err(StudyError::NoSeeds {
            path: path.to_owned(),
        });
    }
    folders.sort();
    Ok(folders)
}
