//! What a row comes to: its answers and its training, as means over seeds.

use super::file::Kind;
use super::file::StudyFile;
use super::interval::Estimate;
use super::runs::Answer;
use super::runs::Evaluation;
use super::runs::RowRuns;
use super::runs::Runs;
use super::training::Completions;
use super::training::Step;
use super::training::Training;
use super::training::ratio;
use crate::eval::score;
use serde::Serialize;
use std::collections::BTreeMap;

/// A row of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RowSummary {
    pub(crate) name: String,
    pub(crate) label: String,
    /// Seeds with a finished evaluation.
    pub(crate) seeds: usize,
    pub(crate) greedy: Option<AnswerSummary>,
    pub(crate) sampled: Option<AnswerSummary>,
    pub(crate) training: Option<TrainingSummary>,
}

/// One value for each kind of question.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ByKind<T> {
    pub(crate) observational: T,
    pub(crate) inferential: T,
    pub(crate) all: T,
}

impl<T> ByKind<T> {
    fn of(mut value: impl FnMut(Kind) -> T) -> Self {
        Self {
            observational: value(Kind::Observational),
            inferential: value(Kind::Inferential),
            all: value(Kind::All),
        }
    }

    /// The value of one kind.
    pub(crate) fn get(&self, kind: Kind) -> &T {
        match kind {
            Kind::Observational => &self.observational,
            Kind::Inferential => &self.inferential,
            Kind::All => &self.all,
        }
    }
}

/// By kind, where there are such questions.
pub(crate) type Estimates = ByKind<Option<Estimate>>;

/// Answers to the evaluation's questions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AnswerSummary {
    pub(crate) seeds: usize,
    /// Exact accuracy.
    pub(crate) accuracy: Estimates,
    /// What is said of thinking, where the study says what thinks.
    #[serde(flatten)]
    pub(crate) thinking: Option<ThinkingSummary>,
}

/// Which answers think, and what that is worth.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ThinkingSummary {
    /// Share of answers that think.
    #[serde(rename = "thinking")]
    pub(crate) share: Estimates,
    pub(crate) accuracy_thinking: Estimates,
    pub(crate) accuracy_not_thinking: Estimates,
}

/// A training from its first to its last steps.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TrainingSummary {
    pub(crate) seeds: usize,
    pub(crate) first: WindowSummary,
    pub(crate) last: WindowSummary,
    /// Before the smallest number of tokens that a compared row of the seed ends with is passed.
    pub(crate) equal_tokens: Option<WindowSummary>,
    /// Divergence from the bias model per token in the last steps, nats.
    pub(crate) kl: Estimates,
    /// Prompt and completion tokens of the whole training.
    pub(crate) total_tokens: Option<Estimate>,
    /// Completion tokens of a step, mean over the training.
    pub(crate) completion_tokens_per_step: Option<Estimate>,
}

/// Some steps of a training.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct WindowSummary {
    /// Of sampled completions, as the reward counts.
    pub(crate) accuracy: Estimates,
    pub(crate) thinking: Option<Estimates>,
    pub(crate) tokens_per_completion: Estimates,
}

/// Every row of the study.
pub(super) fn rows(study: &StudyFile, runs: &Runs) -> Vec<RowSummary> {
    let limits = token_limits(study, runs);
    let summarise = |(index, row): (usize, &super::file::Row)| {
        let evaluations = |of: fn(&RowRuns) -> Option<&Evaluation>| -> Vec<(u64, &Evaluation)> {
            let row = runs.row(index);
            row.filter_map(|(seed, runs)| Some((seed, of(runs)?)))
                .collect()
        };
        let greedy = evaluations(|runs| runs.greedy.as_ref());
        let sampled = evaluations(|runs| runs.sampled.as_ref());
        let trainings: Vec<(u64, &Training)> = runs.trainings(index).collect();
        RowSummary {
            name: row.name.get_ref().clone(),
            label: row.label.clone(),
            seeds: greedy.len(),
            greedy: answers(study, &greedy),
            sampled: answers(study, &sampled),
            training: training(study, &trainings, &limits),
        }
    };
    study.rows.iter().enumerate().map(summarise).collect()
}

/// By seed, the smallest number of tokens that a row of the comparisons is trained with.
fn token_limits(study: &StudyFile, runs: &Runs) -> BTreeMap<u64, u64> {
    let compared = study.comparisons.iter();
    let compared = compared.flat_map(|plan| [&plan.first, &plan.second]);
    let mut limits = BTreeMap::new();
    for (seed, training) in compared.flat_map(|name| runs.trainings(study.index(name))) {
        let tokens = training.total_tokens();
        let limit = limits.entry(seed).or_insert(tokens);
        *limit = tokens.min(*limit);
    }
    limits
}

fn answers(study: &StudyFile, evaluations: &[(u64, &Evaluation)]) -> Option<AnswerSummary> {
    let thinks = |one: &Answer| f64::from(u8::from(one.thinks));
    let over = |chosen: fn(&Answer) -> bool, value: fn(&Answer) -> f64| {
        ByKind::of(|kind| {
            mean_of_answers(evaluations, |one| {
                (kind.includes(one.kind) && chosen(one)).then(|| value(one))
            })
        })
    };
    (!evaluations.is_empty()).then(|| AnswerSummary {
        seeds: evaluations.len(),
        accuracy: over(|_| true, |one| one.exact),
        thinking: study.thinks.as_ref().map(|_| ThinkingSummary {
            share: over(|_| true, thinks),
            accuracy_thinking: over(|one| one.thinks, |one| one.exact),
            accuracy_not_thinking: over(|one| !one.thinks, |one| one.exact),
        }),
    })
}

/// The mean over seeds of the mean over those answers that have a value.
fn mean_of_answers(
    evaluations: &[(u64, &Evaluation)],
    value: impl Fn(&Answer) -> Option<f64>,
) -> Option<Estimate> {
    let mut within = None;
    let means = evaluations.iter().filter_map(|(seed, evaluation)| {
        let answers = evaluation.answers.iter();
        let values: Vec<(&str, f64)> = answers
            .filter_map(|one| Some((one.video.as_str(), value(one)?)))
            .collect();
        if values.is_empty() {
            return None;
        }
        let mean = score::clustered_mean(values.into_iter());
        within = mean.half_width;
        Some((*seed, mean.mean))
    });
    let means: Vec<(u64, f64)> = means.collect();
    Estimate::over_seeds_or_questions(means, within)
}

fn training<'a>(
    study: &StudyFile,
    trainings: &[(u64, &'a Training)],
    limits: &BTreeMap<u64, u64>,
) -> Option<TrainingSummary> {
    let steps = study.window();
    let thinks = study.thinks.is_some();
    let window = |chosen: &dyn Fn(u64, &'a Training) -> Vec<&'a Step>| {
        let windows: Vec<(u64, Vec<&Step>)> = trainings
            .iter()
            .map(|(seed, training)| (*seed, chosen(*seed, training)))
            .collect();
        window_summary(&windows, thinks)
    };
    let over = |value: &dyn Fn(&Training) -> Option<f64>| {
        let values = trainings.iter();
        Estimate::over_seeds(values.filter_map(|(seed, training)| Some((*seed, value(training)?))))
    };
    let has_limit = trainings.iter().any(|(seed, _)| limits.contains_key(seed));
    (!trainings.is_empty()).then(|| TrainingSummary {
        seeds: trainings.len(),
        first: window(&|_, training| training.first(steps)),
        last: window(&|_, training| training.last(steps)),
        equal_tokens: has_limit.then(|| {
            window(&|seed, training| match limits.get(&seed) {
                Some(limit) => training.at_tokens(*limit, steps),
                None => Vec::new(),
            })
        }),
        kl: ByKind::of(|kind| {
            over(&|training| {
                ratio(&training.last(steps), |step| {
                    step.kl[kind.place()].map_or((0.0, 0.0), |kl| (kl, 1.0))
                })
            })
        }),
        total_tokens: over(&|training| Some(training.total_tokens() as f64)),
        completion_tokens_per_step: over(&|training| {
            let steps: Vec<&Step> = training.steps.values().collect();
            ratio(&steps, |step| (step.completions[2].tokens, 1.0))
        }),
    })
}

fn window_summary(windows: &[(u64, Vec<&Step>)], thinks: bool) -> WindowSummary {
    let over = |value: fn(&Completions) -> f64| {
        ByKind::of(|kind| {
            Estimate::over_seeds(windows.iter().filter_map(|(seed, steps)| {
                let mean = ratio(steps, |step| {
                    let sums = &step.completions[kind.place()];
                    (value(sums), sums.count)
                });
                Some((*seed, mean?))
            }))
        })
    };
    WindowSummary {
        accuracy: over(|sums| sums.accuracy),
        thinking: thinks.then(|| over(|sums| sums.thinking)),
        tokens_per_completion: over(|sums| sums.tokens),
    }
}
