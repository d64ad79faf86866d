//! A study as one HTML page: no scripts, no other files, light and dark.

use super::Study;
use super::curves::Curve;
use super::curves::CurveFigure;
use super::curves::PANELS;
use super::curves::RatioFigure;
use super::curves::Sweep;
use super::error::StudyError;
use super::file::Kind;
use super::file::StudyFile;
use super::interval::Estimate;
use super::table;
use crate::report;
use crate::report::Axis;
use crate::report::Bar;
use crate::report::BarChart;
use crate::report::BarGroup;
use crate::report::Chart;
use crate::report::Marks;
use crate::report::Picture;
use crate::report::Point;
use crate::report::Series;
use minijinja::Environment;
use minijinja::context;
use serde::Serialize;
use serde::Serializer;

/// What a share in percent can be.
const PERCENT: Option<(f64, f64)> = Some((0.0, 100.0));

/// The rows that are drawn, each at the place that is its look in every picture.
struct Looks(Vec<String>);

impl Looks {
    fn of(study: &Study) -> Self {
        let curves = study.curves.iter().flat_map(|figure| &figure.accuracy);
        let sweeps = study.sweeps.iter().flat_map(|sweep| &sweep.series);
        let labels = curves.map(|curve| &curve.label);
        let labels = labels.chain(sweeps.map(|series| &series.label));
        let mut looks = Self(Vec::new());
        for label in labels.chain(study.ratios.as_ref().map(|ratios| &ratios.label)) {
            if !looks.0.contains(label) {
                looks.0.push(label.clone());
            }
        }
        looks
    }

    fn get(&self, label: &str) -> usize {
        let place = self.0.iter().position(|known| known == label);
        place.unwrap_or(self.0.len())
    }
}

/// Pictures that belong together, with what they show.
#[derive(Debug, Serialize)]
struct Figure {
    title: String,
    caption: String,
    #[serde(serialize_with = "as_elements")]
    pictures: Vec<Picture>,
}

fn as_elements<S: Serializer>(pictures: &[Picture], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(pictures.iter().map(Picture::element))
}

/// All pictures of the page.
pub(super) fn pictures(study: &Study) -> Vec<Picture> {
    let figures = figures(study).into_iter();
    figures.flat_map(|figure| figure.pictures).collect()
}

pub(super) fn html(study: &Study, file: &StudyFile) -> Result<String, StudyError> {
    let mut environment = Environment::new();
    // The name's end makes texts safe to stand in HTML.
    environment.add_template("page.html", include_str!("page.html"))?;
    let mut tables = vec![table::rows(study)];
    tables.extend(table::thinking(study));
    Ok(environment.get_template("page.html")?.render(context! {
        title => study.title,
        summary => study.summary,
        style => report::STYLE,
        tables,
        comparisons => table::comparisons(study),
        legend => table::legend(study),
        figures => figures(study),
        ratios => table::ratios(study),
        details => table::details(study),
        by_seed => table::by_seed(study),
        window => study.window,
        thinks => file.thinks,
        rows => study.rows,
        source => file.source,
        missing => study.missing,
        notes => study.notes,
        version => env!("CARGO_PKG_VERSION"),
    })?)
}

fn figures(study: &Study) -> Vec<Figure> {
    let looks = Looks::of(study);
    let mut figures = Vec::new();
    for (index, figure) in study.curves.iter().enumerate() {
        figures.extend(curve_figures(study, figure, index, &looks));
    }
    // A line takes two points. Numbers are the plan's, so that a picture's name stays when others come.
    let is_line = |sweep: &Sweep| sweep.series.iter().any(|series| series.points.len() > 1);
    let sweeps = study.sweeps.iter().enumerate();
    let sweeps = sweeps.filter(|(_, sweep)| is_line(sweep));
    figures.extend(sweeps.map(|(index, sweep)| sweep_figure(sweep, index, &looks)));
    let ratios = study.ratios.as_ref();
    figures.extend(ratios.map(|ratios| ratio_figure(study, ratios, &looks)));
    figures
}

fn curve_figures(study: &Study, figure: &CurveFigure, index: usize, looks: &Looks) -> Vec<Figure> {
    let window = study.window;
    let means = format!(
        "Completions sampled in training. Each point is the mean of {window} steps; lines are means over seeds, bands their 95 % t intervals."
    );
    let drawn = |what: &str, id: &str, label: &str, curves: &[Curve]| {
        let pictures = panels(
            &format!("{id}-{index}"),
            &format!("{what} over the steps of the training, on {{}} questions."),
            (label, "training step"),
            |kind| of_curves(curves, kind, looks),
        );
        Figure {
            title: format!("{what} over the training"),
            caption: means.clone(),
            pictures,
        }
    };
    let mut figures = vec![drawn(
        "Accuracy",
        "accuracy",
        "right, % of sampled completions",
        &figure.accuracy,
    )];
    if !figure.thinking.is_empty() {
        let label = "think, % of sampled completions";
        figures.push(drawn(
            "Share of answers that think",
            "thinking",
            label,
            &figure.thinking,
        ));
    }
    figures
}

fn of_curves(curves: &[Curve], kind: Kind, looks: &Looks) -> Vec<Series> {
    let of_kind = curves.iter().filter(|curve| curve.kind == kind);
    let series = of_kind.map(|curve| Series {
        label: curve.label.clone(),
        look: looks.get(&curve.label),
        points: curve
            .points
            .iter()
            .map(|point| in_percent(point.step, &point.estimate))
            .collect(),
    });
    series.collect()
}

/// A point of a sweep. Of one or two seeds their values say more than an interval.
fn of_seeds(x: f64, estimate: &Estimate) -> Point {
    let mut point = in_percent(x, estimate);
    if estimate.values.len() < 3 {
        let (low, high) = estimate.range();
        point.interval = (low < high).then_some((100.0 * low, 100.0 * high));
    }
    point
}

fn in_percent(x: f64, estimate: &Estimate) -> Point {
    Point {
        x,
        y: 100.0 * estimate.mean,
        interval: estimate
            .ends()
            .map(|(low, high)| (100.0 * low, 100.0 * high)),
    }
}

/// A picture for each kind of question over the same axes.
fn panels(
    id: &str,
    description: &str,
    (y_label, x_label): (&str, &str),
    series: impl Fn(Kind) -> Vec<Series>,
) -> Vec<Picture> {
    let every = PANELS.map(&series);
    let points = || every.iter().flatten().flat_map(|series| &series.points);
    let ends = points().flat_map(|point| {
        let (low, high) = point.interval.unwrap_or((point.y, point.y));
        [low, point.y, high]
    });
    let last = points().map(|point| point.x).fold(1.0, f64::max);
    let pictures = PANELS.into_iter().zip(&every).map(|(kind, series)| {
        Chart {
            id: format!("{id}-{}", kind.as_str()),
            heading: format!("{} questions", kind.as_str()),
            description: description.replace("{}", kind.as_str()),
            x: Axis {
                label: x_label.to_owned(),
                range: Some((0.0, last)),
                ..Axis::default()
            },
            y: Axis {
                label: y_label.to_owned(),
                range: Some(report::common_range(ends.clone(), PERCENT)),
                ..Axis::default()
            },
            marks: Marks::Line,
            series: series.clone(),
        }
        .draw()
    });
    pictures.collect()
}

fn sweep_figure(sweep: &Sweep, index: usize, looks: &Looks) -> Figure {
    let of_kind = |kind: Kind| -> Vec<Series> {
        let series = sweep.series.iter().filter(|series| series.kind == kind);
        let series = series.map(|series| Series {
            label: series.label.clone(),
            look: looks.get(&series.label),
            points: series
                .points
                .iter()
                .map(|point| of_seeds(point.value, &point.estimate))
                .collect(),
        });
        series.collect()
    };
    let points = sweep.series.iter().flat_map(|series| &series.points);
    let ends = points.clone().flat_map(|point| {
        let point = of_seeds(point.value, &point.estimate);
        let (low, high) = point.interval.unwrap_or((point.y, point.y));
        [low, point.y, high]
    });
    let ticks: Vec<f64> = points.map(|point| point.value).collect();
    let first = sweep.series.iter().find_map(|series| series.points.first());
    let seeds: Vec<String> = first.map_or_else(Vec::new, |point| {
        let seeds = point.estimate.values.keys();
        seeds.map(u64::to_string).collect()
    });
    let whiskers = match seeds.len() {
        0 | 1 => "",
        2 => "; bars reach from one seed to the other",
        _ => "; bars are 95 % t intervals over them",
    };
    let pictures = PANELS.map(|kind| {
        Chart {
            id: format!("sweep-{index}-{}", kind.as_str()),
            heading: format!("{} questions", kind.as_str()),
            description: format!(
                "Accuracy on {} questions against {}.",
                kind.as_str(),
                sweep.axis
            ),
            x: Axis {
                label: sweep.axis.clone(),
                range: (!sweep.log).then(|| padded(&ticks)),
                log: sweep.log,
                ticks: ticks.clone(),
            },
            y: Axis {
                label: "right, % of greedy answers".to_owned(),
                range: Some(report::common_range(ends.clone(), PERCENT)),
                ..Axis::default()
            },
            marks: Marks::Points,
            series: of_kind(kind),
        }
        .draw()
    });
    Figure {
        title: sweep.title.clone(),
        caption: format!(
            "Greedy accuracy on the evaluation's questions against {}, over the seeds that all points have: {}{whiskers}.",
            sweep.axis,
            seeds.join(", ")
        ),
        pictures: pictures.to_vec(),
    }
}

/// The range of values, with room for marks at both ends.
fn padded(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let room = 0.08 * if high > low { high - low } else { 1.0 };
    if low <= high {
        (low - room, high + room)
    } else {
        (0.0, 1.0)
    }
}

fn ratio_figure(study: &Study, ratios: &RatioFigure, looks: &Looks) -> Figure {
    let window = study.window;
    let bar = |estimate: &Option<Estimate>| {
        let estimate = estimate.as_ref()?;
        Some(Bar {
            value: estimate.mean,
            interval: estimate.ends(),
        })
    };
    let groups = ratios.kinds.iter().map(|kind| BarGroup {
        label: kind.label.clone(),
        bars: vec![bar(&kind.first), bar(&kind.last)],
    });
    let picture = BarChart {
        id: "ratios".to_owned(),
        heading: format!("{}: log-ratio by kind of token", ratios.label),
        description:
            "Mean log-ratio of the policy's to the bias model's probability of the tokens drawn."
                .to_owned(),
        label: "mean of log p − log p of the bias model, nats a token".to_owned(),
        look: looks.get(&ratios.label),
        names: vec![
            format!("first {window} steps"),
            format!("last {window} steps"),
        ],
        groups: groups.collect(),
    };
    Figure {
        title: "Where repulsion acts".to_owned(),
        caption: format!(
            "How much likelier the policy of {} finds the tokens that it draws than the bias model does, by what the token is for. \
             Above 0: the policy has moved away from the bias model. Intervals are 95 %, over seeds.",
            ratios.label
        ),
        pictures: vec![picture.draw()],
    }
}
