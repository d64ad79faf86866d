//! From what the user calls a model to a folder: a path as it is, a hub id through the Hugging Face cache.

use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::io::BufReader;
    use std::io::Write;
    use std::net::TcpListener;
    use std::net::TcpStream;

    const FILES: [(&str, &str); 4] = [
        ("config.json", "{\"model_type\": \"qwen2_5_vl\"}"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "{}"),
        ("pytorch_model.bin", "not wanted"),
    ];

    fn settings(cache: &Path, endpoint: &str, offline: bool) -> HubSettings {
        HubSettings {
            cache: cache.to_path_buf(),
            endpoint: endpoint.into(),
            token: Some("secret".into()),
            offline,
        }
    }

    /// One request of the hub's protocol: a model's file list, or a file from an offset on.
    fn answer(stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        let (mut path, mut start, mut authorised) = (String::new(), 0, false);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_lowercase();
            if let Some(rest) = line.strip_prefix("get ") {
                path = rest.split(' ').next().unwrap().to_owned();
            } else if let Some(range) = line.strip_prefix("range: bytes=") {
                start = range.split('-').next().unwrap().parse().unwrap();
            } else if line == "authorization: bearer secret" {
                authorised = true;
            } else if line.is_empty() {
                break;
            }
        }
        let names = FILES.map(|(name, _)| format!("{{\"rfilename\": \"{name}\"}}"));
        let list = format!("{{\"siblings\": [{}], \"sha\": \"abc\"}}", names.join(","));
        let file = FILES
            .iter()
            .find(|(name, _)| path.ends_with(&format!("/{name}")));
        let (status, body) = match file {
            _ if !authorised => ("401 Unauthorized", ""),
            Some((_, body)) => ("206 Partial Content", *body),
            None if path.starts_with("/api/models/owner/model") => ("200 OK", list.as_str()),
            None => ("404 Not Found", ""),
        };
        let part = &body[start.min(body.len())..];
        write!(
            reader.into_inner(),
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nETag: \"{}\"\r\n\
             X-Repo-Commit: abc\r\nConnection: close\r\n\r\n{part}",
            part.len(),
            body.len(),
            body.len(),
            path.replace('/', "-"),
        )
    }

    fn serve() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream).unwrap();
            }
        });
        format!("http://{address}")
    }

    #[test]
    fn a_hub_id_is_downloaded_once_and_then_found_offline() {
        let cache = tempfile::tempdir().unwrap();
        let folder = resolve_with("owner/model", &settings(cache.path(), &serve(), false)).unwrap();
        for (name, body) in &FILES[..3] {
            assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), *body);
        }
        assert!(!folder.join("pytorch_model.bin").exists());
        let nowhere = "http://127.0.0.1:1";
        let offline = resolve_with("owner/model", &settings(cache.path(), nowhere, true)).unwrap();
        assert_eq!(offline, folder);
        let unreachable =
            resolve_with("owner/model", &settings(cache.path(), nowhere, false)).unwrap();
        assert_eq!(unreachable, folder);
    }

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
        let offline = settings(cache.path(), "http://127.0.0.1:1", true);
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

    #[test]
    fn what_is_neither_folder_nor_model_is_explained() {
        let cache = tempfile::tempdir().unwrap();
        let online = settings(cache.path(), &serve(), false);
        let message = |name: &str, settings: &HubSettings| {
            resolve_with(name, settings).unwrap_err().to_string()
        };
        assert!(message("runs/base/missing", &online).contains("not a hub id"));
        assert!(message("owner/other", &online).contains("knows no model"));
        let refused = HubSettings {
            token: None,
            ..online.clone()
        };
        assert!(message("owner/model", &refused).contains("HF_TOKEN"));
        let empty = cache.path().to_str().unwrap().to_owned();
        assert!(message(&empty, &online).contains("no config.json"));
    }
}
