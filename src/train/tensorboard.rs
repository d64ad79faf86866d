//! TensorBoard event files, written by hand: records of a length, its checksum, a protobuf message, its checksum.
//!
//! Formats: `tensorflow/core/lib/io/record_writer.cc`, `tensorflow/core/util/event.proto`, `summary.proto`.

use crate::util::file;
use crate::util::file::FileError;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// An event file of scalars.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts the file of a run directory anew: it is a view of `metrics.jsonl` and `timings.jsonl`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn create(run: &Path) -> Result<Self, FileError> {
        let folder = run.join("tensorboard");
        file::create_folders(&folder)?;
        let path = folder.join("events.out.tfevents.0.videothinker");
        let file = File::create(&path).map_err(|error| FileError::writing(&path, error))?;
        let mut events = Self { path, file };
        let mut event = Vec::new();
        put_double(&mut event, 1, 0.0);
        put_bytes(&mut event, 3, b"brain.Event:2");
        events.record(&event)?;
        Ok(events)
    }

    /// Appends the scalars of one step, at `wall_time` seconds since 1970.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn scalars<'a>(
        &mut self,
        step: usize,
        wall_time: f64,
        values: impl Iterator<Item = (&'a str, f64)>,
    ) -> Result<(), FileError> {
        let mut summary = Vec::new();
        for (tag, number) in values {
            let mut value = Vec::new();
            put_bytes(&mut value, 1, tag.as_bytes());
            put_float(&mut value, 2, number as f32);
            put_bytes(&mut summary, 1, &value);
        }
        let mut event = Vec::new();
        put_double(&mut event, 1, wall_time);
        put_varint(&mut event, 2 << 3);
        put_varint(&mut event, step as u64);
        put_bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> Result<(), FileError> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc32c(data).to_le_bytes());
        self.file
            .write_all(&record)
            .map_err(|error| FileError::writing(&self.path, error))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_varint(out, field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_varint(out, field << 3 | 5);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// CRC-32C (Castagnoli, reflected), rotated and offset as the record format wants it.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let lowest = crc & 1;
            crc >>= 1;
            if lowest == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_the_published_vectors() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn records_have_the_format_of_event_files() {
        let run = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(run.path()).unwrap();
        events
            .scalars(300, 1.5, [("reward", 0.25)].into_iter())
            .unwrap();
        let path = run
            .path()
            .join("tensorboard/events.out.tfevents.0.videothinker");
        let bytes = std::fs::read(path).unwrap();
        let mut messages = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length =
                usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc32c(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(crc(12 + length), masked_crc32c(data));
            messages.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 2);
        assert!(messages[0].ends_with(b"brain.Event:2"));
        let mut expected = vec![9];
        expected.extend(1.5f64.to_le_bytes());
        expected.extend([16, 0xac, 0x02, 42, 15, 10, 13, 10, 6]);
        expected.extend(b"reward");
        expected.push(21);
        expected.extend(0.25f32.to_le_bytes());
        assert_eq!(messages[1], expected);
    }
}
