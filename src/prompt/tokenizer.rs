//! Text to token ids and back, and the ids that have a meaning of their own.

use super::PromptError;
use crate::util::file::FileError;
use crate::util::json;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokenizers::Tokenizer;

/// Stands for one merged patch of a clip.
pub(crate) const VIDEO_PAD: &str = "<|video_pad|>";
/// Begins a turn of the chat.
pub(crate) const IM_START: &str = "<|im_start|>";
/// Ends it.
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

/// Tags that a reward and an answer's reader look for. Some models have tokens of their own for them, marked as special.
pub(crate) const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// The model's tokenizer with the ids that matter looked up by name.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// The same, to which special tokens in a text are text; made where one is met.
    literal: OnceLock<Tokenizer>,
    path: PathBuf,
    eos_ids: Vec<u32>,
    banned_ids: Vec<u32>,
    /// Special tokens by name: what a text must not be able to forge, and what decoding leaves out. Tags are none.
    control: BTreeMap<String, u32>,
    /// Their ids.
    unspoken: BTreeSet<u32>,
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
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| PromptError::Unusable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        // What a training has left in the file: transformers sets both anew at each call.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| PromptError::Tokenizer(error.to_string()))?;
        let added = tokenizer.get_added_tokens_decoder().into_iter();
        let control: BTreeMap<String, u32> = added
            .filter(|(_, token)| token.special && !TAGS.contains(&token.content.as_str()))
            .map(|(id, token)| (token.content, id))
            .collect();
        let mut this = Self {
            tokenizer,
            literal: OnceLock::new(),
            path,
            eos_ids: Vec::new(),
            banned_ids: Vec::new(),
            unspoken: control.values().copied().collect(),
            control,
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

    /// Token ids of `text`, in which the name of a special token is a text like any other: nobody's words end a turn.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.encode_rendered(&self.guarded(text))
    }

    /// `text` in which no special token stands: each one's name is broken by a sign that [`Self::encode_rendered`] takes out.
    pub(super) fn guarded<'t>(&self, text: &'t str) -> Guarded<'t> {
        let is_named = self.control.keys().any(|name| text.contains(name.as_str()));
        let unused = GUARDS.into_iter().find(|sign| !text.contains(*sign));
        let guard = unused.filter(|_| is_named);
        Guarded {
            text: guard.map_or(Cow::Borrowed(text), |guard| {
                Cow::Owned(self.guarded_by(text, guard))
            }),
            guard,
        }
    }

    /// `text` with `guard` in the name of every special token.
    pub(super) fn guarded_by(&self, text: &str, guard: char) -> String {
        let names: Vec<&String> = self.control.keys().collect();
        let mut guarded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((start, name)) = first_of(rest, &names) {
            let behind_sign = start + name.chars().next().map_or(0, char::len_utf8);
            guarded.push_str(&rest[..behind_sign]);
            guarded.push(guard);
            rest = &rest[behind_sign..];
        }
        guarded.push_str(rest);
        guarded
    }

    /// Token ids of a rendered prompt; special tokens in it become their ids, but for those that are guarded.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub(super) fn encode_rendered(&self, rendered: &Guarded) -> Result<Vec<u32>, PromptError> {
        let Some(guard) = rendered.guard else {
            return ids(&self.tokenizer, &rendered.text);
        };
        let literal = self.literal.get_or_init(|| {
            let mut literal = self.tokenizer.clone();
            literal.set_encode_special_tokens(true);
            literal
        });
        // What the tokenizer does itself: cut the text at special tokens, then encode what stands between them.
        let tags = TAGS.into_iter().filter_map(|tag| {
            let id = self.tokenizer.token_to_id(tag)?;
            Some((tag.to_owned(), id))
        });
        let cuts: BTreeMap<String, u32> = self.control.clone().into_iter().chain(tags).collect();
        let names: Vec<&String> = cuts.keys().collect();
        let mut found = Vec::new();
        let mut rest = &*rendered.text;
        while let Some((start, name)) = first_of(rest, &names) {
            found.extend(ids(literal, &rest[..start].replace(guard, ""))?);
            found.push(cuts[name]);
            rest = &rest[start + name.len()..];
        }
        found.extend(ids(literal, &rest.replace(guard, ""))?);
        Ok(found)
    }

    /// The text of `ids` without special tokens; tags are none, whatever a tokenizer says.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, PromptError> {
        let is_spoken = |id: &&u32| !self.unspoken.contains(id);
        let spoken: Vec<u32> = ids.iter().filter(is_spoken).copied().collect();
        self.tokenizer
            .decode(&spoken, false)
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

/// A text and the sign that breaks the names of special tokens in it.
#[derive(Debug)]
pub(super) struct Guarded<'t> {
    /// With the sign in it.
    pub(super) text: Cow<'t, str>,
    /// Absent where nothing had to be broken.
    pub(super) guard: Option<char>,
}

impl Guarded<'_> {
    /// The text as it was written.
    pub(super) fn written(&self) -> String {
        match self.guard {
            Some(guard) => self.text.replace(guard, ""),
            None => self.text.to_string(),
        }
    }
}

/// Unicode's noncharacters: they stand in no text that means something.
const GUARDS: RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Where the first of some names stands, the longest of those that begin there.
fn first_of<'n>(text: &str, names: &[&'n String]) -> Option<(usize, &'n String)> {
    let places = names
        .iter()
        .filter_map(|name| Some((text.find(name.as_str())?, *name)));
    places.min_by_key(|(start, name)| (*start, Reverse(name.len())))
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, PromptError> {
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|error| PromptError::Tokenizer(error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
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
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, PromptError> {
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
