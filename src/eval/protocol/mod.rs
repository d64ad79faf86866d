//! The words of a protocol: what stands around a question, in which order, under which marks.
//!
//! The order, the marks of options, who says what and what an answer is begun with are facts about a protocol and are followed.
//! Sentences are read from a clone of its repository where `eval.protocol_from` names one ([`source`]); without it they are
//! our own, which is said in the scores.

use crate::config::Benchmark;
use crate::config::EvalConfig;
use crate::config::Protocol;
use crate::eval::error::EvalError;
use benchmarks::authors;
use benchmarks::mmvu;
use benchmarks::mvbench;
use benchmarks::tempcompass;
use benchmarks::video_holmes;
use benchmarks::videomme;
use benchmarks::videomme_block;
use serde::Deserialize;
use serde::Serialize;
use source::Source;
use std::path::Path;

mod benchmarks;
mod python;
mod remarks;
mod source;

pub(super) use remarks::remarks;

/// Where the exact words of a protocol were found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProtocolFile {
    /// The file in the clone.
    pub(crate) file: String,
    /// Its SHA-256.
    pub(crate) sha256: String,
}

/// How options are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OptionMarks {
    /// `A. …`, a line each.
    Dots,
    /// `(A) …`, a line each.
    Brackets,
    /// `A: …`, a line each.
    Colons,
    /// `A: …, B: …`
    Inline,
}

impl OptionMarks {
    /// The options with their marks.
    pub(super) fn put(self, options: &[String]) -> String {
        let marked = options
            .iter()
            .zip('A'..='Z')
            .map(|(text, letter)| match self {
                Self::Dots => format!("{letter}. {text}"),
                Self::Brackets => format!("({letter}) {text}"),
                Self::Colons | Self::Inline => format!("{letter}: {text}"),
            });
        let marked: Vec<String> = marked.collect();
        marked.join(if self == Self::Inline { ", " } else { "\n" })
    }
}

/// What kind of answer a question of a protocol wants: each is asked for in words of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// Options, one right.
    Choice,
    /// Captions of which one is right (TempCompass).
    Captions,
    /// `yes` or `no`.
    YesNo,
    /// A caption is to be written.
    Captioning,
    Number,
    /// Words.
    Open,
}

impl TaskKind {
    pub(super) const ALL: [Self; 6] = [
        Self::Choice,
        Self::Captions,
        Self::YesNo,
        Self::Captioning,
        Self::Number,
        Self::Open,
    ];
}

/// What stands around one kind of question. Its `Debug` text is part of `wording_hash`: a change of it would make stored
/// evaluations others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    /// The system's message; absent: the chat template's own.
    pub(super) system: Option<String>,
    /// What the user says; `{question}` and, where they stand apart from it, `{options}`.
    pub(super) text: String,
    /// How options that stand apart are marked.
    pub(super) marks: OptionMarks,
    /// What the assistant's answer is begun with.
    pub(super) prefix: &'static str,
    /// The end of that, which is read with the answer.
    pub(super) read_with: &'static str,
}

impl Words {
    fn user(text: impl Into<String>, marks: OptionMarks) -> Self {
        Self {
            system: None,
            text: text.into(),
            marks,
            prefix: "",
            read_with: "",
        }
    }
}

/// The words of a protocol for every kind of question.
#[derive(Debug, Clone)]
pub(super) struct ProtocolWords {
    protocol: Protocol,
    benchmark: Option<Benchmark>,
    exact: Option<Source>,
    /// What stands around a question of each kind; none for kinds that the protocol asks as `eval.wording` does.
    by_kind: Vec<(TaskKind, Words)>,
}

impl ProtocolWords {
    /// Of the configured protocol, if there is one; reads the clone that it names.
    pub(super) fn new(config: &EvalConfig) -> Result<Option<Self>, EvalError> {
        let Some(protocol) = config.protocol else {
            return Ok(None);
        };
        let mut words = Self {
            protocol,
            benchmark: config.benchmark,
            exact: config
                .protocol_from
                .as_deref()
                .map(|clone| Source::find(clone, protocol, config.benchmark))
                .transpose()?,
            by_kind: Vec::new(),
        };
        for kind in TaskKind::ALL {
            let Some(of_kind) = words.read(kind)? else {
                continue;
            };
            if let Some(source) = &words.exact
                && !of_kind.text.contains("{question}")
            {
                return Err(source.lacks("{question}"));
            }
            words.by_kind.push((kind, of_kind));
        }
        Ok(Some(words))
    }

    /// The file that the exact words are from.
    pub(super) fn file(&self) -> Option<&ProtocolFile> {
        self.exact.as_ref().map(|source| &source.file)
    }

    /// What stands around a question of this kind; `None` where the protocol asks as `eval.wording` does.
    pub(super) fn of(&self, kind: TaskKind) -> Option<&Words> {
        let mut known = self.by_kind.iter();
        known.find(|(of, _)| *of == kind).map(|(_, words)| words)
    }

    fn read(&self, kind: TaskKind) -> Result<Option<Words>, EvalError> {
        if self.protocol == Protocol::Authors {
            return self
                .exact
                .as_ref()
                .map(|source| authors(source, kind))
                .transpose();
        }
        let Some(benchmark) = self.benchmark else {
            return Ok(None);
        };
        let exact = self.exact.as_ref();
        Ok(match benchmark {
            Benchmark::Clevrer => None,
            Benchmark::Mvbench => Some(mvbench(exact)?),
            Benchmark::Videomme => Some(videomme(exact)?),
            Benchmark::VideoHolmes => Some(video_holmes(exact)?),
            Benchmark::Mmvu | Benchmark::MmvuOpen => Some(mmvu(exact, kind)?),
            Benchmark::Tempcompass
            | Benchmark::TempcompassFlat
            | Benchmark::TempcompassCaptioning => Some(tempcompass(exact, kind)?),
        })
    }

    /// What stands before a question when what is said in the clip is shown; `{subtitles}` in it. Absent: the protocol has none.
    pub(super) fn subtitles(&self) -> Option<String> {
        let source = self.exact.as_ref()?;
        let (before, _) = videomme_block(source)?;
        (self.benchmark == Some(Benchmark::Videomme) && self.protocol == Protocol::Official)
            .then_some(before)
    }
}

/// For messages: the file or folder as it was named.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(protocol: Protocol, benchmark: Benchmark, clone: Option<&Path>) -> ProtocolWords {
        let config = EvalConfig {
            protocol: Some(protocol),
            benchmark: Some(benchmark),
            protocol_from: clone.map(Path::to_owned),
            ..EvalConfig::default()
        };
        ProtocolWords::new(&config).unwrap().unwrap()
    }

    fn text(words: &ProtocolWords, kind: TaskKind) -> String {
        words.of(kind).unwrap().text.clone()
    }

    #[test]
    fn options_are_marked_as_the_benchmark_does() {
        let options = ["red", "blue"].map(String::from);
        assert_eq!(OptionMarks::Dots.put(&options), "A. red\nB. blue");
        assert_eq!(OptionMarks::Brackets.put(&options), "(A) red\n(B) blue");
        assert_eq!(OptionMarks::Colons.put(&options), "A: red\nB: blue");
        assert_eq!(OptionMarks::Inline.put(&options), "A: red, B: blue");
    }

    #[test]
    fn the_exact_words_come_from_a_clone() {
        let clone = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = clone.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        write(
            "src/eval/eval_bench.py",
            "QUESTION_TEMPLATE = (\n    \"{Question}\\n\"\n    \"Mull it over.\"\n)\n\
             TYPE_TEMPLATE = {\n    \"multiple choice\": \" One letter.\",\n    \"numerical\": \" A number.\",\n    \"free-form\": \" Words.\"\n}\n",
        );
        let authors = words(Protocol::Authors, Benchmark::Mmvu, Some(clone.path()));
        assert_eq!(
            text(&authors, TaskKind::Choice),
            "{question}\nMull it over. One letter."
        );
        assert_eq!(
            text(&authors, TaskKind::Open),
            "{question}\nMull it over. Words."
        );
        assert_eq!(authors.file().unwrap().file, "src/eval/eval_bench.py");

        let cell = "def infer(system=\"\", question_prompt=''):\n    pass\ninfer(\n    system=\"Look.\\n\",\n    question_prompt=\"\\nBest one.\",\n)\n";
        let notebook = serde_json::json!({"cells": [{"cell_type": "code", "source": [cell]}]});
        write("video_chat2/mvbench.ipynb", &notebook.to_string());
        let mvbench = words(Protocol::Official, Benchmark::Mvbench, Some(clone.path()));
        let found = mvbench.of(TaskKind::Choice).unwrap();
        assert_eq!(
            found.text,
            "Look.\nQuestion: {question}\nOptions:\n{options}\nBest one."
        );
        assert_eq!(found.system.as_deref(), Some("Look."));
        assert_eq!((found.prefix, found.read_with), ("Best option:(", "("));

        write(
            "utils/constant.py",
            "MULTI_CHOICE_COT_PROMPT = Template(\"\"\"\nQ: $question\n$optionized_str\nEnd: $$LETTER\"\"\")\n\
             OPEN_ENDED_COT_PROMPT = Template(\"\"\"Q: $question\"\"\")\n",
        );
        let mmvu = words(Protocol::Official, Benchmark::Mmvu, Some(clone.path()));
        assert_eq!(
            text(&mmvu, TaskKind::Choice),
            "\nQ: {question}\n{options}\nEnd: $LETTER"
        );
        assert_eq!(text(&mmvu, TaskKind::Open), "Q: {question}");

        write(
            "README.md",
            "x\n```\nIt is said:\n[Subtitles] \nPick one. \n[Question]\nIt is:\n```\n",
        );
        let videomme = words(Protocol::Official, Benchmark::Videomme, Some(clone.path()));
        assert_eq!(
            text(&videomme, TaskKind::Choice),
            "Pick one.\n{question}\n{options}\nIt is:"
        );
        assert_eq!(
            videomme.subtitles().as_deref(),
            Some("It is said:\n{subtitles}\n")
        );

        write(
            "evaluate.py",
            "question_prompt = f\"Q: {question}. O: {options}. A:\"\n",
        );
        let holmes = words(
            Protocol::Official,
            Benchmark::VideoHolmes,
            Some(clone.path()),
        );
        assert_eq!(
            text(&holmes, TaskKind::Choice),
            "Q: {question}. O: {options}. A:"
        );

        write(
            "run_qwen2_vl.py",
            "answer_prompt = {\n    # \"multi-choice\": \"old\",\n    \"multi-choice\": \"\\nBest:\",\n    \"yes_no\": \"\\nYes or no:\",\n    \
             \"caption_matching\": \"\\nBest:\",\n    \"captioning\": \"\"\n}\n",
        );
        let tempcompass = words(
            Protocol::Official,
            Benchmark::Tempcompass,
            Some(clone.path()),
        );
        assert_eq!(
            text(&tempcompass, TaskKind::YesNo),
            "{question}\nYes or no:"
        );
        assert_eq!(text(&tempcompass, TaskKind::Captioning), "{question}");
    }

    #[test]
    fn without_a_clone_the_order_is_kept_and_the_words_are_said_to_be_ours() {
        let mvbench = words(Protocol::Official, Benchmark::Mvbench, None);
        let found = mvbench.of(TaskKind::Choice).unwrap();
        assert!(
            found
                .text
                .contains("\nQuestion: {question}\nOptions:\n{options}\n")
        );
        assert!(found.system.is_some() && found.prefix.ends_with('('));
        let config = EvalConfig {
            protocol: Some(Protocol::Official),
            benchmark: Some(Benchmark::Mvbench),
            ..EvalConfig::default()
        };
        let said = remarks(&config, Some(&mvbench)).join("\n");
        for part in [
            "our own words",
            "mvbench.ipynb",
            "OpenGVLab/Ask-Anything",
            "224 x 224",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_clone_without_the_words_is_refused() {
        let clone = tempfile::tempdir().unwrap();
        let config = EvalConfig {
            protocol: Some(Protocol::Authors),
            protocol_from: Some(clone.path().to_owned()),
            ..EvalConfig::default()
        };
        let missing = ProtocolWords::new(&config).unwrap_err().to_string();
        assert!(missing.contains("src/eval/eval_bench.py"), "{missing}");
        std::fs::write(clone.path().join("eval_bench.py"), "X = 1").unwrap();
        let other = ProtocolWords::new(&config).unwrap_err().to_string();
        assert!(other.contains("QUESTION_TEMPLATE"), "{other}");
    }
}
