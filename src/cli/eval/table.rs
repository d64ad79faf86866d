//! `eval table`: finished evaluations side by side, or models by benchmarks.

use super::grid::cells;
use super::shared::PrintArgs;
use crate::cli::BadArgument;
use crate::cli::output;
use crate::eval::ScoreFile;
use crate::eval::grid::grid;
use crate::eval::table;
use crate::eval::table::TableRow;
use anyhow::Result;
use clap::Args;
use std::collections::BTreeSet;
use std::path::Path;

/// Arguments of `eval table`.
#[derive(Debug, Args)]
pub(super) struct TableArgs {
    /// Finished evaluations: folders or scores.json files, each with a label or without
    #[arg(value_name = "[LABEL=]PATH", required_unless_present = "grid")]
    pub(super) rows: Vec<String>,
    /// One table of several models on several benchmarks; a number in the place of a path stands as it is
    #[arg(long, value_name = "MODEL/BENCHMARK=PATH", num_args = 1.., conflicts_with_all = ["rows", "json"])]
    pub(super) grid: Vec<String>,
    #[command(flatten)]
    pub(super) print: PrintArgs,
}

pub(super) fn run(args: &TableArgs) -> Result<()> {
    if !args.grid.is_empty() {
        return output::text(&grid(&cells(&args.grid)?, args.print.style()));
    }
    let rows = args
        .rows
        .iter()
        .map(|entry| row(entry))
        .collect::<Result<Vec<TableRow>>>()?;
    check_rows(&rows)?;
    if args.print.json {
        let scores: serde_json::Map<String, serde_json::Value> = rows
            .into_iter()
            .map(|row| Ok((row.label, serde_json::to_value(row.scores)?)))
            .collect::<Result<_>>()?;
        return output::json(&scores);
    }
    output::text(&table::comparison(&rows, args.print.style()))
}

/// No label stands twice; a row that cannot be compared with the first is warned of.
fn check_rows(rows: &[TableRow]) -> Result<()> {
    let mut labels = BTreeSet::new();
    if let Some(twice) = rows.iter().find(|row| !labels.insert(&row.label)) {
        let label = &twice.label;
        let problem = format!(
            "two rows are called {label}: name them, as in eval table first=DIR second=DIR"
        );
        return Err(BadArgument(problem).into());
    }
    if let Some((first, others)) = rows.split_first() {
        for row in others {
            let differences = first.scores.settings.differences(&row.scores.settings)?;
            if !differences.is_empty() {
                let (label, first) = (&row.label, &first.label);
                tracing::warn!(
                    "{label} and {first} cannot be compared: {}",
                    differences.join(", ")
                );
            }
        }
    }
    Ok(())
}

/// `LABEL=PATH`, or a path, whose folder's name is then the label.
fn row(entry: &str) -> Result<TableRow> {
    let (label, path) = match entry.split_once('=') {
        Some((label, path)) if !Path::new(entry).exists() => (label.to_owned(), Path::new(path)),
        _ => {
            let path = Path::new(entry);
            let folder = if path.is_dir() {
                Some(path)
            } else {
                path.parent()
            };
            // A path such as `..` has no name: its row has no label then.
            let name = folder.and_then(Path::file_name).unwrap_or_default();
            (name.to_string_lossy().into_owned(), path)
        }
    };
    if !path.exists() {
        let problem = format!("{entry}: there is nothing at {}", path.display());
        return Err(BadArgument(problem).into());
    }
    Ok(TableRow {
        label,
        scores: ScoreFile::read(path)?,
    })
}
