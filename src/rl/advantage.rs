//! How much better a completion is than its siblings.

use crate::config::LossKind;

/// Keeps the division finite where all rewards are equal (TRL and the authors).
const STD_FLOOR: f64 = 1e-4;

/// A_i = (R_i − mean R) / (std R + 1e-4) with n − 1 in the deviation; `dr_grpo` leaves the division out. A single
/// completion has nobody to be compared with: 0.
pub fn advantages(rewards: &[f64], loss: LossKind) -> Vec<f64> {
    let mean = mean(rewards.iter().copied());
    let scale = match loss {
        LossKind::DrGrpo => 1.0,
        LossKind::Grpo | LossKind::Bnpo | LossKind::Dapo => standard_deviation(rewards) + STD_FLOOR,
    };
    rewards
        .iter()
        .map(|reward| (reward - mean) / scale)
        .collect()
}

/// Arithmetic mean; 0 of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    match values.clone().count() {
        0 => 0.0,
        count => values.sum::<f64>() / count as f64,
    }
}

/// Standard deviation with n − 1; 0 of fewer than two values.
pub(super) fn standard_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_formula_with_the_unbiased_deviation() {
        // torch: r = tensor([2., 1., 0., 1.]); (r - r.mean()) / (r.std() + 1e-4)
        let got = advantages(&[2.0, 1.0, 0.0, 1.0], LossKind::Grpo);
        let want = [1.224_594_9, 0.0, -1.224_594_9, 0.0];
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} != {want}");
        }
    }

    #[test]
    fn dr_grpo_only_centres() {
        assert_eq!(advantages(&[2.0, 0.0], LossKind::DrGrpo), vec![1.0, -1.0]);
    }

    #[test]
    fn equal_or_single_rewards_give_nothing() {
        for loss in [LossKind::Grpo, LossKind::DrGrpo] {
            assert_eq!(advantages(&[1.5; 4], loss), vec![0.0; 4]);
            assert_eq!(advantages(&[1.0], loss), vec![0.0]);
            assert!(advantages(&[], loss).is_empty());
        }
    }
}
