//! Pictures as SVG, to stand in a page: lines with bands, points with intervals, bars with intervals.
//!
//! A picture is text without a script. Its colours are the page's, by the classes of [`STYLE`], so that it follows light and
//! dark; series are told apart by dashes, marks and labels too.

mod axis;
mod bars;
mod chart;
mod svg;

pub(crate) use axis::Axis;
pub(crate) use axis::common_range;
pub(crate) use bars::Bar;
pub(crate) use bars::BarChart;
pub(crate) use bars::BarGroup;
pub(crate) use chart::Chart;
pub(crate) use chart::Marks;
pub(crate) use chart::Point;
pub(crate) use chart::Series;
pub(crate) use svg::Picture;

/// The style of every picture, to stand in the page's `<style>`.
pub(crate) const STYLE: &str = include_str!("style.css");
