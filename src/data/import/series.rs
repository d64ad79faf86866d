//! Options that stand in fields of their own, one each: `a0 … a4`, `option 0 …`, `A … D`.

use serde_json::Map;
use serde_json::Value;

/// What such fields are called before their number or letter, without spaces and the like.
const STEMS: [&str; 9] = [
    "",
    "a",
    "opt",
    "option",
    "options",
    "choice",
    "choices",
    "candidate",
    "candidates",
];

/// The fields of a record that hold its options one by one.
pub(in crate::data) fn options_in_fields(fields: &Map<String, Value>) -> Option<Vec<String>> {
    let mut starts = fields.keys().filter_map(|name| {
        let first = name.chars().next_back()?;
        let stem = name.strip_suffix(first)?;
        let word = stem.trim_end_matches([' ', '_', '-', '.']).to_lowercase();
        let is_start = match first {
            // A number alone is no name of an option.
            '0' | '1' => !word.is_empty(),
            'A' | 'a' => true,
            _ => false,
        };
        (is_start && STEMS.contains(&word.as_str())).then_some((stem, first))
    });
    starts.find_map(|(stem, first)| {
        let marks = (first..='z').take(26);
        let names = marks.map(|mark| format!("{stem}{mark}"));
        // The last cells of a row may be empty.
        let listed: Vec<String> = names.take_while(|name| fields.contains_key(name)).collect();
        let is_text = |name: &&String| fields[*name].is_string() || fields[*name].is_number();
        (listed.iter().filter(is_text).count() > 1).then_some(listed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_are_numbered_or_lettered_are_options() {
        for (fields, expected) in [
            (
                json!({"frame_count": 9, "qid": "6", "a0": "kitchen", "a1": "four", "a2": null, "a3": "two"}),
                Some("a0+a1+a2+a3"),
            ),
            (
                json!({"option 0": "C cooks.", "option 1": "C cleans."}),
                Some("option 0+option 1"),
            ),
            (
                json!({"option_1": 3, "option_2": 4, "option_4": 5}),
                Some("option_1+option_2"),
            ),
            (
                json!({"Option_A": "x", "Option_B": "y"}),
                Some("Option_A+Option_B"),
            ),
            (json!({"A": "red", "B": "green", "D": "blue"}), Some("A+B")),
            (json!({"A": "red", "B": null}), None),
            (json!({"0": "x", "1": "y"}), None),
            (json!({"caption0": "x", "caption1": "y"}), None),
            (
                json!({"frame_0": "x", "frame_1": "y", "frame_2": "z"}),
                None,
            ),
            (json!({"answer1": "red", "answer2": "dark red"}), None),
        ] {
            let found = options_in_fields(fields.as_object().unwrap());
            let found = found.map(|names| names.join("+"));
            assert_eq!(found.as_deref(), expected, "{fields}");
        }
    }
}
