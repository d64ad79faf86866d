//! Errors that name their file, and reading with them.

use crate::util::json;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

/// A file or folder with which the system refused to do something.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {action} {}: {}{}",
    path.display(),
    if self.is_absent() { "there is no such file".to_owned() } else { system.to_string() },
    if is_out_of_space(system) { "; make room, or name another place" } else { "" }
)]
pub struct FileError {
    /// What was refused: `read`, `write`, `create`, `remove`.
    pub(crate) action: &'static str,
    /// Which file or folder.
    pub(crate) path: PathBuf,
    /// What the system said; no cause of its own to the reader, whom the message tells all of it.
    pub(crate) system: std::io::Error,
}

impl FileError {
    /// A failed `action` on `path`.
    pub(crate) fn new(action: &'static str, path: &Path, system: std::io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            system,
        }
    }

    /// Whether what was to be read is not there.
    pub(crate) fn is_absent(&self) -> bool {
        self.action == "read" && self.system.kind() == ErrorKind::NotFound
    }

    /// A failed read of `path`.
    pub(crate) fn reading(path: &Path, source: std::io::Error) -> Self {
        Self::new("read", path, source)
    }

    /// A failed write of `path`.
    pub(crate) fn writing(path: &Path, source: std::io::Error) -> Self {
        Self::new("write", path, source)
    }
}

/// Whether a write failed because there is no room: a full disk, a quota, or a size limit.
pub(crate) fn is_out_of_space(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Whether there is a file or folder `path`. What the system keeps from us is an error, not an absence.
pub(crate) fn exists(path: &Path) -> Result<bool, FileError> {
    path.try_exists()
        .map_err(|error| FileError::reading(path, error))
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|error| FileError::reading(path, error))
}

/// A file that is UTF-8 text.
pub(crate) fn read_to_string(path: &Path) -> Result<String, FileError> {
    let text = String::from_utf8(read(path)?).map_err(|error| {
        let other = json::other_file(error.as_bytes());
        let other = other
            .unwrap_or("is no text in UTF-8: another file is meant, or it is to be saved as UTF-8");
        another(path, other)
    })?;
    match json::no_text(text.as_bytes()) {
        Some(what) => Err(another(path, what)),
        None => Ok(text),
    }
}

/// A file that is something else than what is read; `what` says what it is, and what to do.
pub(crate) fn another(path: &Path, what: &str) -> FileError {
    FileError::reading(
        path,
        std::io::Error::new(ErrorKind::InvalidData, format!("it {what}")),
    )
}

/// The first bytes of a file, at most 1024.
pub(crate) fn beginning(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(1024).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether bytes are what a clone without git-lfs has in place of a file.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

/// Creates a folder and those it lies in, where they are not there yet.
pub(crate) fn create_folders(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).map_err(|error| FileError::new("create", path, error))
}

/// Writes a file of a folder that is not complete yet; elsewhere, see [`crate::util::atomic::write`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    std::fs::write(path, bytes).map_err(|error| FileError::writing(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_named_for_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.csv");
        for (bytes, said) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..],
                "it is a Git LFS pointer",
            ),
            (b"a,b\n\0\0", "it ends in zero bytes"),
            (b"a\0,\0b\0", "UTF-16"),
            (b"PK\x03\x04\0\0", "it is a zip archive"),
            (b"caf\xe9", "no text in UTF-8"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read_to_string(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        std::fs::write(&path, "<b>,c\n").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "<b>,c\n");
    }

    #[test]
    fn messages_name_the_file_and_what_to_do() {
        let path = Path::new("folder/file");
        let full = FileError::writing(path, ErrorKind::StorageFull.into()).to_string();
        assert!(full.starts_with("cannot write folder/file: ") && full.contains("make room"));
        let absent = FileError::reading(path, ErrorKind::NotFound.into()).to_string();
        assert_eq!(absent, "cannot read folder/file: there is no such file");
    }
}
