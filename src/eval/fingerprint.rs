//! Short fingerprints of a model's weights and of an evaluation's settings.

use super::EvalError;
use crate::config::Config;
use crate::data::fnv::Fnv;
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
    let failed = |path: &Path, source| EvalError::File {
        path: path.to_owned(),
        source,
    };
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
        hash.add(path.file_name().unwrap_or_default().as_encoded_bytes());
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

/// Of the question file and of every setting that changes an answer or a score.
pub(super) fn of_config(config: &Config) -> Result<String, EvalError> {
    let path = &config.data.questions;
    let questions = std::fs::read(path).map_err(|source| EvalError::File {
        path: path.clone(),
        source,
    })?;
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
    relevant.data.cache_mib = 0;
    relevant.data.cache_dir = None;
    relevant.data.cache_dir_mib = 0;
    relevant.sampling.max_rows = 0;
    relevant.eval.batch_size = 0;
    let text = serde_json::to_string(&relevant).map_err(|error| EvalError::Json {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let mut hash = Fnv::default();
    hash.add(text.as_bytes());
    hash.add(&questions);
    Ok(hash.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        config.data.questions = folder.path().join("q.json");
        std::fs::write(&config.data.questions, "[]").unwrap();
        let plain = of_config(&config).unwrap();
        config.eval.batch_size += 1;
        config.train.steps += 1;
        config.sampling.max_rows += 1;
        config.data.cache_dir = Some("frames".into());
        assert_eq!(plain, of_config(&config).unwrap());
        config.video.max_frames += 2;
        assert_ne!(plain, of_config(&config).unwrap());
    }
}
