//! `eval --grid`: evaluations of several models on several benchmarks as one table.

use super::BadArgument;
use crate::eval::Scores;
use crate::eval::grid::Cell;
use crate::eval::grid::Value;
use anyhow::Result;
use std::path::Path;

/// `ROW/COLUMN=PATH`, or a number in the place of a path.
pub(super) fn cell(entry: &str) -> Result<Cell> {
    let bad = |why: &str| BadArgument(format!("--grid {entry}: {why}"));
    let (label, value) = entry
        .split_once('=')
        .ok_or_else(|| bad("write it as MODEL/BENCHMARK=PATH"))?;
    let (row, column) = label
        .rsplit_once('/')
        .ok_or_else(|| bad("name row and column, as in MODEL/BENCHMARK=PATH"))?;
    let path = Path::new(value);
    let value = if path.exists() {
        Value::Evaluated(Box::new(Scores::read(path)?))
    } else if let Ok(number) = value.parse() {
        Value::Given(number)
    } else {
        return Err(bad(&format!("there is nothing at {value}, and it is no number")).into());
    };
    Ok(Cell {
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
        assert_eq!(given.value, Value::Given(64.9));
        for (entry, wanted) in [
            ("base", "MODEL/BENCHMARK=PATH"),
            ("base=1", "row and column"),
            ("a/b=absent", "nothing at absent"),
        ] {
            let error = cell(entry).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
