//! `eval rescore`: stored answers scored anew, without a model.

use super::shared::PrintArgs;
use super::shared::require_folder;
use super::shared::show;
use crate::config::Extraction;
use crate::eval::stored;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `eval rescore`.
#[derive(Debug, Args)]
pub(super) struct RescoreArgs {
    /// The folder of a finished evaluation
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
    /// Read the answers by another rule than that of the evaluation; writes scores-RULE.json
    #[arg(long, value_name = "RULE")]
    pub(super) extraction: Option<Extraction>,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

pub(super) fn run(args: &RescoreArgs) -> Result<()> {
    require_folder(&args.folder)?;
    let (scores, path) = stored::rescore(&args.folder, args.extraction)?;
    show(args.print, &scores, &path)
}
