//! What a completion earns: accuracy and format, by the rules of the authors' `src/open_r1/grpo.py`.

use crate::config::{AccuracyRule, RewardConfig};
use crate::data::answer::authors;
use serde::{Deserialize, Serialize};

/// The parts of one completion's reward, unweighted, each in 0…1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reward {
    /// Is the answer right?
    pub(crate) accuracy: f64,
    /// Does the text think first and answer in its tags?
    pub(crate) format: f64,
}

impl Reward {
    /// Scores a completion's text against `solution` (`<answer>A,C</answer>`, or the bare answer).
    pub(crate) fn score(completion: &str, solution: &str, rule: AccuracyRule) -> Self {
        Self {
            accuracy: authors::accuracy(completion, solution, rule),
            format: f64::from(u8::from(has_format(completion))),
        }
    }

    /// R: the weighted sum of the parts.
    pub(crate) fn total(self, config: &RewardConfig) -> f64 {
        config.accuracy_weight * self.accuracy + config.format_weight * self.format
    }
}

/// Thinking, then an answer, then nothing but space and exclamation marks; neither tag opened twice. With the tags opened once
/// each this is the authors' expression `<think>.*?</think>\s*<answer>.*?</answer>[\s!]*$`.
pub(crate) fn has_format(completion: &str) -> bool {
    let once = |tag| completion.matches(tag).count() == 1;
    once("<think>")
        && completion
            .split_once("<answer>")
            .is_some_and(|(before, behind)| {
                let thought = before.trim_end().strip_suffix("</think>");
                let answered = behind.trim_end_matches(|c: char| c.is_whitespace() || c == '!');
                thought.is_some_and(|thought| thought.contains("<think>"))
                    && answered.ends_with("</answer>")
                    && !behind.contains("<answer>")
            })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values are meant")]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn format_is_the_authors_expression() {
        let authors = Regex::new(r"(?s)<think>.*?</think>\s*<answer>.*?</answer>[\s!]*$").unwrap();
        let pieces = [
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            " \n",
            "!",
            "x",
        ];
        let mut seen = [0, 0];
        // Every text of up to six pieces.
        for length in 0..=6 {
            for number in 0..pieces.len().pow(length) {
                let mut rest = number;
                let mut text = String::new();
                for _ in 0..length {
                    text.push_str(pieces[rest % pieces.len()]);
                    rest /= pieces.len();
                }
                let once = |tag| text.matches(tag).count() <= 1;
                let wanted = once("<think>") && once("<answer>") && authors.is_match(text.trim());
                assert_eq!(has_format(&text), wanted, "{text:?}");
                seen[usize::from(wanted)] += 1;
            }
        }
        assert!(seen[0] > 130_000 && seen[1] > 50, "{seen:?}");
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
