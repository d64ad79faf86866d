//! What a training did: sums of each step, read from its run directory.

use super::error::StudyError;
use super::file::Kind;
use super::file::RatioPlan;
use super::tokens;
use crate::config::QuestionKind;
use crate::util::file;
use crate::util::json_lines;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// A finished training.
#[derive(Debug, Clone, Default)]
pub(super) struct Training {
    /// By step, counted from 1.
    pub(super) steps: BTreeMap<usize, Step>,
    /// Whether its completions come with log-ratios.
    pub(super) has_ratios: bool,
    /// Whether its settings say how many steps it was to take.
    pub(super) is_planned: bool,
}

/// The sums of a step.
#[derive(Debug, Clone, Default)]
pub(super) struct Step {
    /// Tokens processed so far.
    pub(super) num_tokens: u64,
    /// Mean divergence from the bias model per token: observational, inferential, all.
    pub(super) kl: [Option<f64>; 3],
    /// Completions: observational, inferential, all.
    pub(super) completions: [Completions; 3],
    /// Tokens of each kind of the study's, the last being all others.
    pub(super) ratios: Vec<Sum>,
}

/// Sums over completions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Completions {
    pub(super) count: f64,
    /// Right ones, as the reward counts.
    pub(super) accuracy: f64,
    pub(super) thinking: f64,
    pub(super) tokens: f64,
}

/// Values added up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) count: f64,
    pub(super) sum: f64,
}

/// Why a training is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// There is none.
    Missing,
    Unfinished {
        done: usize,
        of: usize,
    },
}

/// A line of `metrics.jsonl`, as far as it is needed.
#[derive(Deserialize)]
struct MetricsLine {
    step: usize,
    #[serde(default)]
    num_tokens: u64,
    kl: Option<f64>,
    #[serde(rename = "kl/observational")]
    kl_observational: Option<f64>,
    #[serde(rename = "kl/inferential")]
    kl_inferential: Option<f64>,
}

/// A line of `rollouts.jsonl`, likewise.
#[derive(Deserialize)]
struct RolloutLine<'a> {
    step: usize,
    kind: Option<QuestionKind>,
    accuracy: f64,
    #[serde(borrow)]
    completion: Cow<'a, str>,
    completion_tokens: f64,
}

/// The same where log-ratios are asked for.
#[derive(Deserialize)]
struct RatioLine<'a> {
    #[serde(borrow, default)]
    tokens: Option<Vec<Cow<'a, str>>>,
    /// `null` where one is not finite.
    #[serde(default)]
    log_ratios: Option<Vec<Option<f64>>>,
}

impl Training {
    /// Reads the run directory `run`. An answer that contains `thinks` thinks; `ratios` are read where they are asked for.
    pub(super) fn read(
        run: &Path,
        thinks: Option<&str>,
        ratios: Option<&RatioPlan>,
    ) -> Result<Result<Self, Absent>, StudyError> {
        let path = run.join("metrics.jsonl");
        if !file::exists(&path)? {
            return Ok(Err(Absent::Missing));
        }
        let mut training = Self::default();
        for line in json_lines::read::<MetricsLine>(&path)? {
            let step = Step {
                num_tokens: line.num_tokens,
                kl: [line.kl_observational, line.kl_inferential, line.kl],
                ..Step::default()
            };
            training.steps.insert(line.step, step);
        }
        let done = training.last_step();
        let planned = planned_steps(run)?;
        training.is_planned = planned.is_some();
        match planned {
            Some(of) if done < of => return Ok(Err(Absent::Unfinished { done, of })),
            _ if done == 0 => return Ok(Err(Absent::Missing)),
            _ => training.read_rollouts(&run.join("rollouts.jsonl"), thinks, ratios)?,
        }
        Ok(Ok(training))
    }

    fn read_rollouts(
        &mut self,
        path: &Path,
        thinks: Option<&str>,
        ratios: Option<&RatioPlan>,
    ) -> Result<(), StudyError> {
        if !file::exists(path)? {
            return Ok(());
        }
        let mut number = 0;
        let mut uneven = None;
        json_lines::visit(path, |bytes| {
            number += 1;
            let line: RolloutLine<'_> = serde_json::from_slice(bytes)?;
            // What a run that was stopped has written beyond its last step is not part of it.
            let Some(step) = self.steps.get_mut(&line.step) else {
                return Ok(());
            };
            let thinking = thinks.is_some_and(|text| line.completion.contains(text));
            for (sums, kind) in step.completions.iter_mut().zip(Kind::EVERY) {
                if kind.includes(line.kind) {
                    sums.count += 1.0;
                    sums.accuracy += line.accuracy;
                    sums.thinking += f64::from(u8::from(thinking));
                    sums.tokens += line.completion_tokens;
                }
            }
            let Some(plan) = ratios else { return Ok(()) };
            let line: RatioLine<'_> = serde_json::from_slice(bytes)?;
            let (Some(texts), Some(values)) = (line.tokens, line.log_ratios) else {
                return Ok(());
            };
            if texts.len() != values.len() {
                uneven.get_or_insert((number, texts.len(), values.len()));
                return Ok(());
            }
            self.has_ratios = true;
            step.ratios.resize(plan.kinds.len() + 1, Sum::default());
            for (kind, value) in tokens::kinds(&texts, &plan.kinds).into_iter().zip(values) {
                if let Some(value) = value {
                    step.ratios[kind].count += 1.0;
                    step.ratios[kind].sum += value;
                }
            }
            Ok(())
        })?;
        match uneven {
            None => Ok(()),
            Some((line, tokens, ratios)) => Err(StudyError::Ratios {
                path: path.to_owned(),
                line,
                tokens,
                ratios,
            }),
        }
    }

    pub(super) fn last_step(&self) -> usize {
        self.steps.last_key_value().map_or(0, |(step, _)| *step)
    }

    /// Whether it samples completions; a warm start does not.
    pub(super) fn samples(&self) -> bool {
        self.steps
            .values()
            .any(|step| step.completions[2].count > 0.0)
    }

    /// The first `window` steps.
    pub(super) fn first(&self, window: usize) -> Vec<&Step> {
        self.steps.range(..=window).map(|(_, step)| step).collect()
    }

    /// The last `window` steps.
    pub(super) fn last(&self, window: usize) -> Vec<&Step> {
        self.up_to(self.last_step(), window)
    }

    /// The last `window` steps before more than `tokens` are processed.
    pub(super) fn at_tokens(&self, tokens: u64, window: usize) -> Vec<&Step> {
        let within = self
            .steps
            .iter()
            .filter(|(_, step)| step.num_tokens <= tokens);
        let last = within.map(|(number, _)| *number).max().unwrap_or(0);
        self.up_to(last, window)
    }

    /// The `window` steps that end with `last`.
    fn up_to(&self, last: usize, window: usize) -> Vec<&Step> {
        let first = last.saturating_add(1).saturating_sub(window);
        self.steps
            .range(first..=last)
            .map(|(_, step)| step)
            .collect()
    }

    /// Prompt and completion tokens of the whole training.
    pub(super) fn total_tokens(&self) -> u64 {
        self.steps
            .values()
            .map(|step| step.num_tokens)
            .max()
            .unwrap_or(0)
    }
}

/// The steps that the run was to take; none where it does not say.
fn planned_steps(run: &Path) -> Result<Option<usize>, StudyError> {
    let path = run.join("config.toml");
    if !file::exists(&path)? {
        return Ok(None);
    }
    // Other versions of the program have other settings: no more is asked of the file than its steps.
    let table = file::read_to_string(&path)?.parse::<toml::Table>().ok();
    let of = |key: &str| {
        let value = table.as_ref()?.get("train")?.get(key)?.as_integer()?;
        usize::try_from(value).ok()
    };
    let steps = of("steps");
    Ok(steps.map(|steps| of("stop_after").map_or(steps, |stop| stop.min(steps))))
}

/// The mean that `sum` and `count` give over steps; none of nothing.
pub(super) fn ratio<'a>(steps: &[&'a Step], sums: impl Fn(&'a Step) -> (f64, f64)) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for step in steps {
        let (more, many) = sums(step);
        sum += more;
        count += many;
    }
    (count > 0.0).then(|| sum / count)
}
