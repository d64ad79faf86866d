//! What `eval` can do.

use super::compare;
use super::compare::CompareArgs;
use super::judge;
use super::judge::JudgeArgs;
use super::merge;
use super::merge::MergeArgs;
use super::rescore;
use super::rescore::RescoreArgs;
use super::run;
use super::run::RunArgs;
use super::table;
use super::table::TableArgs;
use anyhow::Result;
use clap::Subcommand;

/// One thing to do.
#[derive(Debug, Subcommand)]
pub(super) enum EvalVerb {
    /// Answer a benchmark and score it
    Run(RunArgs),
    /// Put the finished shards of a folder together
    Merge(MergeArgs),
    /// Score the stored answers of a folder anew, without a model
    Rescore(RescoreArgs),
    /// Have another language model judge the stored answers of a folder: captions and open answers
    Judge(JudgeArgs),
    /// Compare two evaluations question by question
    Compare(CompareArgs),
    /// Show finished evaluations side by side
    Table(TableArgs),
}

impl EvalVerb {
    /// Does it.
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::Run(args) => run::run(args),
            Self::Merge(args) => merge::run(args),
            Self::Rescore(args) => rescore::run(args),
            Self::Judge(args) => judge::run(args),
            Self::Compare(args) => compare::run(args),
            Self::Table(args) => table::run(args),
        }
    }
}
