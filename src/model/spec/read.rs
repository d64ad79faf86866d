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

/// What this program trains.
const OWN: &str = "qwen2_5_vl";
/// Base of the vision tower's rotary frequencies.
const VISION_THETA: f64 = 10_000.0;

impl Spec {
    /// Reads `config.json` (flat as on the hub, or nested as transformers 5 writes it) and the end-of-turn ids.
    pub fn load(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("config.json");
        let root = read_json(&path)?;
        let config = Fields::new(&path, &root, "");
        check_kind(config)?;
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
        check_attention(text)?;
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
        check_rope(text, root, rope)?;
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
        let theta = vision.child("rope_parameters");
        let theta = theta.and_then(|rope| rope.get("rope_theta")?.as_f64());
        if let Some(theta) = theta.filter(|theta| (theta - VISION_THETA).abs() > 0.0) {
            let reason = format!("rope_theta {theta} is not supported, only {VISION_THETA}");
            return Err(vision.bad("rope_parameters", reason));
        }
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
        if let Some(index) = spec
            .fullatt_block_indexes
            .iter()
            .find(|index| **index >= spec.depth)
            && vision.get("fullatt_block_indexes").is_some()
        {
            let reason = format!("there is no block {index} of {} (depth)", spec.depth);
            return Err(vision.bad("fullatt_block_indexes", reason));
        }
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

/// Refuses another architecture, and weights that were made smaller.
fn check_kind(config: Fields) -> Result<(), CheckpointError> {
    let architecture = config
        .get("architectures")
        .and_then(|names| names[0].as_str());
    let is_own = architecture.is_some_and(|name| name.starts_with("Qwen2_5_VL"));
    match config.text("model_type") {
        Some(OWN) => {}
        None if is_own => {}
        None => return Err(config.missing("model_type")),
        Some(other) => {
            let named = architecture.map_or_else(String::new, |name| format!(" ({name})"));
            return Err(config.bad(
                "model_type",
                format!(
                    "`{other}`{named} is not supported; this program trains `{OWN}`, Qwen2.5-VL"
                ),
            ));
        }
    }
    for fields in [Some(config), config.child("text_config")]
        .into_iter()
        .flatten()
    {
        for name in ["quantization_config", "compression_config"] {
            let Some(how) = fields.child(name) else {
                continue;
            };
            let method = how.text("quant_method").unwrap_or("an unnamed method");
            return Err(fields.bad(
                name,
                format!(
                    "the model is quantized ({method}), which is not supported: take the one that it was made from, in bf16, f16 or f32"
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses layers that do not see the whole prompt.
fn check_attention(text: Fields) -> Result<(), CheckpointError> {
    let layers = text.get("layer_types").and_then(Value::as_array);
    let other = layers
        .into_iter()
        .flatten()
        .find(|kind| *kind != "full_attention");
    match other {
        Some(kind) => Err(text.bad(
            "layer_types",
            format!("{kind} is not supported, only \"full_attention\""),
        )),
        None => Ok(()),
    }
}

/// Refuses rotary positions that are given twice and not alike: transformers 4 and 5 read different ones.
fn check_rope(text: Fields, root: Fields, used: Fields) -> Result<(), CheckpointError> {
    let factor = used.get("factor").and_then(Value::as_f64);
    if let Some(factor) = factor.filter(|factor| (factor - 1.0).abs() > 0.0) {
        return Err(used.bad(
            "factor",
            format!("{factor} stretches the positions, which is not supported: remove it (the published models have none)"),
        ));
    }
    let theta = |fields: Fields| fields.get("rope_theta").and_then(Value::as_f64);
    let Some(own) = theta(used).or_else(|| theta(text)) else {
        return Ok(());
    };
    for holder in [text, root] {
        let others = ["rope_parameters", "rope_scaling"].map(|name| holder.child(name));
        for other in [Some(holder)].into_iter().chain(others).flatten() {
            if let Some(found) = theta(other).filter(|found| (found - own).abs() > 0.0) {
                let reason =
                    format!("{found} here and {own} elsewhere in the file: make them equal");
                return Err(other.bad("rope_theta", reason));
            }
            let (sections, wanted) = (other.get("mrope_section"), used.get("mrope_section"));
            if sections.is_some() && sections != wanted {
                let reason = "another list stands elsewhere in the file: make them equal";
                return Err(other.bad("mrope_section", reason.into()));
            }
        }
    }
    Ok(())
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
    fn what_would_change_the_numbers_and_is_not_computed_is_refused() {
        let message = |change: &dyn Fn(&mut Value)| load_changed(change).unwrap_err().to_string();
        for (said, expected) in [
            (
                message(&|config| {
                    config["quantization_config"] = json!({"quant_method": "awq", "bits": 4});
                }),
                "`quantization_config`: the model is quantized (awq)",
            ),
            (
                message(&|config| {
                    config["model_type"] = json!("llava");
                    config["architectures"] = json!(["LlavaForConditionalGeneration"]);
                }),
                "`llava` (LlavaForConditionalGeneration) is not supported",
            ),
            (
                message(&|config| {
                    config.as_object_mut().unwrap().remove("model_type");
                    config["architectures"] = json!(["Qwen2VLForConditionalGeneration"]);
                }),
                "`model_type` is missing",
            ),
            (
                message(&|config| {
                    config["layer_types"] = json!(["full_attention", "sliding_attention"]);
                }),
                "`layer_types`: \"sliding_attention\" is not supported",
            ),
            (
                message(&|config| config["rope_scaling"]["factor"] = json!(4.0)),
                "`rope_scaling.factor`: 4 stretches",
            ),
            (
                message(&|config| config["rope_scaling"]["rope_theta"] = json!(500.0)),
                "`rope_theta`: 10000 here and 500 elsewhere",
            ),
            (
                message(&|config| {
                    config["rope_parameters"] = json!({"rope_type": "default", "mrope_section": [1, 2, 1], "rope_theta": 10000.0});
                }),
                "`rope_scaling.mrope_section`: another list",
            ),
            (
                message(&|config| {
                    config["vision_config"]["rope_parameters"] = json!({"rope_theta": 20000.0});
                }),
                "`vision_config.rope_parameters`: rope_theta 20000",
            ),
            (
                message(&|config| config["vision_config"]["fullatt_block_indexes"] = json!([1, 4])),
                "there is no block 4 of 4",
            ),
        ] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        // Equal in both places, as transformers 4.5x writes them, is one thing said twice.
        let twice = load_changed(|config| {
            config["rope_parameters"] =
                json!({"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0});
        });
        assert_eq!(
            twice.unwrap().text,
            Spec::load(&golden("tiny")).unwrap().text
        );
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
