//! The learning rate over a run, and what else falls as it does.

use crate::config::OptimizerConfig;
use crate::config::Schedule;

/// The learning rate of optimizer step `step` (from 0) of `total`, by Hugging Face's definitions.
pub fn learning_rate(config: &OptimizerConfig, step: usize, total: usize) -> f64 {
    let warmup = config.warmup_steps;
    if step < warmup {
        return config.learning_rate * step as f64 / warmup as f64;
    }
    let share = share(config.schedule, step - warmup, total.saturating_sub(warmup));
    config.learning_rate * share
}

/// What `schedule` leaves of a peak at step `step` (from 0) of `total`.
pub(in crate::train) fn share(schedule: Schedule, step: usize, total: usize) -> f64 {
    let progress = step as f64 / total.max(1) as f64;
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => (1.0 - progress).max(0.0),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are meant")]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_those_of_transformers() {
        // get_{linear,cosine,constant}_schedule_with_warmup(warmup 2, total 6), lr 1.
        let cases = [
            (Schedule::Linear, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]),
            (Schedule::Constant, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
            (
                Schedule::Cosine,
                [0.0, 0.5, 1.0, 0.853_553_39, 0.5, 0.146_446_61, 0.0],
            ),
        ];
        for (schedule, want) in cases {
            let config = OptimizerConfig {
                learning_rate: 1.0,
                warmup_steps: 2,
                schedule,
                ..OptimizerConfig::default()
            };
            for (step, want) in want.into_iter().enumerate() {
                let got = learning_rate(&config, step, 6);
                assert!((got - want).abs() < 1e-8, "{schedule:?} {step}: {got}");
            }
        }
        assert_eq!(learning_rate(&OptimizerConfig::default(), 0, 500), 1e-6);
    }
}
