//! One file: continued where it broke off, checked, and only then given its name.

use super::catalog::Item;
use super::progress::Progress;
use super::record::Line;
use crate::model::hub::web::ATTEMPTS;
use crate::model::hub::web::FIRST_PAUSE;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use crate::model::hub::web::broken;
use crate::model::hub::web::shown;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use ureq::Body;
use ureq::http::Response;
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
    /// Whether a signal or a failure has ended the download.
    pub(super) fn is_over(&self) -> bool {
        self.web.is_stopped() || self.halted.load(Ordering::SeqCst)
    }

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
        self.fill(item, &part).map_err(|error| match error {
            Failed::File(error) => FetchError::File(error),
            Failed::Web(source) => FetchError::Web {
                path: item.path.clone(),
                source,
                page: self.page,
            },
        })?;
        let line = self.check(item, &part, &path)?;
        std::fs::rename(&part, &path).map_err(|error| FileError::writing(&path, error))?;
        Ok(line)
    }

    /// Fills `part` until all of the file is there.
    fn fill(&self, item: &Item, part: &Path) -> Result<(), Failed> {
        let (mut failures, mut pause) = (0, FIRST_PAUSE);
        loop {
            let before = bytes_of(part);
            let error = match self.attempt(item, part) {
                Ok(()) => return Ok(()),
                Err(Failed::Web(error)) if error.may_pass() => error,
                Err(error) => return Err(error),
            };
            if bytes_of(part) > before {
                (failures, pause) = (0, FIRST_PAUSE);
            }
            failures += 1;
            if failures == ATTEMPTS {
                return Err(error.into());
            }
            self.web.pause(&error, pause)?;
            pause *= 2;
        }
    }

    /// Asks for what `part` lacks, and appends what comes.
    fn attempt(&self, item: &Item, part: &Path) -> Result<(), Failed> {
        let url = &item.url;
        let start = bytes_of(part);
        if item.bytes.is_some_and(|bytes| bytes == start) && part.exists() {
            return Ok(());
        }
        let asked = self.web.once(url, || {
            let mut request = self.web.agent().get(url);
            if let Some(token) = self.web.authorization(url) {
                request = request.header(header::AUTHORIZATION, token);
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            request.call()
        });
        let response = match asked {
            Ok(response) => response,
            // The part is as long as the file, or longer. Where neither size nor hash is published, that proves nothing.
            Err(error) if error.status() == Some(416) => {
                if item.sha256.is_none() || item.bytes.is_some() {
                    self.remove(part, start)?;
                    return self.attempt(item, part);
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let from = begins_at(&response);
        if from != start {
            // The server sends all of it, whatever it is asked for.
            if start > 0 {
                self.remove(part, start)?;
            }
            if from > 0 {
                let reason = format!("it was asked from byte {start} and answers from {from}");
                return Err(broken(url, &reason).into());
            }
        }
        self.append(url, response, part)
    }

    fn remove(&self, part: &Path, bytes: u64) -> Result<(), FileError> {
        self.progress.forget(bytes);
        std::fs::remove_file(part).map_err(|error| FileError::new("remove", part, error))
    }

    fn append(&self, url: &str, response: Response<Body>, part: &Path) -> Result<(), Failed> {
        let mut options = OpenOptions::new();
        let opened = options.create(true).append(true).open(part);
        let mut file = opened.map_err(|error| FileError::writing(part, error))?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            if self.is_over() {
                return Err(WebError::Stopped.into());
            }
            let count = body
                .read(&mut buffer)
                .map_err(|error| broken(url, &error))?;
            if count == 0 {
                return file
                    .sync_all()
                    .map_err(|error| FileError::writing(part, error).into());
            }
            file.write_all(&buffer[..count])
                .map_err(|error| FileError::writing(part, error))?;
            self.progress.came(count as u64);
        }
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
            if found != path {
                self.remove(found, bytes)?;
            }
            return Err(FetchError::Content {
                path: path.to_owned(),
                what,
                published,
            });
        }
        Ok(Line::File {
            path: item.path.clone(),
            bytes,
            sha256,
        })
    }

    /// How large a file is of which nobody publishes it.
    pub(super) fn ask_size(&self, item: &Item) -> Result<Option<u64>, FetchError> {
        let url = &item.url;
        let head = self.web.ask(url, |web| web.agent().head(url).call());
        match head {
            Ok(response) => Ok(response
                .headers()
                .get(header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse().ok())),
            // Not every server answers this question.
            Err(error) if matches!(error.status(), Some(400 | 405 | 501)) => {
                tracing::debug!("{}: {error}", shown(url));
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

/// Why an attempt failed.
enum Failed {
    Web(WebError),
    File(FileError),
}

impl From<WebError> for Failed {
    fn from(error: WebError) -> Self {
        Self::Web(error)
    }
}

impl From<FileError> for Failed {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Bytes of a file; 0 if it is not there.
pub(super) fn bytes_of(path: &Path) -> u64 {
    File::open(path)
        .and_then(|file| file.metadata())
        .map_or(0, |metadata| metadata.len())
}

/// The first byte of an answer.
fn begins_at(response: &Response<Body>) -> u64 {
    let range = response.headers().get(header::CONTENT_RANGE);
    let start = range.and_then(|range| {
        let range = range.to_str().ok()?.strip_prefix("bytes ")?;
        range.split('-').next()?.parse().ok()
    });
    start.unwrap_or(0)
}
