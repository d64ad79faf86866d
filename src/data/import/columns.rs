//! `--columns problem=question,options=a0+a1`: fields of a question that have other names in a file.

use serde_json::Map;
use serde_json::Value;
use std::str::FromStr;

/// Fields that can be named.
const FIELDS: [&str; 13] = [
    "id",
    "problem",
    "solution",
    "video",
    "video_start",
    "video_end",
    "options",
    "response",
    "kind",
    "problem_type",
    "messages",
    "conversations",
    "prompt",
];

/// One field of a question and what it is called in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    field: &'static str,
    /// Several are the options one by one.
    names: Vec<String>,
}

impl FromStr for Column {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, names) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}`: write FIELD=NAME, such as problem=question"))?;
        let field = FIELDS
            .into_iter()
            .find(|known| *known == field.trim())
            .ok_or_else(|| format!("`{field}` is no field: name one of {}", FIELDS.join(", ")))?;
        let names: Vec<String> = names
            .split('+')
            .map(|name| name.trim().to_owned())
            .collect();
        if names.iter().any(String::is_empty) {
            return Err(format!("`{text}` names no field of the file behind the ="));
        }
        if names.len() > 1 && field != "options" {
            return Err(format!(
                "`{text}`: only options can be put together from several fields"
            ));
        }
        Ok(Self { field, names })
    }
}

impl Column {
    /// Gives the record the field; says which name it lacks where that is so.
    pub(super) fn apply(&self, fields: &mut Map<String, Value>) -> Result<(), String> {
        let mut values = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let value = taken_at(fields, name)
                .ok_or_else(|| format!("`{name}` (--columns {}=…)", self.field))?;
            values.push(value);
        }
        let value = if self.names.len() == 1 {
            values.swap_remove(0)
        } else {
            Value::Array(values)
        };
        fields.insert(self.field.into(), value);
        Ok(())
    }
}

/// The value of a field, also of one inside another or in a list: `reward_model.ground_truth`, `videos.0.file`.
fn value_at<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = fields.get(name) {
        return Some(value);
    }
    let (first, rest) = name.split_once('.')?;
    inside(fields.get(first)?, rest)
}

fn inside<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Array(values) = value else {
        return value_at(value.as_object()?, name);
    };
    let (index, rest) = match name.split_once('.') {
        Some((index, rest)) => (index, Some(rest)),
        None => (name, None),
    };
    let value = values.get(index.parse::<usize>().ok()?)?;
    rest.map_or(Some(value), |rest| inside(value, rest))
}

/// The same, taken out where it is a field of its own.
fn taken_at(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    match fields.shift_remove(name) {
        Some(value) => Some(value),
        None => value_at(fields, name).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_renamed_and_put_together() {
        let mut fields = json!({"q": "Why?", "a0": "red", "a1": "blue", "meta": {"truth": 1}});
        let fields = fields.as_object_mut().unwrap();
        for text in ["problem=q", "options = a0 + a1", "solution=meta.truth"] {
            text.parse::<Column>().unwrap().apply(fields).unwrap();
        }
        let expected = json!({"meta": {"truth": 1}, "problem": "Why?", "options": ["red", "blue"], "solution": 1});
        assert_eq!(Value::Object(fields.clone()), expected);
        let mut listed = json!({"videos": [{"file": "a.mp4"}], "x": [["b.mp4"]]});
        let listed = listed.as_object_mut().unwrap();
        for (text, clip) in [("video=videos.0.file", "a.mp4"), ("video=x.0.0", "b.mp4")] {
            text.parse::<Column>().unwrap().apply(listed).unwrap();
            assert_eq!(listed["video"], clip);
        }
        for absent in ["video=x.1", "video=x.a", "video=videos.0.file.0"] {
            assert!(absent.parse::<Column>().unwrap().apply(listed).is_err());
        }
        let absent = "video=clip".parse::<Column>().unwrap().apply(fields);
        assert!(absent.unwrap_err().contains("`clip`"));
        for bad in ["q", "text=q", "problem=", "problem=a+b"] {
            assert!(bad.parse::<Column>().is_err(), "{bad}");
        }
    }
}
