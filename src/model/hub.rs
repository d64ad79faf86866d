//! From what the user calls a model to a folder: a path as it is, a hub id through the Hugging Face cache.

use crate::config::instead_of_weights;
use crate::config::is_hub_name;
use crate::config::where_it_lies;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::read_json;
use crate::util::file::FileError;
use crate::util::signals::Interlude;
use hf_hub::Cache;
use hf_hub::Repo;
use hf_hub::RepoType;
use snapshot::DownloadError;
use std::path::Path;
use std::path::PathBuf;
use transfer::TransferError;
use web::Web;
use web::WebError;

pub(crate) mod dataset;
mod large_files;
pub(crate) mod publish;
mod snapshot;
pub(crate) mod transfer;
pub(crate) mod web;

const ENDPOINT: &str = "https://huggingface.co";

/// Signs that a shortened commit has at least, as Git's.
const SHORTEST_COMMIT: usize = 4;

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
            token: variable("HF_TOKEN")
                .map(|token| pasted(&token).to_owned())
                .filter(|token| !token.is_empty())
                .or(stored_token),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| {
                ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str())
            }),
        }
    }
}

/// A token without what comes along when it is copied: blanks, line breaks and quotation marks around it.
fn pasted(token: &str) -> &str {
    token.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'')
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
        let reason = match instead_of_weights(path) {
            Some(found) => format!("the folder holds no config.json: it {found}"),
            None => "the folder holds no config.json; a model folder has config.json, *.safetensors and tokenizer.json".into(),
        };
        return Err(not_found(name, reason));
    }
    let Some(repo) = hub_repo(name).filter(|_| is_hub_name(name)) else {
        let where_it_lies = where_it_lies(name);
        return Err(not_found(
            name,
            format!("no such folder, and not a hub id (owner/model){where_it_lies}"),
        ));
    };
    if settings.offline {
        return cached(name, &repo, settings);
    }
    let error = match download(name, &repo, settings)? {
        Ok(folder) => return Ok(folder),
        Err(error) => error,
    };
    let is_silent = matches!(
        &error,
        DownloadError::Failed(TransferError::Web(error)) if !matches!(error, WebError::Token)
    );
    match cached(name, &repo, settings) {
        Ok(folder) if is_silent => {
            tracing::warn!(
                "{name}: the hub cannot be asked ({error}); using the copy in {}",
                folder.display()
            );
            Ok(folder)
        }
        _ => Err(not_found(name, explain(&error, settings))),
    }
}

/// Downloads what the cache lacks, until a signal comes.
fn download(
    name: &str,
    repo: &Repo,
    settings: &HubSettings,
) -> Result<Result<PathBuf, DownloadError>, CheckpointError> {
    let no_signals = |source| {
        FileError::new(
            "listen to signals for the download into",
            &settings.cache,
            source,
        )
    };
    let interlude = Interlude::begin().map_err(no_signals)?;
    let web = Web::new(settings, interlude.stop().clone());
    let (repo, cache) = (repo.clone(), settings.cache.clone());
    let id = name.split_once('@').map_or(name, |(id, _)| id).to_owned();
    let work = move || snapshot::download(&id, &repo, &cache, &web);
    let done = interlude.stop().unless_stopped(work, || {});
    match done.map_err(no_signals)? {
        None | Some(Err(DownloadError::Failed(TransferError::Web(WebError::Stopped)))) => {
            Err(CheckpointError::Stopped)
        }
        Some(done) => Ok(done),
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
    // A branch, a tag or a commit; it becomes the name of a file in the cache.
    let is_revision = revision
        .split('/')
        .all(|word| is_word(word) && !word.contains(".."));
    (is_word(owner) && is_word(model) && is_revision)
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
    // A commit is a snapshot's own name, which may be shortened.
    let by_commit = match snapshots_of(repo, settings).as_slice() {
        [] => files.pointer_path(repo.revision()),
        [only] => files.pointer_path(only),
        several => {
            let reason = format!(
                "no such folder; in the cache {place} it may be any of {}: write more of the commit",
                several.join(", ")
            );
            return Err(not_found(name, reason));
        }
    };
    let get = |file: &str| {
        let of_commit = || Some(by_commit.join(file)).filter(|path| path.exists());
        files.get(file).or_else(of_commit)
    };
    let config = get("config.json").ok_or_else(|| missing("config.json"))?;
    let folder = config.parent().map(Path::to_path_buf).unwrap_or_default();
    if get("model.safetensors").is_some() {
        return Ok(folder);
    }
    let index = get("model.safetensors.index.json").ok_or_else(|| missing("model.safetensors"))?;
    let index = read_json(&index)?;
    let shards = index["weight_map"].as_object().into_iter().flatten();
    for shard in shards.filter_map(|(_, shard)| shard.as_str()) {
        if get(shard).is_none() {
            return Err(missing(shard));
        }
    }
    Ok(folder)
}

/// The snapshots in the cache whose commit begins as the revision does; none where it is no commit.
fn snapshots_of(repo: &Repo, settings: &HubSettings) -> Vec<String> {
    let (revision, folder) = (repo.revision(), settings.cache.join(repo.folder_name()));
    let is_commit =
        revision.len() >= SHORTEST_COMMIT && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_commit || folder.join("refs").join(revision).exists() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(folder.join("snapshots"));
    let names = entries.into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<String> = names
        .filter(|name| name.starts_with(&revision.to_ascii_lowercase()))
        .collect();
    found.sort();
    if found.iter().any(|name| name == revision) {
        return vec![revision.to_owned()];
    }
    found
}

/// What to do about a failed download.
fn explain(error: &DownloadError, settings: &HubSettings) -> String {
    let error = match error {
        DownloadError::NotAModel { .. } => return format!("no such folder; on the hub, {error}"),
        DownloadError::Content { .. } => return error.to_string(),
        DownloadError::Failed(TransferError::File(error)) => {
            return format!(
                "no such folder, and it cannot be downloaded: {error} (the cache is {}; HF_HUB_CACHE names another)",
                settings.cache.display()
            );
        }
        DownloadError::Failed(TransferError::Web(error)) => error,
    };
    let has_token = settings.token.is_some();
    let advice = match (error, error.status()) {
        // To strangers the hub does not say whether a model is private or does not exist.
        (_, Some(401 | 403)) if !has_token => {
            "no such folder, and the hub shows nobody a model of this name without a token: check the spelling, or set HF_TOKEN \
             to a token that may read it"
        }
        (WebError::Token, _) | (_, Some(401)) => {
            "no such folder, and the hub does not accept the token: set HF_TOKEN to a valid one, or unset it for a public model"
        }
        (_, Some(403)) => {
            "no such folder, and the token may not read this model: accept its terms on its page, or set HF_TOKEN to another token"
        }
        (_, Some(404)) => {
            "no such folder, and the hub knows no model or revision of this name: check the spelling"
        }
        (WebError::Strange { .. }, _) => {
            "no such folder, and what answers is no hub: check HF_ENDPOINT, or name a folder"
        }
        _ => {
            "no such folder, and it cannot be downloaded: check the network or HF_ENDPOINT, then start again to continue, or name a \
             folder"
        }
    };
    let cache = settings.cache.display();
    format!("{advice} ({error}; cache {cache})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_without_what_is_copied_along() {
        for token in ["hf_a", " hf_a\n", "\"hf_a\"", "'hf_a'\r\n"] {
            assert_eq!(pasted(token), "hf_a");
        }
        assert_eq!(pasted(" \"\" "), "");
    }

    #[test]
    fn a_commit_is_found_in_the_cache_without_a_reference_whole_or_shortened() {
        let cache = tempfile::tempdir().unwrap();
        let snapshots = cache.path().join("models--owner--model/snapshots");
        let commits = [
            "66285546d2b821cf421d4f5eb2576359d3770cd3",
            "6628aa46d2b821cf421d4f5eb2576359d3770cd3",
        ];
        for commit in commits {
            std::fs::create_dir_all(snapshots.join(commit)).unwrap();
            for file in ["config.json", "model.safetensors"] {
                std::fs::write(snapshots.join(commit).join(file), "{}").unwrap();
            }
        }
        let offline = HubSettings {
            cache: cache.path().to_owned(),
            endpoint: ENDPOINT.into(),
            token: None,
            offline: true,
        };
        let folder = |revision: &str| {
            let name = format!("owner/model@{revision}");
            resolve_with(&name, &offline).map_err(|error| error.to_string())
        };
        assert_eq!(folder(commits[1]), Ok(snapshots.join(commits[1])));
        assert_eq!(folder("66285546"), Ok(snapshots.join(commits[0])));
        assert_eq!(folder("6628AA"), Ok(snapshots.join(commits[1])));
        let either = folder("6628").unwrap_err();
        assert!(
            either.contains(commits[0])
                && either.contains(commits[1])
                && either.contains("write more"),
            "{either}"
        );
        for absent in ["6629", "662", "main"] {
            let error = folder(absent).unwrap_err();
            assert!(
                error.contains("`config.json` of this model is missing"),
                "{error}"
            );
        }
        // What a branch was at goes before a commit of its name.
        let refs = cache.path().join("models--owner--model/refs");
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::write(refs.join("6628"), commits[0]).unwrap();
        assert_eq!(folder("6628"), Ok(snapshots.join(commits[0])));
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
        // Hugging Face's own tools note no reference for a commit.
        assert_eq!(resolve_with("owner/model@abc", &offline).unwrap(), snapshot);
        for path in ["owner/model@../x", "owner/model@", "owner/model@a b"] {
            let error = resolve_with(path, &offline).unwrap_err().to_string();
            assert!(error.contains("not a hub id"), "{path}: {error}");
        }
    }
}
