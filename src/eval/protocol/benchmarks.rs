//! What stands around a question of each benchmark, and of the authors' evaluation.

use super::OptionMarks;
use super::TaskKind;
use super::Words;
use super::source::Source;
use crate::eval::error::EvalError;

/// `QUESTION_TEMPLATE` and `TYPE_TEMPLATE` of the authors' `eval_bench.py`. What has options is multiple choice there.
pub(super) fn authors(source: &Source, kind: TaskKind) -> Result<Words, EvalError> {
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
pub(super) fn mvbench(exact: Option<&Source>) -> Result<Words, EvalError> {
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
pub(super) fn videomme(exact: Option<&Source>) -> Result<Words, EvalError> {
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
pub(super) fn videomme_block(source: &Source) -> Option<(String, String)> {
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
pub(super) fn video_holmes(exact: Option<&Source>) -> Result<Words, EvalError> {
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
pub(super) fn mmvu(exact: Option<&Source>, kind: TaskKind) -> Result<Words, EvalError> {
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
pub(super) fn tempcompass(exact: Option<&Source>, kind: TaskKind) -> Result<Words, EvalError> {
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
