//! The records of a file one after another, or of all files of a folder, without holding them all.

use super::parquet;
use super::parquet::Bytes;
use super::table;
use crate::data::DataError;
use crate::data::read::read_json_text;
use crate::data::read::why_no_list;
use crate::data::read::without_mark;
use crate::data::shapes::holds_lines;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::json;
use crate::util::json::Distinct;
use crate::util::json::Unreadable;
use serde::Deserializer as _;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

/// One record of a file.
#[derive(Debug)]
pub(in crate::data) struct Record<'a> {
    pub(in crate::data) path: &'a Path,
    /// Its place in the file, counted from 0.
    pub(in crate::data) index: usize,
    /// Its name, where the file is an object of records.
    pub(super) key: Option<String>,
    /// What it holds.
    pub(in crate::data) fields: Map<String, Value>,
    /// The byte strings in it, which the fields name ([`Bytes::Keep`]).
    pub(in crate::data) blobs: Vec<Vec<u8>>,
}

impl Record<'_> {
    /// The name of the file without its extension.
    pub(in crate::data) fn stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}

/// Says what is wrong with a record, or takes it.
pub(in crate::data) type Visit<'a> = dyn FnMut(Record) -> Result<(), String> + 'a;

/// Hands over the records of a `.json` (array or object of records), `.jsonl`, `.parquet`, `.csv` or `.tsv` file; of a folder,
/// those of all files in it and in the folders below, in the order of their names, tables only with [`Bytes::Keep`].
pub(super) fn for_each(path: &Path, visit: &mut Visit) -> Result<(), DataError> {
    for_each_with(path, Bytes::Drop, visit)
}

/// The same; `bytes` says what becomes of the byte strings of a parquet file.
pub(in crate::data) fn for_each_with(
    path: &Path,
    bytes: Bytes,
    visit: &mut Visit,
) -> Result<(), DataError> {
    if !path.is_dir() {
        return read_file(path, bytes, visit);
    }
    // A benchmark's folder has tables of other things.
    let known = match bytes {
        Bytes::Drop => &RECORDS[..3],
        Bytes::Keep => &RECORDS[..],
    };
    let files = files_below(path, known)?;
    if files.is_empty() {
        return Err(DataError::Empty {
            path: path.to_owned(),
            problem: format!("holds no .{} file", known.join(", .")),
        });
    }
    files
        .iter()
        .try_for_each(|file| read_file(file, bytes, visit))
}

/// Endings of files that hold records.
const RECORDS: [&str; 5] = ["json", "jsonl", "parquet", "csv", "tsv"];

fn files_below(folder: &Path, known: &[&str]) -> Result<Vec<PathBuf>, DataError> {
    let failed = |error| FileError::reading(folder, error);
    let mut entries = std::fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<PathBuf>>>()
        .map_err(failed)?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            files.extend(files_below(&entry, known)?);
        } else if extension(&entry).is_some_and(|ending| known.contains(&ending)) {
            files.push(entry);
        }
    }
    Ok(files)
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

fn read_file(path: &Path, bytes: Bytes, visit: &mut Visit) -> Result<(), DataError> {
    let mut sink = Sink {
        path,
        visit,
        index: 0,
        failure: None,
    };
    match extension(path) {
        Some(name @ ("json" | "jsonl")) => {
            let (text, _) = read_json_text(path)?;
            if text.trim().is_empty() {
                Ok(())
            } else if holds_lines(&text, name == "jsonl") {
                read_lines(path, &text, &mut sink)
            } else {
                read_json(path, &text, &mut sink)
            }
        }
        Some(name @ ("csv" | "tsv")) => {
            let delimiter = if name == "csv" { ',' } else { '\t' };
            table::for_each_row(path, &read_text(path)?, delimiter, &mut |fields| {
                sink.take(None, fields, Vec::new())
            })
        }
        Some("parquet") => parquet::for_each_row(path, bytes, &mut |row| {
            sink.take(None, row.fields, row.blobs)
        }),
        other => Err(DataError::Extension {
            path: path.to_owned(),
            known: format!(
                ".json, .jsonl, .parquet, .csv or .tsv{}",
                match other {
                    Some("gz" | "zip" | "zst" | "xz" | "bz2") => ": unpack it",
                    _ => "",
                }
            ),
        }),
    }?;
    sink.failure.map_or(Ok(()), Err)
}

/// Gives records their place; keeps the first failure, because serde and parquet only hear that there was one.
struct Sink<'a, 'v> {
    path: &'a Path,
    visit: &'a mut Visit<'v>,
    index: usize,
    failure: Option<DataError>,
}

impl Sink<'_, '_> {
    /// Whether to go on.
    fn take(
        &mut self,
        key: Option<String>,
        fields: Map<String, Value>,
        blobs: Vec<Vec<u8>>,
    ) -> bool {
        let place = match &key {
            Some(key) => format!("record {key:?}"),
            None => format!("record {} (counted from 0)", self.index),
        };
        let record = Record {
            path: self.path,
            index: self.index,
            key,
            fields,
            blobs,
        };
        self.index += 1;
        match (self.visit)(record) {
            Ok(()) => true,
            Err(problem) => self.fail(place, problem),
        }
    }

    fn fail(&mut self, place: String, problem: String) -> bool {
        self.failure = Some(DataError::Content {
            path: self.path.to_owned(),
            place,
            problem,
        });
        false
    }

    fn take_value(&mut self, key: Option<String>, value: Value) -> bool {
        match (key, value) {
            (key, Value::Object(fields)) => self.take(key, fields, Vec::new()),
            (Some(_), _) => false,
            (None, _) => self.fail(format!("record {}", self.index), "is no object".into()),
        }
    }
}

fn read_text(path: &Path) -> Result<String, DataError> {
    let mut text = file::read_to_string(path)?;
    let mark = text.len() - without_mark(&text).len();
    text.drain(..mark);
    Ok(text)
}

fn read_json(path: &Path, text: &str, sink: &mut Sink) -> Result<(), DataError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let result = reader
        .deserialize_any(RecordVisitor { sink })
        .and_then(|()| reader.end());
    match result {
        // A failure of a record stops the reader too, and says more.
        Err(error) if sink.failure.is_none() => {
            let error = why_no_list(text, Unreadable::new(text.as_bytes(), &error));
            Err(DataError::Content {
                path: path.to_owned(),
                place: error.place(),
                problem: format!("not an array or object of records: {}", error.problem),
            })
        }
        _ => Ok(()),
    }
}

fn read_lines(path: &Path, text: &str, sink: &mut Sink) -> Result<(), DataError> {
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let Distinct(value) = json::read(line.as_bytes()).map_err(|error| DataError::Content {
            path: path.to_owned(),
            place: format!("line {}", index + 1),
            problem: json::no_json(text.as_bytes()).map_or(error.problem, str::to_owned),
        })?;
        if !sink.take_value(None, value) {
            break;
        }
    }
    Ok(())
}

struct RecordVisitor<'s, 'a, 'v> {
    sink: &'s mut Sink<'a, 'v>,
}

impl<'de> Visitor<'de> for RecordVisitor<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an array or an object of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        while let Some(Distinct(value)) = records.next_element()? {
            if !self.sink.take_value(None, value) {
                return Err(serde::de::Error::custom("stopped at a record"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        while let Some((key, Distinct(value))) = records.next_entry()? {
            if !self.sink.take_value(Some(key), value) {
                return Err(serde::de::Error::custom("stopped at a record"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        for_each(path, &mut |record| {
            let n = record.fields.get("n").ok_or("no `n`")?;
            found.push(format!("{} {:?} {n}", record.index, record.key));
            Ok(())
        })
        .map_err(|error| error.to_string())?;
        Ok(found)
    }

    #[test]
    fn every_shape_gives_records_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let array = write("a.json", r#"[{"n":1},{"n":2}]"#);
        assert_eq!(read(&array).unwrap(), ["0 None 1", "1 None 2"]);
        let lines = write("b.jsonl", "{\"n\":3}\n\n{\"n\":4}\n");
        assert_eq!(read(&lines).unwrap(), ["0 None 3", "1 None 4"]);
        let object = write("c/c.json", r#"{"x":{"n":5}}"#);
        assert_eq!(read(&object).unwrap(), ["0 Some(\"x\") 5"]);
        write("notes.txt", "not read");
        let table = write("t/d.csv", "\u{feff}n,\"a, b\"\r\n6,\r\n\"7\n8\",x\r\n");
        assert_eq!(read(&table).unwrap(), ["0 None \"6\"", "1 None \"7\\n8\""]);
        let table = write("t/d.tsv", "n\t,\n6\tx\n");
        assert_eq!(read(&table).unwrap(), ["0 None \"6\""]);
        assert_eq!(read(folder.path()).unwrap().len(), 5);
        for (name, text, wanted) in [
            (
                "d.json",
                r#"[{"n":1},{"m":2}]"#,
                "record 1 (counted from 0): no `n`",
            ),
            ("d.json", r#"[{"n":1},"#, "line 1, column"),
            ("d.json", r#"[{"n":1}] x"#, "line 1, column"),
            ("d.json", "3", "array or object"),
            ("d.jsonl", "{\"n\":1}\nx\n", "line 2"),
            ("d.jsonl", "7", "is no object"),
            ("d.txt", "", "must end in"),
            ("d.csv", "m\n1\n", "record 0 (counted from 0): no `n`"),
        ] {
            let error = read(&write(name, text)).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path()).unwrap_err().contains("holds no .json"));
    }
}
