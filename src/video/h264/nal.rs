//! NAL units in a packet (ITU-T H.264, 7.3.1 and annex B; ISO/IEC 14496-15, 5.3.3).

use super::bits::BitReader;

/// Types of units (table 7-1): a slice, one of a picture that refers to none before it, and the two kinds of parameter sets.
pub(super) const SLICE: u8 = 1;
pub(super) const IDR_SLICE: u8 = 5;
pub(super) const SPS: u8 = 7;
pub(super) const PPS: u8 = 8;
/// Units that say nothing about pictures: supplemental information, delimiters and filling.
pub(super) const IDLE: [u8; 3] = [6, 9, 12];

/// How the units of a track's packets are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each begins with its length, in so many bytes.
    Lengths(usize),
    /// Each begins after the bytes 0, 0, 1.
    StartCodes,
}

impl Framing {
    /// That of a track with this configuration record.
    pub(super) fn new(record: &[u8]) -> Self {
        match record {
            [1, _, _, _, lengths, ..] => Self::Lengths(usize::from(lengths & 3) + 1),
            _ => Self::StartCodes,
        }
    }

    /// Takes the next unit from the front.
    fn unit<'a>(self, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Self::Lengths(bytes) => take_unit(rest, bytes),
            Self::StartCodes => {
                let start = 3 + rest.windows(3).position(|code| code == [0, 0, 1])?;
                let unit = &rest[start..];
                *rest = unit;
                Some(unit)
            }
        }
    }

    /// Whether a packet's first slice is predicted from nothing, or no slice is found.
    pub(super) fn begins_alone(self, packet: &[u8]) -> bool {
        let mut rest = packet;
        while let Some(unit) = self.unit(&mut rest) {
            let Some((head, body)) = unit.split_first() else {
                continue;
            };
            if head & 31 == SLICE {
                let bits = &mut BitReader::new(body);
                let kind = bits.ue().and_then(|_| bits.ue());
                return kind.is_none_or(|kind| [2, 4].contains(&(kind % 5)));
            }
            if head & 31 == IDR_SLICE {
                return true;
            }
        }
        true
    }
}

/// Takes a unit and the number of its bytes from the front.
pub(super) fn take_unit<'a>(rest: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(length_bytes)?;
    let length = length
        .iter()
        .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let (unit, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_begins_alone_when_its_first_slice_does() {
        // Units: a delimiter, then a slice at block 0 of kind 5 (P) or 7 (I).
        let p = [0x41, 0b1001_1000];
        let i = [0x41, 0b1000_1000];
        let idr = [0x65, 0b1001_1000];
        for (slice, alone) in [(p, false), (i, true), (idr, true)] {
            let codes = [&[0, 0, 0, 1, 9, 0xf0, 0, 0, 1], &slice[..]].concat();
            assert_eq!(Framing::StartCodes.begins_alone(&codes), alone);
            let lengths = [&[0, 2, 9, 0xf0, 0, 2], &slice[..]].concat();
            assert_eq!(Framing::Lengths(2).begins_alone(&lengths), alone);
        }
        assert!(Framing::StartCodes.begins_alone(&[]));
        assert_eq!(Framing::new(&[1, 100, 0, 30, 0xfd]), Framing::Lengths(2));
        assert_eq!(Framing::new(&[0, 0, 0, 1, 0x67]), Framing::StartCodes);
    }
}
