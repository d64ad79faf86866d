//! Decoded frames kept for later epochs, later runs and the second stage: in memory, and in files where a folder is
//! named.
//!
//! What is kept is never thrown out for something else: a run goes through its clips in turn, so a cache that replaces
//! would have replaced each clip before it comes again.

use crate::config::{DataConfig, VideoConfig};
use crate::data::ClipFacts;
use crate::util::atomic;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::hash::Fnv;
use crate::video::{Clip, Frames, VideoError, load_unless_stopped};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the frames in a file.
const FRAMES: &str = "frames";
/// Name of the description in a file's header.
const ENTRY: &str = "entry";
/// Grows when the frames of a clip change with this program.
const VERSION: u32 = 2;

/// Reads clips, each with the same settings, from the cache where it has them.
#[derive(Debug)]
pub struct ClipLoader {
    config: VideoConfig,
    memory: MemoryCache,
    folder: Option<Folder>,
}

/// A clip and its frames.
type Decoded = Arc<(Clip, Frames)>;

/// What the frames of a clip follow from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Source {
    version: u32,
    path: PathBuf,
    bytes: u64,
    /// Time of the last change, nanoseconds since 1970; of a folder, that of any image.
    modified: u64,
    config: VideoConfig,
}

/// The description in a file's header, in TOML: it gives back the very numbers that were written.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    source: Source,
    clip: Clip,
    /// Hash of the frames.
    checksum: String,
}

#[derive(Debug)]
struct MemoryCache {
    limit: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    clips: BTreeMap<OsString, (Source, Decoded)>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    limit: u64,
    used: AtomicU64,
    /// A write has failed: no other is tried.
    broken: AtomicBool,
}

impl ClipLoader {
    /// Reads clips as `video` says and keeps what `data` has room for.
    ///
    /// # Errors
    /// `data.cache_dir` cannot be made or read.
    pub fn new(video: &VideoConfig, data: &DataConfig) -> Result<Self, FileError> {
        let limit = (data.cache_dir_mib as u64) << 20;
        Ok(Self {
            config: video.clone(),
            memory: MemoryCache {
                limit: data.cache_mib << 20,
                held: Mutex::default(),
            },
            folder: data
                .cache_dir
                .as_deref()
                .map(|path| Folder::open(path, limit))
                .transpose()?,
        })
    }

    /// How frames are chosen and sized.
    pub(crate) fn config(&self) -> &VideoConfig {
        &self.config
    }

    /// Bytes of the frames in memory.
    pub(super) fn held_bytes(&self) -> u64 {
        let held = self.memory.held.lock();
        held.unwrap_or_else(PoisonError::into_inner).bytes as u64
    }

    /// A clip's frames; setting `stop` ends the decoding early with [`VideoError::Stopped`].
    pub(super) fn load(&self, path: &Path, stop: &Arc<AtomicBool>) -> Result<Decoded, VideoError> {
        // A file that cannot be asked for its size is one for the decoder to complain about.
        let Some(source) = Source::of(path, &self.config) else {
            return self.decode(path, stop).map(Arc::new);
        };
        if let Some(decoded) = self.memory.get(path, &source) {
            return Ok(decoded);
        }
        let stored = self.folder.as_ref().and_then(|folder| folder.read(&source));
        let decoded = if let Some(decoded) = stored {
            Arc::new(decoded)
        } else {
            let decoded = self.decode(path, stop)?;
            if let Some(folder) = &self.folder {
                folder.write(&source, &decoded);
            }
            Arc::new(decoded)
        };
        self.memory.keep(path, source, &decoded);
        Ok(decoded)
    }

    /// On one thread: several clips are read at a time.
    fn decode(&self, path: &Path, stop: &Arc<AtomicBool>) -> Result<(Clip, Frames), VideoError> {
        let (clip, frames, _) = load_unless_stopped(path, &self.config, 1, stop)?;
        Ok((clip, frames))
    }
}

impl Source {
    /// `None` where the system does not tell them.
    fn of(path: &Path, config: &VideoConfig) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let facts = ClipFacts::of(&path).ok()?;
        Some(Self {
            version: VERSION,
            bytes: facts.bytes,
            modified: u64::try_from(facts.modified.as_nanos()).ok()?,
            config: config.clone(),
            path,
        })
    }
}

impl MemoryCache {
    fn get(&self, path: &Path, source: &Source) -> Option<Decoded> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, decoded) = held.clips.get(path.as_os_str())?;
        (kept == source).then(|| Arc::clone(decoded))
    }

    fn keep(&self, path: &Path, source: Source, decoded: &Decoded) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stale)) = held.clips.remove(path.as_os_str()) {
            held.bytes -= stale.1.values.len();
        }
        let bytes = decoded.1.values.len();
        if held.bytes + bytes <= self.limit {
            held.bytes += bytes;
            let entry = (source, Arc::clone(decoded));
            held.clips.insert(path.as_os_str().to_owned(), entry);
        }
    }
}

impl Folder {
    fn open(path: &Path, limit: u64) -> Result<Self, FileError> {
        file::create_folders(path)?;
        let failed = |error| FileError::reading(path, error);
        let mut used = 0;
        for entry in std::fs::read_dir(path).map_err(failed)? {
            match entry.and_then(|entry| entry.metadata()) {
                Ok(metadata) => used += metadata.len(),
                // Another process was writing it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            limit,
            used: AtomicU64::new(used),
            broken: AtomicBool::new(false),
        })
    }

    /// One file per clip and settings: a changed clip takes the place of what it was.
    fn file(&self, source: &Source) -> PathBuf {
        let mut name = Fnv::of(source.path.as_os_str().as_encoded_bytes());
        name.add(format!("{:?}", source.config).as_bytes());
        self.path.join(format!("{}.safetensors", name.hex()))
    }

    /// The frames of this very source. A file that is not whole is as if there were none, but for a line in the log.
    fn read(&self, source: &Source) -> Option<(Clip, Frames)> {
        let path = self.file(source);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            read => read.map_err(|error| error.to_string()),
        };
        let read = bytes.and_then(|bytes| frames_of(source, &bytes));
        read.unwrap_or_else(|reason| {
            let path = path.display();
            tracing::warn!("{path}: {reason}; the clip is decoded, and the file written, anew");
            None
        })
    }

    /// Writes an entry. A cache that cannot be written costs time and nothing else, so the run goes on without.
    fn write(&self, source: &Source, decoded: &(Clip, Frames)) {
        if self.broken.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.try_write(source, decoded) {
            self.broken.store(true, Ordering::Relaxed);
            tracing::warn!(
                "no more frames are kept in data.cache_dir = {}: {error}",
                self.path.display()
            );
        }
    }

    fn try_write(&self, source: &Source, (clip, frames): &(Clip, Frames)) -> std::io::Result<()> {
        let entry = Entry {
            source: source.clone(),
            clip: clip.clone(),
            checksum: Fnv::of(&frames.values).hex(),
        };
        let header = toml::to_string(&entry).map_err(std::io::Error::other)?;
        let header = [(ENTRY.to_owned(), header)];
        let tensor = TensorView::new(Dtype::U8, frames.shape.to_vec(), &frames.values)
            .map_err(std::io::Error::other)?;
        let bytes = safetensors::serialize([(FRAMES, tensor)], Some(header.into()))
            .map_err(std::io::Error::other)?;
        let path = self.file(source);
        let replaced = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let size = bytes.len() as u64;
        if self.used.load(Ordering::Relaxed) + size > self.limit + replaced {
            return Err(std::io::Error::other(
                "data.cache_dir_mib is reached; what is there stays in use",
            ));
        }
        atomic::write(&path, &bytes).map_err(std::io::Error::other)?;
        self.used.fetch_add(size, Ordering::Relaxed);
        self.used.fetch_sub(replaced, Ordering::Relaxed);
        Ok(())
    }
}

/// What an entry holds, where it is of this very source; else what is wrong with it.
fn frames_of(source: &Source, bytes: &[u8]) -> Result<Option<(Clip, Frames)>, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let entry = header.metadata().as_ref();
    let entry = entry.and_then(|entry| entry.get(ENTRY));
    let entry = entry.ok_or("no entry of this cache")?;
    // A file of another version may be described in another way.
    let Ok(entry) = toml::from_str::<Entry>(entry) else {
        return Ok(None);
    };
    if entry.source != *source {
        return Ok(None);
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let frames = file.tensor(FRAMES).map_err(|error| error.to_string())?;
    let shape = frames.shape().try_into();
    let shape = shape.map_err(|_| format!("frames of shape {:?}", frames.shape()))?;
    let values = frames.data();
    if entry.checksum != Fnv::of(values).hex() {
        return Err("its frames are not those that were written".to_owned());
    }
    let frames = Frames {
        values: values.to_vec(),
        shape,
        second_per_grid: entry.clip.second_per_grid,
        text_after: source.config.text_after,
    };
    Ok(Some((entry.clip, frames)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const VIDEO: &str = "tests/golden/video/clips/h264.mp4";

    fn loader(cache_mib: usize, folder: Option<&Path>, cache_dir_mib: usize) -> ClipLoader {
        let video = VideoConfig {
            min_pixels: 28 * 28,
            max_pixels: 8 * 28 * 28,
            ..VideoConfig::default()
        };
        let data = DataConfig {
            cache_mib,
            cache_dir: folder.map(Path::to_owned),
            cache_dir_mib,
            ..DataConfig::default()
        };
        ClipLoader::new(&video, &data).unwrap()
    }

    fn clip_in(folder: &Path) -> PathBuf {
        let path = folder.join("clip.mp4");
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(VIDEO), &path).unwrap();
        path
    }

    fn load(loader: &ClipLoader, path: &Path) -> Decoded {
        loader.load(path, &Arc::default()).unwrap()
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// A file of the same length and time that no decoder can read: only a cache can give its frames.
    fn spoil(path: &Path) {
        let metadata = std::fs::metadata(path).unwrap();
        let time = metadata.modified().unwrap();
        std::fs::write(path, vec![0; metadata.len() as usize]).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }

    fn touch(path: &Path) {
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    }

    #[test]
    fn memory_gives_the_same_frames_until_the_file_changes_and_no_more_than_its_budget() {
        let folder = tempfile::tempdir().unwrap();
        let path = clip_in(folder.path());
        let (with, without) = (loader(64, None, 0), loader(0, None, 0));
        let first = load(&with, &path);
        assert_eq!(first, load(&without, &path));
        spoil(&path);
        assert!(Arc::ptr_eq(&first, &load(&with, &path)));
        assert!(without.load(&path, &Arc::default()).is_err(), "no budget");
        touch(&path);
        assert!(with.load(&path, &Arc::default()).is_err(), "stale");
    }

    #[test]
    fn another_loader_reads_the_file_and_other_settings_do_not() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = clip_in(folder.path());
        let first = load(&loader(0, Some(cache.path()), 64), &path);
        assert_eq!(files(cache.path()).len(), 1);
        spoil(&path);
        assert_eq!(first, load(&loader(0, Some(cache.path()), 64), &path));
        let mut other = loader(0, Some(cache.path()), 64);
        other.config.max_frames = 4;
        assert!(other.load(&path, &Arc::default()).is_err());
    }

    #[test]
    fn broken_and_stale_files_are_ignored_and_written_again() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = clip_in(folder.path());
        let fresh = || loader(0, Some(cache.path()), 64);
        let want = load(&fresh(), &path);
        let file = files(cache.path()).remove(0);
        let whole = std::fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for broken in [
            &[][..],
            &whole[..whole.len() / 2],
            b"no safetensors",
            &flipped,
        ] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(load(&fresh(), &path), want);
            assert!(std::fs::read(&file).unwrap() == whole, "written again");
        }
        touch(&path);
        assert_eq!(load(&fresh(), &path), want);
        assert!(std::fs::read(&file).unwrap() != whole, "of the new time");
        assert_eq!(files(cache.path()), [file], "in the same place");
    }

    #[test]
    fn the_folder_stays_within_its_budget() {
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = clip_in(folder.path());
        load(&loader(0, Some(cache.path()), 0), &path);
        assert!(files(cache.path()).is_empty());
        let file = cache.path().join("file");
        std::fs::write(&file, "no folder").unwrap();
        let data = DataConfig {
            cache_dir: Some(file),
            ..DataConfig::default()
        };
        assert!(ClipLoader::new(&VideoConfig::default(), &data).is_err());
    }
}
