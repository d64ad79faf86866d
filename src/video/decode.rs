//! Exact frames of a clip: index the packets, then decode only the groups of pictures that hold frames wanted.
//!
//! Every packet is sent with its position in the file as time stamp, so that a decoded frame says which
//! packet it came from, in any container. Packets that are not wanted are decoded only if others refer to them.
//! When a frame does not come out, or the decoder reports damage, the clip is decoded again from the start,
//! nothing skipped. One decoder thread: clips are decoded side by side, and concealment of damage stays the same.

use crate::video::VideoError;
use crate::video::ffmpeg::{self, ToRgb};
use crate::video::index::{PacketIndex, PacketInfo};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Discard, Error, Packet, codec, decoder, frame, media, packet};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A clip that takes longer is given up.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Packets up to this many bytes stay in memory between the two passes; a larger file is read twice.
const KEPT_BYTES: usize = 64 << 20;
/// More packets than this are no clip (24 hours at 60 frames per second are half of it).
const MAX_PACKETS: usize = 10_000_000;
/// Damaged reads and decoder complaints in a row that end a pass.
const MAX_ERRORS: usize = 1000;

/// When to give up on a clip.
#[derive(Clone)]
struct Patience {
    path: PathBuf,
    started: Instant,
    stop: Arc<AtomicBool>,
}

impl Patience {
    fn exhausted(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.started.elapsed() > TIME_LIMIT
    }

    fn check(&self) -> Result<(), VideoError> {
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

    fn undecodable(&self, reason: impl std::fmt::Display) -> VideoError {
        VideoError::Undecodable {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The packets of the video track, by position.
struct PacketSource {
    patience: Patience,
    stream: usize,
    /// All packets, when they fit in memory.
    kept: Option<Vec<Packet>>,
    /// Otherwise the file, standing before packet `next`.
    input: Input,
    next: usize,
    current: Packet,
}

impl PacketSource {
    /// The packet at `position`; `None` when the file no longer gives it.
    fn get(&mut self, position: usize) -> Result<Option<&mut Packet>, VideoError> {
        if let Some(kept) = &mut self.kept {
            return Ok(kept.get_mut(position));
        }
        if position < self.next {
            self.input = open(&self.patience)?;
            ffmpeg::keep_only(&mut self.input, self.stream);
            self.next = 0;
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

/// A clip whose packets are indexed.
pub(super) struct Reader {
    patience: Patience,
    source: PacketSource,
    index: PacketIndex,
    fps: f64,
    /// `[width, height]` before rotation.
    coded_size: [usize; 2],
    rotation: Rotation,
}

impl Reader {
    /// Opens a file and reads through its packets. `stop` ends any later work on it with [`VideoError::Stopped`].
    pub(super) fn open(path: &Path, stop: &Arc<AtomicBool>) -> Result<Self, VideoError> {
        ffmpeg::init();
        let patience = Patience {
            path: path.to_owned(),
            started: Instant::now(),
            stop: Arc::clone(stop),
        };
        check_file(path)?;
        let mut input = open(&patience)?;
        let stream = video_stream(&input, path)?;
        ffmpeg::keep_only(&mut input, stream);
        let (kept, infos) = index_packets(&mut input, stream, &patience)?;
        let index = PacketIndex::new(infos);
        let track = input
            .stream(stream)
            .ok_or_else(|| patience.undecodable("the video track vanished"))?;
        if index.total_frames() == 0 {
            return Err(patience.undecodable("the video track holds no frames"));
        }
        if track.frames() > index.len() as i64 {
            tracing::warn!(
                "{}: promises {} frames but holds {}: the file is cut off",
                path.display(),
                track.frames(),
                index.len()
            );
        }
        let fps = frame_rate(&track, &index).ok_or_else(|| VideoError::NoFrameRate {
            path: path.to_owned(),
        })?;
        let coded_size = ffmpeg::coded_size(&track);
        let rotation = Rotation::of(&track);
        let source = PacketSource {
            patience: patience.clone(),
            stream,
            next: index.len(),
            kept,
            input,
            current: Packet::empty(),
        };
        Ok(Self {
            patience,
            source,
            index,
            fps,
            coded_size,
            rotation,
        })
    }

    /// Displayable frames in the file.
    pub(super) fn total_frames(&self) -> usize {
        self.index.total_frames()
    }

    /// Average frames per second.
    pub(super) fn fps(&self) -> f64 {
        self.fps
    }

    /// Height and width after rotation.
    pub(super) fn size(&self) -> [usize; 2] {
        let [width, height] = self.coded_size;
        if self.rotation.swaps_sides() {
            [width, height]
        } else {
            [height, width]
        }
    }

    /// Decodes the frames at `indices` (display order, strictly rising) and hands each to `sink` as RGB
    /// `[height, width, 3]` with its place in `indices`. A frame can come twice: the later one holds.
    pub(super) fn read(
        &mut self,
        indices: &[usize],
        sink: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), VideoError> {
        if self.index.is_timed() {
            let keys = indices.iter().map(|&i| self.index.packet_of(i) as i64);
            let wanted: BTreeMap<i64, usize> = keys.zip(0..).collect();
            let targets: BTreeSet<usize> = wanted.keys().map(|&key| key as usize).collect();
            let ranges = self.index.ranges(&targets);
            let (missing, damaged) = self.pass(&ranges, true, wanted.clone(), sink)?;
            if missing == 0 && !damaged {
                return Ok(());
            }
            tracing::debug!(
                "{}: decoding again from the start ({missing} frames missing, damage reported: {damaged})",
                self.patience.path.display()
            );
            return self.read_all(wanted, sink);
        }
        let wanted = indices.iter().map(|&i| i as i64).zip(0..).collect();
        self.read_all(wanted, sink)
    }

    /// Decodes from the first packet, nothing skipped.
    fn read_all(
        &mut self,
        wanted: BTreeMap<i64, usize>,
        sink: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), VideoError> {
        let count = wanted.len();
        let everything = 0..self.index.len();
        let (missing, damaged) =
            self.pass(std::slice::from_ref(&everything), false, wanted, sink)?;
        if missing > 0 {
            let reason = format!("{missing} of the {count} frames wanted do not come out");
            return Err(self.patience.undecodable(reason));
        }
        if damaged {
            tracing::warn!("{}: is damaged in places", self.patience.path.display());
        }
        Ok(())
    }

    /// Decodes ranges of packets; returns how many frames are missing and whether damage was reported.
    fn pass(
        &mut self,
        ranges: &[Range<usize>],
        skip_unreferenced: bool,
        wanted: BTreeMap<i64, usize>,
        sink: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(usize, bool), VideoError> {
        let mut decoder = self.new_decoder()?;
        let to_rgb = ToRgb::new(self.coded_size).map_err(|e| self.patience.undecodable(e))?;
        let mut output = Output {
            patience: &self.patience,
            frame: frame::Video::empty(),
            to_rgb,
            rotation: self.rotation,
            coded_size: self.coded_size,
            rgb: Vec::new(),
            wanted,
            order: (!self.index.is_timed()).then_some(0),
            errors: 0,
            damaged: false,
            sink,
        };
        for (i, range) in ranges.iter().enumerate() {
            if i > 0 {
                decoder.flush();
            }
            for position in range.clone() {
                self.patience.check()?;
                let Some(packet) = self.source.get(position)? else {
                    break;
                };
                let wanted = output.wanted.contains_key(&(position as i64));
                decoder.skip_frame(if skip_unreferenced && !wanted {
                    Discard::NonReference
                } else {
                    Discard::Default
                });
                packet.set_pts(Some(position as i64));
                packet.set_dts(None);
                output.send(&mut decoder, Some(packet))?;
                if output.wanted.is_empty() {
                    return Ok((0, output.damaged));
                }
            }
            output.send(&mut decoder, None)?;
        }
        Ok((output.wanted.len(), output.damaged))
    }

    fn new_decoder(&self) -> Result<decoder::Video, VideoError> {
        let build = || {
            let stream = self.source.input.stream(self.source.stream);
            let stream = stream.ok_or(Error::StreamNotFound)?;
            let parameters = stream.parameters();
            let codec = decoder::find(parameters.id()).ok_or(Error::DecoderNotFound)?;
            let mut context = codec::Context::from_parameters(parameters)?.decoder();
            context.set_packet_time_base(stream.time_base());
            let mut options = ffmpeg_next::Dictionary::new();
            options.set("threads", "1");
            options.set("max_pixels", &ffmpeg::MAX_PIXELS.to_string());
            context.open_as_with(codec, options)?.video()
        };
        build().map_err(|error| self.patience.undecodable(error))
    }
}

/// Where decoded frames go.
struct Output<'a> {
    patience: &'a Patience,
    frame: frame::Video,
    to_rgb: ToRgb,
    rotation: Rotation,
    coded_size: [usize; 2],
    rgb: Vec<u8>,
    /// Frames still wanted: time stamp (or, without usable ones, place in output order) → place in the result.
    wanted: BTreeMap<i64, usize>,
    /// Frames seen, when they are told apart by their order.
    order: Option<i64>,
    errors: usize,
    damaged: bool,
    sink: &'a mut dyn FnMut(usize, &[u8]),
}

impl Output<'_> {
    /// Gives the decoder a packet (`None`: the end) and takes what comes out.
    fn send(
        &mut self,
        decoder: &mut decoder::Video,
        packet: Option<&Packet>,
    ) -> Result<(), VideoError> {
        // A decoder that is full takes the packet after its frames are fetched: twice is already one too many.
        for _ in 0..MAX_ERRORS {
            let sent = match packet {
                Some(packet) => decoder.send_packet(packet),
                None => decoder.send_eof(),
            };
            let full = matches!(sent, Err(Error::Other { errno }) if errno == libc::EAGAIN);
            if sent.is_err() && !full && sent != Err(Error::Eof) {
                self.complain()?;
            }
            self.receive(decoder)?;
            if !full || self.wanted.is_empty() {
                return Ok(());
            }
        }
        Err(self
            .patience
            .undecodable("the decoder takes no more packets"))
    }

    fn receive(&mut self, decoder: &mut decoder::Video) -> Result<(), VideoError> {
        while !self.wanted.is_empty() {
            match decoder.receive_frame(&mut self.frame) {
                Ok(()) => self.take()?,
                Err(Error::Eof) => break,
                Err(Error::Other { errno }) if errno == libc::EAGAIN => break,
                Err(_) => self.complain()?,
            }
        }
        Ok(())
    }

    fn complain(&mut self) -> Result<(), VideoError> {
        self.damaged = true;
        self.errors += 1;
        if self.errors > MAX_ERRORS {
            return Err(self.patience.undecodable("too many damaged frames"));
        }
        self.patience.check()
    }

    /// Converts the decoded frame if it is wanted.
    fn take(&mut self) -> Result<(), VideoError> {
        self.damaged |= self.frame.is_corrupt() || self.frame.has_decode_errors();
        let key = match &mut self.order {
            Some(seen) => {
                *seen += 1;
                Some(*seen - 1)
            }
            None => self.frame.pts(),
        };
        let Some(slot) = key.and_then(|key| self.wanted.remove(&key)) else {
            return Ok(());
        };
        let converted = self.to_rgb.convert(&self.frame, &mut self.rgb);
        converted.map_err(|error| self.patience.undecodable(error))?;
        match self.rotation {
            Rotation::None => (self.sink)(slot, &self.rgb),
            rotation => (self.sink)(slot, &rotation.apply(&self.rgb, self.coded_size)),
        }
        Ok(())
    }
}

/// Clockwise turn that a player applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    None,
    Quarter,
    Half,
    ThreeQuarters,
}

impl Rotation {
    /// From the track's display matrix, to the nearest quarter turn.
    fn of(track: &ffmpeg_next::Stream) -> Self {
        let matrix = track.side_data().find_map(|side_data| {
            let is_matrix = side_data.kind() == packet::side_data::Type::DisplayMatrix;
            let bytes = side_data.data().get(..36)?;
            is_matrix.then(|| {
                let entry = |i: usize| {
                    let bytes: [u8; 4] = std::array::from_fn(|b| bytes[i * 4 + b]);
                    f64::from(i32::from_ne_bytes(bytes))
                };
                [entry(0), entry(1), entry(3), entry(4)]
            })
        });
        let Some([a, b, c, d]) = matrix else {
            return Self::None;
        };
        let degrees = (b / b.hypot(d)).atan2(a / a.hypot(c)).to_degrees();
        let quarters = (degrees / 90.0).round();
        let off = (degrees - 90.0 * quarters).abs();
        if off.is_nan() || off >= 1.0 {
            return Self::None;
        }
        match (quarters as i32).rem_euclid(4) {
            1 => Self::Quarter,
            2 => Self::Half,
            3 => Self::ThreeQuarters,
            _ => Self::None,
        }
    }

    fn swaps_sides(self) -> bool {
        matches!(self, Self::Quarter | Self::ThreeQuarters)
    }

    /// Turns an RGB image of `[width, height]`.
    fn apply(self, rgb: &[u8], [width, height]: [usize; 2]) -> Vec<u8> {
        let (out_width, out_height) = if self.swaps_sides() {
            (height, width)
        } else {
            (width, height)
        };
        let mut turned = Vec::with_capacity(rgb.len());
        for y in 0..out_height {
            for x in 0..out_width {
                let (from_x, from_y) = match self {
                    Self::None => (x, y),
                    Self::Quarter => (y, height - 1 - x),
                    Self::Half => (width - 1 - x, height - 1 - y),
                    Self::ThreeQuarters => (width - 1 - y, x),
                };
                let at = (from_y * width + from_x) * 3;
                turned.extend_from_slice(&rgb[at..at + 3]);
            }
        }
        turned
    }
}

/// Refuses what would block or cannot be a clip before FFmpeg sees it.
fn check_file(path: &Path) -> Result<(), VideoError> {
    let path = path.to_owned();
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
            _ => VideoError::NotAVideo { path, reason },
        }
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
) -> Result<(Option<Vec<Packet>>, Vec<PacketInfo>), VideoError> {
    let mut infos = Vec::new();
    let mut kept = Some(Vec::new());
    let mut bytes = 0;
    let mut packet = Packet::empty();
    while read_packet(input, stream, &mut packet) {
        infos.push(PacketInfo {
            pts: packet.pts(),
            duration: packet.duration(),
            key: packet.is_key(),
            hidden: ffmpeg::is_hidden(&packet),
        });
        if infos.len() > MAX_PACKETS {
            return Err(VideoError::TooLong {
                path: patience.path.clone(),
                limit: MAX_PACKETS,
            });
        }
        bytes += packet.size();
        if bytes > KEPT_BYTES {
            kept = None;
        }
        if let Some(kept) = &mut kept {
            kept.push(std::mem::replace(&mut packet, Packet::empty()));
        }
        patience.check()?;
    }
    patience.check()?;
    Ok((kept, infos))
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

/// Average frames per second; from the time stamps where the header has none.
fn frame_rate(track: &ffmpeg_next::Stream, index: &PacketIndex) -> Option<f64> {
    let rate = track.avg_frame_rate();
    let fps = f64::from(rate.numerator()) / f64::from(rate.denominator());
    let usable = |fps: &f64| fps.is_finite() && *fps > 0.0;
    Some(fps).filter(usable).or_else(|| {
        let unit = f64::from(track.time_base());
        let seconds = index.duration()? as f64 * unit;
        Some(index.total_frames() as f64 / seconds).filter(usable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIPS: [&str; 12] = [
        "h264.mp4",
        "gops.mp4",
        "open_gop.mp4",
        "h264_444_odd.mp4",
        "odd.webm",
        "vp9.webm",
        "vfr.mp4",
        "full_range.mp4",
        "large.mp4",
        "mpeg4.avi",
        "edit_list.mp4",
        "rotated.mp4",
    ];

    fn open_clip(name: &str) -> Reader {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
        Reader::open(&folder.join(name), &Arc::default()).unwrap()
    }

    fn frames(reader: &mut Reader, indices: &[usize]) -> Vec<Vec<u8>> {
        let mut frames = vec![Vec::new(); indices.len()];
        let mut keep = |slot: usize, rgb: &[u8]| frames[slot] = rgb.to_vec();
        reader.read(indices, &mut keep).unwrap();
        frames
    }

    /// Every frame, decoded from the first packet and told apart by output order alone.
    fn all_frames(name: &str) -> Vec<Vec<u8>> {
        let mut reader = open_clip(name);
        reader.index = reader.index.without_times();
        let everything: Vec<usize> = (0..reader.total_frames()).collect();
        frames(&mut reader, &everything)
    }

    #[test]
    fn chosen_frames_equal_those_of_a_full_decode() {
        for name in CLIPS {
            let all = all_frames(name);
            assert!(
                all.windows(2).all(|pair| pair[0] != pair[1]),
                "{name}: frames must differ"
            );
            for (first, step) in [(0, 1), (1, 7), (5, 11), (all.len() - 1, 1)] {
                let indices: Vec<usize> = (first..all.len()).step_by(step).collect();
                let found = frames(&mut open_clip(name), &indices);
                let equal = found
                    .iter()
                    .zip(&indices)
                    .all(|(frame, &i)| *frame == all[i]);
                assert!(equal, "{name}: frames {first}, +{step}");
            }
        }
    }

    #[test]
    fn packets_read_again_from_the_file_give_the_same_frames() {
        for name in ["gops.mp4", "open_gop.mp4", "vp9.webm", "edit_list.mp4"] {
            let mut kept = open_clip(name);
            let mut reread = open_clip(name);
            reread.source.kept = None;
            let last = kept.total_frames() - 1;
            for indices in [vec![last], vec![2, last], vec![0, 1, last / 2]] {
                let found = frames(&mut reread, &indices);
                assert_eq!(found, frames(&mut kept, &indices), "{name} {indices:?}");
            }
        }
    }

    #[test]
    fn a_quarter_turn_moves_the_bottom_left_pixel_to_the_top_left() {
        // 2 wide, 3 high; the red channel counts the pixels.
        let image: Vec<u8> = (0..6).flat_map(|i| [i, 0, 0]).collect();
        let red = |rotation: Rotation| -> Vec<u8> {
            let turned = rotation.apply(&image, [2, 3]);
            turned.chunks_exact(3).map(|pixel| pixel[0]).collect()
        };
        assert_eq!(red(Rotation::Quarter), [4, 2, 0, 5, 3, 1]);
        assert_eq!(red(Rotation::Half), [5, 4, 3, 2, 1, 0]);
        assert_eq!(red(Rotation::ThreeQuarters), [1, 3, 5, 0, 2, 4]);
    }

    #[test]
    fn a_stopped_reader_says_so() {
        let stop = Arc::new(AtomicBool::new(false));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
        let mut reader = Reader::open(&folder.join("h264.mp4"), &stop).unwrap();
        stop.store(true, Ordering::Relaxed);
        let result = reader.read(&[0], &mut |_, _| {});
        assert!(matches!(result, Err(VideoError::Stopped { .. })));
    }
}
