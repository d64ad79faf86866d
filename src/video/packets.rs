//! A clip's file: opening it, finding its video track, and reading the packets of that track.

use crate::data::is_elsewhere;
use crate::util::file;
use crate::util::json;
use crate::video::VideoError;
use crate::video::avi;
use crate::video::ffmpeg;
use crate::video::h264;
use crate::video::index::{PacketIndex, PacketInfo};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Error, Packet, codec, media};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A clip that takes longer is given up.
const TIME_LIMIT: Duration = Duration::from_mins(2);
/// Packets up to this many bytes stay in memory between the two passes; a larger file is read twice.
const KEPT_BYTES: u64 = 64 << 20;
/// More packets than this are no clip (24 hours at 60 frames per second are half of it).
pub(super) const MAX_PACKETS: usize = 10_000_000;
/// Packets that are rather passed over than read.
const FAR: usize = 8;
/// Containers that know where each of their packets lies.
const INDEXED: [&str; 2] = ["mov,", "matroska,"];
/// Containers of animated images.
const ANIMATED: [&str; 2] = ["gif", "apng"];
/// Damaged reads in a row that end a file.
const MAX_ERRORS: usize = 1000;

/// When to give up on a clip.
#[derive(Clone)]
pub(super) struct Patience {
    pub(super) path: PathBuf,
    started: Instant,
    stop: Arc<AtomicBool>,
}

impl Patience {
    /// From now on.
    pub(super) fn new(path: &Path, stop: &Arc<AtomicBool>) -> Self {
        Self {
            path: path.to_owned(),
            started: Instant::now(),
            stop: Arc::clone(stop),
        }
    }

    fn exhausted(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.started.elapsed() > TIME_LIMIT
    }

    pub(super) fn check(&self) -> Result<(), VideoError> {
        let path = self.path.clone();
        if self.stop.load(Ordering::Relaxed) {
            return Err(VideoError::Stopped { path });
        }
        if self.started.elapsed() > TIME_LIMIT {
            let seconds = TIME_LIMIT.as_secs();
            return Err(VideoError::TimedOut { path, seconds });
        }
        Ok(())
    }

    pub(super) fn undecodable(&self, reason: impl std::fmt::Display) -> VideoError {
        VideoError::Undecodable {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// What a packet is known again by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PacketId {
    pts: i64,
    /// Bytes from the file's start.
    offset: isize,
    size: usize,
}

impl PacketId {
    fn of(packet: &Packet) -> Option<Self> {
        Some(Self {
            pts: packet.pts()?,
            offset: packet.position(),
            size: packet.size(),
        })
    }
}

/// The packets of the video track, read one after the other.
pub(super) struct PacketFile {
    patience: Patience,
    stream: usize,
    pub(super) input: Input,
    /// The position of the packet that the file stands before.
    next: usize,
    current: Packet,
    /// Where all packets lie, in a container that can go there.
    packet_ids: Option<Arc<Vec<PacketId>>>,
}

/// What is known after all packets were read.
pub(super) struct Indexed {
    /// The packets, when they fit in memory.
    pub(super) kept: Option<Vec<Packet>>,
    pub(super) index: PacketIndex,
    /// Of an H.264 track.
    pub(super) h264: Option<h264::Track>,
}

/// What the packets say, one after the other.
struct Found {
    infos: Vec<PacketInfo>,
    /// In a container that can go to its packets.
    packet_ids: Option<Vec<PacketId>>,
    /// Of an H.264 track.
    h264: Option<h264::Track>,
    /// An MPEG-4 track.
    is_mpeg4: bool,
    /// Some packet holds two pictures.
    is_packed: bool,
}

impl Found {
    fn add(&mut self, packet: &Packet) {
        let data = packet.data().unwrap_or_default();
        let begins_alone = |track: &h264::Track| track.begins_alone(data);
        self.infos.push(PacketInfo {
            pts: packet.pts(),
            dts: packet.dts(),
            duration: packet.duration(),
            key: packet.is_key() && self.h264.as_ref().is_none_or(begins_alone),
            hidden: ffmpeg::is_hidden(packet),
        });
        self.is_packed |= self.is_mpeg4 && avi::holds_two_pictures(data);
        match (&mut self.packet_ids, PacketId::of(packet)) {
            (Some(packet_ids), Some(id)) if id.offset >= 0 => packet_ids.push(id),
            _ => self.packet_ids = None,
        }
        if let Some(track) = &mut self.h264 {
            // What comes beside a packet can change how it is read.
            track.add(data, packet.side_data().next().is_none());
        }
    }
}

impl PacketFile {
    /// Opens a clip at its first packet.
    pub(super) fn open(patience: &Patience) -> Result<Self, VideoError> {
        ffmpeg::init();
        check_file(&patience.path)?;
        let mut input = open(patience)?;
        let stream = video_stream(&input, &patience.path)?;
        ffmpeg::keep_only(&mut input, stream);
        Ok(Self {
            patience: patience.clone(),
            stream,
            input,
            next: 0,
            current: Packet::empty(),
            packet_ids: None,
        })
    }

    /// The same file once more, at its first packet.
    pub(super) fn again(&self) -> Result<Self, VideoError> {
        Ok(Self {
            packet_ids: self.packet_ids.clone(),
            ..Self::open(&self.patience)?
        })
    }

    pub(super) fn track(&self) -> Result<ffmpeg_next::Stream<'_>, VideoError> {
        let track = self.input.stream(self.stream);
        track.ok_or_else(|| self.patience.undecodable("the video track vanished"))
    }

    /// Average frames per second; from the time stamps where the header has none, or none that holds for the whole clip.
    pub(super) fn frame_rate(
        &self,
        track: &ffmpeg_next::Stream,
        index: &PacketIndex,
    ) -> Option<f64> {
        let usable = |fps: &f64| fps.is_finite() && *fps > 0.0;
        // An animated image has a time for each frame: FFmpeg knows the rate of those at its beginning.
        let has_rate = !ANIMATED.contains(&self.input.format().name());
        let header = has_rate.then(|| track.avg_frame_rate());
        let header = header.map(|rate| f64::from(rate.numerator()) / f64::from(rate.denominator()));
        header.filter(usable).or_else(|| {
            let seconds = index.duration()? as f64 * f64::from(track.time_base());
            Some(index.total_frames() as f64 / seconds).filter(usable)
        })
    }

    /// The slots of equal length that the container has for frames, where it does not lack any of `packets` that fill them.
    pub(super) fn slots(&self, track: &ffmpeg_next::Stream, packets: usize) -> Option<usize> {
        let (slot, rate) = (track.time_base(), track.avg_frame_rate());
        let is_one_frame = slot.numerator() > 0
            && i64::from(slot.numerator()) * i64::from(rate.numerator())
                == i64::from(slot.denominator()) * i64::from(rate.denominator());
        if self.input.format().name() != avi::FORMAT || !is_one_frame {
            return None;
        }
        let slots = avi::slots(&self.patience.path, self.stream)?;
        (slots.all - slots.empty == packets).then_some(slots.all)
    }

    /// Reads every packet of the track; keeps the packets themselves while they are few enough.
    pub(super) fn index(&mut self) -> Result<Indexed, VideoError> {
        let name = self.input.format().name().to_owned();
        let has_offsets = INDEXED.iter().any(|known| name.starts_with(known));
        let record = ffmpeg::h264_record(&self.track()?);
        let mut found = Found {
            infos: Vec::new(),
            packet_ids: has_offsets.then(Vec::new),
            h264: record.as_deref().map(h264::Track::new),
            is_mpeg4: self.track()?.parameters().id() == codec::Id::MPEG4,
            is_packed: false,
        };
        let kept = index_packets(&mut self.input, self.stream, &self.patience, &mut found)?;
        self.next = found.infos.len();
        self.packet_ids = found.packet_ids.map(Arc::new);
        Ok(Indexed {
            kept,
            index: PacketIndex::new(found.infos, !found.is_packed),
            h264: found.h264,
        })
    }

    /// The packet at `position`; `None` when the file no longer gives it.
    fn get(&mut self, position: usize) -> Result<Option<&mut Packet>, VideoError> {
        let is_far = !(self.next..self.next + FAR).contains(&position);
        if is_far && self.go_to(position)? {
            return Ok(Some(&mut self.current));
        }
        if position < self.next {
            *self = self.again()?;
        }
        while self.next <= position {
            if !read_packet(&mut self.input, self.stream, &mut self.current) {
                return Ok(None);
            }
            self.next += 1;
        }
        Ok(Some(&mut self.current))
    }
}

impl PacketFile {
    /// Goes to the packet at `position` by the container's index and reads it. False where that does not lead to it: the file
    /// is to be read from where it is then, its beginning after a try, and no more is tried.
    fn go_to(&mut self, position: usize) -> Result<bool, VideoError> {
        let packet_ids = self.packet_ids.as_deref();
        let Some(&id) = packet_ids.and_then(|packet_ids| packet_ids.get(position)) else {
            return Ok(false);
        };
        if ffmpeg::seek(&mut self.input, self.stream, id.pts) {
            for _ in 0..FAR {
                if !read_packet(&mut self.input, self.stream, &mut self.current) {
                    break;
                }
                if PacketId::of(&self.current) == Some(id) {
                    self.next = position + 1;
                    return Ok(true);
                }
            }
        }
        *self = Self::open(&self.patience)?;
        Ok(false)
    }
}

/// Where a decoder's packets come from.
pub(super) enum Packets<'a> {
    /// Memory: the packets from position `first` on.
    Kept {
        first: usize,
        packets: &'a mut [Packet],
    },
    /// The file, read again.
    File(&'a mut PacketFile),
    /// A second look at the file, at the same time as others.
    OwnFile(Box<PacketFile>),
}

impl Packets<'_> {
    /// The packet at `position`; `None` when there is none.
    pub(super) fn get(&mut self, position: usize) -> Result<Option<&mut Packet>, VideoError> {
        match self {
            Self::Kept { first, packets } => Ok(position
                .checked_sub(*first)
                .and_then(|place| packets.get_mut(place))),
            Self::File(file) => file.get(position),
            Self::OwnFile(file) => file.get(position),
        }
    }
}

/// Refuses what would block or cannot be a clip before FFmpeg sees it.
fn check_file(path: &Path) -> Result<(), VideoError> {
    let path = path.to_owned();
    if path.to_str().is_some_and(is_elsewhere) {
        return Err(VideoError::Address { path });
    }
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(VideoError::NotFound { path })
        }
        Err(error) => Err(VideoError::Unreadable {
            path,
            reason: error.to_string(),
        }),
        Ok(facts) if !facts.is_file() => Err(VideoError::NotAFile { path }),
        Ok(facts) if facts.len() == 0 => Err(VideoError::Empty { path }),
        Ok(_) => Ok(()),
    }
}

fn open(patience: &Patience) -> Result<Input, VideoError> {
    let watch = patience.clone();
    ffmpeg::open(&patience.path, move || watch.exhausted()).map_err(|error| {
        if let Err(stopped) = patience.check() {
            return stopped;
        }
        let path = patience.path.clone();
        let reason = error.to_string();
        match error {
            Error::Other { errno } if errno == libc::EACCES => {
                VideoError::Unreadable { path, reason }
            }
            _ => match file::beginning(&path).ok().as_deref().and_then(other_file) {
                Some(what) => VideoError::OtherFile { path, what },
                None => VideoError::NotAVideo { path, reason },
            },
        }
    })
}

/// What a file is that is no video by its first bytes, and what to do.
fn other_file(bytes: &[u8]) -> Option<&'static str> {
    let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    let is_image =
        is_webp || bytes.starts_with(&[0xff, 0xd8, 0xff]) || bytes.starts_with(b"\x89PNG");
    Some(match bytes {
        _ if is_webp
            && bytes.get(12..16) == Some(b"VP8X")
            && bytes.get(20).is_some_and(|flags| flags & 2 != 0) =>
        {
            "is an animated WebP, which is not read: `magick IN.webp OUT.gif` (ImageMagick) makes a clip of it, or `ffmpeg -i IN.webp \
             OUT.mp4` where `ffmpeg -demuxers` lists webp_anim"
        }
        _ if is_image => {
            "is one image, no video: a clip is a file with moving pictures, or a folder of its frames (`FOLDER#fps=3`)"
        }
        [b'{' | b'[', ..] => {
            "is text (JSON), perhaps a server's error, no video: a download went wrong; fetch the file itself"
        }
        _ => return json::stand_in(bytes).or_else(|| json::packed(bytes)),
    })
}

/// The best video track that is not cover art, within the pixel limit.
fn video_stream(input: &Input, path: &Path) -> Result<usize, VideoError> {
    let none = |found: &str| VideoError::NoVideoTrack {
        path: path.to_owned(),
        found: found.to_owned(),
    };
    let Some(stream) = input.streams().best(media::Type::Video) else {
        let has_sound = input.streams().best(media::Type::Audio).is_some();
        return Err(none(if has_sound { "sound" } else { "other data" }));
    };
    let cover = ffmpeg_next::format::stream::Disposition::ATTACHED_PIC;
    if stream.disposition().contains(cover) {
        return Err(none("sound and cover art"));
    }
    let [width, height] = ffmpeg::coded_size(&stream);
    if width.saturating_mul(height) > ffmpeg::MAX_PIXELS {
        return Err(VideoError::TooLarge {
            path: path.to_owned(),
            width,
            height,
            limit: ffmpeg::MAX_PIXELS,
        });
    }
    if width == 0 || height == 0 {
        return Err(VideoError::Undecodable {
            path: path.to_owned(),
            reason: "the size of its frames is unknown".to_owned(),
        });
    }
    Ok(stream.index())
}

/// Reads every packet of the track; keeps the packets themselves while they are few enough.
fn index_packets(
    input: &mut Input,
    stream: usize,
    patience: &Patience,
    found: &mut Found,
) -> Result<Option<Vec<Packet>>, VideoError> {
    // A small file can still hold more: several packets may claim the same bytes.
    let file_bytes = std::fs::metadata(&patience.path).map_or(0, |facts| facts.len());
    let mut kept = (file_bytes <= KEPT_BYTES).then(Vec::new);
    let mut bytes = 0;
    let mut packet = Packet::empty();
    while read_packet(input, stream, &mut packet) {
        found.add(&packet);
        if found.infos.len() > MAX_PACKETS {
            return Err(VideoError::TooLong {
                path: patience.path.clone(),
                limit: MAX_PACKETS,
            });
        }
        bytes += packet.size() as u64;
        if bytes > KEPT_BYTES {
            kept = None;
        }
        if let Some(kept) = &mut kept {
            kept.push(std::mem::replace(&mut packet, Packet::empty()));
        }
        patience.check()?;
    }
    patience.check()?;
    Ok(kept)
}

/// The next packet of the track; false at the end of what can be read.
fn read_packet(input: &mut Input, stream: usize, packet: &mut Packet) -> bool {
    let mut errors = 0;
    loop {
        // Reading does not release what the packet held.
        *packet = Packet::empty();
        match packet.read(input) {
            Ok(()) if packet.stream() == stream => return true,
            Ok(()) => {}
            Err(Error::InvalidData) if errors < MAX_ERRORS => errors += 1,
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a golden clip of H.264 says once, and its packets.
    pub(in crate::video) fn record_and_packets(name: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut file, index) = file(name);
        let record = ffmpeg::h264_record(&file.track().unwrap()).unwrap();
        let packets = (0..index.len()).map(|i| bytes(&mut file, i)).collect();
        (record, packets)
    }

    fn file(name: &str) -> (PacketFile, PacketIndex) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
        let patience = Patience::new(&folder.join(name), &Arc::default());
        let mut file = PacketFile::open(&patience).unwrap();
        let index = file.index().unwrap().index;
        (file, index)
    }

    fn bytes(file: &mut PacketFile, position: usize) -> Vec<u8> {
        let packet = file.get(position).unwrap().unwrap();
        packet.data().unwrap().to_vec()
    }

    /// Read in order, jumped to forwards and backwards, and where the identities are wrong or unknown.
    #[test]
    fn a_packet_is_the_same_however_it_is_reached() {
        for name in [
            "gops.mp4",
            "open_gop.mp4",
            "edit_list.mp4",
            "vp9.webm",
            "mpeg4.avi",
        ] {
            let (mut file, index) = file(name);
            let in_order: Vec<Vec<u8>> = (0..index.len()).map(|i| bytes(&mut file, i)).collect();
            let last = index.len() - 1;
            let tour = [
                last,
                0,
                last / 2,
                last / 2,
                last,
                1,
                last / 3,
                last / 3 + 20.min(last / 2),
                2,
            ];
            for position in tour {
                assert!(
                    bytes(&mut file, position) == in_order[position],
                    "{name} {position}"
                );
            }
            if let Some(packet_ids) = &mut file.packet_ids {
                for id in Arc::make_mut(packet_ids) {
                    id.size += 1;
                }
            }
            for position in tour {
                assert!(
                    bytes(&mut file, position) == in_order[position],
                    "{name} {position}"
                );
            }
            assert!(
                file.packet_ids.is_none(),
                "{name}: wrong identities are given up"
            );
        }
    }

    #[test]
    fn a_container_with_an_index_is_not_read_through() {
        let (mut file, index) = file("gops.mp4");
        let key = (0..index.len()).rev().find(|&i| index.is_key(i)).unwrap();
        assert!(key > FAR);
        let mut again = file.again().unwrap();
        assert!(again.go_to(key).unwrap());
        assert_eq!(again.next, key + 1);
        assert!(again.current.data().unwrap().to_vec() == bytes(&mut file, key));
    }
}
