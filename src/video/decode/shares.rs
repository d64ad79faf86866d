//! One clip on several threads: which groups of pictures each decodes, and where it gets their packets from.

use crate::video::VideoError;
use crate::video::packets::PacketFile;
use crate::video::packets::Packets;
use ffmpeg_next::Packet;
use std::ops::Range;

/// Packets below which another thread is not worth its start.
const SHARE_PACKETS: usize = 100;

/// Runs of ranges with about the same number of packets, one for each of up to `threads` threads.
pub(super) fn shares(ranges: &[Range<usize>], threads: usize) -> Vec<&[Range<usize>]> {
    let total: usize = ranges.iter().map(ExactSizeIterator::len).sum();
    let threads = threads.min(total / SHARE_PACKETS).max(1);
    let enough = total.div_ceil(threads);
    let mut shares = Vec::new();
    let (mut start, mut packets) = (0, 0);
    for (i, range) in ranges.iter().enumerate() {
        packets += range.len();
        if packets >= enough || i + 1 == ranges.len() {
            shares.push(&ranges[start..=i]);
            (start, packets) = (i + 1, 0);
        }
    }
    shares
}

/// A source of packets for each share: a part of those kept, or the file opened once more.
pub(super) fn sources<'a>(
    kept: Option<&'a mut [Packet]>,
    shares: &[&[Range<usize>]],
    file: &PacketFile,
) -> Result<Vec<Packets<'a>>, VideoError> {
    let Some(mut rest) = kept else {
        let open = |_| Ok(Packets::OwnFile(Box::new(file.again()?)));
        return shares.iter().map(open).collect();
    };
    let mut sources = Vec::new();
    let mut passed = 0;
    for share in shares {
        let end = share.last().map_or(passed, |range| range.end);
        let (packets, after) = rest.split_at_mut(end - passed);
        sources.push(Packets::Kept {
            first: passed,
            packets,
        });
        (rest, passed) = (after, end);
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_shared_out_evenly_and_small_work_stays_together() {
        let ranges: Vec<Range<usize>> = (0..6).map(|i| i * 250..i * 250 + 100).collect();
        let sizes = |threads: usize| -> Vec<usize> {
            let shares = shares(&ranges, threads);
            assert_eq!(shares.concat(), ranges);
            shares.iter().map(|share| share.len()).collect()
        };
        assert_eq!(sizes(1), [6]);
        assert_eq!(sizes(2), [3, 3]);
        assert_eq!(sizes(4), [2, 2, 2]);
        assert_eq!(sizes(100), [1; 6]);
        assert_eq!(shares(&ranges[..1], 8).len(), 1);
        assert!(shares(&[], 8).is_empty());
    }
}
