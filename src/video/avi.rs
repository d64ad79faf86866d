//! What only AVI has: a slot for each frame's time, empty where the frame before is shown on; and DivX's way to write B frames,
//! two pictures in one packet and an empty one behind.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;

/// How FFmpeg calls the container.
pub(super) const FORMAT: &str = "avi";

/// Longest index that is read: ten million entries.
const MOST_INDEX: u32 = 160 << 20;

/// The slots of a track, as the index at the end of the file lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) all: usize,
    /// Those in which nothing stands.
    pub(super) empty: usize,
}

/// The slots of the track `stream`; `None` where the file has no index, or is cut off before its end.
pub(super) fn slots(path: &Path, stream: usize) -> Option<Slots> {
    let index = index(path).ok().flatten()?;
    let number = format!("{stream:02}");
    let (mut slots, entry_size) = (Slots { all: 0, empty: 0 }, 16);
    for entry in index.chunks_exact(entry_size) {
        let (name, size) = (&entry[..4], &entry[12..]);
        if name.starts_with(number.as_bytes()) && (name.ends_with(b"dc") || name.ends_with(b"db")) {
            slots.all += 1;
            slots.empty += usize::from(size == [0; 4]);
        }
    }
    Some(slots)
}

/// The content of the chunk `idx1`.
fn index(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Behind `RIFF`, its size and `AVI `.
    let mut position = 12;
    while position + 8 <= length {
        let mut head = [0; 8];
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut head)?;
        let [a, b, c, d, size @ ..] = head;
        let size = u32::from_le_bytes(size);
        if [a, b, c, d] == *b"idx1" {
            if size > MOST_INDEX || position + 8 + u64::from(size) > length {
                return Ok(None);
            }
            let mut index = vec![0; size as usize];
            file.read_exact(&mut index)?;
            return Ok(Some(index));
        }
        position += 8 + u64::from(size).next_multiple_of(2);
    }
    Ok(None)
}

/// Whether a packet of MPEG-4 holds two pictures: the time of a packet is not that of a picture then.
pub(super) fn holds_two_pictures(packet: &[u8]) -> bool {
    const PICTURE: [u8; 4] = [0, 0, 1, 0xb6];
    let starts = packet.windows(PICTURE.len());
    starts.filter(|bytes| *bytes == PICTURE).nth(1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> std::path::PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        root.join("tests/golden/video/clips").join(name)
    }

    #[test]
    fn slots_are_those_of_a_file_that_is_whole() {
        for (name, all, empty) in [
            ("mpeg4.avi", 32, 0),
            ("null_frames.avi", 71, 43),
            ("packed.avi", 48, 2),
        ] {
            assert_eq!(
                slots(&golden(name), 0),
                Some(Slots { all, empty }),
                "{name}"
            );
        }
        let none = Slots { all: 0, empty: 0 };
        assert_eq!(slots(&golden("packed.avi"), 1), Some(none));
        let bytes = std::fs::read(golden("packed.avi")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.avi");
        for length in [bytes.len() - 8, bytes.len() / 2, 9, 0] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(slots(&path, 0), None, "{length}");
        }
    }

    #[test]
    fn pictures_are_counted_by_their_start_codes() {
        let picture = b"\0\0\x01\xb6abc";
        assert!(!holds_two_pictures(picture));
        assert!(holds_two_pictures(&picture.repeat(2)));
    }
}
