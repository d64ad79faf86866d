//! What is drawn: trainings over their steps, sweeps over a setting, log-ratios by kind of token.

use super::file::CurvePlan;
use super::file::Kind;
use super::file::RatioPlan;
use super::file::StudyFile;
use super::file::SweepPlan;
use super::file::SweepSeries;
use super::interval::Estimate;
use super::runs::Runs;
use super::summary::RowSummary;
use super::training::Completions;
use super::training::Step;
use super::training::ratio;
use serde::Serialize;
use std::collections::BTreeSet;
use toml::Spanned;

/// The kinds that have a panel each.
pub(super) const PANELS: [Kind; 2] = [Kind::Observational, Kind::Inferential];

/// Rows over the steps of their trainings.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CurveFigure {
    pub(crate) accuracy: Vec<Curve>,
    /// Empty where the study does not say what thinks.
    pub(crate) thinking: Vec<Curve>,
}

/// A row's values on one kind of question.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) kind: Kind,
    pub(crate) points: Vec<CurvePoint>,
}

/// The mean of some steps.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CurvePoint {
    /// The middle of the steps.
    pub(crate) step: f64,
    #[serde(flatten)]
    pub(crate) estimate: Estimate,
}

/// Rows over a setting.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sweep {
    pub(crate) title: String,
    pub(crate) axis: String,
    #[serde(skip)]
    pub(crate) log: bool,
    pub(crate) series: Vec<SweepCurve>,
}

/// Rows that are joined, on one kind of question.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SweepCurve {
    pub(crate) label: String,
    pub(crate) kind: Kind,
    pub(crate) points: Vec<SweepPoint>,
}

/// A row in a sweep.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SweepPoint {
    pub(crate) value: f64,
    pub(crate) row: String,
    #[serde(flatten)]
    pub(crate) estimate: Estimate,
}

/// Where repulsion acts.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RatioFigure {
    /// The row.
    pub(crate) label: String,
    pub(crate) seeds: usize,
    /// The study's kinds, then all other tokens.
    pub(crate) kinds: Vec<RatioOfKind>,
}

/// The tokens of one kind: mean log p − log p of the bias model, nats.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RatioOfKind {
    pub(crate) label: String,
    pub(crate) first: Option<Estimate>,
    pub(crate) last: Option<Estimate>,
    /// Their share of all tokens in the last steps.
    pub(crate) share: Option<Estimate>,
}

pub(super) fn curves(study: &StudyFile, runs: &Runs) -> Vec<CurveFigure> {
    let figure = |plan: &CurvePlan| CurveFigure {
        accuracy: of_rows(study, runs, plan, |sums| sums.accuracy),
        thinking: match study.thinks {
            Some(_) => of_rows(study, runs, plan, |sums| sums.thinking),
            None => Vec::new(),
        },
    };
    study.curves.iter().map(figure).collect()
}

fn of_rows(
    study: &StudyFile,
    runs: &Runs,
    plan: &CurvePlan,
    value: fn(&Completions) -> f64,
) -> Vec<Curve> {
    let curve = |kind: Kind| {
        plan.rows.iter().map(move |name| Curve {
            label: study.label(name).to_owned(),
            kind,
            points: points(runs, study.index(name), study.window(), &|step: &Step| {
                let sums = &step.completions[kind.place()];
                (value(sums), sums.count)
            }),
        })
    };
    PANELS.into_iter().flat_map(curve).collect()
}

/// A training's means of every `window` steps, over the seeds that have them.
fn points(
    runs: &Runs,
    row: usize,
    window: usize,
    sums: &dyn Fn(&Step) -> (f64, f64),
) -> Vec<CurvePoint> {
    let last = runs
        .trainings(row)
        .map(|(_, training)| training.last_step());
    let last = last.max().unwrap_or(0);
    let point = |first: usize| {
        let end = first.saturating_add(window - 1).min(last);
        let values = runs.trainings(row).filter_map(|(seed, training)| {
            let steps: Vec<&Step> = training
                .steps
                .range(first..=end)
                .map(|(_, step)| step)
                .collect();
            Some((seed, ratio(&steps, sums)?))
        });
        Some(CurvePoint {
            step: (first + end) as f64 / 2.0,
            estimate: Estimate::over_seeds(values)?,
        })
    };
    // Only where there are steps: a record may name any number.
    let known = runs
        .trainings(row)
        .flat_map(|(_, training)| training.steps.keys());
    let windows = known.map(|step| step.saturating_sub(1) / window);
    let windows: BTreeSet<usize> = windows.collect();
    windows
        .into_iter()
        .filter_map(|place| point(place * window + 1))
        .collect()
}

/// The sweeps; each over the seeds that all of its points have, so that a line does not compare other seeds with others.
/// `notes` tells of those that have none.
pub(super) fn sweeps(
    study: &StudyFile,
    rows: &[RowSummary],
    notes: &mut Vec<String>,
) -> Vec<Sweep> {
    let accuracy = |name: &Spanned<String>, kind: Kind| -> Option<&Estimate> {
        let row = &rows[study.index(name)];
        row.greedy.as_ref()?.accuracy.get(kind).as_ref()
    };
    let sweep = |plan: &SweepPlan| {
        let points = || plan.series.iter().flat_map(|series| &series.points);
        let in_common = |kind: Kind| {
            let known = points().filter_map(|(_, name)| accuracy(name, kind));
            known
                .map(|one| one.values.keys().copied().collect::<BTreeSet<u64>>())
                .reduce(|seeds, others| &seeds & &others)
        };
        if PANELS
            .iter()
            .any(|kind| in_common(*kind).is_some_and(|seeds| seeds.is_empty()))
        {
            notes.push(format!(
                "{}: no seed has all of its points, so it is not drawn",
                plan.title
            ));
        }
        let of_kind = |kind: Kind| {
            let seeds = in_common(kind).unwrap_or_default();
            let curve = move |series: &SweepSeries| SweepCurve {
                label: series.label.clone(),
                kind,
                points: in_order(series)
                    .into_iter()
                    .filter_map(|(value, name)| {
                        Some(SweepPoint {
                            value: *value.get_ref(),
                            row: rows[study.index(name)].name.clone(),
                            estimate: accuracy(name, kind)?.of(&seeds)?,
                        })
                    })
                    .collect(),
            };
            plan.series.iter().map(curve).collect::<Vec<_>>()
        };
        Sweep {
            title: plan.title.clone(),
            axis: plan.axis.clone(),
            log: plan.scale == super::file::SweepScale::Log,
            series: PANELS.into_iter().flat_map(of_kind).collect(),
        }
    };
    study.sweeps.iter().map(sweep).collect()
}

/// A line goes from the lowest value to the highest, however the file lists them.
fn in_order(series: &SweepSeries) -> Vec<&(Spanned<f64>, Spanned<String>)> {
    let mut points: Vec<_> = series.points.iter().collect();
    points.sort_by(|(one, _), (other, _)| one.get_ref().total_cmp(other.get_ref()));
    points
}

/// The log-ratios of the study's row; none where no training has logged them, of which `notes` tells.
pub(super) fn ratios(
    study: &StudyFile,
    plan: &RatioPlan,
    runs: &Runs,
    notes: &mut Vec<String>,
) -> Option<RatioFigure> {
    let (row, label) = (study.index(&plan.row), study.label(&plan.row));
    for (seed, training) in runs.trainings(row) {
        if !training.has_ratios {
            notes.push(format!(
                "seed {seed}, {label}: its rollouts.jsonl has no tokens and log_ratios"
            ));
        }
    }
    let trainings = || {
        runs.trainings(row)
            .filter(|(_, training)| training.has_ratios)
    };
    let over = |is_last: bool, sums: &dyn Fn(&Step) -> (f64, f64)| {
        Estimate::over_seeds(trainings().filter_map(|(seed, training)| {
            let steps = if is_last {
                training.last(study.window())
            } else {
                training.first(study.window())
            };
            Some((seed, ratio(&steps, sums)?))
        }))
    };
    let labels = plan.kinds.iter().map(|kind| kind.label.as_str());
    let share = |place: usize| {
        move |step: &Step| {
            let all: f64 = step.ratios.iter().map(|sum| sum.count).sum();
            (step.ratios.get(place).map_or(0.0, |sum| sum.count), all)
        }
    };
    // The others may be a handful without text, whose bar would be as long as any.
    let is_rare = |place: usize| {
        let mut shares = [false, true]
            .map(|is_last| over(is_last, &share(place)))
            .into_iter();
        shares.all(|one| one.is_none_or(|one| one.mean < 0.001))
    };
    let of_kind = |(place, label): (usize, &str)| {
        let mean = |step: &Step| {
            let of_kind = step.ratios.get(place);
            of_kind.map_or((0.0, 0.0), |sum| (sum.sum, sum.count))
        };
        RatioOfKind {
            label: label.to_owned(),
            first: over(false, &mean),
            last: over(true, &mean),
            share: over(true, &share(place)),
        }
    };
    let seeds = trainings().count();
    (seeds > 0).then(|| RatioFigure {
        label: label.to_owned(),
        seeds,
        kinds: labels
            .chain(["all other tokens"])
            .enumerate()
            .filter(|(place, _)| *place < plan.kinds.len() || !is_rare(*place))
            .map(of_kind)
            .collect(),
    })
}
