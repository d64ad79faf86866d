//! What a step allocates, counted: a bench that gives the same numbers on every machine, and the test of the memory
//! estimate. A process of its own, since nothing else may allocate meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stdout, reason = "a test says what it measured")]

#[path = "../../benches/miniature/mod.rs"]
mod miniature;

use miniature::Miniature;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use videothinker::cli::init::write_untrained;
use videothinker::config::{Config, Verb};
use videothinker::data::read_questions;
use videothinker::dist::ProcessGroup;
use videothinker::synthetic::{WorldOptions, write_world};
use videothinker::train::metrics::resident_bytes;
use videothinker::train::{RunOptions, run};

/// The system's allocator with counters.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);
static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    TOTAL.fetch_add(bytes, Relaxed);
    let current = CURRENT.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(current, Relaxed);
}

#[expect(unsafe_code, reason = "an allocator hands out raw memory")]
// SAFETY: every call goes to the system's allocator unchanged; counting touches atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CURRENT.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls, bytes asked for in all, and the most bytes held at once beyond what was held before.
fn measure<T>(work: impl FnOnce() -> T) -> (T, [usize; 3]) {
    let (calls, total, before) = (
        CALLS.load(Relaxed),
        TOTAL.load(Relaxed),
        CURRENT.load(Relaxed),
    );
    PEAK.store(before, Relaxed);
    let result = work();
    let counts = [
        CALLS.load(Relaxed) - calls,
        TOTAL.load(Relaxed) - total,
        PEAK.load(Relaxed) - before,
    ];
    (result, counts)
}

#[test]
fn a_miniature_step_allocates_no_more_than_it_did() {
    let _alone = alone();
    let mut miniature = Miniature::new().unwrap();
    // The first step warms up what is made once: thread pools, regular expressions, kernels chosen by CPU features.
    miniature.step().unwrap();
    let (_, generate) = measure(|| miniature.generate().unwrap());
    let (_, step) = measure(|| miniature.step().unwrap());
    // A quarter above what was counted on two cores: [103_471, 340 MB, 7.9 MB] and [135_412, 778 MB, 22.2 MB]. Most
    // bytes are buffers in which gemm packs its operands; they follow the machine's caches and cores a little. What is
    // alive at once is the cache in a generation; in a step it is gradients, layer inputs and one layer computed again.
    for (name, got, most) in [
        ("generate", generate, [130_000, 426_000_000, 9_900_000]),
        ("step", step, [170_000, 973_000_000, 27_800_000]),
    ] {
        for (what, (got, most)) in ["calls", "bytes", "bytes at once"]
            .iter()
            .zip(got.into_iter().zip(most))
        {
            assert!(got <= most, "{name}: {got} {what}, at most {most}");
        }
    }
}

/// Runs `work` on a thread that may use one core only, so that passes come one after the other.
#[cfg(target_os = "linux")]
fn on_one_core<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    #[expect(unsafe_code, reason = "the standard library cannot choose a core")]
    let choose = || {
        // SAFETY: a set of cores is plain bits; this thread's own is read, reduced to its first core and written back.
        unsafe {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            let size = size_of::<libc::cpu_set_t>();
            assert_eq!(libc::sched_getaffinity(0, size, &raw mut cores), 0);
            let first = (0..libc::CPU_SETSIZE as usize).find(|&core| libc::CPU_ISSET(core, &cores));
            libc::CPU_ZERO(&mut cores);
            libc::CPU_SET(first.unwrap(), &mut cores);
            assert_eq!(libc::sched_setaffinity(0, size, &raw const cores), 0);
        }
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            choose();
            work()
        });
        thread.join().unwrap()
    })
}

/// The miniature and something larger: the settings that decide about memory. On one core the estimate is what is
/// measured. With several, passes run side by side and may or may not reach their peaks at the same moment: the estimate
/// is the most they take.
#[test]
fn the_memory_estimate_is_within_15_percent() {
    let _alone = alone();
    #[cfg(target_os = "linux")]
    on_one_core(|| {
        compare_with_the_estimate(|what, ratio| {
            assert!((0.85..1.15).contains(&ratio), "{what}");
        });
    });
    compare_with_the_estimate(|what, ratio| assert!(ratio > 0.85, "{what}"));
}

/// Calls `judge` with the estimate's ratio to what was measured.
fn compare_with_the_estimate(judge: impl Fn(&str, f64)) {
    let folder = tempfile::tempdir().unwrap();
    let world = folder.path().join("world");
    let options = WorldOptions {
        train: 8,
        validation: 1,
        sft: 4,
        seed: 3,
        ..WorldOptions::default()
    };
    write_world(&options, &world, &|| ()).unwrap();
    let worked = read_questions(&world.join("sft.jsonl")).unwrap();
    let corpus: Vec<String> = worked
        .into_iter()
        .flat_map(|question| [question.text(), question.response.unwrap_or_default()])
        .collect();
    for seed in [1, 2] {
        let model = folder.path().join(format!("model{seed}"));
        write_untrained(&model, corpus.clone().into_iter(), seed).unwrap();
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, settings) in [
        (
            "miniature",
            [
                "sampling.group_size=8",
                "sampling.max_new_tokens=128",
                "video.max_frames=8",
                "video.max_pixels=12544",
            ],
        ),
        (
            "larger",
            [
                "sampling.group_size=4",
                "sampling.max_new_tokens=400",
                "video.max_frames=16",
                "video.max_pixels=50176",
            ],
        ),
    ] {
        let mut overrides = vec![
            format!("output_dir={}", path(&format!("run-{name}"))),
            format!("model.path={}", path("model1")),
            format!("model.bias_model={}", path("model2")),
            format!("data.questions={}", path("world/train_questions.json")),
            format!("data.video_root={}", path("world/videos")),
        ];
        let fixed = [
            "model.dtype=f32",
            "model.device=cpu",
            "video.min_frames=8",
            "video.min_pixels=12544",
            "train.steps=1",
            "train.questions_per_step=8",
            "sampling.top_k=0",
        ];
        overrides.extend(fixed.iter().chain(&settings).map(ToString::to_string));
        let config = Config::load(None, &overrides, Verb::TrainCdpo).unwrap();
        let program = resident_bytes();
        let (_, [_, _, measured]) = measure(|| {
            let options = RunOptions::default();
            run(&config, Verb::TrainCdpo, &options, ProcessGroup::alone()).unwrap()
        });
        let timings = std::fs::read_to_string(config.output_dir.join("timings.jsonl")).unwrap();
        let last: serde_json::Value =
            serde_json::from_str(timings.lines().last().unwrap()).unwrap();
        let estimate = last["memory/estimate_bytes"].as_u64().unwrap() - program;
        let what = format!("{name}: estimate {estimate}, measured {measured}");
        judge(&what, estimate as f64 / measured as f64);
    }
}
