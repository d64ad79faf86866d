//! From the names that other programs give the tensors to the hub's, and what names that do not fit mean.

use crate::util::words::counted;
use candle_core::DType;
use std::collections::BTreeSet;

/// What programs put around a module, anywhere in a name.
const WRAPPERS: [&str; 4] = [
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];
/// Models that hold the model.
const HOLDERS: [&str; 4] = ["base_model", "model", "language_model", "thinker"];

/// The hub's name of a tensor that another program may have wrapped into other modules.
pub(super) fn hub_name(stored: &str) -> String {
    let parts = stored.split('.').filter(|part| !WRAPPERS.contains(part));
    let parts: Vec<&str> = parts.skip_while(|part| HOLDERS.contains(part)).collect();
    match parts.first() {
        Some(&("visual" | "lm_head")) => parts.join("."),
        Some(&("embed_tokens" | "layers" | "norm" | "rotary_emb")) => {
            format!("model.{}", parts.join("."))
        }
        _ => stored.to_owned(),
    }
}

/// What stands before a name's part that the hub's name begins with, if it is neither the hub's nor transformers 5's.
pub(super) fn foreign_prefix<'a>(stored: &'a str, hub: &str) -> Option<&'a str> {
    let own = hub.strip_prefix("model.").unwrap_or(hub);
    let begins = own.split('.').next().unwrap_or(own);
    let before = &stored[..stored.find(begins)?];
    let is_usual = match begins {
        "visual" | "lm_head" => {
            ["", "model."].contains(&before) && stored != "model.lm_head.weight"
        }
        _ => ["model.", "model.language_model."].contains(&before),
    };
    let is_wrapped = stored.split('.').any(|part| WRAPPERS.contains(&part));
    (!is_usual || is_wrapped).then_some(if before.is_empty() { stored } else { before })
}

/// Where tensors do not fit, what they look like.
pub(super) struct Misfits<'a> {
    pub(super) missing: &'a [String],
    pub(super) unexpected: &'a [String],
    /// Names of tensors without a value.
    pub(super) empty: &'a [String],
}

impl Misfits<'_> {
    /// Why they do not fit and what to do, where that can be told.
    pub(super) fn cause(&self) -> Option<String> {
        let has = |part: &str| self.unexpected.iter().any(|name| name.contains(part));
        if let Some(name) = self.empty.first() {
            return Some(format!(
                "{} without a value, such as {name}: it was saved from DeepSpeed ZeRO-3 without gathering them. Make the weights of its \
                 checkpoint with zero_to_fp32.py, or save with stage3_gather_16bit_weights_on_model_save",
                counted(self.empty.len(), "tensor")
            ));
        }
        if has(".lora_A.") || has(".base_layer.") || has(".lora_magnitude_vector") {
            return Some(
                "a LoRA adapter is beside the weights and not in them: save what peft's merge_and_unload() gives".into(),
            );
        }
        let quantized = [
            ".qweight",
            ".weight_scale",
            ".weight_packed",
            ".absmax",
            ".quant_state",
            ".SCB",
        ];
        if let Some(part) = quantized.iter().find(|part| has(part)) {
            return Some(format!(
                "the model is quantized ({part}): take the one that it was made from, in bf16, f16 or f32"
            ));
        }
        if has(".self_attn.qkv_proj.") || has(".gate_up_proj.") {
            return Some(
                "projections are joined (qkv_proj, gate_up_proj), as vLLM keeps them in memory: save the model in the hub's layout".into(),
            );
        }
        if has("linear_qkv") || has("linear_fc1") || has("query_key_value") {
            return Some(
                "the names are Megatron's: convert the model into the hub's layout".into(),
            );
        }
        self.of_parts()
    }

    fn of_parts(&self) -> Option<String> {
        if let [only] = self.missing
            && only == "lm_head.weight"
            && self.unexpected.is_empty()
        {
            return Some(
                "there is no head of its own: where the model ties it to the embedding, as the 3B model does, config.json says \
                 \"tie_word_embeddings\": true"
                    .into(),
            );
        }
        let first = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
        let unknown: BTreeSet<String> = self.unexpected.iter().map(first).collect();
        if let [prefix] = Vec::from_iter(unknown).as_slice()
            && self.unexpected.len() > 1
            && !["model", "visual"].contains(&prefix.as_str())
        {
            return Some(format!(
                "every other name begins with `{prefix}.`, which no tensor of Qwen2.5-VL's does"
            ));
        }
        let is_vision = |name: &String| name.starts_with("visual.");
        if !self.missing.is_empty()
            && self.missing.iter().all(is_vision)
            && self.unexpected.is_empty()
        {
            return Some("the vision tower, or a part of it, was not saved".into());
        }
        None
    }
}

/// Whether weights of this format are read.
pub(super) fn is_read(dtype: safetensors::Dtype) -> bool {
    let read = [DType::F16, DType::BF16, DType::F32, DType::F64];
    DType::try_from(dtype).is_ok_and(|dtype| read.contains(&dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_programs_become_the_hubs() {
        for (stored, hub, prefix) in [
            (
                "model.layers.0.mlp.up_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
                None,
            ),
            (
                "model.language_model.norm.weight",
                "model.norm.weight",
                None,
            ),
            (
                "model.visual.merger.ln_q.weight",
                "visual.merger.ln_q.weight",
                None,
            ),
            ("lm_head.weight", "lm_head.weight", None),
            (
                "language_model.model.norm.weight",
                "model.norm.weight",
                Some("language_model.model."),
            ),
            (
                "language_model.lm_head.weight",
                "lm_head.weight",
                Some("language_model."),
            ),
            (
                "base_model.model.model.layers.1.self_attn.q_proj.bias",
                "model.layers.1.self_attn.q_proj.bias",
                Some("base_model.model.model."),
            ),
            (
                "module.visual.merger.ln_q.weight",
                "visual.merger.ln_q.weight",
                Some("module."),
            ),
            (
                "_orig_mod.model.norm.weight",
                "model.norm.weight",
                Some("_orig_mod.model."),
            ),
            (
                "_fsdp_wrapped_module.model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
                Some("_fsdp_wrapped_module.model."),
            ),
            (
                "model.model.embed_tokens.weight",
                "model.embed_tokens.weight",
                Some("model.model."),
            ),
            (
                "thinker.visual.merger.ln_q.weight",
                "visual.merger.ln_q.weight",
                Some("thinker."),
            ),
            (
                "layers.0.mlp.up_proj.weight",
                "model.layers.0.mlp.up_proj.weight",
                Some("layers.0.mlp.up_proj.weight"),
            ),
            ("score.weight", "score.weight", Some("score.weight")),
            (
                "model.layers.0.self_attn.rotary_emb.inv_freq",
                "model.layers.0.self_attn.rotary_emb.inv_freq",
                None,
            ),
        ] {
            assert_eq!(hub_name(stored), hub);
            if stored != "score.weight" {
                assert_eq!(foreign_prefix(stored, hub), prefix, "{stored}");
            }
        }
    }
}
