//! Archives, unpacked entry by entry: what is there already is passed over, and nothing lands outside the folder.

use super::record::Line;
use super::record::Record;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash::Fnv;
use anyhow::Result;
use std::fs::File;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use zip::ZipArchive;
use zip::result::ZipError;

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// It is no zip archive, or damaged.
    #[error(
        "{}: not a zip archive that can be read ({reason}); remove it, then start again to download it anew", path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    /// It would write where it must not.
    #[error(
        "{}: its entry `{entry}` {problem}: nothing of it is unpacked", path.display()
    )]
    Refused {
        path: PathBuf,
        entry: String,
        problem: &'static str,
    },
}

/// An archive of a dataset.
pub(super) struct Archive<'a> {
    /// The dataset's folder.
    pub(super) folder: &'a Path,
    /// The archive below it.
    pub(super) path: &'a str,
    /// Where its entries go, below the folder.
    pub(super) into: &'a str,
}

/// An entry, and where it goes below the dataset's folder.
struct Entry {
    index: usize,
    path: String,
    bytes: u64,
    crc32: String,
}

impl Archive<'_> {
    fn damaged(&self, error: &impl ToString) -> UnpackError {
        UnpackError::Damaged {
            path: self.folder.join(self.path),
            reason: error.to_string(),
        }
    }

    /// Unpacks what is not there yet; how many files it holds and their bytes, or nothing when a signal has stopped it.
    pub(super) fn unpack(
        &self,
        record: &Mutex<Record>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<(usize, u64)>> {
        let path = self.folder.join(self.path);
        let file = File::open(&path).map_err(|error| FileError::reading(&path, error))?;
        let mut zip =
            ZipArchive::new(BufReader::new(file)).map_err(|error| self.damaged(&error))?;
        // All names are looked at before anything is written.
        let entries = self.entries(&mut zip)?;
        for entry in &entries {
            let is_there =
                |record: &Record| record.has_entry(&entry.path, entry.bytes, &entry.crc32);
            if is_there(&record.lock().unwrap_or_else(PoisonError::into_inner)) {
                continue;
            }
            if !self.write(&mut zip, entry, stopped)? {
                return Ok(None);
            }
            let line = Line::Entry {
                path: entry.path.clone(),
                bytes: entry.bytes,
                crc32: entry.crc32.clone(),
                archive: self.path.to_owned(),
            };
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.add(line)?;
        }
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let line = Line::Unpacked {
            archive: self.path.to_owned(),
            entries: entries.len(),
            bytes,
        };
        let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
        record.add(line)?;
        Ok(Some((entries.len(), bytes)))
    }

    fn entries(&self, zip: &mut ZipArchive<BufReader<File>>) -> Result<Vec<Entry>, UnpackError> {
        let mut entries = Vec::with_capacity(zip.len());
        for index in 0..zip.len() {
            // Raw: an entry's content is read later, and a method that is not known named then.
            let entry = zip
                .by_index_raw(index)
                .map_err(|error| self.damaged(&error))?;
            let name = entry
                .name()
                .map_err(|error| self.damaged(&error))?
                .into_owned();
            let refused = |problem| UnpackError::Refused {
                path: self.folder.join(self.path),
                entry: name.clone(),
                problem,
            };
            if !stays_inside(&name) {
                return Err(refused("would be written outside the folder"));
            }
            if entry.is_symlink() {
                return Err(refused("is a link"));
            }
            if entry.encrypted() {
                return Err(refused("is encrypted"));
            }
            if entry.is_dir() {
                continue;
            }
            let path = if self.into.is_empty() {
                name
            } else {
                format!("{}/{name}", self.into)
            };
            entries.push(Entry {
                index,
                path,
                bytes: entry.size(),
                crc32: format!("{:08x}", entry.crc32()),
            });
        }
        Ok(entries)
    }

    /// Writes an entry under another name first; whether it was not stopped.
    fn write(
        &self,
        zip: &mut ZipArchive<BufReader<File>>,
        entry: &Entry,
        stopped: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let path = self.folder.join(&entry.path);
        if let Some(folder) = path.parent() {
            file::create_folders(folder)?;
        }
        // Two archives may hold a file of one name.
        let part =
            path.with_added_extension(format!("{}.part", Fnv::of(self.path.as_bytes()).hex()));
        let failed = |error| FileError::writing(&part, error);
        let mut content = zip
            .by_index(entry.index)
            .map_err(|error: ZipError| self.damaged(&format!("`{}`: {error}", entry.path)))?;
        let mut target = BufWriter::new(File::create(&part).map_err(failed)?);
        let mut buffer = vec![0; 1 << 18];
        loop {
            if stopped() {
                return Ok(false);
            }
            // Its CRC-32 is checked by the reader at the end.
            let count = content
                .read(&mut buffer)
                .map_err(|error| self.damaged(&format!("`{}`: {error}", entry.path)))?;
            if count == 0 {
                break;
            }
            target.write_all(&buffer[..count]).map_err(failed)?;
        }
        target.flush().map_err(failed)?;
        std::fs::rename(&part, &path).map_err(|error| FileError::writing(&path, error))?;
        Ok(true)
    }
}

/// Whether a name of an archive is a path to something below the folder it is unpacked into, on every system.
pub(super) fn stays_inside(name: &str) -> bool {
    let name = name.strip_suffix('/').unwrap_or(name);
    let is_drive = name.as_bytes().get(1) == Some(&b':');
    !is_drive
        && name
            .split(['/', '\\'])
            .all(|part| !part.is_empty() && part != ".." && !part.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_known() {
        for inside in ["a.mp4", "videos/a.mp4", "videos/", "a..b/c", "./a"] {
            assert!(stays_inside(inside), "{inside}");
        }
        for outside in [
            "/etc/x",
            "../x",
            "a/../../x",
            "a\\..\\x",
            "C:/x",
            "a//b",
            "",
        ] {
            assert!(!stays_inside(outside), "{outside}");
        }
    }
}
