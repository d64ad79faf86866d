//! Small parts of sentences.

use std::fmt::Display;

/// `1 question`, `2 questions`: a count and what is counted, in its singular.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {}", number_of(count, what))
}

/// `question` or `questions`, by their number.
pub(crate) fn number_of(count: usize, what: &str) -> impl Display {
    if count == 1 {
        return what.to_owned();
    }
    match what.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{what}s"),
    }
}

/// The first `most` letters of a text, with a sign that there are more.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1, "question"), "1 question");
        assert_eq!(counted(0, "clip"), "0 clips");
        assert_eq!(counted(2, "entry"), "2 entries");
        assert_eq!(counted(2, "day"), "2 days");
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(beginning("äöü", 2), "äö…");
        assert_eq!(beginning("äö", 2), "äö");
    }
}
