//! The headers of a picture's slices (ITU-T H.264, 7.3.3), and a picture cut down to them.

use super::bits::{BitReader, MAX_ENTRIES};
use super::nal::{self, Framing};
use super::parameters::{Pps, Sps};

/// In place of a slice's data: an arithmetic decoder cannot begin with ones alone (9.3.1.2).
const NO_CABAC_DATA: u64 = u64::MAX;
/// The same in the other coding: no block is passed over, and the first is of kind 62, which does not exist (7.4.5).
const NO_CAVLC_DATA: u64 = 0x83ff_ffff_ffff_ffff;
/// Parts of a picture that are looked at, at most.
const MAX_SLICES: usize = 256;

/// What a track says once about its pictures.
#[derive(Debug)]
pub(super) struct Headers {
    /// Bytes of the number before each unit.
    length_bytes: usize,
    sequences: Vec<Sps>,
    pictures: Vec<Pps>,
    /// The units that said so.
    units: Vec<Vec<u8>>,
}

/// What the headers of one packet say.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) sequence: Sps,
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
    SlidingWindow,
    /// Those so many frame numbers before.
    Unmark(Vec<i64>),
}

/// What a slice refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) kind: SliceType,
    /// Lengths of the two lists.
    pub(super) active: [usize; 2],
    /// For each list, the signed differences between the frame numbers of the pictures moved to its front.
    pub(super) modifications: [Vec<i64>; 2],
}

/// How a slice is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SliceType {
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
            headers.define(nal::take_unit(&mut rest, 2)?)?;
        }
        let (&pictures, mut rest) = rest.split_first()?;
        for _ in 0..pictures {
            headers.define(nal::take_unit(&mut rest, 2)?)?;
        }
        Some(headers)
    }

    fn define(&mut self, unit: &[u8]) -> Option<()> {
        let (head, body) = unit.split_first()?;
        let bits = &mut BitReader::new(body);
        match head & 31 {
            nal::SPS => {
                let new = Sps::read(bits)?;
                let is_known = self.sequences.iter().any(|known| known.id == new.id);
                self.sequences.push((!is_known).then_some(new)?);
            }
            nal::PPS => {
                let new = Pps::read(bits)?;
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
            let unit = nal::take_unit(&mut rest, self.length_bytes)?;
            let kind = unit.first()? & 31;
            match kind {
                nal::SLICE | nal::IDR_SLICE => {
                    let slice = self.of_slice(unit, start)?;
                    match &mut picture {
                        None => picture = Some(slice),
                        Some(picture) => picture.join(slice)?,
                    }
                }
                // What a track says once may be said again, not otherwise.
                nal::SPS | nal::PPS if self.units.iter().any(|known| known == unit) => {}
                _ if nal::IDLE.contains(&kind) => {}
                _ => return None,
            }
        }
        picture.filter(|picture| picture.is_first)
    }

    /// A picture as its slice in `unit` describes it; the unit begins at byte `start` of the packet.
    fn of_slice(&self, unit: &[u8], start: usize) -> Option<Picture> {
        let (head, body) = unit.split_first()?;
        let is_idr = head & 31 == nal::IDR_SLICE;
        let is_reference = head & 0x60 != 0;
        let bits = &mut BitReader::new(body);
        let is_first = bits.ue()? == 0; // first_mb_in_slice
        let kind = match bits.ue()? % 5 {
            0 => SliceType::P,
            1 => SliceType::B,
            2 => SliceType::I,
            _ => return None,
        };
        let id = bits.ue()?;
        let parameters = *self.pictures.iter().find(|known| known.id == id)?;
        let of_sequence = |known: &&Sps| known.id == parameters.sequence;
        let sequence = *self.sequences.iter().find(of_sequence)?;
        let frame_num = i64::from(bits.number(sequence.frame_num_bits)?);
        if is_idr {
            bits.ue()?; // idr_pic_id
        }
        let order = i64::from(bits.number(sequence.order_bits)?);
        let bottom_delta = if parameters.has_order_delta {
            bits.se()?
        } else {
            0
        };
        if parameters.has_redundant && bits.ue()? > 0 {
            return None;
        }
        let slice = Slice::read(bits, kind, &parameters, &sequence)?;
        let marking = if is_reference {
            Marking::read(bits, is_idr)?
        } else {
            Marking::SlidingWindow
        };
        if parameters.is_cabac && kind != SliceType::I {
            bits.ue()?; // cabac_init_idc
        }
        bits.se()?; // slice_qp_delta
        if parameters.has_deblocking && bits.ue()? != 1 {
            bits.se()?;
            bits.se()?;
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
            no_data: if parameters.is_cabac {
                NO_CABAC_DATA
            } else {
                NO_CAVLC_DATA
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
        self.slices.iter().all(|slice| slice.kind != SliceType::I)
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
        bits: &mut BitReader,
        kind: SliceType,
        parameters: &Pps,
        sequence: &Sps,
    ) -> Option<Self> {
        let lists = match kind {
            SliceType::I => 0,
            SliceType::P => 1,
            SliceType::B => 2,
        };
        if kind == SliceType::B {
            bits.flag()?; // direct_spatial_mv_pred_flag
        }
        let mut active = parameters.active;
        active[lists..].fill(0);
        if lists > 0 && bits.flag()? {
            for entries in &mut active[..lists] {
                *entries = bits.entries()?;
            }
        }
        let mut modifications = [Vec::new(), Vec::new()];
        for list in &mut modifications[..lists] {
            if bits.flag()? {
                read_modifications(bits, list)?;
            }
        }
        let weighs = match kind {
            SliceType::I => false,
            SliceType::P => parameters.weights_p,
            SliceType::B => parameters.weights_b,
        };
        if weighs {
            skip_weights(bits, &active[..lists], sequence.has_chroma)?;
        }
        Some(Self {
            kind,
            active,
            modifications,
        })
    }
}

/// `ref_pic_list_modification`, 7.3.3.1, of one list.
fn read_modifications(bits: &mut BitReader, modifications: &mut Vec<i64>) -> Option<()> {
    loop {
        let sign = match bits.ue()? {
            0 => -1,
            1 => 1,
            3 => return Some(()),
            _ => return None, // long-term pictures
        };
        modifications.push(sign * (i64::from(bits.ue()?) + 1));
        if modifications.len() > 2 * MAX_ENTRIES {
            return None;
        }
    }
}

/// `pred_weight_table`, 7.3.3.2.
fn skip_weights(bits: &mut BitReader, active: &[usize], has_chroma: bool) -> Option<()> {
    bits.ue()?;
    if has_chroma {
        bits.ue()?;
    }
    for _ in 0..active.iter().sum() {
        let luma = if bits.flag()? { 2 } else { 0 };
        for _ in 0..luma {
            bits.se()?;
        }
        let chroma = if has_chroma && bits.flag()? { 4 } else { 0 };
        for _ in 0..chroma {
            bits.se()?;
        }
    }
    Some(())
}

impl Marking {
    /// `dec_ref_pic_marking`, 7.3.3.3.
    fn read(bits: &mut BitReader, is_idr: bool) -> Option<Self> {
        if is_idr {
            bits.flag()?; // no_output_of_prior_pics_flag
            return (!bits.flag()?).then_some(Self::SlidingWindow);
        }
        if !bits.flag()? {
            return Some(Self::SlidingWindow);
        }
        let mut distances = Vec::new();
        loop {
            match bits.ue()? {
                0 => return Some(Self::Unmark(distances)),
                1 if distances.len() < MAX_ENTRIES => {
                    distances.push(i64::from(bits.ue()?) + 1);
                }
                _ => return None, // long-term pictures and fields
            }
        }
    }
}

#[cfg(test)]
impl Picture {
    /// A reference picture with one slice, of a track with 16 frame numbers and 16 low orders that keeps three pictures.
    pub(super) fn example(frame_num: i64, order: i64, kind: SliceType, active: [usize; 2]) -> Self {
        let modifications = [Vec::new(), Vec::new()];
        Self {
            sequence: Sps {
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
            marking: Marking::SlidingWindow,
            slices: vec![Slice {
                kind,
                active,
                modifications,
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
