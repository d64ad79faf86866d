//! Horizontal bars with intervals, in groups.

use super::axis::Axis;
use super::axis::Scale;
use super::axis::common_range;
use super::axis::tick_text;
use super::svg::Anchor;
use super::svg::Picture;
use super::svg::Svg;
use super::svg::fitting;
use super::svg::series_class;
use super::svg::text_width;

/// Pixels of a picture before it is scaled to the page.
const WIDTH: f64 = 460.0;
const BAR: f64 = 13.0;
const LINE: f64 = 18.0;
const TOP: f64 = 56.0;
/// Where the values stand that the bars are of.
const VALUES: f64 = 58.0;

/// A picture of bars.
#[derive(Debug, Clone)]
pub(crate) struct BarChart {
    /// Its own in the page.
    pub(crate) id: String,
    pub(crate) heading: String,
    /// What it shows, for those who do not see it; the values follow.
    pub(crate) description: String,
    /// What the values are.
    pub(crate) label: String,
    /// Number of its look, as a series has one.
    pub(crate) look: usize,
    /// What each bar of a group is: the last is drawn in full, those before it paler.
    pub(crate) names: Vec<String>,
    pub(crate) groups: Vec<BarGroup>,
}

/// Bars of one thing.
#[derive(Debug, Clone)]
pub(crate) struct BarGroup {
    pub(crate) label: String,
    /// In the order of the names; absent where there is no value.
    pub(crate) bars: Vec<Option<Bar>>,
}

/// A value with its interval.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    pub(crate) value: f64,
    pub(crate) interval: Option<(f64, f64)>,
}

impl BarChart {
    /// The picture.
    pub(crate) fn draw(&self) -> Picture {
        let group = LINE + BAR * self.names.len() as f64 + 12.0;
        let bottom = TOP + group * self.groups.len() as f64;
        let description = format!("{} {}", self.description, self.values_in_words());
        let mut svg = Svg::new(
            WIDTH,
            bottom + 40.0,
            &self.id,
            &self.heading,
            description.trim(),
        );
        let x = self.scale();
        svg.text("heading", (0.0, 10.0), Anchor::Start, &self.heading);
        self.draw_legend(&mut svg);
        for (place, text) in &x.ticks {
            svg.line("grid", (*place, TOP - 6.0), (*place, bottom));
            svg.text("muted", (*place, bottom + 12.0), Anchor::Middle, text);
        }
        if let Some(zero) = x.place(0.0) {
            svg.line("axis", (zero, TOP - 6.0), (zero, bottom));
        }
        for (index, one) in self.groups.iter().enumerate() {
            let top = TOP + group * index as f64;
            let label = fitting(&one.label, WIDTH - VALUES);
            svg.text("", (4.0, top + 5.0), Anchor::Start, &label);
            for (place, bar) in one.bars.iter().enumerate() {
                let y = top + LINE + BAR * place as f64;
                self.draw_bar(&mut svg, &x, (place, y), bar.as_ref());
            }
        }
        let middle = (WIDTH / 2.0, bottom + 30.0);
        svg.text("muted", middle, Anchor::Middle, &self.label);
        svg.finish()
    }

    fn scale(&self) -> Scale {
        let bars = self
            .groups
            .iter()
            .flat_map(|group| group.bars.iter().flatten());
        let values = bars.flat_map(|bar| {
            let (low, high) = bar.interval.unwrap_or((bar.value, bar.value));
            [low, bar.value, high]
        });
        let axis = Axis {
            range: Some(common_range(values.chain([0.0]), None)),
            ..Axis::default()
        };
        Scale::new(&axis, [], (24.0, WIDTH - VALUES))
    }

    fn class(&self, place: usize) -> String {
        let pale = if place + 1 < self.names.len() {
            " pale"
        } else {
            ""
        };
        format!("bar{pale} {}", series_class(self.look))
    }

    fn draw_legend(&self, svg: &mut Svg) {
        let mut x = 4.0;
        for (place, name) in self.names.iter().enumerate() {
            svg.rectangle(&self.class(place), (x, 26.0), 22.0, 10.0);
            svg.text("", (x + 28.0, 31.0), Anchor::Start, name);
            x += 28.0 + text_width(name) + 18.0;
        }
    }

    fn draw_bar(&self, svg: &mut Svg, x: &Scale, (place, y): (usize, f64), bar: Option<&Bar>) {
        let found = bar.and_then(|bar| Some((bar, x.place(0.0)?, x.place(bar.value)?)));
        let middle = y + BAR / 2.0 - 1.0;
        let Some((bar, zero, end)) = found else {
            svg.text("muted", (WIDTH - 4.0, middle), Anchor::End, "–");
            return;
        };
        let (from, to) = (zero.min(end), zero.max(end));
        svg.rectangle(&self.class(place), (from, y), to - from, BAR - 2.0);
        let ends = bar
            .interval
            .and_then(|(low, high)| Some((x.place(low)?, x.place(high)?)));
        if let Some((low, high)) = ends {
            svg.line("bar-whisker", (low, middle), (high, middle));
            for end in [low, high] {
                svg.line("bar-whisker", (end, middle - 3.0), (end, middle + 3.0));
            }
        }
        let value = shown(bar.value);
        svg.text("muted", (WIDTH - 4.0, middle), Anchor::End, &value);
    }

    fn values_in_words(&self) -> String {
        let groups = self.groups.iter().map(|group| {
            let bars = self.names.iter().zip(&group.bars);
            let bars = bars
                .filter_map(|(name, bar)| Some(format!("{} ({name})", shown(bar.as_ref()?.value))));
            format!("{}: {}.", group.label, bars.collect::<Vec<_>>().join(", "))
        });
        groups.collect::<Vec<_>>().join(" ")
    }
}

fn shown(value: f64) -> String {
    tick_text(value, 0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(bars: Vec<Option<Bar>>) -> BarChart {
        BarChart {
            id: "test".to_owned(),
            heading: "heading".to_owned(),
            description: String::new(),
            label: "nats".to_owned(),
            look: 0,
            names: vec!["first".to_owned(), "last".to_owned()],
            groups: vec![BarGroup {
                label: "a & b".to_owned(),
                bars,
            }],
        }
    }

    #[test]
    fn bars_go_to_both_sides_of_zero_and_may_be_absent() {
        let bar = |value: f64, half: f64| {
            Some(Bar {
                value,
                interval: Some((value - half, value + half)),
            })
        };
        for bars in [
            vec![bar(-0.2, 0.1), bar(0.3, 0.1)],
            vec![bar(0.0, 0.0), bar(0.0, 0.0)],
            vec![None, bar(0.5, f64::NAN)],
            vec![bar(f64::NAN, 1.0), None],
        ] {
            let drawn = chart(bars.clone()).draw().element();
            let paths = drawn.split("</desc>").nth(1).unwrap();
            for wrong in ["NaN", "inf", "width=\"-"] {
                assert!(!paths.contains(wrong), "{wrong}: {drawn}");
            }
            let finite = bars.iter().flatten().filter(|bar| bar.value.is_finite());
            // Two in the legend.
            assert_eq!(
                drawn.matches("<rect ").count(),
                2 + finite.count(),
                "{drawn}"
            );
        }
        let mut empty = chart(Vec::new());
        empty.groups.clear();
        assert!(empty.draw().element().ends_with("</svg>\n"));
    }
}
