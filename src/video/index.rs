//! The packets of a clip: which is which frame, and which must be decoded to get the frames wanted.

use std::collections::BTreeSet;
use std::ops::Range;

/// One packet of the video track, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketInfo {
    /// Presentation time in the track's time base.
    pub(super) pts: Option<i64>,
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
}

impl PacketIndex {
    /// Sorts the displayable packets by presentation time.
    pub(super) fn new(packets: Vec<PacketInfo>) -> Self {
        let mut display: Vec<usize> = (0..packets.len()).filter(|&i| !packets[i].hidden).collect();
        let times: BTreeSet<i64> = display.iter().filter_map(|&i| packets[i].pts).collect();
        let timed = times.len() == display.len();
        if timed {
            display.sort_by_key(|&i| packets[i].pts);
        }
        Self {
            packets,
            display,
            timed,
        }
    }

    /// Packets in the file, hidden ones included.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Frames that a player shows.
    pub(super) fn total_frames(&self) -> usize {
        self.display.len()
    }

    /// Whether frames can be told apart by their packets.
    pub(super) fn is_timed(&self) -> bool {
        self.timed
    }

    /// The packet of the `frame`-th displayed frame.
    pub(super) fn packet_of(&self, frame: usize) -> usize {
        self.display[frame]
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
            duration: 1,
            key,
            hidden: false,
        };
        PacketIndex::new(packets.iter().map(info).collect())
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
            duration: 1,
            key: true,
            hidden: false,
        };
        assert!(!PacketIndex::new(vec![untimed; 2]).is_timed());
    }

    #[test]
    fn hidden_packets_are_not_frames() {
        let packet = |pts, hidden| PacketInfo {
            pts: Some(pts),
            duration: 1,
            key: pts == 0,
            hidden,
        };
        let index = PacketIndex::new(vec![packet(0, true), packet(1, true), packet(2, false)]);
        assert_eq!((index.len(), index.total_frames()), (3, 1));
        assert_eq!(index.packet_of(0), 2);
    }
}
