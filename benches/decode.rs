//! Reading clips in one process, as a training run does; `benches/peers/decode.py` runs it beside other readers.
//!
//! `cargo bench --bench decode -- [--stage STAGE] [CLIP…]` prints CPU and wall seconds of a clip as JSON. Several clips are
//! read side by side, one is read on all threads.

use clap::{Parser, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use videothinker::config::{DataConfig, VideoConfig};
use videothinker::video::{self, Clip, ClipLoader, Prefetcher, VideoError};

const CLIP: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/golden/video/clips/large.mp4"
);

/// How far clips are read.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Stage {
    /// RGB frames in the file's own size.
    Frames,
    /// Frames in the model's size: what `data check` reads.
    Resized,
    /// Normalised patches, several clips by the training loader's own threads.
    Loader,
}

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, value_enum, default_value = "resized")]
    stage: Stage,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value_t = 16)]
    max_frames: usize,
    /// Write what is read of the first clip, though no patches
    #[arg(long)]
    save: Option<PathBuf>,
    #[arg(default_value = CLIP)]
    clips: Vec<PathBuf>,
    /// Said by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn config(&self) -> VideoConfig {
        VideoConfig {
            max_frames: self.max_frames,
            ..VideoConfig::default()
        }
    }

    /// Time of a clip, when the first are known to the process, and what is taken from it.
    fn timed(&self) -> Result<serde_json::Value, VideoError> {
        if let [first, second, ..] = &self.clips[..] {
            self.read(first, 1)?;
            self.read(second, 1)?;
        }
        let (cpu, wall) = (cpu_seconds(), Instant::now());
        self.run()?;
        let (cpu, wall) = (cpu_seconds() - cpu, wall.elapsed().as_secs_f64());
        let clip = self.read(&self.clips[0], self.threads)?;
        if let Some(path) = &self.save {
            std::fs::write(path, self.frames()?).expect("the folder is writable");
        }
        let count = self.clips.len() as f64;
        Ok(json!({
            "cpu": cpu / count, "wall": wall / count, "clip": clip, "decoder": video::decoder_version(),
        }))
    }

    /// Reads every clip.
    fn run(&self) -> Result<(), VideoError> {
        match &self.clips[..] {
            [clip] => self.read(clip, self.threads).map(drop),
            _ if self.stage == Stage::Loader => self.prefetch(),
            _ => self.side_by_side(),
        }
    }

    fn read(&self, clip: &Path, threads: usize) -> Result<Clip, VideoError> {
        match self.stage {
            Stage::Frames => {
                let mut last = Vec::new();
                video::decode_frames(clip, &self.config(), threads, &mut |_, rgb| {
                    last = rgb.to_vec();
                })
            }
            Stage::Resized => Ok(video::check(clip, &self.config(), threads)?.0),
            Stage::Loader => Ok(video::load_patches(clip, &self.config())?.0),
        }
    }

    fn prefetch(&self) -> Result<(), VideoError> {
        let keep_nothing = DataConfig {
            cache_mib: 0,
            ..DataConfig::default()
        };
        let loader = ClipLoader::new(&self.config(), &keep_nothing).expect("there is no folder");
        let clips = Prefetcher::new(self.clips.clone(), loader, 256 << 20, self.threads);
        for clip in clips.expect("threads can be started") {
            clip?;
        }
        Ok(())
    }

    fn side_by_side(&self) -> Result<(), VideoError> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(clip) = self.clips.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.read(clip, 1)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().expect("no thread panics"))
        })
    }

    /// Frames of the first clip as they are taken, tight.
    fn frames(&self) -> Result<Vec<u8>, VideoError> {
        if self.stage != Stage::Frames {
            return Ok(video::load(&self.clips[0], &self.config())?.1.values);
        }
        let mut frames = Vec::new();
        let mut keep = |slot: usize, rgb: &[u8]| {
            frames.resize(frames.len().max((slot + 1) * rgb.len()), 0);
            frames[slot * rgb.len()..(slot + 1) * rgb.len()].copy_from_slice(rgb);
        };
        video::decode_frames(&self.clips[0], &self.config(), 1, &mut keep)?;
        Ok(frames)
    }
}

/// Seconds that the threads of this process have computed, those that ended included.
#[expect(unsafe_code, reason = "the standard library has no such clock")]
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the time to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[expect(clippy::print_stdout, reason = "its output")]
fn main() -> Result<(), VideoError> {
    println!("{}", Arguments::parse().timed()?);
    Ok(())
}
