//! A command's result on stdout: text for people, JSON for programs.

use crate::util::console;
use anyhow::Result;
use serde::Serialize;
use std::io::Write;

/// Prints a value as JSON on one line.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    text(&format!("{}\n", serde_json::to_string(value)?))
}

/// Prints text in lines that fit the terminal, if it goes to one.
pub(super) fn lines(words: &str) -> Result<()> {
    text(&console::wrapped(words, console::result_columns()))
}

/// Prints text at once; what would give a terminal orders is made visible.
pub(super) fn text(text: &str) -> Result<()> {
    let text = console::visible(text);
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// A text that goes into a comment or a block of code: without what would end its line.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
