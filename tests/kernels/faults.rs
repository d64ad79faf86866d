//! Faults planted in kernels: each is seen, and the kernel written rightly passes.

use crate::emulator::on_cpu;
use candle_core::{DType, Device, Result, Tensor};
use videothinker::model::ops::cuda::launch::{Grid, Launch, Module};

static MODULE: Module = Module {
    name: "faults",
    ptx: "",
};
const THREADS: u32 = 64;
const BLOCKS: usize = 2;

/// Runs a kernel of `faults.cu` with 64 values in, 128 out and 32 bytes of dynamic shared memory.
fn run(kernel: &str, wrong: bool) -> Result<()> {
    let values = Tensor::arange(0f32, THREADS as f32, &Device::Cpu)?;
    let out = Tensor::zeros(BLOCKS * THREADS as usize, DType::F32, &Device::Cpu)?;
    on_cpu(|| {
        Launch::new(&MODULE, &format!("fault_{kernel}"))
            .tensor(&values)
            .tensor(&out)
            .size(usize::from(wrong))
            .run(Grid::new(BLOCKS, THREADS).shared(32))
    })
}

#[track_caller]
fn seen(kernel: &str, messages: &[&str]) {
    run(kernel, false).unwrap();
    let error = run(kernel, true).unwrap_err().to_string();
    for part in messages {
        assert!(error.contains(part), "{kernel}: {error}");
    }
}

#[test]
fn missing_barriers_are_races() {
    let shared = "of static shared memory";
    seen(
        "block_barrier",
        &[
            "race at byte",
            shared,
            "block (0, 0, 0): thread 63 reads",
            "thread 0 wrote",
        ],
    );
    seen(
        "warp_barrier",
        &["race", shared, "reads 4 bytes", "wrote it"],
    );
    seen(
        "barrier_after_reading",
        &["race", shared, "thread 33 writes"],
    );
}

#[test]
fn blocks_have_no_order() {
    let place = "race at byte 0 from argument 1 on: thread 0 of another block";
    seen(
        "blocks",
        &["block (1, 0, 0): thread 0 writes", place, "wrote it"],
    );
    seen(
        "block_reads_block",
        &["block (1, 0, 0): thread 0 reads", place],
    );
    seen(
        "beside_atomics",
        &["thread 63 reads", "race at byte 0 from argument 1"],
    );
}

#[test]
fn accesses_beside_tensors_and_misaligned_ones_are_seen() {
    seen("misaligned", &["misaligned", "faults.cu:"]);
    seen(
        "read_beyond",
        &["thread 63 reads 4 bytes, out of bounds: byte 256 from argument 0"],
    );
    seen(
        "write_beyond",
        &["thread 63 writes 4 bytes, out of bounds: byte 512 from argument 1"],
    );
    seen(
        "write_before",
        &["block (0, 0, 0): thread 0 writes 4 bytes, out of bounds"],
    );
    seen(
        "beyond_dynamic",
        &["thread 7 writes 4 bytes, out of bounds"],
    );
}

#[test]
fn shared_memory_that_nobody_has_written_is_seen() {
    seen(
        "unwritten_shared",
        &["thread 63 reads", "is not written in this block"],
    );
}

#[test]
fn barriers_that_a_gpu_would_hang_at_are_seen() {
    seen("shuffle", &["without all 32 lanes"]);
    seen("mask", &["a mask other than the whole warp"]);
    seen("barrier", &["a barrier that not all threads reach"]);
    seen("fence", &["not modelled"]);
}

#[test]
#[should_panic(expected = "other results when threads and blocks run in another order")]
fn results_that_depend_on_the_order_of_threads_are_seen() {
    run("order", false).unwrap();
    run("order", true).unwrap();
}
