//! The file of a benchmark's or the authors' repository that holds the words of its protocol.

use super::ProtocolFile;
use super::python;
use super::shown;
use crate::config::Benchmark;
use crate::config::Protocol;
use crate::eval::error::EvalError;
use crate::util::file;
use crate::util::hash;
use std::path::Path;
use std::path::PathBuf;

/// Folders below the clone's own that are looked through.
const DEPTH: usize = 4;

/// The file, read.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Which, and its hash.
    pub(super) file: ProtocolFile,
    /// Its text; of a notebook, that of its cells.
    pub(super) content: String,
    path: PathBuf,
}

/// The files that hold a protocol's words, each enough by itself, by their places in the repository.
pub(super) fn files(protocol: Protocol, benchmark: Option<Benchmark>) -> &'static [&'static str] {
    match (protocol, benchmark) {
        (Protocol::Authors, _) => &["src/eval/eval_bench.py"],
        (Protocol::Official, Some(Benchmark::Mvbench)) => &["video_chat2/mvbench.ipynb"],
        (Protocol::Official, Some(Benchmark::VideoHolmes)) => &["evaluate.py"],
        (Protocol::Official, Some(Benchmark::Mmvu | Benchmark::MmvuOpen)) => &["utils/constant.py"],
        (Protocol::Official, Some(Benchmark::Videomme)) => &["README.md"],
        (
            Protocol::Official,
            Some(
                Benchmark::Tempcompass
                | Benchmark::TempcompassFlat
                | Benchmark::TempcompassCaptioning,
            ),
        ) => &["run_qwen2_vl.py", "run_video_llava/inference_dataset.py"],
        (Protocol::Official, Some(Benchmark::Clevrer) | None) => &[],
    }
}

/// The repository with these files.
pub(super) fn repository(protocol: Protocol, benchmark: Option<Benchmark>) -> &'static str {
    match (protocol, benchmark) {
        (Protocol::Authors, _) => "falonss703/VideoThinker",
        (Protocol::Official, Some(Benchmark::Mvbench)) => "OpenGVLab/Ask-Anything",
        (Protocol::Official, Some(Benchmark::VideoHolmes)) => "TencentARC/Video-Holmes",
        (Protocol::Official, Some(Benchmark::Mmvu | Benchmark::MmvuOpen)) => "yale-nlp/MMVU",
        (Protocol::Official, Some(Benchmark::Videomme)) => "MME-Benchmarks/Video-MME",
        (
            Protocol::Official,
            Some(
                Benchmark::Tempcompass
                | Benchmark::TempcompassFlat
                | Benchmark::TempcompassCaptioning,
            ),
        ) => "llyx97/TempCompass",
        (Protocol::Official, Some(Benchmark::Clevrer) | None) => "",
    }
}

impl Source {
    /// Finds and reads the file in a clone: at its place in the repository, else by its name below `clone`, which may also be
    /// the file itself.
    pub(super) fn find(
        clone: &Path,
        protocol: Protocol,
        benchmark: Option<Benchmark>,
    ) -> Result<Self, EvalError> {
        let files = files(protocol, benchmark);
        if files.is_empty() {
            return Err(EvalError::NoProtocolWords {
                path: clone.to_owned(),
                wanted: "this protocol has no words of its own: remove eval.protocol_from".into(),
            });
        }
        let path = if clone.is_file() {
            Some(clone.to_owned())
        } else {
            let placed = files
                .iter()
                .map(|file| clone.join(file))
                .find(|path| path.is_file());
            placed.or_else(|| {
                files
                    .iter()
                    .find_map(|file| below(clone, Path::new(file).file_name()?, DEPTH))
            })
        };
        let path = path.ok_or_else(|| EvalError::NoProtocolWords {
            path: clone.to_owned(),
            wanted: format!(
                "there is no {} in it: name a clone of {}",
                files.join(" or "),
                repository(protocol, benchmark)
            ),
        })?;
        let bytes = file::read(&path)?;
        // A `clone` that is the file itself has nothing within.
        let within = path
            .strip_prefix(clone)
            .ok()
            .filter(|part| !part.as_os_str().is_empty());
        let name = within
            .or_else(|| path.file_name().map(Path::new))
            .unwrap_or(&path);
        let sha256 = hash::sha256(&bytes);
        let content = String::from_utf8(bytes).map_err(|error| EvalError::NoProtocolWords {
            path: path.clone(),
            wanted: format!(
                "it is no UTF-8 text ({}): save it as UTF-8, or clone its repository again",
                error.utf8_error()
            ),
        })?;
        let content = content.replace("\r\n", "\n");
        let content = content.trim_start_matches('\u{feff}').to_owned();
        Ok(Self {
            file: ProtocolFile {
                file: shown(name),
                sha256,
            },
            content: cells(&content).unwrap_or(content),
            path,
        })
    }

    /// The text assigned to `name`.
    pub(super) fn text(&self, name: &str) -> Result<String, EvalError> {
        python::text(&self.content, name).ok_or_else(|| self.lacks(name))
    }

    /// The text under `key` in the dictionary `name`.
    pub(super) fn entry(&self, name: &str, key: &str) -> Result<String, EvalError> {
        python::entry(&self.content, name, key)
            .ok_or_else(|| self.lacks(&format!("{name}[\"{key}\"]")))
    }

    pub(super) fn lacks(&self, name: &str) -> EvalError {
        EvalError::NoProtocolWords {
            path: self.path.clone(),
            wanted: format!(
                "there is no text `{name}` in it: its repository has changed; eval.template asks in words of your own"
            ),
        }
    }
}

/// The code of a notebook's cells; `None` for another file.
fn cells(content: &str) -> Option<String> {
    let notebook: serde_json::Value = serde_json::from_str(content).ok()?;
    let mut code = String::new();
    for cell in notebook.get("cells")?.as_array()? {
        let Some(source) = cell.get("source") else {
            continue;
        };
        match source {
            serde_json::Value::String(text) => code.push_str(text),
            serde_json::Value::Array(lines) => {
                lines
                    .iter()
                    .filter_map(|line| line.as_str())
                    .for_each(|line| code.push_str(line));
            }
            _ => {}
        }
        code.push('\n');
    }
    Some(code)
}

/// A file of this name in `folder` or in folders below it, the first by name.
fn below(folder: &Path, name: &std::ffi::OsStr, depth: usize) -> Option<PathBuf> {
    let read = std::fs::read_dir(folder).and_then(|entries| {
        let paths = entries.map(|entry| Ok(entry?.path()));
        paths.collect::<std::io::Result<Vec<PathBuf>>>()
    });
    let mut entries = match read {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!("{}: not searched: {error}", folder.display());
            return None;
        }
    };
    entries.sort();
    let here = entries
        .iter()
        .find(|path| path.is_file() && path.file_name() == Some(name));
    let deeper = || {
        let folders = entries
            .iter()
            .filter(|path| path.is_dir() && !path.is_symlink());
        folders
            .filter(|_| depth > 0)
            .find_map(|path| below(path, name, depth - 1))
    };
    here.cloned().or_else(deeper)
}
