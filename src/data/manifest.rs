//! What the clips of a dataset were when they were checked: sizes, times and hashes, so that a later run notices a
//! clip that has changed without decoding or even reading it.

use super::clip_file::content_hash;
use super::{ClipFacts, DataError};
use crate::util::atomic;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::json;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is known of one clip's file, or of the images of its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// Its size.
    pub(crate) bytes: u64,
    /// When it was last written, in microseconds since 1970.
    pub(crate) modified_us: u64,
    /// SHA-256 of its content, in hexadecimal digits; of a folder, of its images' hashes in their order.
    pub(crate) sha256: String,
}

impl ClipRecord {
    /// Reads and hashes the file or folder behind a clip's path.
    pub fn of(file: &Path) -> std::io::Result<Self> {
        let (bytes, modified_us) = facts(file)?;
        Ok(Self {
            bytes,
            modified_us,
            sha256: content_hash(file)?,
        })
    }
}

/// The records of a dataset's clips, each under the path by which the questions name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Path as in the question file → record.
    pub clips: BTreeMap<PathBuf, ClipRecord>,
}

/// How a clip differs from its record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Change {
    /// There is no record.
    #[error("is not in the manifest")]
    Unlisted,
    /// The file has another size.
    #[error("has {found} bytes, {recorded} when it was checked")]
    Size { recorded: u64, found: u64 },
    /// The size is the same and the content is not.
    #[error("has another content than when it was checked")]
    Content,
    /// The file can no longer be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

impl Manifest {
    /// Reads a manifest.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = file::read(path)?;
        json::read(&text).map_err(|error| DataError::Content {
            path: path.to_owned(),
            place: error.place(),
            problem: format!(
                "not a manifest of `data check --manifest`: {}",
                error.problem
            ),
        })
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| FileError::writing(path, error.into()))?;
        Ok(atomic::write(path, &text)?)
    }

    /// Compares a clip with its record: by size and time, and by content where only the time differs or where `always_hash`.
    pub(crate) fn verify(
        &self,
        video: &Path,
        file: &Path,
        always_hash: bool,
    ) -> Result<(), Change> {
        let unreadable = |error: std::io::Error| Change::Unreadable(error.to_string());
        let record = self.clips.get(video).ok_or(Change::Unlisted)?;
        let (bytes, modified_us) = facts(file).map_err(unreadable)?;
        if bytes != record.bytes {
            return Err(Change::Size {
                recorded: record.bytes,
                found: bytes,
            });
        }
        if modified_us == record.modified_us && !always_hash {
            return Ok(());
        }
        if content_hash(file).map_err(unreadable)? == record.sha256 {
            Ok(())
        } else {
            Err(Change::Content)
        }
    }
}

/// Size, and time of the last change in microseconds.
fn facts(clip: &Path) -> std::io::Result<(u64, u64)> {
    let facts = ClipFacts::of(clip)?;
    Ok((facts.bytes, facts.modified.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    /// A manifest of one file, and the file.
    fn one(content: &str) -> (tempfile::TempDir, Manifest, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.mp4");
        std::fs::write(&file, content).unwrap();
        let clips = [("a.mp4".into(), ClipRecord::of(&file).unwrap())];
        let manifest = Manifest {
            clips: clips.into(),
        };
        (folder, manifest, file)
    }

    fn set_time(file: &Path, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(time).unwrap();
    }

    #[test]
    fn hashes_are_sha256() {
        let (_folder, manifest, _) = one("abc");
        assert_eq!(
            manifest.clips[Path::new("a.mp4")].sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn changes_are_noticed_by_size_then_time_then_content() {
        let (folder, manifest, file) = one("abc");
        let verify = |always_hash| manifest.verify(Path::new("a.mp4"), &file, always_hash);
        let recorded = manifest.clips[Path::new("a.mp4")].modified_us;
        assert_eq!(verify(true), Ok(()));
        set_time(&file, 1000);
        assert_eq!(verify(false), Ok(()), "copied, not changed");
        std::fs::write(&file, "abd").unwrap();
        set_time(&file, 2000);
        assert_eq!(verify(false), Err(Change::Content));
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(recorded);
        let handle = File::options().write(true).open(&file).unwrap();
        handle.set_modified(time).unwrap();
        assert_eq!(verify(false), Ok(()), "equal size and time are believed");
        assert_eq!(verify(true), Err(Change::Content));
        std::fs::write(&file, "abcd").unwrap();
        assert!(matches!(
            verify(false),
            Err(Change::Size {
                recorded: 3,
                found: 4
            })
        ));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(verify(false), Err(Change::Unreadable(_))));
        let other = folder.path().join("b.mp4");
        let unlisted = manifest.verify(Path::new("b.mp4"), &other, false);
        assert_eq!(unlisted, Err(Change::Unlisted));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (folder, manifest, _) = one("abc");
        let path = folder.path().join("manifest.json");
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest);
        std::fs::write(&path, "[]").unwrap();
        let message = Manifest::read(&path).unwrap_err().to_string();
        assert!(message.contains("manifest.json") && message.contains("--manifest"));
    }
}
