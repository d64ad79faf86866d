//! What a completion earns: accuracy and format, by the rules of the authors' `src/open_r1/grpo.py`.

use crate::config::{Extraction, RewardConfig, RewardedAnswer};
use crate::data::Question;
use crate::data::answer;
use crate::data::answer::Answer;
use crate::data::answer::AnswerForm;
use crate::data::answer::Expected;
use crate::data::answer::authors;
use serde::{Deserialize, Serialize};

/// What completions are scored against: the right answer and the options it is one of.
#[derive(Debug, Clone)]
pub(crate) struct Truth {
    /// `<answer>A,C</answer>`, or the bare answer.
    solution: String,
    /// Their texts; empty where they are not known or there are none.
    choices: Vec<String>,
}

impl Truth {
    /// Of a question.
    pub(crate) fn of(question: &Question) -> Self {
        Self {
            solution: question.solution.clone(),
            choices: question.choices(),
        }
    }

    /// Of a question that is not one of a file, its solution read as one of a file is.
    pub(crate) fn as_read(problem: &str, options: Option<&[String]>, solution: &str) -> Self {
        let mut question = Question {
            problem: problem.to_owned(),
            options: options.map(<[String]>::to_vec),
            solution: solution.to_owned(),
            ..Question::default()
        };
        question.spell_solution();
        Self::of(&question)
    }

    fn form(&self) -> AnswerForm<'_> {
        AnswerForm::of(&self.choices, &self.solution)
    }

    /// The answer in a completion as the evaluations' strict rule reads it, if it can.
    fn read_strictly(&self, completion: &str) -> Option<String> {
        let expected = Expected {
            question: "",
            form: self.form(),
            solution: &self.solution,
        };
        let read = answer::read(Extraction::Strict.into(), completion, expected);
        read.unreadable.is_none().then_some(read.answer)
    }

    /// The answer in a completion as the reward reads it; `None` without one.
    pub(crate) fn answer_in(&self, completion: &str, reading: RewardedAnswer) -> Option<Answer> {
        match reading {
            RewardedAnswer::Strict => {
                let read = self.read_strictly(completion)?;
                Some(Answer::parse(&read))
            }
            RewardedAnswer::Training => {
                let answer = Answer::parse_as_rewarded(completion);
                let is_given = answer.items().any(|item| !item.is_empty());
                is_given.then_some(answer)
            }
        }
    }

    fn accuracy(&self, completion: &str, config: &RewardConfig) -> f64 {
        let credit = config.accuracy;
        match config.answer {
            RewardedAnswer::Training => authors::accuracy(completion, &self.solution, credit),
            RewardedAnswer::Strict => {
                let read = self.read_strictly(completion).unwrap_or_default();
                let rule = Extraction::Strict.into();
                answer::accuracy(rule, &read, &self.solution, self.form(), credit)
            }
        }
    }

    /// Whether an option is named in a spelling that the authors' rule takes for something else, such as `**B**`.
    pub(crate) fn is_read_only_strictly(&self, completion: &str) -> bool {
        matches!(self.form(), AnswerForm::Options(_))
            && self
                .read_strictly(completion)
                .is_some_and(|read| Answer::parse_as_rewarded(completion) != Answer::parse(&read))
    }
}

/// The parts of one completion's reward, unweighted, each in 0…1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reward {
    /// Is the answer right?
    pub(crate) accuracy: f64,
    /// Does the text think first and answer in its tags?
    pub(crate) format: f64,
}

impl Reward {
    /// Scores a completion's text.
    pub(crate) fn score(completion: &str, truth: &Truth, config: &RewardConfig) -> Self {
        Self {
            accuracy: truth.accuracy(completion, config),
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
        let reward = Reward::score(
            text,
            &Truth::as_read("", None, "<answer>A,C</answer>"),
            &config,
        );
        assert_eq!(reward.total(&config), 1.5);
    }

    #[test]
    fn usual_spellings_are_right_by_the_strict_rule_alone() {
        let options = ["red", "blue", "green"].map(String::from).to_vec();
        let truth = |solution: &str| Truth {
            solution: solution.to_owned(),
            choices: options.clone(),
        };
        let strict = RewardConfig {
            answer: RewardedAnswer::Strict,
            ..RewardConfig::default()
        };
        let training = RewardConfig::default();
        let scored = |answer: &str, solution: &str, config| {
            let text = format!("<think>a</think><answer>{answer}</answer>");
            Reward::score(&text, &truth(solution), config).accuracy
        };
        for spelling in [
            "**B**",
            "B.",
            "(B)",
            "b",
            "B. blue",
            "\\boxed{B}",
            "Ｂ",
            "答案：B",
            "答案是B",
            "blue",
            "Option B",
            "- B",
        ] {
            assert_eq!(scored(spelling, "B", &strict), 1.0, "{spelling}");
            assert_eq!(scored(spelling, "B", &training), 0.0, "{spelling}");
            let text = format!("<answer>{spelling}</answer>");
            assert!(truth("B").is_read_only_strictly(&text), "{spelling}");
        }
        assert_eq!(scored("A，C", "A,C", &strict), 1.0);
        assert_eq!(scored("a and c", "A,C", &strict), 1.0);
        assert_eq!(scored("(C)", "A,C", &strict), 0.5);
        assert_eq!(scored("A,B", "A,C", &strict), 0.0);
        assert_eq!(scored("F", "B", &strict), 0.0);
        assert_eq!(scored("A or B", "B", &strict), 0.0);
        for plain in ["B", " B ", "A, C", "E", "none"] {
            let text = format!("<answer>{plain}</answer>");
            assert!(!truth("B").is_read_only_strictly(&text), "{plain}");
        }
        assert!(!truth("blue").is_read_only_strictly("<answer>Blue.</answer>"));
    }
}
