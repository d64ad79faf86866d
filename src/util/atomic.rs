//! Files and folders that are there whole or not at all, even after a kill or a power failure.
//!
//! What is written has another name until it is complete and on the disk; then it takes its own, and the folder it lies in
//! is synced, so that the name is on the disk too.

use crate::util::file::FileError;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Names of what is being written start like this, and of what is being removed like [`REMOVING`].
const WRITING: &str = ".writing-";
const REMOVING: &str = ".removing-";

/// What was written to so lately is no leftover, even if nobody holds it: it may be about to be locked.
const LATELY: Duration = Duration::from_secs(1);

/// Bytes that are written at a time.
const BUFFER: usize = 1 << 20;

/// A file being written. It has another name until [`Self::finish`], and is removed without.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
    /// `None` once it has its own.
    temporary: Option<PathBuf>,
    writer: BufWriter<File>,
}

impl AtomicFile {
    /// Starts a file that will be `path`, or what `path` is a link to.
    ///
    /// # Errors
    /// When the disk refuses, and where there is something that is no file, such as a device, which a file would replace.
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let failed = |error| FileError::writing(path, error);
        let target = replaceable(path).map_err(failed)?;
        let (temporary, file) =
            unused_name(&target, WRITING, |name| File::create_new(name)).map_err(failed)?;
        // As long as it is open; where there are no locks, nothing is taken for a leftover.
        let _ = file.try_lock();
        Ok(Self {
            path: target,
            temporary: Some(temporary),
            writer: BufWriter::with_capacity(BUFFER, file),
        })
    }

    /// Where the file will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Syncs the file and gives it its name, in place of what had it.
    pub(crate) fn finish(mut self) -> Result<(), FileError> {
        self.writer
            .flush()
            .and_then(|()| self.writer.get_ref().sync_all())
            .and_then(|()| self.take_name())
            .and_then(|()| sync_folder(folder_of(&self.path)))
            .map_err(|error| FileError::writing(&self.path, error))
    }
}

impl AtomicFile {
    fn take_name(&mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.path)?;
        }
        // From now on that name may be another process's.
        self.temporary = None;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            discard(temporary, |path| std::fs::remove_file(path));
        }
    }
}

/// Writes a file whole.
///
/// # Errors
/// When the disk refuses; the old file, if any, is untouched then.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes)
        .map_err(|error| FileError::writing(path, error))?;
    file.finish()
}

/// Has `fill` write the files of a folder, syncs them all and gives the folder its name, in place of what had it.
///
/// # Errors
/// Whatever `fill` fails with, or the disk refuses; the old folder, if any, is untouched then.
pub(crate) fn write_folder<E: From<FileError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let (temporary, ()) = unused_name(path, WRITING, |name| std::fs::create_dir(name))
        .map_err(|error| FileError::writing(path, error))?;
    let _held = hold(&temporary);
    let written = fill(&temporary).and_then(|()| {
        sync_tree(&temporary)?;
        Ok(take_folder_name(&temporary, path)?)
    });
    if written.is_err() {
        discard(&temporary, |path| std::fs::remove_dir_all(path));
    }
    written
}

fn take_folder_name(temporary: &Path, path: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::writing(path, error);
    let old = if path.exists() {
        let aside = unused_name(path, REMOVING, |name| std::fs::rename(path, name));
        Some(aside.map_err(failed)?.0)
    } else {
        None
    };
    let _held = old.as_deref().map(hold);
    let renamed = std::fs::rename(temporary, path).map_err(failed);
    match (&old, &renamed) {
        (Some(old), Err(_)) => std::fs::rename(old, path).map_err(failed)?,
        (Some(old), Ok(())) => remove_all(old, path)?,
        (None, _) => {}
    }
    renamed?;
    sync_folder(folder_of(path)).map_err(failed)
}

/// Removes a folder so that an interruption never leaves half of it under its name.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    let (doomed, ()) = unused_name(path, REMOVING, |name| std::fs::rename(path, name))
        .map_err(|error| FileError::new("remove", path, error))?;
    let _held = hold(&doomed);
    remove_all(&doomed, path)
}

/// Removes `doomed`, which was the folder `path`.
fn remove_all(doomed: &Path, path: &Path) -> Result<(), FileError> {
    std::fs::remove_dir_all(doomed).map_err(|error| FileError::new("remove", path, error))
}

/// Makes `link` a symbolic link to `target`, in place of what `link` was.
pub(crate) fn link(target: &str, link: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    let create = |name: &Path| std::os::unix::fs::symlink(target, name);
    #[cfg(not(unix))]
    let create = |name: &Path| File::create_new(name)?.write_all(target.as_bytes());
    let (temporary, ()) =
        unused_name(link, WRITING, create).map_err(|error| FileError::writing(link, error))?;
    std::fs::rename(&temporary, link)
        .and_then(|()| sync_folder(folder_of(link)))
        .inspect_err(|_| discard(&temporary, |path| std::fs::remove_file(path)))
        .map_err(|error| FileError::writing(link, error))
}

/// Removes from `folder` what interrupted writes and removals have left. Nothing else may be writing there.
pub(crate) fn remove_unfinished(folder: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::reading(folder, error);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.as_encoded_bytes();
        if !name.starts_with(WRITING.as_bytes()) && !name.starts_with(REMOVING.as_bytes()) {
            continue;
        }
        tracing::info!("removing the unfinished {}", path.display());
        let removed = if entry.file_type().map_err(failed)?.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(|error| FileError::new("remove", &path, error))?;
    }
    Ok(())
}

/// Removes from `folder` what writes and removals have left there whose process was killed. Others may be writing there: they
/// hold what they write.
pub(crate) fn remove_abandoned(folder: &Path) {
    // No folder, no leftovers; one that cannot be read is named by those who need it.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_temporary(&entry.file_name()) || path.is_symlink() || !is_abandoned(&path) {
            continue;
        }
        tracing::info!("removing the unfinished {}", path.display());
        discard(&path, |path| {
            if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            }
        });
    }
}

/// Whether [`unused_name`] makes such names.
fn is_temporary(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let mut parts = name.rsplitn(3, '-');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number)
        && (name.starts_with(WRITING) || name.starts_with(REMOVING))
}

fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let changed = file.metadata().and_then(|metadata| metadata.modified());
    let is_old = changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LATELY));
    is_old && file.try_lock().is_ok()
}

/// Says to others that the folder `path` is no leftover, for as long as the value lasts.
fn hold(path: &Path) -> Option<File> {
    let folder = File::open(path).ok()?;
    folder.try_lock().ok()?;
    Some(folder)
}

/// The file that a file written as `path` takes the place of.
fn replaceable(path: &Path) -> io::Result<PathBuf> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(path.to_owned());
    };
    if metadata.is_symlink() {
        return match path.canonicalize() {
            Ok(target) => replaceable(&target),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(io::Error::other("it is a link to nothing"))
            }
            Err(error) => Err(error),
        };
    }
    if !metadata.is_file() {
        let what = if metadata.is_dir() {
            "it is a folder"
        } else {
            "it is no file that could be replaced"
        };
        return Err(io::Error::other(what));
    }
    Ok(path.to_owned())
}

/// Has `create` put something in the folder of `path`, under a name that starts with `prefix` and that nothing else has:
/// other threads and processes, of other machines too, may be writing the same file.
fn unused_name<T>(
    path: &Path,
    prefix: &str,
    create: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let process = std::process::id();
    loop {
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        // Another extension, too: it is not yet a file of its kind.
        let mut name = OsString::from(prefix);
        name.push(path.file_name().unwrap_or_default());
        name.push(format!("-{process}-{number}"));
        let name = path.with_file_name(name);
        match create(&name) {
            Ok(created) => return Ok((name, created)),
            // Of a process with the same number, on another machine or before this one.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes what could not be finished. It is gone already where it was.
fn discard(temporary: &Path, remove: impl Fn(&Path) -> io::Result<()>) {
    match remove(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(
                "cannot remove the unfinished {}: {error}",
                temporary.display()
            );
        }
        _ => {}
    }
}

/// The folder that a path's last name is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Syncs every file below `folder`, and the folders.
fn sync_tree(folder: &Path) -> Result<(), FileError> {
    let failed = |error| FileError::writing(folder, error);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| FileError::writing(&path, error))?;
        }
    }
    sync_folder(folder).map_err(failed)
}

/// Puts the names in a folder on the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        // Some network and user-space file systems sync files only, and say so in one of these ways: a name there is as
        // safe as it can be.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A device, a pipe or a socket is none that a file may replace, and a link stays one.
    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        std::os::unix::fs::symlink("nothing", path("dangling")).unwrap();
        std::os::unix::fs::symlink("circle", path("circle")).unwrap();
        for (name, problem) in [
            ("socket", "it is no file that could be replaced"),
            ("folder", "it is a folder"),
            ("dangling", "it is a link to nothing"),
            ("circle", "Too many levels of symbolic links (os error 40)"),
        ] {
            let error = write(&path(name), b"new").unwrap_err();
            assert!(error.to_string().ends_with(problem), "{error}");
        }
        drop(socket);

        std::fs::write(path("folder/file"), "old").unwrap();
        std::os::unix::fs::symlink("folder/file", path("link")).unwrap();
        write(&path("link"), b"new").unwrap();
        assert_eq!(std::fs::read(path("folder/file")).unwrap(), b"new");
        assert!(path("link").is_symlink());
        assert_eq!(
            names(folder.path()),
            ["circle", "dangling", "folder", "link", "socket"]
        );
    }

    #[test]
    fn a_file_takes_its_name_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write(&path, b"old").unwrap();
        // Two at once do not meet.
        let mut one = AtomicFile::create(&path).unwrap();
        let mut other = AtomicFile::create(&path).unwrap();
        one.write_all(b"one").unwrap();
        other.write_all(b"other").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let name = one.temporary.clone().unwrap();
        one.take_name().unwrap();
        // The name is free at once, and what another process puts there stays.
        std::fs::write(&name, "another process's").unwrap();
        one.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        std::fs::remove_file(&name).unwrap();
        drop(other);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(names(folder.path()), ["state.json"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        std::fs::create_dir_all(path.join("in the way")).unwrap();
        let message = write(&path, b"new").unwrap_err().to_string();
        assert!(message.starts_with("cannot write ") && message.contains("state.json"));
        assert!(path.join("in the way").exists());
        assert_eq!(names(folder.path()), ["state.json"]);
        assert!(write(&folder.path().join("absent/file"), b"new").is_err());
    }

    #[test]
    fn a_folder_takes_the_place_of_another_or_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step");
        let fill = |text: &'static str| {
            move |folder: &Path| -> anyhow::Result<()> {
                write(&folder.join("weights"), text.as_bytes())?;
                Ok(())
            }
        };
        write_folder(&path, fill("old")).unwrap();
        let failed = write_folder(&path, |folder| {
            fill("half")(folder)?;
            anyhow::bail!("no more")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(std::fs::read(path.join("weights")).unwrap(), b"old");
        write_folder(&path, fill("new")).unwrap();
        assert_eq!(std::fs::read(path.join("weights")).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["step"]);
        remove_folder(&path).unwrap();
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_was_interrupted_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(&folder.path().join("file")).unwrap();
        std::mem::forget(file);
        std::fs::create_dir_all(folder.path().join(".writing-step-000003/trainer")).unwrap();
        std::fs::create_dir_all(folder.path().join(".removing-step-000001/trainer")).unwrap();
        write(&folder.path().join("whole"), b"").unwrap();
        remove_unfinished(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["whole"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_held_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path(".writing-model-7-0/part")).unwrap();
        std::fs::create_dir_all(path(".removing-model-7-1")).unwrap();
        std::fs::write(path(".writing-a.json-7-2"), "half").unwrap();
        std::fs::write(path(".writing-notes"), "mine").unwrap();
        std::os::unix::fs::symlink("..", path(".writing-link-7-3")).unwrap();
        let held = AtomicFile::create(&path("b.json")).unwrap();
        std::thread::sleep(LATELY + Duration::from_millis(200));
        let lately = AtomicFile::create(&path("c.json")).unwrap();
        remove_abandoned(folder.path());
        remove_abandoned(&path("absent"));
        let left = names(folder.path());
        assert_eq!(left.len(), 4, "{left:?}");
        assert!(left.contains(&".writing-notes".to_owned()), "{left:?}");
        assert!(left.contains(&".writing-link-7-3".to_owned()), "{left:?}");
        held.finish().unwrap();
        lately.finish().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_cannot_be_synced_is_no_error() {
        let folder = Path::new("/proc/self");
        assert!(File::open(folder).unwrap().sync_all().is_err());
        sync_folder(folder).unwrap();
    }
}
