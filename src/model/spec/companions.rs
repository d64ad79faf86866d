//! Whether the files beside the weights fit them: the tokenizer's ids, and how frames become patches.

use super::Spec;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::Fields;
use crate::model::config_file::read_json;
use crate::util::file;
use crate::util::json;
use crate::video::patches::MEAN;
use crate::video::patches::STD;
use crate::video::plan::MERGE;
use crate::video::plan::PATCH;
use crate::video::plan::TEMPORAL_PATCH;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// Two numbers that mean the same may be rounded differently.
const ROUNDING: f64 = 1e-4;

/// Checks the tokenizer and the processor's settings of a folder against its `spec`; what is not there is not checked.
///
/// # Errors
/// Names the file, what is in it, and what it should be.
pub(crate) fn check(folder: &Path, spec: &Spec) -> Result<(), CheckpointError> {
    check_sizes(folder, spec)?;
    check_tokenizer(folder, spec)?;
    check_processor(folder)?;
    say_what_is_ignored(folder)
}

/// Tokens with a meaning: their field in config.json, what the tokenizer calls them, their ids.
fn meanings(spec: &Spec) -> [(&'static str, &'static str, u32); 4] {
    let tokens = &spec.tokens;
    [
        (
            "vision_start_token_id",
            "<|vision_start|>",
            tokens.vision_start,
        ),
        ("vision_end_token_id", "<|vision_end|>", tokens.vision_end),
        ("image_token_id", "<|image_pad|>", tokens.image_pad),
        ("video_token_id", "<|video_pad|>", tokens.video_pad),
    ]
}

/// Sizes of patches are the decoder of clips' own, and every id has its row.
fn check_sizes(folder: &Path, spec: &Spec) -> Result<(), CheckpointError> {
    let path = folder.join("config.json");
    let none = Value::Null;
    let (root, vision) = (
        Fields::new(&path, &none, ""),
        Fields::new(&path, &none, "vision_config"),
    );
    for (name, found, wanted) in [
        ("patch_size", spec.vision.patch_size, PATCH),
        (
            "temporal_patch_size",
            spec.vision.temporal_patch_size,
            TEMPORAL_PATCH,
        ),
        ("spatial_merge_size", spec.vision.spatial_merge_size, MERGE),
    ] {
        if found != wanted {
            return Err(vision.bad(name, format!("{found} is not supported, only {wanted}")));
        }
    }
    let rows = spec.text.vocab_size;
    let ends = spec
        .tokens
        .eos
        .iter()
        .map(|id| ("eos_token_id (or that of generation_config.json)", *id));
    let ids = meanings(spec).map(|(field, _, id)| (field, id));
    for (field, id) in ids.into_iter().chain(ends) {
        if id as usize >= rows {
            return Err(root.bad(
                field,
                format!("{id} has no row in the embedding of vocab_size {rows}"),
            ));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Vocabulary,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Vocabulary {
    vocab: LargestId,
}

/// The largest id of a vocabulary, none of whose words is kept.
struct LargestId(Option<u32>);

impl<'de> Deserialize<'de> for LargestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LargestIdVisitor)
    }
}

struct LargestIdVisitor;

impl<'de> Visitor<'de> for LargestIdVisitor {
    type Value = LargestId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LargestId, A::Error> {
        let mut largest = None;
        while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u32>()? {
            largest = largest.max(Some(id));
        }
        Ok(LargestId(largest))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<LargestId, A::Error> {
        let mut largest = None;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            largest = Some(largest.map_or(0, |id| id + 1));
        }
        Ok(LargestId(largest))
    }
}

fn check_tokenizer(folder: &Path, spec: &Spec) -> Result<(), CheckpointError> {
    let path = folder.join("tokenizer.json");
    if !file::exists(&path)? {
        return Ok(());
    }
    let tokenizer: TokenizerFile =
        json::read(&file::read(&path)?).map_err(|error| CheckpointError::Json {
            path: path.clone(),
            reason: error.to_string(),
        })?;
    let added = tokenizer.added_tokens.iter().map(|token| token.id).max();
    let largest = tokenizer.model.vocab.0.max(added);
    let rows = spec.text.vocab_size;
    if let Some(largest) = largest.filter(|id| *id as usize >= rows) {
        return Err(CheckpointError::NotWeights {
            path,
            reason: format!(
                "its largest id is {largest}, and the embedding has only {rows} rows (vocab_size in config.json): it is another model's \
                 tokenizer, or tokens were added without resize_token_embeddings"
            ),
        });
    }
    let config = folder.join("config.json");
    let none = Value::Null;
    for (field, content, id) in meanings(spec) {
        let mut added = tokenizer.added_tokens.iter();
        if let Some(token) = added.find(|token| token.content == content)
            && token.id != id
        {
            return Err(Fields::new(&config, &none, "").bad(
                field,
                format!(
                    "{id}, but the tokenizer's {content} is {}: the tokenizer is another model's, or the field is wrong",
                    token.id
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses settings of the video processor with which the model was trained and that this program does not use.
fn check_processor(folder: &Path) -> Result<(), CheckpointError> {
    // As transformers looks for it.
    for name in [
        "processor_config.json",
        "video_preprocessor_config.json",
        "preprocessor_config.json",
    ] {
        let path = folder.join(name);
        if !file::exists(&path)? {
            continue;
        }
        let root = read_json(&path)?;
        let fields = Fields::new(&path, &root, "");
        let fields = match fields.child("video_processor") {
            Some(inner) => inner,
            None if name == "processor_config.json" => continue,
            None => fields,
        };
        return check_patches(fields);
    }
    Ok(())
}

fn check_patches(fields: Fields) -> Result<(), CheckpointError> {
    let refuse = |name: &str, wanted: String| {
        let found = fields.get(name).map(Value::to_string).unwrap_or_default();
        Err(fields.bad(
            name,
            format!("{found} is not supported, only {wanted}, as Qwen2.5-VL was trained"),
        ))
    };
    for (name, wanted) in [
        ("patch_size", PATCH as f64),
        ("temporal_patch_size", TEMPORAL_PATCH as f64),
        ("merge_size", MERGE as f64),
        ("rescale_factor", 1.0 / 255.0),
    ] {
        let found = fields.get(name).and_then(Value::as_f64);
        if found.is_some_and(|found| (found - wanted).abs() > ROUNDING * wanted) {
            return refuse(name, wanted.to_string());
        }
    }
    for (name, wanted) in [("image_mean", MEAN), ("image_std", STD)] {
        let Some(found) = fields.get(name).and_then(Value::as_array) else {
            continue;
        };
        let is_near = |(found, wanted): (&Value, &f32)| {
            let found = found.as_f64();
            found.is_some_and(|found| (found - f64::from(*wanted)).abs() < ROUNDING)
        };
        if found.len() != wanted.len() || !found.iter().zip(&wanted).all(is_near) {
            return refuse(name, format!("{wanted:?}"));
        }
    }
    for name in ["do_resize", "do_rescale", "do_normalize"] {
        if fields.get(name).and_then(Value::as_bool) == Some(false) {
            return refuse(name, "true".into());
        }
    }
    Ok(())
}

/// What config.json says and training here does otherwise.
fn say_what_is_ignored(folder: &Path) -> Result<(), CheckpointError> {
    let path = folder.join("config.json");
    if !file::exists(&path)? {
        return Ok(());
    }
    let config = read_json(&path)?;
    let text = config.get("text_config").unwrap_or(&config);
    let dropout = text.get("attention_dropout").and_then(Value::as_f64);
    if let Some(dropout) = dropout.filter(|dropout| *dropout > 0.0) {
        tracing::warn!(
            "{}: attention_dropout {dropout} is not used: nothing is dropped in training",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/tiny")
    }

    /// What is said of the golden model (280 rows) with this file beside it.
    fn said(name: &str, content: &Value) -> String {
        let spec = Spec::load(&golden()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        check(folder.path(), &spec).map_or_else(|error| error.to_string(), |()| String::new())
    }

    fn tokenizer(added: &[(u32, &str)], vocab: &Value) -> Value {
        let added = added
            .iter()
            .map(|(id, content)| json!({"id": id, "content": content}));
        json!({"added_tokens": added.collect::<Vec<_>>(), "model": {"type": "BPE", "vocab": vocab}})
    }

    #[test]
    fn a_tokenizer_fits_the_embedding_and_the_ids_of_the_configuration() {
        let words = json!({"a": 0, "b": 272});
        let own = [(276, "<|video_pad|>"), (279, "<|last|>")];
        assert_eq!(said("tokenizer.json", &tokenizer(&own, &words)), "");
        let more = said("tokenizer.json", &tokenizer(&[(280, "<|new|>")], &words));
        assert!(
            more.contains("largest id is 280") && more.contains("only 280 rows"),
            "{more}"
        );
        let larger = said("tokenizer.json", &tokenizer(&[], &json!({"a": 151_700})));
        assert!(larger.contains("largest id is 151700"), "{larger}");
        let listed = said(
            "tokenizer.json",
            &tokenizer(&[], &json!(vec![json!(["a", 0.5]); 300])),
        );
        assert!(listed.contains("largest id is 299"), "{listed}");
        let other = said(
            "tokenizer.json",
            &tokenizer(&[(277, "<|video_pad|>")], &words),
        );
        assert!(
            other.contains("`video_token_id`: 276, but the tokenizer's <|video_pad|> is 277"),
            "{other}"
        );
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7031645\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), pointer).unwrap();
        let spec = Spec::load(&golden()).unwrap();
        let said = check(folder.path(), &spec).unwrap_err().to_string();
        assert!(
            said.contains("tokenizer.json") && said.contains("git lfs pull"),
            "{said}"
        );
    }

    #[test]
    fn settings_of_the_processor_that_are_not_used_are_refused() {
        let published = json!({
            "min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73], "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
            "rescale_factor": 0.003_921_568_627_450_98, "do_normalize": true,
        });
        assert_eq!(said("preprocessor_config.json", &published), "");
        for (name, value) in [
            ("patch_size", json!(16)),
            ("image_mean", json!([0.5, 0.5, 0.5])),
            ("image_std", json!([0.5, 0.5, 0.5])),
            ("do_normalize", json!(false)),
            ("rescale_factor", json!(1)),
        ] {
            let mut other = published.clone();
            other[name] = value;
            for file in ["preprocessor_config.json", "video_preprocessor_config.json"] {
                let said = said(file, &other);
                let place = format!("{file}: field `{name}`");
                assert!(said.contains(&place) && said.contains("only"), "{said}");
            }
            let nested = json!({ "video_processor": other });
            let said = said("processor_config.json", &nested);
            assert!(
                said.contains(&format!("`video_processor.{name}`")),
                "{said}"
            );
        }
    }
}
