//! `eval judge`: stored answers read by another language model.

use super::shared::PrintArgs;
use super::shared::require_folder;
use super::shared::show;
use crate::cli::BadArgument;
use crate::eval::judge;
use crate::eval::judge::client::Client;
use crate::util::console::Progress;
use anyhow::Result;
use clap::Args;
use std::env::VarError;
use std::num::NonZero;
use std::path::PathBuf;

/// Arguments of `eval judge`.
#[derive(Debug, Args)]
pub(super) struct JudgeArgs {
    /// The folder of a finished evaluation
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
    /// The judge's OpenAI-compatible endpoint, such as http://localhost:8000/v1; OPENAI_API_KEY is its key, if it wants one
    #[arg(long, value_name = "URL")]
    pub(super) url: String,
    /// The judge's name there
    #[arg(long, value_name = "NAME")]
    pub(super) model: String,
    /// How many answers the judge reads at once
    #[arg(long, value_name = "N", default_value = "8")]
    pub(super) at_once: NonZero<usize>,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

pub(super) fn run(args: &JudgeArgs) -> Result<()> {
    require_folder(&args.folder)?;
    let key = match std::env::var("OPENAI_API_KEY") {
        Ok(key) => Some(key).filter(|key| !key.is_empty()),
        Err(VarError::NotPresent) => None,
        Err(VarError::NotUnicode(_)) => {
            return Err(BadArgument("OPENAI_API_KEY is no text".into()).into());
        }
    };
    let client = Client::new(&args.url, &args.model, key)?;
    let mut progress = None;
    let tell = |done: usize, due: usize| {
        let progress = progress.get_or_insert_with(|| Progress::start(0, due));
        // A hundred lines are enough in a log.
        if done == due || done.is_multiple_of(due.div_ceil(100)) {
            progress.step(done, "answers judged");
        }
    };
    let (scores, path) = judge::judge(&args.folder, &client, args.at_once.get(), tell)?;
    show(args.print, &scores, &path)
}
