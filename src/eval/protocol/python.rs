//! The texts in other people's Python files: string literals by the name that they are assigned to. No code is run.

/// The first text that is not empty among those assigned to `name` (`name = "…"`, `name="…"`, `name = Template("…")`).
/// Literals that follow each other are one text, as in Python.
pub(super) fn text(source: &str, name: &str) -> Option<String> {
    assignments(source, name).find_map(|value| {
        let inner = value.trim_start();
        let inner = inner.strip_prefix("Template").unwrap_or(inner).trim_start();
        let inner = inner.strip_prefix('(').unwrap_or(inner);
        let (text, behind) = literals(inner)?;
        (!text.is_empty() && ends_value(behind)).then_some(text)
    })
}

/// The text under `key` in the dictionary of texts assigned to `name`.
pub(super) fn entry(source: &str, name: &str, key: &str) -> Option<String> {
    assignments(source, name).find_map(|value| {
        let mut rest = value.trim_start().strip_prefix('{')?;
        loop {
            let (found, behind) = literals(rest)?;
            let (text, behind) = literals(skip_blank(behind).strip_prefix(':')?)?;
            if found == key {
                return ends_value(behind).then_some(text);
            }
            rest = skip_blank(behind).strip_prefix(',')?;
        }
    })
}

/// What stands behind each `name =` that is not in a comment.
fn assignments<'a>(source: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    source.match_indices(name).filter_map(move |(start, _)| {
        let line = &source[source[..start].rfind('\n').map_or(0, |end| end + 1)..start];
        let is_name = !line.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        let value = source[start + name.len()..]
            .trim_start()
            .strip_prefix('=')?;
        (is_name && !line.contains('#') && !value.starts_with('=')).then_some(value)
    })
}

/// Without white space, comments and continued lines in front.
fn skip_blank(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix('#') {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(continued) = rest.strip_prefix("\\\n") {
            continued
        } else {
            return rest;
        }
        .trim_start();
    }
}

/// Whether a value is over here: it is no part of an expression such as `"…" % x`.
fn ends_value(behind: &str) -> bool {
    let line = behind.trim_start_matches([' ', '\t']);
    line.is_empty() || line.starts_with(['\n', '#', ',', ')', '}', ';'])
}

/// The literals that `text` starts with, put together, and what follows them.
fn literals(text: &str) -> Option<(String, &str)> {
    let (mut whole, mut rest) = literal(skip_blank(text))?;
    while let Some((more, behind)) = literal(skip_blank(rest)) {
        whole.push_str(&more);
        rest = behind;
    }
    Some((whole, rest))
}

/// One literal with its prefix and quotes, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let quoted = text.trim_start_matches(['r', 'R', 'f', 'F', 'b', 'B', 'u', 'U']);
    let prefix = text[..text.len() - quoted.len()].to_ascii_lowercase();
    if prefix.len() > 2 {
        return None;
    }
    let quote = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quote| quoted.starts_with(quote))?;
    let (is_raw, is_format) = (prefix.contains('r'), prefix.contains('f'));
    let mut value = String::new();
    let mut rest = &quoted[quote.len()..];
    loop {
        if let Some(behind) = rest.strip_prefix(quote) {
            return Some((value, behind));
        }
        let mut chars = rest.chars();
        match (chars.next()?, chars.clone().next()) {
            ('\\', Some(escaped)) => {
                chars.next();
                match escaped {
                    _ if is_raw => value.extend(['\\', escaped]),
                    '\n' => {}
                    'n' => value.push('\n'),
                    't' => value.push('\t'),
                    'x' | 'u' => {
                        let length = if escaped == 'x' { 2 } else { 4 };
                        let digits = chars.as_str().get(..length)?;
                        value.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                        chars.nth(length - 1);
                    }
                    '\\' | '\'' | '"' => value.push(escaped),
                    other => value.extend(['\\', other]),
                }
            }
            ('\n', _) if quote.len() == 1 => return None,
            (brace @ ('{' | '}'), Some(next)) if is_format && brace == next => {
                chars.next();
                value.push(brace);
            }
            (other, _) => value.push(other),
        }
        rest = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
# WORDS = "in a comment"
def ask(system="", words=None):
    pass
OTHER_WORDS = 'no'
WORDS = (
    "One\n"  # said first
    'Two "quoted" '
    f"{question} and {{braces}}"
)
assert WORDS == "x"
TEXTS = {
    # "old": "gone",
    "new": "\nGive it:",    # kept
    'last': """Many
lines\
 here"""
}
PLAIN = Template("""
Question: $question
$$LETTER""")
ask(system="Look.\n", words=r'a\nb')
"#;

    #[test]
    fn texts_are_found_by_name() {
        assert_eq!(
            text(SOURCE, "WORDS").as_deref(),
            Some("One\nTwo \"quoted\" {question} and {braces}")
        );
        assert_eq!(text(SOURCE, "system").as_deref(), Some("Look.\n"));
        assert_eq!(text(SOURCE, "words").as_deref(), Some("a\\nb"));
        assert_eq!(
            text(SOURCE, "PLAIN").as_deref(),
            Some("\nQuestion: $question\n$$LETTER")
        );
        assert_eq!(text(SOURCE, "ABSENT"), None);
        assert_eq!(text("WORDS = \"unclosed", "WORDS"), None);
        assert_eq!(text("WORDS = 3", "WORDS"), None);
        assert_eq!(text("W = \"a %s\" % x", "W"), None);
        assert_eq!(text("W = \"a\" + \"b\"", "W"), None);
        assert_eq!(
            text("W = \"a\" \\\n    '\\x41\\u0042'\n", "W").as_deref(),
            Some("aAB")
        );
    }

    #[test]
    fn dictionaries_are_read_by_key() {
        assert_eq!(entry(SOURCE, "TEXTS", "new").as_deref(), Some("\nGive it:"));
        assert_eq!(
            entry(SOURCE, "TEXTS", "last").as_deref(),
            Some("Many\nlines here")
        );
        assert_eq!(entry(SOURCE, "TEXTS", "old"), None);
        assert_eq!(entry(SOURCE, "WORDS", "new"), None);
    }
}
