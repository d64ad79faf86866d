//! Exact frames of a clip: index the packets, then decode only the groups of pictures that hold frames wanted.
//!
//! Every packet is sent with its position in the file as time stamp, so that a decoded frame says which
//! packet it came from, in any container. Packets that are not wanted are decoded only if others may refer to them, those of
//! H.264 only if wanted ones do ([`super::h264`]).
//! When a frame does not come out, or the decoder reports damage, the clip is decoded again from the start,
//! nothing skipped. A decoder has one thread, so that concealment of damage stays the same; clips are decoded side by
//! side, and so are the groups of pictures of one long clip, which do not depend on each other.

mod output;
mod shares;

use crate::util::words::counted;
use crate::video::VideoError;
use crate::video::ffmpeg;
use crate::video::h264::{self, Unneeded};
use crate::video::index::PacketIndex;
use crate::video::packets::{Indexed, MAX_PACKETS, PacketFile, Packets, Patience};
use crate::video::rotation::Rotation;
use ffmpeg_next::{Error, Packet, codec, decoder};
use output::Output;
use shares::shares;
use shares::sources;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

/// Takes a decoded frame: its place among those wanted, and its RGB values `[height, width, 3]`.
pub(super) type Sink<'a> = &'a mut dyn FnMut(usize, &[u8]);

/// Where a clip's frames come from.
pub(super) trait Source {
    /// Displayable frames.
    fn total_frames(&self) -> usize;
    /// Frames that are promised and not there.
    fn cut_frames(&self) -> usize;
    /// The picture that a frame shows, counted in display order; several frames in a row may show one.
    fn picture_of(&self, frame: usize) -> usize {
        frame
    }
    /// Average frames per second.
    fn fps(&self) -> f64;
    /// Height and width after rotation.
    fn size(&self) -> [usize; 2];
    /// Decodes the pictures `indices` (display order, strictly rising) on up to `threads` threads and hands each to
    /// `sink`, in any order. A frame can come twice: the later one holds. Returns whether the decoder reports damage.
    fn read(&mut self, indices: &[usize], threads: usize, sink: Sink) -> Result<bool, VideoError>;
}

/// A clip whose packets are indexed.
pub(super) struct Reader {
    patience: Patience,
    file: PacketFile,
    /// All packets, when they fit in memory.
    kept: Option<Vec<Packet>>,
    index: PacketIndex,
    h264: Option<h264::Track>,
    fps: f64,
    promised: usize,
    picture: Picture,
}

/// What a track's frames look like.
#[derive(Debug, Clone, Copy)]
struct Picture {
    /// `[width, height]` before rotation.
    coded_size: [usize; 2],
    rotation: Rotation,
}

impl Reader {
    /// Opens a file and reads through its packets. `fps` holds in place of what the file says; `stop` ends any later work
    /// on it with [`VideoError::Stopped`].
    pub(super) fn open(
        path: &Path,
        fps: Option<f64>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, VideoError> {
        let patience = Patience::new(path, stop);
        let mut file = PacketFile::open(&patience)?;
        let Indexed {
            kept,
            mut index,
            h264,
        } = file.index()?;
        if index.total_frames() == 0 {
            return Err(patience.undecodable("the video track holds no frames"));
        }
        let track = file.track()?;
        let mut promised = usize::try_from(track.frames()).unwrap_or(0);
        if promised > index.len()
            && let Some(slots) = file.slots(&track, index.len())
        {
            index.hold(slots, MAX_PACKETS);
            promised = promised.saturating_sub(slots) + index.total_frames();
        }
        let held = index.len().max(index.total_frames());
        if promised > held {
            tracing::warn!(
                "{}: promises {promised} frames but holds {held}: the file is cut off",
                path.display()
            );
        }
        let fps = fps.or_else(|| file.frame_rate(&track, &index));
        let fps = fps.ok_or_else(|| VideoError::NoFrameRate {
            path: path.to_owned(),
        })?;
        let picture = Picture {
            coded_size: ffmpeg::coded_size(&track),
            rotation: Rotation::of(&track),
        };
        let mut reader = Self {
            patience,
            file,
            kept,
            index,
            h264,
            fps,
            promised,
            picture,
        };
        reader.leave_out_lost_start()?;
        Ok(reader)
    }

    /// Leaves out the frames at the beginning that do not come out because those that they refer to were cut away: the file
    /// begins inside a group of pictures.
    fn leave_out_lost_start(&mut self) -> Result<(), VideoError> {
        let unsure = self.index.unsure();
        let Some(last) = unsure.last() else {
            return Ok(());
        };
        let range = 0..last + 1;
        let wanted = unsure
            .iter()
            .map(|&packet| packet as i64)
            .zip(0..)
            .collect();
        let mut decoder = self.new_decoder()?;
        let mut packets = match &mut self.kept {
            Some(kept) => Packets::Kept {
                first: 0,
                packets: kept,
            },
            None => Packets::File(&mut self.file),
        };
        let mut sink = |_: usize, _: &[u8]| {};
        let mut output = Output::new(&self.patience, self.picture, wanted, None, &mut sink)?;
        output.whole_only = true;
        output.decode(&mut decoder, &mut packets, std::slice::from_ref(&range))?;
        let lost: BTreeSet<usize> = output.wanted.keys().map(|&key| key as usize).collect();
        if lost.is_empty() {
            return Ok(());
        }
        if lost.len() == self.index.total_frames() {
            return Err(self.patience.undecodable("no frame comes out"));
        }
        tracing::warn!(
            "{}: begins inside a group of pictures: the first {} cannot be decoded without what was cut away before, and left out",
            self.patience.path.display(),
            counted(lost.len(), "frame")
        );
        self.index.lose(lost);
        Ok(())
    }

    /// Decodes from the first packet, nothing skipped. Returns whether the decoder reports damage.
    fn read_all(&mut self, wanted: BTreeMap<i64, usize>, sink: Sink) -> Result<bool, VideoError> {
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
        Ok(damaged)
    }

    /// Decodes ranges of packets; returns how many frames are missing and whether damage was reported.
    fn pass(
        &mut self,
        ranges: &[Range<usize>],
        skip: bool,
        wanted: BTreeMap<i64, usize>,
        sink: Sink,
    ) -> Result<(usize, bool), VideoError> {
        let mut decoder = self.new_decoder()?;
        let unneeded = skip.then(|| unneeded(self.h264.as_ref(), ranges, &wanted));
        let mut packets = match &mut self.kept {
            Some(kept) => Packets::Kept {
                first: 0,
                packets: kept,
            },
            None => Packets::File(&mut self.file),
        };
        let order = (!self.index.is_timed()).then_some(0);
        let mut output = Output::new(&self.patience, self.picture, wanted, order, sink)?;
        output.unneeded = unneeded.as_ref();
        output.index = Some(&self.index);
        output.decode(&mut decoder, &mut packets, ranges)?;
        Ok((output.wanted.len(), output.damaged))
    }

    /// As [`Self::pass`], each share of the ranges on a thread of its own. Frames cannot be told apart by their order
    /// here, and nothing is wanted outside the ranges.
    fn side_by_side(
        &mut self,
        shares: &[&[Range<usize>]],
        wanted: &BTreeMap<i64, usize>,
        sink: Sink,
    ) -> Result<(usize, bool), VideoError> {
        let decoders = shares
            .iter()
            .map(|_| self.new_decoder())
            .collect::<Result<Vec<_>, _>>()?;
        let (patience, picture, index) = (&self.patience, self.picture, &self.index);
        let unneeded = &unneeded(self.h264.as_ref(), &shares.concat(), wanted);
        let sources = sources(self.kept.as_deref_mut(), shares, &self.file)?;
        // A frame waits here until the one before it is taken, so that memory stays bounded.
        let (sender, receiver) = mpsc::sync_channel::<(usize, Vec<u8>)>(shares.len());
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for ((share, mut decoder), mut packets) in shares.iter().zip(decoders).zip(sources) {
                let sender = sender.clone();
                let is_mine = |key: i64| share.iter().any(|range| range.contains(&(key as usize)));
                let mine = wanted.iter().filter(|(key, _)| is_mine(**key));
                let mine = mine.map(|(key, slot)| (*key, *slot)).collect();
                workers.push(scope.spawn(move || {
                    // Nobody listens any more when another thread has failed; its error is the one reported.
                    let mut send = |slot: usize, rgb: &[u8]| {
                        let _ = sender.send((slot, rgb.to_vec()));
                    };
                    let mut output = Output::new(patience, picture, mine, None, &mut send)?;
                    output.unneeded = Some(unneeded);
                    output.index = Some(index);
                    output.decode(&mut decoder, &mut packets, share)?;
                    Ok((output.wanted.len(), output.damaged))
                }));
            }
            drop(sender);
            for (slot, rgb) in receiver {
                sink(slot, &rgb);
            }
            let (mut missing, mut damaged) = (0, false);
            for worker in workers {
                let panicked = |_| Err(patience.undecodable("a decoding thread panicked"));
                let (more, also) = worker.join().unwrap_or_else(panicked)?;
                missing += more;
                damaged |= also;
            }
            Ok((missing, damaged))
        })
    }

    fn new_decoder(&self) -> Result<decoder::Video, VideoError> {
        let stream = self.file.track()?;
        let build = || {
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

impl Source for Reader {
    fn total_frames(&self) -> usize {
        self.index.total_frames()
    }

    fn picture_of(&self, frame: usize) -> usize {
        self.index.picture_of(frame)
    }

    fn cut_frames(&self) -> usize {
        let held = self.index.len().max(self.index.total_frames());
        self.promised.saturating_sub(held)
    }

    fn fps(&self) -> f64 {
        self.fps
    }

    fn size(&self) -> [usize; 2] {
        let [width, height] = self.picture.coded_size;
        if self.picture.rotation.swaps_sides() {
            [width, height]
        } else {
            [height, width]
        }
    }

    fn read(&mut self, indices: &[usize], threads: usize, sink: Sink) -> Result<bool, VideoError> {
        if self.index.is_timed() {
            let keys = indices.iter().map(|&i| self.index.packet_of(i) as i64);
            let wanted: BTreeMap<i64, usize> = keys.zip(0..).collect();
            let targets: BTreeSet<usize> = wanted.keys().map(|&key| key as usize).collect();
            let ranges = self.index.ranges(&targets);
            let shares = shares(&ranges, threads);
            let (missing, damaged) = match shares[..] {
                [_, _, ..] => self.side_by_side(&shares, &wanted, sink)?,
                _ => self.pass(&ranges, true, wanted.clone(), sink)?,
            };
            if missing == 0 && !damaged {
                return Ok(false);
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
}

/// How long a clip is by its head; `None` where that does not say it, or the file cannot be read.
pub(super) fn seconds_by_head(path: &Path) -> Option<f64> {
    let patience = Patience::new(path, &Arc::default());
    let file = PacketFile::open(&patience).ok()?;
    let track = file.track().ok()?;
    let ticks = Some(track.duration()).filter(|ticks| *ticks > 0)?;
    Some(ticks as f64 * f64::from(track.time_base()))
}

/// What need not be decoded in `ranges` for the packets wanted.
fn unneeded<'a>(
    track: Option<&'a h264::Track>,
    ranges: &[Range<usize>],
    wanted: &BTreeMap<i64, usize>,
) -> Unneeded<'a> {
    let targets = wanted.keys().map(|&key| key as usize).collect();
    track.map_or_else(Unneeded::default, |track| track.unneeded(ranges, &targets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::sync::atomic::Ordering;

    const CLIPS: [&str; 22] = [
        "h264.mp4",
        "gops.mp4",
        "pyramid.mp4",
        "pyramid.mkv",
        "refresh.mp4",
        "open_gop.mp4",
        "h264_444_odd.mp4",
        "odd.webm",
        "vp9.webm",
        "vfr.mp4",
        "full_range.mp4",
        "large.mp4",
        "mpeg4.avi",
        "partial.gif",
        "edit_list.mp4",
        "rotated.mp4",
        "null_frames.avi",
        "packed.avi",
        "mid_gop.ts",
        "no_key.mkv",
        "open_start.mp4",
        "partial.png",
    ];

    fn open_clip(name: &str) -> Reader {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
        Reader::open(&folder.join(name), None, &Arc::default()).unwrap()
    }

    fn frames(reader: &mut Reader, indices: &[usize]) -> Vec<Vec<u8>> {
        let mut frames = vec![Vec::new(); indices.len()];
        let mut keep = |slot: usize, rgb: &[u8]| frames[slot] = rgb.to_vec();
        reader.read(indices, 1, &mut keep).unwrap();
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

    /// What came of one choice of frames, nothing decoded again.
    struct Choice {
        packets: usize,
        unneeded: usize,
        wrong: Vec<usize>,
    }

    /// Decodes `indices` and compares with all frames.
    fn choose(reader: &mut Reader, indices: &BTreeSet<usize>, all: &[Vec<u8>]) -> Choice {
        let key = |&i: &usize| (reader.index.packet_of(i) as i64, i);
        let wanted: BTreeMap<i64, usize> = indices.iter().map(key).collect();
        let targets = wanted.keys().map(|&key| key as usize).collect();
        let ranges = reader.index.ranges(&targets);
        let unneeded = unneeded(reader.h264.as_ref(), &ranges, &wanted);
        let positions = ranges.iter().cloned().flatten();
        let unneeded = positions.filter(|&i| unneeded.contains(i)).count();
        let mut wrong = Vec::new();
        let mut compare = |i: usize, rgb: &[u8]| {
            if rgb != all[i] {
                wrong.push(i);
            }
        };
        // Frames of an open group of pictures may be missing at first.
        let (_, damaged) = reader.pass(&ranges, true, wanted, &mut compare).unwrap();
        assert!(!damaged, "{indices:?}");
        Choice {
            packets: ranges.iter().map(ExactSizeIterator::len).sum(),
            unneeded,
            wrong,
        }
    }

    fn choose_at_random(path: &Path, rng: &mut ChaCha8Rng) -> [usize; 2] {
        let mut reader = Reader::open(path, None, &Arc::default()).unwrap();
        let count = reader.total_frames();
        let everything = (0..count).map(|i| (reader.index.packet_of(i) as i64, i));
        let mut all = vec![Vec::new(); count];
        let mut keep = |i: usize, rgb: &[u8]| all[i] = rgb.to_vec();
        reader.read_all(everything.collect(), &mut keep).unwrap();
        let (mut packets, mut unneeded) = (0, 0);
        for _ in 0..12 {
            let chosen = rng.random_range(1..5);
            let indices = (0..chosen).map(|_| rng.random_range(0..count)).collect();
            let choice = choose(&mut reader, &indices, &all);
            let place = path.display();
            assert_eq!(choice.wrong, [0; 0], "{place}: of {indices:?}");
            packets += choice.packets;
            unneeded += choice.unneeded;
        }
        [packets, unneeded]
    }

    /// The golden clips, and those of `VIDEOTHINKER_TEST_CLIPS`, a folder that `scripts/random_h264.py` fills.
    #[test]
    fn pictures_that_are_not_needed_are_left_out_and_change_nothing() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for name in ["pyramid.mp4", "pyramid.mkv"] {
            let [packets, unneeded] = choose_at_random(&golden.join(name), &mut rng);
            assert!(unneeded * 20 > packets, "{name}: {unneeded} of {packets}");
        }
        for name in ["h264.mp4", "gops.mp4", "open_gop.mp4", "h264_444_odd.mp4"] {
            choose_at_random(&golden.join(name), &mut rng);
        }
        let Some(folder) = std::env::var_os("VIDEOTHINKER_TEST_CLIPS") else {
            return;
        };
        let clips = std::fs::read_dir(folder).unwrap();
        let mut clips: Vec<_> = clips.map(|clip| clip.unwrap().path()).collect();
        clips.sort();
        let mut sums = [0; 3];
        for clip in clips {
            let [packets, unneeded] = choose_at_random(&clip, &mut rng);
            sums = [sums[0] + 1, sums[1] + packets, sums[2] + unneeded];
        }
        let [clips, packets, unneeded] = sums;
        println!("{clips} clips: {unneeded} of {packets} packets were not needed");
        assert!(unneeded > 0);
    }

    #[test]
    fn packets_read_again_from_the_file_give_the_same_frames() {
        for name in ["gops.mp4", "open_gop.mp4", "vp9.webm", "edit_list.mp4"] {
            let mut kept = open_clip(name);
            let mut reread = open_clip(name);
            reread.kept = None;
            let last = kept.total_frames() - 1;
            for indices in [vec![last], vec![2, last], vec![0, 1, last / 2]] {
                let found = frames(&mut reread, &indices);
                assert_eq!(found, frames(&mut kept, &indices), "{name} {indices:?}");
            }
        }
    }

    #[test]
    fn several_threads_give_the_same_frames() {
        for name in ["gops.mp4", "open_gop.mp4", "edit_list.mp4"] {
            let mut reader = open_clip(name);
            let last = reader.total_frames() - 1;
            let indices = [1, last / 3, last / 2, last - 1, last];
            let expected = frames(&mut reader, &indices);
            let keys = indices.map(|i| reader.index.packet_of(i) as i64);
            let wanted: BTreeMap<i64, usize> = keys.into_iter().zip(0..).collect();
            let targets = wanted.keys().map(|&key| key as usize).collect();
            let ranges = reader.index.ranges(&targets);
            let shares: Vec<&[Range<usize>]> = ranges.chunks(1).collect();
            assert!(shares.len() > 1, "{name}");
            for kept in [true, false] {
                if !kept {
                    reader.kept = None;
                }
                let mut found = vec![Vec::new(); indices.len()];
                let mut keep = |slot: usize, rgb: &[u8]| found[slot] = rgb.to_vec();
                let result = reader.side_by_side(&shares, &wanted, &mut keep).unwrap();
                assert_eq!(result, (0, false), "{name}");
                assert!(found == expected, "{name}, packets kept: {kept}");
            }
        }
    }

    #[test]
    fn a_stopped_reader_says_so() {
        let stop = Arc::new(AtomicBool::new(false));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips");
        let mut reader = Reader::open(&folder.join("h264.mp4"), None, &stop).unwrap();
        stop.store(true, Ordering::Relaxed);
        let result = reader.read(&[0], 1, &mut |_, _| {});
        assert!(matches!(result, Err(VideoError::Stopped { .. })));
    }
}
