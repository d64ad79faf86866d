//! What the JSON files of a model folder may say of the machine or the person they come from: paths, and tokens of services.
//! It does not travel with the model.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use crate::util::file::FileError;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

/// Where libraries note from where they loaded; they set it anew whenever they load.
const ORIGINS: [&str; 2] = ["_name_or_path", "name_or_path"];
/// What libraries are given to be let in, also behind a service's name (`wandb_api_key`, `hf_token`).
const SECRETS: [&str; 8] = [
    "access_token",
    "api_key",
    "api_token",
    "auth_token",
    "hf_token",
    "hub_token",
    "password",
    "secret",
];
/// Words that are one only where they stand alone: `pad_token` is the model's own.
const ALONE: [&str; 4] = ["authorization", "credentials", "token", "accesstoken"];
/// How the tokens of services begin.
const TOKENS: [&str; 5] = ["hf_", "ghp_", "github_pat_", "sk-", "glpat-"];
/// Files of which every word is the model's: vocabularies.
const VOCABULARIES: [&str; 3] = ["added_tokens.json", "tokenizer.json", "vocab.json"];

/// Whether the file `name` of a model folder is one that libraries leave notes in.
pub(crate) fn may_hold(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "json")
        && !VOCABULARIES.contains(&name)
        && !name.ends_with(".safetensors.index.json")
}

/// Removes it all; whether there was something.
pub(crate) fn remove(value: &mut Value) -> bool {
    let mut is_changed = false;
    match value {
        Value::Object(entries) => {
            let before = entries.len();
            entries
                .retain(|key, value| !is_private(key, value) && !ORIGINS.contains(&key.as_str()));
            is_changed |= entries.len() < before;
            for value in entries.values_mut() {
                is_changed |= remove(value);
            }
        }
        Value::Array(values) => {
            let before = values.len();
            values.retain(|value| !is_private("", value));
            is_changed |= values.len() < before;
            for value in values {
                is_changed |= remove(value);
            }
        }
        _ => {}
    }
    is_changed
}

/// The first file of a model folder that holds such, and the keys there. A public model's name is none of it.
pub(crate) fn found_in(folder: &Path) -> Result<Option<(PathBuf, Vec<String>)>, CheckpointError> {
    let reading = |error| FileError::reading(folder, error);
    for entry in std::fs::read_dir(folder).map_err(reading)? {
        let path = entry.map_err(reading)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if may_hold(&name) && path.is_file() {
            let mut keys = Vec::new();
            collect(&read_json(&path)?, &mut keys);
            if !keys.is_empty() {
                return Ok(Some((path, keys)));
            }
        }
    }
    Ok(None)
}

fn collect(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                let in_list = value
                    .as_array()
                    .is_some_and(|values| values.iter().any(|value| is_private("", value)));
                if in_list || is_private(key, value) {
                    keys.push(key.clone());
                } else {
                    collect(value, keys);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

fn is_private(key: &str, value: &Value) -> bool {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let is_secret_key = ALONE.contains(&key.as_str())
        || SECRETS.iter().any(|word| key.ends_with(word))
        || key.ends_with("_key")
            && (key.contains("secret") || key.contains("access") || key.contains("api"))
        || key.starts_with("openai_");
    if is_secret_key {
        return !value.is_null() && *value != Value::Bool(false);
    }
    value
        .as_str()
        .is_some_and(|text| is_local_path(text) || is_secret(text))
}

/// `/home/me/model`, `~/model`, `C:\model`, `file:///home/me/model`; not `/`, `//`, `</s>` or a template.
fn is_local_path(text: &str) -> bool {
    let absolute = text
        .strip_prefix('/')
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(first, rest)| !first.is_empty() && !rest.is_empty());
    let drive =
        matches!(text.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    let is_path = ["~/", "file://", "\\\\"]
        .iter()
        .any(|start| text.starts_with(start));
    (absolute || drive || is_path) && !text.contains(['\n', '{', '<'])
}

/// A service's token, what a header would carry, or an address with a password in it, alone or among other words.
fn is_secret(text: &str) -> bool {
    let is_token = |word: &str| {
        TOKENS.iter().any(|start| {
            word.strip_prefix(start).is_some_and(|rest| {
                rest.len() >= 20
                    && rest
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            })
        })
    };
    let words = text.split(|c: char| c.is_whitespace() || "=:,;\"'".contains(c));
    let names_password = text
        .split_once("://")
        .and_then(|(_, rest)| rest.split('/').next()?.split_once('@'))
        .is_some_and(|(user, _)| user.contains(':'));
    text.len() < 1000 && words.clone().any(is_token)
        || text.to_ascii_lowercase().starts_with("bearer ")
        || names_password
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_of_the_machine_goes_and_what_is_the_models_stays() {
        let own = json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "image_token_id": 151_655,
            "pad_token": "<|endoftext|>",
            "bos_token": null,
            "unk_token": "/",
            "chat_template": "{% for message in messages %}/home/me/x{% endfor %}",
            "text_config": {"rope_scaling": {"type": "mrope"}},
        });
        let mut value = own.clone();
        assert!(!remove(&mut value) && value == own);
        value["_name_or_path"] = json!("Qwen/Qwen2.5-VL-3B-Instruct");
        value["text_config"]["_name_or_path"] = json!("runs/secret/base");
        assert!(remove(&mut value) && value == own);
        for (key, private) in [
            ("_name_or_path", "/home/me/base"),
            ("special_tokens_map_file", "/srv/models/x.json"),
            ("tokenizer_file", "C:\\Users\\me\\tokenizer.json"),
            ("cache_dir", "~/models"),
            ("use_auth_token", "abc"),
            ("Token", "abc"),
            ("note", "hf_abcdefghijklmnopqrstuvwxyz"),
            ("note", "HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyz\n"),
            ("note", "https://me:pass@host/x"),
            ("wandb_api_key", "abc"),
            ("openai_key", "abc"),
            ("aws_secret_access_key", "abc"),
            ("accessToken", "abc"),
            ("share", "\\\\server\\share"),
        ] {
            let mut value = json!({"list": [{key: private}], "a": 1});
            let mut keys = Vec::new();
            collect(&value, &mut keys);
            assert_eq!(keys, [key]);
            assert!(remove(&mut value), "{key}");
            assert_eq!(value, json!({"list": [{}], "a": 1}));
        }
        let mut value = json!({"files": ["/home/me/a.json", "b.json"]});
        let mut keys = Vec::new();
        collect(&value, &mut keys);
        assert_eq!(keys, ["files"]);
        assert!(remove(&mut value));
        assert_eq!(value, json!({"files": ["b.json"]}));
    }
}
