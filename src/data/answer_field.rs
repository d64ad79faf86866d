//! The answer that a record gives, under the names and in the forms of other projects. Two that differ are refused.

use super::answer::Answer;
use super::answer::option::letter_index;
use super::answer::solution::letters_of;
use crate::util::words::beginning;
use serde_json::Map;
use serde_json::Value;

/// Fields that hold the answer; the first that is there counts.
const ANSWERS: [&str; 4] = ["solution", "answer", "ground_truth", NESTED];
/// verl's, a field in another.
const NESTED: &str = "reward_model.ground_truth";

/// Puts the answer into `solution`; the name of the field that it was taken from, if another. `choices` are the question's
/// options, as far as they are known.
///
/// # Errors
/// It is no answer, or another field gives another.
pub(super) fn name_solution(
    fields: &mut Map<String, Value>,
    choices: &[String],
) -> Result<Option<&'static str>, String> {
    let mut found: Option<(&'static str, String)> = None;
    for name in ANSWERS {
        let Some(value) = value_of(fields, name) else {
            continue;
        };
        let text = text_of(name, value, choices);
        match &found {
            None => found = Some((name, text?)),
            // Beside an answer there may be anything; what says another answer is refused.
            Some((first, answer)) => {
                if let Ok(other) = text
                    && !agree(answer, &other, choices)
                {
                    return Err(format!(
                        "`{first}` says {:?} and `{name}` says {:?}: keep the right one of them",
                        beginning(answer, 80),
                        beginning(&other, 80)
                    ));
                }
            }
        }
    }
    let Some((name, text)) = found else {
        return Ok(None);
    };
    fields.shift_remove(if name == NESTED { "reward_model" } else { name });
    fields.insert("solution".into(), text.into());
    Ok((name != "solution").then_some(name))
}

fn value_of<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let value = match name.split_once('.') {
        Some((outer, inner)) => fields.get(outer)?.get(inner)?,
        None => fields.get(name)?,
    };
    (!value.is_null()).then_some(value)
}

/// An answer as text: a text, a number, or the right options in a list.
fn text_of(name: &str, value: &Value, choices: &[String]) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(items) => {
            let items = items.iter().map(|item| text_of(name, item, choices));
            let items = items.collect::<Result<Vec<String>, String>>()?;
            if let [one] = items.as_slice() {
                return Ok(one.clone());
            }
            let letter = |item: &String| {
                let is_letter = letter_index(item.trim()).is_some();
                let by_text = || letters_of(item, choices);
                if is_letter {
                    Some(item.trim().to_owned())
                } else if choices.is_empty() {
                    None
                } else {
                    Some(by_text())
                        .filter(|read| read.unreadable.is_none())
                        .map(|read| read.answer)
                }
            };
            let letters: Option<Vec<String>> = items.iter().map(letter).collect();
            letters.filter(|letters| !letters.is_empty()).map(|letters| letters.join(",")).ok_or_else(|| {
                format!(
                    "`{name}` is the list {}: write the letters of all right options, \"A,C\", or the one answer as text",
                    beginning(&value.to_string(), 80)
                )
            })
        }
        other => Err(format!(
            "`{name}` is {}: write the answer as text, \"A,C\" or a word",
            beginning(&other.to_string(), 80)
        )),
    }
}

/// Whether two answers do not contradict each other. What cannot be read as one of the options, such as an explanation beside
/// a letter, contradicts nothing.
fn agree(first: &str, other: &str, choices: &[String]) -> bool {
    let plain = |text: &str| {
        Answer::parse(text)
            .to_string()
            .trim()
            .trim_end_matches('.')
            .to_lowercase()
    };
    let is_letters = |text: &str| {
        let answer = Answer::parse(text);
        !answer.is_empty() && answer.items().all(|item| letter_index(item).is_some())
    };
    if plain(first) == plain(other) {
        return true;
    }
    if choices.is_empty() {
        // A letter's text may be anything.
        return is_letters(first) != is_letters(other);
    }
    let read = |text: &str| {
        let read = letters_of(text, choices);
        read.unreadable.is_none().then_some(read.answer)
    };
    match (read(first), read(other)) {
        (Some(first), Some(other)) => first == other,
        (Some(letter), None) => may_be_number(&letter, other),
        (None, Some(letter)) => may_be_number(&letter, first),
        (None, None) => false,
    }
}

/// Whether a text may be the number of the option with this letter, counted from 0 or from 1, or is no number.
fn may_be_number(letter: &str, text: &str) -> bool {
    let index = letter_index(letter);
    match (text.trim().parse::<usize>(), index) {
        (Ok(number), Some(index)) => number == index || number == index + 1,
        (Ok(_), None) => false,
        (Err(_), _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn solution(
        record: &Value,
        choices: &[&str],
    ) -> Result<(String, Option<&'static str>), String> {
        let mut fields = record.as_object().unwrap().clone();
        let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
        let name = name_solution(&mut fields, &choices)?;
        Ok((
            fields["solution"].as_str().unwrap_or_default().to_owned(),
            name,
        ))
    }

    #[test]
    fn answers_that_agree_are_one() {
        let options = ["left", "right", "up"];
        for (record, options, expected) in [
            (
                json!({"solution": "B", "answer": "right"}),
                &options[..],
                "B",
            ),
            (
                json!({"solution": "<answer>B</answer>", "answer": "B. right"}),
                &options,
                "<answer>B</answer>",
            ),
            (
                json!({"solution": "right", "answer": "B"}),
                &options,
                "right",
            ),
            (json!({"solution": "B", "answer": 1}), &options, "B"),
            (json!({"solution": "B", "answer": 2}), &options, "B"),
            (
                json!({"solution": "B", "answer": "because of the slope"}),
                &options,
                "B",
            ),
            (
                json!({"solution": "B", "answer": {"why": 1}}),
                &options,
                "B",
            ),
            (
                json!({"solution": "A,C", "answer": ["C", "A"]}),
                &options,
                "A,C",
            ),
            (
                json!({"solution": "B", "reward_model": {"ground_truth": "B"}}),
                &options,
                "B",
            ),
            (json!({"solution": "B", "answer": "right"}), &[], "B"),
            (json!({"solution": "Red.", "answer": "red"}), &[], "Red."),
            (json!({"solution": ["B"]}), &options, "B"),
            (json!({"solution": ["left", "up"]}), &options, "A,C"),
            (json!({"solution": ["A", "C"]}), &[], "A,C"),
            (json!({"solution": 3}), &[], "3"),
        ] {
            assert_eq!(
                solution(&record, options).unwrap(),
                (expected.to_owned(), None),
                "{record}"
            );
        }
        let nested = json!({"reward_model": {"style": "rule", "ground_truth": "B"}});
        assert_eq!(
            solution(&nested, &options).unwrap(),
            ("B".to_owned(), Some(NESTED))
        );
        assert_eq!(
            solution(&json!({"answer": "B", "ground_truth": "right"}), &options)
                .unwrap()
                .1,
            Some("answer")
        );
    }

    #[test]
    fn answers_that_differ_are_refused_with_both() {
        let options = ["left", "right"];
        for (record, options, said) in [
            (
                json!({"solution": "A", "answer": "B"}),
                &options[..],
                ["`solution` says \"A\"", "`answer` says \"B\""],
            ),
            (
                json!({"solution": "A", "answer": "right"}),
                &options,
                ["says \"A\"", "says \"right\""],
            ),
            (
                json!({"solution": "left", "answer": "B"}),
                &options,
                ["says \"left\"", "says \"B\""],
            ),
            (
                json!({"solution": "left", "answer": "right"}),
                &options,
                ["says \"left\"", "says \"right\""],
            ),
            (
                json!({"solution": "A", "answer": 2}),
                &options,
                ["says \"A\"", "says \"2\""],
            ),
            (
                json!({"solution": "A", "reward_model": {"ground_truth": "B"}}),
                &options,
                ["`solution`", "`reward_model.ground_truth` says \"B\""],
            ),
            (
                json!({"answer": "A", "ground_truth": "B"}),
                &options,
                ["`answer`", "`ground_truth`"],
            ),
            (
                json!({"solution": "A", "answer": ["A", "B"]}),
                &options,
                ["`solution`", "\"A,B\""],
            ),
            (
                json!({"solution": "A", "answer": "B"}),
                &[],
                ["`solution`", "`answer`"],
            ),
            (
                json!({"solution": "red", "answer": "blue"}),
                &[],
                ["\"red\"", "\"blue\""],
            ),
        ] {
            let error = solution(&record, options).unwrap_err();
            for part in said {
                assert!(error.contains(part), "{record}: {error}");
            }
            assert!(error.contains("keep the right one"), "{error}");
        }
        for (record, said) in [
            (
                json!({"solution": {"a": 1}}),
                "`solution` is {\"a\":1}: write the answer as text",
            ),
            (
                json!({"answer": true}),
                "`answer` is true: write the answer",
            ),
            (
                json!({"solution": ["red", "blue"]}),
                "the letters of all right options",
            ),
            (json!({"solution": []}), "the letters of all right options"),
        ] {
            let error = solution(&record, &[]).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
