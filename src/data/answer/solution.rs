//! Solutions of other projects: a right answer as people write it, as the letters that count here.

use super::option::letter as letter_of;
use super::option::letter_index;
use super::parsed::AnswerForm;
use super::parsed::ParsedAnswer;
use super::parsed::ReadBy;
use super::parsed::Unreadable;
use super::prose;
use super::set::answer_text;
use super::spelling::normalised;
use super::strict;
use super::strict::listed_letters;

/// The letters that a text names, by the strict rule; also of marked options in one line, `A. red, C. green`. What may be more or
/// other options is none: a truth that is read wrongly is wrong in every answer's reward.
pub(in crate::data) fn letters_of(text: &str, choices: &[String]) -> ParsedAnswer {
    let read = read(text, choices);
    let inside = answer_text(text);
    if let Some(letters) = listed_letters(inside) {
        let own = |letter: usize| letter_of(letter).map(String::from);
        let by_text = letters.iter().map(|letter| {
            let own = own(*letter)?;
            choices.iter().position(|choice| choice.trim() == own)
        });
        let by_text: Vec<Option<usize>> = by_text.collect();
        let differs = letters
            .iter()
            .zip(&by_text)
            .any(|(letter, text)| text.is_some_and(|text| text != *letter));
        // Options that are letters themselves.
        return match (letters.as_slice(), by_text.as_slice()) {
            _ if !differs => read,
            ([letter], [Some(index)]) if *letter >= choices.len() => match own(*index) {
                Some(own) => ParsedAnswer::read(own, ReadBy::Whole),
                None => read,
            },
            _ => ParsedAnswer::unread(Unreadable::Contradiction),
        };
    }
    let named: Vec<usize> = read.answer.split(',').filter_map(letter_index).collect();
    let is_listed = |choice: &String| normalised(choice) == normalised(inside);
    if !read.answer.is_empty()
        && !choices.iter().any(is_listed)
        && prose::may_name_others(inside, choices, &named)
    {
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
            (
                ["red", "blue", "green"],
                "red, blue, and green.",
                Some("A,B,C"),
            ),
            (["red", "blue", "green"], "A. red, C. green", Some("A,C")),
            (["red", "blue", "green"], "B. blue", Some("B")),
            (["red", "blue", "green"], "B. blue, as the sky", None),
            (["red", "blue", "green"], "It is green.", Some("C")),
            (["red", "blue", "green"], "The answer is C", Some("C")),
            (["red", "blue", "green"], "B, green", None),
            (["red", "blue", "green"], "not red but green", None),
            (["red", "blue", "green"], "A. red, C", None),
            (["red", "blue", "green"], "A. red and green", None),
            (["red", "blue", "green"], "A. red & C. green", None),
            (["red", "blue", "green"], "A. red or B. blue", None),
            (["red", "blue", "green"], "A. red C. green", None),
            (["red", "blue", "green"], "A and green", None),
            (["red", "blue", "green"], "(A) and green", None),
            (["red", "blue", "green"], "option A and green", None),
            (["red", "blue", "green"], "A + green", None),
            (["cat", "bird", "dog"], "cat, bird", Some("A,B")),
            (["two", "three", "four"], "two or three", None),
            (["2", "500", "2,500"], "2,500", Some("C")),
            (["2", "500", "2500"], "2,500", None),
            (["1,000", "1", "0"], "1,000 and 1", Some("A,B")),
            (["a man", "a woman", "a dog"], "a man, a woman", Some("A,B")),
            (["a man, a dog", "a man", "a cat"], "a man and a dog", None),
            (["red", "red and blue", "blue"], "red and blue", Some("B")),
            (["red ball", "blue ball", "cube"], "red and blue ball", None),
            (
                ["opens the door", "closes the door", "waits"],
                "opens and closes the door",
                None,
            ),
            (
                ["left, right", "right, left", "left"],
                "left and right",
                None,
            ),
            (["P", "Q", "R"], "Q", Some("B")),
            (["B", "C", "D"], "B, C", None),
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
