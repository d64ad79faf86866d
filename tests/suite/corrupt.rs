//! Broken input: hundreds of mutated clips, JSON and parquet files. No crash, no hang, bounded memory, and an error that names
//! the file. The mutations follow from a seed, so that whatever is found can be found again.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;
use videothinker::config::Benchmark;
use videothinker::config::VideoConfig;
use videothinker::data::Manifest;
use videothinker::data::benchmark;
use videothinker::data::clevrer;
use videothinker::data::read_questions;
use videothinker::synthetic::WorldOptions;
use videothinker::synthetic::write_world;
use videothinker::video;

/// One item may take this long, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Mutants of each test in the suite.
const MUTANTS: u64 = 300;

/// A small world, whose files are mutated, and golden clips in other containers.
fn originals() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let options = WorldOptions {
        train: 4,
        validation: 0,
        sft: 0,
        ..WorldOptions::default()
    };
    write_world(&options, folder.path(), &|| ()).unwrap();
    let videos = folder.path().join("videos");
    let mut clips: Vec<PathBuf> = (0..4)
        .map(|index| videos.join(clevrer::video_path(index)))
        .collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
    for name in [
        "gops.mp4",
        "open_gop.mp4",
        "vp9.webm",
        "mpeg4.avi",
        "edit_list.mp4",
    ] {
        clips.push(golden.join(name));
    }
    (folder, clips)
}

/// Damages bytes in one of the ways in which files get damaged, or as an attacker would.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let start = rng.random_range(0..bytes.len());
        let end = (start + rng.random_range(1..200)).min(bytes.len());
        match rng.random_range(0..9) {
            0 => bytes.truncate(start),
            1 => bytes[start..end].fill(0),
            2 => bytes[start..end].fill(0xff),
            3 => rng.fill(&mut bytes[start..end]),
            4 => drop(bytes.drain(start..end)),
            5 => {
                let again = bytes[start..end].to_vec();
                bytes.splice(start..start, again);
            }
            // Containers keep their index at the start or at the end.
            6 => {
                let near_start = rng.random_range(0..bytes.len().min(600));
                bytes[near_start] = rng.random();
            }
            7 => {
                let near_end = bytes.len() - rng.random_range(1..=bytes.len().min(1500));
                bytes[near_end] = rng.random();
            }
            _ => {
                for _ in 0..rng.random_range(1..64) {
                    let place = rng.random_range(0..bytes.len());
                    bytes[place] ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
}

/// Writes the mutant of a seed, made from one of the originals, and gives its path.
fn mutant(seed: u64, originals: &[PathBuf], folder: &Path) -> PathBuf {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let original = &originals[rng.random_range(0..originals.len())];
    let mut bytes = std::fs::read(original).unwrap();
    mutate(&mut bytes, &mut rng);
    let extension = original.extension().unwrap().to_str().unwrap();
    let path = folder.join(format!("{seed}.{extension}"));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Runs something that must end in time, and gives its result.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()));
    let Ok(result) = receiver.recv_timeout(PATIENCE) else {
        panic!("{what} did not end within {PATIENCE:?}, or panicked");
    };
    thread.join().unwrap().unwrap();
    result
}

fn small() -> VideoConfig {
    VideoConfig {
        min_pixels: 4 * 784,
        max_pixels: 16 * 784,
        ..VideoConfig::default()
    }
}

/// Loads a mutated clip; gives whether it still could be used.
fn survives(path: &Path) -> bool {
    let file = path.to_owned();
    let loaded = in_time(&path.to_string_lossy(), move || {
        video::load(&file, &small())
    });
    match loaded {
        Ok((clip, frames)) => {
            assert_eq!(frames.shape[0], clip.indices.len());
            true
        }
        Err(error) => {
            assert_eq!(error.path(), path);
            assert!(error.to_string().starts_with(path.to_str().unwrap()));
            false
        }
    }
}

#[test]
fn mutated_clips_give_frames_or_an_error_that_names_the_file() {
    let (_world, originals) = originals();
    let folder = tempfile::tempdir().unwrap();
    let survivors = (0..MUTANTS)
        .filter(|seed| survives(&mutant(*seed, &originals, folder.path())))
        .count() as u64;
    // Mutations that always or never matter would test nothing.
    assert!(
        (MUTANTS / 10..MUTANTS * 9 / 10).contains(&survivors),
        "{survivors} of {MUTANTS} mutants can be used"
    );
}

#[test]
#[cfg(unix)]
fn a_dataset_of_mutated_clips_is_checked_within_bounded_memory() {
    let (_world, originals) = originals();
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (MUTANTS..2 * MUTANTS)
        .map(|seed| {
            let path = mutant(seed, &originals, folder.path());
            json!({"problem": "What?", "solution": "A", "video": path}).to_string()
        })
        .collect();
    let questions = folder.path().join("q.jsonl");
    std::fs::write(&questions, lines.join("\n")).unwrap();
    // 3 GiB of address space, threads' stacks and the binary itself included.
    let output = assert_cmd::Command::new("sh")
        .args(["-c", r#"ulimit -v 3145728; exec "$0" "$@""#])
        .arg(crate::program().get_program())
        .args(["data", "check", "--json", "--questions"])
        .arg(&questions)
        .args([
            "--set=video.min_pixels=3136",
            "--set=video.max_pixels=12544",
        ])
        .timeout(PATIENCE * 5)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["clips"], MUTANTS);
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() > MUTANTS as usize / 10);
    for finding in findings {
        let reason = finding["reason"].as_str().unwrap();
        assert!(!reason.is_empty() && finding["questions"][0].is_string());
    }
}

/// What a file is read as.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Questions,
    Scenes,
    Annotation,
    Manifest,
    Benchmark(Benchmark),
}

impl Reader {
    /// Reads a file, or says why not.
    fn read(self, path: &Path) -> Result<(), String> {
        match self {
            Self::Questions => read_questions(path).map(drop),
            Self::Scenes => clevrer::for_each_scene(path, |_| Ok(())),
            Self::Annotation => clevrer::read_annotation(path.parent().unwrap(), 0).map(drop),
            Self::Manifest => Manifest::read(path).map(drop),
            Self::Benchmark(name) => benchmark::read(name, path, true).map(drop),
        }
        .map_err(|error| error.to_string())
    }
}

/// Files by what they are read as.
type Readable = Vec<(PathBuf, Reader)>;

/// The JSON files of a world, and the benchmarks' in every shape.
fn json_originals(world: &Path) -> Readable {
    let manifest = world.join("manifest.json");
    let clip = world.join("videos").join(clevrer::video_path(0));
    let record = videothinker::data::ClipRecord::of(&clip).unwrap();
    let clips = [(clevrer::video_path(0), record)].into();
    Manifest { clips }.write(&manifest).unwrap();
    let annotation = world.join("annotations/train/annotation_00000.json");
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut originals = vec![
        (world.join("train_questions.json"), Reader::Questions),
        (world.join("train.json"), Reader::Scenes),
        (annotation, Reader::Annotation),
        (manifest, Reader::Manifest),
        (seeds.join("lines.jsonl"), Reader::Questions),
    ];
    for (name, benchmark) in [
        ("clevrer.json", Benchmark::Clevrer),
        ("clevrer_written.json", Benchmark::Clevrer),
        ("mmvu.json", Benchmark::Mmvu),
        ("mmvu.json", Benchmark::MmvuOpen),
        ("mmvu_family.json", Benchmark::Mmvu),
        ("moving_count.json", Benchmark::Mvbench),
        ("multi-choice.json", Benchmark::Tempcompass),
        ("caption_matching.json", Benchmark::Tempcompass),
        ("captioning.json", Benchmark::TempcompassCaptioning),
        ("video_holmes.json", Benchmark::VideoHolmes),
        ("video_holmes_family.json", Benchmark::VideoHolmes),
        ("videomme.json", Benchmark::Videomme),
        ("videomme_nested.json", Benchmark::Videomme),
    ] {
        originals.push((seeds.join(name), Reader::Benchmark(benchmark)));
    }
    originals
}

fn parquet_originals() -> Readable {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/benchmark");
    [
        ("videomme.parquet", Benchmark::Videomme),
        ("mmvu.parquet", Benchmark::Mmvu),
    ]
    .map(|(name, benchmark)| (golden.join(name), Reader::Benchmark(benchmark)))
    .into()
}

/// Reads a mutated file; gives whether it still could be used.
fn can_be_read(seed: u64, originals: &Readable) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (original, reader) = &originals[rng.random_range(0..originals.len())];
    let mut bytes = std::fs::read(original).unwrap();
    match rng.random_range(0..20) {
        // Nested deeper than any stack.
        0 => bytes = vec![b'['; 200_000],
        1 => bytes = "{\"a\":".repeat(100_000).into_bytes(),
        // A digit becomes a large number.
        2 => {
            if let Some(place) = bytes.iter().position(u8::is_ascii_digit) {
                bytes.splice(place..=place, *b"123456789012345678901234567890e99");
            }
        }
        _ => mutate(&mut bytes, &mut rng),
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(original.file_name().unwrap());
    std::fs::write(&path, bytes).unwrap();
    let (reader, file) = (*reader, path.clone());
    match in_time(&format!("seed {seed}"), move || reader.read(&file)) {
        Ok(()) => true,
        Err(message) => {
            // The file, and what is the matter with it.
            let rest = message.split_once(path.to_str().unwrap());
            let reason = rest.unwrap_or_else(|| panic!("seed {seed}: {message}")).1;
            assert!(reason.len() > 10, "seed {seed}: {message}");
            false
        }
    }
}

/// Reads mutants of some files, of which some must be usable and some not.
fn read_mutants(originals: &Readable) {
    for (original, reader) in originals {
        assert_eq!(reader.read(original), Ok(()), "{}", original.display());
    }
    let survivors = (0..MUTANTS).filter(|seed| can_be_read(*seed, originals));
    let survivors = survivors.count() as u64;
    assert!(
        (MUTANTS / 50..MUTANTS / 2).contains(&survivors),
        "{survivors} of {MUTANTS} mutants are read"
    );
}

#[test]
fn mutated_json_is_read_or_refused_by_name() {
    let (world, _) = originals();
    read_mutants(&json_originals(world.path()));
}

#[test]
fn mutated_parquet_is_read_or_refused_by_name() {
    read_mutants(&parquet_originals());
}

/// The two tests above once more, in a process that may have 3 GiB of address space.
#[test]
#[cfg(unix)]
fn mutated_files_are_read_within_bounded_memory() {
    let output = assert_cmd::Command::new("sh")
        .args(["-c", r#"ulimit -v 3145728; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--test-threads=1"])
        .args(
            ["json", "parquet"]
                .map(|kind| format!("corrupt::mutated_{kind}_is_read_or_refused_by_name")),
        )
        .timeout(PATIENCE * 5)
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.contains("2 passed"),
        "{stdout}{stderr}"
    );
}

/// As the tests above, with new seeds until `FUZZ_SECONDS` are over (`scripts/fuzz.sh`).
#[test]
#[ignore = "runs for minutes: scripts/fuzz.sh"]
fn new_mutants_until_the_time_is_over() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().unwrap())
    };
    let first = number("FUZZ_SEED", 1_000_000);
    let seconds = number("FUZZ_SECONDS", 60);
    let (world, clips) = originals();
    let mut files = json_originals(world.path());
    files.extend(parquet_originals());
    let started = Instant::now();
    let (mut seed, mut usable, mut slowest) = (first, 0, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(seconds) {
        let folder = tempfile::tempdir().unwrap();
        let path = mutant(seed, &clips, folder.path());
        let item = Instant::now();
        usable += u64::from(survives(&path));
        usable += u64::from(can_be_read(seed, &files));
        slowest = slowest.max(item.elapsed());
        seed += 1;
    }
    eprintln!(
        "seeds {first} to {}: {usable} of {} mutants usable, the slowest pair took {slowest:?}",
        seed - 1,
        2 * (seed - first)
    );
}
