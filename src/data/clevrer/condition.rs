//! A counterfactual question without its condition: what is left asks about the clip as it is.
//!
//! Stage 1 of the paper strikes the condition out (the framework figure). Nothing is guessed from the English: the program
//! says which object is removed and whether it is asked what happens or what does not, CLEVRER writes that in twelve ways
//! at most, and a question that is none of them to the letter is an error.

use super::OfficialQuestion;
use thiserror::Error;

/// Why a condition cannot be taken out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ConditionError {
    /// The program does not remove one object described by its colour, material and shape.
    #[error(
        "its program {program:?} removes no single object described by colour, material and shape"
    )]
    Program { program: String },
    /// The text is not one that CLEVRER writes for the program.
    #[error(
        "{text:?} is none of CLEVRER's ways to ask what {} when {removed} is removed",
        if *negated { "will not happen" } else { "will happen" }
    )]
    Text {
        text: String,
        /// The removed object, as the program describes it.
        removed: String,
        /// Whether the program asks for what does not happen.
        negated: bool,
    },
}

/// How CLEVRER asks what happens.
const ASKING: [&str; 3] = ["what", "which event", "which of the following"];

/// The text of a counterfactual question without the condition: "Without the red cube, what will happen?" becomes "What
/// will happen?".
///
/// # Errors
/// The program or the text is not one of CLEVRER's.
pub(crate) fn without_condition(question: &OfficialQuestion) -> Result<String, ConditionError> {
    let (removed, negated) = removal(&question.program).ok_or_else(|| ConditionError::Program {
        program: question.program.join(" "),
    })?;
    let happens = if negated {
        "will not happen"
    } else {
        "will happen"
    };
    let text = question.question.trim();
    for asking in ASKING {
        let asked = format!("{asking} {happens}");
        let ways = [
            format!("{asked} without {removed}?"),
            format!("{asked} if {removed} is removed?"),
            format!("without {removed}, {asked}?"),
            format!("if {removed} is removed, {asked}?"),
        ];
        if ways.iter().any(|way| capitalised(way) == text) {
            return Ok(format!("{}?", capitalised(&asked)));
        }
    }
    Err(ConditionError::Text {
        text: text.to_owned(),
        removed,
        negated,
    })
}

/// The removed object as CLEVRER names it, "the red rubber cube", and whether it is asked what does not happen.
fn removal(program: &[String]) -> Option<(String, bool)> {
    let words: Vec<&str> = program.iter().map(String::as_str).collect();
    let (words, negated) = match words.as_slice() {
        [words @ .., "negate"] => (words, true),
        words => (words, false),
    };
    // Question files have the first spelling, the executor knows the others too.
    let ends = [
        ["unique", "get_counterfact", "belong_to"],
        ["unique", "filter_counterfact", "belong_to"],
        ["unique", "counterfact_events", "belong_to"],
    ];
    let (body, end) = words.split_last_chunk::<3>()?;
    if !ends.contains(end) {
        return None;
    }
    let body = if end[1] == "counterfact_events" {
        body
    } else {
        body.strip_prefix(&["all_events"])?
    };
    let selection = body.strip_prefix(&["objects"])?;
    let (mut color, mut material, mut shape) = (None, None, None);
    for step in selection.chunks(2) {
        let [word, filter] = step else { return None };
        let place = match *filter {
            "filter_color" => &mut color,
            "filter_material" => &mut material,
            "filter_shape" => &mut shape,
            _ => return None,
        };
        if place.replace(*word).is_some() {
            return None;
        }
    }
    let looks = [Some("the"), color, material, shape.or(Some("object"))];
    let looks: Vec<&str> = looks.into_iter().flatten().collect();
    Some((looks.join(" "), negated))
}

/// The text with a capital at its start.
fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(text: &str, program: &str) -> Result<String, ConditionError> {
        without_condition(&OfficialQuestion {
            question_id: 0,
            question: text.to_owned(),
            question_type: "counterfactual".into(),
            question_subtype: None,
            program: program.split_whitespace().map(str::to_owned).collect(),
            answer: None,
            choices: Vec::new(),
        })
    }

    const CUBE: &str = "all_events objects red filter_color rubber filter_material cube filter_shape unique get_counterfact belong_to";

    #[test]
    fn every_way_of_asking_loses_its_condition() {
        for (text, asked) in [
            (
                "What will happen without the red rubber cube?",
                "What will happen?",
            ),
            (
                "What will happen if the red rubber cube is removed?",
                "What will happen?",
            ),
            (
                "Without the red rubber cube, what will happen?",
                "What will happen?",
            ),
            (
                "If the red rubber cube is removed, what will happen?",
                "What will happen?",
            ),
            (
                "Without the red rubber cube, which event will happen?",
                "Which event will happen?",
            ),
            (
                "Which of the following will happen if the red rubber cube is removed?",
                "Which of the following will happen?",
            ),
        ] {
            assert_eq!(strip(text, CUBE).as_deref(), Ok(asked));
            let negated = text.replace("will happen", "will not happen");
            let asked = asked.replace("will happen", "will not happen");
            assert_eq!(strip(&negated, &format!("{CUBE} negate")), Ok(asked));
        }
    }

    #[test]
    fn an_object_is_named_by_what_its_program_filters() {
        for (selection, name) in [
            ("metal filter_material", "the metal object"),
            ("sphere filter_shape", "the sphere"),
            (
                "gray filter_color cylinder filter_shape",
                "the gray cylinder",
            ),
            (
                "cylinder filter_shape gray filter_color",
                "the gray cylinder",
            ),
            ("", "the object"),
        ] {
            let text = format!("Without {name}, what will happen?");
            for program in [
                format!("all_events objects {selection} unique get_counterfact belong_to"),
                format!("objects {selection} unique counterfact_events belong_to"),
            ] {
                assert_eq!(strip(&text, &program).as_deref(), Ok("What will happen?"));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for text in [
            "What will happen without the red cube?",
            "What will happen without the red rubber cube",
            "What will happen without the red rubber cube and the sphere?",
            "What will not happen without the red rubber cube?",
            "What would happen without the red rubber cube?",
            "what will happen without the red rubber cube?",
        ] {
            let message = strip(text, CUBE).unwrap_err().to_string();
            for part in [text, "the red rubber cube", "will happen"] {
                assert!(message.contains(part), "{part:?}: {message}");
            }
        }
        for program in [
            "unseen_events belong_to",
            "all_events objects red filter_color unique get_counterfact",
            "all_events objects red filter_color blue filter_color unique get_counterfact belong_to",
            "all_events objects red unique get_counterfact belong_to",
            "all_events objects null filter_moving unique get_counterfact belong_to",
            "",
        ] {
            let message = strip("What will happen without the red object?", program).unwrap_err();
            assert!(
                message.to_string().contains("removes no single object"),
                "{message}"
            );
        }
    }
}
