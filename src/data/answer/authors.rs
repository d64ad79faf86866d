//! The two rules of the authors' code.
//!
//! *Training* (the accuracy reward of `src/open_r1/grpo.py`): inside the first `<answer>` tags, else the whole text; spaces
//! removed, split at commas into a set; a non-empty subset of the truth earns |subset| / |truth|. Letters count in capitals
//! and alone: `b`, `B.`, `(B)` and `B,` are not {B}. Upstream first asks math-verify, which matters only for numeric answers;
//! here numbers compare as numbers.
//!
//! *Evaluation* (`eval_bench.py`): the trimmed text of the first tags, or all that is written when there is none or it is
//! empty, must be the solution's text.

use super::parsed::ParsedAnswer;
use super::parsed::ReadBy;
use super::parsed::Unreadable;
use super::set::Answer;
use super::set::tagged;
use crate::config::AccuracyRule;

/// The training rule's score in 0…1. `soft`: |answer| / |truth| for a non-empty subset of the truth, else 0. `exact`: 1 only
/// for the whole truth.
pub(crate) fn accuracy(completion: &str, solution: &str, credit: AccuracyRule) -> f64 {
    let mut truth = Answer::parse_as_rewarded(solution);
    let mut answer = Answer::parse_as_rewarded(completion);
    // No item is meant by the end of a solution such as `A,`, nor by that of its copy.
    if truth.remove("") {
        answer.remove("");
    }
    if answer.is_empty() || !answer.is_subset(&truth) {
        return 0.0;
    }
    match credit {
        AccuracyRule::Exact if answer.len() < truth.len() => 0.0,
        _ => answer.len() as f64 / truth.len() as f64,
    }
}

/// The text of the first tags, else all: what the training rule compares.
pub(super) fn read_as_trained(text: &str) -> ParsedAnswer {
    read_tags(text, false)
}

/// The same, and all that is written where the tags are empty: what the evaluation's rule compares.
pub(super) fn read_as_evaluated(text: &str) -> ParsedAnswer {
    read_tags(text, true)
}

fn read_tags(text: &str, all_if_empty: bool) -> ParsedAnswer {
    let inside = tagged(text).map(str::trim);
    let (answer, read_by) = match inside {
        Some("") if all_if_empty => (text.trim(), ReadBy::Whole),
        Some(inside) => (inside, ReadBy::Tags),
        None => (text.trim(), ReadBy::Whole),
    };
    ParsedAnswer {
        unreadable: match inside {
            None => Some(Unreadable::NoTags),
            Some("") => Some(Unreadable::Empty),
            Some(_) => None,
        },
        ..ParsedAnswer::read(answer.to_owned(), read_by)
    }
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
    fn a_copied_solution_is_right() {
        for solution in [
            "A",
            "A,",
            "C, A",
            "a\u{a0}b",
            "a\tb",
            "two\nlines",
            "3.0",
            "AC",
        ] {
            assert_eq!(
                soft(&format!("<answer>{solution}</answer>"), solution),
                1.0,
                "{solution:?}"
            );
        }
        assert_eq!(soft("<answer>A</answer>", "A,"), 1.0);
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
        assert_eq!(soft("<answer>,</answer>", ","), 0.0);
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
}
