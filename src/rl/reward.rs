//! What a completion earns: accuracy and format, by the rules of the authors' `src/open_r1/grpo.py`.
//!
//! Upstream first asks math-verify, which matters only for numeric answers; here numbers compare as numbers.

use crate::config::{AccuracyRule, RewardConfig};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::LazyLock;

const OPEN: &str = "<answer>";
const CLOSE: &str = "</answer>";

static FORMAT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?s)<think>.*?</think>\s*<answer>.*?</answer>[\s!]*$").ok());

/// The parts of one completion's reward, unweighted, each in 0…1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// Is the answer right?
    pub accuracy: f64,
    /// Does the text think first and answer in its tags?
    pub format: f64,
}

impl Reward {
    /// Scores a completion's text against `solution` (`<answer>A,C</answer>`, or the bare answer).
    pub fn score(completion: &str, solution: &str, rule: AccuracyRule) -> Self {
        Self {
            accuracy: accuracy(completion, solution, rule),
            format: f64::from(u8::from(has_format(completion))),
        }
    }

    /// R: the weighted sum of the parts.
    pub fn total(self, config: &RewardConfig) -> f64 {
        config.accuracy_weight * self.accuracy + config.format_weight * self.format
    }
}

/// Thinking, then an answer, then nothing but space and exclamation marks; neither tag opened twice.
pub fn has_format(completion: &str) -> bool {
    let once = |tag| completion.matches(tag).count() <= 1;
    once("<think>")
        && once(OPEN)
        && FORMAT
            .as_ref()
            .is_some_and(|format| format.is_match(completion.trim()))
}

/// What stands inside the first `<answer>` tags, else the whole text; trimmed.
pub fn answer_text(completion: &str) -> &str {
    let inside = completion.split_once(OPEN).and_then(|(_, rest)| {
        let (answer, _) = rest.split_once(CLOSE)?;
        Some(answer)
    });
    inside.unwrap_or(completion).trim()
}

/// `soft`: |answer| / |truth| for a non-empty subset of the truth, else 0. `exact`: 1 only for the whole truth.
pub fn accuracy(completion: &str, solution: &str, rule: AccuracyRule) -> f64 {
    let answer = answer_text(completion);
    if answer.is_empty() {
        return 0.0;
    }
    let (answer, truth) = (items(answer), items(answer_text(solution)));
    if !answer.is_subset(&truth) {
        return 0.0;
    }
    match rule {
        AccuracyRule::Exact if answer.len() < truth.len() => 0.0,
        _ => answer.len() as f64 / truth.len() as f64,
    }
}

/// The items between commas, spaces removed, numbers in one spelling.
fn items(answer: &str) -> BTreeSet<String> {
    answer
        .replace(' ', "")
        .split(',')
        .map(|item| {
            let item = item.trim();
            match number(item) {
                Some(value) => value.to_string(),
                None => item.to_owned(),
            }
        })
        .collect()
}

/// A decimal number; words that Rust also reads as one (`inf`, `nan`) are not.
fn number(item: &str) -> Option<f64> {
    let starts = item.trim_start_matches(['+', '-']);
    if !starts.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let value: f64 = item.parse().ok()?;
    // Adding 0 turns −0 into 0.
    value.is_finite().then_some(value + 0.0)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are meant")]
mod tests {
    use super::*;

    fn soft(completion: &str, truth: &str) -> f64 {
        let solution = format!("<answer>{truth}</answer>");
        accuracy(completion, &solution, AccuracyRule::Soft)
    }

    #[test]
    fn format_wants_both_parts_in_order_and_an_end() {
        for good in [
            "<think>a</think><answer>A</answer>",
            "  <think>a\nb</think>\n\n<answer>A, B</answer> !!\n",
            "words before <think></think><answer></answer>",
            "<think>a</think> <answer>A</answer> more </answer>",
        ] {
            assert!(has_format(good), "{good}");
        }
        for bad in [
            "",
            "<answer>A</answer>",
            "<answer>A</answer><think>a</think>",
            "<think>a</think><answer>A",
            "<think>a</think><answer>A</answer>.",
            "<think>a</think> so <answer>A</answer>",
            "<think><think>a</think><answer>A</answer>",
            "<think>a</think><answer>A</answer><answer>A</answer>",
            "<THINK>a</THINK><answer>A</answer>",
        ] {
            assert!(!has_format(bad), "{bad}");
        }
    }

    #[test]
    fn subsets_earn_their_share() {
        assert_eq!(soft("<answer>A</answer>", "A"), 1.0);
        assert_eq!(soft("<answer> A , C </answer>", "A,C"), 1.0);
        assert_eq!(soft("<answer>C</answer>", "A,C"), 0.5);
        assert_eq!(soft("<answer>C,C</answer>", "A,C"), 0.5);
        assert_eq!(soft("<answer>A,B</answer>", "A,C"), 0.0);
        assert_eq!(soft("<answer>A,B,C</answer>", "A,C"), 0.0);
        assert_eq!(soft("<answer>a</answer>", "A"), 0.0);
        assert_eq!(soft("<answer>A,</answer>", "A"), 0.0);
        assert_eq!(soft("<answer>AC</answer>", "A,C"), 0.0);
    }

    #[test]
    fn exact_gives_no_share() {
        let score = |answer| accuracy(answer, "<answer>A,C</answer>", AccuracyRule::Exact);
        assert_eq!(score("<answer>C,A</answer>"), 1.0);
        assert_eq!(score("<answer>A</answer>"), 0.0);
        assert_eq!(score("<answer>A,B,C</answer>"), 0.0);
    }

    #[test]
    fn the_first_tags_count_and_else_the_whole_text() {
        assert_eq!(soft("<answer>B</answer><answer>A</answer>", "A"), 0.0);
        assert_eq!(soft("A", "A"), 1.0);
        assert_eq!(soft("The answer is A", "A"), 0.0);
        assert_eq!(soft("<answer>A", "A"), 0.0);
        assert_eq!(soft("<answer>\nA\n</answer>", "A"), 1.0);
        assert_eq!(accuracy("<answer>A</answer>", "A", AccuracyRule::Soft), 1.0);
    }

    #[test]
    fn an_empty_answer_never_scores() {
        assert_eq!(soft("", "A"), 0.0);
        assert_eq!(soft("<think>a</think><answer> </answer>", "A"), 0.0);
        assert_eq!(soft("<answer></answer>", ""), 0.0);
        assert_eq!(soft("<answer>,</answer>", "A"), 0.0);
    }

    #[test]
    fn numbers_compare_as_numbers_and_words_do_not() {
        assert_eq!(soft("<answer>3.0</answer>", "3"), 1.0);
        assert_eq!(soft("<answer>+.50</answer>", "0.5"), 1.0);
        assert_eq!(soft("<answer>-0</answer>", "0"), 1.0);
        assert_eq!(soft("<answer>2, 1.0</answer>", "1,2"), 1.0);
        assert_eq!(soft("<answer>3.1</answer>", "3"), 0.0);
        assert_eq!(soft("<answer>inf</answer>", "infinity"), 0.0);
        assert_eq!(soft("<answer>nan</answer>", "NaN"), 0.0);
    }

    #[test]
    fn weights_apply_to_the_parts() {
        let config = RewardConfig {
            accuracy_weight: 2.0,
            format_weight: 0.5,
            ..RewardConfig::default()
        };
        let text = "<think>x</think><answer>C</answer>";
        let reward = Reward::score(text, "<answer>A,C</answer>", AccuracyRule::Soft);
        assert_eq!(reward.total(&config), 1.5);
    }
}
