//! What the model is asked: the question with its options, and the words of a protocol around them.

use super::error::EvalError;
use super::fingerprint;
use super::protocol::OptionMarks;
use super::protocol::ProtocolFile;
use super::protocol::ProtocolWords;
use super::protocol::TaskKind;
use super::protocol::Words;
use super::protocol::remarks;
use crate::config::Benchmark;
use crate::config::EvalConfig;
use crate::config::Protocol;
use crate::config::Wording;
use crate::data::Question;
use crate::data::answer::option::is_option_word;
use crate::prompt::Turn;
use crate::prompt::template::question_text;

/// What stands for the question in a template.
const QUESTION: &str = "{question}";
/// What stands for the options in a template that has them apart.
const OPTIONS: &str = "{options}";

/// How questions are formatted.
#[derive(Debug, Clone)]
pub(crate) struct PromptFormat {
    config: EvalConfig,
    words: Option<ProtocolWords>,
}

/// A question as it is put to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormattedPrompt {
    /// What is said before the model goes on.
    pub(crate) turn: Turn,
    /// The end of the words that the answer is begun with, which is read with it.
    pub(crate) read_with: &'static str,
}

impl PromptFormat {
    /// As `[eval]` says.
    ///
    /// # Errors
    /// `eval.protocol_from` names no clone with the protocol's words.
    pub(crate) fn new(config: &EvalConfig) -> Result<Self, EvalError> {
        Ok(Self {
            config: config.clone(),
            words: ProtocolWords::new(config)?,
        })
    }

    /// The whole of what is asked. What is `said` in the clip stands in front.
    pub(crate) fn apply(&self, question: &Question, said: Option<&str>) -> FormattedPrompt {
        let words = self.words_of(question);
        let text = match words {
            Some(words) if words.text.contains(OPTIONS) => {
                let options = words.marks.put(&question.choices());
                filled(&words.text, question.stem(), &options)
            }
            Some(words) => filled(&words.text, &self.laid_out(question), ""),
            None => self.in_own_words(question),
        };
        let said = said.filter(|said| !said.is_empty());
        let text = match (said, self.words.as_ref().and_then(ProtocolWords::subtitles)) {
            (None, _) => text,
            (Some(said), Some(before)) => before.replace("{subtitles}", said) + &text,
            (Some(said), None) => format!("What is said in the video:\n{said}\n\n{text}"),
        };
        FormattedPrompt {
            turn: Turn {
                system: words.and_then(|words| words.system.clone()),
                user: text,
                begun: words.map_or("", |words| words.prefix).to_owned(),
            },
            read_with: words.map_or("", |words| words.read_with),
        }
    }

    /// The name of the words around the question: a wording's, `template`, or whose own they are.
    pub(crate) fn name(&self) -> String {
        let whose = || match (self.config.protocol?, self.config.benchmark) {
            (Protocol::Authors, _) => Some("authors".to_owned()),
            (Protocol::Official, benchmark) => Some(benchmark?.as_str().to_owned()),
        };
        let by_protocol = self
            .words
            .as_ref()
            .is_some_and(|words| words.file().is_some() || words.of(TaskKind::Choice).is_some());
        match (&self.config.template, whose()) {
            (Some(_), _) => "template".into(),
            (None, Some(whose)) if by_protocol => match self.file() {
                Some(_) => format!("{whose} (its own words)"),
                None => format!("{whose} (in our words)"),
            },
            _ => self.config.wording.as_str().into(),
        }
    }

    /// A fingerprint of the words around every kind of question.
    pub(crate) fn hash(&self) -> String {
        let mut words: Vec<String> = [
            question_text(QUESTION, self.config.wording),
            open_text(QUESTION, self.config.wording),
            // None is as good as an empty one, which the settings refuse.
            self.config.template.clone().unwrap_or_default(),
        ]
        .into();
        for kind in TaskKind::ALL {
            let of_kind = self.words.as_ref().and_then(|words| words.of(kind));
            words.extend(of_kind.map(|of_kind| format!("{of_kind:?}")));
        }
        fingerprint::of_text(&words.join("\u{0}"))
    }

    /// The file of the protocol's own words, where they are asked.
    pub(crate) fn file(&self) -> Option<&ProtocolFile> {
        let words = self.words.as_ref()?;
        words.file().filter(|_| self.config.template.is_none())
    }

    /// Where the protocol is unusual, and where this departs from it; goes into the score file.
    pub(crate) fn remarks(&self) -> Vec<String> {
        remarks(&self.config, self.words.as_ref())
    }

    fn words_of(&self, question: &Question) -> Option<&Words> {
        match &self.words {
            Some(words) if self.config.template.is_none() => words.of(task_kind(question)),
            _ => None,
        }
    }

    /// `eval.template`, or `eval.wording`.
    fn in_own_words(&self, question: &Question) -> String {
        let asked = self.laid_out(question);
        match &self.config.template {
            Some(template) => filled(template, &asked, OPTIONS),
            None if question.choices().is_empty() => open_text(&asked, self.config.wording),
            None => question_text(&asked, self.config.wording),
        }
    }

    /// The question with its options as the protocol lays them out.
    fn laid_out(&self, question: &Question) -> String {
        match self.config.protocol {
            Some(Protocol::Authors) => authors_layout(question, self.config.benchmark),
            _ => question.text(),
        }
    }
}

/// A template with question and options in their places; what these say is not looked at again.
fn filled(template: &str, question: &str, options: &str) -> String {
    let parts = template.split(QUESTION);
    let parts: Vec<String> = parts.map(|part| part.replace(OPTIONS, options)).collect();
    parts.join(question)
}

/// The wording for a question without options: the evaluation's asks for letters otherwise.
fn open_text(question: &str, wording: Wording) -> String {
    match wording {
        Wording::Evaluation => crate::prompt::template::open_question_text(question),
        other => question_text(question, other),
    }
}

/// What kind of answer a question wants.
pub(super) fn task_kind(question: &Question) -> TaskKind {
    let task = question.splits().find(|(name, _)| *name == "task");
    match task.map(|(_, task)| task) {
        Some("captioning") if question.judge.is_some() => return TaskKind::Captioning,
        Some("caption_matching") => return TaskKind::Captions,
        _ => {}
    }
    if question.choices().is_empty() {
        let answer = question.answer().to_string().to_lowercase();
        return match question.problem_type.as_deref() {
            _ if answer == "yes" || answer == "no" => TaskKind::YesNo,
            Some("numerical" | "regression") => TaskKind::Number,
            _ => TaskKind::Open,
        };
    }
    let first_option = question.problem.lines().nth(1);
    let has_word = first_option
        .and_then(|line| line.split(' ').next())
        .is_some_and(is_option_word);
    if has_word {
        TaskKind::Captions
    } else {
        TaskKind::Choice
    }
}

/// The layout of the authors' `eval_bench.py` and of their files: "Options:" follows the problem without a space, and every
/// option ends with a line break; Video-Holmes' problems have their options in them, behind a space and a line break.
fn authors_layout(question: &Question, benchmark: Option<Benchmark>) -> String {
    let options = question.choices();
    let has_own = question
        .options
        .as_deref()
        .is_some_and(|own| !own.is_empty());
    // A problem that lists its options and names no type is asked as it is.
    if options.is_empty()
        || question.lists_options() && (!has_own || question.problem_type.is_none())
    {
        return question.problem.clone();
    }
    let listed = OptionMarks::Dots.put(&options);
    if benchmark == Some(Benchmark::VideoHolmes) {
        return format!("{} \n{listed}", question.problem);
    }
    format!("{}Options:\n{listed}\n", question.problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Benchmark;

    fn question(more: &str) -> Question {
        let line = format!(
            r#"{{"id":"1","problem":"Why?","solution":"A","video":"v.mp4","options":["A. x","B. y"]{more}}}"#
        );
        serde_json::from_str(&line).unwrap()
    }

    fn ask(change: impl FnOnce(&mut EvalConfig), question: &Question) -> (String, String, String) {
        let mut config = EvalConfig {
            wording: Wording::None,
            ..EvalConfig::default()
        };
        change(&mut config);
        let format = PromptFormat::new(&config).unwrap();
        let formatted = format.apply(question, None);
        (formatted.turn.user, format.name(), format.hash())
    }

    #[test]
    fn protocols_put_questions_in_their_own_way() {
        let (plain, name, _) = ask(|_| (), &question(""));
        assert_eq!(
            (plain.as_str(), name.as_str()),
            ("Why?\nA. x\nB. y", "none")
        );
        let authors = |config: &mut EvalConfig| config.protocol = Some(Protocol::Authors);
        let multiple = question(r#","problem_type":"multiple choice""#);
        assert_eq!(ask(authors, &multiple).0, "Why?Options:\nA. x\nB. y\n");
        let own = |config: &mut EvalConfig| config.template = Some("Q: {question} A:".into());
        let (text, name, _) = ask(own, &question(""));
        assert_eq!(
            (text.as_str(), name.as_str()),
            ("Q: Why?\nA. x\nB. y A:", "template")
        );
    }

    #[test]
    fn options_are_asked_whatever_the_source_calls_the_question() {
        let authors = |config: &mut EvalConfig| config.protocol = Some(Protocol::Authors);
        // The official readers set no type.
        assert_eq!(ask(authors, &question("")).0, "Why?Options:\nA. x\nB. y\n");
        let holmes = |config: &mut EvalConfig| {
            config.protocol = Some(Protocol::Authors);
            config.benchmark = Some(Benchmark::VideoHolmes);
        };
        assert_eq!(ask(holmes, &question("")).0, "Why? \nA. x\nB. y");
        let listed: Question = serde_json::from_str(
            r#"{"id":"1","problem":"Why? \nA. x\nB. y","solution":"A","video":"v.mp4","options":["x","y"]}"#,
        )
        .unwrap();
        assert_eq!(ask(holmes, &listed).0, "Why? \nA. x\nB. y");
        assert_eq!(ask(authors, &listed).0, "Why? \nA. x\nB. y");
    }

    #[test]
    fn an_official_wording_depends_on_the_task() {
        let official = |config: &mut EvalConfig| {
            config.protocol = Some(Protocol::Official);
            config.benchmark = Some(Benchmark::Tempcompass);
        };
        let (text, name, _) = ask(official, &question(""));
        assert!(
            text.starts_with("Why?\nA. x\nB. y\n") && text.contains("best option"),
            "{text}"
        );
        assert_eq!(name, "tempcompass (in our words)");
        let yes_no: Question = serde_json::from_str(
            r#"{"id":"1","problem":"Is it?","solution":"yes","video":"v.mp4","splits":{"task":"yes_no"}}"#,
        )
        .unwrap();
        assert!(ask(official, &yes_no).0.ends_with("yes or no:"));
    }

    #[test]
    fn an_answer_may_be_begun_for_the_model() {
        let config = EvalConfig {
            protocol: Some(Protocol::Official),
            benchmark: Some(Benchmark::Mvbench),
            wording: Wording::None,
            ..EvalConfig::default()
        };
        let formatted = PromptFormat::new(&config)
            .unwrap()
            .apply(&question(""), None);
        assert!(
            formatted
                .turn
                .user
                .contains("Question: Why?\nOptions:\n(A) x\n(B) y\n"),
            "{formatted:?}"
        );
        assert_eq!(
            (formatted.turn.begun.as_str(), formatted.read_with),
            ("Best option:(", "(")
        );
        assert!(formatted.turn.system.is_some());
    }

    #[test]
    fn other_words_have_another_hash() {
        let hash = |wording| ask(|config| config.wording = wording, &question("")).2;
        assert_ne!(hash(Wording::None), hash(Wording::Training));
        assert_eq!(hash(Wording::None), hash(Wording::None));
    }

    #[test]
    fn what_is_said_stands_in_front() {
        let format = PromptFormat::new(&EvalConfig {
            wording: Wording::None,
            ..EvalConfig::default()
        })
        .unwrap();
        let text = |said| format.apply(&question(""), Some(said)).turn.user;
        assert!(
            text("hello\nthere").starts_with("What is said in the video:\nhello\nthere\n\nWhy?")
        );
        assert!(text("").starts_with("Why?"));
    }
}
