//! The words around a question: the wording that follows it and the model's own chat template.

use super::PromptError;
use super::tokenizer::VIDEO_PAD;
use crate::config::Wording;
use crate::util::file;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Once;

mod python;

/// Names under which transformers gives a template the tokenizer's special tokens.
const NAMED_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Whether it has been said that a template writes the date.
static SAYS_DATE: Once = Once::new();

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
    /// Where it stands.
    path: PathBuf,
}

impl ChatTemplate {
    /// Takes the first of `chat_template.jinja`, `chat_template.json` and `tokenizer_config.json` that has a template.
    ///
    /// # Errors
    /// A template that does not write exactly one placeholder for a video, and the question's text.
    pub fn load(model_dir: &Path) -> Result<Self, PromptError> {
        let (source, path) = find(model_dir)?;
        if file::is_lfs_pointer(source.as_bytes()) {
            return Err(PromptError::Unusable {
                path,
                reason: "is a Git LFS pointer, not the template: `git lfs pull` in the repository fetches it".into(),
            });
        }
        refuse_tokenizer_pointer(model_dir)?;
        if source.contains("strftime_now") {
            SAYS_DATE.call_once(|| {
                tracing::warn!(
                    "{}: the chat template may write the date or time into the prompt, so that prompts differ from day to day",
                    path.display()
                );
            });
        }
        let template = Self::parse(&source, special_tokens(model_dir)?, path)?;
        template.check()?;
        Ok(template)
    }

    fn parse(
        source: &str,
        tokens: BTreeMap<String, String>,
        path: PathBuf,
    ) -> Result<Self, PromptError> {
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
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_filter("tojson", python::tojson);
        environment.set_formatter(python::format);
        // transformers always passes these two, as none.
        for name in ["tools", "documents"] {
            environment.add_global(name, Value::from(()));
        }
        for (name, token) in tokens {
            environment.add_global(name, token);
        }
        environment
            .add_template_owned(
                "chat",
                python::without_generation_tags(&source.replace("\r\n", "\n")),
            )
            .map_err(|error| PromptError::Unusable {
                path: path.clone(),
                reason: format!("not a Jinja template: {error}"),
            })?;
        Ok(Self { environment, path })
    }

    /// Refuses a template that is not one of a video model.
    fn check(&self) -> Result<(), PromptError> {
        const WORDS: &str = "What \"happens\" <then>?\nA. The ball on the left, which the child has thrown, breaks the window & falls.\nB. Nothing";
        const WHOLE: &str = "<|vision_start|><|video_pad|><|vision_end|>";
        let turn = Turn {
            user: WORDS.into(),
            ..Turn::default()
        };
        let problem = match self.render(&turn, true) {
            Err(PromptError::Template(error)) => {
                format!("it fails on a question about a video ({error})")
            }
            Err(other) => return Err(other),
            Ok(rendered) => match rendered.matches(VIDEO_PAD).count() {
                1 if !rendered.contains(WHOLE) => {
                    format!(
                        "it writes {VIDEO_PAD} without <|vision_start|> before it and <|vision_end|> behind it"
                    )
                }
                1 if rendered.contains(WORDS) => return Ok(()),
                1 => "it leaves the question's text out".into(),
                0 if rendered.contains("\"type\": \"video\"") => {
                    "it writes the list of a message's parts as it stands".into()
                }
                0 => {
                    format!("it writes no {VIDEO_PAD} for a video, as templates of text models do")
                }
                found => format!("it writes {found} {VIDEO_PAD} for one video"),
            },
        };
        Err(PromptError::Unusable {
            path: self.path.clone(),
            reason: format!(
                "the chat template does not fit a video model: {problem}; put that of the model that this one was made from \
                 in its place, such as the chat template of Qwen/Qwen2.5-VL-3B-Instruct"
            ),
        })
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
            .map_err(|error| PromptError::Template(format!("{error}")))?;
        Ok(rendered + &turn.begun)
    }
}

/// The text of the template and the file that it stands in.
fn find(model_dir: &Path) -> Result<(String, PathBuf), PromptError> {
    let jinja = model_dir.join("chat_template.jinja");
    if jinja.is_file() {
        return Ok((file::read_to_string(&jinja)?, jinja));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let path = model_dir.join(name);
        if let Some(file) = super::tokenizer::read_json(&path)?
            && let Some(source) = template_in(&file["chat_template"])
        {
            return Ok((source, path));
        }
    }
    Err(PromptError::Missing {
        path: model_dir.to_owned(),
        wanted: "a chat template (chat_template.jinja, chat_template.json, or `chat_template` in tokenizer_config.json): copy it from the \
                     model that this one was made from, with the tokenizer's and processor's files",
    })
}

/// Its own reader would only say that the tokenizer is no JSON.
fn refuse_tokenizer_pointer(model_dir: &Path) -> Result<(), PromptError> {
    let path = model_dir.join("tokenizer.json");
    let mut start = Vec::new();
    if let Ok(file) = File::open(&path) {
        let read = file.take(64).read_to_end(&mut start);
        read.map_err(|error| file::FileError::reading(&path, error))?;
    }
    if !file::is_lfs_pointer(&start) {
        return Ok(());
    }
    Err(PromptError::Unusable {
        path,
        reason:
            "is a Git LFS pointer, not the tokenizer: `git lfs pull` in the repository fetches it"
                .into(),
    })
}

/// The tokens that a template may name, such as `eos_token`.
fn special_tokens(model_dir: &Path) -> Result<BTreeMap<String, String>, PromptError> {
    let mut tokens = BTreeMap::new();
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let file = super::tokenizer::read_json(&model_dir.join(name))?;
        let file = file.unwrap_or_default();
        let named = NAMED_TOKENS.iter().map(|name| (*name, &file[*name]));
        let extra = file["extra_special_tokens"].as_object();
        let extra = extra.into_iter().flatten();
        for (name, token) in named.chain(extra.map(|(name, token)| (name.as_str(), token))) {
            if let Some(text) = token.as_str().or_else(|| token["content"].as_str()) {
                tokens.insert(name.to_owned(), text.to_owned());
            }
        }
    }
    Ok(tokens)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/prompt")
    }

    /// What the template makes of a question about a video, or why it is refused.
    fn rendered(template: &str, question: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let config = golden().join("tokenizer/tokenizer_config.json");
        std::fs::copy(config, folder.path().join("tokenizer_config.json")).unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let template = ChatTemplate::load(folder.path()).map_err(|error| error.to_string())?;
        let turn = Turn {
            user: question.into(),
            ..Turn::default()
        };
        Ok(template.render(&turn, true).unwrap())
    }

    #[test]
    fn what_transformers_adds_to_jinja_gives_the_same_bytes() {
        let text = std::fs::read(golden().join("templates.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let question = golden["question"].as_str().unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 15);
        for case in cases {
            let template = case["template"].as_str().unwrap();
            let expected = case["rendered"].as_str().unwrap();
            assert_eq!(
                rendered(template, question).as_deref(),
                Ok(expected),
                "{template}"
            );
        }
    }

    #[test]
    fn a_template_that_does_not_fit_a_video_is_blamed_and_not_the_question() {
        let text_only = "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
        for (template, expected) in [
            (text_only, "writes no <|video_pad|>"),
            (
                "{{ messages[0].content }}",
                "the list of a message's parts as it stands",
            ),
            (
                "{{ messages[0]['content'] + '<|im_end|>' }}",
                "it fails on a question about a video",
            ),
            ("{{ raise_exception('only text') }}", "only text"),
            (
                "<|video_pad|><|video_pad|>{{ messages[0].content[-1].text }}",
                "writes 2 <|video_pad|>",
            ),
            (
                "<|vision_start|><|video_pad|><|vision_end|>",
                "leaves the question's text out",
            ),
            (
                "<|vision_start|><|video_pad|><|vision_end|>{{ messages[0].content[-1].text[:30] }}",
                "leaves the question's text out",
            ),
            (
                "<|video_pad|>{{ messages[0].content[-1].text }}",
                "without <|vision_start|> before it",
            ),
            (
                "<|image_pad|>{{ messages[0].content[-1].text }}",
                "writes no <|video_pad|>",
            ),
        ] {
            let error = rendered(template, "Q").unwrap_err();
            let is_named = error.contains("chat_template.jinja: the chat template does not fit");
            assert!(is_named && error.contains(expected), "{template}: {error}");
            assert!(
                error.contains("put that of the model that this one was made from in its place"),
                "{error}"
            );
        }
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
        let error = rendered(pointer, "Q").unwrap_err();
        assert!(error.contains("git lfs pull"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), pointer).unwrap();
        let error = ChatTemplate::load(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("tokenizer.json: is a Git LFS pointer"),
            "{error}"
        );
        let broken = rendered("{% generation %}", "Q").unwrap_err();
        assert!(broken.contains("not a Jinja template"), "{broken}");
    }
}
