//! How a run's reward went: a picture, and rows of a table.

use super::facts::StepLine;
use crate::report::Axis;
use crate::report::Chart;
use crate::report::Marks;
use crate::report::Picture;
use crate::report::Point;
use crate::report::Series;

/// The picture's file.
pub(super) const PICTURE: &str = "reward.svg";
/// Points of the picture, and rows of the table, at most.
const POINTS: usize = 50;
const ROWS: usize = 6;

/// The means of some steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) loss: Option<f64>,
    pub(super) reward: Option<f64>,
    pub(super) accuracy: Option<f64>,
    pub(super) format: Option<f64>,
    pub(super) length: Option<f64>,
    pub(super) kl: Option<f64>,
}

/// The run in at most `count` parts of about equally many steps.
pub(super) fn spans(lines: &[StepLine], count: usize) -> Vec<Span> {
    let size = lines.len().div_ceil(count.max(1)).max(1);
    lines.chunks(size).filter_map(span).collect()
}

/// The rows of a card's table.
pub(super) fn rows(lines: &[StepLine]) -> Vec<Span> {
    spans(lines, ROWS)
}

fn span(lines: &[StepLine]) -> Option<Span> {
    let mean = |of: fn(&StepLine) -> Option<f64>| {
        let values: Vec<f64> = lines.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    Some(Span {
        first: lines.first()?.step,
        last: lines.last()?.step,
        loss: mean(|line| line.loss),
        reward: mean(|line| line.reward),
        accuracy: mean(|line| line.accuracy),
        format: mean(|line| line.format),
        length: mean(|line| line.length),
        kl: mean(|line| line.kl),
    })
}

/// Accuracy and format over the steps; nothing where there is no reward.
pub(super) fn picture(lines: &[StepLine]) -> Option<Picture> {
    let spans = spans(lines, POINTS);
    let series = |label: &str, look, of: fn(&Span) -> Option<f64>| {
        let points = spans.iter().filter_map(|span| {
            Some(Point {
                x: (span.first + span.last) as f64 / 2.0,
                y: of(span)?,
                interval: None,
            })
        });
        Series {
            label: label.to_owned(),
            look,
            points: points.collect(),
        }
    };
    let series = vec![
        series("accuracy", 0, |span| span.accuracy),
        series("format", 1, |span| span.format),
    ];
    if series.iter().all(|series| series.points.is_empty()) {
        return None;
    }
    let chart = Chart {
        id: "reward".to_owned(),
        heading: "Rewards while training".to_owned(),
        description: "Mean accuracy and format reward of the completions, over the steps."
            .to_owned(),
        x: Axis {
            label: "step".to_owned(),
            ..Axis::default()
        },
        y: Axis {
            label: "mean reward".to_owned(),
            range: Some((0.0, 1.0)),
            ..Axis::default()
        },
        marks: Marks::Line,
        series,
    };
    Some(chart.draw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_summed_up_in_few_rows() {
        let lines: Vec<StepLine> = (1..=13)
            .map(|step| StepLine {
                step,
                reward: (step > 1).then_some(step as f64),
                accuracy: Some(0.5),
                ..StepLine::default()
            })
            .collect();
        let rows = rows(&lines);
        assert_eq!(rows.len(), 5);
        assert_eq!((rows[0].first, rows[0].last), (1, 3));
        assert_eq!(rows[0].reward, Some(2.5));
        assert_eq!((rows[4].first, rows[4].last, rows[4].loss), (13, 13, None));
        let picture = picture(&lines).unwrap().file();
        assert!(picture.contains("accuracy") && picture.starts_with("<svg"));
        assert!(super::picture(&[]).is_none());
    }
}
