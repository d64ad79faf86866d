//! `eval compare`: two evaluations paired question by question.

use super::shared::PrintArgs;
use super::shared::require_folder;
use crate::cli::output;
use crate::eval::compare;
use crate::eval::table;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `eval compare`.
#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// The folder of a finished evaluation
    #[arg(value_name = "FIRST")]
    pub(super) first: PathBuf,
    /// The folder of another
    #[arg(value_name = "SECOND")]
    pub(super) second: PathBuf,
    /// Compare evaluations that were made under different conditions all the same
    #[arg(long)]
    pub(super) across_protocols: bool,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let (first, second) = (&args.first, &args.second);
    require_folder(first)?;
    require_folder(second)?;
    let comparison = compare::compare(first, second, args.across_protocols)?;
    for difference in &comparison.differences {
        tracing::warn!("compared across protocols: {difference}");
    }
    if args.print.json {
        return output::json(&comparison);
    }
    let text = table::paired(&comparison, args.print.style());
    output::text(&format!(
        "{text}\nfirst: {} (model {})\nsecond: {} (model {})\nanswered in one only: {}\n",
        first.display(),
        comparison.first,
        second.display(),
        comparison.second,
        comparison.unpaired
    ))
}
