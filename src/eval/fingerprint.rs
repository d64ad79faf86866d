//! Short fingerprints of a model's weights and of an evaluation's settings.

use super::error::EvalError;
use crate::config::Config;
use crate::config::DataConfig;
use crate::config::EvalConfig;
use crate::config::ModelConfig;
use crate::config::SamplingConfig;
use crate::data::Question;
use crate::util::file::FileError;
use crate::util::hash::Fnv;
use serde_json::json;
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
pub(crate) fn of_weights(folder: &Path) -> Result<String, EvalError> {
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

/// Of every setting that changes an answer or a score, and of the questions' own fingerprint. What training does is none of
/// them; which of the others are, each table's pattern says, so that the compiler asks about a new one.
pub(super) fn of_config(config: &Config, questions_hash: &str) -> String {
    // Another format is another model; which one and where it computes has its own fingerprint.
    let ModelConfig { dtype, .. } = &config.model;
    let DataConfig {
        samples,
        kinds,
        assume_kind,
        // A clip that cannot be used gives no answer; whether that stops the evaluation changes none.
        on_bad_video: _,
        // Evaluations ask every question.
        on_bad_question: _,
        // Where things are, in which order they come, and how fast that goes.
        questions: _,
        video_root: _,
        video_strip: _,
        order: _,
        manifest: _,
        cache_mib: _,
        cache_dir: _,
        cache_dir_mib: _,
    } = &config.data;
    let SamplingConfig {
        top_k,
        top_p,
        // Below: evaluations from before there was one have none.
        repetition_penalty: _,
        max_new_tokens,
        // `eval` has its own.
        group_size: _,
        temperature: _,
        // A longer prompt is not answered otherwise, but not at all.
        max_prompt_tokens: _,
        max_rows: _,
        cuda_graph: _,
    } = &config.sampling;
    let EvalConfig {
        benchmark,
        protocol,
        wording,
        template,
        samples: answers,
        temperature,
        clip_bounds,
        subtitles,
        // Its words have a fingerprint of their own.
        protocol_from: _,
        // Stands beside this in the settings, and answers can be read anew.
        extraction: _,
        batch_size: _,
    } = &config.eval;
    let mut sampling = vec![json!(top_k), json!(top_p), json!(max_new_tokens)];
    sampling.extend(
        config
            .sampling
            .repetition_penalty_in_force()
            .map(|penalty| json!(penalty)),
    );
    let deciding = json!({
        "seed": config.seed,
        "dtype": dtype,
        "data": [json!(samples), json!(kinds), json!(assume_kind)],
        "video": config.video,
        "sampling": sampling,
        "eval": [
            json!(benchmark), json!(protocol), json!(wording), json!(template), json!(answers), json!(temperature),
            json!(clip_bounds), json!(subtitles),
        ],
    });
    of_text(&(deciding.to_string() + questions_hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BadVideoPolicy;
    use crate::config::DTypeName;
    use crate::config::QuestionOrder;
    use crate::config::TextAfterVideo;

    #[test]
    fn changed_weights_change_the_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        let mut bytes = vec![7; 200_000];
        std::fs::write(&weights, &bytes).unwrap();
        let before = of_weights(folder.path()).unwrap();
        bytes[199_999] = 8;
        std::fs::write(&weights, &bytes).unwrap();
        assert_ne!(before, of_weights(folder.path()).unwrap());
    }

    #[test]
    fn only_what_changes_an_answer_or_a_score_counts() {
        let plain = of_config(&Config::default(), "q");
        let after = |change: &dyn Fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            of_config(&config, "q")
        };
        assert_ne!(plain, of_config(&Config::default(), "other questions"));
        let counts: [&dyn Fn(&mut Config); 10] = [
            &|config| config.sampling.repetition_penalty = 1.05,
            &|config| config.seed += 1,
            &|config| config.model.dtype = DTypeName::F32,
            &|config| config.data.samples = Some(3),
            &|config| config.video.text_after = TextAfterVideo::Spatial,
            &|config| config.video.max_frames += 2,
            &|config| config.sampling.top_k += 1,
            &|config| config.sampling.max_new_tokens += 1,
            &|config| config.eval.temperature = 0.5,
            &|config| config.eval.template = Some("{question}".into()),
        ];
        for (place, change) in counts.into_iter().enumerate() {
            assert_ne!(plain, after(change), "{place}");
        }
        let counts_not: [&dyn Fn(&mut Config); 11] = [
            &|config| config.output_dir = "elsewhere".into(),
            &|config| config.eval.batch_size += 1,
            &|config| config.sampling.max_rows += 1,
            &|config| config.sampling.group_size += 1,
            &|config| config.data.cache_dir = Some("frames".into()),
            &|config| config.data.on_bad_video = BadVideoPolicy::Skip,
            &|config| config.data.order = QuestionOrder::Trainer,
            &|config| config.data.video_strip = Some("/CLEVRER".into()),
            &|config| config.train.steps += 1,
            &|config| config.kl.token_cap = Some(2.0),
            &|config| config.kl.log_token_ratios = true,
        ];
        for (place, change) in counts_not.into_iter().enumerate() {
            assert_eq!(plain, after(change), "{place}");
        }
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
