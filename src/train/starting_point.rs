//! How a run begins: from where it goes on, with which questions, and whether its ranks agree.

use super::bias_answers::BiasAnswers;
use super::checkpoint;
use super::checkpoint::Checkpoints;
use super::checkpoint::DrawnQuestions;
use super::checkpoint::TrainerState;
use super::data_loader;
use super::replay::Replayed;
use super::rundir;
use super::rundir::RunDirError;
use super::sft;
use crate::config::BadQuestionPolicy;
use crate::config::Config;
use crate::config::MayDiffer;
use crate::config::TrainedWith;
use crate::config::Verb;
use crate::data::DataError;
use crate::data::Dataset;
use crate::data::Question;
use crate::data::impossible_answers;
use crate::data::read_questions;
use crate::data::unanswerable;
use crate::dist::DistError;
use crate::dist::ProcessGroup;
use crate::model::weights::Depth;
use crate::util::file;
use crate::util::hash::Fnv;
use crate::util::words::counted;
use crate::video;
use anyhow::Context;
use anyhow::Result;
use rayon::iter::IntoParallelRefIterator;
use rayon::iter::ParallelIterator;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr;

/// How a training run is started.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// From where to go on.
    pub(crate) resume: Resume,
    /// Completions of each step, instead of sampling (`train-grpo`, `train-cdpo`).
    pub(crate) replay: Option<PathBuf>,
    /// Whether to go on with other questions than the checkpoint was trained with.
    pub(crate) accept_changed_data: bool,
}

/// From where a run goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Resume {
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

/// What a checkpoint must fit to be gone on from.
pub(super) struct Run<'a> {
    pub(super) config: &'a Config,
    pub(super) checkpoints: &'a Checkpoints,
    pub(super) questions: DrawnQuestions,
    pub(super) answers: Option<&'a BiasAnswers>,
    pub(super) options: &'a RunOptions,
    /// Whether what cannot be used is set aside, or only named.
    pub(super) is_dry: bool,
    /// How thoroughly checkpoints are looked at.
    pub(super) depth: Depth,
}

impl Run<'_> {
    /// The checkpoint to go on from and where it stood; the beginning when there is none.
    ///
    /// # Errors
    /// Other settings, questions or answers than the checkpoint's, or a folder that cannot be gone on from.
    pub(super) fn starting_point(&self) -> Result<(Option<PathBuf>, TrainerState)> {
        let found = match &self.options.resume {
            Resume::Auto => self.newest_usable(0)?,
            Resume::Never => match self.checkpoints.latest()? {
                Some(path) => return Err(self.occupied(path.display().to_string())),
                None => None,
            },
            Resume::From(path) => Some(named_checkpoint(path)?),
        };
        let Some(path) = found else {
            return Ok((None, self.beginning()));
        };
        let (mut state, before) = checkpoint::read_state(&path)?;
        rundir::check_same_config(&path, &before, self.config)?;
        if let (Some(answers), Some(saved)) = (self.answers, state.bias_answers) {
            answers.check_same(saved, &path)?;
        }
        self.check_questions(&path, &state)?;
        state.questions = Some(self.questions);
        let from = path.canonicalize().unwrap_or_else(|_| path.clone());
        let later = match &self.options.resume {
            Resume::From(_) => self.newest_usable(state.step + 1)?,
            _ => None,
        };
        if let Some(later) = later.filter(|later| later.canonicalize().ok().as_ref() != Some(&from))
        {
            return Err(self.occupied(format!(
                "{}, later than {}",
                later.display(),
                path.display()
            )));
        }
        tracing::info!("going on from {} (step {})", path.display(), state.step);
        Ok((Some(path), state))
    }

    fn occupied(&self, checkpoint: String) -> anyhow::Error {
        RunDirError::Occupied {
            path: self.config.output_dir.clone(),
            checkpoint,
        }
        .into()
    }

    /// Where a run begins that goes on from nothing.
    fn beginning(&self) -> TrainerState {
        TrainerState {
            step: 0,
            next_question: 0,
            num_tokens: 0,
            skipped_videos: 0,
            bad_steps: 0,
            kl_coefficient: self.config.kl.coefficient,
            kl_steering: checkpoint::unsteered(),
            bias_answers: self.answers.map(BiasAnswers::fingerprint),
            questions: Some(self.questions),
        }
    }

    /// The newest checkpoint of step `from` or later that can be gone on from. Damaged ones that are newer are set aside.
    ///
    /// # Errors
    /// [`RunDirError::AllDamaged`] where there are checkpoints and none of them can be used.
    fn newest_usable(&self, from: usize) -> Result<Option<PathBuf>> {
        let mut complete = self.checkpoints.complete()?;
        let mut damaged = None;
        while let Some((_, path)) = complete.pop().filter(|(step, _)| *step >= from) {
            let Some(reason) = checkpoint::damage(&path, self.depth) else {
                return Ok(Some(path));
            };
            if self.is_dry {
                tracing::warn!(
                    "{} cannot be gone on from: {reason}. A run gives it a name that ends in .damaged and takes the one before",
                    path.display()
                );
            } else if complete.is_empty() && from == 0 {
                // It stays, for somebody may mend it.
                return Err(RunDirError::AllDamaged { path, reason }.into());
            } else {
                let aside = self.checkpoints.set_aside(&path)?;
                tracing::warn!(
                    "{} cannot be gone on from: {reason}. It is {} now, and the one before it is taken",
                    path.display(),
                    aside.display()
                );
            }
            damaged = Some((path, reason));
        }
        match damaged {
            Some((path, reason)) if from == 0 => {
                Err(RunDirError::AllDamaged { path, reason }.into())
            }
            _ => Ok(None),
        }
    }

    /// Refuses to go on with other questions than those that the checkpoint was trained with, unless that is meant.
    fn check_questions(&self, path: &Path, state: &TrainerState) -> Result<()> {
        let Some(before) = state.questions.filter(|before| *before != self.questions) else {
            return Ok(());
        };
        let changed = RunDirError::DataChanged {
            checkpoint: path.to_path_buf(),
            questions: self.config.data.questions.clone(),
            before: before.count,
            now: self.questions.count,
        };
        if !self.options.accept_changed_data {
            return Err(changed.into());
        }
        tracing::warn!(
            "--accept-changed-data: {} was trained with other questions, {} where there are {} now; their order begins anew",
            path.display(),
            before.count,
            self.questions.count
        );
        Ok(())
    }
}

/// The checkpoint that `--resume` names.
fn named_checkpoint(path: &Path) -> Result<PathBuf> {
    if !file::exists(path)? {
        return Err(RunDirError::NoCheckpoint { path: path.into() }.into());
    }
    let latest = path.join("checkpoints/latest");
    if file::exists(&latest)? {
        let path = path.into();
        return Err(RunDirError::ARun { path, latest }.into());
    }
    path.canonicalize()
        .with_context(|| format!("--resume {}", path.display()))
}

/// The questions of a run; those of `train-sft` have worked answers.
///
/// # Errors
/// A file that cannot be read, or holds a question that is not as it must be.
pub(super) fn load_dataset(config: &Config, verb: Verb) -> Result<Dataset> {
    let path = &config.data.questions;
    let mut questions = read_questions(path)?;
    if verb == Verb::TrainSft {
        questions = sft::with_worked_answers(questions, path)?;
    } else {
        questions = answerable(questions, config)?;
    }
    Ok(Dataset::new(questions, &config.data, config.seed)?)
}

/// Refuses parts of clips that lie behind their clip's end, as far as its head tells. A run meets them one by one.
pub(super) fn check_parts(questions: &[Question]) -> Result<()> {
    let problem = |question: &Question| {
        let error = video::check_part(&question.video).err()?;
        Some((question.id.clone(), error))
    };
    match questions.par_iter().find_map_first(problem) {
        None => Ok(()),
        Some((id, error)) => Err(error).with_context(|| format!("question {id}")),
    }
}

/// The questions for which an answer can be right; those that have none are left out or refused.
fn answerable(mut questions: Vec<Question>, config: &Config) -> Result<Vec<Question>, DataError> {
    let path = &config.data.questions;
    let total = questions.len();
    let found: Vec<_> = questions.par_iter().filter_map(unanswerable).collect();
    let Some(first) = found.first() else {
        return Ok(questions);
    };
    let error = DataError::Unanswerable {
        path: path.clone(),
        unanswerable: found.len(),
        total,
        question: first.question.clone(),
        reason: first.reason.clone(),
    };
    if config.data.on_bad_question == BadQuestionPolicy::Error || found.len() == total {
        return Err(error);
    }
    let ids: BTreeSet<&str> = found.iter().map(|one| one.question.as_str()).collect();
    questions.retain(|question| !ids.contains(question.id.as_str()));
    tracing::warn!(
        "{}: left out, for no answer can be right for them: {}; the first, question {}: {}",
        path.display(),
        counted(found.len(), "question"),
        first.question,
        first.reason
    );
    Ok(questions)
}

/// Says which questions can earn nothing, whatever is answered.
pub(crate) fn warn_of_impossible_answers(questions: &[Question]) {
    let impossible = impossible_answers(questions);
    if let Some(first) = impossible.first() {
        let concerned = impossible.iter().map(|finding| finding.question.as_str());
        tracing::warn!(
            "something is wrong with {} of {} by themselves, and an answer to them may earn nothing (`data check` says what); the first, \
             question {}: {}",
            concerned.collect::<BTreeSet<_>>().len(),
            counted(questions.len(), "question"),
            first.question,
            first.reason
        );
    }
}

/// The same, and where the models have been shown other frames.
pub(super) fn warn_before_training(config: &Config, questions: &[Question]) -> Result<()> {
    warn_of_impossible_answers(questions);
    let bias_model = config.model.bias_model.as_ref();
    let models = [
        ("model.path", Some(&config.model.path)),
        ("model.bias_model", bias_model),
    ];
    for (key, name) in models {
        // One that is still to be downloaded was not trained here.
        let Some(folder) = name.map(Path::new).filter(|name| name.is_dir()) else {
            continue;
        };
        let trained = TrainedWith::read(folder)?;
        let other = trained.map_or_else(Vec::new, |trained| trained.other_frames(config));
        if !other.is_empty() {
            let other: Vec<String> = other.iter().map(ToString::to_string).collect();
            tracing::warn!("{key} was trained with other frames: {}", other.join(", "));
        }
    }
    Ok(())
}

/// The questions of the steps to come.
pub(super) struct Steps<'a> {
    pub(super) questions: Vec<&'a Question>,
    /// What was written to each of them, in a replay.
    pub(super) replayed: Option<Vec<Replayed>>,
    /// The last step.
    pub(super) last: usize,
}

impl<'a> Steps<'a> {
    pub(super) fn in_order(
        dataset: &'a Dataset,
        config: &Config,
        verb: Verb,
        state: &TrainerState,
    ) -> Self {
        let per_step = config.train.questions_per_step;
        let last = config.train.last_step();
        let end = last * per_step;
        let questions = if verb == Verb::TrainSft {
            data_loader::in_clip_order(dataset, config.seed, state.next_question, end)
        } else {
            data_loader::in_order(dataset, state.next_question, end, per_step)
        };
        Self {
            questions,
            replayed: None,
            last,
        }
    }

    /// Without the first `step` steps.
    pub(super) fn after(mut self, step: usize, config: &Config) -> Self {
        let done = (step * config.train.questions_per_step).min(self.questions.len());
        self.questions.drain(..done);
        if let Some(replayed) = &mut self.replayed {
            replayed.drain(..done);
        }
        self
    }

    /// This rank's part of each step's questions.
    pub(super) fn portion(&self, config: &Config, dist: &ProcessGroup) -> Vec<&'a Question> {
        let steps = self.questions.chunks(config.train.questions_per_step);
        steps
            .flat_map(|step| &step[dist.portion(step.len())])
            .copied()
            .collect()
    }
}

/// The questions a replay file names; it ends the run when it has no more steps.
pub(super) fn plan_replay<'a>(
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
    if available < config.train.last_step() {
        tracing::warn!(
            "--replay: the file has completions for {available} steps, so the run ends there and not at train.steps = {}",
            config.train.last_step()
        );
    }
    Ok(Steps {
        questions,
        replayed: Some(replayed),
        last: available.min(config.train.last_step()),
    })
}

/// What all ranks must have alike.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    settings: BTreeMap<String, String>,
    questions: u64,
    bias_answers: Option<u64>,
}

/// Refuses ranks that would train something else than rank 0.
///
/// # Errors
/// [`DistError::Stranger`] names the rank and what differs.
pub(super) fn agree(
    dist: &ProcessGroup,
    config: &Config,
    steps: &Steps,
    answers: Option<&BiasAnswers>,
) -> Result<()> {
    let mut questions = Fnv::default();
    for question in &steps.questions {
        questions.add(question.id.as_bytes());
        questions.add(question.text().as_bytes());
        questions.add(question.solution.as_bytes());
    }
    let all = dist.all_gather(Identity {
        settings: config.flattened(),
        questions: questions.value(),
        bias_answers: answers.map(BiasAnswers::fingerprint),
    })?;
    let first = &all[0];
    for (rank, other) in all.iter().enumerate() {
        let allowed = MayDiffer::Machines;
        let settings = rundir::differences(&first.settings, &other.settings, allowed, None);
        let reason = if !settings.is_empty() {
            format!(
                "its settings differ (was: those of rank 0):\n{}",
                settings.join("\n")
            )
        } else if other.questions != first.questions {
            "its questions are not those of rank 0".to_owned()
        } else if other.bias_answers != first.bias_answers {
            "its answers of the bias model (kl.bias_answers) are not those of rank 0".to_owned()
        } else {
            continue;
        };
        return Err(DistError::Stranger { rank, reason }.into());
    }
    Ok(())
}
