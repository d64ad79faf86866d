//! Pictures → a small clip in an mp4 file, the same bytes every time: H.264 where FFmpeg has an encoder for it, else MPEG-4,
//! whose encoder is FFmpeg's own.

use super::render::Picture;
use crate::video::init_ffmpeg;
use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec;
use ffmpeg_next::encoder;
use ffmpeg_next::format;
use ffmpeg_next::frame;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use thiserror::Error;

/// What can go wrong when a clip is written.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The FFmpeg at hand writes no clips.
    #[error(
        "this FFmpeg has no encoder for clips that works (tried {tried}): install one built with libx264, \
         for example `apt-get install libavcodec-extra`, `brew install ffmpeg`, or \
         `dnf install ffmpeg-libs` from RPM Fusion"
    )]
    NoEncoder {
        /// The encoders tried, with what each said.
        tried: String,
    },
    /// FFmpeg failed on one clip.
    #[error("cannot write clip {}: {source}", path.display())]
    Clip {
        path: PathBuf,
        source: ffmpeg::Error,
    },
}

/// Encoders in order of preference. Hardware encoders are left out: their output differs.
const ENCODERS: [&str; 5] = [
    "libx264",
    "libopenh264",
    "h264_videotoolbox",
    "h264_mf",
    "mpeg4",
];

/// Size and speed of a clip.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClipFormat {
    /// Width and height in pixels (even).
    pub(crate) side: usize,
    /// Frames per second as a fraction.
    pub(crate) rate: (usize, usize),
}

impl ClipFormat {
    /// An encoder of this name, opened for this format.
    fn open(self, name: &str) -> Result<encoder::video::Encoder, ffmpeg::Error> {
        let found = encoder::find_by_name(name).ok_or(ffmpeg::Error::EncoderNotFound)?;
        let mut context = codec::context::Context::new_with_codec(found);
        context.set_threading(codec::threading::Config::count(1));
        let mut video = context.encoder().video()?;
        let (frames, seconds) = (self.rate.0 as i32, self.rate.1 as i32);
        video.set_width(self.side as u32);
        video.set_height(self.side as u32);
        video.set_format(format::Pixel::YUV420P);
        video.set_frame_rate(Some((frames, seconds)));
        video.set_time_base((seconds, frames));
        video.set_gop(250);
        video.set_max_b_frames(0);
        video.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
        let mut options = ffmpeg::Dictionary::new();
        if name == "libx264" {
            options.set("preset", "veryfast");
            // Macroblock trees make some clips differ from one run to the next; without them a clip
            // is larger at the same crf.
            options.set("crf", "20");
            options.set("x264-params", "threads=1:scenecut=0:mbtree=0");
        } else if name == "mpeg4" {
            // The finest quantiser for every picture: rate control would blur the first one.
            options.set("qmin", "2");
            options.set("qmax", "2");
        } else {
            video.set_bit_rate(400_000);
        }
        video.open_with(options)
    }
}

/// The name of the first encoder that opens.
fn encoder_name(clip: ClipFormat) -> Result<&'static str, EncodeError> {
    static NAME: OnceLock<Result<&'static str, String>> = OnceLock::new();
    NAME.get_or_init(|| {
        let mut tried = Vec::new();
        for name in ENCODERS {
            match clip.open(name) {
                Ok(_) => return Ok(name),
                Err(error) => tried.push(format!("{name}: {error}")),
            }
        }
        Err(tried.join(", "))
    })
    .clone()
    .map_err(|tried| EncodeError::NoEncoder { tried })
}

/// Writes the pictures as an mp4 file.
pub(crate) fn write_clip(
    path: &Path,
    pictures: &[Picture],
    clip: ClipFormat,
) -> Result<(), EncodeError> {
    let failed = |source| EncodeError::Clip {
        path: path.to_owned(),
        source,
    };
    init_ffmpeg();
    let name = encoder_name(clip)?;
    encode(path, pictures, clip, name).map_err(failed)
}

fn encode(
    path: &Path,
    pictures: &[Picture],
    clip: ClipFormat,
    name: &str,
) -> Result<(), ffmpeg::Error> {
    let mut encoder = clip.open(name)?;
    let mut output = format::output_as(path, "mp4")?;
    let from = ffmpeg::Rational::new(clip.rate.1 as i32, clip.rate.0 as i32);
    {
        let mut stream = output.add_stream(encoder::find_by_name(name))?;
        stream.set_time_base(from);
        stream.set_avg_frame_rate(from.invert());
        stream.set_parameters(&encoder);
    }
    let mut options = ffmpeg::Dictionary::new();
    options.set("fflags", "+bitexact");
    output.write_header_with(options)?;
    let to = output
        .stream(0)
        .ok_or(ffmpeg::Error::StreamNotFound)?
        .time_base();
    let mut drain = |encoder: &mut encoder::video::Encoder| -> Result<(), ffmpeg::Error> {
        let mut packet = ffmpeg::Packet::empty();
        loop {
            match encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                // It waits for more pictures, or has given back all.
                Err(
                    ffmpeg::Error::Eof
                    | ffmpeg::Error::Other {
                        errno: libc::EAGAIN,
                    },
                ) => return Ok(()),
                Err(error) => return Err(error),
            }
            packet.set_stream(0);
            packet.set_duration(1);
            packet.rescale_ts(from, to);
            packet.write_interleaved(&mut output)?;
        }
    };
    for (index, picture) in pictures.iter().enumerate() {
        let mut image = to_yuv(picture, clip.side);
        image.set_pts(Some(index as i64));
        encoder.send_frame(&image)?;
        drain(&mut encoder)?;
    }
    encoder.send_eof()?;
    drain(&mut encoder)?;
    output.write_trailer()
}

/// RGB → planar 4:2:0, BT.601 limited range, in integers: the same on every machine.
fn to_yuv(picture: &Picture, side: usize) -> frame::Video {
    let mut image = frame::Video::new(format::Pixel::YUV420P, side as u32, side as u32);
    let pixel = |x: usize, y: usize| -> [i32; 3] {
        let start = (y * side + x) * 3;
        std::array::from_fn(|channel| i32::from(picture[start + channel]))
    };
    let stride = image.stride(0);
    let luma = image.data_mut(0);
    for y in 0..side {
        for x in 0..side {
            let [red, green, blue] = pixel(x, y);
            luma[y * stride + x] = (((66 * red + 129 * green + 25 * blue + 128) >> 8) + 16) as u8;
        }
    }
    for (plane, weights) in [(1, [-38, -74, 112]), (2, [112, -94, -18])] {
        let stride = image.stride(plane);
        let chroma = image.data_mut(plane);
        for y in 0..side / 2 {
            for x in 0..side / 2 {
                // Four pixels share one value: weights over a sum of four.
                let sum: i32 = [(0, 0), (1, 0), (0, 1), (1, 1)]
                    .iter()
                    .map(|(right, down)| pixel(2 * x + right, 2 * y + down))
                    .map(|value| {
                        (0..3)
                            .map(|channel| weights[channel] * value[channel])
                            .sum::<i32>()
                    })
                    .sum();
                chroma[y * stride + x] = (((sum + 512) >> 10) + 128) as u8;
            }
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::{ClipFormat, encode, to_yuv};
    use crate::video::init_ffmpeg;
    use ffmpeg_next as ffmpeg;

    const FORMAT: ClipFormat = ClipFormat {
        side: 64,
        rate: (4, 1),
    };

    /// A bright square that moves over a dark ground.
    fn pictures() -> Vec<Vec<u8>> {
        let pixel = |frame: usize, index: usize| {
            let (x, y) = (index % 64, index / 64);
            let inside = (8 * frame..8 * frame + 16).contains(&x) && (20..36).contains(&y);
            if inside { [220, 60, 40] } else { [30, 40, 60] }
        };
        (0..6)
            .map(|frame| (0..64 * 64).flat_map(|index| pixel(frame, index)).collect())
            .collect()
    }

    /// The luma of every picture of a clip.
    fn luma(path: &std::path::Path) -> Vec<Vec<u8>> {
        let mut input = ffmpeg::format::input(path).unwrap();
        let parameters = input.stream(0).unwrap().parameters();
        let context = ffmpeg::codec::context::Context::from_parameters(parameters).unwrap();
        let mut decoder = context.decoder().video().unwrap();
        let mut picture = ffmpeg::frame::Video::empty();
        let mut all = Vec::new();
        let mut drain = |decoder: &mut ffmpeg::decoder::Video| {
            while decoder.receive_frame(&mut picture).is_ok() {
                all.push(rows(&picture));
            }
        };
        for (_, packet) in input.packets() {
            decoder.send_packet(&packet).unwrap();
            drain(&mut decoder);
        }
        decoder.send_eof().unwrap();
        drain(&mut decoder);
        all
    }

    fn rows(picture: &ffmpeg::frame::Video) -> Vec<u8> {
        let rows = picture.data(0).chunks(picture.stride(0)).take(64);
        rows.flat_map(|row| row[..64].to_vec()).collect()
    }

    /// What a static FFmpeg writes, which has no encoder for H.264.
    #[test]
    fn mpeg4_keeps_the_pictures_and_gives_the_same_bytes_twice() {
        init_ffmpeg();
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a.mp4", "b.mp4"].map(|name| folder.path().join(name));
        for path in [&first, &second] {
            encode(path, &pictures(), FORMAT, "mpeg4").unwrap();
        }
        assert_eq!(
            std::fs::read(&first).unwrap(),
            std::fs::read(&second).unwrap()
        );
        let decoded = luma(&first);
        assert_eq!(decoded.len(), 6);
        for (picture, read) in pictures().iter().zip(&decoded) {
            let written = rows(&to_yuv(picture, 64));
            let error: usize = written
                .iter()
                .zip(read)
                .map(|(&a, &b)| usize::from(a.abs_diff(b)))
                .sum();
            assert!(error < 2 * 64 * 64, "{}", error as f64 / 4096.0);
        }
    }
}
