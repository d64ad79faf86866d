//! Solutions of other projects: a right answer as people write it, as the letters that count here.

use super::parsed::AnswerForm;
use super::parsed::ParsedAnswer;
use super::set::answer_text;
use super::strict;

/// The letters that a text names, by the strict rule; also of marked options in one line, `A. red, C. green`.
pub(in crate::data) fn letters_of(text: &str, choices: &[String]) -> ParsedAnswer {
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
}
