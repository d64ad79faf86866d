//! Files that are either complete or absent, and appended files that can be cut back to a step.

use anyhow::Context;
use anyhow::Result;
use serde::Serialize;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// Whether a write failed because there is no room: a full disk, a quota, or a size limit.
pub fn is_out_of_space(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind;
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
            )
        }) || cause.to_string().contains("No space left on device")
            || cause.to_string().contains("File too large")
    })
}

/// Writes a file under another name, syncs it and gives it its name.
///
/// # Errors
/// When the disk refuses; the old file, if any, is untouched then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("writing");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Syncs every file below `folder`, and the folders.
///
/// # Errors
/// When the disk refuses.
pub fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// A file of JSON objects, one a line, each with its `step`.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file for appending, after dropping lines of steps after `step` and a torn last line.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open_at(path: &Path, step: usize) -> Result<Self> {
        if path.exists() {
            let text =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8_lossy(&text);
            let kept: String = text
                .split_inclusive('\n')
                .filter(|line| step_of(line).is_some_and(|of| of <= step) && line.ends_with('\n'))
                .collect();
            if kept.len() < text.len() {
                write_atomically(path, kept.as_bytes())?;
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Appends one object.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        self.append_line(&serde_json::to_string(line)?)
    }

    /// Appends one object that is text already.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append_line(&mut self, line: &str) -> Result<()> {
        let text = format!("{line}\n");
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn step_of(line: &str) -> Option<usize> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    usize::try_from(value.get("step")?.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_cut_back_to_a_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut lines = JsonLines::open_at(&path, 0).unwrap();
        for step in 1..=4 {
            lines.append(&json!({ "step": step })).unwrap();
        }
        drop(lines);
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"step\": 2";
        std::fs::write(&path, torn).unwrap();
        let mut lines = JsonLines::open_at(&path, 2).unwrap();
        lines.append(&json!({ "step": 3 })).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n"
        );
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_atomically(&path, b"old").unwrap();
        std::fs::create_dir(folder.path().join("state.writing")).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
