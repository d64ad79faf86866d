//! What texts of other projects say about the form of the answer. Training asks for its own, and two forms contradict each other.

/// Whole sentences, in small letters and without their full stop: those that LLaVA's data, its evaluations and those of the
/// benchmarks have.
const SENTENCES: [&str; 20] = [
    "answer with the option letter from the given choices",
    "answer with the option letter from the given choices directly",
    "answer with the option's letter from the given choices",
    "answer with the option's letter from the given choices and only give the best option",
    "answer with the option's letter from the given choices directly",
    "answer with the option's letter from the given choices directly and only give the best option",
    "answer with only the letter",
    "answer with the letter",
    "answer with the letter of the option",
    "answer the question using a single word or phrase",
    "answer the question with a single word or phrase",
    "answer the question using a single word",
    "answer with a single word or phrase",
    "only give the best option",
    "please answer directly with only the letter of the correct option and nothing else",
    "please provide your answer by stating the letter followed by the full option",
    "please respond with only the letter of the correct answer",
    "please select the correct answer from the options below",
    "respond with only the letter (a, b, c, or d) of the correct option",
    "respond with only the letter of the correct option",
];

/// A text without these sentences, and the sentences.
pub(super) fn split(text: &str) -> (String, Vec<&str>) {
    let (mut kept, mut found) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (mut rest, before) = (String::new(), found.len());
        let mut left = line;
        while let Some((start, end)) = next(left) {
            rest.push_str(&left[..start]);
            found.push(left[start..end].trim());
            left = left[end..].trim_start();
        }
        rest.push_str(left);
        if found.len() == before {
            kept.push(line.to_owned());
        } else if !rest.trim().is_empty() {
            kept.push(rest.trim_end().to_owned());
        }
    }
    (kept.join("\n").trim().to_owned(), found)
}

/// Where the first such sentence begins and ends, its full stop included.
fn next(line: &str) -> Option<(usize, usize)> {
    let small = line.to_ascii_lowercase();
    let sentence = |words: &&str| {
        small.match_indices(*words).find_map(|(start, _)| {
            let end = start + words.len();
            let is_alone = line[..start]
                .chars()
                .next_back()
                .is_none_or(char::is_whitespace);
            let stop = usize::from(line[end..].starts_with('.'));
            let ends = line[end + stop..]
                .chars()
                .next()
                .is_none_or(char::is_whitespace);
            // Without a full stop it may go on.
            (is_alone && ends && (stop == 1 || line[end..].trim().is_empty()))
                .then_some((start, end + stop))
        })
    };
    let found = SENTENCES.iter().filter_map(sentence);
    found.min_by_key(|&(start, end)| (start, usize::MAX - end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_taken_out_and_questions_stay() {
        let letter = "Answer with the option's letter from the given choices directly.";
        for (text, rest) in [
            (
                format!("Where?\nA. left\nB. right\n{letter}"),
                "Where?\nA. left\nB. right",
            ),
            (
                format!("Where?\nA. left\nB. right {letter}"),
                "Where?\nA. left\nB. right",
            ),
            (
                format!("Where? {letter} (A) left (B) right"),
                "Where? (A) left (B) right",
            ),
            (
                format!("Where? {letter} Consider only the first half."),
                "Where? Consider only the first half.",
            ),
            ("Answer with the letter.\nWhere?".to_owned(), "Where?"),
            (
                "Which colour?\nAnswer the question using a single word or phrase.".to_owned(),
                "Which colour?",
            ),
            (
                "Answer the question using a single word or phrase. How many red balls are there".to_owned(),
                "How many red balls are there",
            ),
            (
                "Where?\nPlease respond with only the letter of the correct answer.\nA. left\nB. right".to_owned(),
                "Where?\nA. left\nB. right",
            ),
        ] {
            let (kept, found) = split(&text);
            assert_eq!((kept.as_str(), found.len()), (rest, 1), "{text}");
        }
        for text in [
            "Why did she answer with the letter?",
            "Answer with the letter that the woman writes on the board at the end.",
            "What does he do? Please answer directly to the point and mention the colour.",
            "Respond with only the letter of the option. Tell which way the ball goes.",
            "Answer with the option that fits: what is he doing?",
            "(1) He says. Please answer directly to me.",
            "Where?\nA. left\nB. right",
        ] {
            assert_eq!(split(text), (text.to_owned(), Vec::new()));
        }
    }
}
