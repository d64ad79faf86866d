//! Reading a [`Spec`] from a checkpoint's folder.

use super::IN_CHANNELS;
use super::Spec;
use super::SpecialTokens;
use super::TextSpec;
use super::VisionSpec;
use crate::model::checkpoint_error::CheckpointError;
use crate::model::config_file::Fields;
use crate::model::config_file::read_json;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

impl Spec {
    /// Reads `config.json` (flat as on the hub, or nested as transformers 5 writes it) and the end-of-turn ids.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("config.json");
        let root = read_json(&path)?;
        let config = Fields::new(&path, &root, "");
        let model_type = config.text("model_type").unwrap_or("qwen2_5_vl");
        if model_type != "qwen2_5_vl" {
            return Err(config.bad(
                "model_type",
                format!("`{model_type}` is not supported; this program trains `qwen2_5_vl`"),
            ));
        }
        let text = config.child("text_config").unwrap_or(config);
        let vision = config
            .child("vision_config")
            .ok_or_else(|| config.missing("vision_config"))?;
        let tie_word_embeddings = [config, text]
            .iter()
            .any(|fields| fields.get("tie_word_embeddings").and_then(Value::as_bool) == Some(true));
        let spec = Self {
            text: TextSpec::read(text, config)?,
            vision: VisionSpec::read(vision)?,
            tokens: SpecialTokens::read(folder, text, config)?,
            tie_word_embeddings,
        };
        if spec.vision.out_hidden_size != spec.text.hidden_size {
            return Err(vision.bad(
                "out_hidden_size",
                format!(
                    "{} must equal the decoder's hidden_size {}",
                    spec.vision.out_hidden_size, spec.text.hidden_size
                ),
            ));
        }
        Ok(spec)
    }
}

impl TextSpec {
    fn read(text: Fields, root: Fields) -> Result<Self, CheckpointError> {
        check_activation(text)?;
        if text.get("use_sliding_window").and_then(Value::as_bool) == Some(true) {
            return Err(text.bad(
                "use_sliding_window",
                "sliding-window attention is not supported".into(),
            ));
        }
        let rope = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|name| text.child(name).or_else(|| root.child(name)))
            .ok_or_else(|| text.missing("rope_scaling"))?;
        let kind = rope
            .text("rope_type")
            .or_else(|| rope.text("type"))
            .unwrap_or("default");
        if !["default", "mrope"].contains(&kind) {
            return Err(rope.bad(
                "type",
                format!("`{kind}` is not supported, only `mrope` and `default`"),
            ));
        }
        let sections = rope.sizes("mrope_section")?;
        let mrope_section: [usize; 3] = sections
            .as_slice()
            .try_into()
            .map_err(|_| rope.bad("mrope_section", "must hold three numbers".into()))?;
        let spec = Self {
            hidden_size: text.size("hidden_size")?,
            num_layers: text.size("num_hidden_layers")?,
            num_heads: text.size("num_attention_heads")?,
            num_kv_heads: text.size("num_key_value_heads")?,
            intermediate_size: text.size("intermediate_size")?,
            vocab_size: text.size("vocab_size")?,
            rope_theta: match rope.get("rope_theta").and_then(Value::as_f64) {
                Some(theta) => theta,
                None => text.number("rope_theta")?,
            },
            rms_norm_eps: text.number("rms_norm_eps")?,
            mrope_section,
        };
        check_heads(text, spec.hidden_size, spec.num_heads)?;
        if !spec.num_heads.is_multiple_of(spec.num_kv_heads) {
            return Err(text.bad(
                "num_key_value_heads",
                format!(
                    "{} heads cannot share {}",
                    spec.num_heads, spec.num_kv_heads
                ),
            ));
        }
        if mrope_section.iter().sum::<usize>() * 2 != spec.head_dim() {
            return Err(rope.bad(
                "mrope_section",
                format!("{mrope_section:?} must add up to {}", spec.head_dim() / 2),
            ));
        }
        Ok(spec)
    }
}

impl VisionSpec {
    /// Where a field is absent, transformers' default (its 4.x saves leave defaults out).
    fn read(vision: Fields) -> Result<Self, CheckpointError> {
        check_activation(vision)?;
        for name in ["in_chans", "in_channels"] {
            if vision.size_or(name, IN_CHANNELS)? != IN_CHANNELS {
                return Err(vision.bad(name, format!("only {IN_CHANNELS} is supported")));
            }
        }
        let fullatt_block_indexes = match vision.get("fullatt_block_indexes") {
            Some(_) => vision.sizes("fullatt_block_indexes")?,
            None => vec![7, 15, 23, 31],
        };
        let spec = Self {
            depth: vision.size_or("depth", 32)?,
            hidden_size: vision.size_or("hidden_size", 3584)?,
            num_heads: vision.size_or("num_heads", 16)?,
            intermediate_size: vision.size_or("intermediate_size", 3420)?,
            patch_size: vision.size_or("patch_size", 14)?,
            temporal_patch_size: vision.size_or("temporal_patch_size", 2)?,
            spatial_merge_size: vision.size_or("spatial_merge_size", 2)?,
            window_size: vision.size_or("window_size", 112)?,
            fullatt_block_indexes,
            out_hidden_size: vision.size_or("out_hidden_size", 3584)?,
            tokens_per_second: match vision.get("tokens_per_second") {
                Some(_) => vision.number("tokens_per_second")?,
                None => 4.0,
            },
        };
        check_heads(vision, spec.hidden_size, spec.num_heads)?;
        if !(spec.hidden_size / spec.num_heads).is_multiple_of(4) {
            return Err(vision.bad(
                "num_heads",
                "a head's width must be a multiple of 4 (rows and columns turn a half each)".into(),
            ));
        }
        if spec.window_size / spec.patch_size / spec.spatial_merge_size == 0 {
            return Err(vision.bad(
                "window_size",
                format!(
                    "{} holds no merged token of {} pixels",
                    spec.window_size,
                    spec.patch_size * spec.spatial_merge_size
                ),
            ));
        }
        Ok(spec)
    }
}

impl SpecialTokens {
    fn read(folder: &Path, text: Fields, root: Fields) -> Result<Self, CheckpointError> {
        let id = |name: &str| -> Result<Option<u32>, CheckpointError> {
            [root, text]
                .iter()
                .find(|fields| fields.get(name).is_some_and(|value| !value.is_null()))
                .map(|fields| fields.id(name))
                .transpose()
        };
        let required = |name: &str| id(name)?.ok_or_else(|| root.missing(name));
        let generation_path = folder.join("generation_config.json");
        let generation = if generation_path.exists() {
            read_json(&generation_path)?
        } else {
            Value::Null
        };
        let generation = Fields::new(&generation_path, &generation, "");
        let named = added_tokens(folder)?;
        let mut eos = match generation.get("eos_token_id") {
            Some(_) => generation.ids("eos_token_id")?,
            None => match id("eos_token_id") {
                Ok(Some(eos)) => vec![eos],
                _ => ["<|im_end|>", "<|endoftext|>"]
                    .iter()
                    .filter_map(|name| named.get(*name).copied())
                    .collect(),
            },
        };
        if let Some(end) = named.get("<|im_end|>")
            && let Some(place) = eos.iter().position(|id| id == end)
        {
            eos[..=place].rotate_right(1);
        }
        if eos.is_empty() {
            return Err(root.missing("eos_token_id"));
        }
        let pad = match generation.get("pad_token_id") {
            Some(_) => generation.id("pad_token_id")?,
            None => id("pad_token_id")?
                .or_else(|| named.get("<|endoftext|>").copied())
                .map_or_else(|| required("bos_token_id"), Ok)?,
        };
        Ok(Self {
            vision_start: required("vision_start_token_id")?,
            vision_end: required("vision_end_token_id")?,
            image_pad: required("image_token_id")?,
            video_pad: required("video_token_id")?,
            eos,
            pad,
        })
    }
}

/// Content → id of the tokenizer's added tokens; empty when the folder has no tokenizer.
fn added_tokens(folder: &Path) -> Result<BTreeMap<String, u32>, CheckpointError> {
    let mut tokens = BTreeMap::new();
    let config = folder.join("tokenizer_config.json");
    if config.exists() {
        let config = read_json(&config)?;
        let entries = config
            .get("added_tokens_decoder")
            .and_then(Value::as_object);
        for (id, token) in entries.into_iter().flatten() {
            if let (Ok(id), Some(content)) = (id.parse(), token["content"].as_str()) {
                tokens.insert(content.to_owned(), id);
            }
        }
    }
    let tokenizer = folder.join("tokenizer.json");
    if tokens.is_empty() && tokenizer.exists() {
        let tokenizer = read_json(&tokenizer)?;
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            if let (Some(id), Some(content)) = (token["id"].as_u64(), token["content"].as_str()) {
                tokens.insert(content.to_owned(), id as u32);
            }
        }
    }
    Ok(tokens)
}

fn check_activation(fields: Fields) -> Result<(), CheckpointError> {
    match fields.text("hidden_act") {
        None | Some("silu") => Ok(()),
        Some(other) => Err(fields.bad(
            "hidden_act",
            format!("`{other}` is not supported, only `silu`"),
        )),
    }
}

fn check_heads(fields: Fields, hidden: usize, heads: usize) -> Result<(), CheckpointError> {
    if !hidden.is_multiple_of(heads) {
        return Err(fields.bad(
            "hidden_size",
            format!("{hidden} is not a multiple of {heads} heads"),
        ));
    }
    match fields.get("head_dim").and_then(Value::as_u64) {
        Some(width) if width as usize != hidden / heads => Err(fields.bad(
            "head_dim",
            format!(
                "{width} must equal hidden_size / heads = {}",
                hidden / heads
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/model")
            .join(name)
    }

    /// Loads the golden configuration after `change`.
    fn load_changed(change: impl FnOnce(&mut Value)) -> Result<Spec, CheckpointError> {
        let mut config = read_json(&golden("tiny/config.json"))?;
        change(&mut config);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Spec::load(folder.path())
    }

    #[test]
    fn flat_and_nested_forms_say_the_same() {
        let flat = Spec::load(&golden("tiny")).unwrap();
        let mut nested = Spec::load(&golden("bias")).unwrap();
        // transformers kept only the first end-of-turn id in that folder's generation_config.json.
        assert_eq!(nested.tokens.eos, [272]);
        nested.tokens.eos = vec![272, 270];
        assert_eq!(flat, nested);
        assert_eq!(flat.text.mrope_section, [2, 1, 1]);
        assert_eq!(flat.tokens.eos, [272, 270]);
        assert_eq!(flat.vision.fullatt_block_indexes, [1, 3]);
        assert!(flat.tie_word_embeddings);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let spec = Spec::load(&golden("tiny")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, value: Value| {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        };
        write("config.json", spec.to_config_json("float32"));
        write("generation_config.json", spec.to_generation_json());
        assert_eq!(Spec::load(folder.path()).unwrap(), spec);
    }

    #[test]
    fn errors_name_file_and_field() {
        let message = |change: &dyn Fn(&mut Value)| load_changed(change).unwrap_err().to_string();
        let missing = message(&|config| {
            config.as_object_mut().unwrap().remove("hidden_size");
        });
        assert!(
            missing.contains("config.json: field `hidden_size` is missing"),
            "{missing}"
        );
        let negative = message(&|config| config["vision_config"]["depth"] = json!(-1));
        assert!(negative.contains("`vision_config.depth`: -1"), "{negative}");
        let rope = message(&|config| config["rope_scaling"]["type"] = json!("yarn"));
        assert!(rope.contains("`rope_scaling.type`: `yarn`"), "{rope}");
        let sections =
            message(&|config| config["rope_scaling"]["mrope_section"] = json!([2, 2, 2]));
        assert!(sections.contains("must add up to 4"), "{sections}");
        let other = message(&|config| config["model_type"] = json!("qwen3_vl"));
        assert!(other.contains("qwen3_vl"), "{other}");
        let absurd = message(&|config| config["intermediate_size"] = json!(1_u64 << 40));
        assert!(absurd.contains("is more than 1048576"), "{absurd}");
        let heads = message(&|config| config["num_key_value_heads"] = json!(3));
        assert!(heads.contains("cannot share"), "{heads}");
    }

    #[test]
    fn end_of_turn_ids_come_from_the_tokenizer_when_nothing_else_names_them() {
        let mut config = read_json(&golden("tiny/config.json")).unwrap();
        for name in ["eos_token_id", "pad_token_id"] {
            config.as_object_mut().unwrap().remove(name);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let tokenizer = json!({ "added_tokens": [
            { "id": 270, "content": "<|endoftext|>" }, { "id": 272, "content": "<|im_end|>" } ] });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let tokens = Spec::load(folder.path()).unwrap().tokens;
        assert_eq!((tokens.eos, tokens.pad), (vec![272, 270], 270));
        let generation = json!({ "eos_token_id": [270, 272], "pad_token_id": 270 });
        std::fs::write(
            folder.path().join("generation_config.json"),
            generation.to_string(),
        )
        .unwrap();
        assert_eq!(Spec::load(folder.path()).unwrap().tokens.eos, [272, 270]);
    }
}
