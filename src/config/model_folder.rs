//! What a folder holds that is no whole model, and how a model is made of it.

use crate::util::file;
use crate::util::json;
use serde_json::Value;
use std::path::Path;

/// Files of torch that a trainer writes beside the weights.
const OF_THE_TRAINER: [&str; 4] = ["optimizer", "scheduler", "rng_state", "training_args"];

/// What is in `folder` in place of a model's weights, and what to do with it; `None` where nothing of it is known.
///
/// The text goes on after the folder's name.
pub(crate) fn instead_of_weights(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    of_a_tuner(folder, &names)
        .or_else(|| of_subfolders(folder, &names))
        .or_else(|| of_a_trainer(&names))
        .or_else(|| of_another_format(&names))
}

/// The same by the names of a repository's files alone.
pub(crate) fn instead_by_names(names: &[String]) -> Option<String> {
    if first(names, |name| name == "adapter_config.json").is_some() {
        return Some(
            "holds an adapter and not the model: merge it with its model (peft's merge_and_unload)"
                .into(),
        );
    }
    of_a_trainer(names).or_else(|| of_another_format(names))
}

fn first(names: &[String], is_it: impl Fn(&str) -> bool) -> Option<&str> {
    names.iter().map(String::as_str).find(|name| is_it(name))
}

/// Whether a file's name ends in one of these.
fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let own = Path::new(name).extension();
    own.is_some_and(|own| extensions.iter().any(|one| own == *one))
}

/// Whose adapter `folder` holds, if it holds one: its kind and the name of the model.
pub(crate) fn adapter(folder: &Path) -> Option<(String, String)> {
    let bytes = file::read(&folder.join("adapter_config.json")).ok()?;
    let config: Value = json::read(&bytes).unwrap_or_default();
    let text = |field: &str| config[field].as_str().filter(|text| !text.is_empty());
    let kind = text("peft_type").unwrap_or("LoRA").replace("LORA", "LoRA");
    let base = text("base_model_name_or_path").unwrap_or("a model that it does not name");
    Some((kind, base.to_owned()))
}

fn of_a_tuner(folder: &Path, names: &[String]) -> Option<String> {
    if let Some((kind, base)) = adapter(folder) {
        return Some(format!(
            "holds a {kind} adapter of {base} and not the model: merge the two (peft: PeftModel.from_pretrained(model, \
             folder).merge_and_unload().save_pretrained(new)), copy the tokenizer's, the processor's and the chat template's files, and name the \
             new folder"
        ));
    }
    if first(names, |name| name.starts_with("model_world_size_")).is_some() {
        return Some(
            "holds the pieces of verl's ranks (model_world_size_*.pt): join them with `python -m verl.model_merger merge \
             --backend fsdp --local_dir FOLDER --target_dir NEW`, and name the new folder"
                .into(),
        );
    }
    first(names, |name| has_extension(name, &["distcp"])).map(|_| {
        "holds the pieces of an FSDP run (.distcp): join them with `accelerate merge-weights FOLDER NEW`, and name the new folder"
            .into()
    })
}

/// Models that lie one or two folders below, as those of a trainer's output folder.
fn of_subfolders(folder: &Path, names: &[String]) -> Option<String> {
    let mut models: Vec<String> = Vec::new();
    for name in names {
        let inner = folder.join(name);
        if holds_model(&inner) {
            models.push(name.clone());
        } else if let Ok(entries) = std::fs::read_dir(&inner) {
            let entries = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let deeper = entries.filter(|deeper| holds_model(&inner.join(deeper)));
            models.extend(deeper.map(|deeper| format!("{name}/{deeper}")));
        }
    }
    models.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    let shown = models.iter().take(3).cloned().collect::<Vec<_>>();
    let more = if models.len() > 3 { ", …" } else { "" };
    (!models.is_empty()).then(|| {
        format!(
            "holds no model itself; its subfolders do: name one of {}{more}",
            shown.join(", ")
        )
    })
}

fn holds_model(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    let is_weights =
        |name: &str| name.starts_with("model") && has_extension(name, &["safetensors"]);
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    folder.join("config.json").is_file() && names.any(|name| is_weights(&name))
}

fn of_a_trainer(names: &[String]) -> Option<String> {
    let is_deepspeed = |name: &str| {
        name == "zero_to_fp32.py"
            || name.starts_with("zero_pp_rank_")
            || name.ends_with("_model_states.pt")
            || name
                .strip_prefix("global_step")
                .is_some_and(|step| step.parse::<u64>().is_ok())
    };
    if first(names, is_deepspeed).is_some() {
        return Some(
            "holds a DeepSpeed checkpoint: make the weights of it with `python zero_to_fp32.py . NEW --safe_serialization`, or save \
             with stage3_gather_16bit_weights_on_model_save, and name the new folder"
                .into(),
        );
    }
    let is_megatron = |name: &str| {
        name == "latest_checkpointed_iteration.txt"
            || name.starts_with("iter_0")
            || name.starts_with("mp_rank_")
    };
    first(names, is_megatron).map(|_| {
        "holds a Megatron checkpoint: convert it into Hugging Face's layout with the program that has written it, and name the new \
         folder"
            .into()
    })
}

fn of_another_format(names: &[String]) -> Option<String> {
    if let Some(name) = first(names, |name| has_extension(name, &["gguf"])) {
        return Some(format!(
            "holds only GGUF, llama.cpp's quantized format ({name}): take the model that it was made from, in safetensors"
        ));
    }
    if let Some(name) = first(names, |name| name.starts_with("consolidated")) {
        return Some(format!(
            "holds only {name}, the layout of the model's authors: take the one in Hugging Face's layout"
        ));
    }
    let is_torch = |name: &str| {
        has_extension(name, &["bin", "pt", "pth", "ckpt"])
            && !OF_THE_TRAINER.iter().any(|other| name.starts_with(other))
    };
    if let Some(name) = first(names, is_torch) {
        return Some(format!(
            "holds the weights only as {name}, in torch's format: convert them (transformers: \
             Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).save_pretrained(new, safe_serialization=True)), copy the \
             tokenizer's and processor's files, and name the new folder"
        ));
    }
    if let Some(name) = first(names, |name| {
        has_extension(name, &["h5", "msgpack", "onnx"])
    }) {
        return Some(format!(
            "holds the weights only as {name}: take or make the model in safetensors"
        ));
    }
    if names.iter().any(|name| name == "model.safetensors") {
        return None;
    }
    first(names, |name| has_extension(name, &["safetensors"])).map(|name| {
        format!(
            "holds {name}, but neither model.safetensors nor model.safetensors.index.json, which says which files belong together: \
             fetch the index too, or give the only file that name"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a folder of these files; a name that ends in `/` is a folder.
    fn said(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            if name.ends_with('/') {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
        }
        instead_of_weights(folder.path()).unwrap_or_default()
    }

    #[test]
    fn each_layout_is_named_with_what_to_do() {
        let lora =
            r#"{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}"#;
        let adapter = said(&[
            ("adapter_config.json", lora),
            ("adapter_model.safetensors", ""),
        ]);
        assert!(
            adapter.contains("LoRA adapter of Qwen/Qwen2.5-VL-3B-Instruct"),
            "{adapter}"
        );
        assert!(adapter.contains("merge_and_unload"), "{adapter}");
        for (files, expected) in [
            (
                vec!["pytorch_model.bin", "training_args.bin"],
                "only as pytorch_model.bin",
            ),
            (vec!["model.pth", "optimizer.pt"], "only as model.pth"),
            (vec!["ggml-q4.gguf", "pytorch_model.bin"], "only GGUF"),
            (vec!["consolidated.00.pth"], "consolidated.00.pth"),
            (vec!["tf_model.h5"], "tf_model.h5"),
            (
                vec!["__0_0.distcp", ".metadata"],
                "accelerate merge-weights",
            ),
            (vec!["model_world_size_8_rank_0.pt"], "verl.model_merger"),
            (
                vec!["global_step500/", "latest", "zero_to_fp32.py"],
                "zero_to_fp32.py . NEW",
            ),
            (
                vec!["zero_pp_rank_0_mp_rank_00_model_states.pt"],
                "DeepSpeed",
            ),
            (
                vec!["latest_checkpointed_iteration.txt", "iter_0000500/"],
                "Megatron",
            ),
            (
                vec!["model-00001-of-00002.safetensors"],
                "fetch the index too",
            ),
            (
                vec![
                    "checkpoint-1000/config.json",
                    "checkpoint-1000/model.safetensors",
                    "checkpoint-500/config.json",
                    "checkpoint-500/model-00001-of-00002.safetensors",
                    "trainer_state.json",
                ],
                "name one of checkpoint-500, checkpoint-1000",
            ),
            (
                vec![
                    "actor/huggingface/config.json",
                    "actor/huggingface/model.safetensors",
                ],
                "name one of actor/huggingface",
            ),
        ] {
            let files: Vec<_> = files.into_iter().map(|name| (name, "")).collect();
            let said = said(&files);
            assert!(said.contains(expected), "{files:?}: {said}");
        }
        assert_eq!(said(&[("optimizer.pt", ""), ("README.md", "")]), "");
        let names = ["config.json", "pytorch_model.bin"].map(str::to_owned);
        let named = instead_by_names(&names).unwrap();
        assert!(named.contains("only as pytorch_model.bin"), "{named}");
    }
}
