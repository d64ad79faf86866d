//! One file: continued where it broke off, checked, and only then given its name.

use super::catalog::Item;
use super::progress::Progress;
use super::record::Line;
use crate::model::hub::transfer;
use crate::model::hub::transfer::Source;
use crate::model::hub::transfer::TransferError;
use crate::model::hub::transfer::Watch;
use crate::model::hub::transfer::bytes_of;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use crate::model::hub::web::broken;
use crate::model::hub::web::shown;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use ureq::http::header;

/// Why a file of a dataset is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The server does not give it.
    #[error("{path}: {source}: {}", advice(source, page))]
    Web {
        path: String,
        source: WebError,
        /// The dataset's page.
        page: &'static str,
    },
    /// What came is not what is published.
    #[error(
        "{}: the download has another {what} than is published ({published}); it is removed: start again", path.display()
    )]
    Content {
        path: PathBuf,
        what: &'static str,
        published: String,
    },
    /// What was there before is not what is published.
    #[error(
        "{}: there is a file with another {what} than is published ({published}): move it away, or name another folder with --out",
        path.display()
    )]
    Foreign {
        path: PathBuf,
        what: &'static str,
        published: String,
    },
    /// Something else has the file's name.
    #[error(
        "{}: there is a file of {found} bytes, published are {published}: move it away, or name another folder with --out",
        path.display()
    )]
    Occupied {
        path: PathBuf,
        found: u64,
        published: u64,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

/// What to do about a refusal.
pub(super) fn advice(error: &WebError, page: &str) -> String {
    match error {
        WebError::Refused { status, .. } => match status {
            401 | 403 => format!(
                "give your consent on {page}, and set HF_TOKEN to a token that may read it"
            ),
            404 => "there is nothing: the source has moved; data/README.md says where each dataset comes from"
                .to_owned(),
            429 => "too many requests: wait some minutes, then start again to continue; with HF_TOKEN more are allowed"
                .to_owned(),
            _ => "start again later to continue".to_owned(),
        },
        WebError::Broken { .. } => {
            "check the network (HF_ENDPOINT, a proxy), then start again to continue".to_owned()
        }
        WebError::Strange { .. } => "is HF_ENDPOINT the address of a hub?".to_owned(),
        WebError::Token => "set HF_TOKEN to a valid one, or unset it".to_owned(),
        WebError::Stopped => "start again to continue".to_owned(),
    }
}

/// Downloads files of a dataset into its folder.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    pub(super) web: Web,
    pub(super) folder: PathBuf,
    pub(super) page: &'static str,
    pub(super) progress: Progress,
    /// Set when another file has failed: this one is continued another time.
    pub(super) halted: Arc<AtomicBool>,
}

/// The name of a file of which not all is there.
pub(super) fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

impl Fetcher {
    /// Downloads a file that is not there yet, and checks it.
    pub(super) fn fetch(&self, item: &Item) -> Result<Line, FetchError> {
        let path = self.folder.join(&item.path);
        if let Some(folder) = path.parent() {
            file::create_folders(folder)?;
        }
        // Left by another tool, or before the record was written.
        if let Ok(metadata) = path.metadata() {
            return match item.bytes {
                Some(published) if published != metadata.len() => Err(FetchError::Occupied {
                    path,
                    found: metadata.len(),
                    published,
                }),
                _ => self.check(item, &path, &path),
            };
        }
        let part = part_of(&path);
        let source = Source {
            url: &item.url,
            bytes: item.bytes,
            has_hash: item.sha256.is_some(),
        };
        transfer::fill(&self.web, source, &part, self).map_err(|error| match error {
            TransferError::File(error) => FetchError::File(error),
            TransferError::Web(source) => FetchError::Web {
                path: item.path.clone(),
                source,
                page: self.page,
            },
        })?;
        let line = self.check(item, &part, &path)?;
        std::fs::rename(&part, &path).map_err(|error| FileError::writing(&path, error))?;
        Ok(line)
    }

    /// Checks the content of `found`, which is or will be `path`; a part that is wrong is removed.
    fn check(&self, item: &Item, found: &Path, path: &Path) -> Result<Line, FetchError> {
        let bytes = bytes_of(found);
        let sha256 =
            hash::sha256_of_file(found).map_err(|error| FileError::reading(found, error))?;
        let wrong = match (item.bytes, &item.sha256) {
            (Some(published), _) if published != bytes => Some(("size", published.to_string())),
            (_, Some(published)) if *published != sha256 => Some(("SHA-256", published.clone())),
            _ => None,
        };
        if let Some((what, published)) = wrong {
            let path = path.to_owned();
            if found == path {
                return Err(FetchError::Foreign {
                    path,
                    what,
                    published,
                });
            }
            transfer::remove(found, bytes, self)?;
            return Err(FetchError::Content {
                path,
                what,
                published,
            });
        }
        Ok(Line::File {
            path: item.path.clone(),
            bytes,
            sha256,
            found: found == path,
        })
    }

    /// How large a file is of which nobody publishes it.
    pub(super) fn ask_size(&self, item: &Item) -> Result<Option<u64>, FetchError> {
        let (web, url) = (self.web.clone(), item.url.clone());
        let ask = move || web.head(&url);
        let asked = self.web.stop().unless_stopped(ask, || {});
        let asked = asked.map_err(|error| broken(&item.url, &error));
        match asked.and_then(|asked| asked.unwrap_or(Err(WebError::Stopped))) {
            Ok(response) => Ok(response
                .headers()
                .get(header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse().ok())),
            // Not every server answers this question.
            Err(error) if matches!(error.status(), Some(400 | 405 | 501)) => {
                tracing::debug!("{}: {error}", shown(&item.url));
                Ok(None)
            }
            Err(source) => Err(FetchError::Web {
                path: item.path.clone(),
                source,
                page: self.page,
            }),
        }
    }
}

impl Watch for Fetcher {
    fn came(&self, bytes: u64) {
        self.progress.came(bytes);
    }

    fn forget(&self, bytes: u64) {
        self.progress.forget(bytes);
    }

    fn is_over(&self) -> bool {
        self.web.is_stopped() || self.halted.load(Ordering::SeqCst)
    }
}
