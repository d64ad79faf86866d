//! What of a dataset has been downloaded: `.download/files.jsonl` in its folder, a line for each file that is whole.

use crate::cli::BadArgument;
use crate::util::file;
use crate::util::hash;
use crate::util::json_lines::JsonLines;
use crate::util::json_lines::LinesError;
use crate::util::lock::Lock;
use crate::util::lock::LockError;
use anyhow::Result;
use anyhow::bail;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Folder of the download's own files, in the dataset's.
pub(super) const FOLDER: &str = ".download";

/// A line: something that is whole. Later lines about the same thing count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Line {
    /// A file that was downloaded.
    File {
        path: String,
        bytes: u64,
        sha256: String,
        /// It was there before, by somebody else.
        #[serde(default)]
        found: bool,
    },
    /// A file out of an archive.
    Entry {
        path: String,
        bytes: u64,
        crc32: String,
        archive: String,
    },
    /// An archive of which every entry is there.
    Unpacked {
        archive: String,
        entries: usize,
        bytes: u64,
    },
    /// The dataset that the folder is of, by its name on the command line.
    Dataset { name: String },
    /// All of that dataset that was asked for is there.
    Complete { annotations_only: bool },
}

/// Content of a file as the record knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Sha256(String),
    Crc32(String),
}

/// A file that was whole once.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) bytes: u64,
    content: Content,
    /// The archive it came out of.
    archive: Option<String>,
    /// Whether it was there before, by somebody else.
    found: bool,
}

/// The record of a dataset's folder, held by one process.
#[derive(Debug)]
pub(super) struct Record {
    folder: PathBuf,
    lines: JsonLines,
    files: BTreeMap<String, Known>,
    unpacked: BTreeMap<String, usize>,
    /// The dataset that the folder is of, once it is known.
    dataset: Option<String>,
    /// Whether all of it is there, and whether all but the clips.
    complete: Option<bool>,
    _lock: Lock,
}

impl Record {
    /// Opens the record of `folder`, which is made if need be, and keeps other processes out.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let own = folder.join(FOLDER);
        file::create_folders(&own)?;
        let process = format!("process {}", std::process::id());
        let lock = match Lock::take(&own.join("lock"), &process, "this folder") {
            Ok(lock) => lock,
            Err(LockError::Held { holder }) => bail!(
                "{} is being downloaded by {holder}: wait for it, or name another folder with --out",
                folder.display()
            ),
            Err(error) => return Err(error.into()),
        };
        let (lines, before) = JsonLines::open::<Line>(&own.join("files.jsonl"))?;
        let mut record = Self {
            folder: folder.to_owned(),
            lines,
            files: BTreeMap::new(),
            unpacked: BTreeMap::new(),
            dataset: None,
            complete: None,
            _lock: lock,
        };
        for line in before {
            record.take(line);
        }
        Ok(record)
    }

    /// Whether a folder has a record.
    pub(super) fn is_in(folder: &Path) -> bool {
        folder.join(FOLDER).join("files.jsonl").is_file()
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::File {
                path,
                bytes,
                sha256,
                found,
            } => {
                let known = Known {
                    bytes,
                    content: Content::Sha256(sha256),
                    archive: None,
                    found,
                };
                self.files.insert(path, known);
            }
            Line::Entry {
                path,
                bytes,
                crc32,
                archive,
            } => {
                let known = Known {
                    bytes,
                    content: Content::Crc32(crc32),
                    archive: Some(archive),
                    found: false,
                };
                self.files.insert(path, known);
            }
            Line::Unpacked {
                archive, entries, ..
            } => {
                self.unpacked.insert(archive, entries);
            }
            Line::Dataset { name } => {
                // What older records call complete may be another dataset.
                self.complete = None;
                self.dataset = Some(name);
            }
            Line::Complete { annotations_only } => {
                self.complete = Some(annotations_only && self.complete.unwrap_or(true));
            }
        }
    }

    /// Makes the folder that of the dataset `name`, unless it is another's.
    pub(super) fn claim(&mut self, name: &str) -> Result<()> {
        self.refuse_another(name)?;
        if self.dataset.as_deref() != Some(name) {
            let name = name.to_owned();
            self.add(Line::Dataset { name })?;
        }
        Ok(())
    }

    /// Fails where the folder is that of another dataset than `name`.
    pub(super) fn refuse_another(&self, name: &str) -> Result<()> {
        match &self.dataset {
            Some(other) if other != name && !self.files.is_empty() => Err(BadArgument(format!(
                "{}: the folder is that of {other}: name another one for {name} with --out",
                self.folder.display()
            ))
            .into()),
            _ => Ok(()),
        }
    }

    /// Writes a line.
    pub(super) fn add(&mut self, line: Line) -> Result<(), LinesError> {
        self.lines.append(&line)?;
        self.take(line);
        Ok(())
    }

    /// Whether the file `path` is there as it was left.
    pub(super) fn has(&self, path: &str) -> bool {
        let known = self.files.get(path);
        known.is_some_and(|known| self.bytes_on_disk(path) == Some(known.bytes))
    }

    /// The same of a file out of an archive, whose content is to be this.
    pub(super) fn has_entry(&self, path: &str, bytes: u64, crc32: &str) -> bool {
        let known = self.files.get(path);
        let is_it = |known: &Known| {
            known.bytes == bytes && known.content == Content::Crc32(crc32.to_owned())
        };
        known.is_some_and(is_it) && self.bytes_on_disk(path) == Some(bytes)
    }

    /// Whether the file `path` was there before it was to be downloaded.
    pub(super) fn was_found(&self, path: &str) -> bool {
        self.files.get(path).is_some_and(|known| known.found)
    }

    /// Whether every entry of the archive is there as it was left.
    pub(super) fn is_unpacked(&self, archive: &str) -> bool {
        let Some(entries) = self.unpacked.get(archive) else {
            return false;
        };
        let of_it = self
            .files
            .iter()
            .filter(|(_, known)| known.archive.as_deref() == Some(archive));
        let there = of_it.filter(|(path, known)| self.bytes_on_disk(path) == Some(known.bytes));
        // Archives may hold the same file; the last one's counts.
        there.count() >= *entries || self.shared_entries(archive, *entries)
    }

    /// Whether the entries that another archive has written over are all that is not there any more as `archive`'s.
    fn shared_entries(&self, archive: &str, entries: usize) -> bool {
        let of_it = |known: &&Known| known.archive.as_deref() == Some(archive);
        let counted = self.files.values().filter(of_it).count();
        counted < entries && self.broken().next().is_none()
    }

    /// Whether all that is asked for is there, as far as names and sizes tell.
    pub(super) fn is_complete(&self, annotations_only: bool) -> bool {
        let covers = self
            .complete
            .is_some_and(|only_annotations| annotations_only || !only_annotations);
        covers && self.broken().next().is_none()
    }

    /// Recorded files that are not there, or have another size; an archive that is unpacked need not be there.
    fn broken(&self) -> impl Iterator<Item = &str> {
        let broken = self.files.iter().filter(|(path, known)| {
            self.bytes_on_disk(path) != Some(known.bytes) && !self.unpacked.contains_key(*path)
        });
        broken.map(|(path, _)| path.as_str())
    }

    /// How many files are there, and their bytes.
    pub(super) fn total(&self) -> (usize, u64) {
        let there = self.files.iter().filter(|(path, _)| self.has(path));
        there.fold((0, 0), |(count, bytes), (_, known)| {
            (count + 1, bytes + known.bytes)
        })
    }

    fn bytes_on_disk(&self, path: &str) -> Option<u64> {
        let metadata = self.folder.join(path).metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    /// Reads every recorded file again; what is wrong with those that are not as they were, and how many were read.
    pub(super) fn verify(&self, stopped: &dyn Fn() -> bool) -> Result<Option<Verified>> {
        let mut verified = Verified::default();
        for (path, known) in &self.files {
            if stopped() {
                return Ok(None);
            }
            let place = self.folder.join(path);
            let problem = match self.bytes_on_disk(path) {
                None if self.unpacked.contains_key(path) => continue,
                None => Some("is not there".to_owned()),
                Some(bytes) if bytes != known.bytes => {
                    Some(format!("has {bytes} bytes instead of {}", known.bytes))
                }
                Some(_) => {
                    let reading = |error| file::FileError::reading(&place, error);
                    let is_same = match &known.content {
                        Content::Sha256(hash) => {
                            *hash == hash::sha256_of_file(&place).map_err(reading)?
                        }
                        Content::Crc32(crc) => {
                            let found = hash::crc32_of_file(&place).map_err(reading)?;
                            *crc == format!("{found:08x}")
                        }
                    };
                    (!is_same).then(|| "has another content".to_owned())
                }
            };
            verified.files += 1;
            verified.bytes += known.bytes;
            verified
                .problems
                .extend(problem.map(|problem| format!("{} {problem}", place.display())));
        }
        Ok(Some(verified))
    }
}

/// What reading everything again came to.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verified {
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) problems: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_no_longer_had() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        let entry = |path: &str| Line::Entry {
            path: path.to_owned(),
            bytes: 1,
            crc32: "e8b7be43".to_owned(),
            archive: "a.zip".to_owned(),
        };
        let mut record = Record::open(folder.path()).unwrap();
        assert!(Record::open(folder.path()).is_err(), "one at a time");
        for name in ["one", "two"] {
            write(name, "a").unwrap();
            record.add(entry(name)).unwrap();
        }
        let unpacked = Line::Unpacked {
            archive: "a.zip".to_owned(),
            entries: 2,
            bytes: 2,
        };
        record.add(unpacked).unwrap();
        let complete = |annotations_only| Line::Complete { annotations_only };
        record.add(complete(true)).unwrap();
        assert!(record.is_complete(true) && !record.is_complete(false));
        record.add(complete(false)).unwrap();
        record.add(complete(true)).unwrap();
        drop(record);
        let record = Record::open(folder.path()).unwrap();
        assert!(record.is_complete(true) && record.is_complete(false));
        assert!(record.is_unpacked("a.zip") && !record.is_unpacked("b.zip"));
        assert_eq!(record.total(), (2, 2));
        let verified = |record: &Record| record.verify(&|| false).unwrap().unwrap().problems;
        assert!(verified(&record).is_empty());
        write("one", "b").unwrap();
        assert!(verified(&record)[0].ends_with("one has another content"));
        std::fs::remove_file(folder.path().join("two")).unwrap();
        assert!(verified(&record)[1].ends_with("two is not there"));
        assert!(!record.is_complete(true) && !record.is_unpacked("a.zip"));
        assert!(record.has("one") && !record.has("two"));
    }
}
