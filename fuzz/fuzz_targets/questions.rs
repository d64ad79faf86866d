//! Any bytes as every kind of JSON file that is read: questions, official CLEVRER files, a manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use videothinker::data::clevrer;
use videothinker::data::{Manifest, read_questions};

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("room for it");
        path
    };
    for name in ["questions.json", "questions.jsonl"] {
        let path = write(name);
        for question in read_questions(&path).unwrap_or_default() {
            assert!(!question.text().is_empty() && !question.answer().is_empty());
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
