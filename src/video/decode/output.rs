//! One pass of a decoder over packets, and what comes of its frames.

use super::{Picture, Sink};
use crate::video::VideoError;
use crate::video::ffmpeg::{Chroma, ToRgb};
use crate::video::h264::Unneeded;
use crate::video::index::PacketIndex;
use crate::video::packets::{Packets, Patience};
use crate::video::rotation::Rotation;
use ffmpeg_next::decoder::{self, Conceal};
use ffmpeg_next::{Discard, Error, Packet, frame};
use std::collections::BTreeMap;
use std::ops::Range;

/// Complaints of a decoder in a row that end a pass.
const MAX_ERRORS: usize = 1000;

/// Where decoded frames go.
pub(super) struct Output<'a> {
    patience: &'a Patience,
    frame: frame::Video,
    to_rgb: ToRgb,
    picture: Picture,
    rgb: Vec<u8>,
    /// Frames still wanted: time stamp (or, without usable ones, place in output order) → place in the result.
    pub(super) wanted: BTreeMap<i64, usize>,
    /// What need not be decoded; without, everything is.
    pub(super) unneeded: Option<&'a Unneeded<'a>>,
    /// Which packets are left out.
    pub(super) index: Option<&'a PacketIndex>,
    /// Whether a frame that the decoder calls damaged is as good as none.
    pub(super) whole_only: bool,
    /// Frames seen, when they are told apart by their order.
    order: Option<i64>,
    errors: usize,
    pub(super) damaged: bool,
    sink: Sink<'a>,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        patience: &'a Patience,
        picture: Picture,
        wanted: BTreeMap<i64, usize>,
        order: Option<i64>,
        sink: Sink<'a>,
    ) -> Result<Self, VideoError> {
        let to_rgb = ToRgb::new(picture.coded_size, Chroma::Video);
        let to_rgb = to_rgb.map_err(|e| patience.undecodable(e))?;
        Ok(Self {
            patience,
            frame: frame::Video::empty(),
            to_rgb,
            picture,
            rgb: Vec::new(),
            wanted,
            unneeded: None,
            index: None,
            whole_only: false,
            order,
            errors: 0,
            damaged: false,
            sink,
        })
    }

    /// Decodes ranges of packets until nothing more is wanted. When something is unneeded, pictures that are not wanted and to
    /// which nobody refers are left out too.
    pub(super) fn decode(
        &mut self,
        decoder: &mut decoder::Video,
        packets: &mut Packets,
        ranges: &[Range<usize>],
    ) -> Result<(), VideoError> {
        for (i, range) in ranges.iter().enumerate() {
            if i > 0 {
                decoder.flush();
            }
            for position in range.clone() {
                self.patience.check()?;
                if self.index.is_some_and(|index| index.is_lost(position)) {
                    continue;
                }
                let Some(packet) = packets.get(position)? else {
                    break;
                };
                let wanted = self.wanted.contains_key(&(position as i64));
                decoder.skip_frame(if self.unneeded.is_some() && !wanted {
                    Discard::NonReference
                } else {
                    Discard::Default
                });
                let unneeded = self.unneeded;
                let headers = unneeded.and_then(|known| known.headers_of(position, packet.data()?));
                let mut headers = headers.map(|data| Packet::copy(&data));
                // A picture of headers alone would be concealed as damaged.
                decoder.conceal(if headers.is_some() {
                    Conceal::empty()
                } else {
                    Conceal::GUESS_MVS | Conceal::DEBLOCK
                });
                let packet = headers.as_mut().unwrap_or(packet);
                packet.set_pts(Some(position as i64));
                packet.set_dts(None);
                self.send(decoder, Some(packet))?;
                if self.wanted.is_empty() {
                    return Ok(());
                }
            }
            self.send(decoder, None)?;
        }
        Ok(())
    }

    /// Gives the decoder a packet (`None`: the end) and takes what comes out.
    fn send(
        &mut self,
        decoder: &mut decoder::Video,
        packet: Option<&Packet>,
    ) -> Result<(), VideoError> {
        // A decoder that is full takes the packet after its frames are fetched: twice is already one too many.
        for _ in 0..MAX_ERRORS {
            let sent = match packet {
                Some(packet) => decoder.send_packet(packet),
                None => decoder.send_eof(),
            };
            let full = matches!(sent, Err(Error::Other { errno }) if errno == libc::EAGAIN);
            if sent.is_err() && !full && sent != Err(Error::Eof) {
                self.complain()?;
            }
            self.receive(decoder)?;
            if !full || self.wanted.is_empty() {
                return Ok(());
            }
        }
        Err(self
            .patience
            .undecodable("the decoder takes no more packets"))
    }

    fn receive(&mut self, decoder: &mut decoder::Video) -> Result<(), VideoError> {
        while !self.wanted.is_empty() {
            match decoder.receive_frame(&mut self.frame) {
                Ok(()) => self.take()?,
                Err(Error::Eof) => break,
                Err(Error::Other { errno }) if errno == libc::EAGAIN => break,
                Err(_) => self.complain()?,
            }
        }
        Ok(())
    }

    fn complain(&mut self) -> Result<(), VideoError> {
        self.damaged = true;
        self.errors += 1;
        if self.errors > MAX_ERRORS {
            return Err(self.patience.undecodable("too many damaged frames"));
        }
        self.patience.check()
    }

    /// Converts the decoded frame if it is wanted.
    fn take(&mut self) -> Result<(), VideoError> {
        if let (Some(unneeded), Some(key)) = (self.unneeded, self.frame.pts())
            && unneeded.contains(key as usize)
        {
            return Ok(());
        }
        let damaged = self.frame.is_corrupt() || self.frame.has_decode_errors();
        self.damaged |= damaged;
        if damaged && self.whole_only {
            return Ok(());
        }
        let key = match &mut self.order {
            Some(seen) => {
                *seen += 1;
                Some(*seen - 1)
            }
            None => self.frame.pts(),
        };
        let Some(slot) = key.and_then(|key| self.wanted.remove(&key)) else {
            return Ok(());
        };
        let converted = self.to_rgb.convert(&self.frame, &mut self.rgb);
        converted.map_err(|error| self.patience.undecodable(error))?;
        match self.picture.rotation {
            Rotation::None => (self.sink)(slot, &self.rgb),
            rotation => {
                let turned = rotation.apply(&self.rgb, self.picture.coded_size);
                (self.sink)(slot, &turned);
            }
        }
        Ok(())
    }
}
