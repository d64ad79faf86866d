//! What transformers adds to Jinja for chat templates, as Python does it.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};
use regex::Regex;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::sync::LazyLock;

/// `{% generation %}` and `{% endgeneration %}`, with the signs of whitespace control.
static GENERATION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());

/// The template in which the tags that mark what a model has written are those of a plain scope: what is set inside of either
/// is not seen outside.
pub(super) fn without_generation_tags(source: &str) -> String {
    let replaced = GENERATION.as_ref().map_or(Cow::Borrowed(source), |tags| {
        tags.replace_all(source, "{%$1 ${2}with $3%}")
    });
    replaced.into_owned()
}

/// Writes a value as Python prints it.
pub(super) fn format(
    out: &mut Output<'_>,
    state: &State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let word = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(word).map_err(Error::from)
}

/// `json.dumps`, by default without escapes and with a blank behind each comma and colon.
#[expect(clippy::needless_pass_by_value, reason = "minijinja passes these so")]
pub(super) fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "not to be written as JSON").with_source(error)
    };
    let json = serde_json::to_value(&value).map_err(failed)?;
    let indent = options.get::<Option<Value>>("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| {
        let count = indent.as_usize();
        count.map_or_else(|| indent.to_string(), |count| " ".repeat(count))
    });
    let separators = options.get::<Option<Value>>("separators")?;
    let separators = separators.filter(|separators| !separators.is_none());
    let own = if indent.is_some() { "," } else { ", " };
    let [between, behind_key] = match separators {
        Some(pair) => [
            pair.get_item_by_index(0)?.to_string(),
            pair.get_item_by_index(1)?.to_string(),
        ],
        None => [own.to_owned(), ": ".to_owned()],
    };
    let writer = Writer {
        indent,
        between,
        behind_key,
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut text = String::new();
    writer.write(&json, 0, &mut text);
    Ok(text)
}

struct Writer {
    indent: Option<String>,
    between: String,
    behind_key: String,
    sorted: bool,
    ascii: bool,
}

impl Writer {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) => {
                let items = items.iter().map(|item| (None, item));
                self.all('[', ']', items.collect(), depth, out);
            }
            Json::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| (Some(key), value));
                let mut fields: Vec<_> = fields.collect();
                if self.sorted {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.all('{', '}', fields, depth, out);
            }
            Json::String(text) => self.string(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn all(
        &self,
        open: char,
        close: char,
        entries: Vec<(Option<&String>, &Json)>,
        depth: usize,
        out: &mut String,
    ) {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        let is_empty = entries.is_empty();
        out.push(open);
        for (number, (key, value)) in entries.into_iter().enumerate() {
            if number > 0 {
                out.push_str(&self.between);
            }
            line(depth + 1, out);
            if let Some(key) = key {
                self.string(key, out);
                out.push_str(&self.behind_key);
            }
            self.write(value, depth + 1, out);
        }
        if !is_empty {
            line(depth, out);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        for c in Json::from(text).to_string().chars() {
            if self.ascii && !c.is_ascii() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(c);
            }
        }
    }
}

/// `datetime.now().strftime(format)`: the time here and now.
#[cfg(unix)]
#[expect(
    unsafe_code,
    reason = "the system's calendar, which knows the time zone"
)]
#[expect(clippy::needless_pass_by_value, reason = "minijinja passes these so")]
pub(super) fn strftime_now(format: String) -> Result<String, Error> {
    let failed = || Error::new(ErrorKind::InvalidOperation, "strftime_now: no such format");
    // A sign in front: an empty result would look like a buffer that is too small.
    let format = std::ffi::CString::new(format!(".{format}")).map_err(|_| failed())?;
    let mut text = vec![0u8; 4096];
    // SAFETY: `tm` is plain numbers and a pointer that localtime_r sets; the buffer's length is given, and the format ends in 0.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut calendar: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&raw const now, &raw mut calendar).is_null() {
            return Err(failed());
        }
        libc::strftime(
            text.as_mut_ptr().cast(),
            text.len(),
            format.as_ptr(),
            &raw const calendar,
        )
    };
    text.truncate(length);
    let text = String::from_utf8(text).map_err(|_| failed())?;
    text.strip_prefix('.').map(str::to_owned).ok_or_else(failed)
}

/// Only Unix systems are asked for their calendar.
#[cfg(not(unix))]
pub(super) fn strftime_now(_format: String) -> Result<String, Error> {
    let problem = "the template asks for the date, which is not known on this system";
    Err(Error::new(ErrorKind::InvalidOperation, problem))
}
