//! The cells of `eval table --grid`.

use crate::cli::BadArgument;
use crate::eval::ScoreFile;
use crate::eval::grid::CellValue;
use crate::eval::grid::GridCell;
use crate::eval::grid::incomparable;
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;

/// The cells of all `entries`, each once; cells of a column that cannot be compared are warned of.
pub(super) fn cells(entries: &[String]) -> Result<Vec<GridCell>> {
    let cells = entries
        .iter()
        .map(|entry| cell(entry))
        .collect::<Result<Vec<_>>>()?;
    let mut places = BTreeSet::new();
    if let Some(twice) = cells
        .iter()
        .find(|cell| !places.insert((&cell.row, &cell.column)))
    {
        let (row, column) = (&twice.row, &twice.column);
        return Err(BadArgument(format!("--grid: {row}/{column} is given twice")).into());
    }
    for difference in incomparable(&cells)? {
        tracing::warn!("cannot be compared: {difference}");
    }
    Ok(cells)
}

/// `ROW/COLUMN=PATH`, or a number in the place of a path.
fn cell(entry: &str) -> Result<GridCell> {
    let bad = |why: &str| BadArgument(format!("--grid {entry}: {why}"));
    let (label, value) = entry
        .split_once('=')
        .ok_or_else(|| bad("write it as MODEL/BENCHMARK=PATH"))?;
    let (row, column) = label
        .rsplit_once('/')
        .filter(|(row, column)| !row.is_empty() && !column.is_empty())
        .ok_or_else(|| bad("name row and column, as in MODEL/BENCHMARK=PATH"))?;
    let path = Path::new(value);
    let value = if path.exists() {
        CellValue::Evaluated(Box::new(ScoreFile::read(path)?))
    } else {
        match value.parse::<f64>() {
            Ok(number) if number.is_finite() => CellValue::Given(number),
            _ => {
                let problem = format!("there is nothing at {value}, and it is no number");
                return Err(bad(&problem).into());
            }
        }
    };
    Ok(GridCell {
        row: row.to_owned(),
        column: column.to_owned(),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_name_their_row_and_column() {
        let given = cell("GRPO (published)/CLEVRER=64.9").unwrap();
        assert_eq!(
            (&*given.row, &*given.column),
            ("GRPO (published)", "CLEVRER")
        );
        assert_eq!(given.value, CellValue::Given(64.9));
        for (entry, wanted) in [
            ("base", "MODEL/BENCHMARK=PATH"),
            ("base=1", "row and column"),
            ("a/b=absent", "nothing at absent"),
            ("a/b=nan", "no number"),
            ("/b=1", "row and column"),
        ] {
            let error = cell(entry).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
