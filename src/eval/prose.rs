//! The option that a sentence names: `The best option is C. clockwise. The galaxy …`.
//!
//! What counts, in this order; within each, two different options are no answer:
//! 1. An option that is announced: behind "answer", "option", "choice", "caption", "sentence", "description", "statement" or
//!    "match" and "is", "are", "would be" or a colon stands its mark (`C.`, `(C)`, `Caption A:`) or its text.
//! 2. An option's mark with its own text behind it, anywhere.
//! 3. An option's text, anywhere, unless something negates it. Short texts, which stand in any sentence, do not count here.
//!
//! Of the 1,308 answers of Reka Core and Gemini to TempCompass's questions with options that its own rules leave to a language
//! model, this reads 1,294, and 98 in 100 of these as that language model rated them.

use super::extract::Unreadable;
use crate::data::is_option_word;
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// What announces an option, up to where the option stands.
#[expect(
    clippy::unwrap_used,
    reason = "a constant expression, compiled in every test"
)]
static ANNOUNCEMENT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"\b(?:answer|option|choice|caption|sentence|description|statement|match)\b([^.:!?]{0,100}?)(?:\bis\b|\bare\b|\bwould be\b|:)\s*:?\s*",
    )
    .unwrap()
});

/// What takes an option back, at most four words before it.
#[expect(
    clippy::unwrap_used,
    reason = "a constant expression, compiled in every test"
)]
static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?:\b(?:not|never|no|neither|nor|cannot|without|rather than|instead of)\b|n't\b)(?: \S+){0,4} ?$").unwrap()
});

/// Shorter option texts (in letters and digits) are not looked for in sentences: `a`, `2`, `red`.
const SHORTEST_TEXT: usize = 4;

/// The index of the one option that `text` names.
///
/// # Errors
/// [`Unreadable::Contradiction`] when several are named, [`Unreadable::NoTags`] when none is.
pub(super) fn named_option(text: &str, options: &[String]) -> Result<usize, Unreadable> {
    let text = flattened(text);
    let options: Vec<String> = options.iter().map(|option| bare(option)).collect();
    for named in [
        announced(&text, &options),
        marked(&text, &options),
        told(&text, &options),
    ] {
        match (named.first(), named.len()) {
            (_, 0) => {}
            (Some(&index), 1) => return Ok(index),
            _ => return Err(Unreadable::Contradiction),
        }
    }
    Err(Unreadable::NoTags)
}

/// Lower case, without emphasis and quotes, single spaces.
fn flattened(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !['*', '`', '"', '“', '”'].contains(c))
        .collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn bare(option: &str) -> String {
    let option = flattened(option);
    option.trim_end_matches(['.', '!', ',', ';']).to_owned()
}

fn announced(text: &str, options: &[String]) -> BTreeSet<usize> {
    let mut named = BTreeSet::new();
    for announcement in ANNOUNCEMENT.captures_iter(text) {
        let (Some(whole), Some(between)) = (announcement.get(0), announcement.get(1)) else {
            continue;
        };
        let before = &text[..between.end()];
        if NEGATION.is_match(before) {
            continue;
        }
        let behind = &text[whole.end()..];
        named.extend(mark_at(behind, options.len()).or_else(|| text_at(behind, options)));
    }
    named
}

/// The option whose mark `text` starts with: `c.`, `(c)`, `caption c:`, `option c`.
fn mark_at(text: &str, count: usize) -> Option<usize> {
    let (is_named, rest) = match text.split_once(' ') {
        Some((word, rest)) if is_option_word(word) => (true, rest),
        _ => (false, text),
    };
    let rest = rest.strip_prefix('(').unwrap_or(rest);
    let index = match rest.bytes().next()? {
        letter @ b'a'..=b'z' => usize::from(letter - b'a'),
        digit @ b'1'..=b'9' if is_named => usize::from(digit - b'1'),
        _ => return None,
    };
    let ends = match rest.as_bytes().get(1) {
        None | Some(b'.' | b')' | b':' | b',') => true,
        Some(b' ') => is_named,
        Some(_) => false,
    };
    (ends && index < count).then_some(index)
}

/// The option whose text `text` starts with; of two, the longer.
fn text_at(text: &str, options: &[String]) -> Option<usize> {
    (0..options.len())
        .filter(|&index| {
            let option = &options[index];
            !option.is_empty() && text.starts_with(option.as_str()) && ends_word(text, option.len())
        })
        .max_by_key(|&index| options[index].len())
}

fn marked(text: &str, options: &[String]) -> BTreeSet<usize> {
    let mut named = BTreeSet::new();
    for place in occurrences(text, options) {
        if let Some(index) = mark_before(&text[..place.start]) {
            // A mark with another option's text is both.
            named.extend([index, place.option]);
        }
    }
    named
}

/// The mark that `text` ends with: `… c. `, `… (c) `, `… option 2: `.
fn mark_before(text: &str) -> Option<usize> {
    let word = text.trim_end().rsplit(' ').next()?;
    let label = word.trim_start_matches('(').strip_suffix(['.', ')', ':'])?;
    match label.trim_end_matches([')', '.']).as_bytes() {
        [letter @ b'a'..=b'z'] => Some(usize::from(letter - b'a')),
        [digit @ b'1'..=b'9'] => {
            let before = text.trim_end().strip_suffix(word)?.trim_end();
            let is_named = before.rsplit(' ').next().is_some_and(is_option_word);
            is_named.then(|| usize::from(digit - b'1'))
        }
        _ => None,
    }
}

/// Options whose text stands somewhere, none of them negated.
fn told(text: &str, options: &[String]) -> BTreeSet<usize> {
    let places = occurrences(text, options);
    let named: BTreeSet<usize> = places.iter().map(|place| place.option).collect();
    let negated = places
        .iter()
        .any(|place| NEGATION.is_match(&text[..place.start]));
    if negated { BTreeSet::new() } else { named }
}

/// Where an option's text stands.
struct Place {
    option: usize,
    start: usize,
    end: usize,
}

/// Where option texts stand as whole words, but not within a longer option's.
fn occurrences(text: &str, options: &[String]) -> Vec<Place> {
    let mut places = Vec::new();
    for (option, words) in options.iter().enumerate() {
        if words.chars().filter(|c| c.is_alphanumeric()).count() < SHORTEST_TEXT {
            continue;
        }
        for (start, _) in text.match_indices(words.as_str()) {
            let end = start + words.len();
            let starts_word = text[..start]
                .chars()
                .next_back()
                .is_none_or(|c| !in_word(c));
            if starts_word && ends_word(text, end) {
                places.push(Place { option, start, end });
            }
        }
    }
    let is_part = |one: &Place| {
        places.iter().any(|other| {
            other.start <= one.start
                && one.end <= other.end
                && other.end - other.start > one.end - one.start
        })
    };
    let parts: Vec<bool> = places.iter().map(is_part).collect();
    let whole = places.into_iter().zip(parts);
    whole
        .filter(|(_, part)| !part)
        .map(|(place, _)| place)
        .collect()
}

fn ends_word(text: &str, end: usize) -> bool {
    text[end..].chars().next().is_none_or(|c| !in_word(c))
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, options: &[&str]) -> Result<usize, Unreadable> {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        named_option(text, &options)
    }

    #[test]
    fn one_option_that_a_sentence_names_is_read() {
        let directions = ["falling slowly", "rising", "standing still"];
        for (text, index) in [
            (
                "The best option is B. rising. The balloon was never falling slowly.",
                1,
            ),
            ("So the answer is (C).", 2),
            ("The correct option would be: standing still", 2),
            (
                "The best choice for this clip is **A. falling slowly**, as one sees.",
                0,
            ),
            ("B) rising\n\nThe balloon leaves the ground.", 1),
            ("The balloon is rising in all of it.", 1),
            (
                "I think the answer could be B, but the best option is: B.",
                1,
            ),
        ] {
            assert_eq!(read(text, &directions), Ok(index), "{text}");
        }
        let captions = ["A boat sinks.", "A boat is repaired."];
        for (text, index) in [
            (
                "The best caption for the clip is:\n\nCaption B: A boat is repaired.\n\nOne sees a hammer.",
                1,
            ),
            ("Option 1: A boat sinks. It is full of water.", 0),
            (
                "The caption that matches is Sentence A, since it goes under.",
                0,
            ),
        ] {
            assert_eq!(read(text, &captions), Ok(index), "{text}");
        }
    }

    #[test]
    fn several_none_or_a_negated_one_are_not() {
        let directions = ["falling slowly", "rising", "standing still"];
        for text in [
            "It is not rising.",
            "The answer could be any.",
            "Neither answer is B.",
            "A balloon moves.",
            "",
        ] {
            assert_eq!(read(text, &directions), Err(Unreadable::NoTags), "{text}");
        }
        for text in [
            "First it is rising, then standing still.",
            "The answer is A. Or the answer is B.",
            "A. falling slowly and then B. rising",
            "A. rising then",
        ] {
            assert_eq!(
                read(text, &directions),
                Err(Unreadable::Contradiction),
                "{text}"
            );
        }
    }

    #[test]
    fn short_texts_are_not_looked_for_in_sentences() {
        assert_eq!(
            read("A cat sat on 2 mats.", &["a", "2", "red"]),
            Err(Unreadable::NoTags)
        );
        assert_eq!(read("The answer is red", &["a", "2", "red"]), Ok(2));
        let within = ["speed", "normal speed"];
        assert_eq!(read("It runs at normal speed here", &within), Ok(1));
    }
}
