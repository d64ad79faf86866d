//! The words of a protocol: what stands around a question, in which order, under which marks.
//!
//! The order, the marks of options, who says what and what an answer is begun with are facts about a protocol and are followed.
//! Sentences are read from a clone of its repository where `eval.protocol_from` names one ([`source`]); without it they are
//! our own, which is said in the scores.

use crate::config::Benchmark;
use crate::config::EvalConfig;
use crate::config::Protocol;
use crate::eval::error::EvalError;
use serde::Deserialize;
use serde::Serialize;
use source::Source;
use std::path::Path;

mod python;
mod source;

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
    /// A number.
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

/// `QUESTION_TEMPLATE` and `TYPE_TEMPLATE` of the authors' `eval_bench.py`. What has options is multiple choice there.
fn authors(source: &Source, kind: TaskKind) -> Result<Words, EvalError> {
    let around = source.text("QUESTION_TEMPLATE")?;
    let wanted = source.entry(
        "TYPE_TEMPLATE",
        match kind {
            TaskKind::Choice | TaskKind::Captions => "multiple choice",
            TaskKind::Number => "numerical",
            TaskKind::YesNo | TaskKind::Captioning | TaskKind::Open => "free-form",
        },
    )?;
    let text = around.replace("{Question}", "{question}") + &wanted;
    Ok(Words::user(text, OptionMarks::Dots))
}

/// `infer_mvbench` of `mvbench.ipynb`: the system's text stands before the question too, and the answer is begun.
fn mvbench(exact: Option<&Source>) -> Result<Words, EvalError> {
    let (system, last) = match exact {
        Some(source) => (source.text("system")?, source.text("question_prompt")?),
        None => (
            "Look closely at the whole video: what happens and why and in which order, what the objects are and how they move, \
             what people do and how they hold themselves. Then pick the option that fits the question best, going by what you \
             saw.\n"
                .to_owned(),
            "\nGive the best option and nothing more.".to_owned(),
        ),
    };
    Ok(Words {
        text: format!("{system}Question: {{question}}\nOptions:\n{{options}}{last}"),
        system: Some(system.trim_end().to_owned()),
        marks: OptionMarks::Brackets,
        prefix: "Best option:(",
        read_with: "(",
    })
}

/// The prompt in Video-MME's README: instruction, question, options, and the beginning of an answer.
fn videomme(exact: Option<&Source>) -> Result<Words, EvalError> {
    let text = match exact {
        Some(source) => {
            let block = videomme_block(source);
            block.map(|(_, text)| text).ok_or_else(|| source.lacks("[Question]"))?
        }
        None => "Which option answers this question about the video? Reply with its letter (A, B, C or D) only.\n\
                 {question}\n{options}\nAnswer:"
            .to_owned(),
    };
    Ok(Words::user(text, OptionMarks::Dots))
}

/// What stands before the question with subtitles, and the rest, which is all without them.
fn videomme_block(source: &Source) -> Option<(String, String)> {
    let block = source
        .content
        .split("```")
        .skip(1)
        .step_by(2)
        .find(|block| block.contains("[Subtitles]") && block.contains("[Question]"))?;
    let lines: Vec<&str> = block.trim().lines().map(str::trim_end).collect();
    let at = lines.iter().position(|line| line.contains("[Subtitles]"))?;
    let (before, rest) = lines.split_at(at + 1);
    let before = before.join("\n").replace("[Subtitles]", "{subtitles}");
    let rest = rest
        .join("\n")
        .replace("[Question]", "{question}\n{options}");
    Some((before + "\n", rest))
}

/// `question_prompt` of Video-Holmes' `evaluate.py`.
fn video_holmes(exact: Option<&Source>) -> Result<Words, EvalError> {
    let text = match exact {
        Some(source) => source.text("question_prompt")?,
        None => "Think about the video and answer this question, of whose options one is right. Write your reasoning between \
                 <think> and </think> and then the answer between <answer> and </answer>. Question: {question}. Options: \
                 {options}. Answer:"
            .to_owned(),
    };
    Ok(Words::user(text, OptionMarks::Inline))
}

/// `MULTI_CHOICE_COT_PROMPT` and `OPEN_ENDED_COT_PROMPT` of MMVU's `constant.py`, Python's `string.Template`s.
fn mmvu(exact: Option<&Source>, kind: TaskKind) -> Result<Words, EvalError> {
    let has_options = matches!(kind, TaskKind::Choice | TaskKind::Captions);
    let text = match (exact, has_options) {
        (Some(source), true) => template(&source.text("MULTI_CHOICE_COT_PROMPT")?),
        (Some(source), false) => template(&source.text("OPEN_ENDED_COT_PROMPT")?),
        (None, true) => "Question: {question}\n{options}\n\nReason step by step and say how you come to your answer. The last \
                         line is: Therefore, the final answer is: $LETTER, where $LETTER is an option's letter."
            .to_owned(),
        (None, false) => "Question: {question}\n\nReason step by step and say how you come to your answer. The last line is: \
                          Therefore, the final answer is: $ANSWER, where $ANSWER is the answer itself."
            .to_owned(),
    };
    Ok(Words::user(text, OptionMarks::Colons))
}

/// A `string.Template` with our names.
fn template(text: &str) -> String {
    text.replace("$$", "\u{0}")
        .replace("$question", "{question}")
        .replace("$optionized_str", "{options}")
        .replace('\u{0}', "$")
}

/// `answer_prompt` of TempCompass' `run_*.py`, behind the question, which has its options.
fn tempcompass(exact: Option<&Source>, kind: TaskKind) -> Result<Words, EvalError> {
    let last = match (exact, kind) {
        (Some(source), TaskKind::YesNo) => source.entry("answer_prompt", "yes_no")?,
        (Some(source), TaskKind::Captions) => source.entry("answer_prompt", "caption_matching")?,
        (Some(source), TaskKind::Choice) => source.entry("answer_prompt", "multi-choice")?,
        (Some(source), _) => source.entry("answer_prompt", "captioning")?,
        (None, TaskKind::YesNo) => "\nAnswer yes or no:".to_owned(),
        (None, TaskKind::Choice | TaskKind::Captions) => {
            "\nGive the best option, nothing else:".to_owned()
        }
        // These questions end with what is to be written.
        (None, _) => String::new(),
    };
    Ok(Words::user(
        format!("{{question}}{last}"),
        OptionMarks::Dots,
    ))
}

/// How a protocol differs from what its own program does: a line each in the scores.
pub(super) fn remarks(config: &EvalConfig, words: Option<&ProtocolWords>) -> Vec<String> {
    let Some(protocol) = config.protocol else {
        return Vec::new();
    };
    let mut remarks: Vec<String> = match protocol {
        Protocol::Authors => authors_remarks(config.benchmark),
        Protocol::Official => config.benchmark.map_or_else(Vec::new, official_remarks),
    };
    let file = words.and_then(ProtocolWords::file);
    let is_own = config.template.is_some();
    let asks_as_here =
        protocol == Protocol::Official && config.benchmark == Some(Benchmark::Clevrer);
    remarks.push(match (file, is_own) {
        (_, true) => "asked in the words of eval.template".to_owned(),
        (Some(file), false) => format!("asked in the protocol's own words, from {}", file.file),
        (None, false) if asks_as_here => "asked in our own words: CLEVRER's evaluator asks no language model".to_owned(),
        (None, false) => format!(
            "asked in our own words, in the protocol's order; eval.protocol_from = \"CLONE\" asks in its own, from {} of {}",
            source::files(protocol, config.benchmark).first().unwrap_or(&""),
            source::repository(protocol, config.benchmark)
        ),
    });
    remarks
}

fn authors_remarks(benchmark: Option<Benchmark>) -> Vec<String> {
    let mut remarks = vec![
        "105,369 pixels per frame: the authors' loader reads VIDEO_MAX_PIXELS = 200,704 as the budget of the whole clip",
        "the answer must be the solution to the letter: `C,A` for `A,C` is wrong",
        "greedy, where the authors sample at temperature 0.01 and top-p 0.001",
    ];
    match benchmark {
        Some(Benchmark::Mvbench) => {
            remarks.push("clips are shown whole, not only the part that a question is about");
        }
        Some(Benchmark::Tempcompass) => remarks.push(
            "5,536 questions, without the captions that the authors' file of 7,540 has among them (tempcompass_flat)",
        ),
        Some(Benchmark::TempcompassFlat) => remarks.push(
            "captions are asked as questions about which information is right; how the authors' own file puts them, and whether \
             yes or no are options there, was never seen: eval_tempcompass.json of their repository is read as it is",
        ),
        _ => {}
    }
    remarks.into_iter().map(str::to_owned).collect()
}

fn official_remarks(benchmark: Benchmark) -> Vec<String> {
    let own: &[&str] = match benchmark {
        Benchmark::Mvbench => &[
            "frames are resized as Qwen2.5-VL's, not cut to 224 x 224",
            "an empty answer is wrong; the benchmark's own rule takes it for right",
        ],
        Benchmark::Tempcompass => &[
            "captioning, the fourth task, is tempcompass_captioning",
            "the judge of what the rules leave open is asked in other words than the official ones",
        ],
        Benchmark::TempcompassFlat => &[
            "captions are asked as questions about which information is right; officially a caption is written and judged \
             (tempcompass_captioning)",
            "the judge of what the rules leave open is asked in other words than the official ones",
        ],
        Benchmark::TempcompassCaptioning => {
            &["the judge is asked in other words than the official ones"]
        }
        Benchmark::Mmvu => &[
            "sampled at temperature 1.0, as officially: another seed gives other answers",
            "letters that the strict rule reads are compared, the judge reads the rest; officially it reads all, in other words",
        ],
        Benchmark::MmvuOpen => &[
            "sampled at temperature 1.0, as officially: another seed gives other answers",
            "the right words are right, the judge reads all others; officially it reads all, in other words",
        ],
        Benchmark::Videomme => &[
            "answers without a letter are wrong; the benchmark's own evaluator leaves them out (exact_of_read)",
        ],
        Benchmark::VideoHolmes => {
            &["greedy, where the benchmark samples at temperature 0.1 and top-p 0.001"]
        }
        Benchmark::Clevrer => &[],
    };
    let mut remarks: Vec<String> = own.iter().map(|remark| (*remark).to_owned()).collect();
    if !matches!(benchmark, Benchmark::Mvbench | Benchmark::Clevrer) {
        remarks.push(
            "4 to 32 frames at 2 a second; the benchmark's own scripts leave frames to the model"
                .to_owned(),
        );
    }
    remarks
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
