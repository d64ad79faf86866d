//! The headers of H.264 pictures, as far as they say which pictures a picture may refer to (ITU-T H.264, clauses 7.3.2.1,
//! 7.3.2.2 and 7.3.3), and a picture cut down to its headers.
//!
//! Only what common encoders write for whole frames is read: `None` stands for everything else, damage included.

mod bits;
mod parameters;

use bits::{Bits, MAX_ENTRIES};
use parameters::{Parameters, Sequence};

/// In place of a slice's data: an arithmetic decoder cannot begin with ones alone (9.3.1.2).
const NO_ARITHMETIC_DATA: u64 = u64::MAX;
/// The same in the other coding: no block is passed over, and the first is of kind 62, which does not exist (7.4.5).
const NO_DATA: u64 = 0x83ff_ffff_ffff_ffff;
const SLICE: u8 = 1;
const IDR_SLICE: u8 = 5;
const SEQUENCE: u8 = 7;
const PICTURE: u8 = 8;
/// Units that say nothing about pictures: supplemental information, delimiters and filling.
const IDLE: [u8; 3] = [6, 9, 12];
/// Parts of a picture that are looked at, at most.
const MAX_SLICES: usize = 256;

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
            Self::Lengths(bytes) => unit(rest, bytes),
            Self::StartCodes => {
                let start = 3 + rest.windows(3).position(|code| code == [0, 0, 1])?;
                let unit = &rest[start..];
                *rest = unit;
                Some(unit)
            }
        }
    }

    /// Whether a packet's first slice is predicted from nothing, or no slice is found.
    ///
    /// A packet from which decoding can start by what the container says need not be so: where a picture is refreshed a part
    /// at a time, the first pictures after it are not yet right.
    pub(super) fn begins_alone(self, packet: &[u8]) -> bool {
        let mut rest = packet;
        while let Some(unit) = self.unit(&mut rest) {
            let Some((head, body)) = unit.split_first() else {
                continue;
            };
            if head & 31 == SLICE {
                let bits = &mut Bits::new(body);
                let kind = bits.count().and_then(|_| bits.count());
                return kind.is_none_or(|kind| [2, 4].contains(&(kind % 5)));
            }
            if head & 31 == IDR_SLICE {
                return true;
            }
        }
        true
    }
}

/// What a track says once about its pictures.
#[derive(Debug)]
pub(super) struct Headers {
    /// Bytes of the number before each unit.
    length_bytes: usize,
    sequences: Vec<Sequence>,
    pictures: Vec<Parameters>,
    /// The units that said so.
    units: Vec<Vec<u8>>,
}

/// What the headers of one packet say.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) sequence: Sequence,
    /// Nothing before it is referred to from here on.
    pub(super) is_idr: bool,
    pub(super) is_reference: bool,
    pub(super) frame_num: i64,
    /// The low part of the place in display order, and how much earlier the bottom field is (0 or below) or later.
    pub(super) order: i64,
    pub(super) bottom_delta: i64,
    pub(super) marking: Marking,
    pub(super) slices: Vec<Slice>,
    /// Its first slice is the picture's first.
    is_first: bool,
    /// Where the first slice's unit begins in the packet, and the bits up to the end of its header.
    slice_start: usize,
    header_bits: usize,
    /// Stands in for what follows.
    no_data: u64,
}

/// Which pictures are not kept any more after this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marking {
    /// The oldest, when all places are taken.
    Oldest,
    /// Those so many frame numbers before.
    These(Vec<i64>),
}

/// What a slice refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) kind: Kind,
    /// Lengths of the two lists.
    pub(super) active: [usize; 2],
    /// For each list, the signed differences between the frame numbers of the pictures moved to its front.
    pub(super) moves: [Vec<i64>; 2],
}

/// How a slice is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// From nothing.
    I,
    /// From one list.
    P,
    /// From two lists.
    B,
}

impl Headers {
    /// Reads an `AVCDecoderConfigurationRecord` (ISO/IEC 14496-15, 5.3.3.1), as MP4 and Matroska hold it.
    pub(super) fn new(record: &[u8]) -> Option<Self> {
        let (Framing::Lengths(length_bytes), [_, _, _, _, _, sequences, rest @ ..]) =
            (Framing::new(record), record)
        else {
            return None;
        };
        let mut headers = Self {
            length_bytes,
            sequences: Vec::new(),
            pictures: Vec::new(),
            units: Vec::new(),
        };
        let mut rest = rest;
        for _ in 0..sequences & 31 {
            headers.define(unit(&mut rest, 2)?)?;
        }
        let (&pictures, mut rest) = rest.split_first()?;
        for _ in 0..pictures {
            headers.define(unit(&mut rest, 2)?)?;
        }
        Some(headers)
    }

    fn define(&mut self, unit: &[u8]) -> Option<()> {
        let (head, body) = unit.split_first()?;
        let bits = &mut Bits::new(body);
        match head & 31 {
            SEQUENCE => {
                let new = Sequence::read(bits)?;
                let is_known = self.sequences.iter().any(|known| known.id == new.id);
                self.sequences.push((!is_known).then_some(new)?);
            }
            PICTURE => {
                let new = Parameters::read(bits)?;
                let is_known = self.pictures.iter().any(|known| known.id == new.id);
                self.pictures.push((!is_known).then_some(new)?);
            }
            _ => return None,
        }
        self.units.push(unit.to_vec());
        Some(())
    }

    /// Reads the headers of a packet that holds one whole frame.
    pub(super) fn read(&self, packet: &[u8]) -> Option<Picture> {
        let mut picture: Option<Picture> = None;
        let mut rest = packet;
        while !rest.is_empty() {
            let start = packet.len() - rest.len();
            let unit = unit(&mut rest, self.length_bytes)?;
            let kind = unit.first()? & 31;
            match kind {
                SLICE | IDR_SLICE => {
                    let slice = self.of_slice(unit, start)?;
                    match &mut picture {
                        None => picture = Some(slice),
                        Some(picture) => picture.join(slice)?,
                    }
                }
                // What a track says once may be said again, not otherwise.
                SEQUENCE | PICTURE if self.units.iter().any(|known| known == unit) => {}
                _ if IDLE.contains(&kind) => {}
                _ => return None,
            }
        }
        picture.filter(|picture| picture.is_first)
    }

    /// A picture as its slice in `unit` describes it; the unit begins at byte `start` of the packet.
    fn of_slice(&self, unit: &[u8], start: usize) -> Option<Picture> {
        let (head, body) = unit.split_first()?;
        let is_idr = head & 31 == IDR_SLICE;
        let is_reference = head & 0x60 != 0;
        let bits = &mut Bits::new(body);
        let is_first = bits.count()? == 0; // first_mb_in_slice
        let kind = match bits.count()? % 5 {
            0 => Kind::P,
            1 => Kind::B,
            2 => Kind::I,
            _ => return None,
        };
        let id = bits.count()?;
        let parameters = *self.pictures.iter().find(|known| known.id == id)?;
        let of_sequence = |known: &&Sequence| known.id == parameters.sequence;
        let sequence = *self.sequences.iter().find(of_sequence)?;
        let frame_num = i64::from(bits.number(sequence.frame_num_bits)?);
        if is_idr {
            bits.count()?; // idr_pic_id
        }
        let order = i64::from(bits.number(sequence.order_bits)?);
        let bottom_delta = if parameters.has_order_delta {
            bits.signed()?
        } else {
            0
        };
        if parameters.has_redundant && bits.count()? > 0 {
            return None;
        }
        let slice = Slice::read(bits, kind, &parameters, &sequence)?;
        let marking = if is_reference {
            Marking::read(bits, is_idr)?
        } else {
            Marking::Oldest
        };
        if parameters.is_arithmetic && kind != Kind::I {
            bits.count()?; // cabac_init_idc
        }
        bits.signed()?; // slice_qp_delta
        if parameters.has_deblocking && bits.count()? != 1 {
            bits.signed()?;
            bits.signed()?;
        }
        Some(Picture {
            sequence,
            is_idr,
            is_reference,
            frame_num,
            order,
            bottom_delta,
            marking,
            slices: vec![slice],
            is_first,
            slice_start: start,
            header_bits: 8 * (start + self.length_bytes + 1) + bits.position(),
            no_data: if parameters.is_arithmetic {
                NO_ARITHMETIC_DATA
            } else {
                NO_DATA
            },
        })
    }

    /// The packet of a picture without what it shows: a decoder keeps its place among the others and finds nothing to decode.
    pub(super) fn without_data(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let picture = self.read(packet)?;
        let (bytes, bits) = (picture.header_bits / 8, picture.header_bits % 8);
        let mut short = packet.get(..bytes)?.to_vec();
        let last = packet.get(bytes).map_or(0, |byte| byte & !(0xff >> bits));
        let data = picture.no_data >> bits | u64::from(last) << 56;
        // No zeros are added that would have to be told from a start code.
        short.extend(data.to_be_bytes());
        let (_, unit) = short.split_at_mut_checked(picture.slice_start)?;
        let (length, unit) = unit.split_at_mut_checked(self.length_bytes)?;
        let bytes = u32::try_from(unit.len()).ok()?.to_be_bytes();
        let (beyond, bytes) = bytes.split_at(4 - self.length_bytes);
        length.copy_from_slice(bytes);
        beyond.iter().all(|&byte| byte == 0).then_some(short)
    }
}

impl Picture {
    /// Whether each part is predicted from other pictures.
    pub(super) fn is_predicted(&self) -> bool {
        self.slices.iter().all(|slice| slice.kind != Kind::I)
    }

    /// Takes in another slice of the same picture.
    fn join(&mut self, other: Self) -> Option<()> {
        let facts = |picture: &Self| {
            (
                picture.is_idr,
                picture.is_reference,
                picture.frame_num,
                picture.order,
                picture.bottom_delta,
                picture.sequence.id,
            )
        };
        let is_same = facts(self) == facts(&other) && self.marking == other.marking;
        if !is_same || other.is_first || self.slices.len() == MAX_SLICES {
            return None;
        }
        self.slices.extend(other.slices);
        Some(())
    }
}

impl Slice {
    /// From `direct_spatial_mv_pred_flag` up to the weights.
    fn read(
        bits: &mut Bits,
        kind: Kind,
        parameters: &Parameters,
        sequence: &Sequence,
    ) -> Option<Self> {
        let lists = match kind {
            Kind::I => 0,
            Kind::P => 1,
            Kind::B => 2,
        };
        if kind == Kind::B {
            bits.flag()?; // direct_spatial_mv_pred_flag
        }
        let mut active = parameters.active;
        active[lists..].fill(0);
        if lists > 0 && bits.flag()? {
            for entries in &mut active[..lists] {
                *entries = bits.entries()?;
            }
        }
        let mut moves = [Vec::new(), Vec::new()];
        for moves in &mut moves[..lists] {
            if bits.flag()? {
                read_moves(bits, moves)?;
            }
        }
        let weighs = match kind {
            Kind::I => false,
            Kind::P => parameters.weighs_p,
            Kind::B => parameters.weighs_b,
        };
        if weighs {
            skip_weights(bits, &active[..lists], sequence.has_chroma)?;
        }
        Some(Self {
            kind,
            active,
            moves,
        })
    }
}

/// `ref_pic_list_modification`, 7.3.3.1, of one list.
fn read_moves(bits: &mut Bits, moves: &mut Vec<i64>) -> Option<()> {
    loop {
        let sign = match bits.count()? {
            0 => -1,
            1 => 1,
            3 => return Some(()),
            _ => return None, // long-term pictures
        };
        moves.push(sign * (i64::from(bits.count()?) + 1));
        if moves.len() > 2 * MAX_ENTRIES {
            return None;
        }
    }
}

/// `pred_weight_table`, 7.3.3.2.
fn skip_weights(bits: &mut Bits, active: &[usize], has_chroma: bool) -> Option<()> {
    bits.count()?;
    if has_chroma {
        bits.count()?;
    }
    for _ in 0..active.iter().sum() {
        let luma = if bits.flag()? { 2 } else { 0 };
        for _ in 0..luma {
            bits.signed()?;
        }
        let chroma = if has_chroma && bits.flag()? { 4 } else { 0 };
        for _ in 0..chroma {
            bits.signed()?;
        }
    }
    Some(())
}

impl Marking {
    /// `dec_ref_pic_marking`, 7.3.3.3.
    fn read(bits: &mut Bits, is_idr: bool) -> Option<Self> {
        if is_idr {
            bits.flag()?; // no_output_of_prior_pics_flag
            return (!bits.flag()?).then_some(Self::Oldest);
        }
        if !bits.flag()? {
            return Some(Self::Oldest);
        }
        let mut distances = Vec::new();
        loop {
            match bits.count()? {
                0 => return Some(Self::These(distances)),
                1 if distances.len() < MAX_ENTRIES => {
                    distances.push(i64::from(bits.count()?) + 1);
                }
                _ => return None, // long-term pictures and fields
            }
        }
    }
}

/// Takes a unit and the number of its bytes from the front.
fn unit<'a>(rest: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(length_bytes)?;
    let length = length
        .iter()
        .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let (unit, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(unit)
}

#[cfg(test)]
impl Picture {
    /// A reference picture with one slice, of a track with 16 frame numbers and 16 low orders that keeps three pictures.
    pub(super) fn example(frame_num: i64, order: i64, kind: Kind, active: [usize; 2]) -> Self {
        let moves = [Vec::new(), Vec::new()];
        Self {
            sequence: Sequence {
                id: 0,
                has_chroma: true,
                frame_num_bits: 4,
                order_bits: 4,
                max_references: 3,
            },
            is_idr: false,
            is_reference: true,
            frame_num,
            order,
            bottom_delta: 0,
            marking: Marking::Oldest,
            slices: vec![Slice {
                kind,
                active,
                moves,
            }],
            is_first: true,
            slice_start: 0,
            header_bits: 0,
            no_data: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::packets::tests::record_and_packets;

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

    #[test]
    fn headers_stay_when_a_picture_is_cut_down() {
        for name in ["pyramid.mp4", "pyramid.mkv"] {
            let (record, packets) = record_and_packets(name);
            let headers = Headers::new(&record).unwrap();
            for packet in packets {
                let whole = headers.read(&packet).unwrap();
                let short = headers.without_data(&packet).unwrap();
                let cut = headers.read(&short).unwrap();
                let facts = |picture: &Picture| (picture.frame_num, picture.order, picture.is_idr);
                assert_eq!(facts(&cut), facts(&whole));
                assert_eq!(cut.slices, whole.slices[..1]);
                assert_eq!(cut.marking, whole.marking);
                assert_eq!(cut.header_bits, whole.header_bits);
                assert_eq!(short.len(), cut.header_bits / 8 + 8);
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_unusual_is_not_read() {
        let (record, packets) = record_and_packets("pyramid.mp4");
        let headers = Headers::new(&record).unwrap();
        for end in 0..record.len() {
            Headers::new(&record[..end]);
        }
        for end in 1..40 {
            assert!(headers.read(&packets[1][..end]).is_none(), "{end}");
        }
        for place in 0..record.len() * 8 {
            let mut other = record.clone();
            other[place / 8] ^= 1 << (place % 8);
            if let Some(headers) = Headers::new(&other) {
                for packet in &packets {
                    headers.without_data(packet);
                }
            }
        }
        let twice = [&packets[1][..], &packets[1]].concat();
        assert!(headers.read(&twice).is_none(), "two pictures");
        let other = [&[0, 0, 0, 2, 0x67, 1], &packets[1][..]].concat();
        assert!(headers.read(&other).is_none(), "other parameters");
    }
}
