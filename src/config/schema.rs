//! Every setting as its field declares it: type, range, default, meaning. The loader, `--set`, hints, the book's tables,
//! `inspect config` and the schema for editors read it here and nowhere else.

use super::Config;
use super::foreign;
use regex::Regex;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde::Deserialize;
use serde_json::Number;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

mod value;

/// A setting, read off the JSON Schema of its field.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Setting {
    /// The key, with its table: `kl.coefficient`.
    #[serde(skip)]
    pub key: String,
    /// What it means: the field's doc comment on one line.
    #[serde(default, rename = "description")]
    pub doc: String,
    /// What kind of value it takes.
    #[serde(rename = "type")]
    pub value_type: ValueType,
    #[serde(default)]
    one_of: Vec<Choice>,
    /// What it is when nobody sets it; absent for one that is absent then.
    pub default: Option<Value>,
    /// How it may be written, where the default does not show that.
    #[serde(default)]
    pub examples: Vec<Value>,
    /// Between what it may differ although they are one run; absent: nowhere.
    #[serde(rename = "x-mayDiffer")]
    pub(crate) may_differ: Option<MayDiffer>,
    minimum: Option<Number>,
    maximum: Option<Number>,
    exclusive_minimum: Option<Number>,
    exclusive_maximum: Option<Number>,
    multiple_of: Option<i64>,
    #[serde(default)]
    min_length: usize,
    #[serde(default, deserialize_with = "compiled")]
    pattern: Option<Regex>,
    #[serde(default)]
    unique_items: bool,
    items: Option<Box<Setting>>,
    /// What to say instead of "must be …" where a keyword of the schema is not met.
    #[serde(default)]
    error_message: BTreeMap<String, String>,
}

fn compiled<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Regex>, D::Error> {
    let pattern = Cow::<str>::deserialize(deserializer)?;
    Regex::new(&pattern)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// The kinds of values, in JSON Schema's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer,
    /// Any finite number.
    Number,
    /// Text: words, paths, one of several choices.
    String,
    /// A list.
    Array,
}

/// A word that a setting may be.
#[derive(Debug, Clone, Deserialize)]
pub struct Choice {
    /// The word.
    #[serde(rename = "const")]
    pub word: String,
    /// What it means.
    #[serde(rename = "description")]
    pub doc: String,
}

/// Where a setting may have different values within one run: it changes where and when, and of the numbers at most how they
/// are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MayDiffer {
    /// Before and after a checkpoint, but not between the ranks.
    Parts,
    /// Also between the machines of one run.
    Machines,
}

impl Config {
    /// Every setting, in the order of the fields.
    pub fn settings() -> &'static [Setting] {
        static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
            let mut settings = Vec::new();
            collect("", Config::json_schema(), &mut settings);
            settings
        });
        &SETTINGS
    }

    /// The JSON Schema (draft 7) of a config file, for editors.
    pub(crate) fn json_schema() -> Value {
        let settings = SchemaSettings::draft07().with(|settings| {
            // Editors leave out what stands beside a reference.
            settings.inline_subschemas = true;
        });
        let of_toml = RecursiveTransform(for_toml as fn(&mut Schema));
        let generator = settings.with_transform(of_toml).into_generator();
        generator.into_root_schema_for::<Self>().to_value()
    }
}

/// TOML has no null: an absent setting is left out. Also leaves out Rust's number formats and the defaults of whole tables, whose
/// settings have them, and joins the lines of doc comments.
fn for_toml(schema: &mut Schema) {
    let is_null = |schema: &Value| schema["type"] == "null";
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".into(), one);
        }
    }
    if let Some(Value::Array(schemas)) = schema.get_mut("anyOf")
        && schemas.iter().any(is_null)
    {
        let inner = schemas.iter().find(|schema| !is_null(schema)).cloned();
        schema.remove("anyOf");
        for (keyword, value) in inner.iter().filter_map(Value::as_object).flatten() {
            if schema.get(keyword).is_none() {
                schema.insert(keyword.clone(), value.clone());
            }
        }
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if schema.get("properties").is_some() {
        schema.remove("default");
    }
    if schema.get("oneOf").is_some() {
        schema.insert("type".into(), "string".into());
    }
    schema.remove("format");
    if let Some(Value::String(doc)) = schema.get_mut("description") {
        *doc = doc.replace('\n', " ");
    }
}

/// Adds the settings of a table and of the tables in it. A field that is none is left out, which a test would see.
fn collect(prefix: &str, mut schema: Value, settings: &mut Vec<Setting>) {
    let Some(Value::Object(fields)) = schema.get_mut("properties").map(Value::take) else {
        return;
    };
    for (name, field) in fields {
        let key = join(prefix, &name);
        if field.get("properties").is_some() {
            collect(&key, field, settings);
        } else if let Ok(setting) = serde_json::from_value(field) {
            settings.push(Setting { key, ..setting });
        }
    }
}

pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}

/// The setting of a dotted key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    Config::settings().iter().find(|setting| setting.key == key)
}

/// Whether `key` names a table.
pub(super) fn is_table(key: &str) -> bool {
    let below = |setting: &Setting| {
        let rest = setting.key.strip_prefix(key);
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    Config::settings().iter().any(below)
}

/// What to say about a key that there is not: what another trainer means by it, else the key most like it.
pub(super) fn hint(key: &str) -> String {
    if let Some(words) = foreign::in_words(key) {
        return format!("; {words}");
    }
    nearest(key).map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

/// What to say about a table that there is not, if it is like one or another trainer has it.
pub(super) fn hint_of_table(table: &str) -> Option<String> {
    if foreign::in_words(table).is_some() {
        return Some(hint(table));
    }
    let tables = Config::settings()
        .iter()
        .filter_map(|setting| Some(setting.key.split_once('.')?.0));
    let score = |known: &str| strsim::normalized_damerau_levenshtein(table, known);
    let best = tables.max_by(|a, b| score(a).total_cmp(&score(b)));
    best.filter(|known| score(known) > 0.5)
        .map(|known| format!("; did you mean the table `[{known}]`?"))
}

/// The key most like `key`; the last part counts alone too, for a key in the wrong table.
pub(super) fn nearest(key: &str) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(key);
    let mut best: Option<(f64, &str)> = None;
    for Setting { key: candidate, .. } in Config::settings() {
        let whole = strsim::normalized_damerau_levenshtein(key, candidate);
        let part = 0.95 * strsim::normalized_damerau_levenshtein(&wanted, &last(candidate));
        let score = whole.max(part);
        if score > best.map_or(0.5, |(score, _)| score) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, key)| key.to_owned())
}

impl Setting {
    /// The words that it, or each item of the list that it is, may be; empty where it is not one of a few.
    pub fn choices(&self) -> &[Choice] {
        self.items
            .as_ref()
            .map_or(&self.one_of, |items| &items.one_of)
    }

    /// The kind of value with its range in a few signs: `integer, [1, 4096]`.
    pub fn value_in_brief(&self) -> String {
        match (self.value_type, &self.items) {
            (ValueType::Boolean, _) => "true or false".to_owned(),
            (ValueType::Integer, _) => format!("integer, {}", self.interval()),
            (ValueType::Number, _) => format!("number, {}", self.interval()),
            (ValueType::String, _) if self.one_of.is_empty() => "text".to_owned(),
            (ValueType::String, _) => "one of".to_owned(),
            (ValueType::Array, None) => "list".to_owned(),
            (ValueType::Array, Some(items)) => format!("list: {}", items.value_in_brief()),
        }
    }

    /// The default as a config file has it.
    pub fn default_in_toml(&self) -> Option<String> {
        self.default.as_ref().map(in_toml)
    }

    /// How a config file may have it: the example where there is one, else the default.
    pub(crate) fn example_in_toml(&self) -> Option<String> {
        self.examples.first().or(self.default.as_ref()).map(in_toml)
    }

    fn interval(&self) -> String {
        let lower = match (&self.exclusive_minimum, &self.minimum) {
            (Some(bound), _) => format!("({}", plain(bound)),
            (None, Some(bound)) => format!("[{}", plain(bound)),
            (None, None) => "(−∞".to_owned(),
        };
        let upper = match (&self.exclusive_maximum, &self.maximum) {
            (Some(bound), _) => format!("{})", plain(bound)),
            (None, Some(bound)) => format!("{}]", plain(bound)),
            (None, None) => "∞)".to_owned(),
        };
        format!("{lower}, {upper}")
    }
}

/// A bound without a fraction where it has none.
fn plain(bound: &Number) -> String {
    let whole = bound.as_f64().filter(|_| bound.is_f64());
    whole.map_or_else(|| bound.to_string(), |bound| bound.to_string())
}

fn in_toml(value: &Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every setting's schema, those of list items too.
    fn every_leaf(schema: &Value, visit: &mut impl FnMut(&Value)) {
        match schema.get("properties") {
            Some(fields) => {
                for field in fields.as_object().unwrap().values() {
                    every_leaf(field, visit);
                }
            }
            None => visit(schema),
        }
    }

    #[test]
    fn every_field_is_a_setting_with_all_that_belongs_to_it() {
        let mut leaves = 0;
        every_leaf(&Config::json_schema(), &mut |leaf| {
            leaves += 1;
            serde_json::from_value::<Setting>(leaf.clone())
                .unwrap_or_else(|error| panic!("{error}: {leaf}"));
        });
        assert_eq!(leaves, Config::settings().len());
        for setting in Config::settings() {
            let key = &setting.key;
            assert!(setting.doc.split(' ').count() > 2, "{key}: {}", setting.doc);
            for choice in setting.choices() {
                assert!(!choice.doc.is_empty(), "{key}: {}", choice.word);
            }
            assert!(
                setting.default.is_some() || !setting.examples.is_empty(),
                "{key} is absent by default: an example says how to write it"
            );
            for value in setting.examples.iter().chain(&setting.default) {
                let written = in_toml(value);
                let read = setting.parse(&written);
                let read = read.unwrap_or_else(|wrong| panic!("{key} = {written}: {wrong}"));
                setting
                    .check(&read)
                    .unwrap_or_else(|wrong| panic!("{key} = {written}: {wrong}"));
            }
            if setting.value_type == ValueType::Integer {
                assert!(setting.maximum.is_some(), "{key} has no largest value");
            }
        }
    }

    #[test]
    fn settings_are_found_by_their_keys() {
        let kind = |key: &str| find(key).unwrap().value_type;
        // Absent by default, and not written when absent.
        assert_eq!(kind("data.manifest"), ValueType::String);
        assert_eq!(kind("data.assume_kind"), ValueType::String);
        assert_eq!(kind("train.stop_after"), ValueType::Integer);
        assert_eq!(kind("data.kinds"), ValueType::Array);
        assert!(is_table("eval") && !is_table("eva") && !is_table("seed"));
        assert!(find("eval").is_none() && find("eval.nothing").is_none());
    }

    #[test]
    fn what_differs_within_a_run_is_what_changes_no_number() {
        let of = |wanted: MayDiffer| {
            let settings = Config::settings().iter();
            let settings = settings.filter(move |setting| setting.may_differ == Some(wanted));
            settings
                .map(|setting| setting.key.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(MayDiffer::Machines),
            [
                "output_dir",
                "model.device",
                "data.video_root",
                "data.video_strip",
                "data.cache_mib",
                "data.cache_dir",
                "data.cache_dir_mib",
                "train.rank_timeout",
            ],
            "a setting marked `machines`: is it one that changes no number? Then it belongs into this list"
        );
        assert_eq!(
            of(MayDiffer::Parts),
            [
                "model.bias_placement",
                "sampling.max_rows",
                "sampling.cuda_graph",
                "kl.log_token_ratios",
                "optimizer.memory",
                "train.stop_after",
                "train.max_bad_steps",
                "train.prefetch_mib",
                "checkpoint.every",
                "checkpoint.keep",
                "checkpoint.keep_steps",
            ],
            "a setting marked `parts`: is it one that changes no number? Then it belongs into this list"
        );
    }
}
