//! `eval` by flags alone, as it was before it had verbs: accepted for one version more, with a hint at the verb.

use super::compare::CompareArgs;
use super::judge::JudgeArgs;
use super::merge::MergeArgs;
use super::preview::PreviewArgs;
use super::rescore::RescoreArgs;
use super::run::RunArgs;
use super::shared::PrintArgs;
use super::table::TableArgs;
use super::verb::EvalVerb;
use crate::cli::BadArgument;
use crate::cli::ConfigArgs;
use crate::config::Extraction;
use crate::eval::Shard;
use anyhow::Result;
use clap::Args;
use std::num::NonZero;
use std::path::PathBuf;

/// The flags of `eval` without a verb.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct OldFlags {
    #[arg(long, hide = true)]
    config: Option<PathBuf>,
    #[arg(long = "set", hide = true)]
    overrides: Vec<String>,
    #[arg(long, hide = true, conflicts_with_all = ["table", "grid", "rescore", "judge", "merge", "compare"])]
    model: Option<String>,
    #[arg(long, hide = true, conflicts_with_all = ["table", "grid", "rescore", "judge", "merge", "compare", "shard"])]
    dry_run: bool,
    #[arg(long, hide = true, default_value = "1", requires = "dry_run")]
    show: usize,
    #[arg(long, hide = true)]
    out: Option<PathBuf>,
    #[arg(long, hide = true, conflicts_with_all = ["table", "rescore", "merge", "compare"])]
    shard: Option<Shard>,
    #[arg(long, hide = true, num_args = 1.., conflicts_with_all = ["out", "config", "overrides"])]
    table: Vec<String>,
    #[arg(long, hide = true, num_args = 1.., conflicts_with_all = ["out", "config", "overrides", "json"])]
    grid: Vec<String>,
    #[arg(long, hide = true, conflicts_with_all = ["out", "config", "overrides"])]
    rescore: Option<PathBuf>,
    #[arg(long, hide = true, conflicts_with_all = ["model", "dry_run", "table", "judge", "merge", "compare"])]
    extraction: Option<Extraction>,
    #[arg(long, hide = true, requires_all = ["judge_url", "judge_model"], conflicts_with_all = ["out", "config", "overrides"])]
    judge: Option<PathBuf>,
    #[arg(long, hide = true, requires = "judge")]
    judge_url: Option<String>,
    #[arg(long, hide = true, requires = "judge")]
    judge_model: Option<String>,
    #[arg(long, hide = true, default_value = "8", requires = "judge")]
    judge_at_once: NonZero<usize>,
    #[arg(long, hide = true, conflicts_with_all = ["out", "config", "overrides"])]
    merge: Option<PathBuf>,
    #[arg(long, hide = true, num_args = 2, conflicts_with_all = ["out", "config", "overrides"])]
    compare: Vec<PathBuf>,
    #[arg(long, hide = true, conflicts_with_all = ["model", "table", "rescore", "merge"])]
    across_protocols: bool,
    #[arg(long, hide = true)]
    markdown: bool,
    #[arg(long, hide = true, conflicts_with = "markdown")]
    json: bool,
}

impl OldFlags {
    /// The verb that the flags stand for; says on stderr how it is written now.
    ///
    /// # Errors
    /// They stand for none.
    pub(super) fn into_verb(self) -> Result<EvalVerb> {
        let (old, new, verb) = self.translated()?;
        tracing::warn!(
            "`eval {old}` is written `eval {new}` now; the next version knows only that"
        );
        Ok(verb)
    }

    /// How the flags are written, how the verb is, and the verb.
    fn translated(self) -> Result<(&'static str, &'static str, EvalVerb)> {
        let print = PrintArgs {
            markdown: self.markdown,
            json: self.json,
        };
        Ok(if self.dry_run || self.model.is_some() {
            let args = RunArgs {
                settings: ConfigArgs {
                    config: self.config,
                    overrides: self.overrides,
                },
                model: self.model,
                preview: PreviewArgs {
                    dry_run: self.dry_run,
                    show: self.show,
                },
                out: self.out,
                shard: self.shard,
                print,
            };
            let (old, new) = if self.dry_run {
                ("--dry-run", "run --dry-run")
            } else {
                ("--model DIR", "run --model DIR")
            };
            (old, new, EvalVerb::Run(args))
        } else if let Some(folder) = self.rescore {
            let args = RescoreArgs {
                folder,
                extraction: self.extraction,
                print,
            };
            ("--rescore DIR", "rescore DIR", EvalVerb::Rescore(args))
        } else if let (Some(folder), Some(url), Some(model)) =
            (self.judge, self.judge_url, self.judge_model)
        {
            let args = JudgeArgs {
                folder,
                url,
                model,
                at_once: self.judge_at_once,
                print,
            };
            (
                "--judge DIR --judge-url URL --judge-model NAME [--judge-at-once N]",
                "judge DIR --url URL --model NAME [--at-once N]",
                EvalVerb::Judge(args),
            )
        } else if let Some(folder) = self.merge {
            let args = MergeArgs { folder, print };
            ("--merge DIR", "merge DIR", EvalVerb::Merge(args))
        } else if let Ok([first, second]) = <[PathBuf; 2]>::try_from(self.compare) {
            let args = CompareArgs {
                first,
                second,
                across_protocols: self.across_protocols,
                print,
            };
            (
                "--compare DIR DIR",
                "compare DIR DIR",
                EvalVerb::Compare(args),
            )
        } else if !self.grid.is_empty() || !self.table.is_empty() {
            let (old, new) = if self.grid.is_empty() {
                ("--table PATH…", "table PATH…")
            } else {
                ("--grid CELL…", "table --grid CELL…")
            };
            let args = TableArgs {
                rows: self.table,
                grid: self.grid,
                print,
            };
            (old, new, EvalVerb::Table(args))
        } else {
            let problem = "say what to do: eval run, merge, rescore, judge, compare or table";
            return Err(BadArgument(problem.into()).into());
        })
    }
}
