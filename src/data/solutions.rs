//! Solutions as they are meant: what a file spells otherwise becomes the letters that a reward compares, and it is said how many.

use super::Question;
use super::answer::Answer;
use super::answer::option::letter;
use super::answer::option::letter_index;
use super::answer::option::option_mark;
use super::answer::solution;
use super::answer::solution_text;
use super::answer::spelling::half_width;
use super::impossible::has_letters;
use super::impossible::is_open;
use crate::util::words::counted;
use rayon::iter::IntoParallelRefIterator;
use rayon::iter::ParallelIterator;
use std::collections::BTreeSet;
use std::path::Path;

/// Spells the solutions of a file's questions as a reward compares them. What names no option, or may name several, stays.
pub(super) fn spell(path: &Path, questions: &mut [Question]) {
    let respelled: Vec<Option<String>> = questions.par_iter().map(respelling).collect();
    let (mut count, mut first) = (0, None);
    for (question, solution) in questions.iter_mut().zip(respelled) {
        if let Some(solution) = solution {
            count += 1;
            let was = std::mem::replace(&mut question.solution, solution);
            first.get_or_insert_with(|| (question.id.clone(), was, question.solution.clone()));
        }
    }
    say_how_they_are_compared(path, questions);
    if let Some((id, was, is)) = first {
        tracing::info!(
            "{}: read from another spelling: {}; the first, of question {id}: {was:?} as {is}",
            path.display(),
            counted(count, "solution"),
        );
    }
}

/// Warns of solutions that mean more than a reward compares.
fn say_how_they_are_compared(path: &Path, questions: &[Question]) {
    /// Free texts of more words are hardly ever met.
    const WORDS: usize = 5;
    let (mut unsorted, mut parts, mut long) = (Vec::new(), Vec::new(), Vec::new());
    for question in questions
        .iter()
        .filter(|question| question.judge.is_none() && question.response.is_none())
    {
        let inside = solution_text(&question.solution);
        let items: Vec<&str> = inside
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .collect();
        let are_letters = items.iter().all(|item| letter_index(item).is_some());
        if are_letters && !items.is_sorted() {
            unsorted.push(question);
        } else if !are_letters && items.len() > 1 {
            parts.push(question);
        }
        if !are_letters && inside.split_whitespace().count() > WORDS {
            long.push(question);
        }
    }
    for (found, what) in [
        (
            unsorted,
            "list letters in an order, and any order is right: a reward compares sets",
        ),
        (
            parts,
            "hold a comma, and what stands between commas is compared part by part: one part of two earns a half (reward.accuracy = \"exact\": \
                 nothing)",
        ),
        (
            long,
            "are free texts of more than 5 words, which only the very same text meets",
        ),
    ] {
        if let Some(first) = found.first() {
            tracing::warn!(
                "{}: {} of {} solutions {what}; the first: question {}, {:?}",
                path.display(),
                found.len(),
                questions.len(),
                first.id,
                first.solution
            );
        }
    }
}

/// The solution in the spelling that counts, where it has another.
pub(super) fn respelling(question: &Question) -> Option<String> {
    if question.judge.is_some() {
        return None;
    }
    let choices = question.choices();
    let inside = solution_text(&question.solution);
    let of_letter = |letters: &str| format!("<answer>{letters}</answer>");
    if !has_letters(question, &choices) {
        if choices.is_empty()
            && !is_open(question)
            && (inside.chars().count() == 1 || option_mark(&inside.to_uppercase()).is_some())
            && let Some((letter, true)) = option_within(&question.problem, inside)
        {
            return Some(of_letter(&letter.to_string()));
        }
        // What stands behind a tag that is never closed.
        let is_unclosed =
            question.solution.contains("<answer>") && !question.solution.contains("</answer>");
        return is_unclosed.then(|| format!("<answer>{inside}</answer>"));
    }
    let is_option = |item: &str| letter_index(item).is_some_and(|index| index < choices.len());
    let as_compared = Answer::parse(&question.solution);
    if !as_compared.is_empty() && as_compared.items().all(is_option) {
        return None;
    }
    if let Some(letters) = joined_letters(inside, &choices) {
        return Some(of_letter(&letters));
    }
    let read = solution::letters_of(inside, &choices);
    read.unreadable.is_none().then(|| of_letter(&read.answer))
}

/// The option that a solution is where the options stand within the text of a question: `… A. left B. right` and `B. right`,
/// `(B)` or `b`. Or `right`, which says no letter (false): the text may be one of a dialogue.
pub(super) fn option_within(problem: &str, solution: &str) -> Option<(char, bool)> {
    let plain = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        half_width(&words.join(" ")).to_lowercase()
    };
    let (problem, solution) = (plain(problem), plain(solution));
    let marks: BTreeSet<char> = problem
        .char_indices()
        .filter_map(|(at, _)| mark_before(&problem, at))
        .collect();
    if !marks.contains(&'A') || !marks.contains(&'B') {
        return None;
    }
    let (named, text) = match option_mark(&solution.to_uppercase()) {
        Some((index, text)) => (letter(index), text.to_lowercase()),
        None => (None, solution.clone()),
    };
    let alone = solution
        .chars()
        .next()
        .filter(|_| solution.chars().count() == 1);
    let alone = alone.map(|letter| letter.to_ascii_uppercase());
    if let Some(letter) = alone.or(named.filter(|_| text.is_empty())) {
        return marks.contains(&letter).then_some((letter, true));
    }
    let places = problem.match_indices(&text);
    let letters: BTreeSet<char> = places
        .filter_map(|(at, _)| mark_before(&problem, at))
        .collect();
    match (named, letters.len()) {
        (Some(named), _) => letters.contains(&named).then_some((named, true)),
        (None, 1) => letters.first().map(|letter| (*letter, false)),
        (None, _) => None,
    }
}

/// The letter of the mark that ends right before `at`, such as `(b) ` or `- b: `, in lower-case text.
fn mark_before(text: &str, at: usize) -> Option<char> {
    let before = text[..at].trim_end_matches([' ', '*']);
    let before = before.strip_suffix(['.', ')', ':', ']', ',', '-', '–', '|'])?;
    let before = before.trim_end_matches([' ', '*', '\\']);
    let letter = before
        .chars()
        .next_back()
        .filter(char::is_ascii_lowercase)?;
    let before = &before[..before.len() - 1];
    (!before.ends_with(|c: char| c.is_alphanumeric())).then(|| letter.to_ascii_uppercase())
}

/// Letters without commas between them, in their order: `AC`, `(A)(C)`, `['A', 'C']`, `#### B`.
fn joined_letters(text: &str, choices: &[String]) -> Option<String> {
    let is_sign = |c: char| "[](){}'\"#, ?选项择故应\u{200b}\u{feff}".contains(c);
    let letters: Vec<char> = text.chars().filter(|c| !is_sign(*c)).collect();
    let last = letter(choices.len().checked_sub(1)?)?;
    let fits =
        letters.iter().all(|c| ('A'..=last).contains(c)) && letters.is_sorted_by(|a, b| a < b);
    let is_text = choices.iter().any(|choice| choice.trim() == text);
    (fits && !letters.is_empty() && !is_text).then(|| {
        let letters: Vec<String> = letters.iter().map(char::to_string).collect();
        letters.join(",")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use serde_json::json;

    fn spelled(solution: &str, more: &Value) -> String {
        let mut record =
            json!({"id": "q", "problem": "Where?", "solution": solution, "video": "a.mp4"});
        let fields = record.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let mut questions = [serde_json::from_value(record).unwrap()];
        spell(Path::new("q.json"), &mut questions);
        let [question] = questions;
        question.solution
    }

    #[test]
    fn what_means_a_letter_becomes_it() {
        let options = json!({"options": ["left", "right", "nowhere"]});
        for spelling in [
            "<answer>B. right</answer>",
            "<answer>(B)</answer>",
            "<answer>b</answer>",
            "<answer>B",
            "<answer>**B**</answer>",
            "<answer>B.</answer>",
            "<answer>\\boxed{B}</answer>",
            "<answer>答案：B</answer>",
            "<answer>Ｂ</answer>",
            "right",
            "Option B",
            "B. right",
            "The answer is B.",
            "<ANSWER>B</ANSWER>",
        ] {
            assert_eq!(
                spelled(spelling, &options),
                "<answer>B</answer>",
                "{spelling}"
            );
        }
        for spelling in [
            "AC",
            "(A)(C)",
            "['A', 'C']",
            "<answer>a，c</answer>",
            "<answer>(A),(C)</answer>",
            "A and C",
            "<answer>A,C",
        ] {
            assert_eq!(
                spelled(spelling, &options),
                "<answer>A,C</answer>",
                "{spelling}"
            );
        }
    }

    #[test]
    fn options_within_the_text_are_options() {
        let inside = json!({"problem": "What color? A. red B. dark blue (C) green"});
        for (solution, letter) in [
            ("B. dark blue", "B"),
            ("(B) Dark  blue", "B"),
            ("b", "B"),
            ("C) green", "C"),
            ("(B)", "B"),
        ] {
            let spelt = spelled(solution, &inside);
            assert_eq!(spelt, format!("<answer>{letter}</answer>"), "{solution}");
        }
        for same in ["D. dark blue", "B. red", "z", "pink", "green"] {
            assert_eq!(spelled(same, &inside), same);
        }
        let listed = json!({"problem": "What?\n- A: red\n- B: blue"});
        assert_eq!(spelled("B: blue", &listed), "<answer>B</answer>");
        for layout in [
            "Options: A. red B. blue",
            "• A. red\n• B. blue",
            "A - red\nB - blue",
            "**A.** red\n**B.** blue",
            "[A] red\n[B] blue",
            "A、red B、blue",
            "（A）red （B）blue",
            "a. red\nb. blue",
            "A. red; B. blue",
        ] {
            let question = json!({"problem": format!("What color? {layout}")});
            for solution in ["(B)", "B. blue", "(B) blue", "b"] {
                assert_eq!(
                    spelled(solution, &question),
                    "<answer>B</answer>",
                    "{layout} {solution}"
                );
            }
        }
        let talk = json!({"problem": "What does the man in the car do?"});
        for same in ["b", "a man", "drives"] {
            assert_eq!(spelled(same, &talk), same);
        }
    }

    #[test]
    fn what_is_plain_or_unclear_stays() {
        let options = json!({"options": ["left", "right", "nowhere"]});
        for same in [
            "<answer>B</answer>",
            "B",
            "A,",
            "<answer>C, A</answer>",
            "<answer>F</answer>",
            "A or B",
            "CA",
            "AF",
            "A/C",
            "up",
            "",
        ] {
            assert_eq!(spelled(same, &options), same);
        }
        let open = json!({"problem_type": "free-form", "problem": "Who?\nA: me.\nB: you."});
        assert_eq!(spelled("b", &open), "b");
        assert_eq!(spelled("<answer>12 m", &json!({})), "<answer>12 m</answer>");
        let judged = json!({"judge": {"open": "Where?"}, "options": ["left", "right"]});
        assert_eq!(spelled("(b)", &judged), "(b)");
    }
}
