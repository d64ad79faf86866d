//! From what the user calls a model to a folder: a path as it is, a hub id through the Hugging Face cache.

use crate::model::spec::CheckpointError;
use hf_hub::Cache;
use hf_hub::Repo;
use hf_hub::RepoType;
use hf_hub::api::sync::ApiBuilder;
use hf_hub::api::sync::ApiError;
use indicatif::ProgressBar;
use std::path::Path;
use std::path::PathBuf;

const ENDPOINT: &str = "https://huggingface.co";

/// How the hub is reached; [`HubSettings::from_env`] reads the variables Hugging Face's own tools read.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Where downloads are kept (`HF_HUB_CACHE`, `HF_HOME/hub`, `~/.cache/huggingface/hub`).
    pub cache: PathBuf,
    /// Address of the hub (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Access token (`HF_TOKEN`, else the one `hf auth login` stored).
    pub token: Option<String>,
    /// Only look into the cache (`HF_HUB_OFFLINE`).
    pub offline: bool,
}

impl HubSettings {
    /// Settings from the environment.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = Cache::from_env();
        let stored_token = cache.token();
        Self {
            cache: variable("HF_HUB_CACHE").map_or_else(|| cache.path().clone(), PathBuf::from),
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()),
            token: variable("HF_TOKEN").or(stored_token),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| {
                ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())
            }),
        }
    }
}

/// The folder of a model: `name` is a folder, or a hub id `owner/model` (optionally `owner/model@revision`).
pub fn resolve(name: &str) -> Result<PathBuf, CheckpointError> {
    resolve_with(name, &HubSettings::from_env())
}

/// As [`resolve`], with given settings.
pub fn resolve_with(name: &str, settings: &HubSettings) -> Result<PathBuf, CheckpointError> {
    let path = Path::new(name);
    if path.is_dir() {
        if path.join("config.json").exists() {
            return Ok(path.to_path_buf());
        }
        return Err(not_found(
            name,
            "the folder holds no config.json; a model folder has config.json, *.safetensors and tokenizer.json".into(),
        ));
    }
    let Some(repo) = hub_repo(name) else {
        return Err(not_found(
            name,
            "no such folder, and not a hub id (owner/model)".into(),
        ));
    };
    if settings.offline {
        return cached(name, &repo, settings);
    }
    match download(&repo, settings) {
        Ok(folder) => Ok(folder),
        Err(DownloadError::NotAModel) => Err(not_found(
            name,
            "no such folder; the hub's repository holds no config.json and safetensors".into(),
        )),
        Err(DownloadError::Api(error)) => {
            if let Ok(folder) = cached(name, &repo, settings) {
                tracing::warn!(
                    "{name}: the hub cannot be asked ({error}); using the copy in {}",
                    folder.display()
                );
                return Ok(folder);
            }
            Err(not_found(name, explain(&error, settings)))
        }
    }
}

/// `owner/model` or `owner/model@revision`, and nothing that looks like a path.
fn hub_repo(name: &str) -> Option<Repo> {
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    let (owner, model) = id.split_once('/')?;
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (is_word(owner) && is_word(model) && !revision.is_empty())
        .then(|| Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned()))
}

fn not_found(name: &str, reason: String) -> CheckpointError {
    CheckpointError::NotFound {
        name: name.to_owned(),
        reason,
    }
}

/// A complete copy in the cache: configuration, and the weights in one file or every shard of the index.
fn cached(name: &str, repo: &Repo, settings: &HubSettings) -> Result<PathBuf, CheckpointError> {
    let files = Cache::new(settings.cache.clone()).repo(repo.clone());
    let place = settings.cache.display();
    let missing = |file: &str| {
        not_found(
            name,
            format!(
                "no such folder; in the cache {place} `{file}` of this model is missing. Unset HF_HUB_OFFLINE to \
                 download it, or name a folder"
            ),
        )
    };
    let config = files
        .get("config.json")
        .ok_or_else(|| missing("config.json"))?;
    let folder = config.parent().map(Path::to_path_buf).unwrap_or_default();
    if files.get("model.safetensors").is_some() {
        return Ok(folder);
    }
    let index = files
        .get("model.safetensors.index.json")
        .ok_or_else(|| missing("model.safetensors"))?;
    let index = crate::model::spec::read_json(&index)?;
    let shards = index["weight_map"].as_object().into_iter().flatten();
    for shard in shards.filter_map(|(_, shard)| shard.as_str()) {
        if files.get(shard).is_none() {
            return Err(missing(shard));
        }
    }
    Ok(folder)
}

enum DownloadError {
    Api(Box<ApiError>),
    NotAModel,
}

impl From<ApiError> for DownloadError {
    fn from(error: ApiError) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Fetches what the cache lacks of the configuration, weights, tokenizer and processor files.
fn download(repo: &Repo, settings: &HubSettings) -> Result<PathBuf, DownloadError> {
    let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_retries(3)
        .build()?
        .repo(repo.clone());
    let siblings = api.info()?.siblings;
    let names: Vec<&str> = siblings
        .iter()
        .map(|file| file.rfilename.as_str())
        .filter(|name| is_wanted(name))
        .collect();
    let has_weights = names.iter().any(|name| name.ends_with(".safetensors"));
    if !has_weights || !names.contains(&"config.json") {
        return Err(DownloadError::NotAModel);
    }
    let files = Cache::new(settings.cache.clone()).repo(repo.clone());
    let mut folder = PathBuf::new();
    for name in names {
        let path = match files.get(name) {
            Some(path) => path,
            None => api.download_with_progress(name, ProgressBar::new(0))?,
        };
        if name == "config.json" {
            folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        }
    }
    Ok(folder)
}

/// Top-level JSON, text and template files and the safetensors weights; no other weight format, no images.
fn is_wanted(name: &str) -> bool {
    let kind = Path::new(name)
        .extension()
        .and_then(|kind| kind.to_str())
        .unwrap_or_default();
    !name.contains('/') && ["json", "safetensors", "txt", "jinja"].contains(&kind)
}

fn explain(error: &ApiError, settings: &HubSettings) -> String {
    let text = error.to_string();
    let advice = if text.contains("401") || text.contains("403") {
        "the hub refuses: set HF_TOKEN to a token that may read it"
    } else if text.contains("404") {
        "no such folder, and the hub knows no model of this name"
    } else {
        "no such folder, and the hub cannot be reached: check the network or HF_ENDPOINT, or name a folder"
    };
    format!("{advice} ({}: {text})", settings.endpoint)
}
