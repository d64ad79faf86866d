//! Rows of a parquet file as JSON objects.

use crate::data::DataError;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::json;
use parquet::basic::PageType;
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::reader::SerializedFileReader;
use parquet::record::Field;
use parquet::record::Row;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::path::Path;
use std::sync::Once;
use std::sync::mpsc;
use std::sync::mpsc::SyncSender;

/// Longest description of a file's content, in bytes; benchmarks' are a few thousand long.
const MOST_METADATA: u32 = 256 << 10;
/// Stack for each byte of it: the reader goes down the nested types that it describes, a few bytes each.
const STACK_PER_BYTE: usize = 1 << 10;
/// Types nested more deeply than this become null.
const MOST_DEPTH: usize = 16;
/// Rows that are read ahead of their use.
const ROWS_AHEAD: usize = 16;

thread_local! {
    /// Whether a panic of this thread is told in an error.
    static IS_READER: Cell<bool> = const { Cell::new(false) };
}

/// What becomes of byte strings, such as clips that stand in the file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Bytes {
    /// They become null.
    Drop,
    /// They become `{"blob": N}`, where N is their place among the row's blobs.
    Keep,
}

/// One row.
#[derive(Debug, Default)]
pub(super) struct ParquetRow {
    /// Its columns.
    pub(super) fields: Map<String, Value>,
    /// Its byte strings, where they are kept.
    pub(super) blobs: Vec<Vec<u8>>,
}

/// Hands over the rows until `take` says to stop.
pub(super) fn for_each_row(
    path: &Path,
    bytes: Bytes,
    take: &mut dyn FnMut(ParquetRow) -> bool,
) -> Result<(), DataError> {
    let mut file = File::open(path).map_err(|error| FileError::reading(path, error))?;
    let metadata = metadata_length(&mut file).map_err(|error| FileError::reading(path, error))?;
    if metadata == 0 {
        let bytes = file::beginning(path).map_err(|error| FileError::reading(path, error))?;
        if let Some(what) = json::stand_in(&bytes) {
            return Err(file::another(path, what).into());
        }
    }
    if metadata > MOST_METADATA {
        let reason =
            format!("its metadata is {metadata} bytes long, at most {MOST_METADATA} are read");
        return Err(broken(path, "footer", reason));
    }
    silence_readers();
    // A thread of its own has room for the nesting, and may panic, as the reader does at some broken files.
    let stack = (2 << 20) + metadata as usize * STACK_PER_BYTE;
    let ahead = match bytes {
        Bytes::Drop => ROWS_AHEAD,
        // A row may hold a whole clip.
        Bytes::Keep => 1,
    };
    let (rows, received) = mpsc::sync_channel(ahead);
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .stack_size(stack)
            .spawn_scoped(scope, move || {
                IS_READER.set(true);
                read_rows(path, file, bytes, &rows)
            })
            .map_err(|error| FileError::reading(path, error))?;
        for row in received {
            if !take(row) {
                break;
            }
        }
        reader.join().unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied());
            Err(broken(path, "content", words.unwrap_or("no reason")))
        })
    })
}

/// The length that the end of the file tells; 0 where it is not the end of a parquet file.
fn metadata_length(file: &mut File) -> std::io::Result<u32> {
    let length = file.seek(SeekFrom::End(0))?;
    if length < 8 {
        return Ok(0);
    }
    let mut end = [0; 8];
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut end)?;
    let [a, b, c, d, magic @ ..] = end;
    Ok(if &magic == b"PAR1" {
        u32::from_le_bytes([a, b, c, d])
    } else {
        0
    })
}

/// Keeps the panics of readers out of stderr, from the first reader on.
fn silence_readers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_READER.get() {
                usual(panic);
            }
        }));
    });
}

fn broken(path: &Path, place: impl Into<String>, reason: impl std::fmt::Display) -> DataError {
    let reason = reason.to_string();
    // The reader was built without this compression; the file may be whole.
    let problem = match reason.split_once("compile time: ") {
        Some((_, codec)) => format!(
            "is compressed by {codec}, and read are snappy, gzip, zstd and none: \
             `pandas.read_parquet(\"OLD.parquet\").to_parquet(\"NEW.parquet\")` makes it so"
        ),
        None => format!(
            "not a readable parquet file ({reason}); download it again, or convert it to JSON lines"
        ),
    };
    DataError::Content {
        path: path.to_owned(),
        place: place.into(),
        problem,
    }
}

fn read_rows(
    path: &Path,
    file: File,
    bytes: Bytes,
    received: &SyncSender<ParquetRow>,
) -> Result<(), DataError> {
    let reader = SerializedFileReader::new(file).map_err(|error| broken(path, "footer", error))?;
    check_dictionaries(&reader).map_err(|reason| broken(path, "pages", reason))?;
    let rows = reader
        .get_row_iter(None)
        .map_err(|error| broken(path, "schema", error))?;
    for (index, row) in rows.enumerate() {
        let row = row.map_err(|error| broken(path, format!("row {index}"), error))?;
        // Nobody listens any more where a row was refused.
        let mut blobs = (bytes == Bytes::Keep).then(Vec::new);
        let fields = object(&row, 0, &mut blobs);
        let blobs = blobs.unwrap_or_default();
        if received.send(ParquetRow { fields, blobs }).is_err() {
            break;
        }
    }
    Ok(())
}

/// Refuses a dictionary that promises more values than it has bytes: the reader makes room for all of them before it looks.
fn check_dictionaries(reader: &SerializedFileReader<File>) -> Result<(), ParquetError> {
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group)?;
        for column in 0..group.num_columns() {
            for page in group.get_column_page_reader(column)? {
                let page = page?;
                let (values, bytes) = (page.num_values(), page.buffer().len());
                if page.page_type() == PageType::DICTIONARY_PAGE && values as usize > bytes {
                    return Err(ParquetError::General(format!(
                        "a dictionary of {values} values in {bytes} bytes"
                    )));
                }
            }
        }
    }
    Ok(())
}

fn object(row: &Row, depth: usize, blobs: &mut Option<Vec<Vec<u8>>>) -> Map<String, Value> {
    row.get_column_iter()
        .map(|(name, field)| (name.clone(), value(field, depth + 1, blobs)))
        .collect()
}

/// Dates, times and decimals have no use here and become null; so do bytes where there are no `blobs` to keep them.
fn value(field: &Field, depth: usize, blobs: &mut Option<Vec<Vec<u8>>>) -> Value {
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
        Field::Bytes(bytes) => match blobs {
            Some(blobs) => {
                blobs.push(bytes.data().to_vec());
                json!({"blob": blobs.len() - 1})
            }
            None => Value::Null,
        },
        Field::Group(row) if depth < MOST_DEPTH => Value::Object(object(row, depth, blobs)),
        Field::ListInternal(list) if depth < MOST_DEPTH => {
            let elements = list.elements().iter();
            let values = elements.map(|element| value(element, depth + 1, blobs));
            Value::Array(values.collect())
        }
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

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden/benchmark")
            .join(name)
    }

    fn rows(path: &Path) -> Result<Vec<Value>, DataError> {
        let mut rows = Vec::new();
        for_each_row(path, Bytes::Drop, &mut |row| {
            rows.push(Value::Object(row.fields));
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

    /// A file without rows whose schema is so many groups, one in the other.
    fn nested(levels: usize) -> Vec<u8> {
        // Thrift's compact protocol: field headers and zigzag numbers. A group is repetition 0, name "g", one child.
        let group = [0x35, 0, 0x18, 1, b'g', 0x15, 2, 0];
        let varint = |mut number: usize| {
            let mut bytes = Vec::new();
            while number > 127 {
                bytes.push(number as u8 | 128);
                number >>= 7;
            }
            bytes.push(number as u8);
            bytes
        };
        let mut metadata = vec![0x15, 2, 0x19, 0xfc];
        metadata.extend(varint(levels + 2));
        // The root, the groups, and a leaf of bytes.
        metadata.extend([0x48, 1, b's', 0x15, 2, 0]);
        metadata.extend(group.repeat(levels));
        metadata.extend([0x15, 12, 0x25, 0, 0x18, 1, b'l', 0]);
        // No rows and no row groups.
        metadata.extend([0x16, 0, 0x19, 0x0c, 0]);
        let length = (metadata.len() as u32).to_le_bytes();
        [b"PAR1", &*metadata, &length, b"PAR1"].concat()
    }

    #[test]
    fn nesting_does_not_overflow_the_stack() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nested.parquet");
        for levels in [3, 30_000] {
            std::fs::write(&path, nested(levels)).unwrap();
            assert_eq!(rows(&path).unwrap(), Vec::<Value>::new());
        }
        std::fs::write(&path, nested(1_000_000)).unwrap();
        let error = rows(&path).unwrap_err().to_string();
        assert!(
            error.contains("nested.parquet, footer") && error.contains("metadata"),
            "{error}"
        );
    }

    #[test]
    fn a_dictionary_without_its_values_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("promises.parquet");
        let mut bytes = std::fs::read(golden("mmvu.parquet")).unwrap();
        // A page header: a dictionary of 5 bytes that holds 1 value (both doubled), of plain encoding.
        let header = [0x15, 10, 0x15, 14, 0x4c, 0x15, 2, 0x15, 0];
        let is_header = |bytes: &[u8]| bytes == header;
        let place = bytes.windows(header.len()).position(is_header).unwrap();
        bytes[place + 6] = 126;
        std::fs::write(&path, bytes).unwrap();
        let error = rows(&path).unwrap_err().to_string();
        assert!(error.contains("63 values in 5 bytes"), "{error}");
    }

    #[test]
    fn what_lies_in_the_place_of_a_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.parquet");
        for (text, said) in [
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "it is a Git LFS pointer",
            ),
            ("<html><body>404</body></html>", "it is a web page"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = for_each_row(&path, Bytes::Drop, &mut |_| true).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
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
