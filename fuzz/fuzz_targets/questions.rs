//! Any bytes as every kind of JSON file that is read: questions, the benchmarks' files, official CLEVRER files, a manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use videothinker::config::Benchmark;
use videothinker::data::DataError;
use videothinker::data::Manifest;
use videothinker::data::Question;
use videothinker::data::benchmark;
use videothinker::data::clevrer;
use videothinker::data::read_questions;

fn can_be_asked(read: Result<Vec<Question>, DataError>, path: &Path) {
    match read {
        Ok(questions) => {
            for question in questions {
                assert!(!question.text().is_empty() && !question.answer().is_empty());
            }
        }
        Err(error) => assert!(error.to_string().contains(path.to_str().expect("ASCII"))),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("room for it");
        path
    };
    let lines = write("questions.jsonl");
    can_be_asked(read_questions(&lines), &lines);
    // A file's name is the task of its questions.
    for (name, benchmarks) in [
        (
            "moving_count.json",
            &[
                Benchmark::Clevrer,
                Benchmark::Mmvu,
                Benchmark::MmvuOpen,
                Benchmark::VideoHolmes,
                Benchmark::Mvbench,
                Benchmark::Videomme,
            ][..],
        ),
        ("multi-choice.json", &[Benchmark::Tempcompass]),
        ("captioning.json", &[Benchmark::TempcompassCaptioning]),
    ] {
        let path = write(name);
        can_be_asked(read_questions(&path), &path);
        for benchmark in benchmarks {
            can_be_asked(benchmark::read(*benchmark, &path, true), &path);
        }
    }
    let scenes = write("scenes.json");
    let _ = clevrer::for_each_scene(&scenes, |_| Ok(()));
    write("annotation_00000.json");
    if let Ok(annotation) = clevrer::read_annotation(folder.path(), 0) {
        let history = clevrer::history::History::new(&annotation);
        for event in history.events() {
            assert!(history.ancestors(event).len() < history.events().len());
        }
    }
    let _ = Manifest::read(&scenes);
});
