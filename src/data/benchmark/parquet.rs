//! Rows of a parquet file as JSON objects.

use crate::data::DataError;
use parquet::file::reader::FileReader;
use parquet::file::reader::SerializedFileReader;
use parquet::record::Field;
use parquet::record::Row;
use serde_json::Map;
use serde_json::Value;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::Path;

/// Hands over the rows until `take` says to stop.
pub(super) fn for_each_row(
    path: &Path,
    take: &mut dyn FnMut(Map<String, Value>) -> bool,
) -> Result<(), DataError> {
    // The reader panics on some broken files.
    let read = AssertUnwindSafe(|| read_rows(path, take));
    std::panic::catch_unwind(read)
        .unwrap_or_else(|_| Err(broken(path, "unknown".into(), "the reader gave up")))
}

fn broken(path: &Path, place: String, reason: impl std::fmt::Display) -> DataError {
    DataError::Content {
        path: path.to_owned(),
        place,
        problem: format!(
            "not a readable parquet file ({reason}); download it again, or convert it to JSON lines"
        ),
    }
}

fn read_rows(
    path: &Path,
    take: &mut dyn FnMut(Map<String, Value>) -> bool,
) -> Result<(), DataError> {
    let file = File::open(path).map_err(|error| DataError::reading(path, error))?;
    let reader =
        SerializedFileReader::new(file).map_err(|error| broken(path, "footer".into(), error))?;
    let rows = reader
        .get_row_iter(None)
        .map_err(|error| broken(path, "schema".into(), error))?;
    for (index, row) in rows.enumerate() {
        let row = row.map_err(|error| broken(path, format!("row {index}"), error))?;
        if !take(object(&row)) {
            break;
        }
    }
    Ok(())
}

fn object(row: &Row) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

/// Dates, times, decimals and bytes have no use here and become null.
fn value(field: &Field) -> Value {
    match field {
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Benchmark;
    use crate::data::benchmark::read;
    use rand::Rng;
    use rand::SeedableRng;
    use serde_json::json;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/benchmark")
            .join(name)
    }

    fn rows(path: &Path) -> Result<Vec<Value>, DataError> {
        let mut rows = Vec::new();
        for_each_row(path, &mut |row| {
            rows.push(Value::Object(row));
            true
        })?;
        Ok(rows)
    }

    #[test]
    fn lists_groups_and_nulls_become_json() {
        let rows = rows(&golden("mmvu.parquet")).unwrap();
        assert_eq!(rows.len(), 4);
        assert_eq!(
            rows[1]["metadata"],
            json!({"subject": "Art", "textbook": null, "knowledge": ["k1", "k2"], "rationale": "r"})
        );
        assert_eq!(rows[0]["choices"]["E"], "style E");
    }

    #[test]
    fn benchmarks_are_read_from_parquet() {
        let questions = read(Benchmark::Videomme, &golden("videomme.parquet"), true).unwrap();
        assert_eq!(questions.len(), 9);
        let last = &questions[8];
        assert_eq!(
            (last.id.as_str(), last.solution.as_str()),
            ("003-3", "<answer>A</answer>")
        );
        assert_eq!(last.choices(), ["8.", "none.", "two.", "all."]);
        assert_eq!(last.splits().next(), Some(("duration", "long")));
        let questions = read(Benchmark::Mmvu, &golden("mmvu.parquet"), true).unwrap();
        assert_eq!(questions.len(), 2);
        assert_eq!(questions[1].solution, "<answer>C</answer>");
        let open = read(Benchmark::MmvuOpen, &golden("mmvu.parquet"), true).unwrap();
        assert_eq!(open[0].solution, "<answer>Late Gothic</answer>");
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.parquet");
        let whole = std::fs::read(golden("videomme.parquet")).unwrap();
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut failed = 0;
        for round in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 4 {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            if round % 5 == 0 {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Err(error) = rows(&path) {
                let error = error.to_string();
                assert!(
                    error.contains("broken.parquet") && error.contains("parquet file"),
                    "{error}"
                );
                failed += 1;
            }
        }
        assert!(failed > 100, "{failed}");
    }
}
