//! Sending a model folder to the hub: a repository, its large files by the LFS protocol, and one commit.
//!
//! Large files go to where the hub says, often another server, which is not shown the token. What the hub has already is
//! not sent again, so that a broken upload is continued by starting it again.

use crate::model::hub::large_files::Large;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use crate::model::hub::web::shown;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use ureq::http::header;

/// The branch that is written to.
pub(super) const BRANCH: &str = "main";
/// Bytes of a file's beginning by which the hub tells text from other files.
const SAMPLE: usize = 512;
/// Files that the hub is asked about at a time.
pub(super) const AT_ONCE: usize = 100;

/// Why a folder is not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// The hub or a server it names does not take it.
    #[error("{action}: {source}: {}", advice(source, *has_token))]
    Web {
        /// What was tried.
        action: String,
        source: WebError,
        has_token: bool,
    },
    /// The hub takes no part in the protocol.
    #[error("{action}: the hub's answer cannot be followed: {reason}")]
    Protocol { action: String, reason: String },
    /// Something in the folder is not uploaded.
    #[error("{}: {problem}: nothing is uploaded; put the file itself there, or take it away", path.display())]
    NotAFile {
        path: PathBuf,
        problem: &'static str,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

impl PublishError {
    /// Whether a signal has ended it.
    pub(crate) fn is_stop(&self) -> bool {
        matches!(
            self,
            Self::Web {
                source: WebError::Stopped,
                ..
            }
        )
    }
}

/// What to do about a failed upload.
fn advice(error: &WebError, has_token: bool) -> &'static str {
    match error {
        WebError::Refused { status, .. } => match status {
            401 | 403 if !has_token => {
                "set HF_TOKEN to a token with write access, or store one with `hf auth login`"
            }
            401 => "the hub does not accept the token: set HF_TOKEN to a valid one",
            403 => {
                "the token may not write there: set HF_TOKEN to one with write access, or name an owner that is yours; an \
                 address for uploads may also have expired: then start again"
            }
            404 => {
                "there is no such repository or owner, or the token may not see it: check OWNER/NAME"
            }
            301..=303 => {
                "the server names another address: set HF_ENDPOINT to where the hub is now, or push to the repository's new name"
            }
            409 => "the repository was changed meanwhile, or its name is taken: start again",
            413 => {
                "a file is too large for the hub: export with smaller shards (without --merge), or ask for more storage"
            }
            429 => {
                "too many requests: wait some minutes, then start again; what was sent is not sent again"
            }
            _ => "start again later; what was sent is not sent again",
        },
        WebError::Broken { .. } => {
            "check the network (HF_ENDPOINT, a proxy), then start again; what was sent is not sent again"
        }
        WebError::Strange { .. } => "is HF_ENDPOINT the address of a hub?",
        WebError::Token => "set HF_TOKEN to a valid one",
        WebError::Stopped => "start again; what was sent is not sent again",
    }
}

/// A file of the folder.
#[derive(Debug, Clone)]
pub(crate) struct LocalFile {
    /// Its path in the repository.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(super) place: PathBuf,
}

/// The files of a folder, those of folders in it too; hidden ones are left out. Links are followed within the folder, and in a
/// cache of the hub, whose files are links.
pub(crate) fn files_of(folder: &Path) -> Result<Vec<LocalFile>, PublishError> {
    let reading = |error| FileError::reading(folder, error);
    let mut roots = vec![folder.canonicalize().map_err(reading)?];
    if let [.., snapshots, _] = roots[0].components().collect::<Vec<_>>().as_slice()
        && snapshots.as_os_str() == "snapshots"
    {
        roots.push(
            roots[0]
                .join("../../blobs")
                .canonicalize()
                .map_err(reading)?,
        );
    }
    let mut files = Vec::new();
    collect(folder, "", &roots, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect(
    folder: &Path,
    before: &str,
    roots: &[PathBuf],
    files: &mut Vec<LocalFile>,
) -> Result<(), PublishError> {
    let reading = |error| FileError::reading(folder, error);
    for entry in std::fs::read_dir(folder).map_err(reading)? {
        let place = entry.map_err(reading)?.path();
        let problem = |problem| PublishError::NotAFile {
            path: place.clone(),
            problem,
        };
        let name = place.file_name().unwrap_or_default().to_str();
        let name = name.ok_or_else(|| problem("its name is not UTF-8"))?;
        if name.starts_with('.') {
            continue;
        }
        let path = format!("{before}{name}");
        let failed = |error| FileError::reading(&place, error);
        if place.is_symlink() {
            let target = place.canonicalize().map_err(failed)?;
            if !roots.iter().any(|root| target.starts_with(root)) {
                return Err(problem("a link to something outside the folder"));
            }
            if target.is_dir() {
                return Err(problem("a link to a folder"));
            }
        }
        let metadata = place.metadata().map_err(failed)?;
        if metadata.is_dir() {
            collect(&place, &format!("{path}/"), roots, files)?;
        } else if metadata.is_file() {
            files.push(LocalFile {
                path,
                bytes: metadata.len(),
                place,
            });
        } else {
            return Err(problem("no file and no folder"));
        }
    }
    Ok(())
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    /// Where it is seen.
    pub(crate) page: String,
    /// Bytes that were sent as large files.
    pub(crate) sent: u64,
    /// Large files that the hub had already.
    pub(crate) there_before: usize,
}

/// Sends a folder to the repository `OWNER/NAME`.
pub(crate) struct Publisher {
    pub(crate) web: Web,
    pub(crate) repository: String,
    /// Whether a repository that is made is private.
    pub(crate) private: bool,
    /// Bytes of large files that have been sent.
    pub(crate) sent: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Preupload {
    files: Vec<UploadMode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UploadMode {
    path: String,
    #[serde(rename = "uploadMode")]
    mode: String,
    #[serde(default)]
    should_ignore: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_url: Option<String>,
}

impl Publisher {
    /// Publishes `files` with `message`.
    pub(crate) fn publish(
        &self,
        files: &[LocalFile],
        message: &str,
    ) -> Result<Published, PublishError> {
        self.create()?;
        let (small, large) = self.sort(files)?;
        let mut large_files = Vec::with_capacity(large.len());
        for file in large {
            let oid = hash::sha256_of_file(&file.place)
                .map_err(|error| FileError::reading(&file.place, error))?;
            large_files.push(Large { file, oid });
        }
        let there_before = self.send_large(&large_files)?;
        let page = self.commit(&small, &large_files, message)?;
        Ok(Published {
            page,
            sent: self.sent.load(Ordering::Relaxed),
            there_before,
        })
    }

    pub(super) fn failed(
        &self,
        action: impl Into<String>,
    ) -> impl FnOnce(WebError) -> PublishError {
        let (action, has_token) = (action.into(), self.web.has_token());
        move |source| PublishError::Web {
            action,
            source,
            has_token,
        }
    }

    fn post<T: serde::de::DeserializeOwned>(&self, url: &str, body: &Value) -> Result<T, WebError> {
        self.web.send_for_json(url, |web, place| {
            let mut request = web.agent().post(place);
            if let Some(token) = web.authorization(place) {
                request = request.header(header::AUTHORIZATION, token);
            }
            request.send_json(body)
        })
    }

    /// Makes the repository, unless there is one.
    fn create(&self) -> Result<(), PublishError> {
        let endpoint = self.web.endpoint();
        let (owner, name) = self.repository.split_once('/').unwrap_or_default();
        let url = format!("{endpoint}/api/repos/create");
        let body =
            json!({"name": name, "organization": owner, "type": "model", "private": self.private});
        let Err(error) = self.post::<Value>(&url, &body) else {
            return Ok(());
        };
        let is_there = match error.status() {
            Some(409) => true,
            // A token may write to a repository and not be allowed to make any.
            Some(403) => self.is_there()?,
            _ => false,
        };
        if !is_there {
            return Err(self
                .failed(format!("{} cannot be created", self.repository))(
                error
            ));
        }
        let private = if self.private {
            "; who may see it stays as it is (--private is for new ones)"
        } else {
            ""
        };
        tracing::info!("{} is there already{private}", self.repository);
        Ok(())
    }

    fn is_there(&self) -> Result<bool, PublishError> {
        let url = format!("{}/api/models/{}", self.web.endpoint(), self.repository);
        match self.web.get_json::<Value>(&url) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.status(), Some(401 | 403 | 404)) => Ok(false),
            Err(error) => Err(self
                .failed(format!("{} cannot be looked up", self.repository))(
                error
            )),
        }
    }

    /// Asks the hub which files it takes as they are, and which as large files.
    fn sort<'f>(
        &self,
        files: &'f [LocalFile],
    ) -> Result<(Vec<&'f LocalFile>, Vec<&'f LocalFile>), PublishError> {
        let action = || format!("{} cannot be prepared for an upload", self.repository);
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for some in files.chunks(AT_ONCE) {
            let mut described = Vec::with_capacity(some.len());
            for file in some {
                let sample = base64(&beginning(&file.place)?);
                described.push(json!({"path": file.path, "sample": sample, "size": file.bytes}));
            }
            let url = format!(
                "{}/api/models/{}/preupload/{BRANCH}",
                self.web.endpoint(),
                self.repository
            );
            let answer: Preupload = self
                .post(&url, &json!({"files": described}))
                .map_err(self.failed(action()))?;
            for file in some {
                let mode = answer.files.iter().find(|mode| mode.path == file.path);
                match mode {
                    Some(mode) if mode.should_ignore => tracing::warn!(
                        "{}: left out, because the repository's .gitignore says so",
                        file.path
                    ),
                    Some(mode) if mode.mode == "lfs" => large.push(file),
                    Some(mode) if mode.mode == "regular" => small.push(file),
                    _ => {
                        return Err(PublishError::Protocol {
                            action: action(),
                            reason: format!("it does not say how {} is sent", file.path),
                        });
                    }
                }
            }
        }
        Ok((small, large))
    }

    /// Makes all of it one commit; the page that shows it.
    fn commit(
        &self,
        small: &[&LocalFile],
        large: &[Large],
        message: &str,
    ) -> Result<String, PublishError> {
        let mut lines =
            vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        for file in small {
            let content = base64(&file::read(&file.place)?);
            let value = json!({"content": content, "path": file.path, "encoding": "base64"});
            lines.push(json!({"key": "file", "value": value}));
        }
        for Large { file, oid } in large {
            let value =
                json!({"path": file.path, "algo": "sha256", "oid": oid, "size": file.bytes});
            lines.push(json!({"key": "lfsFile", "value": value}));
        }
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let body = lines.join("\n");
        let endpoint = self.web.endpoint();
        let url = format!("{endpoint}/api/models/{}/commit/{BRANCH}", self.repository);
        let answer = self.web.send_for_json::<Committed>(&url, |web, place| {
            let mut request = web
                .agent()
                .post(place)
                .header(header::CONTENT_TYPE, "application/x-ndjson");
            if let Some(token) = web.authorization(place) {
                request = request.header(header::AUTHORIZATION, token);
            }
            request.send(body.as_str())
        });
        let committed =
            answer.map_err(self.failed(format!("{} takes no commit", self.repository)))?;
        let page = format!("{endpoint}/{}", self.repository);
        Ok(shown(&committed.commit_url.unwrap_or(page)))
    }
}

fn beginning(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut sample = Vec::with_capacity(SAMPLE);
    let file = File::open(path).map_err(|error| FileError::reading(path, error))?;
    file.take(SAMPLE as u64)
        .read_to_end(&mut sample)
        .map_err(|error| FileError::reading(path, error))?;
    Ok(sample)
}

/// Bytes as base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let value = (0..3).fold(0, |value, at| {
            value << 8 | u32::from(three.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            text.push(if at <= three.len() {
                char::from(LETTERS[(value >> (18 - 6 * at) & 63) as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out_of_the_folder() {
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("key"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.txt");
        std::fs::create_dir(folder.path().join("part")).unwrap();
        std::fs::write(folder.path().join("part/a.txt"), "12").unwrap();
        for (target, problem) in [
            (outside.path().join("key"), "outside the folder"),
            (outside.path().to_owned(), "outside the folder"),
            ("..".into(), "outside the folder"),
            ("part".into(), "a link to a folder"),
            (".".into(), "a link to a folder"),
            ("nothing".into(), "cannot read"),
        ] {
            symlink(&target, &link).unwrap();
            let error = files_of(folder.path()).unwrap_err().to_string();
            assert!(error.contains(problem), "{target:?}: {error}");
            std::fs::remove_file(&link).unwrap();
        }
        symlink("part/a.txt", &link).unwrap();
        assert_eq!(files_of(folder.path()).unwrap().len(), 2);
        // A cache of the hub.
        let snapshot = folder.path().join("models--a--b/snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(snapshot.join("../../blobs")).unwrap();
        std::fs::write(snapshot.join("../../blobs/0"), "12").unwrap();
        symlink("../../blobs/0", snapshot.join("config.json")).unwrap();
        assert_eq!(files_of(&snapshot).unwrap().len(), 1);
    }

    #[test]
    fn hidden_files_stay_here() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("part/.cache")).unwrap();
        for name in ["b.json", "part/a.txt", ".secret", "part/.cache/x"] {
            std::fs::write(folder.path().join(name), "12").unwrap();
        }
        let files = files_of(folder.path()).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["b.json", "part/a.txt"]);
        assert!(files.iter().all(|file| file.bytes == 2));
    }
}
