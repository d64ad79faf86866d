//! Several models on several benchmarks as one table, as papers print it.

use super::error::EvalError;
use super::score_file::ScoreFile;
use super::table::TableStyle;
use super::table::accuracy;
use super::table::render;
use crate::util::console;
use std::collections::BTreeMap;

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CellValue {
    /// An evaluation: exactly right answers with their 95 % interval.
    Evaluated(Box<ScoreFile>),
    /// A number from elsewhere, such as a published one, %.
    Given(f64),
}

/// A cell of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GridCell {
    /// Its row: a model.
    pub(crate) row: String,
    /// Its column: a benchmark.
    pub(crate) column: String,
    /// What it shows.
    pub(crate) value: CellValue,
}

/// What makes cells of one column incomparable: the column, two of its rows and the settings that differ.
///
/// # Errors
/// Settings that cannot be written.
pub(crate) fn incomparable(cells: &[GridCell]) -> Result<Vec<String>, EvalError> {
    let mut found = Vec::new();
    let mut firsts: BTreeMap<&str, (&str, &ScoreFile)> = BTreeMap::new();
    for cell in cells {
        let CellValue::Evaluated(scores) = &cell.value else {
            continue;
        };
        let (row, first) = firsts.entry(&cell.column).or_insert((&cell.row, scores));
        let differences = first.settings.differences(&scores.settings)?;
        if !differences.is_empty() {
            let (column, other) = (&cell.column, &cell.row);
            let differences = differences.join(", ");
            found.push(format!(
                "{column}: {row} and {other} differ in {differences}"
            ));
        }
    }
    Ok(found)
}

/// Rows and columns in the order in which they are first named; a dash where there is no cell.
pub(crate) fn grid(cells: &[GridCell], style: TableStyle) -> String {
    let mut rows: Vec<&str> = Vec::new();
    let mut columns: Vec<&str> = Vec::new();
    for cell in cells {
        if !rows.contains(&&*cell.row) {
            rows.push(&cell.row);
        }
        if !columns.contains(&&*cell.column) {
            columns.push(&cell.column);
        }
    }
    let head = std::iter::once("model").chain(columns.iter().copied());
    let mut lines = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    for row in rows {
        let shown = columns.iter().map(|column| {
            let cell = cells
                .iter()
                .find(|cell| cell.row == row && cell.column == *column);
            cell.map_or_else(|| "–".to_owned(), |cell| cell.value.show())
        });
        lines.push(std::iter::once(row.to_owned()).chain(shown).collect());
    }
    match (style, console::result_columns()) {
        (TableStyle::Text, Some(columns)) => in_blocks(&lines, columns),
        _ => render(&lines, style),
    }
}

/// As many columns below each other as needed, so that no line is longer than the terminal; each block has the models' names.
fn in_blocks(lines: &[Vec<String>], columns: usize) -> String {
    let fits = |chosen: &[usize]| {
        let block = chosen_of(lines, chosen);
        let lines = block.lines().map(|line| line.chars().count());
        lines.max().unwrap_or(0) <= columns
    };
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    for column in 1..lines.first().map_or(0, Vec::len) {
        match blocks.last_mut() {
            Some(block) if fits(&[block.as_slice(), &[column]].concat()) => block.push(column),
            _ => blocks.push(vec![column]),
        }
    }
    let blocks = blocks.iter().map(|block| chosen_of(lines, block));
    blocks.collect::<Vec<_>>().join("\n")
}

/// The first column and these.
fn chosen_of(lines: &[Vec<String>], columns: &[usize]) -> String {
    let chosen = lines.iter().map(|line| {
        let cells = std::iter::once(&0).chain(columns);
        cells
            .filter_map(|column| line.get(*column).cloned())
            .collect()
    });
    render(&chosen.collect::<Vec<Vec<String>>>(), TableStyle::Text)
}

impl CellValue {
    fn show(&self) -> String {
        match self {
            Self::Given(number) => format!("{number:.1}"),
            Self::Evaluated(scores) => {
                let shown = scores.splits.get("all").map(accuracy);
                let published = scores.settings.questions_published.unwrap_or(0);
                let part = if scores.questions_answered < published {
                    format!(" ({} of {published})", scores.questions_answered)
                } else {
                    String::new()
                };
                shown.map_or_else(|| "–".to_owned(), |shown| shown + &part)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_keep_their_order() {
        let cell = |row: &str, column: &str, number| GridCell {
            row: row.into(),
            column: column.into(),
            value: CellValue::Given(number),
        };
        let cells = [
            cell("base", "CLEVRER", 44.7),
            cell("base", "MMVU", 52.8),
            cell("CDPO", "CLEVRER", 79.1),
        ];
        assert_eq!(
            grid(&cells, TableStyle::Text),
            "model  CLEVRER  MMVU\nbase      44.7  52.8\nCDPO      79.1     –\n"
        );
        let lines = [["model", "CLEVRER", "MMVU"], ["base", "44.7", "52.8"]];
        let lines = lines.map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(
            in_blocks(&lines, 16),
            "model  CLEVRER\nbase      44.7\n\nmodel  MMVU\nbase   52.8\n"
        );
        assert_eq!(in_blocks(&lines, 20), render(&lines, TableStyle::Text));
        let markdown = grid(&cells, TableStyle::Markdown);
        assert!(markdown.contains("| --- | ---: | ---: |"), "{markdown}");
    }
}
