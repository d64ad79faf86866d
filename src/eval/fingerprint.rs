//! Short fingerprints of a model's weights and of an evaluation's settings.

use super::error::EvalError;
use crate::config::Config;
use crate::config::Extraction;
use crate::config::QuestionOrder;
use crate::data::Question;
use crate::util::file::FileError;
use crate::util::hash::Fnv;
use std::ffi::OsStr;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;

/// At most this many blocks of a weight file are read, evenly spread: training changes all of a file.
const BLOCKS: u64 = 256;
/// Bytes of a block.
const BLOCK: u64 = 64 * 1024;

/// Of the names, lengths and sampled contents of the safetensors files in a model folder.
pub(super) fn of_weights(folder: &Path) -> Result<String, EvalError> {
    let failed = FileError::reading;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut hash = Fnv::default();
    for path in files {
        hash.add(file_name(&path));
        add_file(&path, &mut hash).map_err(|error| failed(&path, error))?;
    }
    Ok(hash.hex())
}

fn add_file(path: &Path, hash: &mut Fnv) -> std::io::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    hash.add(&length.to_le_bytes());
    let stride = (length / BLOCKS).max(BLOCK);
    let mut start = 0;
    while start < length {
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        (&file).take(BLOCK).read_to_end(&mut block)?;
        hash.add(&block);
        start += stride;
    }
    Ok(())
}

pub(super) fn of_text(text: &str) -> String {
    let mut hash = Fnv::default();
    hash.add(text.as_bytes());
    hash.hex()
}

/// Of what is asked and what is right, question by question; where the clips lie does not count.
pub(super) fn of_questions(questions: &[Question]) -> String {
    let mut hash = Fnv::default();
    for question in questions {
        let text = question.text();
        let parts = [question.id.as_str(), &text, &question.solution];
        for part in parts.map(str::as_bytes) {
            hash.add(&part.len().to_le_bytes());
            hash.add(part);
        }
        hash.add(file_name(&question.video));
    }
    hash.hex()
}

/// The last part of a path; nothing where it has none, as in `..`.
fn file_name(path: &Path) -> &[u8] {
    path.file_name().map_or(&[], OsStr::as_encoded_bytes)
}

/// Of every setting that changes an answer or a score, and of the questions' own fingerprint.
pub(super) fn of_config(config: &Config, questions_hash: &str) -> Result<String, EvalError> {
    // Where things are, how fast they are done and how training goes does not change an answer.
    let mut relevant = Config {
        seed: config.seed,
        data: config.data.clone(),
        video: config.video.clone(),
        sampling: config.sampling.clone(),
        eval: config.eval.clone(),
        ..Config::default()
    };
    relevant.model.dtype = config.model.dtype;
    relevant.data.questions = "".into();
    relevant.data.video_root = "".into();
    relevant.data.video_strip = None;
    relevant.data.manifest = None;
    relevant.data.order = QuestionOrder::default();
    relevant.data.cache_mib = 0;
    relevant.data.cache_dir = None;
    relevant.data.cache_dir_mib = 0;
    relevant.sampling.max_rows = 0;
    relevant.sampling.cuda_graph = false;
    // Its words have a fingerprint of their own.
    relevant.eval.protocol_from = None;
    relevant.eval.batch_size = 0;
    relevant.eval.extraction = Extraction::Strict;
    let text = serde_json::to_string(&relevant).map_err(|error| EvalError::Json {
        path: config.data.questions.clone(),
        reason: error.to_string(),
    })?;
    Ok(of_text(&(text + questions_hash)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextAfterVideo;

    #[test]
    fn changed_weights_and_settings_change_the_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        let mut bytes = vec![7; 200_000];
        std::fs::write(&weights, &bytes).unwrap();
        let before = of_weights(folder.path()).unwrap();
        bytes[199_999] = 8;
        std::fs::write(&weights, &bytes).unwrap();
        assert_ne!(before, of_weights(folder.path()).unwrap());

        let mut config = Config::default();
        let plain = of_config(&config, "q").unwrap();
        config.eval.batch_size += 1;
        config.train.steps += 1;
        config.sampling.max_rows += 1;
        config.data.cache_dir = Some("frames".into());
        config.data.order = QuestionOrder::Trainer;
        config.data.video_strip = Some("/CLEVRER".into());
        assert_eq!(plain, of_config(&config, "q").unwrap());
        assert_ne!(plain, of_config(&config, "other questions").unwrap());
        config.video.text_after = TextAfterVideo::Spatial;
        assert_ne!(plain, of_config(&config, "q").unwrap());
        config.video.text_after = TextAfterVideo::default();
        config.video.max_frames += 2;
        assert_ne!(plain, of_config(&config, "q").unwrap());
    }

    #[test]
    fn questions_differ_by_what_is_asked_and_not_by_where_clips_lie() {
        let question = |problem: &str, video: &str| -> Question {
            let line =
                format!(r#"{{"id":"1","problem":"{problem}","solution":"A","video":"{video}"}}"#);
            serde_json::from_str(&line).unwrap()
        };
        let hash = |problem, video| of_questions(&[question(problem, video)]);
        assert_eq!(hash("Why?", "here/a.mp4"), hash("Why?", "there/a.mp4"));
        assert_ne!(hash("Why?", "a.mp4"), hash("Why?", "b.mp4"));
        assert_ne!(hash("Why?", "a.mp4"), hash("How?", "a.mp4"));
    }
}
