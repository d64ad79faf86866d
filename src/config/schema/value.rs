//! A value against its setting: whether it is one of its kind and in its range, and what is said where it is not.

use super::Setting;
use super::ValueType;
use super::plain;
use serde_json::Number;
use toml::de::DeValue;

impl Setting {
    /// The range in words.
    fn bounds(&self) -> String {
        let bounds = [
            ("at least", &self.minimum),
            ("above", &self.exclusive_minimum),
            ("at most", &self.maximum),
            ("below", &self.exclusive_maximum),
        ];
        let bounds = bounds.iter().filter_map(|(word, bound)| {
            let bound = plain(bound.as_ref()?);
            Some(format!("{word} {bound}"))
        });
        bounds.collect::<Vec<_>>().join(" and ")
    }

    fn of_bounds(&self, noun: &str) -> String {
        let bounds = self.bounds();
        let of = if bounds.starts_with("at ") { "of " } else { "" };
        format!("{noun} {of}{bounds}")
    }

    /// What a value must be, in words that go on from "must be".
    fn expected(&self) -> String {
        match (self.value_type, &self.items) {
            (ValueType::Boolean, _) => "true or false".to_owned(),
            (ValueType::Integer, _) => self.of_bounds("a whole number"),
            (ValueType::Number, _) => self.of_bounds("a number"),
            (ValueType::String, _) if self.one_of.is_empty() => "text in quotes".to_owned(),
            (ValueType::String, _) => {
                let words = self.one_of.iter().map(|choice| &choice.word);
                let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
                match words.split_last() {
                    Some((last, [])) => last.clone(),
                    Some((last, others)) => format!("{} or {last}", others.join(", ")),
                    None => String::new(),
                }
            }
            (ValueType::Array, None) => "a list in brackets".to_owned(),
            (ValueType::Array, Some(items)) => {
                format!("a list in brackets, each item {}", items.expected())
            }
        }
    }

    fn refused(&self, shown: &str) -> String {
        format!("is {shown}, must be {}", self.expected())
    }

    /// The value as one of this setting's type; its range is not looked at.
    ///
    /// # Errors
    /// What is wrong and what it must be.
    pub(in crate::config) fn read(&self, value: &DeValue<'_>) -> Result<toml::Value, String> {
        let read = match (self.value_type, value) {
            (ValueType::Boolean, DeValue::Boolean(value)) => Some(toml::Value::Boolean(*value)),
            (ValueType::Integer, DeValue::Integer(value)) => {
                let value = i64::from_str_radix(value.as_str(), value.radix());
                value.ok().map(toml::Value::Integer)
            }
            (ValueType::Number, DeValue::Integer(value)) => {
                let value = i64::from_str_radix(value.as_str(), value.radix());
                value.ok().map(|value| toml::Value::Float(value as f64))
            }
            (ValueType::Number, DeValue::Float(value)) => {
                value.as_str().parse().ok().map(toml::Value::Float)
            }
            (ValueType::String, DeValue::String(text)) => {
                let known = self.one_of.iter().any(|choice| choice.word == *text);
                (known || self.one_of.is_empty()).then(|| text.clone().into_owned().into())
            }
            (ValueType::Array, DeValue::Array(values)) => {
                let items = self.items.as_deref().unwrap_or(self);
                let read = values.iter().map(|value| items.read(value.get_ref()));
                let read = read.collect::<Result<Vec<_>, _>>();
                return read
                    .map(toml::Value::Array)
                    .map_err(|wrong| format!("an item {wrong}"));
            }
            _ => None,
        };
        read.ok_or_else(|| self.refused(&shown(value)))
    }

    /// The value of a `--set` argument: TOML where it is TOML; a bare word is text, and words with commas are a list where a list is
    /// expected.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(in crate::config) fn parse(&self, text: &str) -> Result<toml::Value, String> {
        let parsed = DeValue::parse(text).ok();
        let parsed = parsed.as_ref().map(toml::Spanned::get_ref);
        let bare = DeValue::String(text.into());
        match (self.value_type, parsed) {
            (ValueType::String, Some(word @ DeValue::String(_))) => self.read(word),
            (ValueType::String, _) => self.read(&bare),
            (ValueType::Array, Some(list @ DeValue::Array(_))) => self.read(list),
            (ValueType::Array, None) if text.starts_with('[') => Err(self.refused(text)),
            (ValueType::Array, _) => {
                let items = self.items.as_deref().unwrap_or(self);
                let words = text
                    .split(',')
                    .map(str::trim)
                    .filter(|word| !word.is_empty());
                let read = words.map(|word| items.parse(word));
                let read = read.collect::<Result<Vec<_>, _>>();
                read.map(toml::Value::Array)
                    .map_err(|wrong| format!("an item {wrong}"))
            }
            (_, Some(value)) => self.read(value),
            (_, None) => self.read(&bare),
        }
    }

    /// Checks a value of the right type against the range.
    ///
    /// # Errors
    /// What is wrong and what to do.
    pub(in crate::config) fn check(&self, value: &toml::Value) -> Result<(), String> {
        if let (toml::Value::Array(values), Some(items)) = (value, &self.items) {
            let mut values = values.iter();
            values
                .try_for_each(|value| items.check(value))
                .map_err(|wrong| format!("an item {wrong}"))?;
        }
        let Some(keyword) = self.violated(value) else {
            return Ok(());
        };
        let shown = match value {
            toml::Value::String(text) if text.is_empty() => "empty".to_owned(),
            other => shortened(&other.to_string()),
        };
        Err(match self.error_message.get(keyword) {
            Some(message) => format!("is {shown}, {message}"),
            None if keyword == "uniqueItems" => format!("is {shown}, must name each once"),
            None if keyword == "type" => self.refused(&shown),
            None => format!("is {shown}, must be {}", self.meets(keyword)),
        })
    }

    /// What a value that meets `keyword` is.
    fn meets(&self, keyword: &str) -> String {
        match (keyword, self.multiple_of, &self.pattern) {
            ("minLength", _, _) if self.min_length == 1 => "at least a letter".to_owned(),
            ("minLength", _, _) => format!("at least {} letters", self.min_length),
            ("multipleOf", Some(of), _) => format!("a multiple of {of}"),
            ("pattern", _, Some(pattern)) => format!("like {pattern}"),
            _ => self.bounds(),
        }
    }

    /// The first keyword of the schema that a value does not meet.
    fn violated(&self, value: &toml::Value) -> Option<&'static str> {
        let number = match value {
            toml::Value::Integer(number) => Some(*number as f64),
            toml::Value::Float(number) => Some(*number),
            _ => None,
        };
        let outside = |bound: &Option<Number>, is_within: fn(f64, f64) -> bool| {
            let pair = number.zip(bound.as_ref().and_then(Number::as_f64));
            pair.is_some_and(|(number, bound)| !is_within(number, bound))
        };
        let text = value.as_str();
        let repeats = || {
            let values = value.as_array()?;
            let mut seen = values.iter().enumerate();
            Some(seen.any(|(index, value)| values[..index].contains(value)))
        };
        let keywords = [
            ("type", number.is_some_and(|number| !number.is_finite())),
            (
                "minimum",
                outside(&self.minimum, |number, bound| number >= bound),
            ),
            (
                "exclusiveMinimum",
                outside(&self.exclusive_minimum, |number, bound| number > bound),
            ),
            (
                "maximum",
                outside(&self.maximum, |number, bound| number <= bound),
            ),
            (
                "exclusiveMaximum",
                outside(&self.exclusive_maximum, |number, bound| number < bound),
            ),
            (
                "multipleOf",
                value
                    .as_integer()
                    .zip(self.multiple_of)
                    .is_some_and(|(number, of)| number % of != 0),
            ),
            (
                "minLength",
                text.is_some_and(|text| text.chars().count() < self.min_length),
            ),
            (
                "pattern",
                text.zip(self.pattern.as_ref())
                    .is_some_and(|(text, pattern)| !pattern.is_match(text)),
            ),
            (
                "uniqueItems",
                self.unique_items && repeats().unwrap_or(false),
            ),
        ];
        let mut violated = keywords.iter().filter(|(_, is_violated)| *is_violated);
        violated.next().map(|(keyword, _)| *keyword)
    }
}

/// A value as its file has it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let text = toml::Value::String(text.clone().into_owned());
            shortened(&text.to_string())
        }
        DeValue::Integer(number) => shortened(&number.to_string()),
        DeValue::Float(number) => shortened(number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The beginning of a long text.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
