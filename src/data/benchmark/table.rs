//! Rows of a table (CSV, TSV) as JSON objects.

use crate::data::DataError;
use crate::util::words::beginning;
use crate::util::words::counted;
use serde_json::Map;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Hands over the rows until `take` says to stop. The first row names the columns. Cells are texts without the white space
/// around them; empty ones are null, and lists and objects written as JSON are what they say.
pub(super) fn for_each_row(
    path: &Path,
    text: &str,
    delimiter: char,
    take: &mut dyn FnMut(Map<String, Value>) -> bool,
) -> Result<(), DataError> {
    let refused = |place: String, problem: String| DataError::Content {
        path: path.to_owned(),
        place,
        problem,
    };
    check_quotes(text, delimiter)
        .map_err(|(line, problem)| refused(format!("line {line}"), problem))?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter as u8)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let unreadable = |error: csv::Error| refused("its table".into(), error.to_string());
    let names = reader.headers().map_err(unreadable)?.clone();
    check_names(&names, delimiter).map_err(|problem| refused("line 1".into(), problem))?;
    let mut is_told = false;
    for row in reader.records() {
        let row = row.map_err(unreadable)?;
        if !is_told
            && let Some(cell) = row
                .iter()
                .find(|cell| holds_rows(cell, delimiter, names.len()))
        {
            is_told = true;
            tracing::warn!(
                "{}, line {}: a cell holds lines that look like rows: is its double quote closed where it ends? It begins {:?}",
                path.display(),
                row.position().map_or(0, csv::Position::line),
                beginning(cell, 60)
            );
        }
        if row.iter().all(str::is_empty) {
            continue;
        }
        if row.len() != names.len() {
            let line = row.position().map_or(0, csv::Position::line);
            let problem = format!(
                "{} in a table of {}: a text with a {} or a line break in it stands between double quotes",
                counted(row.len(), "cell"),
                counted(names.len(), "column"),
                name_of(delimiter)
            );
            return Err(refused(format!("line {line}"), problem));
        }
        let named = names.iter().zip(&row).filter(|(name, _)| !name.is_empty());
        let fields = named.map(|(name, text)| (name.to_owned(), cell(text)));
        if !take(fields.collect()) {
            break;
        }
    }
    Ok(())
}

/// Whether a cell of several lines has one with as many cells as the table has columns.
fn holds_rows(cell: &str, delimiter: char, columns: usize) -> bool {
    let mut behind = cell.lines().skip(1);
    behind.any(|line| columns > 1 && line.matches(delimiter).count() + 1 == columns)
}

fn name_of(delimiter: char) -> &'static str {
    match delimiter {
        '\t' => "tab",
        ';' => "semicolon",
        _ => "comma",
    }
}

fn cell(text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    let is_nested = text.starts_with(['[', '{']);
    let nested = is_nested.then(|| serde_json::from_str(text).ok()).flatten();
    nested.unwrap_or_else(|| text.into())
}

fn check_names(names: &csv::StringRecord, delimiter: char) -> Result<(), String> {
    let mut others = [',', ';', '\t']
        .into_iter()
        .filter(|other| *other != delimiter);
    if let (1, Some(name)) = (names.len(), names.get(0))
        && let Some(other) = others.find(|other| name.contains(*other))
    {
        return Err(format!(
            "its cells are separated by {}s: .csv stands for commas, .tsv for tabs",
            name_of(other)
        ));
    }
    let mut known = BTreeSet::new();
    let mut named = names.iter().filter(|name| !name.is_empty());
    match named.find(|name| !known.insert(*name)) {
        Some(name) => Err(format!(
            "two columns are called {name:?}: rename one of them"
        )),
        None => Ok(()),
    }
}

/// A double quote that is never closed, or closes in the middle of a cell, makes one cell of many rows, and the reader would take
/// it. Says on which line the cell begins.
fn check_quotes(text: &str, delimiter: char) -> Result<(), (usize, String)> {
    let mut line = 1;
    let mut rest = text;
    while !rest.is_empty() {
        let Some(mut inside) = rest.strip_prefix('"') else {
            let end = rest
                .find([delimiter, '\n'])
                .map_or(rest.len(), |end| end + 1);
            line += usize::from(rest[..end].ends_with('\n'));
            rest = &rest[end..];
            continue;
        };
        let begin = line;
        let broken = |what: &str| {
            let problem = format!(
                "a cell begins with a double quote that {what}: close it at the cell's end, and write quotes inside as two"
            );
            (begin, problem)
        };
        loop {
            let Some(end) = inside.find('"') else {
                return Err(broken("is never closed"));
            };
            line += inside[..end].matches('\n').count();
            inside = &inside[end + 1..];
            match inside.strip_prefix('"') {
                Some(behind) => inside = behind,
                None => break,
            }
        }
        let mut behind = inside.trim_start_matches([' ', '\r']).chars();
        match behind.next() {
            Some('\n') => line += 1,
            Some(c) if c != delimiter => return Err(broken("is closed before its end")),
            _ => {}
        }
        rest = behind.as_str();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str, delimiter: char) -> Result<Vec<Value>, String> {
        let mut rows = Vec::new();
        let read = for_each_row(Path::new("t"), text, delimiter, &mut |fields| {
            rows.push(Value::Object(fields));
            true
        });
        read.map(|()| rows).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_are_records_and_cells_texts() {
        let table = "n,\"a, b\",,c\r\n 1 ,\"x\ny, \"\"z\"\"\",skipped,\r\n \r\n2,5\" high,,\"[\"\"p\"\",\"\"q\"\"]\"\r\n";
        let expected = [
            json!({"n": "1", "a, b": "x\ny, \"z\"", "c": null}),
            json!({"n": "2", "a, b": "5\" high", "c": ["p", "q"]}),
        ];
        assert_eq!(read(table, ',').unwrap(), expected);
        let tabs = "n\tq\n1\t\"Why, then?\"\n['a']\t[x\n";
        let expected = [
            json!({"n": "1", "q": "Why, then?"}),
            json!({"n": "['a']", "q": "[x"}),
        ];
        assert_eq!(read(tabs, '\t').unwrap(), expected);
    }

    #[test]
    fn a_cell_with_rows_in_it_is_told_from_one_with_lines() {
        assert!(holds_rows("Why?\n6.mp4,Why?,x", ',', 3));
        assert!(!holds_rows("Which?\nA. red\nB. green, blue", ',', 3));
        assert!(!holds_rows("6.mp4,Why?,x", ',', 3));
        assert!(!holds_rows("Why?\nBecause.", ',', 1));
    }

    #[test]
    fn broken_tables_are_refused_with_the_line() {
        for (table, delimiter, said) in [
            ("n,m\n1\n", ',', "line 2: 1 cell in a table of 2 columns"),
            ("n,n\n1,2\n", ',', "two columns are called \"n\""),
            (
                "answer, answer\n1,2\n",
                ',',
                "two columns are called \"answer\"",
            ),
            ("n;m\n1;2\n", ',', "separated by semicolons"),
            ("n\tm\n1\t2\n", ',', "separated by tabs"),
            ("n,m\n1,2\n", '\t', "separated by commas"),
            (
                "n,m\n1,2\n3,\"x\n4,y\n5,z\n",
                ',',
                "line 3: a cell begins with a double quote that is never closed",
            ),
            (
                "n,m\n1,\"x\n4,y\n5,\"z\n",
                ',',
                "line 2: a cell begins with a double quote that is closed before",
            ),
            (
                "v\tq\ta\nb.mp4\t\"Why is it so?\ty\nc.mp4\tWho\"?\tz\n",
                '\t',
                "line 2: a cell begins with a double quote that is closed before",
            ),
        ] {
            let error = read(table, delimiter).unwrap_err();
            assert!(error.contains(said), "{table}: {error}");
        }
    }
}
