//! Which kind a token of a completion is.

use super::file::TokenKind;
use std::borrow::Cow;

/// The place of each token's kind among `kinds`; what no pattern finds is of the one behind the last.
///
/// Patterns are searched in the completion as a whole, so that they may look at what stands around a token. A token is of a
/// kind when any of its bytes is found.
pub(super) fn kinds(tokens: &[Cow<'_, str>], kinds: &[TokenKind]) -> Vec<usize> {
    let text = tokens.concat();
    let mut starts = Vec::with_capacity(tokens.len());
    let mut end = 0;
    for token in tokens {
        starts.push(end);
        end += token.len();
    }
    let mut found = vec![kinds.len(); tokens.len()];
    for (place, kind) in kinds.iter().enumerate() {
        for captures in kind.pattern.0.captures_iter(&text) {
            let group = captures.iter().skip(1).flatten().next();
            let Some(counted) = group.or_else(|| captures.get(0)) else {
                continue;
            };
            let from = starts.partition_point(|start| *start <= counted.start());
            for token in from.saturating_sub(1)..tokens.len() {
                if starts[token] >= counted.end() {
                    break;
                }
                // An empty match, or a token without text, has no bytes in common with anything.
                let first = starts[token].max(counted.start());
                let end = (starts[token] + tokens[token].len()).min(counted.end());
                if first < end && found[token] == kinds.len() {
                    found[token] = place;
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::file::Pattern;
    use super::*;

    fn kind(pattern: &str) -> TokenKind {
        TokenKind {
            label: pattern.to_owned(),
            pattern: Pattern::try_from(pattern.to_owned()).unwrap(),
        }
    }

    fn found(tokens: &[&str], patterns: &[&str]) -> Vec<usize> {
        let tokens: Vec<Cow<'_, str>> = tokens.iter().map(|text| Cow::from(*text)).collect();
        let patterns: Vec<TokenKind> = patterns.iter().map(|pattern| kind(pattern)).collect();
        kinds(&tokens, &patterns)
    }

    #[test]
    fn first_pattern_wins_and_a_group_is_what_counts() {
        let tokens = [
            "<think>", "a", ".", " Without", " b", ".", "</think>", "<end>",
        ];
        let think_on = r"\. Without|\.(</think>)";
        assert_eq!(found(&tokens, &[think_on]), [1, 1, 0, 0, 1, 1, 0, 1]);
        assert_eq!(found(&tokens, &[r"\.", think_on]), [2, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(
            found(&tokens, &[r"\.( Without)|\.(</think>)"]),
            [1, 1, 1, 0, 1, 1, 0, 1]
        );
    }

    /// The miniature's tokenizer ends a sentence and begins a tag with one token: the decision is at the full stop.
    #[test]
    fn a_decision_is_found_in_the_miniature_s_tokens() {
        let decision = [r"^<think>[^.]*(\.)"];
        let on = [
            "<think", ">In", " do", " not", ".", " Without", " do", ".</", "think", "><",
        ];
        assert_eq!(found(&on, &decision), [1, 1, 1, 1, 0, 1, 1, 1, 1, 1]);
        let ends = ["<think", ">In", " do", " not", ".</", "think", "><"];
        assert_eq!(found(&ends, &decision), [1, 1, 1, 1, 0, 1, 1]);
    }

    #[test]
    fn parts_of_tokens_empty_tokens_and_empty_matches() {
        assert_eq!(
            found(&["ab", "", "cd", "é", "f"], &["bc|é"]),
            [0, 1, 0, 0, 1]
        );
        assert_eq!(found(&["ab", "c"], &["x*"]), [1, 1]);
        assert_eq!(found(&[], &["a"]), [0; 0]);
    }
}
