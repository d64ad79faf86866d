//! The words around a question: the wording that follows it and the model's own chat template.

use super::PromptError;
use crate::config::Wording;
use crate::util::file;
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::json;
use std::path::Path;

/// Follows the question in training: the authors' `src/open_r1/grpo.py` (two spaces before "Output").
const TRAINING_WORDING: &str = "  Output the thinking process in <think> </think> and final answer \
    (letters separated by , if multiple) in <answer> </answer> tags.";

/// Follows the question in evaluation: our own words. The authors' are another text of the Video-R1 family
/// (`src/eval/eval_bench.py`), which `eval.protocol_from` reads in a clone of their repository.
const EVALUATION_WORDING: &str = "\nLook at the whole video before you decide and reason step by step: what happens, \
    in which order, and what would change. Write this reasoning between <think> and </think>. Then give only the ";
/// How that ends where there are options.
const OPTIONS_ENDING: &str = "letter of the right option, or all right letters separated by commas, between <answer> and </answer>.";
/// How it ends where there are none.
const OPEN_ENDING: &str = "answer, in as few words as it takes, between <answer> and </answer>.";

/// The question with the words that ask for thinking and an answer.
pub(crate) fn question_text(question: &str, wording: Wording) -> String {
    match wording {
        Wording::Training => format!("{question}{TRAINING_WORDING}"),
        Wording::Evaluation => format!("{question}{EVALUATION_WORDING}{OPTIONS_ENDING}"),
        Wording::None => question.to_owned(),
    }
}

/// A question without options in the wording of an evaluation.
pub(crate) fn open_question_text(question: &str) -> String {
    format!("{question}{EVALUATION_WORDING}{OPEN_ENDING}")
}

/// What is said before the model goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// The system's message; absent: the template's own.
    pub system: Option<String>,
    /// What the user says.
    pub user: String,
    /// What the model's own turn is begun with; it goes on from there.
    pub begun: String,
}

/// The model's Jinja chat template, set up as transformers does.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Takes the first of `chat_template.jinja`, `chat_template.json` and `tokenizer_config.json` that has a template.
    pub fn load(model_dir: &Path) -> Result<Self, PromptError> {
        let jinja = model_dir.join("chat_template.jinja");
        if jinja.is_file() {
            let source = file::read_to_string(&jinja)?;
            return Self::parse(source, &jinja);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = model_dir.join(name);
            if let Some(file) = super::tokenizer::read_json(&path)?
                && let Some(source) = template_in(&file["chat_template"])
            {
                return Self::parse(source, &path);
            }
        }
        Err(PromptError::Missing {
            path: model_dir.to_owned(),
            wanted: "a chat template: chat_template.jinja, chat_template.json, or `chat_template` in tokenizer_config.json",
        })
    }

    fn parse(source: String, path: &Path) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment
            .add_template_owned("chat", source)
            .map_err(|error| PromptError::Unusable {
                path: path.to_owned(),
                reason: format!("not a Jinja template: {error:#}"),
            })?;
        Ok(Self { environment })
    }

    /// The system's message, if there is one, and one user turn, the video (if any) before the text, up to where the assistant
    /// goes on.
    pub fn render(&self, turn: &Turn, with_video: bool) -> Result<String, PromptError> {
        let mut content = Vec::with_capacity(2);
        if with_video {
            content.push(json!({"type": "video"}));
        }
        content.push(json!({"type": "text", "text": turn.user}));
        let mut messages = Vec::with_capacity(2);
        if let Some(system) = &turn.system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": content}));
        let rendered = self
            .environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! { messages => messages, add_generation_prompt => true })
            })
            .map_err(|error| PromptError::Template(format!("{error:#}")))?;
        Ok(rendered + &turn.begun)
    }
}

/// A template is a string, or a list of named ones of which `default` is meant.
fn template_in(value: &serde_json::Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    value
        .as_array()?
        .iter()
        .find(|entry| entry["name"] == "default")?["template"]
        .as_str()
        .map(str::to_owned)
}
