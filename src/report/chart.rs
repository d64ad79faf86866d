//! Values over an axis: lines with bands, or points with intervals.

use super::axis::Axis;
use super::axis::Scale;
use super::svg;
use super::svg::Anchor;
use super::svg::Picture;
use super::svg::Svg;
use super::svg::series_class;

/// Pixels of a picture before it is scaled to the page.
const WIDTH: f64 = 460.0;
const PLOT_HEIGHT: f64 = 220.0;
const LEFT: f64 = 44.0;
/// The most that names at the right may take.
const NAMES: f64 = 190.0;
const LINE: f64 = 17.0;

/// A picture of series.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    /// Its own in the page.
    pub(crate) id: String,
    /// What stands above it.
    pub(crate) heading: String,
    /// What it shows, for those who do not see it; the values follow.
    pub(crate) description: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) marks: Marks,
    pub(crate) series: Vec<Series>,
}

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// A line, its intervals as a band.
    Line,
    /// Marks that are joined, each with its interval.
    Points,
}

/// What belongs together.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) label: String,
    /// Number of its look: what is the same in several pictures has the same in all.
    pub(crate) look: usize,
    pub(crate) points: Vec<Point>,
}

/// A value; what is no number is a gap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// From where to where.
    pub(crate) interval: Option<(f64, f64)>,
}

/// A point in pixels, with its interval.
type Placed = ((f64, f64), Option<(f64, f64)>);

impl Chart {
    /// The picture.
    pub(crate) fn draw(&self) -> Picture {
        let names_at_right = self.names_at_right();
        let right = if names_at_right {
            let widths = self.series.iter().map(|one| svg::bold_width(&one.label));
            WIDTH - (widths.fold(0.0, f64::max) + 20.0).min(NAMES)
        } else {
            WIDTH - 16.0
        };
        let legend = if names_at_right {
            Vec::new()
        } else {
            self.legend_rows()
        };
        let top = 46.0 + LINE * legend.len() as f64;
        let bottom = top + PLOT_HEIGHT;
        let height = bottom + 44.0;
        let description = format!("{} {}", self.description, self.values_in_words());
        let mut svg = Svg::new(WIDTH, height, &self.id, &self.heading, description.trim());
        let xs = self.points().map(|point| point.x);
        let x = Scale::new(&self.x, xs, (LEFT, right));
        let ys = self.points().flat_map(|point| {
            let (low, high) = point.interval.unwrap_or((point.y, point.y));
            [low, point.y, high]
        });
        let y = Scale::new(&self.y, ys, (bottom, top));
        svg.text("heading", (0.0, 10.0), Anchor::Start, &self.heading);
        self.draw_axes(&mut svg, &x, &y, (right, top, bottom));
        for (row, members) in legend.iter().enumerate() {
            for (x, index) in members {
                let at = 32.0 + LINE * row as f64;
                self.draw_legend(&mut svg, *index, (*x, at));
            }
        }
        let placed: Vec<Vec<Vec<Placed>>> = (0..self.series.len())
            .map(|index| self.placed(index, &x, &y))
            .collect();
        for (index, runs) in placed.iter().enumerate() {
            self.draw_intervals(&mut svg, index, runs);
        }
        for (index, runs) in placed.iter().enumerate() {
            self.draw_series(&mut svg, index, runs);
        }
        if names_at_right {
            self.draw_names(&mut svg, &placed, right, (top, bottom));
        }
        if placed.iter().flatten().all(Vec::is_empty) {
            let middle = (LEFT.midpoint(right), top.midpoint(bottom));
            svg.text("muted", middle, Anchor::Middle, "no values yet");
        }
        svg.finish()
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        let points = self.series.iter().flat_map(|series| &series.points);
        points.filter(|point| point.x.is_finite() && point.y.is_finite())
    }

    /// Lines that all end at the right are named there; else a legend names the series.
    fn names_at_right(&self) -> bool {
        let last = self
            .points()
            .map(|point| point.x)
            .fold(f64::NEG_INFINITY, f64::max);
        let first = self
            .points()
            .map(|point| point.x)
            .fold(f64::INFINITY, f64::min);
        let near = last - 0.1 * (last - first);
        let ends = self.series.iter().filter_map(|series| series.points.last());
        self.marks == Marks::Line && ends.into_iter().all(|point| point.x >= near)
    }

    /// The names of a legend: place and series, row by row.
    fn legend_rows(&self) -> Vec<Vec<(f64, usize)>> {
        let mut rows: Vec<Vec<(f64, usize)>> = Vec::new();
        let mut end = f64::INFINITY;
        for (index, series) in self.series.iter().enumerate() {
            let width = 34.0 + svg::bold_width(&series.label) + 16.0;
            if end + width > WIDTH + 16.0 {
                rows.push(Vec::new());
                end = 0.0;
            }
            if let Some(row) = rows.last_mut() {
                row.push((end, index));
            }
            end += width;
        }
        rows
    }

    fn draw_legend(&self, svg: &mut Svg, index: usize, (x, y): (f64, f64)) {
        let class = series_class(self.series[index].look);
        svg.line(&format!("line {class}"), (x, y), (x + 28.0, y));
        if self.marks == Marks::Points {
            svg.mark(self.series[index].look, (x + 14.0, y));
        }
        let label = svg::fitting_bold(&self.series[index].label, WIDTH - x - 34.0);
        svg.text(
            &format!("name {class}"),
            (x + 34.0, y),
            Anchor::Start,
            &label,
        );
    }

    fn draw_axes(
        &self,
        svg: &mut Svg,
        x: &Scale,
        y: &Scale,
        (right, top, bottom): (f64, f64, f64),
    ) {
        svg.text("muted", (0.0, top - 15.0), Anchor::Start, &self.y.label);
        for (place, text) in &y.ticks {
            svg.line("grid", (LEFT, *place), (right, *place));
            svg.text("muted", (LEFT - 7.0, *place), Anchor::End, text);
        }
        svg.line("axis", (LEFT, bottom), (right, bottom));
        for (place, text) in x.ticks_in_a_row() {
            svg.line("axis", (*place, bottom), (*place, bottom + 4.0));
            svg.text("muted", (*place, bottom + 13.0), Anchor::Middle, text);
        }
        if let Some(place) = x.break_place() {
            for shift in [-2.5, 2.5] {
                let at = place + shift;
                svg.line("axis", (at - 2.0, bottom + 5.0), (at + 2.0, bottom - 5.0));
            }
        }
        let middle = (LEFT.midpoint(right), bottom + 32.0);
        svg.text("muted", middle, Anchor::Middle, &self.x.label);
    }

    /// A series in pixels, in runs without gaps.
    fn placed(&self, index: usize, x: &Scale, y: &Scale) -> Vec<Vec<Placed>> {
        // Points of several series at one value would hide each other's intervals.
        let shift = match self.marks {
            Marks::Line => 0.0,
            Marks::Points => 7.0 * (index as f64 - (self.series.len() as f64 - 1.0) / 2.0),
        };
        let mut runs = vec![Vec::new()];
        for point in &self.series[index].points {
            let ends = |(low, high): (f64, f64)| Some((y.place(low)?, y.place(high)?));
            match (x.place(point.x), y.place(point.y)) {
                (Some(x), Some(y)) => {
                    let placed = ((x + shift, y), point.interval.and_then(ends));
                    if let Some(run) = runs.last_mut() {
                        run.push(placed);
                    }
                }
                _ => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }

    fn draw_intervals(&self, svg: &mut Svg, index: usize, runs: &[Vec<Placed>]) {
        let class = series_class(self.series[index].look);
        for run in runs {
            if self.marks == Marks::Points {
                for ((x, _), ends) in run {
                    if let Some((low, high)) = ends {
                        svg.line(&format!("whisker {class}"), (*x, *low), (*x, *high));
                        for end in [low, high] {
                            svg.line(
                                &format!("whisker {class}"),
                                (x - 3.0, *end),
                                (x + 3.0, *end),
                            );
                        }
                    }
                }
                continue;
            }
            for part in run.split(|(_, ends)| ends.is_none()) {
                let side = |of: fn((f64, f64)) -> f64| {
                    let ends = part
                        .iter()
                        .filter_map(move |((x, _), ends)| Some((*x, of((*ends)?))));
                    ends.collect::<Vec<(f64, f64)>>()
                };
                let (low, high) = (side(|ends| ends.0), side(|ends| ends.1));
                if low.len() > 1 {
                    let around: Vec<_> = low.into_iter().chain(high.into_iter().rev()).collect();
                    svg.path(&format!("band {class}"), &around, true);
                } else if let (Some(low), Some(high)) = (low.first(), high.first()) {
                    svg.line(&format!("whisker {class}"), *low, *high);
                }
            }
        }
    }

    fn draw_series(&self, svg: &mut Svg, index: usize, runs: &[Vec<Placed>]) {
        let look = self.series[index].look;
        for run in runs {
            let points: Vec<(f64, f64)> = run.iter().map(|(point, _)| *point).collect();
            if points.len() > 1 {
                svg.path(&format!("line {}", series_class(look)), &points, false);
            }
            if self.marks == Marks::Points || points.len() == 1 {
                for point in points {
                    svg.mark(look, point);
                }
            }
        }
    }

    /// The names of lines beside their ends, moved apart where they would stand on each other.
    fn draw_names(
        &self,
        svg: &mut Svg,
        placed: &[Vec<Vec<Placed>>],
        right: f64,
        (top, bottom): (f64, f64),
    ) {
        let ends = placed.iter().enumerate();
        let mut ends: Vec<(usize, (f64, f64))> = ends
            .filter_map(|(index, runs)| Some((index, runs.last()?.last()?.0)))
            .collect();
        ends.sort_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
        let wanted: Vec<f64> = ends.iter().map(|(_, end)| end.1).collect();
        for ((index, end), y) in ends.iter().zip(apart(&wanted, 15.0, (top, bottom))) {
            let class = series_class(self.series[*index].look);
            svg.path(&format!("leader {class}"), &[*end, (right + 6.0, y)], false);
            let label = svg::fitting_bold(&self.series[*index].label, WIDTH - right - 10.0);
            svg.text(
                &format!("name {class}"),
                (right + 9.0, y),
                Anchor::Start,
                &label,
            );
        }
    }

    /// What the series begin and end with.
    fn values_in_words(&self) -> String {
        let series = self.series.iter().filter_map(|series| {
            let shown = |point: &Point| format!("{:.3} at {}", point.y, point.x);
            let mut points = series.points.iter().filter(|point| point.y.is_finite());
            let first = points.next()?;
            let to = points
                .next_back()
                .map_or_else(String::new, |last| format!(" to {}", shown(last)));
            Some(format!("{}: {}{to}.", series.label, shown(first)))
        });
        series.collect::<Vec<_>>().join(" ")
    }
}

/// Places near the `wanted` ones, which ascend, at least `gap` apart and, if they fit, within `limits`.
fn apart(wanted: &[f64], gap: f64, (least, most): (f64, f64)) -> Vec<f64> {
    let mut places = wanted.to_vec();
    for index in 1..places.len() {
        places[index] = places[index].max(places[index - 1] + gap);
    }
    let mut limit = most;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - gap;
    }
    let over = least - places.first().copied().unwrap_or(least);
    if over > 0.0 {
        for place in &mut places {
            *place += over;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(label: &str, points: &[(f64, f64)]) -> Series {
        let point = |(x, y): &(f64, f64)| Point {
            x: *x,
            y: *y,
            interval: Some((y - 1.0, y + 1.0)),
        };
        Series {
            label: label.to_owned(),
            look: 0,
            points: points.iter().map(point).collect(),
        }
    }

    fn chart(marks: Marks, series: Vec<Series>) -> Chart {
        Chart {
            id: "test".to_owned(),
            heading: "a < b & \"c\"".to_owned(),
            description: "What is seen.".to_owned(),
            x: Axis::default(),
            y: Axis::default(),
            marks,
            series,
        }
    }

    fn assert_sound(svg: &str) {
        assert!(
            svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
        for wrong in ["NaN", "inf", "a < b"] {
            assert!(!svg.contains(wrong), "{wrong}: {svg}");
        }
        assert!(svg.contains("<title id=\"test-title\">a &lt; b &amp; &quot;c&quot;</title>"));
    }

    #[test]
    fn one_point_equal_values_gaps_and_nothing() {
        for marks in [Marks::Line, Marks::Points] {
            for points in [
                vec![],
                vec![(1.0, 2.0)],
                vec![(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)],
                vec![
                    (1.0, 2.0),
                    (2.0, f64::NAN),
                    (3.0, f64::INFINITY),
                    (4.0, 1.0),
                ],
            ] {
                let is_empty = points.is_empty();
                let drawn = chart(marks, vec![series("first", &points)])
                    .draw()
                    .element();
                assert_sound(&drawn);
                assert_eq!(drawn.contains("no values yet"), is_empty, "{drawn}");
            }
            assert_sound(&chart(marks, Vec::new()).draw().element());
        }
    }

    #[test]
    fn a_gap_is_not_drawn_over() {
        let points = [
            (1.0, 1.0),
            (2.0, 1.5),
            (3.0, f64::NAN),
            (4.0, 1.0),
            (5.0, 2.0),
        ];
        let drawn = chart(Marks::Line, vec![series("first", &points)])
            .draw()
            .element();
        assert_eq!(drawn.matches("class=\"line ").count(), 2, "{drawn}");
        assert_eq!(drawn.matches("class=\"band ").count(), 2, "{drawn}");
    }

    #[test]
    fn lines_that_end_elsewhere_are_named_in_a_legend() {
        let whole = series("whole", &[(0.0, 1.0), (10.0, 1.0)]);
        let part = series("part", &[(0.0, 1.0), (5.0, 1.0)]);
        let named = chart(Marks::Line, vec![whole.clone(), whole.clone()])
            .draw()
            .element();
        assert_eq!(named.matches("leader").count(), 2, "{named}");
        let legend = chart(Marks::Line, vec![whole, part]).draw().element();
        assert!(
            !legend.contains("leader") && legend.contains(">part<"),
            "{legend}"
        );
    }

    #[test]
    fn names_stand_apart_and_inside() {
        assert_eq!(
            apart(&[10.0, 11.0, 50.0], 15.0, (0.0, 100.0)),
            [10.0, 25.0, 50.0]
        );
        assert_eq!(apart(&[95.0, 96.0], 15.0, (0.0, 100.0)), [85.0, 100.0]);
        assert_eq!(
            apart(&[5.0, 5.0, 5.0], 15.0, (0.0, 20.0)),
            [0.0, 15.0, 30.0]
        );
        assert_eq!(apart(&[], 15.0, (0.0, 20.0)), [0.0; 0]);
    }
}
