//! Solutions of other projects: a right answer as people write it, as the letters that count here.

use super::option::letter as letter_of;
use super::option::letter_index;
use super::parsed::AnswerForm;
use super::parsed::ParsedAnswer;
use super::parsed::ReadBy;
use super::parsed::Unreadable;
use super::prose;
use super::set::answer_text;
use super::strict;

/// The letters that a text names, by the strict rule; also of marked options in one line, `A. red, C. green`. What may be two
/// options is none: a truth that is read wrongly is wrong in every answer's reward.
pub(in crate::data) fn letters_of(text: &str, choices: &[String]) -> ParsedAnswer {
    let read = read(text, choices);
    let inside = answer_text(text);
    let by_text = |wanted: &str| choices.iter().position(|choice| choice.trim() == wanted);
    match (letter_index(inside), by_text(inside)) {
        // Options that are letters themselves.
        (Some(letter), Some(index)) if letter != index => match letter_of(index) {
            Some(own) if letter >= choices.len() => {
                return ParsedAnswer::read(own.into(), ReadBy::Whole);
            }
            _ => return ParsedAnswer::unread(Unreadable::Contradiction),
        },
        _ => {}
    }
    let named = letter_index(&read.answer).filter(|_| read.read_by == ReadBy::Prose);
    if named.is_some_and(|index| prose::names_another(inside, choices, index)) {
        return ParsedAnswer::unread(Unreadable::Contradiction);
    }
    read
}

fn read(text: &str, choices: &[String]) -> ParsedAnswer {
    let inside = answer_text(text);
    let lines = on_lines(inside);
    let one = strict::read(text, AnswerForm::Options(choices));
    if lines == inside {
        return one;
    }
    let several = strict::read(&lines, AnswerForm::Options(choices));
    if several.unreadable.is_none() {
        several
    } else {
        one
    }
}

/// The text with a line for each marked option, where it is one line that begins with a mark.
fn on_lines(text: &str) -> String {
    let is_mark = |text: &str| {
        let text = text.strip_prefix('(').unwrap_or(text);
        matches!(text.as_bytes(), [b'A'..=b'Z', b'.' | b')' | b':', ..])
    };
    if !is_mark(text) || text.contains('\n') {
        return text.to_owned();
    }
    let mut lines = String::new();
    for part in text.split_inclusive([',', ';']) {
        if is_mark(part.trim_start()) && !lines.is_empty() {
            let length = lines.trim_end_matches([',', ';', ' ']).len();
            lines.truncate(length);
            lines.push('\n');
            lines.push_str(part.trim_start());
        } else {
            lines.push_str(part);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_options_in_one_line_are_several() {
        let choices = ["red, and A. blue", "green", "the cube (C) stops"].map(String::from);
        for (text, letters) in [
            ("<answer>B. green, C. the cube (C) stops</answer>", "B,C"),
            ("(A) red; (C) the cube (C) stops", "A,C"),
            ("A. red, and A. blue", "A"),
            ("B", "B"),
            ("B, C", "B,C"),
            ("green", "B"),
        ] {
            assert_eq!(letters_of(text, &choices).answer, letters, "{text}");
        }
        assert!(letters_of("D", &choices).unreadable.is_some());
    }

    #[test]
    fn what_may_be_two_options_is_none() {
        for (options, text, letters) in [
            (["red", "blue", "green"], "red, green", Some("A,C")),
            (["red", "blue", "green"], "red and green", Some("A,C")),
            (["red", "blue", "green"], "B, green", None),
            (["red", "blue", "green"], "It is green.", Some("C")),
            (["red", "blue", "green"], "not red but green", None),
            (["cat", "bird", "dog"], "cat, bird", Some("A,B")),
            (["two", "three", "four"], "two or three", None),
            (["a man", "a woman", "a dog"], "a man, a woman", Some("A,B")),
            (["red", "red and blue", "blue"], "red and blue", Some("B")),
            (["P", "Q", "R"], "Q", Some("B")),
            (["C", "B", "A"], "B", Some("B")),
            (["C", "B", "A"], "A", None),
        ] {
            let options = options.map(String::from);
            let read = letters_of(text, &options);
            let answer = read.unreadable.is_none().then_some(read.answer.as_str());
            assert_eq!(answer, letters, "{text}");
        }
    }
}
