//! What of a text's spelling does not count.

use super::set::Answer;
use std::borrow::Cow;

/// Without what people put around an answer: spaces, emphasis, quotes, formula signs, a full stop.
pub(super) fn unwrapped(text: &str) -> &str {
    const PAIRS: [(&str, &str); 8] = [
        ("**", "**"),
        ("*", "*"),
        ("`", "`"),
        ("\"", "\""),
        ("'", "'"),
        ("$", "$"),
        ("\\boxed{", "}"),
        ("\\text{", "}"),
    ];
    let mut text = text.trim();
    loop {
        let inner = PAIRS
            .iter()
            .find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close));
        let next = inner
            .unwrap_or(text)
            .trim()
            .trim_end_matches(['.', '!', ',', ';', '。']);
        if next == text {
            return text;
        }
        text = next;
    }
}

/// Full-width letters, digits and signs (`Ｂ`, `（`, `，`) and the full stop, comma and space of Chinese and Japanese in ASCII.
pub(in crate::data) fn half_width(text: &str) -> Cow<'_, str> {
    const FULL_WIDTH: std::ops::RangeInclusive<char> = '\u{ff01}'..='\u{ff5e}';
    const OFFSET: u32 = '\u{ff01}' as u32 - '!' as u32;
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let folded = text.chars().map(|c| match c {
        '。' => '.',
        '、' => ',',
        '\u{3000}' => ' ',
        c if FULL_WIDTH.contains(&c) => char::from_u32(c as u32 - OFFSET).unwrap_or(c),
        c => c,
    });
    Cow::Owned(folded.collect())
}

/// What follows the mark of a list's entry, `- …`, `* …` or `• …`; `None` without one.
pub(super) fn behind_bullet(line: &str) -> Option<&str> {
    let behind = line.strip_prefix(['-', '*', '•'])?;
    behind
        .starts_with(char::is_whitespace)
        .then(|| unwrapped(behind))
}

/// Lower case, single spaces, nothing around it, half width, numbers in one spelling.
pub(super) fn normalised(text: &str) -> String {
    let text = half_width(text);
    let words: Vec<String> = unwrapped(&text)
        .split_whitespace()
        .map(str::to_lowercase)
        .collect();
    let text = words.join(" ");
    if text.parse::<f64>().is_err() {
        return text;
    }
    Answer::parse(&text).to_string()
}
