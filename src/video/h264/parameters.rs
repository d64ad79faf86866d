//! Sequence and picture parameter sets: what a track says once about its pictures (ITU-T H.264, 7.3.2.1 and 7.3.2.2).

use super::bits::{BitReader, MAX_ENTRIES};

/// High, High 10, High 4:2:2, High 4:4:4 Predictive, CAVLC 4:4:4.
const HIGH_PROFILES: [u32; 5] = [100, 110, 122, 244, 44];
/// Baseline and Main.
const LOW_PROFILES: [u32; 2] = [66, 77];

/// A sequence parameter set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sps {
    pub(super) id: u32,
    pub(super) has_chroma: bool,
    pub(super) frame_num_bits: u32,
    pub(super) order_bits: u32,
    pub(super) max_references: usize,
}

impl Sps {
    /// Frame numbers count up to here, exclusive.
    pub(super) fn frame_nums(&self) -> i64 {
        1 << self.frame_num_bits
    }

    /// The low part of a picture's place in display order counts up to here, exclusive.
    pub(super) fn orders(&self) -> i64 {
        1 << self.order_bits
    }

    /// Pictures kept for reference at most.
    pub(super) fn max_references(&self) -> usize {
        self.max_references.max(1)
    }
}

/// A picture parameter set.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "these are flags of a format")]
pub(super) struct Pps {
    pub(super) id: u32,
    pub(super) sequence: u32,
    pub(super) has_order_delta: bool,
    pub(super) is_cabac: bool,
    pub(super) has_deblocking: bool,
    pub(super) active: [usize; 2],
    /// Whether slices of kinds P and B say weights.
    pub(super) weights_p: bool,
    pub(super) weights_b: bool,
    pub(super) has_redundant: bool,
}

impl Sps {
    pub(super) fn read(bits: &mut BitReader) -> Option<Self> {
        let profile = bits.number(8)?;
        bits.number(16)?; // constraint flags, level_idc
        let id = bits.ue()?;
        let mut chroma = 1;
        if HIGH_PROFILES.contains(&profile) {
            chroma = bits.ue()?;
            if chroma == 3 && bits.flag()? {
                return None; // separate_colour_plane_flag
            }
            bits.ue()?; // bit_depth_luma_minus8
            bits.ue()?; // bit_depth_chroma_minus8
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                for i in 0..if chroma == 3 { 12 } else { 8 } {
                    skip_scaling_list(bits, if i < 6 { 16 } else { 64 })?;
                }
            }
        } else if !LOW_PROFILES.contains(&profile) {
            return None;
        }
        let frame_num_bits = bits.width()?;
        if bits.ue()? != 0 {
            return None; // pic_order_cnt_type: the display order is not said by each picture
        }
        let order_bits = bits.width()?;
        let max_references = bits.ue()? as usize;
        let gaps_allowed = bits.flag()?;
        bits.ue()?; // pic_width_in_mbs_minus1
        bits.ue()?; // pic_height_in_map_units_minus1
        let only_frames = bits.flag()?;
        let is_usual = only_frames && !gaps_allowed && max_references <= MAX_ENTRIES;
        is_usual.then_some(Self {
            id,
            has_chroma: chroma != 0,
            frame_num_bits,
            order_bits,
            max_references,
        })
    }
}

fn skip_scaling_list(bits: &mut BitReader, len: usize) -> Option<()> {
    if !bits.flag()? {
        return Some(());
    }
    let (mut last, mut next) = (8, 8);
    for _ in 0..len {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

impl Pps {
    pub(super) fn read(bits: &mut BitReader) -> Option<Self> {
        let id = bits.ue()?;
        let sequence = bits.ue()?;
        let is_cabac = bits.flag()?;
        let has_order_delta = bits.flag()?;
        if bits.ue()? > 0 {
            return None; // num_slice_groups_minus1
        }
        let active = [bits.entries()?, bits.entries()?];
        let weights_p = bits.flag()?;
        let weights_b = bits.number(2)? == 1;
        bits.se()?; // pic_init_qp_minus26
        bits.se()?; // pic_init_qs_minus26
        bits.se()?; // chroma_qp_index_offset
        let has_deblocking = bits.flag()?;
        bits.flag()?; // constrained_intra_pred_flag
        let has_redundant = bits.flag()?;
        Some(Self {
            id,
            sequence,
            has_order_delta,
            is_cabac,
            has_deblocking,
            active,
            weights_p,
            weights_b,
            has_redundant,
        })
    }
}
