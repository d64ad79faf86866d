//! The packets of a clip: which is which frame, and which must be decoded to get the frames wanted.

use std::collections::BTreeSet;
use std::ops::Range;

/// One packet of the video track, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketInfo {
    /// Presentation time in the track's time base.
    pub(super) pts: Option<i64>,
    /// Time of decoding in the track's time base.
    pub(super) dts: Option<i64>,
    /// Duration in the track's time base.
    pub(super) duration: i64,
    /// Decoding can start here.
    pub(super) key: bool,
    /// Decoded for others, never shown (edit lists).
    pub(super) hidden: bool,
}

/// All packets of a clip and their display order.
#[derive(Debug)]
pub(super) struct PacketIndex {
    packets: Vec<PacketInfo>,
    /// Packet of each displayed frame.
    display: Vec<usize>,
    /// Every displayed packet has its own presentation time; without, frames are known by output order only.
    timed: bool,
    /// Packets of which no picture can come, because the file lacks those before.
    lost: BTreeSet<usize>,
    /// Where pictures are shown for several frames.
    held: Option<Held>,
}

/// Pictures that are shown until the next one, as frames of equal length.
#[derive(Debug)]
struct Held {
    /// The frame from which each picture is shown.
    starts: Vec<usize>,
    /// Frames of all pictures.
    total: usize,
}

impl PacketIndex {
    /// Sorts the displayable packets by presentation time, unless these are not to be trusted.
    pub(super) fn new(packets: Vec<PacketInfo>, trust_times: bool) -> Self {
        let mut display: Vec<usize> = (0..packets.len()).filter(|&i| !packets[i].hidden).collect();
        let times: BTreeSet<i64> = display.iter().filter_map(|&i| packets[i].pts).collect();
        let timed = trust_times && times.len() == display.len();
        if timed {
            display.sort_by_key(|&i| packets[i].pts);
        }
        Self {
            packets,
            display,
            timed,
            lost: BTreeSet::new(),
            held: None,
        }
    }

    /// Packets at the beginning that may refer to others which the file lacks: those before the first from which decoding can
    /// start, and those that are shown before it.
    pub(super) fn unsure(&self) -> BTreeSet<usize> {
        let first = self.packets.iter().position(|packet| packet.key);
        let Some(first) = first.filter(|_| self.timed) else {
            return BTreeSet::new();
        };
        let shown = self.packets[first].pts;
        let is_unsure = |&i: &usize| i < first || self.packets[i].pts < shown;
        self.display.iter().copied().filter(is_unsure).collect()
    }

    /// Leaves packets out: they are neither shown nor decoded.
    pub(super) fn lose(&mut self, lost: BTreeSet<usize>) {
        self.display.retain(|packet| !lost.contains(packet));
        self.lost = lost;
    }

    /// Whether a packet is left out.
    pub(super) fn is_lost(&self, packet: usize) -> bool {
        self.lost.contains(&packet)
    }

    /// Shows each picture until the next one's packet comes, where the times of decoding count slots of one frame, and the last for
    /// `slots` in all. Beyond `most` frames, and where there are no such times, each is shown for one frame.
    pub(super) fn hold(&mut self, slots: usize, most: usize) {
        let times = self.display.iter().map(|&i| self.packets[i].dts);
        let Some(times) = times.collect::<Option<BTreeSet<i64>>>() else {
            return;
        };
        let Some(&first) = times.first().filter(|_| times.len() == self.display.len()) else {
            return;
        };
        let starts: Vec<usize> = times
            .iter()
            .map(|time| time.abs_diff(first) as usize)
            .collect();
        let least = slots.saturating_sub(usize::try_from(first).unwrap_or(0));
        let total = starts.last().map_or(0, |last| last + 1).max(least);
        if total > starts.len() && total <= most {
            self.held = Some(Held { starts, total });
        }
    }

    /// Packets in the file, hidden ones included.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Frames that a player shows.
    pub(super) fn total_frames(&self) -> usize {
        match &self.held {
            Some(held) => held.total,
            None => self.display.len(),
        }
    }

    /// The picture that a frame shows, counted in display order.
    pub(super) fn picture_of(&self, frame: usize) -> usize {
        match &self.held {
            Some(held) => held.starts.partition_point(|start| *start <= frame) - 1,
            None => frame,
        }
    }

    /// Whether frames can be told apart by their packets.
    pub(super) fn is_timed(&self) -> bool {
        self.timed
    }

    /// The packet of a picture, counted in display order.
    pub(super) fn packet_of(&self, picture: usize) -> usize {
        self.display[picture]
    }

    /// Time from the first frame's start to the last one's end, in the track's time base.
    pub(super) fn duration(&self) -> Option<i64> {
        let first = self.packets[*self.display.first()?].pts?;
        let last = self.packets[*self.display.last()?];
        Some(last.pts? - first + last.duration)
    }

    /// Ranges of packets that must be decoded, in order and apart, to get the packets in `targets`.
    ///
    /// A target needs everything from the last key packet before it that is also shown before it: a leading
    /// picture of an open GOP refers to the GOP before its key packet.
    pub(super) fn ranges(&self, targets: &BTreeSet<usize>) -> Vec<Range<usize>> {
        let keys: Vec<usize> = (0..self.packets.len())
            .filter(|&i| self.packets[i].key)
            .collect();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for &target in targets {
            let before = &keys[..keys.partition_point(|&key| key <= target)];
            let shown_before = |key: &&usize| self.packets[**key].pts <= self.packets[target].pts;
            let start = before.iter().rev().find(shown_before).copied().unwrap_or(0);
            match ranges.last_mut() {
                Some(range) if start <= range.end => range.end = range.end.max(target + 1),
                _ => ranges.push(start..target + 1),
            }
        }
        ranges
    }
}

#[cfg(test)]
impl PacketIndex {
    /// Whether decoding can start at a packet.
    pub(super) fn is_key(&self, packet: usize) -> bool {
        self.packets[packet].key
    }

    /// The same packets, told apart by output order only.
    pub(super) fn without_times(&self) -> Self {
        Self {
            packets: self.packets.clone(),
            display: self.display.clone(),
            timed: false,
            lost: self.lost.clone(),
            held: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets in file order: presentation time, key.
    fn index(packets: &[(i64, bool)]) -> PacketIndex {
        let info = |&(pts, key): &(i64, bool)| PacketInfo {
            pts: Some(pts),
            dts: None,
            duration: 1,
            key,
            hidden: false,
        };
        PacketIndex::new(packets.iter().map(info).collect(), true)
    }

    #[test]
    fn frames_are_in_display_order() {
        let index = index(&[(0, true), (3, false), (1, false), (2, false)]);
        let shown: Vec<usize> = (0..4).map(|frame| index.packet_of(frame)).collect();
        assert_eq!(shown, [0, 2, 3, 1]);
        assert!(index.is_timed());
        assert_eq!(index.duration(), Some(4));
    }

    #[test]
    fn only_groups_with_targets_are_decoded() {
        let index = index(&[
            (0, true),
            (1, false),
            (2, true),
            (3, false),
            (4, true),
            (5, false),
        ]);
        assert_eq!(index.ranges(&[1, 5].into()), [0..2, 4..6]);
        assert_eq!(index.ranges(&[1, 2].into()), std::slice::from_ref(&(0..3)));
    }

    #[test]
    fn a_leading_picture_needs_the_group_before() {
        // The key packet at time 4 is followed by a picture shown before it.
        let index = index(&[(0, true), (1, false), (4, true), (3, false), (5, false)]);
        assert_eq!(index.ranges(&[3].into()), std::slice::from_ref(&(0..4)));
        assert_eq!(index.ranges(&[4].into()), std::slice::from_ref(&(2..5)));
    }

    #[test]
    fn repeated_or_absent_times_are_not_trusted() {
        assert!(!index(&[(0, true), (0, false)]).is_timed());
        let untimed = PacketInfo {
            pts: None,
            dts: None,
            duration: 1,
            key: true,
            hidden: false,
        };
        assert!(!PacketIndex::new(vec![untimed; 2], true).is_timed());
    }

    #[test]
    fn hidden_packets_are_not_frames() {
        let packet = |pts, hidden| PacketInfo {
            pts: Some(pts),
            dts: None,
            duration: 1,
            key: pts == 0,
            hidden,
        };
        let packets = vec![packet(0, true), packet(1, true), packet(2, false)];
        let index = PacketIndex::new(packets, true);
        assert_eq!((index.len(), index.total_frames()), (3, 1));
        assert_eq!(index.packet_of(0), 2);
    }
    #[test]
    fn packets_before_the_first_key_and_pictures_shown_before_it_are_unsure() {
        let late = [
            (1, false),
            (4, true),
            (3, false),
            (5, false),
            (8, true),
            (7, false),
        ];
        let mut index = index(&late);
        assert_eq!(index.unsure(), [0, 2].into());
        index.lose([0].into());
        assert!(index.is_lost(0) && !index.is_lost(2));
        assert_eq!((index.total_frames(), index.packet_of(0)), (5, 2));
        let whole = self::index(&[(0, true), (4, true), (3, false)]);
        assert!(whole.unsure().is_empty());
        let without_key = self::index(&[(0, false), (1, false)]);
        assert!(without_key.unsure().is_empty());
    }

    #[test]
    fn pictures_are_held_over_the_slots_that_are_empty() {
        let at = |dts: &[i64]| {
            let packet = |&dts: &i64| PacketInfo {
                pts: Some(dts + 1),
                dts: Some(dts),
                duration: 1,
                key: true,
                hidden: false,
            };
            PacketIndex::new(dts.iter().map(packet).collect(), true)
        };
        let held = |dts: &[i64], slots| -> Vec<usize> {
            let mut index = at(dts);
            index.hold(slots, 100);
            (0..index.total_frames())
                .map(|frame| index.picture_of(frame))
                .collect()
        };
        assert_eq!(held(&[0, 1, 4, 5], 0), [0, 1, 1, 1, 2, 3]);
        assert_eq!(held(&[2, 3], 6), [0, 1, 1, 1]);
        assert_eq!(held(&[2, 3], 4), [0, 1]);
        assert_eq!(held(&[0, 1, 2], 3), [0, 1, 2]);
        // A forged time makes nothing grow.
        assert_eq!(held(&[0, 1 << 40], 0), [0, 1]);
    }
}
