//! `scripts/gpu_check.sh` in a folder of its own, and the results that it leaves there.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The check of `binary` by `bash`; it writes into `out` and `scratch` of `folder`.
pub(crate) fn check(mut bash: Command, binary: &Path, mode: &str, folder: &Path) -> Command {
    bash.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu_check.sh"))
        .arg(mode)
        .arg("--binary")
        .arg(binary)
        .arg("--out")
        .arg(folder.join("out"))
        .arg("--scratch")
        .arg(folder.join("scratch"))
        .env_remove("GPU_CHECK_RUN");
    bash
}

/// The lines of the results, by part; each must be whole, and there is one of each part.
pub(crate) fn results(folder: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder.join("out/results.jsonl")).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let mut parts = BTreeMap::new();
    for line in text.lines() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let part = value["part"].as_str().unwrap().to_owned();
        assert!(parts.insert(part, value).is_none(), "twice: {line}");
    }
    parts
}
