//! Locks between processes: a file that one of them holds.

use crate::util::file::FileError;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// A lock that this process holds: as long as this value lasts, and no longer than the process, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// The file's name, where it goes with the lock.
    passing: Option<PathBuf>,
}

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("another process holds the lock: {holder}")]
    Held {
        /// What that process wrote about itself.
        holder: String,
    },
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Lock {
    /// Takes the lock that the file `path` stands for, and writes `holder` into it: what others are told while it is held.
    ///
    /// On a file system without locks it is said in the log that there is none, and that others must not use `what`.
    pub(crate) fn take(path: &Path, holder: &str, what: &str) -> Result<Self, LockError> {
        let failed = |error| FileError::writing(path, error);
        let mut file = held(path, what)?;
        say(&mut file, holder).map_err(failed)?;
        let passing = None;
        Ok(Self { file, passing })
    }

    /// As [`Self::take`], of a file that is removed at the end. Where the process is killed it stays, and is no obstacle.
    pub(crate) fn take_passing(path: &Path, holder: &str, what: &str) -> Result<Self, LockError> {
        loop {
            let mut file = held(path, what)?;
            // The one who had it may have removed the file meanwhile: then this is the lock of nothing.
            if !is_at(&file, path) {
                continue;
            }
            say(&mut file, holder).map_err(|error| FileError::writing(path, error))?;
            let passing = Some(path.to_owned());
            return Ok(Self { file, passing });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = self.passing.take()
            && is_at(&self.file, &path)
        {
            // One that cannot be removed is no obstacle.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The file `path`, locked.
fn held(path: &Path, what: &str) -> Result<File, LockError> {
    let failed = |error| FileError::writing(path, error);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)
                .map_err(|error| FileError::reading(path, error))?;
            return Err(LockError::Held {
                holder: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => {
            // Some network file systems know no locks; that alone is no reason not to work.
            tracing::warn!(
                "cannot lock {}: {error}; make sure that no other process uses {what}",
                path.display()
            );
        }
    }
    Ok(file)
}

/// Whether `file` is what has the name `path`.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let (here, there) = (file.metadata().map(place), path.metadata().map(place));
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }
    #[cfg(not(unix))]
    {
        // An open file cannot be removed.
        let _ = file;
        path.exists()
    }
}

fn say(file: &mut File, holder: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{holder}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, "the first", "it").unwrap();
        match Lock::take(&path, "the second", "it").unwrap_err() {
            LockError::Held { holder } => assert_eq!(holder, "the first"),
            LockError::File(error) => panic!("{error}"),
        }
        drop(first);
        Lock::take(&path, "2nd", "it").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2nd\n");
    }

    #[test]
    fn a_passing_lock_leaves_nothing_and_what_a_killed_process_left_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "process 1, which was killed\n").unwrap();
        let first = Lock::take_passing(&path, "the first", "it").unwrap();
        let held = Lock::take_passing(&path, "the second", "it").unwrap_err();
        assert_eq!(
            held.to_string(),
            "another process holds the lock: the first"
        );
        drop(first);
        assert!(!path.exists());
    }
}
