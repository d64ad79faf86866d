//! Pictures of an H.264 track that need not be decoded for those wanted.
//!
//! FFmpeg's `skip_frame` leaves out pictures to which nobody refers. A picture may use those in the reference lists of its slices
//! and no others, and the lists follow from the headers alone: so one to which others refer, but none that is wanted, directly or
//! through others, need not be decoded either. The decoder is given its headers, without which the lists of later pictures would
//! be others. Where an encoder allows a P picture one reference, that saves a fifth to two fifths of the decoding
//! (`benches/results/skipping.md`); `scripts/check_h264.sh` holds it against full decodes of random clips.
//!
//! Only what common encoders write for whole frames is read: all else, damage included, leaves out nothing.

mod bits;
mod headers;
mod nal;
mod parameters;
mod references;

use nal::Framing;
use references::References;
use std::collections::BTreeSet;
use std::ops::Range;

/// What the packets of a track say, taken in file order.
#[derive(Debug)]
pub(super) struct Track {
    framing: Framing,
    /// `None` where it cannot be said which pictures use which.
    references: Option<References>,
}

impl Track {
    /// Of a track with this configuration record, no packet yet.
    pub(super) fn new(record: &[u8]) -> Self {
        Self {
            framing: Framing::new(record),
            references: References::new(record),
        }
    }

    /// Takes the next packet; `is_plain` when nothing beside it can change how it is read.
    pub(super) fn add(&mut self, packet: &[u8], is_plain: bool) {
        let add = |known: &mut References| known.add(packet).filter(|()| is_plain);
        if self.references.as_mut().and_then(add).is_none() {
            self.references = None;
        }
    }

    /// Whether a packet's first slice is predicted from nothing, or no slice is found.
    ///
    /// A packet from which decoding can start by what the container says need not be so: where a picture is refreshed a part
    /// at a time, the first pictures after it are not yet right.
    pub(super) fn begins_alone(&self, packet: &[u8]) -> bool {
        self.framing.begins_alone(packet)
    }

    /// The packets in `ranges` of which the headers are enough for the pictures of the packets `targets`.
    pub(super) fn unneeded(
        &self,
        ranges: &[Range<usize>],
        targets: &BTreeSet<usize>,
    ) -> Unneeded<'_> {
        let mut packets = BTreeSet::new();
        if let Some(references) = &self.references {
            for range in ranges {
                references.add_unneeded(range.clone(), targets, &mut packets);
            }
        }
        Unneeded {
            references: self.references.as_ref(),
            packets,
        }
    }
}

/// Packets of which the headers alone are decoded; none by default.
#[derive(Default)]
pub(super) struct Unneeded<'a> {
    references: Option<&'a References>,
    packets: BTreeSet<usize>,
}

impl Unneeded<'_> {
    /// Whether the packet at `position` is one of them.
    pub(super) fn contains(&self, position: usize) -> bool {
        self.packets.contains(&position)
    }

    /// What a decoder is given of the packet at `position` if it is one of them.
    pub(super) fn headers_of(&self, position: usize, packet: &[u8]) -> Option<Vec<u8>> {
        let references = self.references.filter(|_| self.contains(position))?;
        references.without_data(packet)
    }
}
