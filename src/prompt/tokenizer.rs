//! Text to token ids and back, and the ids that have a meaning of their own.

use super::PromptError;
use crate::util::file::FileError;
use crate::util::json;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// Stands for one merged patch of a clip.
pub(crate) const VIDEO_PAD: &str = "<|video_pad|>";
/// Ends a turn of the chat.
pub(crate) const IM_END: &str = "<|im_end|>";
/// Ends a document; Qwen's padding token.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// Tokens a video prompt cannot do without.
const REQUIRED: [&str; 4] = ["<|vision_start|>", "<|vision_end|>", VIDEO_PAD, IM_END];
/// Tokens that mean something only in a prompt, or nothing at all.
const NEVER_SAMPLED: [&str; 6] = [
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    VIDEO_PAD,
    "<|fim_pad|>",
];

/// The model's tokenizer with the ids that matter looked up by name.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    eos_ids: Vec<u32>,
    banned_ids: Vec<u32>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, and from `generation_config.json` and `tokenizer_config.json` which ids end a turn and pad.
    pub(crate) fn load(model_dir: &Path) -> Result<Self, PromptError> {
        let path = model_dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(PromptError::Missing {
                path,
                wanted: "tokenizer.json",
            });
        }
        let tokenizer = Tokenizer::from_file(&path).map_err(|error| PromptError::Unusable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let mut this = Self {
            tokenizer,
            path,
            eos_ids: Vec::new(),
            banned_ids: Vec::new(),
        };
        for token in REQUIRED {
            this.id(token)?;
        }
        this.eos_ids = this.find_eos(model_dir)?;
        this.banned_ids = this.find_banned(model_dir)?;
        Ok(this)
    }

    /// The id of a token that must exist.
    pub fn id(&self, token: &str) -> Result<u32, PromptError> {
        self.tokenizer
            .token_to_id(token)
            .ok_or_else(|| PromptError::NoToken {
                token: token.to_owned(),
                path: self.path.clone(),
            })
    }

    /// Token ids of `text`; special tokens written out in it become their ids.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| PromptError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids` without special tokens.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, PromptError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| PromptError::Tokenizer(error.to_string()))
    }

    /// The text of each of `ids`, of which one that ends a turn is the last: joined, their text without special tokens, and
    /// the name of that one. A character that several tokens make up is the last one's.
    pub(crate) fn token_texts(&self, ids: &[u32]) -> Result<Vec<String>, PromptError> {
        let ends = ids.iter().position(|id| self.eos_ids.contains(id));
        let (written, end) = ids.split_at(ends.unwrap_or(ids.len()));
        let mut stream = TextStream::new(self);
        let texts = written.iter().map(|id| stream.push(*id));
        let mut texts = texts.collect::<Result<Vec<_>, _>>()?;
        if let Some(last) = texts.last_mut() {
            last.push_str(&stream.rest()?);
        }
        let names = end.iter().map(|id| self.tokenizer.id_to_token(*id));
        texts.extend(names.map(Option::unwrap_or_default));
        Ok(texts)
    }

    /// Ids that end a turn, the chat's own first.
    pub(crate) fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Ids that are never sampled, ascending.
    pub(crate) fn banned_ids(&self) -> &[u32] {
        &self.banned_ids
    }

    /// Ids the tokenizer knows, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    fn find_eos(&self, model_dir: &Path) -> Result<Vec<u32>, PromptError> {
        let im_end = self.id(IM_END)?;
        let mut ids: Vec<u32> = match read_json(&model_dir.join("generation_config.json"))?
            .map(|c| c["eos_token_id"].clone())
        {
            Some(Value::Number(id)) => id.as_u64().map(|id| id as u32).into_iter().collect(),
            Some(Value::Array(ids)) => ids
                .iter()
                .filter_map(|id| id.as_u64().map(|id| id as u32))
                .collect(),
            _ => Vec::new(),
        };
        ids.retain(|id| *id != im_end);
        ids.insert(0, im_end);
        Ok(ids)
    }

    fn find_banned(&self, model_dir: &Path) -> Result<Vec<u32>, PromptError> {
        let config = read_json(&model_dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let pad = &config["pad_token"];
        let pad = pad
            .as_str()
            .or_else(|| pad["content"].as_str())
            .unwrap_or(END_OF_TEXT);
        let end_of_turn = self.eos_ids[0];
        let mut ids: Vec<u32> = NEVER_SAMPLED
            .iter()
            .copied()
            .chain([pad])
            .filter_map(|token| self.tokenizer.token_to_id(token))
            .filter(|id| *id != end_of_turn)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// Decodes a completion token by token: text comes out as soon as its bytes are complete.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    shown: usize,
}

impl<'a> TextStream<'a> {
    /// An empty stream.
    pub fn new(tokenizer: &'a TextTokenizer) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            shown: 0,
        }
    }

    /// Adds a token and returns the text that became final with it (possibly none).
    pub fn push(&mut self, id: u32) -> Result<String, PromptError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // A trailing replacement character is a character whose last bytes are still to come.
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let fresh = text.get(self.shown..).unwrap_or_default().to_owned();
        self.shown = text.len();
        Ok(fresh)
    }

    /// What never became final: a character that was cut off.
    fn rest(&self) -> Result<String, PromptError> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.shown..).unwrap_or_default().to_owned())
    }
}

/// A JSON file, or `None` when it does not exist.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>, PromptError> {
    let failed = |reason: String| PromptError::Unusable {
        path: path.to_owned(),
        reason,
    };
    match std::fs::read(path) {
        Ok(bytes) => json::read(&bytes)
            .map(Some)
            .map_err(|error| failed(format!("not valid JSON: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::reading(path, error).into()),
    }
}
