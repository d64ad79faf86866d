//! The coefficient of the KL term over a run: what the guard has left of it, how it falls, and how a target steers it.

use super::checkpoint::TrainerState;
use super::metrics::StepMetrics;
use super::optimizer::share;
use crate::config::Config;
use crate::config::KlConfig;
use crate::config::KlDirection;

/// How much of an error a step makes up for, as in Ziegler et al. 2019 (arXiv 1909.08593).
const GAIN: f64 = 0.1;

impl TrainerState {
    /// The coefficient of the step that follows.
    pub(super) fn kl_coefficient_in_force(&self, config: &Config) -> f64 {
        let share = share(config.kl.schedule, self.step, config.train.steps);
        self.kl_coefficient * self.kl_steering * share
    }

    /// Steers the coefficient by the divergence of the step that `metrics` are of, over all ranks: a policy that is too near is
    /// repelled more or attracted less, one that is too far the other way round.
    pub(super) fn steer_kl(&mut self, kl: &KlConfig, metrics: &StepMetrics) {
        let divergence = metrics.rl.as_ref().and_then(|rl| rl.kl);
        // A step that was not finite says nothing.
        let divergence = divergence.filter(|divergence| !divergence.is_nan());
        let (Some(target), Some(divergence)) = (kl.target, divergence) else {
            return;
        };
        let missing = ((target - divergence) / target).clamp(-1.0, 1.0);
        let error = match kl.direction {
            KlDirection::Repel => missing,
            KlDirection::Attract => -missing,
        };
        self.kl_steering = (self.kl_steering * (1.0 + GAIN * error)).min(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Schedule;
    use crate::train::metrics::RlMetrics;

    fn start() -> TrainerState {
        TrainerState {
            step: 0,
            next_question: 0,
            num_tokens: 0,
            skipped_videos: 0,
            bad_steps: 0,
            kl_coefficient: 0.4,
            kl_steering: 1.0,
            bias_answers: None,
            questions: None,
        }
    }

    /// The coefficient after steps of these divergences at a target of 0.5.
    fn steered(direction: KlDirection, divergences: &[f64]) -> f64 {
        let mut config = Config::default();
        (config.kl.direction, config.kl.target) = (direction, Some(0.5));
        let mut state = start();
        for &divergence in divergences {
            let rl = RlMetrics {
                kl: Some(divergence),
                ..RlMetrics::default()
            };
            let metrics = StepMetrics {
                rl: Some(rl),
                ..StepMetrics::default()
            };
            state.steer_kl(&config.kl, &metrics);
        }
        state.kl_coefficient_in_force(&config)
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got} != {want}");
    }

    #[test]
    fn a_target_steers_up_and_down_below_the_coefficient() {
        let (repel, attract) = (KlDirection::Repel, KlDirection::Attract);
        close(steered(repel, &[0.5, 0.5]), 0.4);
        // Too far by a half of the target, then by more than all of it.
        close(steered(repel, &[0.75]), 0.4 * 0.95);
        close(steered(repel, &[0.75, 9.0]), 0.4 * 0.95 * 0.9);
        // Back up, by at most a tenth, and never above where it began; an estimate may be negative.
        close(steered(repel, &[9.0, 0.4]), 0.4 * 0.9 * 1.02);
        close(steered(repel, &[9.0, 9.0, -3.0]), 0.4 * 0.9 * 0.9 * 1.1);
        close(steered(repel, &[9.0, 0.0, 0.0, 0.0]), 0.4);
        // The other way round.
        close(steered(attract, &[0.75]), 0.4);
        close(steered(attract, &[0.4]), 0.4 * 0.98);
        close(steered(attract, &[0.0, 0.75]), 0.4 * 0.9 * 1.05);
        close(steered(repel, &[9.0, f64::NAN, f64::INFINITY]), 0.4 * 0.81);
    }

    #[test]
    fn nothing_is_steered_without_a_target_or_a_divergence() {
        let mut state = start();
        let mut metrics = StepMetrics::default();
        let mut kl = KlConfig {
            target: Some(0.5),
            ..KlConfig::default()
        };
        state.steer_kl(&kl, &metrics);
        metrics.rl = Some(RlMetrics::default());
        state.steer_kl(&kl, &metrics);
        kl.target = None;
        metrics.rl = Some(RlMetrics {
            kl: Some(9.0),
            ..RlMetrics::default()
        });
        state.steer_kl(&kl, &metrics);
        assert_eq!(state, start());
    }

    #[test]
    fn a_schedule_falls_to_nothing_over_the_runs_steps() {
        let mut config = Config::default();
        config.train.steps = 4;
        let at = |schedule, step| {
            let mut config = config.clone();
            config.kl.schedule = schedule;
            // Warm-up is the learning rate's alone.
            config.optimizer.warmup_steps = 2;
            let state = TrainerState { step, ..start() };
            state.kl_coefficient_in_force(&config)
        };
        for (step, linear, cosine) in [
            (0, 0.4, 0.4),
            (1, 0.3, 0.341_421_356_237_309_5),
            (2, 0.2, 0.2),
            (3, 0.1, 0.058_578_643_762_690_5),
            (4, 0.0, 0.0),
        ] {
            close(at(Schedule::Constant, step), 0.4);
            close(at(Schedule::Linear, step), linear);
            close(at(Schedule::Cosine, step), cosine);
        }
    }
}
