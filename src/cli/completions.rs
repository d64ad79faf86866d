//! `completions` and `man`: the command line for shells and for `man`.

use super::Outcome;
use super::output;
use super::usage;
use crate::util::file;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use clap::ValueEnum;
use clap_complete::Shell;
use std::path::PathBuf;

const PROGRAM: &str = "videothinker";

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: ShellName,
}

/// A shell whose completions are known.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for every command into this folder, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs `completions`.
pub(super) fn print(args: &CompletionsArgs) -> Result<Outcome> {
    let shell = match args.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut usage::command(), PROGRAM, &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

/// Runs `man`.
pub(super) fn manual(args: &ManArgs) -> Result<Outcome> {
    let command = usage::command();
    if let Some(folder) = &args.out {
        file::create_folders(folder)?;
        clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
        output::text(&format!(
            "manual pages: {}; man {PROGRAM}, man {PROGRAM}-eval-run\n",
            folder.display()
        ))?;
        return Ok(Outcome::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    output::text(&String::from_utf8_lossy(&page))?;
    Ok(Outcome::Done)
}
