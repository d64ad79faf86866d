//! `eval merge`: the finished shards of a folder as one evaluation.

use super::shared::PrintArgs;
use super::shared::require_folder;
use super::shared::show;
use crate::eval::stored;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `eval merge`.
#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// The folder of the shards
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

pub(super) fn run(args: &MergeArgs) -> Result<()> {
    require_folder(&args.folder)?;
    let scores = stored::merge(&args.folder)?;
    show(args.print, &scores, &args.folder.join("scores.json"))
}
