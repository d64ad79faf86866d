//! Trains a small byte-level BPE with Qwen2's rules and writes the text half of a model folder.

use super::PromptError;
use super::tokenizer::{END_OF_TEXT, IM_END};
use crate::util::atomic;
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// How Qwen2 cuts text into words before merging (its `PRETOKENIZE_REGEX`).
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen2.5-VL's added tokens in the order of their ids, and whether each counts as special.
const ADDED_TOKENS: [(&str, bool); 22] = [
    (END_OF_TEXT, true),
    ("<|im_start|>", true),
    (IM_END, true),
    ("<|object_ref_start|>", true),
    ("<|object_ref_end|>", true),
    ("<|box_start|>", true),
    ("<|box_end|>", true),
    ("<|quad_start|>", true),
    ("<|quad_end|>", true),
    ("<|vision_start|>", true),
    ("<|vision_end|>", true),
    ("<|vision_pad|>", true),
    ("<|image_pad|>", true),
    ("<|video_pad|>", true),
    ("<tool_call>", false),
    ("</tool_call>", false),
    ("<|fim_prefix|>", false),
    ("<|fim_middle|>", false),
    ("<|fim_suffix|>", false),
    ("<|fim_pad|>", false),
    ("<|repo_name|>", false),
    ("<|file_sep|>", false),
];

/// Renders what Qwen2.5-VL's template renders for text, image and video parts.
const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

/// Trains a tokenizer of `vocab_size` ids (added tokens included, as the last ids) on `corpus` and writes it to `dir`
/// with the tokenizer, processor and generation settings that transformers reads. Equal input gives equal files.
pub fn train_bpe(
    corpus: impl Iterator<Item = String> + Send,
    vocab_size: usize,
    dir: &Path,
) -> Result<(), PromptError> {
    let tokenizer = fit(corpus, vocab_size.saturating_sub(ADDED_TOKENS.len()))
        .map_err(|error| PromptError::Tokenizer(error.to_string()))?;
    let text = tokenizer
        .to_string(true)
        .map_err(|error| PromptError::Tokenizer(error.to_string()))?;
    write(&dir.join("tokenizer.json"), &text)?;
    for (name, value) in settings(&tokenizer)? {
        write(&dir.join(name), &format!("{value:#}"))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), PromptError> {
    Ok(atomic::write(path, text.as_bytes())?)
}

fn fit(
    corpus: impl Iterator<Item = String> + Send,
    merged_size: usize,
) -> tokenizers::Result<Tokenizer> {
    let bytes = |use_regex| ByteLevel::new(false, false, use_regex);
    let words = Split::new(
        SplitPattern::Regex(WORDS.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )?;
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_normalizer(Some(NFC))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::from(words),
        PreTokenizerWrapper::from(bytes(false)),
    ])));
    tokenizer.with_post_processor(Some(bytes(false)));
    tokenizer.with_decoder(Some(bytes(false)));
    let trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .min_frequency(2)
        .vocab_size(merged_size)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), corpus)?;
    for (content, special) in ADDED_TOKENS {
        tokenizer.add_tokens([AddedToken::from(content, special).normalized(false)])?;
    }
    Ok(tokenizer)
}

/// The JSON files beside `tokenizer.json`, with the hub's names and keys.
fn settings(tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Value)>, PromptError> {
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| PromptError::Tokenizer(format!("`{token}` was not added")))
    };
    let mut decoder = serde_json::Map::new();
    for (content, special) in ADDED_TOKENS {
        let entry = json!({
            "content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
            "special": special,
        });
        decoder.insert(id(content)?.to_string(), entry);
    }
    let special: Vec<&str> = ADDED_TOKENS[1..]
        .iter()
        .filter_map(|(content, special)| special.then_some(*content))
        .collect();
    let tokenizer_config = json!({
        "add_bos_token": false, "add_prefix_space": false, "added_tokens_decoder": decoder,
        "additional_special_tokens": special, "bos_token": null, "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false, "eos_token": IM_END, "errors": "replace",
        "model_max_length": 131_072, "pad_token": END_OF_TEXT, "processor_class": "Qwen2_5_VLProcessor",
        "split_special_tokens": false, "tokenizer_class": "Qwen2Tokenizer", "unk_token": null,
    });
    let pixels = json!({
        "min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "image_mean": [0.481_454_66, 0.457_827_5, 0.408_210_73],
        "image_std": [0.268_629_54, 0.261_302_58, 0.275_777_11],
        "processor_class": "Qwen2_5_VLProcessor",
    });
    let with = |key: &str, name: &str| {
        let mut settings = pixels.clone();
        settings[key] = json!(name);
        settings
    };
    Ok(vec![
        ("tokenizer_config.json", tokenizer_config),
        (
            "chat_template.json",
            json!({ "chat_template": CHAT_TEMPLATE }),
        ),
        (
            "preprocessor_config.json",
            with("image_processor_type", "Qwen2VLImageProcessor"),
        ),
        (
            "video_preprocessor_config.json",
            with("video_processor_type", "Qwen2VLVideoProcessor"),
        ),
        (
            "generation_config.json",
            json!({
                "bos_token_id": id(END_OF_TEXT)?, "pad_token_id": id(END_OF_TEXT)?,
                "eos_token_id": [id(IM_END)?, id(END_OF_TEXT)?], "do_sample": true, "temperature": 1.0,
            }),
        ),
    ])
}
