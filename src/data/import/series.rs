//! Options that stand in fields of their own, one each: `a0 … a4`, `option 0 …`, `A … D`.

use serde_json::Map;
use serde_json::Value;

/// The fields with the options of a question that lists none, where `answer` is the number or the letter or the text of one
/// of them.
pub(super) fn options_in_fields(fields: &Map<String, Value>, answer: &str) -> Option<Vec<String>> {
    let answer = answer.trim();
    let starts = fields.keys().filter_map(|name| {
        let first = ["0", "1", "A", "a"]
            .into_iter()
            .find(|first| name.ends_with(first))?;
        Some((name.strip_suffix(first)?, first.as_bytes()[0]))
    });
    starts.into_iter().find_map(|(stem, first)| {
        let names = (first..=first.saturating_add(25)).map(|mark| match mark {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => format!("{stem}{}", char::from(mark)),
            _ => String::new(),
        });
        let listed: Vec<(String, &str)> = names
            .map_while(|name| {
                let text = fields.get(&name)?.as_str()?;
                Some((name, text))
            })
            .collect();
        let is_mark = |name: &str| {
            let mark = name.strip_prefix(stem).unwrap_or_default();
            mark.eq_ignore_ascii_case(answer)
        };
        let is_one = |(name, text): &(String, &str)| {
            is_mark(name) || name == answer || text.trim().eq_ignore_ascii_case(answer)
        };
        let is_choice = listed.len() > 1 && listed.iter().any(is_one);
        is_choice.then(|| listed.into_iter().map(|(name, _)| name).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_are_numbered_or_lettered_are_options() {
        let found = |fields: Value, answer: &str| {
            options_in_fields(fields.as_object().unwrap(), answer).map(|names| names.join("+"))
        };
        let next_qa =
            json!({"frame_count": 9, "a0": "kitchen", "a1": "four", "a2": "two", "qid": "6"});
        assert_eq!(found(next_qa.clone(), "2").as_deref(), Some("a0+a1+a2"));
        assert_eq!(found(next_qa.clone(), "a1").as_deref(), Some("a0+a1+a2"));
        assert_eq!(
            found(next_qa.clone(), "Kitchen").as_deref(),
            Some("a0+a1+a2")
        );
        assert_eq!(found(next_qa.clone(), "3"), None);
        assert_eq!(found(next_qa, "seven"), None);
        let ego_schema = json!({"option 0": "C cooks.", "option 1": "C cleans."});
        assert_eq!(found(ego_schema, "1").as_deref(), Some("option 0+option 1"));
        let lettered = json!({"A": "red", "B": "green", "D": "blue"});
        assert_eq!(found(lettered, "B").as_deref(), Some("A+B"));
        assert_eq!(found(json!({"a0": 3, "a1": 4}), "1"), None);
        assert_eq!(found(json!({"source1": "x"}), "1"), None);
    }
}
