//! The bits of a NAL unit.

/// Pictures in a list at most.
pub(super) const MAX_ENTRIES: usize = 32;

/// The bits of a unit, less the bytes that keep start codes out of it (7.3.1).
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    /// The next byte.
    next: usize,
    zeros: usize,
    byte: u8,
    left: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            next: 0,
            zeros: 0,
            byte: 0,
            left: 0,
        }
    }

    /// Bits read, those that were passed over included.
    pub(super) fn position(&self) -> usize {
        8 * self.next - self.left as usize
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        if self.left == 0 {
            if self.zeros >= 2 && self.data.get(self.next) == Some(&3) {
                (self.next, self.zeros) = (self.next + 1, 0);
            }
            self.byte = *self.data.get(self.next)?;
            self.zeros = if self.byte == 0 { self.zeros + 1 } else { 0 };
            (self.next, self.left) = (self.next + 1, 8);
        }
        self.left -= 1;
        Some(self.byte >> self.left & 1 == 1)
    }

    /// A number of so many bits, 32 at most.
    pub(super) fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0, |sum, _| Some(sum << 1 | u32::from(self.flag()?)))
    }

    /// An Exp-Golomb code, `ue(v)` of 9.1.
    pub(super) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros == 32 {
                return None;
            }
        }
        Some(((1u32 << zeros) - 1) + self.number(zeros)?)
    }

    /// A signed one, `se(v)`.
    pub(super) fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 {
            (code + 1) / 2
        } else {
            -code / 2
        })
    }

    /// The bits of a number, of which four less are written.
    pub(super) fn width(&mut self) -> Option<u32> {
        Some(self.ue()?)
            .filter(|&bits| bits <= 12)
            .map(|bits| bits + 4)
    }

    /// The length of a list, of which one less is written.
    pub(super) fn entries(&mut self) -> Option<usize> {
        Some(self.ue()? as usize + 1).filter(|&entries| entries <= MAX_ENTRIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_bytes_against_start_codes_passed_over() {
        // 1 | 010 | 011 | 00100 | 00101, then 16 bits of zeros around the byte 3.
        let data = [0b1010_0110, 0b0100_0010, 0b1000_0000, 0, 0, 3, 0, 0x80];
        let bits = &mut BitReader::new(&data);
        let counts: Vec<u32> = (0..5).map(|_| bits.ue().unwrap()).collect();
        assert_eq!(counts, [0, 1, 2, 3, 4]);
        assert_eq!(bits.position(), 17);
        assert_eq!(bits.number(7), Some(0));
        assert_eq!(bits.number(25), Some(1));
        assert_eq!(
            (bits.position(), bits.number(8)),
            (8 * data.len() - 7, None)
        );
        let signed = |byte: u8| BitReader::new(&[byte]).se();
        let codes = [0b1000_0000, 0b0100_0000, 0b0110_0000, 0b0010_0000];
        assert_eq!(codes.map(signed), [Some(0), Some(1), Some(-1), Some(2)]);
        assert_eq!(BitReader::new(&[0; 9]).ue(), None);
    }
}
