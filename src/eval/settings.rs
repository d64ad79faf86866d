//! The conditions of an evaluation: two with equal settings give equal scores.

use super::error::EvalError;
use super::files::read_json;
use super::files::write_json;
use super::fingerprint;
use super::judge::prompt::JudgedBy;
use super::prompt_format::PromptFormat;
use super::protocol::ProtocolFile;
use crate::config::Benchmark;
use crate::config::Config;
use crate::config::Extraction;
use crate::config::VideoConfig;
use crate::data::Dataset;
use crate::data::Question;
use crate::data::answer::AnswerRule;
use crate::util::file;
use crate::util::file::FileError;
use crate::video::decoder_version;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::de::Error as _;
use serde_json::Map;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// Everything that decides about the answers and the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The model as named on the command line.
    pub(crate) model: String,
    /// A fingerprint of its weights, so that a folder with newly trained weights counts as another model.
    pub(crate) weights: String,
    /// The benchmark, where the questions are one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) benchmark: Option<String>,
    /// `authors`, `official`, or `own`: settings of no protocol.
    pub(crate) protocol: String,
    /// Where the protocol's own words were read, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol_file: Option<ProtocolFile>,
    /// Where this departs from the protocol it names, and what of the protocol is unusual.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) remarks: Vec<String>,
    /// The question file.
    pub(crate) questions: PathBuf,
    /// A fingerprint of the questions that are asked.
    pub(crate) questions_hash: String,
    /// How many that are.
    pub(crate) questions_asked: usize,
    /// How many the published benchmark has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) questions_published: Option<usize>,
    /// Which of the file's questions are asked.
    pub(crate) subset: String,
    /// A fingerprint of every setting that changes an answer.
    pub(crate) config_hash: String,
    /// The name of the words around the question.
    pub(crate) wording: String,
    /// Their fingerprint.
    pub(crate) wording_hash: String,
    /// How answers are read.
    pub(crate) extraction: Extraction,
    /// Answers per question.
    pub(crate) samples: usize,
    /// 0 is greedy.
    pub(crate) temperature: f64,
    /// What repeated tokens' logits are divided by; absent where by nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) repetition_penalty: Option<f64>,
    /// Longest answer in tokens.
    pub(crate) max_new_tokens: usize,
    /// Frames, pixels and positions.
    #[serde(deserialize_with = "video_as_it_was")]
    pub(crate) video: VideoConfig,
    /// Whether clips are cut to the part that a question names.
    pub(crate) clip_bounds: bool,
    /// Whether what is said in the clip is shown.
    pub(crate) subtitles: bool,
    /// The libraries that decode.
    pub(crate) decoder: String,
    /// Who has judged the answers, where not a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) judge: Option<JudgedBy>,
}

/// An evaluation that does not say where text went on after a clip is older than that setting: as in transformers 5.
fn video_as_it_was<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VideoConfig, D::Error> {
    let mut fields = Map::deserialize(deserializer)?;
    fields
        .entry("text_after")
        .or_insert_with(|| "spatial".into());
    serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)
}

impl Settings {
    /// The settings of an evaluation of `model`, whose files are in `model_dir`, on the questions of `dataset`.
    pub(crate) fn new(
        config: &Config,
        model: &str,
        model_dir: &Path,
        dataset: &Dataset,
    ) -> Result<Self, EvalError> {
        Self::of(config, model, model_dir, dataset.questions())
    }

    /// The same of these questions.
    pub(super) fn of(
        config: &Config,
        model: &str,
        model_dir: &Path,
        questions: &[Question],
    ) -> Result<Self, EvalError> {
        let eval = &config.eval;
        let questions_hash = fingerprint::of_questions(questions);
        let format = PromptFormat::new(eval)?;
        Ok(Self {
            model: model.to_owned(),
            weights: fingerprint::of_weights(model_dir)?,
            benchmark: eval
                .benchmark
                .map(|benchmark| benchmark.as_str().to_owned()),
            protocol: eval
                .protocol
                .map_or("own", |protocol| protocol.as_str())
                .to_owned(),
            protocol_file: format.file().cloned(),
            remarks: format.remarks(),
            questions: config.data.questions.clone(),
            config_hash: fingerprint::of_config(config, &questions_hash),
            questions_hash,
            questions_asked: questions.len(),
            questions_published: eval.benchmark.and_then(Benchmark::published_questions),
            subset: subset(config),
            wording: format.name(),
            wording_hash: format.hash(),
            extraction: eval.extraction,
            samples: eval.samples,
            temperature: eval.temperature,
            repetition_penalty: config.sampling.repetition_penalty_in_force(),
            max_new_tokens: config.sampling.max_new_tokens,
            video: config.video.clone(),
            clip_bounds: eval.clip_bounds,
            subtitles: eval.subtitles.is_some(),
            decoder: decoder_version(),
            judge: None,
        })
    }

    /// How its answers are read.
    pub(crate) fn rule(&self) -> AnswerRule {
        let named = self.benchmark.as_deref();
        AnswerRule {
            extraction: self.extraction,
            benchmark: named.and_then(Benchmark::named),
        }
    }

    /// What makes scores of `self` and `other` incomparable: each setting that differs, with both values.
    pub(crate) fn differences(&self, other: &Self) -> Result<Vec<String>, EvalError> {
        let deciding = |settings: &Self| -> Result<Map<String, Value>, EvalError> {
            let mut fields = settings.fields()?;
            fields.retain(|name, _| COMPARED.contains(&name.as_str()));
            Ok(fields)
        };
        Ok(differing("", &deciding(self)?, &deciding(other)?))
    }

    fn fields(&self) -> Result<Map<String, Value>, EvalError> {
        serde_json::to_value(self)
            .and_then(serde_json::from_value)
            .map_err(|error| EvalError::Json {
                path: "settings.json".into(),
                reason: error.to_string(),
            })
    }

    /// Reads the settings of the evaluation in a folder.
    pub(crate) fn read(out: &Path) -> Result<Self, EvalError> {
        read_json(&out.join("settings.json"))
    }

    /// Makes the folder, or checks that its answers were given under the same conditions.
    pub(super) fn open_folder(&self, out: &Path) -> Result<(), EvalError> {
        file::create_folders(out)?;
        let path = out.join("settings.json");
        // Stopped before the first answer, nothing was answered under any conditions.
        if path.exists() && !has_answers(out)? {
            return write_json(&path, self);
        }
        if !path.exists() {
            if out.join("outputs.jsonl").exists() {
                return Err(EvalError::OtherSettings {
                    path: out.to_owned(),
                    differences: vec!["settings.json is missing".into()],
                });
            }
            return write_json(&path, self);
        }
        let mut differences = differing("", &read_json(&path)?, &self.fields()?);
        // It differs whenever another setting does, and says less.
        if differences.len() > 1 {
            differences.retain(|difference| !difference.starts_with("config_hash "));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(EvalError::OtherSettings {
            path: out.to_owned(),
            differences,
        })
    }
}

/// Whether an answer stands in the folder, one process's or all of a shard's.
fn has_answers(out: &Path) -> Result<bool, EvalError> {
    let failed = |error| FileError::reading(out, error);
    for entry in std::fs::read_dir(out).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_log =
            name == "outputs.jsonl" || name.starts_with("outputs-") && name.ends_with(".jsonl");
        if is_log && entry.metadata().map_err(failed)?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(out.join("scores.json").exists())
}

/// The settings that two evaluations must have in common to be compared.
const COMPARED: [&str; 14] = [
    "protocol",
    "benchmark",
    "questions_hash",
    "subset",
    "wording_hash",
    "extraction",
    "samples",
    "temperature",
    "max_new_tokens",
    "video",
    "clip_bounds",
    "subtitles",
    "decoder",
    "judge",
];

/// Each field of `second` that `first` has not or has otherwise, and the other way round: `video.max_frames (8 / 10)`.
fn differing(prefix: &str, first: &Map<String, Value>, second: &Map<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        let pair = (
            first.get(name).unwrap_or(&Value::Null),
            second.get(name).unwrap_or(&Value::Null),
        );
        let name = format!("{prefix}{name}");
        match pair {
            (Value::Object(one), Value::Object(other)) => {
                differences.extend(differing(&format!("{name}."), one, other));
            }
            (one, other) if one == other => {}
            (one, other) => differences.push(format!("{name} ({} / {})", shown(one), shown(other))),
        }
    }
    differences
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Which of the file's questions are asked, in words.
fn subset(config: &Config) -> String {
    let data = &config.data;
    let kinds: Vec<&str> = data.kinds.iter().map(|kind| kind.as_str()).collect();
    let mut text = match kinds.as_slice() {
        [] => "all".to_owned(),
        kinds => kinds.join(" and "),
    };
    if let Some(samples) = data.samples {
        text.push_str(&format!(", {samples} drawn with seed {}", config.seed));
    }
    text
}
