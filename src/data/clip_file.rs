//! What lies behind a clip's path: a file, or a folder whose images are the frames.

use super::Fragment;
use crate::util::hash;
use std::fs::Metadata;
use std::io;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Names of images end like this.
const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Digits that the largest number in a name can have for names to sort by it.
const NUMBER_WIDTH: usize = 20;

/// Whether there is a file or a folder behind a clip's path, or may be, where the system does not let us look: who reads it
/// says so then.
pub(super) fn exists(clip: &Path) -> bool {
    let (path, _) = Fragment::split(clip);
    may_be_there(std::fs::metadata(path))
}

fn may_be_there(facts: io::Result<Metadata>) -> bool {
    match facts {
        Ok(facts) => facts.is_file() || facts.is_dir(),
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// The images in a folder, in the order of their names, in which numbers count as numbers (`2.jpg` before `10.jpg`).
/// Hidden files and those of other kinds are passed over.
pub(crate) fn folder_images(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if !name.starts_with('.') && EXTENSIONS.iter().any(|known| extension == *known) {
            images.push((sorting_name(&name), path));
        }
    }
    images.sort();
    Ok(images.into_iter().map(|(_, path)| path).collect())
}

/// A name whose numbers have leading zeros, so that names sort by them.
fn sorting_name(name: &str) -> String {
    let mut sorting = String::new();
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    for run in name.as_bytes().chunk_by(|a, b| is_digit(a) == is_digit(b)) {
        // Cut beside digits only: no letter of several bytes is torn.
        let run = String::from_utf8_lossy(run);
        let zeros = if run.starts_with(|c: char| c.is_ascii_digit()) {
            NUMBER_WIDTH.saturating_sub(run.len())
        } else {
            0
        };
        sorting.push_str(&"0".repeat(zeros));
        sorting.push_str(&run);
    }
    sorting
}

/// What tells whether a clip may have changed, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClipFacts {
    /// Size of the file, or of all images of a folder.
    pub(crate) bytes: u64,
    /// Time since 1970 of the last change to the file, or to the folder or any of its images.
    pub(crate) modified: std::time::Duration,
}

impl ClipFacts {
    /// Asks for those of the file or folder behind a clip's path.
    pub(crate) fn of(clip: &Path) -> io::Result<Self> {
        let (path, _) = Fragment::split(clip);
        let facts = std::fs::metadata(&path)?;
        let (mut bytes, mut modified) = (facts.len(), facts.modified()?);
        if facts.is_dir() {
            bytes = 0;
            for image in folder_images(&path)? {
                let facts = std::fs::metadata(image)?;
                bytes += facts.len();
                modified = modified.max(facts.modified()?);
            }
        }
        let modified = SystemTime::duration_since(&modified, UNIX_EPOCH).unwrap_or_default();
        Ok(Self { bytes, modified })
    }
}

/// SHA-256 in hexadecimal digits of what lies behind a clip's path: of a file's content, or of the hashes of a folder's
/// images in their order. The images' names do not count.
pub(super) fn content_hash(clip: &Path) -> io::Result<String> {
    let (path, _) = Fragment::split(clip);
    if !path.is_dir() {
        return hash::sha256_of_file(&path);
    }
    let mut hashes = String::new();
    for image in folder_images(&path)? {
        hashes.push_str(&hash::sha256_of_file(&image)?);
    }
    Ok(hash::sha256(hashes.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    fn folder_of(images: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in images {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn images_are_in_the_order_of_their_numbers_and_other_files_are_none() {
        let folder = folder_of(&[
            ("10.jpg", ""),
            ("9.JPG", ""),
            ("b2.png", ""),
            ("b10.jpeg", ""),
            ("._9.jpg", ""),
            ("notes.txt", ""),
        ]);
        let images = folder_images(folder.path()).unwrap();
        let names: Vec<_> = images
            .iter()
            .map(|image| image.file_name().unwrap())
            .collect();
        assert_eq!(names, ["9.JPG", "10.jpg", "b2.png", "b10.jpeg"]);
    }

    #[test]
    fn what_may_not_be_looked_at_is_not_called_absent() {
        let folder = folder_of(&[("1.mp4", "")]);
        assert!(exists(&folder.path().join("1.mp4")) && exists(folder.path()));
        assert!(!exists(&folder.path().join("2.mp4")));
        assert!(may_be_there(Err(ErrorKind::PermissionDenied.into())));
        assert!(!may_be_there(Err(ErrorKind::NotFound.into())));
    }

    #[test]
    fn a_folder_is_its_images_in_their_order_under_any_names() {
        let (one, same) = (
            folder_of(&[("1.jpg", "a"), ("2.jpg", "b")]),
            folder_of(&[("x5.png", "a"), ("x6.png", "b"), ("notes.txt", "c")]),
        );
        let hash = |folder: &tempfile::TempDir| {
            let path = folder.path().display().to_string();
            content_hash(Path::new(&format!("{path}#fps=3"))).unwrap()
        };
        assert_eq!(hash(&one), hash(&same));
        for other in [
            folder_of(&[("1.jpg", "b"), ("2.jpg", "a")]),
            folder_of(&[("1.jpg", "ab"), ("2.jpg", "")]),
            folder_of(&[("1.jpg", "a")]),
        ] {
            assert_ne!(hash(&one), hash(&other));
        }
    }

    #[test]
    fn facts_of_a_folder_change_with_any_image() {
        let folder = folder_of(&[("1.jpg", "a"), ("2.jpg", "bc")]);
        let before = ClipFacts::of(folder.path()).unwrap();
        assert_eq!(before.bytes, 3);
        let file = File::options();
        let file = file
            .clone()
            .write(true)
            .open(folder.path().join("1.jpg"))
            .unwrap();
        let later = SystemTime::now() + Duration::from_secs(9);
        file.set_modified(later).unwrap();
        assert!(ClipFacts::of(folder.path()).unwrap().modified > before.modified);
    }
}
