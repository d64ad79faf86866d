//! Means over seeds with Student's t.
//!
//! A seed has its own world, its own questions and its own training: seeds are independent, and everything within one is
//! not. So a seed is one value, and n seeds leave n − 1 degrees of freedom.

use serde::Serialize;
use statrs::distribution::ContinuousCDF;
use statrs::distribution::StudentsT;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// What an interval covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Covers {
    /// Other seeds: other trainings on other worlds.
    Seeds,
    /// Other questions to the same model; what a single seed can say.
    Questions,
}

/// A mean over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) mean: f64,
    /// Half the width of the 95 % interval; absent where one seed says nothing about others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) half_width: Option<f64>,
    pub(crate) covers: Covers,
    /// Standard deviation over the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deviation: Option<f64>,
    /// Each seed's value.
    pub(crate) values: BTreeMap<u64, f64>,
}

impl Estimate {
    /// Mean and 95 % t interval of one value a seed; none without seeds.
    pub(super) fn over_seeds(values: impl IntoIterator<Item = (u64, f64)>) -> Option<Self> {
        let values: BTreeMap<u64, f64> = values.into_iter().collect();
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.values().sum::<f64>() / count;
        let deviation = (values.len() > 1).then(|| {
            let squares: f64 = values.values().map(|value| (value - mean).powi(2)).sum();
            let deviation = (squares / (count - 1.0)).sqrt();
            // Equal values differ from their mean by rounding only.
            if deviation > 1e-12 * mean.abs() {
                deviation
            } else {
                0.0
            }
        });
        let half_width =
            deviation.and_then(|deviation| Some(quantile(count - 1.0)? * deviation / count.sqrt()));
        Some(Self {
            mean,
            half_width,
            covers: Covers::Seeds,
            deviation,
            values,
        })
    }

    /// The same; a single seed has the interval `within` it, over its questions.
    pub(super) fn over_seeds_or_questions(
        values: impl IntoIterator<Item = (u64, f64)>,
        within: Option<f64>,
    ) -> Option<Self> {
        let mut estimate = Self::over_seeds(values)?;
        if estimate.values.len() == 1 {
            estimate.half_width = within;
            estimate.covers = Covers::Questions;
        }
        Some(estimate)
    }

    /// Over these `seeds` only; none where it has none of them.
    pub(super) fn of(&self, seeds: &BTreeSet<u64>) -> Option<Self> {
        let values = self.values.iter().filter(|(seed, _)| seeds.contains(seed));
        Self::over_seeds(values.map(|(seed, value)| (*seed, *value)))
    }

    /// The lowest and the highest seed's value.
    pub(super) fn range(&self) -> (f64, f64) {
        let values = || self.values.values().copied();
        (
            values().fold(f64::INFINITY, f64::min),
            values().fold(f64::NEG_INFINITY, f64::max),
        )
    }

    /// The ends of the interval.
    pub(crate) fn ends(&self) -> Option<(f64, f64)> {
        let half = self.half_width?;
        Some((self.mean - half, self.mean + half))
    }

    /// Two-sided p of the hypothesis that the mean over all seeds is 0; none for one seed, or where all values are equal.
    pub(super) fn p(&self) -> Option<f64> {
        let deviation = self.deviation.filter(|deviation| *deviation > 0.0)?;
        let count = self.values.len() as f64;
        two_sided_p(self.mean / (deviation / count.sqrt()), count - 1.0)
    }
}

/// The 0.975 quantile of Student's t.
fn quantile(degrees: f64) -> Option<f64> {
    Some(StudentsT::new(0.0, 1.0, degrees).ok()?.inverse_cdf(0.975))
}

/// The chance that |T| is at least |t|.
fn two_sided_p(t: f64, degrees: f64) -> Option<f64> {
    Some(2.0 * StudentsT::new(0.0, 1.0, degrees).ok()?.cdf(-t.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64, tolerance: f64) {
        assert!(
            (value - expected).abs() <= tolerance * expected.abs().max(1e-300),
            "{value} is not {expected}"
        );
    }

    /// scipy 1.17.1, `stats.t.ppf(0.975, df)` and `2 * stats.t.sf(abs(t), df)`.
    #[test]
    fn students_t_is_scipys() {
        for (degrees, expected) in [
            (1.0, 12.706_204_736_174_694),
            (2.0, 4.302_652_729_749_462),
            (3.0, 3.182_446_305_283_707_8),
            (4.0, 2.776_445_105_197_793_4),
            (7.0, 2.364_624_251_592_784),
            (19.0, 2.093_024_054_408_308_7),
            (59.0, 2.000_995_378_088_267),
        ] {
            near(quantile(degrees).unwrap(), expected, 1e-9);
        }
        for (t, degrees, expected) in [
            (0.0, 3.0, 1.0),
            (0.5, 1.0, 0.704_832_764_699_133_5),
            (2.0, 2.0, 0.183_503_419_072_273_97),
            (-2.5, 4.0, 0.066_766_544_811_988_14),
            (4.0, 7.0, 0.005_189_913_349_296_813),
            (12.0, 9.0, 7.699_886_222_985_653e-7),
            (1.96, 1000.0, 0.050_273_184_955_748_736),
        ] {
            near(two_sided_p(t, degrees).unwrap(), expected, 1e-9);
        }
    }

    /// scipy 1.17.1, `stats.ttest_1samp(x, 0)` and its `confidence_interval(0.95)`.
    #[test]
    fn a_mean_over_seeds_is_scipys() {
        let values = (1..).zip([0.031, 0.012, -0.004, 0.045, 0.02]);
        let estimate = Estimate::over_seeds(values).unwrap();
        let (low, high) = estimate.ends().unwrap();
        near(low, -0.002_286_270_438_711_036_2, 1e-9);
        near(high, 0.043_886_270_438_711_03, 1e-9);
        near(estimate.deviation.unwrap(), 0.018_593_009_439_033_8, 1e-9);
        near(estimate.p().unwrap(), 0.066_660_378_731_933_62, 1e-9);
    }

    #[test]
    fn one_seed_says_nothing_of_others() {
        let alone = Estimate::over_seeds([(7, 0.5)]).unwrap();
        assert_eq!(
            (alone.half_width, alone.deviation, alone.p()),
            (None, None, None)
        );
        let within = Estimate::over_seeds_or_questions([(7, 0.5)], Some(0.1)).unwrap();
        assert_eq!(
            (within.half_width, within.covers),
            (Some(0.1), Covers::Questions)
        );
        assert_eq!(within.p(), None);
        let two = Estimate::over_seeds_or_questions([(1, 0.0), (2, 1.0)], Some(0.1)).unwrap();
        assert_eq!(two.covers, Covers::Seeds);
        near(two.half_width.unwrap(), 12.706_204_736_174_694 * 0.5, 1e-9);
        assert_eq!(Estimate::over_seeds([]), None);
        let equal = Estimate::over_seeds((1..4).map(|seed| (seed, 0.97))).unwrap();
        assert_eq!((equal.half_width, equal.p()), (Some(0.0), None));
    }
}
