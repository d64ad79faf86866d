//! The miniature model before it has learnt anything: its sizes, its tokenizer, its random weights.

use crate::config::Wording;
use crate::model::export::save;
use crate::model::export::write_json;
use crate::model::spec::Spec;
use crate::model::spec::SpecialTokens;
use crate::model::spec::TextSpec;
use crate::model::spec::VisionSpec;
use crate::model::weights::init_weights;
use crate::prompt::template::question_text;
use crate::prompt::tokenizer::END_OF_TEXT;
use crate::prompt::tokenizer::TextTokenizer;
use crate::prompt::train::train_bpe;
use crate::util::atomic;
use crate::util::file;
use anyhow::Result;
use candle_core::DType;
use candle_core::Device;
use std::path::Path;

/// At most so many token ids: enough for every word of the miniature world to be one token.
const VOCABULARY: usize = 768;
/// Standard deviation of the embedding's initial values.
const EMBEDDING_STD: f64 = 0.05;
/// What the label of a video token says where no object is: one token, like the words of the worked answers.
const EMPTY_CELL: &str = "object nothing object nothing";
/// What the chat template adds around every question.
const CHAT_WORDS: &str = "system\nYou are a helpful assistant.\nuser\nassistant\n";

/// The miniature network around a tokenizer: Qwen2.5-VL with every part of the real one, about 1.3 M parameters.
///
/// The rotary base is small because the miniature's prompts are short: its slowest axis, the columns, still turns
/// visibly, and enough frequencies are slow over a hundred tokens to look words up by content. (At 20 the columns are
/// told apart best, but no head ever finds the option that names an event.)
fn miniature_spec(tokens: SpecialTokens, vocab_size: usize) -> Spec {
    Spec {
        text: TextSpec {
            hidden_size: 128,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            intermediate_size: 384,
            vocab_size,
            rope_theta: 1000.0,
            rms_norm_eps: 1e-6,
            mrope_section: [4, 6, 6],
        },
        vision: VisionSpec {
            depth: 2,
            hidden_size: 96,
            num_heads: 3,
            intermediate_size: 192,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            window_size: 112,
            fullatt_block_indexes: vec![1],
            out_hidden_size: 128,
            tokens_per_second: 2.0,
        },
        tokens,
        tie_word_embeddings: true,
    }
}

/// Trains a tokenizer on `corpus` and writes an untrained miniature model to `folder`, in the hub's layout.
///
/// Equal corpus and seed give equal files.
pub fn write_untrained(
    folder: &Path,
    corpus: impl Iterator<Item = String> + Send,
    seed: u64,
) -> Result<()> {
    let tokenizer = write_tokenizer(folder, corpus)?;
    let spec = miniature_spec(special_tokens(&tokenizer)?, tokenizer.vocab_size());
    let weights = init_weights(&spec, EMBEDDING_STD, seed, DType::F32, &Device::Cpu)?;
    save(&weights, folder, u64::MAX)?;
    // Last: a folder that has it is a whole model.
    write_json(&folder.join("config.json"), &spec.to_config_json("float32"))?;
    Ok(())
}

/// Trains a tokenizer on `corpus` and the chat's own words, and writes it with the processor's files to `folder`.
pub(super) fn write_tokenizer(
    folder: &Path,
    corpus: impl Iterator<Item = String> + Send,
) -> Result<TextTokenizer> {
    file::create_folders(folder)?;
    atomic::remove_unfinished(folder)?;
    // Twice, because a pair of tokens that stands only once in the corpus is not merged.
    let around = [
        CHAT_WORDS.to_owned(),
        EMPTY_CELL.to_owned(),
        question_text("", Wording::Training),
        question_text("", Wording::Evaluation),
    ];
    let around = around.clone().into_iter().chain(around);
    train_bpe(corpus.chain(around), VOCABULARY, folder)?;
    Ok(TextTokenizer::load(folder)?)
}

/// The ids a network is told about, as `tokenizer` has them.
pub(super) fn special_tokens(tokenizer: &TextTokenizer) -> Result<SpecialTokens> {
    Ok(SpecialTokens {
        vision_start: tokenizer.id("<|vision_start|>")?,
        vision_end: tokenizer.id("<|vision_end|>")?,
        image_pad: tokenizer.id("<|image_pad|>")?,
        video_pad: tokenizer.id("<|video_pad|>")?,
        eos: tokenizer.eos_ids().to_vec(),
        pad: tokenizer.id(END_OF_TEXT)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::load;
    use crate::prompt::Processor;

    fn write(folder: &Path, seed: u64) {
        let corpus = ["What will happen without the red cube?"; 4];
        write_untrained(folder, corpus.into_iter().map(str::to_owned), seed).unwrap();
    }

    fn file(folder: &Path, name: &str) -> Vec<u8> {
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn the_folder_loads_and_depends_only_on_corpus_and_seed() {
        let [a, b, c] = [0; 3].map(|_| tempfile::tempdir().unwrap());
        write(a.path(), 7);
        write(b.path(), 7);
        write(c.path(), 8);
        for name in ["model.safetensors", "tokenizer.json", "config.json"] {
            assert!(file(a.path(), name) == file(b.path(), name), "{name}");
        }
        let weights = "model.safetensors";
        assert!(file(a.path(), weights) != file(c.path(), weights));

        let spec = Spec::load(a.path()).unwrap();
        let tensors = load(a.path(), &spec, DType::F32, &Device::Cpu).unwrap();
        assert!((1_000_000..2_000_000).contains(&tensors.num_values()));
        let prompt = Processor::load(a.path())
            .unwrap()
            .prompt("What will happen?", Wording::Training, None)
            .unwrap();
        let empty = Processor::load(a.path()).unwrap().encode(" nothing");
        assert_eq!(empty.unwrap().len(), 1);
        assert!(prompt.token_ids.len() < 70, "{}", prompt.token_ids.len());
        assert!(
            prompt
                .token_ids
                .iter()
                .all(|id| (*id as usize) < spec.text.vocab_size)
        );
    }
}
