//! What texts of other projects say about the form of the answer. Training asks for its own, and two forms contradict each other.

use crate::data::answer::option::option_mark;

/// How such sentences begin, in small letters.
const BEGINNINGS: [&str; 14] = [
    "answer with the option",
    "answer with only the letter",
    "answer with the letter",
    "answer the question using a single word",
    "answer the question with a single word",
    "answer with a single word",
    "please answer directly",
    "please answer with the option",
    "please answer with the letter",
    "please respond with only the letter",
    "please provide your answer by stating the letter",
    "please select the correct answer",
    "respond with only the letter",
    "only give the best option",
];

/// A text without these sentences, and the sentences.
pub(super) fn split(text: &str) -> (String, Vec<&str>) {
    let (mut kept, mut found) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match instruction_at(line) {
            None => kept.push(line),
            Some(start) => {
                found.push(line[start..].trim());
                let before = line[..start].trim_end();
                if !before.is_empty() {
                    kept.push(before);
                }
            }
        }
    }
    (kept.join("\n").trim().to_owned(), found)
}

/// Where a sentence of this kind begins that goes on to the end of its line.
fn instruction_at(line: &str) -> Option<usize> {
    let small = line.to_ascii_lowercase();
    let begins = |start: &usize| {
        let before = line[..*start].trim_end();
        let is_sentence = before.is_empty() || before.ends_with(['.', '?', '!', ':', '>']);
        // An option may say anything.
        is_sentence && (before.is_empty() || option_mark(line).is_none())
    };
    let starts = BEGINNINGS
        .iter()
        .flat_map(|beginning| small.match_indices(beginning).map(|(start, _)| start));
    let start = starts.filter(begins).min()?;
    // What asks something behind it is no instruction alone.
    (!line[start..].contains('?')).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_taken_out_and_questions_stay() {
        for (text, rest) in [
            (
                "Where?\nA. left\nB. right\nAnswer with the option's letter from the choices.",
                "Where?\nA. left\nB. right",
            ),
            ("Answer with the letter.\nWhere?", "Where?"),
            ("Where? Please answer directly with a letter.", "Where?"),
            (
                "Which colour?\nAnswer the question using a single word or phrase.",
                "Which colour?",
            ),
            (
                "Where?\nPlease respond with only the letter of the answer.\nA. left\nB. right",
                "Where?\nA. left\nB. right",
            ),
        ] {
            let (kept, found) = split(text);
            assert_eq!((kept.as_str(), found.len()), (rest, 1), "{text}");
        }
        for text in [
            "Why did she answer with the letter?",
            "Answer with the option that fits: what is he doing?",
            "What does the card say?\nA. Stop. Answer with the letter.\nB. Go",
            "Where?\nA. left\nB. right",
        ] {
            assert_eq!(split(text), (text.to_owned(), Vec::new()));
        }
    }
}
