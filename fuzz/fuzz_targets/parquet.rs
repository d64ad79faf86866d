//! Any bytes as a parquet file of each benchmark that is published as one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use videothinker::config::Benchmark;
use videothinker::data::benchmark;

// Panics inside the parquet crate are caught and become errors; the reader keeps them from the fuzzer's hook.
fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("yes_no.parquet");
    std::fs::write(&path, bytes).expect("room for it");
    for benchmark in [
        Benchmark::Mmvu,
        Benchmark::Tempcompass,
        Benchmark::Videomme,
    ] {
        match benchmark::read(benchmark, &path, true) {
            Ok(questions) => assert!(!questions.is_empty()),
            Err(error) => assert!(error.to_string().contains("yes_no.parquet")),
        }
    }
});
