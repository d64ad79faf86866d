//! `[model]`: which weights, in what format, and where they are.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder in the Hugging Face layout, or a hub id such as `Qwen/Qwen2.5-VL-3B-Instruct`.
    #[schemars(length(min = 1), extend("errorMessage" = {"minLength": "must be a model folder or a hub id"}))]
    pub(crate) path: String,
    /// The frozen bias model (π_b, the result of stage 1); a folder or hub id. `train-cdpo` only.
    #[schemars(length(min = 1), example = &"runs/clevrer/bias/checkpoints/step-000500", extend("errorMessage" = {"minLength": "must be a model folder or a hub id"}))]
    pub bias_model: Option<String>,
    /// Number format of weights and activations.
    pub(crate) dtype: DTypeName,
    /// `auto`, `cpu`, or `cuda:N`. `auto` is the first GPU of a program built with CUDA, which ends where it cannot use one, and the
    /// CPU of one built without.
    #[schemars(regex(pattern = r"^(auto|cpu|cuda(:[0-9]{1,4})?)$"), example = &"cuda:1", extend("x-mayDiffer" = "machines", "errorMessage" = {"pattern": "must be `auto`, `cpu` or `cuda:N`, where N is a GPU's number from 0"}))]
    pub device: String,
    /// Train the vision tower too (the paper does).
    pub(crate) train_vision: bool,
    /// Where the bias model's layers are kept; its embedding and head are always on the device.
    #[schemars(extend("x-mayDiffer" = "parts"))]
    pub bias_placement: BiasPlacement,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            path: "Qwen/Qwen2.5-VL-3B-Instruct".into(),
            bias_model: None,
            dtype: DTypeName::Bf16,
            device: "auto".into(),
            train_vision: true,
            bias_placement: BiasPlacement::Device,
        }
    }
}

/// Where the layers of the frozen bias model are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BiasPlacement {
    /// On the device, as they are.
    Device,
    /// In host memory; each is copied to the device when its turn comes, while the one before it computes.
    Host,
    /// On the device in 8 bits (blocks of 128 weights with a scale each); each is decoded when its turn comes.
    Int8,
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DTypeName {
    /// bfloat16 (optimizer state stays in f32 precision).
    Bf16,
    /// float32.
    F32,
}

/// The miniature's folder in the sources and the archive; no model of the hub.
const MINIATURE: &str = "data/mini";

/// What to do where a model of this name is not here; begins with a separator, or is empty.
pub(crate) fn where_it_lies(name: &str) -> &'static str {
    if name == MINIATURE {
        "; the miniature lies in the folder data/mini of the sources and of the archive: name its whole path"
    } else {
        ""
    }
}

/// Whether `name` is a hub id such as `Qwen/Qwen2.5-VL-3B-Instruct` and not a path: `owner/name`, nothing of that
/// name here, and no local folder `owner` (a misspelt local path should not go to the network).
pub fn is_hub_id(name: &str) -> bool {
    let owner = name.split('/').next().unwrap_or_default();
    is_hub_name(name) && !Path::new(name).exists() && !Path::new(owner).exists()
}

/// Whether `name` is written as hub ids are: it may be a folder's path, too.
pub(crate) fn is_hub_name(name: &str) -> bool {
    if name == MINIATURE {
        return false;
    }
    let word = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
    };
    // A branch or tag may have a slash in it.
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    match id.split_once('/') {
        Some((owner, model)) => word(owner) && word(model) && revision.split('/').all(word),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        assert!(is_hub_id("Qwen/Qwen2.5-VL-3B-Instruct"));
        assert!(!is_hub_id("src/absent"), "a folder of that name exists");
        assert!(!is_hub_name(MINIATURE));
        assert!(!is_hub_id("./model"));
        assert!(!is_hub_id("/model/x"));
        assert!(!is_hub_id("a/b/c"));
        assert!(!is_hub_id("model"));
    }
}
