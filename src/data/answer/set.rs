//! An answer as a set of items: the text in its tags, split at commas.

use serde::Serialize;
use std::collections::BTreeSet;

pub(super) const OPEN: &str = "<answer>";
/// Closes it.
pub(super) const CLOSE: &str = "</answer>";

/// The items of an answer, normalised so that equal answers are equal sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Answer {
    items: BTreeSet<String>,
}

impl Answer {
    /// Reads a solution, or an answer that a rule has read: inside the first `<answer>` tags, else the whole text; white space
    /// is removed, commas separate, numbers take one spelling. Empty items do not count: `A,` is {A}.
    pub fn parse(text: &str) -> Self {
        let items = answer_text(text)
            .split(',')
            .map(|item| item.split_whitespace().collect::<String>())
            .filter(|item| !item.is_empty())
            .map(|item| with_one_number_spelling(&item))
            .collect();
        Self { items }
    }

    /// Reads what a model wrote as the authors' reward does: inside the first `<answer>` tags, else the whole text; spaces are
    /// removed, commas separate, numbers take one spelling. An empty item is one: `A,` is {A, nothing}.
    pub(crate) fn parse_as_rewarded(completion: &str) -> Self {
        let items = answer_text(completion)
            .replace(' ', "")
            .split(',')
            .map(|item| with_one_number_spelling(item.trim()))
            .collect();
        Self { items }
    }

    /// The items, sorted.
    pub(crate) fn items(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(String::as_str)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is answered.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether every item is an item of `truth`.
    pub(crate) fn is_subset(&self, truth: &Self) -> bool {
        self.items.is_subset(&truth.items)
    }

    /// Takes an item out; says whether it was there.
    pub(super) fn remove(&mut self, item: &str) -> bool {
        self.items.remove(item)
    }

    /// Whether this is one of the items.
    pub(super) fn contains(&self, item: &str) -> bool {
        self.items.contains(item)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items: Vec<&str> = self.items().collect();
        formatter.write_str(&items.join(","))
    }
}

/// The text inside the first `<answer>…</answer>`, if there are such tags.
pub(super) fn tagged(text: &str) -> Option<&str> {
    let (_, behind) = text.split_once(OPEN)?;
    let (inside, _) = behind.split_once(CLOSE)?;
    Some(inside)
}

/// What stands inside the first `<answer>` tags, else the whole text; trimmed.
pub(crate) fn answer_text(text: &str) -> &str {
    tagged(text).unwrap_or(text).trim()
}

/// What a solution says: what stands inside its tags, in any case of letters and even where they are not closed, else all.
pub(in crate::data) fn solution_text(text: &str) -> &str {
    // Byte positions stay valid: only ASCII letters change.
    let lower = text.to_ascii_lowercase();
    let Some(open) = lower.find(OPEN) else {
        // Closed and never opened.
        let end = lower.find(CLOSE).unwrap_or(text.len());
        return text[..end].trim();
    };
    let begin = open + OPEN.len();
    let length = lower[begin..].find(CLOSE);
    length
        .map_or(&text[begin..], |length| &text[begin..begin + length])
        .trim()
}

/// `3`, `3.0` and `+3` are one number; anything else, words that Rust also reads as numbers (`inf`) included, stays as it is.
fn with_one_number_spelling(item: &str) -> String {
    let looks_numeric = item
        .trim_start_matches(['+', '-'])
        .starts_with(|first: char| first.is_ascii_digit() || first == '.');
    match item.parse::<f64>() {
        Ok(number) if looks_numeric && number.is_finite() => {
            // Adding zero turns −0 into 0.
            (number + 0.0).to_string()
        }
        _ => item.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sets() {
        let truth = Answer::parse("<answer>C, A</answer>");
        assert_eq!(truth.to_string(), "A,C");
        assert_eq!(
            truth,
            Answer::parse("so <answer> A ,C,</answer> <answer>B</answer>")
        );
        assert!(Answer::parse("A").is_subset(&truth));
        assert!(!Answer::parse("A,B").is_subset(&truth));
        assert!(Answer::parse("<answer> </answer>").is_empty());
        assert_eq!(Answer::parse("3.0"), Answer::parse("3"));
        assert_eq!(Answer::parse("-0.0"), Answer::parse("0"));
        assert_ne!(Answer::parse("inf"), Answer::parse("infinity"));
    }
}
