//! A model of the hub in the cache that Hugging Face's own tools use, as they lay it out: contents in `blobs/` under their
//! ETags, and `snapshots/COMMIT/` of links to them. `refs/` says which commit a branch was at.

use crate::config::instead_by_names;
use crate::model::hub::transfer;
use crate::model::hub::transfer::Source;
use crate::model::hub::transfer::TransferError;
use crate::model::hub::transfer::Watch;
use crate::model::hub::transfer::bytes_of;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use crate::model::hub::web::encoded;
use crate::model::hub::web::strange;
use crate::util::atomic;
use crate::util::console::ByteBar;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash;
use crate::util::lock::Lock;
use crate::util::lock::LockError;
use hf_hub::Cache;
use hf_hub::Repo;
use serde::Deserialize;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use ureq::http::HeaderMap;

/// How often it is looked whether another process has finished a file.
const TICK: Duration = Duration::from_millis(200);

/// Bytes of a file without a published hash that is rather fetched again than gone on with.
const SMALL: u64 = 1 << 20;

/// Why a model is not in the cache.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("the repository holds no config.json and safetensors{}", found.as_ref().map_or_else(String::new, |found| format!(": it {found}")))]
    NotAModel {
        /// What it holds, where that is known.
        found: Option<String>,
    },
    /// What came is not what is published.
    #[error(
        "{file}: the download has another {what} than is published; it is removed: start again"
    )]
    Content { file: String, what: &'static str },
    #[error(transparent)]
    Failed(#[from] TransferError),
}

impl From<WebError> for DownloadError {
    fn from(error: WebError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<FileError> for DownloadError {
    fn from(error: FileError) -> Self {
        Self::Failed(error.into())
    }
}

#[derive(Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Fetches what `cache` lacks of the model `id`: configuration, weights, tokenizer and processor files; the snapshot's folder.
pub(super) fn download(
    id: &str,
    repo: &Repo,
    cache: &Path,
    web: &Web,
) -> Result<PathBuf, DownloadError> {
    let revision = repo.revision().replace('/', "%2F");
    let url = format!("{}/api/models/{id}/revision/{revision}", web.endpoint());
    let (info, _) = web.get_json::<Info>(&url)?;
    let all = info.siblings.iter().map(|one| one.rfilename.clone());
    let all: Vec<String> = all.collect();
    let mut names: Vec<&str> = info
        .siblings
        .iter()
        .map(|one| one.rfilename.as_str())
        .collect();
    names.retain(|name| is_wanted(name));
    let has_weights = names.iter().any(|name| name.ends_with(".safetensors"));
    if !has_weights || !names.contains(&"config.json") {
        let found = instead_by_names(&all);
        return Err(DownloadError::NotAModel { found });
    }
    if !is_name(&info.sha) {
        return Err(strange(&url, "it names no commit").into());
    }
    let files = Cache::new(cache.to_owned()).repo(repo.clone());
    let snapshot = files.pointer_path(&info.sha);
    let place = Place {
        web,
        address: format!("{}/{id}/resolve/{}", web.endpoint(), info.sha),
        blobs: snapshot.join("../../blobs"),
        // Where Hugging Face's own tools look, too.
        locks: cache.join(".locks").join(repo.folder_name()),
        snapshot: &snapshot,
    };
    for folder in [&snapshot, &place.blobs, &place.locks] {
        file::create_folders(folder)?;
    }
    for name in names {
        if !file::exists(&snapshot.join(name))? {
            place.fetch(name)?;
        }
    }
    if repo.revision() != info.sha {
        let reference = snapshot.join("../../refs").join(repo.revision());
        // A cache that many share may be closed to this one.
        if std::fs::read_to_string(&reference).ok().as_deref() != Some(&*info.sha) {
            file::create_folders(atomic::folder_of(&reference))?;
            atomic::write(&reference, info.sha.as_bytes())?;
        }
    }
    Ok(snapshot)
}

/// Top-level JSON, text and template files and the safetensors weights; no other weight format, no images.
fn is_wanted(name: &str) -> bool {
    let kind = Path::new(name)
        .extension()
        .and_then(|kind| kind.to_str())
        .unwrap_or_default();
    is_name(name) && ["json", "safetensors", "txt", "jinja"].contains(&kind)
}

/// Whether a server's word can be the name of a file.
fn is_name(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    !word.is_empty() && !word.starts_with('.') && word.chars().all(is_plain)
}

/// Where files come from and go to.
struct Place<'a> {
    web: &'a Web,
    /// Of the commit's files.
    address: String,
    blobs: PathBuf,
    locks: PathBuf,
    snapshot: &'a Path,
}

impl Place<'_> {
    /// Puts the file `name` into the snapshot.
    fn fetch(&self, name: &str) -> Result<(), DownloadError> {
        let url = format!("{}/{}", self.address, encoded(name));
        let headers = self.web.head_at_hub(&url)?;
        let etag = etag_of(&headers);
        let etag = etag.ok_or_else(|| strange(&url, "it gives a file no ETag"))?;
        let bytes = number(&headers, "x-linked-size").or_else(|| {
            let is_elsewhere = headers.contains_key("location");
            number(&headers, "content-length").filter(|_| !is_elsewhere)
        });
        let blob = self.blobs.join(&etag);
        let _lock = self.lock(&etag, name)?;
        if !blob.is_file() {
            let part = self.blobs.join(format!("{etag}.incomplete"));
            let source = Source {
                url: &url,
                bytes,
                has_hash: is_sha256(&etag),
            };
            let bar = Bar::start(name, self.web, bytes_of(&part), bytes);
            // Nothing would show that what is there is damaged.
            if !source.has_hash && bytes.is_none_or(|bytes| bytes < SMALL) && part.exists() {
                transfer::remove(&part, bytes_of(&part), &bar)?;
            }
            transfer::fill(self.web, source, &part, &bar)?;
            if let Some(what) = difference(&part, bytes, &etag)? {
                transfer::remove(&part, 0, &bar)?;
                let file = name.to_owned();
                return Err(DownloadError::Content { file, what });
            }
            std::fs::rename(&part, &blob).map_err(|error| FileError::writing(&blob, error))?;
        }
        self.point(name, &etag)
    }

    /// Waits until no other process fetches the same content.
    fn lock(&self, etag: &str, name: &str) -> Result<Lock, DownloadError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let own = format!("process {}", std::process::id());
        let mut is_said = false;
        loop {
            match Lock::take(&path, &own, "the cache of the hub") {
                Ok(lock) => return Ok(lock),
                Err(LockError::File(error)) => return Err(error.into()),
                Err(LockError::Held { .. }) if self.web.is_stopped() => {
                    return Err(WebError::Stopped.into());
                }
                Err(LockError::Held { .. }) => {
                    if !is_said {
                        tracing::info!("{name}: another process is downloading it; waiting for it");
                    }
                    is_said = true;
                    std::thread::sleep(TICK);
                }
            }
        }
    }

    fn point(&self, name: &str, etag: &str) -> Result<(), DownloadError> {
        let pointer = self.snapshot.join(name);
        if cfg!(unix) {
            atomic::link(&format!("../../blobs/{etag}"), &pointer)?;
        } else {
            // As Hugging Face's own tools do where there are no links.
            std::fs::rename(self.blobs.join(etag), &pointer)
                .map_err(|error| FileError::writing(&pointer, error))?;
        }
        Ok(())
    }
}

/// What a file's content is named after: SHA-256 of large files, Git's hash of others.
fn etag_of(headers: &HeaderMap) -> Option<String> {
    let etag = headers
        .get("x-linked-etag")
        .or_else(|| headers.get("etag"))?;
    let etag = etag.to_str().ok()?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    is_name(etag).then(|| etag.to_owned())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// In what a download differs from what is published.
fn difference(
    part: &Path,
    bytes: Option<u64>,
    etag: &str,
) -> Result<Option<&'static str>, FileError> {
    if bytes.is_some_and(|bytes| bytes != bytes_of(part)) {
        return Ok(Some("size"));
    }
    if !is_sha256(etag) {
        return Ok(None);
    }
    let found = hash::sha256_of_file(part).map_err(|error| FileError::reading(part, error))?;
    Ok((!etag.eq_ignore_ascii_case(&found)).then_some("SHA-256"))
}

/// The bar of a file.
struct Bar<'a> {
    name: &'a str,
    web: &'a Web,
    shown: ByteBar,
    done: AtomicU64,
}

impl<'a> Bar<'a> {
    fn start(name: &'a str, web: &'a Web, done: u64, total: Option<u64>) -> Self {
        tracing::info!("downloading {name}");
        Self {
            name,
            web,
            shown: ByteBar::start(done, total.unwrap_or(done)),
            done: AtomicU64::new(done),
        }
    }

    fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.shown.show(done, self.name.to_owned());
    }
}

impl Watch for Bar<'_> {
    fn came(&self, bytes: u64) {
        self.set(self.done.load(Ordering::Relaxed) + bytes);
    }

    fn forget(&self, bytes: u64) {
        let done = self.done.load(Ordering::Relaxed);
        self.set(done.saturating_sub(bytes));
    }

    fn is_over(&self) -> bool {
        self.web.is_stopped()
    }
}
