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
