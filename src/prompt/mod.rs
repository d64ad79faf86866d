//! A prompt: exactly what the model sees before it answers.
//!
//! [`Processor`] holds everything a model folder says about text: its chat template, its tokenizer, which tokens end a
//! turn and which are never to be sampled.

use crate::config::Wording;
use crate::util::file::FileError;
use crate::video::VideoPatches;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) mod preflight;
pub mod template;
pub mod tokenizer;
pub mod train;

use template::ChatTemplate;
use tokenizer::Guarded;
use tokenizer::TextTokenizer;

pub use template::Turn;

/// A question and its clip as token ids and patches.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The rendered chat text, one `<|video_pad|>` per video token.
    pub text: String,
    /// Token ids of `text`.
    pub token_ids: Vec<u32>,
    /// The clip, when the prompt has one.
    pub video: Option<Arc<VideoPatches>>,
    /// What of the model's own turn the chat template has written, such as `<think>\n`: it counts as the model's.
    pub begun: String,
}

impl Prompt {
    /// What is left to write of `text`, a completion that may repeat what the template has begun it with.
    pub(crate) fn left_to_write<'t>(&self, text: &'t str) -> &'t str {
        left_to_write(&self.begun, text)
    }
}

/// `text` without `begun`, which may end with other blanks there.
fn left_to_write<'t>(begun: &str, text: &'t str) -> &'t str {
    if let Some(behind) = text.strip_prefix(begun) {
        return behind;
    }
    let behind = text.trim_start().strip_prefix(begun.trim());
    behind.map_or(text, |behind| behind.trim_start_matches(['\n', ' ']))
}

/// Why a prompt could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum PromptError {
    /// A file of the model folder is not there.
    #[error("{}: not found; a model folder holds {wanted}", path.display())]
    Missing {
        path: PathBuf,
        /// The files that would do.
        wanted: &'static str,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of the model folder holds something else than it should.
    #[error("{}: {reason}", path.display())]
    Unusable {
        path: PathBuf,
        /// What the reader says.
        reason: String,
    },
    /// The tokenizer has no such token.
    #[error("{}: the tokenizer has no token `{token}`, which a Qwen2.5-VL prompt needs", path.display())]
    NoToken { token: String, path: PathBuf },
    /// The chat template failed on these messages.
    #[error("the model's chat template failed: {0}")]
    Template(String),
    /// The tokenizer failed on this text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The template dropped the video, or names it several times.
    #[error(
        "the model's chat template writes `{}` {found} times where {expected} belong: take the chat template of the model that this \
         one was made from",
        tokenizer::VIDEO_PAD
    )]
    Placeholder {
        found: usize,
        /// Placeholders that stand for a clip.
        expected: usize,
    },
    /// The template ends without opening the model's turn.
    #[error(
        "the model's chat template does not open the assistant's turn (`add_generation_prompt`): take the chat template of the model \
         that this one was made from"
    )]
    NoTurn,
    /// The prompt is longer than allowed. It is never truncated.
    #[error(
        "the prompt has {tokens} tokens ({video_tokens} of them video), more than sampling.max_prompt_tokens = {limit}; \
         lower video.max_frames or video.max_pixels, or raise the limit"
    )]
    TooLong {
        /// All tokens of the prompt.
        tokens: usize,
        /// The clip's part of them.
        video_tokens: usize,
        limit: usize,
    },
}

/// Turns questions into prompts and token ids into text, as the model's own files say.
#[derive(Debug)]
pub struct Processor {
    template: ChatTemplate,
    tokenizer: TextTokenizer,
    max_prompt_tokens: usize,
}

impl Processor {
    /// Reads the chat template, tokenizer and end-of-turn ids of a model folder.
    pub fn load(model_dir: &Path) -> Result<Self, PromptError> {
        Ok(Self {
            template: ChatTemplate::load(model_dir)?,
            tokenizer: TextTokenizer::load(model_dir)?,
            max_prompt_tokens: usize::MAX,
        })
    }

    /// The same, refusing prompts of more than `limit` tokens (`sampling.max_prompt_tokens`).
    #[must_use]
    pub fn with_max_prompt_tokens(mut self, limit: usize) -> Self {
        self.max_prompt_tokens = limit;
        self
    }

    /// The prompt that asks `text`, in `wording`, about `video` (which stands before the text).
    pub fn prompt(
        &self,
        text: &str,
        wording: Wording,
        video: Option<Arc<VideoPatches>>,
    ) -> Result<Prompt, PromptError> {
        self.prompt_of(&asked(text, wording), video)
    }

    /// The prompt that says what `turn` says, with `video` before the user's text.
    pub(crate) fn prompt_of(
        &self,
        turn: &Turn,
        video: Option<Arc<VideoPatches>>,
    ) -> Result<Prompt, PromptError> {
        let rendered = self.render(turn, video.is_some())?;
        let video_tokens = video.as_ref().map_or(0, |v| v.num_tokens());
        let text = expand_placeholder(&rendered, video.as_ref().map(|_| video_tokens))?;
        let token_ids = self.tokenizer.encode_rendered(&text)?;
        if token_ids.len() > self.max_prompt_tokens {
            return Err(PromptError::TooLong {
                tokens: token_ids.len(),
                video_tokens,
                limit: self.max_prompt_tokens,
            });
        }
        Ok(Prompt {
            text: text.written(),
            token_ids,
            video,
            begun: if turn.begun.is_empty() {
                begun_turn(&rendered.text).unwrap_or_default().to_owned()
            } else {
                String::new()
            },
        })
    }

    /// The turn in the model's template. No word of the user's or the system's becomes a special token.
    fn render(&self, turn: &Turn, with_video: bool) -> Result<Guarded<'static>, PromptError> {
        // One sign for all of them.
        let system = turn.system.as_deref().unwrap_or_default();
        let all = format!("{system}\0{}\0{}", turn.user, turn.begun);
        let Some(guard) = self.tokenizer.guarded(&all).guard else {
            let rendered = self.template.render(turn, with_video)?;
            return Ok(Guarded {
                text: rendered.into(),
                guard: None,
            });
        };
        let guarded = |text: &str| self.tokenizer.guarded_by(text, guard);
        let turn = Turn {
            system: turn.system.as_deref().map(guarded),
            user: guarded(&turn.user),
            begun: guarded(&turn.begun),
        };
        Ok(Guarded {
            text: self.template.render(&turn, with_video)?.into(),
            guard: Some(guard),
        })
    }

    /// What the chat template writes of the model's own turn.
    ///
    /// # Errors
    /// [`PromptError::NoTurn`] where it does not begin that turn.
    pub(crate) fn begun(&self) -> Result<String, PromptError> {
        let rendered = self.template.render(&asked("?", Wording::None), true)?;
        let begun = begun_turn(&rendered).ok_or(PromptError::NoTurn)?;
        Ok(begun.to_owned())
    }

    /// The text of a prompt with a video, which one placeholder stands for.
    pub(crate) fn text_of(&self, turn: &Turn) -> Result<String, PromptError> {
        Ok(self.render(turn, true)?.written())
    }

    /// Tokens of the prompt that asks `text` in `wording` about a clip of `video_tokens` tokens, however many.
    pub(crate) fn count_tokens(
        &self,
        text: &str,
        wording: Wording,
        video_tokens: usize,
    ) -> Result<usize, PromptError> {
        self.count_tokens_of(&asked(text, wording), video_tokens)
    }

    /// Tokens of the prompt that says what `turn` says about a clip of `video_tokens` tokens, however many.
    pub(crate) fn count_tokens_of(
        &self,
        turn: &Turn,
        video_tokens: usize,
    ) -> Result<usize, PromptError> {
        let rendered = self.render(turn, true)?;
        // A placeholder is a token of its own, whatever stands beside it.
        let with_one = expand_placeholder(&rendered, Some(1))?;
        Ok(self.tokenizer.encode_rendered(&with_one)?.len() - 1 + video_tokens)
    }

    /// Token ids of `text`; the name of a special token in it is a text like any other.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.tokenizer.encode(text)
    }

    /// The text of `ids` without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, PromptError> {
        self.tokenizer.decode(ids)
    }

    /// The text of each token of a completion; joined they are its text and, if it is there, the token that ends the turn.
    pub fn token_texts(&self, ids: &[u32]) -> Result<Vec<String>, PromptError> {
        self.tokenizer.token_texts(ids)
    }

    /// Ids that end a turn, `<|im_end|>` first where the model has it.
    pub fn eos_ids(&self) -> &[u32] {
        self.tokenizer.eos_ids()
    }

    /// The id that ends a turn in a chat: the first of [`Self::eos_ids`].
    pub fn end_of_turn(&self) -> u32 {
        self.tokenizer.eos_ids()[0]
    }

    /// Vision and padding ids in ascending order: they mean nothing in an answer and are never sampled.
    pub fn banned_ids(&self) -> &[u32] {
        self.tokenizer.banned_ids()
    }

    /// The tokenizer by itself.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }
}

fn asked(text: &str, wording: Wording) -> Turn {
    Turn {
        user: template::question_text(text, wording),
        ..Turn::default()
    }
}

/// What stands in the model's own turn, with which a rendered prompt ends; `None` where it does not.
fn begun_turn(rendered: &str) -> Option<&str> {
    let (_, turn) = rendered.rsplit_once(tokenizer::IM_START)?;
    let (role, begun) = turn.split_once('\n')?;
    (role.trim() == "assistant").then_some(begun)
}

/// Repeats the single video placeholder once per video token (`None`: no clip, so no placeholder either).
fn expand_placeholder(
    rendered: &Guarded,
    video_tokens: Option<usize>,
) -> Result<Guarded<'static>, PromptError> {
    let text = &rendered.text;
    let found = text.matches(tokenizer::VIDEO_PAD).count();
    let expected = usize::from(video_tokens.is_some());
    if found != expected {
        return Err(PromptError::Placeholder { found, expected });
    }
    let text = match video_tokens {
        Some(count) => text.replacen(tokenizer::VIDEO_PAD, &tokenizer::VIDEO_PAD.repeat(count), 1),
        None => text.to_string(),
    };
    Ok(Guarded {
        text: text.into(),
        guard: rendered.guard,
    })
}
