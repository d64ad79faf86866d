//! Options: their letters, and the marks under which texts list them.

/// The letters of the options, in order.
pub(crate) fn letters() -> impl Iterator<Item = char> {
    'A'..='Z'
}

/// The letter of the option at `index`, counted from 0.
pub(crate) fn letter(index: usize) -> Option<char> {
    letters().nth(index)
}

/// The index, counted from 0, of the option whose letter `text` is: one capital letter and nothing else.
pub(crate) fn letter_index(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    }
}

/// Words that stand before an option's letter or number in some sources: `Option 1: …`, `Caption A: …`.
const OPTION_WORDS: [&str; 6] = [
    "option",
    "choice",
    "caption",
    "sentence",
    "description",
    "information",
];

/// Whether `word` announces an option's letter or number.
pub(crate) fn is_option_word(word: &str) -> bool {
    OPTION_WORDS
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

/// The index of the option that a line starts with, counted from 0, and what follows its mark: `A. …`, `A) …`, `(A) …`,
/// `A: …`, and with a word before it also `Option 1: …`.
pub(crate) fn option_mark(line: &str) -> Option<(usize, &str)> {
    let line = line.trim_start();
    let (named, line) = match line.split_once(char::is_whitespace) {
        Some((word, rest)) if is_option_word(word) => (true, rest.trim_start()),
        _ => (false, line),
    };
    let line = line.strip_prefix('(').unwrap_or(line);
    let first = line.chars().next()?;
    let index = match first {
        'A'..='Z' => first as usize - 'A' as usize,
        '1'..='9' if named => first as usize - '1' as usize,
        _ => return None,
    };
    let rest = line[1..].strip_prefix(['.', ')', ':'])?;
    Some((index, rest.trim()))
}

/// The options among a text's lines, without their letters.
pub(crate) fn choices_in(text: &str) -> Vec<String> {
    listed_choices(text).map_or_else(Vec::new, |(_, choices)| choices)
}

/// Where the last list of options in a text begins, and its options without their letters.
pub(in crate::data) fn listed_choices(text: &str) -> Option<(usize, Vec<String>)> {
    let mut listed: Option<(usize, Vec<String>)> = None;
    for (start, line) in lines_with_starts(text) {
        match (option_mark(line), &mut listed) {
            (Some((0, text)), _) => listed = Some((start, vec![text.to_owned()])),
            (Some((index, text)), Some((_, choices))) if index == choices.len() => {
                choices.push(text.to_owned());
            }
            _ => {}
        }
    }
    listed
}

/// Each line without white space at its end, and where it begins.
pub(in crate::data) fn lines_with_starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = next;
        next += line.len();
        (start, line.trim_end())
    })
}

/// The letter of the right option in a benchmark's record, where it is given as a letter, as a marked option (`B. text`), or
/// as an option's text.
///
/// # Errors
/// It is none of the options; says so in words.
pub(in crate::data) fn letter_of(answer: &str, options: &[String]) -> Result<String, String> {
    let bare = |text: &str| {
        let text = option_mark(text).map_or(text, |(_, text)| text);
        text.trim().trim_end_matches('.').to_lowercase()
    };
    let wanted = bare(answer);
    let same_text = || options.iter().position(|option| bare(option) == wanted);
    letter_index(answer.trim())
        .or_else(|| option_mark(answer).map(|(index, _)| index))
        .or_else(same_text)
        .filter(|index| *index < options.len())
        .and_then(letter)
        .map(String::from)
        .ok_or_else(|| {
            format!(
                "the answer `{answer}` is none of the {} options",
                options.len()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_letters() {
        let options = ["A. red", "blue.", "Caption C: green"].map(String::from);
        for (answer, letter) in [
            ("A", Some("A")),
            ("B. blue", Some("B")),
            ("Blue", Some("B")),
            ("Caption C: green", Some("C")),
            ("green", Some("C")),
            ("D", None),
            ("yellow", None),
            ("", None),
        ] {
            assert_eq!(
                letter_of(answer, &options).ok().as_deref(),
                letter,
                "{answer}"
            );
        }
    }
}
