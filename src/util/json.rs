//! JSON that people bring: read without dropping anything, and what is wrong with it in the words of who sees the file.

use crate::util::words::beginning;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Number;
use serde_json::Value;
use serde_json::error::Category;
use std::fmt;

/// Where a text is not what it should be, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Counted from 1.
    pub(crate) line: usize,
    /// In bytes, counted from 1.
    pub(crate) column: usize,
    /// What is wrong, and what to do.
    pub(crate) problem: String,
}

impl Unreadable {
    /// What [`serde_json`] refused in `text`.
    pub(crate) fn new(text: &[u8], error: &serde_json::Error) -> Self {
        Self {
            line: error.line(),
            column: error.column(),
            problem: problem(text, error),
        }
    }

    /// `line 3, column 5`.
    pub(crate) fn place(&self) -> String {
        format!("line {}, column {}", self.line, self.column)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.problem)
    }
}

/// Reads a value; a byte order mark may stand in front.
///
/// # Errors
/// Says where the text is not JSON, or not such a value.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unreadable> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    serde_json::from_slice(text).map_err(|error| Unreadable::new(text, &error))
}

/// A value in whose objects no key has two values: of these [`serde_json`] would keep the last.
#[derive(Debug)]
pub(crate) struct Distinct(pub(crate) Value);

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DistinctVisitor).map(Self)
    }
}

struct DistinctVisitor;

impl<'de> Visitor<'de> for DistinctVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Distinct(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, Distinct(value))) = entries.next_entry::<String, _>()? {
            match fields.get(&key) {
                Some(first) if *first != value => {
                    return Err(A::Error::custom(format!(
                        "`{key}` stands twice in one object, as {} and as {}: keep one of them",
                        shown(first),
                        shown(&value)
                    )));
                }
                _ => {
                    fields.insert(key, value);
                }
            }
        }
        Ok(fields.into())
    }
}

/// The beginning of a value, for messages.
fn shown(value: &Value) -> String {
    beginning(&value.to_string(), 60)
}

/// What a file's bytes are if they are no text that could be JSON, and what to do with it.
pub(crate) fn other_file(bytes: &[u8]) -> Option<&'static str> {
    no_text(bytes).or_else(|| stand_in(bytes))
}

/// What a file's bytes are if they are no text in UTF-8, or the pointer to a file, and what to do with it.
pub(crate) fn no_text(bytes: &[u8]) -> Option<&'static str> {
    packed(bytes)
        .or_else(|| other_encoding(bytes))
        .or_else(|| lfs_pointer(bytes))
}

/// What files with others inside begin with.
pub(crate) fn packed(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0x1f, 0x8b, ..] => "is compressed (gzip): unpack it with `gunzip`",
        [b'P', b'K', 3, 4, ..] => "is a zip archive: unpack it",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "is compressed (zstd): unpack it with `unzstd`",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "is compressed (xz): unpack it with `unxz`",
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => "is compressed (bzip2): unpack it with `bunzip2`",
        [b'P', b'A', b'R', b'1', ..] => "is a parquet file: give it a name that ends in .parquet",
        _ => return None,
    })
}

/// What bytes with zeros among them are, and what to do.
fn other_encoding(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [] => return None,
        _ if bytes.iter().all(|byte| *byte == 0) => {
            "holds zero bytes only: a download or a disk stopped; fetch it again"
        }
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] | [0, 0, 0, _, ..] | [_, 0, 0, 0, ..] => {
            "is text in UTF-32: save it as UTF-8 (`iconv -f UTF-32 -t UTF-8 OLD > NEW`)"
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            "is text in UTF-16: save it as UTF-8 (`iconv -f UTF-16 -t UTF-8 OLD > NEW`)"
        }
        [.., 0] => {
            "ends in zero bytes: it was being written when the machine or its disk stopped; write or fetch it again"
        }
        _ => return None,
    })
}

/// What text lies in a file's place after a fetch that went wrong, and what to do.
pub(crate) fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    let is_markup = text_of(bytes).first() == Some(&b'<');
    lfs_pointer(bytes).or(is_markup.then_some(
        "is a web page or XML, perhaps a server's error: a download went wrong; fetch the file itself",
    ))
}

/// Says that a file is what Git keeps in the place of a large one.
pub(crate) fn lfs_pointer(bytes: &[u8]) -> Option<&'static str> {
    text_of(bytes)
        .starts_with(b"version https://git-lfs.github.com/spec")
        .then_some("is a Git LFS pointer, not the file: fetch it with `git lfs pull`")
}

fn text_of(bytes: &[u8]) -> &[u8] {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    text.trim_ascii_start()
}

/// What a whole file is, if it is something else than JSON; what to do with it.
pub(crate) fn no_json(bytes: &[u8]) -> Option<&'static str> {
    other_file(bytes).or_else(|| is_table(bytes).then_some(TABLE))
}

/// A value that Python writes and JSON lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotANumber {
    /// Counted from 1.
    pub(crate) line: usize,
    /// The name before it, empty where there is none.
    pub(crate) field: String,
}

/// A text of JSON whose `NaN`, `Infinity` and `-Infinity` are null, and where they stood.
pub(crate) fn without_nan(text: String) -> (String, Vec<NotANumber>) {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return (text, Vec::new());
    }
    let bytes = text.as_bytes();
    let (mut written, mut found) = (String::with_capacity(text.len()), Vec::new());
    let (mut line, mut copied, mut at) = (1, 0, 0);
    let (mut opened, mut closed, mut field): (Option<usize>, &str, &str) = (None, "", "");
    // What stands before, blanks left out.
    let mut before = b',';
    while let Some(&byte) = bytes.get(at) {
        let is_value = opened.is_none() && matches!(before, b':' | b',' | b'[');
        let word = WORDS
            .iter()
            .find(|word| is_value && bytes[at..].starts_with(word.as_bytes()));
        match (byte, opened) {
            // No text goes on behind its line.
            (b'\n', _) => {
                line += 1;
                opened = None;
            }
            (b'\\', Some(_)) => at += 1,
            (b'"', Some(start)) => {
                closed = text.get(start..at).unwrap_or_default();
                opened = None;
            }
            (b'"', None) => opened = Some(at + 1),
            (b':', None) => field = closed,
            _ => {}
        }
        if let Some(word) = word {
            written.push_str(&text[copied..at]);
            written.push_str("null");
            copied = at + word.len();
            at = copied - 1;
            let field = field.to_owned();
            found.push(NotANumber { line, field });
        }
        if !byte.is_ascii_whitespace() {
            before = byte;
        }
        at += 1;
    }
    written.push_str(&text[copied..]);
    (written, found)
}

/// What is wrong with a text that [`serde_json`] refuses.
fn problem(text: &[u8], error: &serde_json::Error) -> String {
    if let Some(other) = no_json(text) {
        return other.to_owned();
    }
    if text.trim_ascii().is_empty() {
        return "holds nothing".to_owned();
    }
    if error.classify() == Category::Data {
        return in_words(error);
    }
    if error.is_eof() {
        return "breaks off before its end: it was cut while it was written or copied, or an object stands on several lines of a \
                .jsonl file"
            .to_owned();
    }
    let line = text
        .split(|byte| *byte == b'\n')
        .nth(error.line().max(1) - 1);
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    syntax(&line, error.column(), &message(error))
}

/// How a table becomes lines.
pub(crate) const TABLE: &str = "looks like a table (CSV), no JSON: call the file .csv, or .tsv where tabs stand between the cells";

/// The same behind a list of names that a file may have.
pub(crate) const TABLE_AS_LINES: &str =
    "; `videothinker data import OLD.csv --out NEW.jsonl` makes lines of a table";

/// Whether a text is rows of cells.
fn is_table(text: &[u8]) -> bool {
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let is_json = matches!(
        first.trim_ascii_start().first(),
        Some(b'{' | b'[' | b'}' | b']' | b'\'')
    );
    let separators = [b',', b'\t', b';'];
    let count = |line: &[u8], of: u8| line.split(|byte| *byte == of).count();
    !is_json
        && lines.next().is_some_and(|second| {
            separators
                .iter()
                .any(|&of| count(first, of) > 1 && count(second, of) >= count(first, of))
        })
}

/// What is wrong at a column (counted from 1) of a line.
fn syntax(line: &str, column: usize, message: &str) -> String {
    let at = column.saturating_sub(1).min(line.len());
    let at = (0..=at).rev().find(|at| line.is_char_boundary(*at));
    let at = at.unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let start = line[..at].trim_end_matches(is_word).len();
    let behind = &line[start..];
    let length = behind.find(|c: char| !is_word(c)).unwrap_or(behind.len());
    let word = &behind[..length];
    let here = line[at..].chars().next();
    match (word, here) {
        ("True" | "False" | "None", _) => {
            let right = match word {
                "None" => "null".to_owned(),
                other => other.to_lowercase(),
            };
            format!("{word} is Python's, JSON has {right}: write the file with json.dumps")
        }
        ("NaN" | "nan" | "Infinity" | "-Infinity" | "inf" | "-inf", _) => {
            format!("{word} is no JSON, write null")
        }
        (_, Some('\'')) => {
            "single quotes, where JSON has double ones: write the file with json.dumps".to_owned()
        }
        (_, Some('/' | '#')) if !message.starts_with("invalid escape") => {
            "a comment: JSON has none, remove it".to_owned()
        }
        _ => {
            let shown = beginning(line[if word.is_empty() { at } else { start }..].trim(), 30);
            of_message(message, &shown)
        }
    }
}

fn of_message(message: &str, behind: &str) -> String {
    match message {
        "trailing comma" => "a comma stands before the closing bracket: remove it".to_owned(),
        "trailing characters" => format!(
            "`{behind}` stands behind the end: a .jsonl file has one object a line, a .json file one list"
        ),
        "key must be a string" => format!("a name without double quotes: `{behind}`"),
        "invalid escape" => "a backslash that means nothing: write two of them".to_owned(),
        message if message.starts_with("control character") => {
            "a line break or a tab inside a text: write \\n or \\t".to_owned()
        }
        message if message.starts_with("expected `,`") => {
            format!("a comma or a closing bracket is missing before `{behind}`")
        }
        "expected `:`" => format!("a colon is missing before `{behind}`"),
        "expected value" | "expected ident" => format!("no JSON at `{behind}`"),
        "recursion limit exceeded" => "brackets in brackets, too deep".to_owned(),
        other => format!("no JSON at `{behind}` ({other})"),
    }
}

/// A reader's message without its place.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// What a value that is JSON lacks to be what is read, without the reader's terms.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let message = message(error);
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("the field {field} is missing");
    }
    let types = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, wanted)) = types.and_then(|types| types.rsplit_once(", expected ")) {
        return format!(
            "{} stands where {} belongs",
            found_in_words(found),
            wanted_in_words(wanted)
        );
    }
    if let Some((found, known)) = message
        .strip_prefix("unknown variant ")
        .and_then(|rest| rest.split_once(", expected "))
    {
        let known = known.strip_prefix("one of ").unwrap_or(known);
        return format!("{found} is none of {known}");
    }
    message
}

fn found_in_words(found: &str) -> String {
    match found.split_once(' ') {
        Some(("string", text)) => format!("the text {}", beginning(text, 60)),
        Some(("integer", number)) => format!("the number {}", number.trim_matches('`')),
        Some(("floating", rest)) => {
            let number = rest.trim_start_matches("point ").trim_matches('`');
            format!("the number {number}")
        }
        Some(("boolean", value)) => value.trim_matches('`').to_owned(),
        Some(("unit", _)) => "null".to_owned(),
        _ => match found {
            "map" => "an object".to_owned(),
            "sequence" => "a list".to_owned(),
            other => other.to_owned(),
        },
    }
}

fn wanted_in_words(wanted: &str) -> &str {
    match wanted {
        "a string" | "a borrowed string" | "path string" => "a text",
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        wanted if wanted.starts_with("struct ") => "an object",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problem_of(text: impl AsRef<[u8]>) -> String {
        read::<Distinct>(text.as_ref()).unwrap_err().problem
    }

    #[test]
    fn what_a_person_sees_is_said() {
        for (text, said) in [
            (r#"{"a": 1, "b": "x"#, "breaks off"),
            (r#"{"a": "#, "breaks off"),
            (r"{'a': 1}", "single quotes"),
            (r#"{"a": 'x'}"#, "single quotes"),
            (r#"{"a": 1,}"#, "comma stands before"),
            (r#"["a", ]"#, "comma stands before"),
            (r#"{"a": True}"#, "True is Python's, JSON has true"),
            (r#"{"a": None}"#, "JSON has null"),
            (r#"{"a": NaN}"#, "NaN is no JSON, write null"),
            (r#"{"a": nan}"#, "nan is no JSON"),
            (r#"{"a": -Infinity}"#, "-Infinity is no JSON"),
            (r"{a: 1}", "a name without double quotes: `a: 1}`"),
            ("{\"a\": \"x\ty\"}", "a line break or a tab"),
            (r#"{"a": 1} {"a": 2}"#, "stands behind the end"),
            (r#"{"a": 1 "b": 2}"#, "missing before `\"b\": 2}`"),
            (r#"{"a" 1}"#, "a colon is missing before `1}`"),
            (r#"{"a": "C:\data"}"#, "write two of them"),
            ("// mine\n{}", "a comment"),
            ("# mine\n{}", "a comment"),
            ("hello", "no JSON at `hello`"),
            (" \n", "holds nothing"),
            (
                "problem,video\n\"Why, then?\",a.mp4\n",
                "call the file .csv",
            ),
            ("id\tproblem\n1\tWhy?\n", "call the file .csv"),
            ("<!DOCTYPE html>\n<html>", "a web page"),
            ("{\"a\": 1}\n\0\0\0", "ends in zero bytes"),
            ("\0\0\0\0", "holds zero bytes only"),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "git lfs pull",
            ),
        ] {
            let problem = problem_of(text);
            assert!(problem.contains(said), "{text}: {problem}");
            for word in ["at line", "expected", "EOF", "ident"] {
                assert!(!problem.contains(word), "{text}: {problem}");
            }
        }
        for (bytes, said) in [
            (&b"\x1f\x8b\x08\0\0"[..], "gunzip"),
            (b"PK\x03\x04", "zip"),
            (b"PAR1\x15", ".parquet"),
            (b"\xff\xfe{\0\"\0", "UTF-16"),
            (b"{\0\"\0a\0", "UTF-16"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32"),
            (b"\0\0\0{\0\0\0\"", "UTF-32"),
            (b"PK\x03\x04\0\0", "zip"),
        ] {
            assert!(problem_of(bytes).contains(said), "{said}");
        }
    }

    #[test]
    fn what_is_no_number_is_null_and_texts_keep_their_words() {
        let text = "{\"a\": NaN, \"t\": \"x, NaN: \\\"NaN\", \"NaN\": 1,\n\"b\": [1, -Infinity,Infinity]}\n{\"c\":\nNaN}";
        let (read, found) = without_nan(text.to_owned());
        let nulls = "{\"a\": null, \"t\": \"x, NaN: \\\"NaN\", \"NaN\": 1,\n\"b\": [1, null,null]}\n{\"c\":\nnull}";
        assert_eq!(read, nulls);
        let places: Vec<_> = found
            .iter()
            .map(|at| (at.line, at.field.as_str()))
            .collect();
        assert_eq!(places, [(1, "a"), (2, "b"), (2, "b"), (4, "c")]);
        // Another error is found where it stands.
        for other in ["{\"a\": NaNs}", "{\"a: NaN}\n{\"b\": 1}", "NaN is no list"] {
            let (read, _) = without_nan(other.to_owned());
            assert!(serde_json::from_str::<Value>(&read).is_err(), "{read}");
        }
    }

    #[test]
    fn two_values_of_one_key_are_refused_and_equal_ones_are_one() {
        let text = b"[{\"a\": 1},\n {\"solution\": \"A\", \"x\": {}, \"solution\": \"B\"}]";
        let error = read::<Distinct>(text).unwrap_err();
        assert_eq!(error.line, 2);
        assert_eq!(
            error.problem,
            "`solution` stands twice in one object, as \"A\" and as \"B\": keep one of them"
        );
        let text = r#"{"a": [1, -2, 0.5, true, null, "ä"], "b": {"c": {}}, "a": [1, -2, 0.5, true, null, "ä"]}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(read::<Distinct>(text.as_bytes()).unwrap().0, expected);
    }

    #[test]
    fn types_are_told_without_the_readers_terms() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Read {
            count: usize,
            #[serde(default)]
            names: Vec<String>,
        }
        for (value, said) in [
            (json!({}), "the field `count` is missing"),
            (
                json!({"count": "x"}),
                "the text \"x\" stands where a whole number belongs",
            ),
            (
                json!({"count": -1}),
                "the number -1 stands where a whole number belongs",
            ),
            (
                json!({"count": 1.5}),
                "the number 1.5 stands where a whole number belongs",
            ),
            (
                json!({"count": null}),
                "null stands where a whole number belongs",
            ),
            (
                json!({"count": 1, "names": {}}),
                "an object stands where a list belongs",
            ),
            (
                json!({"count": 1, "names": [true]}),
                "true stands where a text belongs",
            ),
        ] {
            let error = serde_json::from_value::<Read>(value).unwrap_err();
            assert_eq!(in_words(&error), said);
        }
    }
}
