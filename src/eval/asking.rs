//! What the model is asked: the question, its options, and the words of a protocol around them.

use super::fingerprint;
use crate::config::EvalConfig;
use crate::config::Protocol;
use crate::config::Wording;
use crate::data::Question;
use crate::data::benchmark;
use crate::prompt::template::question_text;

/// What stands for the question in a template.
const QUESTION: &str = "{question}";

/// How questions are put.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    config: EvalConfig,
}

impl Asking {
    /// As `[eval]` says.
    pub fn new(config: &EvalConfig) -> Self {
        Self {
            config: config.clone(),
        }
    }

    /// The whole text that is asked. What is `said` in the clip stands in front.
    pub fn text(&self, question: &Question, said: Option<&str>) -> String {
        let asked = match self.config.protocol {
            Some(Protocol::Authors) => authors_layout(question),
            _ => question.text(),
        };
        let task = question.splits().find(|(name, _)| *name == "task");
        let asked = match self.template(task.map(|(_, task)| task)) {
            Some(template) => template.replace(QUESTION, &asked),
            None => question_text(&asked, self.config.wording),
        };
        match said {
            Some(said) if !said.is_empty() => {
                format!("What is said in the video:\n{said}\n\n{asked}")
            }
            _ => asked,
        }
    }

    /// The name of the words around the question: a wording's, `template`, or the benchmark whose own they are.
    pub fn name(&self) -> String {
        match (&self.config.template, self.config.benchmark) {
            (Some(_), _) => "template".into(),
            (None, Some(benchmark)) if self.template(None).is_some() => {
                format!("{} (official)", benchmark.as_str())
            }
            _ => self.config.wording.as_str().into(),
        }
    }

    /// A fingerprint of the words around every kind of question.
    pub fn hash(&self) -> String {
        let tasks = [None, Some("yes_no")];
        let words: Vec<String> = tasks
            .into_iter()
            .map(|task| match self.template(task) {
                Some(template) => template.to_owned(),
                None => question_text(QUESTION, self.config.wording),
            })
            .collect();
        fingerprint::of_text(&words.join("\u{0}"))
    }

    /// The template of a question of `task`, where one takes the place of the wording.
    fn template(&self, task: Option<&str>) -> Option<&str> {
        let official = || {
            let ours = (self.config.wording, self.config.protocol);
            match (self.config.benchmark, ours) {
                (Some(benchmark), (Wording::None, Some(Protocol::Official))) => {
                    benchmark::official_template(benchmark, task)
                }
                _ => None,
            }
        };
        self.config.template.as_deref().or_else(official)
    }
}

/// The layout of the authors' `eval_bench.py`: for the problem type "multiple choice", "Options:" follows the problem
/// without a space and every option ends with a line break; any other problem is asked without its options.
fn authors_layout(question: &Question) -> String {
    let options = question.options.as_deref().unwrap_or_default();
    if question.problem_type.as_deref() != Some("multiple choice") || options.is_empty() {
        return question.problem.clone();
    }
    format!("{}Options:\n{}\n", question.problem, options.join("\n"))
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
        let asking = Asking::new(&config);
        (asking.text(question, None), asking.name(), asking.hash())
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
        assert_eq!(ask(authors, &question("")).0, "Why?");
        let own = |config: &mut EvalConfig| config.template = Some("Q: {question} A:".into());
        let (text, name, _) = ask(own, &question(""));
        assert_eq!(
            (text.as_str(), name.as_str()),
            ("Q: Why?\nA. x\nB. y A:", "template")
        );
    }

    #[test]
    fn an_official_wording_depends_on_the_task() {
        let official = |config: &mut EvalConfig| {
            config.protocol = Some(Protocol::Official);
            config.benchmark = Some(Benchmark::Tempcompass);
        };
        let (text, name, _) = ask(official, &question(""));
        assert!(text.ends_with("give the best option:"), "{text}");
        assert_eq!(name, "tempcompass (official)");
        let yes_no = question(r#","splits":{"task":"yes_no"}"#);
        assert!(ask(official, &yes_no).0.ends_with("answer yes or no:"));
    }

    #[test]
    fn other_words_have_another_hash() {
        let hash = |wording| ask(|config| config.wording = wording, &question("")).2;
        assert_ne!(hash(Wording::None), hash(Wording::Training));
        assert_eq!(hash(Wording::None), hash(Wording::None));
    }

    #[test]
    fn what_is_said_stands_in_front() {
        let asking = Asking::new(&EvalConfig {
            wording: Wording::None,
            ..EvalConfig::default()
        });
        let text = asking.text(&question(""), Some("hello\nthere"));
        assert!(text.starts_with("What is said in the video:\nhello\nthere\n\nWhy?"));
        assert!(asking.text(&question(""), Some("")).starts_with("Why?"));
    }
}
