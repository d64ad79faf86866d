//! Axes: from values to places, and where ticks stand.

use super::svg;

/// How values are laid out along an axis.
#[derive(Debug, Clone, Default)]
pub(crate) struct Axis {
    pub(crate) label: String,
    /// From where to where; absent: as far as the values go.
    pub(crate) range: Option<(f64, f64)>,
    /// Powers lie equally far apart; 0 has a place of its own at the left, and values below it have none.
    pub(crate) log: bool,
    /// Where ticks stand; empty: at round values.
    pub(crate) ticks: Vec<f64>,
}

/// A range that all `values` lie in, with round ends, and not beyond `limits`. Values that are no numbers count for nothing.
pub(crate) fn common_range(
    values: impl IntoIterator<Item = f64>,
    limits: Option<(f64, f64)>,
) -> (f64, f64) {
    let (least, most) = limits.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let values = values.into_iter().filter(|value| value.is_finite());
    let ends = values
        .map(|value| value.clamp(least, most))
        .fold(None, |ends, value| {
            let (low, high): (f64, f64) = ends.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
    let (low, high) = ends.unwrap_or(match limits {
        Some((low, high)) if low.is_finite() && high.is_finite() => (low, high),
        _ => (0.0, 1.0),
    });
    // Equal values lie in the middle of a range about as wide as themselves.
    let (mut low, mut high) = if high - low > 1e-9 * low.abs().max(high.abs()).max(1e-9) {
        (low, high)
    } else {
        let half = if low.abs() > 1e-9 {
            0.1 * low.abs()
        } else {
            0.5
        };
        (low - half, high + half)
    };
    // A range that has been made wider may have its ticks farther apart.
    for _ in 0..2 {
        let step = step(low, high);
        low = ((low / step + 1e-9).floor() * step).max(least);
        high = ((high / step - 1e-9).ceil() * step).min(most);
    }
    (low, high)
}

/// A round distance between about five ticks: 1, 2 or 5 times a power of ten.
fn step(low: f64, high: f64) -> f64 {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = match rough / power {
        part if part < 1.5 => 1.0,
        part if part < 3.5 => 2.0,
        part if part < 7.5 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// A value as it stands at a tick: no more digits than tell it from its neighbours.
pub(super) fn tick_text(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// An axis over pixels.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    /// In the axis's own measure: values, or their logarithms.
    low: f64,
    high: f64,
    /// Where 0 lies on a logarithmic axis that has it.
    zero: Option<f64>,
    log: bool,
    pixels: (f64, f64),
    /// Places of ticks with their texts.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// `axis` with the given values over `pixels`; the first pixel is that of the lowest value.
    pub(super) fn new(
        axis: &Axis,
        values: impl IntoIterator<Item = f64>,
        pixels: (f64, f64),
    ) -> Self {
        let values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        let mut scale = if axis.log {
            Self::logarithmic(axis, &values, pixels)
        } else {
            let (low, high) = axis.range.unwrap_or_else(|| common_range(values, None));
            let (low, high) = if high > low {
                (low, high)
            } else {
                (low - 0.5, low + 0.5)
            };
            Self {
                low,
                high,
                zero: None,
                log: false,
                pixels,
                ticks: Vec::new(),
            }
        };
        scale.ticks = scale.find_ticks(axis);
        scale
    }

    fn logarithmic(axis: &Axis, values: &[f64], pixels: (f64, f64)) -> Self {
        let ends = axis.range.map(|(low, high)| vec![low, high]);
        let has_zero = values.contains(&0.0);
        let positive: Vec<f64> = ends
            .unwrap_or_else(|| values.to_vec())
            .into_iter()
            .filter(|value| *value > 0.0)
            .map(f64::log10)
            .collect();
        let low = positive.iter().copied().fold(f64::INFINITY, f64::min);
        let high = positive.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let width = (high - low).max(0.5);
        let zero = has_zero.then_some(low - 0.3 * width);
        Self {
            low: zero.unwrap_or(low) - 0.08 * width,
            high: high + 0.08 * width,
            zero,
            log: true,
            pixels,
            ticks: Vec::new(),
        }
    }

    /// Where a value lies; what lies beyond the range is put at its end. None for what has no place.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let own = match (self.log, self.zero) {
            (true, Some(zero)) if value == 0.0 => zero,
            (true, _) if value <= 0.0 => return None,
            (true, _) => value.log10(),
            (false, _) => value,
        };
        let share = ((own - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let (from, to) = self.pixels;
        share.is_finite().then_some(from + share * (to - from))
    }

    /// Between 0 and the lowest other value, where a logarithmic axis is broken.
    pub(super) fn break_place(&self) -> Option<f64> {
        let zero = self.zero?;
        let (from, to) = self.pixels;
        let middle = zero + (self.high - self.low) * 0.1;
        Some(from + (middle - self.low) / (self.high - self.low) * (to - from))
    }

    fn find_ticks(&self, axis: &Axis) -> Vec<(f64, String)> {
        let labelled: Vec<(f64, String)> = if !axis.ticks.is_empty() {
            let mut values = axis.ticks.clone();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
                .iter()
                .map(|value| (*value, value.to_string()))
                .collect()
        } else if self.log {
            let powers = self.low.ceil() as i32..=self.high.floor() as i32;
            powers
                .map(|power| 10f64.powi(power))
                .chain(self.zero.map(|_| 0.0))
                .map(|value| (value, value.to_string()))
                .collect()
        } else {
            let step = step(self.low, self.high);
            let first = (self.low / step - 1e-6).ceil();
            let count = ((self.high / step + 1e-6).floor() - first).clamp(0.0, 20.0) as usize;
            let values = (0..=count).map(|index| (first + index as f64) * step);
            values
                .map(|value| (value, tick_text(value, step)))
                .collect()
        };
        let placed = labelled
            .into_iter()
            .filter_map(|(value, text)| Some((self.place(value)?, text)));
        placed.collect()
    }

    /// The ticks whose texts do not run into each other, side by side.
    pub(super) fn ticks_in_a_row(&self) -> Vec<&(f64, String)> {
        let mut kept: Vec<&(f64, String)> = Vec::new();
        let mut end = f64::NEG_INFINITY;
        for tick in &self.ticks {
            let half = svg::text_width(&tick.1) / 2.0;
            if tick.0 - half >= end + 4.0 {
                end = tick.0 + half;
                kept.push(tick);
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    fn linear(range: (f64, f64)) -> Scale {
        let axis = Axis {
            range: Some(range),
            ..Axis::default()
        };
        Scale::new(&axis, [], (0.0, 100.0))
    }

    #[test]
    fn ticks_are_round_and_have_the_digits_they_need() {
        assert_eq!(
            texts(&linear((0.0, 100.0))),
            ["0", "20", "40", "60", "80", "100"]
        );
        assert_eq!(
            texts(&linear((-0.1, 0.1))),
            ["−0.10", "−0.05", "0.00", "0.05", "0.10"]
        );
        assert_eq!(texts(&linear((62.0, 71.0))), ["62", "64", "66", "68", "70"]);
        assert_eq!(
            texts(&linear((0.0, 4e-4))),
            ["0.0000", "0.0001", "0.0002", "0.0003", "0.0004"]
        );
        assert_eq!(linear((0.0, 100.0)).place(25.0), Some(25.0));
        assert_eq!(linear((0.0, 100.0)).place(250.0), Some(100.0));
        assert_eq!(linear((0.0, 100.0)).place(f64::NAN), None);
    }

    #[test]
    fn ranges_of_nothing_one_and_equal_values() {
        assert_eq!(common_range([], Some((0.0, 100.0))), (0.0, 100.0));
        assert_eq!(common_range([f64::NAN], None), (0.0, 1.0));
        let (low, high) = common_range([50.0, 50.0], Some((0.0, 100.0)));
        assert!(low < 50.0 && high > 50.0, "{low} {high}");
        let (low, high) = common_range([0.0], Some((0.0, 100.0)));
        assert!(low.abs() < 1e-12 && high > 0.0, "{low} {high}");
        assert_eq!(common_range([61.0, 72.5], None), (60.0, 74.0));
        // In tens at first, and then in twenties.
        assert_eq!(common_range([19.0, 86.0], None), (0.0, 100.0));
        // An interval that reaches beyond what a share can be.
        assert_eq!(
            common_range([-40.0, 140.0], Some((0.0, 100.0))),
            (0.0, 100.0)
        );
    }

    #[test]
    fn a_logarithmic_axis_has_a_place_for_zero() {
        let axis = Axis {
            log: true,
            ticks: vec![0.1, 0.0, 0.01, 1.0],
            ..Axis::default()
        };
        let scale = Scale::new(&axis, [0.0, 0.01, 0.1, 1.0], (0.0, 100.0));
        assert_eq!(texts(&scale), ["0", "0.01", "0.1", "1"]);
        let places: Vec<f64> = scale.ticks.iter().map(|(place, _)| *place).collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!((places[2] - places[1] - (places[3] - places[2])).abs() < 1e-9);
        let broken = scale.break_place().unwrap();
        assert!(
            places[0] < broken && broken < places[1],
            "{broken} {places:?}"
        );
        assert_eq!(scale.place(-1.0), None);
        // Only 0, and nothing at all.
        for values in [vec![0.0], vec![], vec![0.1]] {
            let axis = Axis {
                log: true,
                ..Axis::default()
            };
            let scale = Scale::new(&axis, values.clone(), (0.0, 100.0));
            for value in values {
                assert!(scale.place(value).is_some_and(f64::is_finite));
            }
        }
    }

    #[test]
    fn texts_do_not_run_into_each_other() {
        let axis = Axis {
            log: true,
            ticks: vec![0.1, 0.100_001, 1.0],
            ..Axis::default()
        };
        let scale = Scale::new(&axis, [0.1, 1.0], (0.0, 100.0));
        assert_eq!(scale.ticks_in_a_row().len(), 2);
    }
}
