//! From what the user calls a model to a folder: a path as it is, a hub id through the Hugging Face cache.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use hf_hub::Cache;
use hf_hub::Repo;
use hf_hub::RepoType;
use hf_hub::api::sync::ApiBuilder;
use hf_hub::api::sync::ApiError;
use hf_hub::api::sync::ApiRepo;
use indicatif::ProgressBar;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) mod dataset;
mod large_files;
pub(crate) mod publish;
pub(crate) mod web;

const ENDPOINT: &str = "https://huggingface.co";
/// How often a file is taken up again, and the first pause before; each next one is twice as long.
const RETRIES: usize = 4;
const FIRST_WAIT: Duration = Duration::from_millis(250);

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
    /// An environment variable, unless it is empty.
    pub(crate) fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    /// Settings from the environment.
    pub(crate) fn from_env() -> Self {
        let variable = Self::variable;
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
pub(crate) fn resolve(name: &str) -> Result<PathBuf, CheckpointError> {
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
    let index = read_json(&index)?;
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
            None => fetch(&api, name)?,
        };
        if name == "config.json" {
            folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        }
    }
    Ok(folder)
}

/// Downloads a file; a broken connection is taken up again where it broke, a few times.
///
/// hf-hub's own retries are not used: where the first byte of a continuation fails, they append the whole file to its part.
fn fetch(api: &ApiRepo, name: &str) -> Result<PathBuf, ApiError> {
    let mut wait = FIRST_WAIT;
    for _ in 0..RETRIES {
        match api.download_with_progress(name, ProgressBar::new(0)) {
            Err(error) if may_pass(&error) => {
                tracing::warn!("{name}: {error}; trying again in {wait:?}");
                std::thread::sleep(wait);
                wait *= 2;
            }
            done => return done,
        }
    }
    api.download_with_progress(name, ProgressBar::new(0))
}

/// Whether asking again may help.
fn may_pass(error: &ApiError) -> bool {
    match status(error) {
        Some(status) => status >= 500 || [408, 429].contains(&status),
        None => matches!(error, ApiError::RequestError(_) | ApiError::IoError(_)),
    }
}

/// The HTTP status that the hub refused with.
fn status(error: &ApiError) -> Option<u16> {
    let ApiError::RequestError(error) = error else {
        return None;
    };
    // ureq's type is not ours to name; its words are.
    error
        .to_string()
        .strip_prefix("http status: ")?
        .parse()
        .ok()
}

/// Top-level JSON, text and template files and the safetensors weights; no other weight format, no images.
fn is_wanted(name: &str) -> bool {
    let kind = Path::new(name)
        .extension()
        .and_then(|kind| kind.to_str())
        .unwrap_or_default();
    !name.contains('/') && ["json", "safetensors", "txt", "jinja"].contains(&kind)
}

/// What to do about a failed download.
fn explain(error: &ApiError, settings: &HubSettings) -> String {
    let has_token = settings.token.is_some();
    let advice = match (status(error), error) {
        // To strangers the hub does not say whether a model is private or does not exist.
        (Some(401 | 403), _) if !has_token => {
            "no such folder, and the hub shows nobody a model of this name without a token: check the spelling, or set HF_TOKEN \
             to a token that may read it"
        }
        (Some(401), _) => {
            "no such folder, and the hub does not accept the token: set HF_TOKEN to a valid one, or unset it for a public model"
        }
        (Some(403), _) => {
            "no such folder, and the token may not read this model: accept its terms on its page, or set HF_TOKEN to another token"
        }
        (Some(404), _) => {
            "no such folder, and the hub knows no model or revision of this name: check the spelling"
        }
        // A whole part that was never renamed cannot be continued.
        (Some(416), _) | (_, ApiError::InvalidResume) => {
            "a file's part in the cache cannot be continued: remove the *.part files below the model's folder there"
        }
        (_, ApiError::LockAcquisition(_)) => {
            "another process is downloading this model: wait for it, then start again"
        }
        (None, ApiError::IoError(_)) => {
            "no such folder, and it cannot be downloaded: check the network and the space in the cache, then start again to continue"
        }
        _ => {
            "no such folder, and the hub cannot be reached: check the network or HF_ENDPOINT, or name a folder"
        }
    };
    let cache = settings.cache.display();
    format!(
        "{advice} ({}: {error}; cache {cache})",
        web::shown(&settings.endpoint)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_cache_names_the_missing_shard() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("models--owner--model/snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(cache.path().join("models--owner--model/refs")).unwrap();
        std::fs::write(cache.path().join("models--owner--model/refs/main"), "abc").unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        std::fs::write(
            snapshot.join("model.safetensors.index.json"),
            "{\"weight_map\": {\"a\": \"model-00001-of-00001.safetensors\"}}",
        )
        .unwrap();
        let offline = HubSettings {
            cache: cache.path().to_owned(),
            endpoint: ENDPOINT.into(),
            token: None,
            offline: true,
        };
        let error = resolve_with("owner/model", &offline)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("model-00001-of-00001.safetensors"),
            "{error}"
        );
        std::fs::write(snapshot.join("model-00001-of-00001.safetensors"), "").unwrap();
        assert_eq!(resolve_with("owner/model", &offline).unwrap(), snapshot);
    }
}
