//! Decodes clips ahead of the trainer, in order, within a bounded memory.

use crate::config::VideoConfig;
use crate::video::{Clip, ClipLoader, VideoError, VideoPatches};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A clip ready for the model, or why it cannot be used.
type Loaded = Result<(Clip, Arc<VideoPatches>), VideoError>;

/// Hands out the clips of a list in its order, decoding ahead on its own threads.
///
/// The next clip asked for is always decoded, whatever the limit; others only while everything that is ready or
/// being decoded stays within it. A path that follows itself is decoded once; one that comes back while its
/// patches are still alive somewhere shares them, and the [`ClipLoader`] may have kept its frames. Dropping stops
/// decoding and ends the threads.
pub struct Prefetcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    jobs: Vec<PathBuf>,
    clips: ClipLoader,
    byte_limit: usize,
    stop: Arc<AtomicBool>,
    state: Mutex<State>,
    /// Signalled when a clip is ready, room is made, or all ends.
    changed: Condvar,
}

struct State {
    /// First job that nobody works on yet.
    unclaimed: usize,
    /// Next job to hand out.
    due: usize,
    /// Finished jobs not handed out yet.
    ready: BTreeMap<usize, Loaded>,
    /// Bytes of ready clips, and of those being decoded as far as they can grow.
    bytes: usize,
    /// Clips loaded before, for as long as somebody holds them.
    seen: BTreeMap<OsString, (Clip, Weak<VideoPatches>)>,
    /// Time the threads have spent on clips, added up.
    worked: Duration,
}

impl Prefetcher {
    /// Starts decoding `jobs` on `threads` threads, holding about `byte_limit` bytes.
    pub fn new(
        jobs: Vec<PathBuf>,
        clips: ClipLoader,
        byte_limit: usize,
        threads: usize,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            jobs,
            clips,
            byte_limit,
            stop: Arc::default(),
            state: Mutex::new(State {
                unclaimed: 0,
                due: 0,
                ready: BTreeMap::new(),
                bytes: 0,
                seen: BTreeMap::new(),
                worked: Duration::ZERO,
            }),
            changed: Condvar::new(),
        });
        let mut prefetcher = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for i in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("video-{i}"));
            prefetcher
                .threads
                .push(thread.spawn(move || shared.work())?);
        }
        Ok(prefetcher)
    }

    /// Clips decoded and waiting.
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Bytes of clips that are ready, and of frames kept for later.
    pub(crate) fn held_bytes(&self) -> u64 {
        let kept = self.shared.clips.held_bytes();
        let state = self.shared.lock();
        let mut ready: Vec<&Arc<VideoPatches>> = Vec::new();
        for (_, patches) in state.ready.values().flatten() {
            if ready.last().is_none_or(|last| !Arc::ptr_eq(last, patches)) {
                ready.push(patches);
            }
        }
        let ready = ready.into_iter();
        kept + ready
            .map(|p| size_of_val(p.values.as_slice()) as u64)
            .sum::<u64>()
    }

    /// Time the threads have spent on reading, decoding and resizing so far, added up over the threads.
    pub(crate) fn worked(&self) -> Duration {
        self.shared.lock().worked
    }
}

impl Iterator for Prefetcher {
    type Item = Loaded;

    /// Waits for the next clip of the list; `None` after the last.
    fn next(&mut self) -> Option<Loaded> {
        let mut state = self.shared.lock();
        if state.due == self.shared.jobs.len() {
            return None;
        }
        let due = state.due;
        loop {
            if let Some(loaded) = state.ready.remove(&due) {
                state.due += 1;
                state.bytes -= held_bytes(&loaded);
                self.shared.changed.notify_all();
                return Some(loaded);
            }
            state = self.shared.wait(state);
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Taking the lock makes sure that no thread is between its look at `stop` and its wait.
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a video thread panicked");
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life: claim the next run of equal paths, load it, put the result there for each.
    fn work(&self) {
        let reserve = max_bytes(self.clips.config());
        while let Some(run) = self.claim(reserve) {
            let path = &self.jobs[run.start];
            let start = Instant::now();
            // A panic must reach the trainer as an error: it would wait for this clip for ever.
            let loaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.load(path)))
                .unwrap_or_else(|_| {
                    Err(VideoError::Undecodable {
                        path: path.to_owned(),
                        reason: "the decoding thread panicked".to_owned(),
                    })
                });
            let mut state = self.lock();
            state.worked += start.elapsed();
            if let Ok((clip, patches)) = &loaded {
                let seen = (clip.clone(), Arc::downgrade(patches));
                state.seen.insert(path.as_os_str().to_owned(), seen);
            }
            state
                .seen
                .retain(|_, (_, patches)| patches.strong_count() > 0);
            state.bytes = state.bytes - reserve + held_bytes(&loaded) * run.len();
            state.ready.extend(run.map(|job| (job, loaded.clone())));
            self.changed.notify_all();
        }
    }

    /// Waits for room; `None` when nothing is left or the run stops.
    fn claim(&self, reserve: usize) -> Option<std::ops::Range<usize>> {
        let mut state = self.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) || state.unclaimed == self.jobs.len() {
                return None;
            }
            let first = state.unclaimed;
            if first == state.due || state.bytes + reserve <= self.byte_limit {
                // As plain bytes: comparing paths part by part shows in profiles.
                let path = self.jobs[first].as_os_str();
                let length = self.jobs[first..]
                    .iter()
                    .take_while(|job| job.as_os_str() == path)
                    .count();
                state.unclaimed += length;
                state.bytes += reserve;
                return Some(first..first + length);
            }
            state = self.wait(state);
        }
    }

    fn load(&self, path: &Path) -> Loaded {
        let seen = self.lock().seen.get(path.as_os_str()).cloned();
        if let Some((clip, Some(patches))) = seen.map(|(clip, weak)| (clip, weak.upgrade())) {
            return Ok((clip, patches));
        }
        let decoded = self.clips.load(path, &self.stop)?;
        let (clip, frames) = &*decoded;
        Ok((clip.clone(), Arc::new(frames.patches())))
    }
}

/// Bytes of a finished clip's patches; clips that share patches count each.
fn held_bytes(loaded: &Loaded) -> usize {
    loaded
        .as_ref()
        .map_or(0, |(_, patches)| size_of_val(patches.values.as_slice()))
}

/// Bytes that a clip's patches can take under `config`: three f32 values for each pixel of each frame.
fn max_bytes(config: &VideoConfig) -> usize {
    config.max_frames * config.max_pixels * 3 * size_of::<f32>()
}
