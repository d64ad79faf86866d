//! A question from what a record says: its text without placeholders, its answer in the spelling that counts.

use super::Import;
use super::Imported;
use super::instructions;
use super::record::LeftOut;
use super::record::NO_TEXT;
use super::record::other_fields;
use super::series::options_in_fields;
use crate::data::Question;
use crate::data::answer::AnswerForm;
use crate::data::answer::ReadBy;
use crate::data::answer::Unreadable;
use crate::data::answer::answer_text;
use crate::data::answer::option::letter;
use crate::data::answer::solution::letters_of;
use crate::data::answer::strict;
use crate::data::impossible::CHAT_TOKENS;
use crate::data::impossible::has_letters;
use crate::data::impossible::is_open;
use crate::data::shapes::name_kind;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// What a record says of one question.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) problem: String,
    pub(super) clip: String,
    /// The answer that a field gives.
    pub(super) given: Option<String>,
    /// What the assistant says.
    pub(super) said: Option<String>,
    /// Written thinking that stands apart.
    pub(super) process: Option<String>,
    /// The record's other fields; options among them.
    pub(super) rest: Map<String, Value>,
}

/// A problem without what it says about the form of its answer, unless that is to be kept.
fn asked(import: &Import, problem: String, place: &str, summary: &mut Imported) -> String {
    let (rest, instructions) = instructions::split(&problem);
    let Some(first) = instructions.first() else {
        return problem;
    };
    let shown = format!("{first:?}");
    if import.keep_instructions {
        let what = "texts that ask for another form of answer than training does";
        summary.remark(what, place, &shown);
        return problem;
    }
    let what =
        "taken out, what a text says about the form of its answer (--keep-instructions keeps it)";
    summary.remark(what, place, &shown);
    rest
}

/// Fields of a question that a source may use for something else.
const OWN_FIELDS: [&str; 9] = [
    "id",
    "kind",
    "options",
    "problem_type",
    "response",
    "wording",
    "grounding",
    "judge",
    "splits",
];

/// The question of a draft.
pub(super) fn question(
    import: &Import,
    draft: Draft,
    place: &str,
    summary: &mut Imported,
) -> Result<Question, LeftOut> {
    let problem = asked(import, draft.problem, place, summary);
    let problem = problem.trim().to_owned();
    if problem.is_empty() {
        return Err(LeftOut::new(NO_TEXT, String::new()));
    }
    if let Some(token) = CHAT_TOKENS
        .into_iter()
        .find(|token| problem.contains(token))
    {
        return Err(LeftOut::new("chat tokens in the text", token.into()));
    }
    let mut fields = Map::new();
    fields.insert("id".into(), "".into());
    fields.insert("problem".into(), problem.into());
    fields.insert("solution".into(), "".into());
    fields.insert("video".into(), draft.clip.into());
    let mut rest = draft.rest;
    name_kind(&mut rest);
    for (name, value) in rest {
        if OWN_FIELDS.contains(&name.as_str()) && !is_own(&name, &value) {
            let kept = format!("source_{name}");
            let what = "fields that mean something else here, kept as `source_…`";
            summary.remark(what, place, &format!("{kept} = {value}"));
            fields.insert(kept, value);
        } else if !fields.contains_key(&name) || name == "id" {
            fields.insert(name, value);
        }
    }
    let mut question: Question = serde_json::from_value(Value::Object(fields))
        .map_err(|error| LeftOut::new("fields that do not fit", error.to_string()))?;
    let choices = question.choices();
    let letters = has_letters(&question, &choices);
    let options = letters.then_some(choices.as_slice());
    let read = |text: &str| answer_of(text, options, import.first_option);
    let (answer, read_by) = match (&draft.given, &draft.said) {
        (Some(given), said) => {
            let answer = read(given)?;
            let other = said.as_deref().and_then(|said| read(said).ok());
            // What is said in words may be a sentence around the answer.
            let differs = |other: &str| {
                let (other, answer) = (other.to_lowercase(), answer.0.to_lowercase());
                other != answer && (letters || !other.contains(answer.trim_end_matches('.')))
            };
            if let Some((other, _)) = other.filter(|(other, _)| differs(other)) {
                return Err(LeftOut::new(
                    "two answers that differ",
                    format!("{} and {other}", answer.0),
                ));
            }
            answer
        }
        (None, Some(said)) => read(said)?,
        (None, None) => {
            return Err(LeftOut::new("no answer", other_fields(&question.extra)));
        }
    };
    if !letters {
        refuse_lost_options(&question)?;
    }
    let is_number = |text: &&String| answer_text(text).parse::<usize>().is_ok();
    if letters
        && import.first_option.is_none()
        && let Some(number) = draft
            .given
            .as_ref()
            .or(draft.said.as_ref())
            .filter(is_number)
    {
        let what = "numbers that are the text of an option, and are taken for it (--first-option 0 or 1 takes them for its number)";
        summary.remark(what, place, &format!("{number:?} is {answer}"));
    }
    if read_by == ReadBy::Prose {
        let said = draft.given.as_ref().or(draft.said.as_ref());
        let said = said.map_or("", String::as_str);
        let detail = format!("{said:?} is read as {answer}");
        summary.remark("an option named in a sentence", place, &detail);
    }
    let tagged = format!("<answer>{answer}</answer>");
    let thinking = draft.process.filter(|process| !process.trim().is_empty());
    let thinking = thinking.or_else(|| {
        let texts = [&draft.said, &draft.given];
        texts
            .into_iter()
            .flatten()
            .find_map(|text| thinking_in(text))
    });
    if question.response.is_none() {
        question.response = thinking.map(|thinking| format!("{thinking}\n{tagged}"));
    }
    question.solution = if letters { tagged } else { answer };
    if question.lacks_options() {
        return Err(LeftOut::new(
            "multiple choice without options",
            question.solution,
        ));
    }
    Ok(question)
}

/// Refuses a question whose options are not known, because each stands in a field of its own.
fn refuse_lost_options(question: &Question) -> Result<(), LeftOut> {
    if is_open(question) {
        return Ok(());
    }
    let Some(names) = options_in_fields(&question.extra) else {
        return Ok(());
    };
    Err(LeftOut::new(
        "options in fields of their own",
        format!(
            "--columns options={}; where answers are numbers, --first-option 0 or 1 is the number of the first one",
            names.join("+")
        ),
    ))
}

/// Whether a value is what a question has under this name.
fn is_own(name: &str, value: &Value) -> bool {
    let mut question = json!({"problem": "?", "solution": "?", "video": "?"});
    question[name] = value.clone();
    serde_json::from_value::<Question>(question).is_ok()
}

/// The answer in a text, by the strict rule: letters where there are options, else the text without its tags.
fn answer_of(
    text: &str,
    options: Option<&[String]>,
    first_option: Option<usize>,
) -> Result<(String, ReadBy), LeftOut> {
    let left = |reason| {
        let start: String = text.trim().chars().take(80).collect();
        LeftOut::new(reason, format!("{start:?}"))
    };
    let Some(options) = options else {
        let is_wrapped =
            text.contains("</think>") || text.contains("<answer>") || text.contains("\\boxed{");
        let answer = if is_wrapped {
            let mut answer = strict::read(text, AnswerForm::Words).answer;
            // The rule that judges answers does without the full stop; the truth keeps its own.
            if !answer.is_empty() && unthought(text).ends_with(&format!("{answer}.")) {
                answer.push('.');
            }
            answer
        } else {
            text.trim().to_owned()
        };
        if answer.is_empty() {
            return Err(left("no answer"));
        }
        return Ok((answer, ReadBy::Whole));
    };
    if let Some(first) = first_option
        && let Ok(number) = answer_text(text).parse::<usize>()
    {
        let index = number
            .checked_sub(first)
            .filter(|index| *index < options.len());
        let letter = index.and_then(letter);
        let letter = letter.ok_or_else(|| left("the number of an option that is not there"))?;
        return Ok((letter.into(), ReadBy::Whole));
    }
    let read = letters_of(text, options);
    match read.unreadable {
        None => Ok((read.answer, read.read_by)),
        Some(Unreadable::Empty) => Err(left("no answer")),
        Some(Unreadable::Unclosed | Unreadable::Thinking) => Err(left("an answer that breaks off")),
        Some(Unreadable::Contradiction) => Err(left("an answer that contradicts itself")),
        Some(_) if first_option.is_none() && answer_text(text).parse::<usize>().is_ok() => Err(
            left("an answer that is a number (--first-option 0 or 1 says which option that is)"),
        ),
        Some(_) => Err(left("an answer that is none of the options")),
    }
}

/// What is answered, without thinking and tags.
fn unthought(text: &str) -> &str {
    let spoken = text.rsplit("</think>").next().unwrap_or(text);
    answer_text(spoken)
}

/// The worked thinking before an answer.
fn thinking_in(text: &str) -> Option<String> {
    const END: &str = "</think>";
    let thinking = match text.rfind(END) {
        Some(end) => &text[..end + END.len()],
        None => text.split_once("<answer>")?.0,
    };
    let thinking = thinking.trim();
    (!thinking.is_empty()).then(|| thinking.to_owned())
}
