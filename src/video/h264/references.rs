//! Which pictures use which, by the rules of decoding (ITU-T H.264, 8.2.1, 8.2.4 and 8.2.5).

use super::headers::{Headers, Marking, Picture, Slice, SliceType};
use std::collections::BTreeSet;
use std::ops::Range;

/// Uses that are remembered at most: 64 MiB.
const MAX_USED: usize = 1 << 24;

/// The pictures of a track in file order.
#[derive(Debug)]
pub(super) struct References {
    headers: Headers,
    pictures: Vec<Facts>,
    /// Packets that the pictures use, one picture's after the other's.
    used: Vec<u32>,
    dpb: Dpb,
}

/// What is known of a picture.
#[derive(Debug)]
struct Facts {
    is_idr: bool,
    /// Others may refer to it, and it can be left out.
    is_optional: bool,
    /// Its part of the packets used.
    used: Range<u32>,
}

/// The decoded picture buffer: the pictures that the next one can refer to.
#[derive(Debug, Default)]
struct Dpb {
    pictures: Vec<Reference>,
    /// Frame number of the last picture that was kept.
    frame_num: i64,
    /// Low and high part of its place in display order.
    order: [i64; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reference {
    packet: u32,
    frame_num: i64,
    /// Place in display order.
    order: i64,
}

impl References {
    /// Of a track with this configuration record, no picture yet.
    pub(super) fn new(record: &[u8]) -> Option<Self> {
        Some(Self {
            headers: Headers::new(record)?,
            pictures: Vec::new(),
            used: Vec::new(),
            dpb: Dpb::default(),
        })
    }

    /// Takes the next packet; `None` where what it refers to cannot be said.
    pub(super) fn add(&mut self, packet: &[u8]) -> Option<()> {
        let picture = self.headers.read(packet)?;
        let position = u32::try_from(self.pictures.len()).ok()?;
        let start = self.used.len() as u32;
        self.used.extend(self.dpb.take(&picture, position)?);
        if self.used.len() > MAX_USED {
            return None;
        }
        self.pictures.push(Facts {
            is_idr: picture.is_idr,
            is_optional: picture.is_reference && picture.is_predicted(),
            used: start..self.used.len() as u32,
        });
        Some(())
    }

    /// The packet of a picture cut down to its headers.
    pub(super) fn without_data(&self, packet: &[u8]) -> Option<Vec<u8>> {
        self.headers.without_data(packet)
    }

    /// Adds the packets of `range` whose pictures others may refer to, though none of the `targets` in it does, directly or
    /// through others. Nothing where the range does not begin with a picture before which all is forgotten.
    pub(super) fn add_unneeded(
        &self,
        range: Range<usize>,
        targets: &BTreeSet<usize>,
        unneeded: &mut BTreeSet<usize>,
    ) {
        let Some(pictures) = self.pictures.get(range.clone()) else {
            return;
        };
        if !pictures.first().is_some_and(|picture| picture.is_idr) {
            return;
        }
        let mut needed: BTreeSet<usize> = targets.range(range.clone()).copied().collect();
        for position in range.rev() {
            let picture = &self.pictures[position];
            if needed.contains(&position) {
                let used = &self.used[picture.used.start as usize..picture.used.end as usize];
                needed.extend(used.iter().map(|&packet| packet as usize));
            } else if picture.is_optional {
                unneeded.insert(position);
            }
        }
    }
}

impl Dpb {
    /// What the next picture uses; keeps it when others may refer to it.
    fn take(&mut self, picture: &Picture, packet: u32) -> Option<BTreeSet<u32>> {
        let frame_nums = picture.sequence.frame_nums();
        if picture.is_idr {
            *self = Self::default();
        } else if ![0, 1].contains(&(picture.frame_num - self.frame_num).rem_euclid(frame_nums)) {
            return None; // pictures are missing
        }
        let high = self.order_high(picture);
        let top = high + picture.order;
        let this = Reference {
            packet,
            frame_num: picture.frame_num,
            order: top.min(top + picture.bottom_delta),
        };
        for kept in &mut self.pictures {
            kept.frame_num = wrapped(kept.frame_num, this.frame_num, frame_nums);
        }
        let mut used = BTreeSet::new();
        for slice in &picture.slices {
            let lists = self.lists(slice, this.order).into_iter();
            for (list, moves) in lists.zip(&slice.modifications) {
                used.extend(self.modified(list, moves, this.frame_num, frame_nums)?);
            }
        }
        if picture.is_reference {
            self.keep(picture, this)?;
            self.order = [picture.order, high];
            self.frame_num = this.frame_num;
        }
        Some(used)
    }

    /// High part of a picture's place in display order (8.2.1.1).
    fn order_high(&self, picture: &Picture) -> i64 {
        let [low, high] = self.order;
        let orders = picture.sequence.orders();
        if picture.order < low && low - picture.order >= orders / 2 {
            high + orders
        } else if picture.order > low && picture.order - low > orders / 2 {
            high - orders
        } else {
            high
        }
    }

    /// The two lists as they are at first (8.2.4.2), each cut or filled to its length.
    fn lists(&self, slice: &Slice, order: i64) -> [Vec<Option<Reference>>; 2] {
        let mut lists = [self.pictures.clone(), Vec::new()];
        match slice.kind {
            SliceType::I => lists[0].clear(),
            SliceType::P => lists[0].sort_by_key(|kept| -kept.frame_num),
            SliceType::B => {
                let (mut before, mut after): (Vec<Reference>, Vec<Reference>) =
                    lists[0].iter().partition(|kept| kept.order <= order);
                before.sort_by_key(|kept| -kept.order);
                after.sort_by_key(|kept| kept.order);
                lists = [
                    [&before[..], &after[..]].concat(),
                    [&after[..], &before[..]].concat(),
                ];
                if lists[1].len() > 1 && lists[0] == lists[1] {
                    lists[1].swap(0, 1);
                }
            }
        }
        let [first, second] = lists;
        [(first, slice.active[0]), (second, slice.active[1])].map(|(list, len)| {
            let mut list: Vec<_> = list.into_iter().map(Some).collect();
            list.resize(len, None);
            list
        })
    }

    /// Decides which pictures later ones can refer to (8.2.5).
    fn keep(&mut self, picture: &Picture, this: Reference) -> Option<()> {
        let room = picture.sequence.max_references();
        match &picture.marking {
            Marking::Unmark(distances) => {
                for distance in distances {
                    let place = self.place_of(this.frame_num - distance)?;
                    self.pictures.remove(place);
                }
            }
            Marking::SlidingWindow if self.pictures.len() >= room => {
                let oldest = self.pictures.iter().map(|kept| kept.frame_num).min()?;
                let place = self.place_of(oldest)?;
                self.pictures.remove(place);
            }
            Marking::SlidingWindow => {}
        }
        self.pictures.push(this);
        (self.pictures.len() <= room).then_some(())
    }

    /// The packets of a list after pictures are moved to its front (8.2.4.3).
    fn modified(
        &self,
        mut list: Vec<Option<Reference>>,
        moves: &[i64],
        frame_num: i64,
        frame_nums: i64,
    ) -> Option<Vec<u32>> {
        let len = list.len();
        let mut number = frame_num;
        for (front, change) in moves.iter().enumerate() {
            number = (number + change).rem_euclid(frame_nums);
            let place = self.place_of(wrapped(number, frame_num, frame_nums))?;
            let picture = Some(self.pictures[place]);
            if front >= len {
                return None;
            }
            let further = list[front..].iter().position(|entry| *entry == picture);
            list.remove(further.map_or(len - 1, |distance| front + distance));
            list.insert(front, picture);
        }
        Some(list.iter().flatten().map(|kept| kept.packet).collect())
    }

    fn place_of(&self, frame_num: i64) -> Option<usize> {
        self.pictures
            .iter()
            .position(|kept| kept.frame_num == frame_num)
    }
}

/// A frame number that is past: numbers begin again, and one above that of the picture decoded is of the time before.
fn wrapped(number: i64, decoded: i64, frame_nums: i64) -> i64 {
    let number = number.rem_euclid(frame_nums);
    if number > decoded {
        number - frame_nums
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::packets::tests::record_and_packets;

    /// Takes pictures one after the other; what each uses.
    fn uses(pictures: &[Picture]) -> Vec<Option<Vec<u32>>> {
        let mut dpb = Dpb::default();
        let take = |(at, picture)| dpb.take(picture, at).map(|used| used.into_iter().collect());
        (0..).zip(pictures).map(take).collect()
    }

    fn idr() -> Picture {
        let mut picture = Picture::example(0, 0, SliceType::I, [0, 0]);
        picture.is_idr = true;
        picture
    }

    fn p(frame_num: i64, order: i64, active: usize) -> Picture {
        Picture::example(frame_num, order, SliceType::P, [active, 0])
    }

    #[test]
    fn a_picture_uses_the_last_ones_kept() {
        let pictures = [idr(), p(1, 2, 1), p(2, 4, 2), p(3, 6, 5), p(4, 8, 5)];
        let expected =
            [&[][..], &[0], &[0, 1], &[0, 1, 2], &[1, 2, 3]].map(|used| Some(used.to_vec()));
        assert_eq!(uses(&pictures), expected);
    }

    #[test]
    fn b_pictures_use_the_nearest_on_either_side() {
        let b = |frame_num, order, active| {
            let mut picture = Picture::example(frame_num, order, SliceType::B, active);
            picture.is_reference = false;
            picture
        };
        let pictures = [
            idr(),
            p(1, 8, 1),
            Picture::example(2, 4, SliceType::B, [1, 1]),
            b(3, 2, [1, 1]),
            b(3, 6, [1, 1]),
            b(3, 6, [1, 0]),
            b(3, 6, [0, 1]),
            // With none to come, the two lists would be the same: the second begins with the second nearest.
            b(3, 10, [1, 1]),
        ];
        let used = [
            &[][..],
            &[0],
            &[0, 1],
            &[0, 2],
            &[1, 2],
            &[2],
            &[1],
            &[1, 2],
        ];
        assert_eq!(uses(&pictures), used.map(|used| Some(used.to_vec())));
    }

    #[test]
    fn pictures_are_moved_to_the_front() {
        let moved = |moves: &[i64]| {
            let mut picture = p(3, 6, 1);
            picture.slices[0].modifications[0] = moves.to_vec();
            uses(&[idr(), p(1, 2, 1), p(2, 4, 1), picture])[3].clone()
        };
        assert_eq!(moved(&[]), Some(vec![2]));
        assert_eq!(moved(&[-2]), Some(vec![1]));
        assert_eq!(moved(&[-3]), Some(vec![0]));
        assert_eq!(moved(&[-16]), None, "itself");
        assert_eq!(moved(&[-4]), None, "a picture that is not kept");
        assert_eq!(moved(&[-1, -1]), None, "more than the list holds");
    }

    #[test]
    fn dropped_pictures_are_used_no_more() {
        let drops = |distances: &[i64]| {
            let mut picture = p(2, 4, 2);
            picture.marking = Marking::Unmark(distances.to_vec());
            picture
        };
        let after = |distances: &[i64]| uses(&[idr(), p(1, 2, 1), drops(distances), p(3, 6, 3)]);
        assert_eq!(after(&[])[3], Some(vec![0, 1, 2]));
        assert_eq!(after(&[1])[3], Some(vec![0, 2]));
        assert_eq!(after(&[2, 1])[3], Some(vec![2]));
        assert_eq!(after(&[3])[2], None, "a picture that is not kept");
    }

    #[test]
    fn numbers_begin_again() {
        let mut pictures = vec![idr()];
        pictures.extend((1..40).map(|i| p(i % 16, 2 * i % 16, 2)));
        for (at, used) in uses(&pictures).into_iter().enumerate().skip(2) {
            assert_eq!(used, Some(vec![at as u32 - 2, at as u32 - 1]));
        }
        assert_eq!(uses(&[idr(), p(2, 4, 1)])[1], None, "a picture is missing");
    }

    #[test]
    fn what_no_target_uses_is_not_needed() {
        for name in ["pyramid.mp4", "pyramid.mkv"] {
            let (record, packets) = record_and_packets(name);
            let mut references = References::new(&record).unwrap();
            for packet in &packets {
                references.add(packet).unwrap();
            }
            let all = 0..packets.len();
            let unneeded = |range: Range<usize>, targets: BTreeSet<usize>| {
                let mut packets = BTreeSet::new();
                references.add_unneeded(range, &targets, &mut packets);
                packets
            };
            assert!(unneeded(all.clone(), all.clone().collect()).is_empty());
            let without = unneeded(all.clone(), [packets.len() - 1].into());
            assert!(without.len() * 10 > packets.len(), "{name}: {without:?}");
            assert!(without.iter().all(|&i| references.pictures[i].is_optional));
            assert!(unneeded(1..packets.len(), BTreeSet::new()).is_empty());
            assert!(unneeded(0..packets.len() + 1, BTreeSet::new()).is_empty());
        }
    }
}
