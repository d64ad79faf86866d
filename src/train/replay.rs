//! Completions from a file in place of sampled ones: one update can then be compared with any other implementation.

use crate::policy::generate::Completion;
use crate::policy::generate::Finish;
use crate::prompt::Processor;
use crate::prompt::Prompt;
use crate::util::file;
use crate::util::json;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde::Deserialize;
use serde::Serialize;
use std::path::Path;

/// A line of a replay file: the completions of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replayed {
    /// Which question of the run's data.
    pub(crate) question_id: String,
    /// What was written, in order.
    pub(crate) completions: Vec<ReplayedText>,
}

/// One completion of a replay file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReplayedText {
    /// The text without special tokens.
    pub(crate) text: String,
    /// `stop` adds the end-of-turn token, `length` does not.
    pub(crate) finish: Finish,
}

/// Reads a replay file.
///
/// # Errors
/// A line that is not as described is named; so is one with fewer than two completions.
pub(crate) fn read(path: &Path) -> Result<Vec<Replayed>> {
    let text = file::read_to_string(path)?;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let place = || format!("{}:{number}", path.display());
        let replayed: Replayed = json::read(line.as_bytes()).map_err(|error| {
            anyhow!(
                "{}: expected {{question_id, completions:[{{text, finish}}]}}: {}",
                place(),
                error.problem
            )
        })?;
        if replayed.completions.len() < 2 {
            bail!(
                "{}: question {} has {} completion(s); a group needs at least 2",
                place(),
                replayed.question_id,
                replayed.completions.len()
            );
        }
        lines.push(replayed);
    }
    if lines.is_empty() {
        bail!("{}: holds no completions to replay", path.display());
    }
    Ok(lines)
}

impl ReplayedText {
    /// The completion as the sampler would have given it, without log-probabilities.
    ///
    /// # Errors
    /// When the tokenizer fails, or the text is empty and cut off, so that there is no token at all.
    pub(crate) fn completion(&self, processor: &Processor, prompt: &Prompt) -> Result<Completion> {
        let completion = Completion::given(processor, prompt, &self.text, self.finish)?;
        if completion.token_ids.is_empty() {
            bail!("an empty completion with finish \"length\" has no token to learn from");
        }
        Ok(completion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        format!("{:#}", read(file.path()).unwrap_err())
    }

    #[test]
    fn lines_are_read_and_bad_ones_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = r#"{"question_id":"q","completions":[{"text":"a","finish":"stop"},{"text":"b","finish":"length"}]}"#;
        std::fs::write(file.path(), format!("{good}\n\n{good}\n")).unwrap();
        let lines = read(file.path()).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].completions[1].finish, Finish::Length);
        assert!(message("{\"question_id\":\"q\"}\n").contains(":1: expected"));
        let one = r#"{"question_id":"q","completions":[{"text":"a","finish":"stop"}]}"#;
        assert!(message(&format!("{good}\n{one}")).contains(":2: question q has 1 completion"));
        assert!(message("\n").contains("no completions"));
    }
}
