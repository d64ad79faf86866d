//! A folder of images as a clip: each is a frame, in the order of their names, shown at a rate that the clip's path says.

use crate::data::folder_images;
use crate::video::VideoError;
use crate::video::decode::{Sink, Source};
use crate::video::ffmpeg::{self, Chroma, ToRgb};
use crate::video::packets::Patience;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Codec, Error, Packet, codec, decoder, frame};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes of an image that are read at most: a larger one is no frame of a clip.
const MAX_BYTES: u64 = 256 << 20;

/// A folder whose images are listed.
pub(super) struct ImageFolder {
    patience: Patience,
    images: Vec<PathBuf>,
    fps: f64,
    /// `[width, height]` of the first image, and so of all.
    size: [usize; 2],
}

impl ImageFolder {
    /// Lists the images of a folder, shown at `fps` a second, and decodes the first for its size. `stop` ends any later
    /// work with [`VideoError::Stopped`].
    pub(super) fn open(
        path: &Path,
        fps: Option<f64>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, VideoError> {
        ffmpeg::init();
        let images = folder_images(path).map_err(|error| VideoError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let path = path.to_owned();
        if images.is_empty() {
            return Err(VideoError::NoImages { path });
        }
        let Some(fps) = fps else {
            return Err(VideoError::NoFolderRate { path });
        };
        if let Some(image) = missing_image(&images) {
            return Err(VideoError::MissingImage { path, image });
        }
        let mut folder = Self {
            patience: Patience::new(&path, stop),
            images,
            fps,
            size: [0; 2],
        };
        let first = folder.decode(0)?;
        folder.size = size(&first);
        Ok(folder)
    }

    /// The frame in the image at `index`.
    fn decode(&self, index: usize) -> Result<frame::Video, VideoError> {
        let image = &self.images[index];
        let unusable = |reason: String| VideoError::Image {
            path: self.patience.path.clone(),
            image: image.clone(),
            reason,
        };
        let facts = std::fs::metadata(image).map_err(|error| unusable(error.to_string()))?;
        if !facts.is_file() || facts.len() > MAX_BYTES {
            let reason = format!("not a plain file of at most {MAX_BYTES} bytes");
            return Err(unusable(reason));
        }
        let bytes = std::fs::read(image).map_err(|error| unusable(error.to_string()))?;
        let Some(codec) = codec_of(&bytes) else {
            return Err(unusable("neither a JPEG nor a PNG".to_owned()));
        };
        let Some(codec) = decoder::find(codec) else {
            return Err(unusable(format!(
                "this FFmpeg has no decoder for {codec:?}"
            )));
        };
        decode(codec, &bytes).map_err(|error| unusable(format!("damaged or cut off ({error})")))
    }
}

impl Source for ImageFolder {
    fn total_frames(&self) -> usize {
        self.images.len()
    }

    fn cut_frames(&self) -> usize {
        0
    }

    fn fps(&self) -> f64 {
        self.fps
    }

    fn size(&self) -> [usize; 2] {
        let [width, height] = self.size;
        [height, width]
    }

    /// On this thread alone; an image that is damaged is an error.
    fn read(&mut self, indices: &[usize], _threads: usize, sink: Sink) -> Result<bool, VideoError> {
        let undecodable = |error| self.patience.undecodable(error);
        let mut to_rgb = ToRgb::new(self.size, Chroma::Image).map_err(undecodable)?;
        let mut rgb = Vec::new();
        for (slot, &index) in indices.iter().enumerate() {
            self.patience.check()?;
            let frame = self.decode(index)?;
            if size(&frame) != self.size {
                let [width, height] = size(&frame);
                return Err(VideoError::ImageSize {
                    path: self.patience.path.clone(),
                    image: self.images[index].clone(),
                    width,
                    height,
                    first: self.size,
                });
            }
            let frame = spread_colours(frame).map_err(undecodable)?;
            to_rgb.convert(&frame, &mut rgb).map_err(undecodable)?;
            sink(slot, &rgb);
        }
        Ok(false)
    }
}

/// `[width, height]`.
fn size(frame: &frame::Video) -> [usize; 2] {
    [frame.width() as usize, frame.height() as usize]
}

/// What the first bytes of an image say, whatever its name.
fn codec_of(bytes: &[u8]) -> Option<codec::Id> {
    if bytes.starts_with(&[0xff, 0xd8]) {
        Some(codec::Id::MJPEG)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some(codec::Id::PNG)
    } else {
        None
    }
}

/// A new decoder each time: what one image leaves behind must not reach the next.
fn decode(codec: Codec, bytes: &[u8]) -> Result<frame::Video, Error> {
    let mut options = ffmpeg_next::Dictionary::new();
    options.set("threads", "1");
    options.set("max_pixels", &ffmpeg::MAX_PIXELS.to_string());
    // Without, what is missing of an image that is cut off becomes grey.
    options.set("err_detect", "crccheck+explode");
    let context = codec::Context::new_with_codec(codec).decoder();
    let mut decoder = context.open_as_with(codec, options)?.video()?;
    decoder.send_packet(&Packet::copy(bytes))?;
    decoder.send_eof()?;
    let mut frame = frame::Video::empty();
    decoder.receive_frame(&mut frame)?;
    Ok(frame)
}

/// A JPEG's colours, of which there are fewer than pixels, spread smoothly over the pixels. FFmpeg's conversion to RGB does
/// not do that between rows.
fn spread_colours(frame: frame::Video) -> Result<frame::Video, Error> {
    use Pixel::{YUVJ411P, YUVJ420P, YUVJ422P, YUVJ440P, YUVJ444P};
    let format = frame.format();
    if !matches!(format, YUVJ411P | YUVJ420P | YUVJ422P | YUVJ440P) {
        return Ok(frame);
    }
    let (width, height) = (frame.width(), frame.height());
    let flags = scaling::Flags::BILINEAR | scaling::Flags::ACCURATE_RND;
    let mut scaler = scaling::Context::get(format, width, height, YUVJ444P, width, height, flags)?;
    let mut full = frame::Video::new(YUVJ444P, width, height);
    scaler.run(&frame, &mut full)?;
    full.set_color_space(frame.color_space());
    full.set_color_range(frame.color_range());
    Ok(full)
}

/// The first image that is not there though the numbers in the other names, which rise by equal steps, say that it was.
fn missing_image(images: &[PathBuf]) -> Option<PathBuf> {
    let numbered: Vec<Numbered> = images
        .iter()
        .map(|image| Numbered::of(image))
        .collect::<Option<_>>()?;
    let alike =
        |pair: &[Numbered]| (pair[0].before, pair[0].after) == (pair[1].before, pair[1].after);
    if !numbered.windows(2).all(alike) {
        return None;
    }
    let steps = || {
        numbered
            .windows(2)
            .map(|pair| pair[1].number - pair[0].number)
    };
    let step = steps().min()?;
    let last = &numbered[steps().position(|other| other != step)?];
    let (before, after, width) = (last.before, last.after, last.width);
    let name = format!("{before}{:0width$}{after}", last.number + step);
    Some(images[0].with_file_name(name))
}

/// The last number in a file's name, and what stands around it.
struct Numbered<'a> {
    before: &'a str,
    number: u64,
    width: usize,
    after: &'a str,
}

impl<'a> Numbered<'a> {
    fn of(image: &'a Path) -> Option<Self> {
        let name = image.file_name()?.to_str()?;
        let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
        let start = name[..end]
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .len();
        Some(Self {
            before: &name[..start],
            number: name[start..end].parse().ok()?,
            width: end - start,
            after: &name[end..],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_the_numbers_is_an_image_that_is_missing() {
        let missing = |names: &[&str]| {
            let images: Vec<PathBuf> = names.iter().map(|name| Path::new("f").join(name)).collect();
            missing_image(&images)
        };
        let gap = missing(&["00001.jpg", "00002.jpg", "00004.jpg"]);
        assert_eq!(gap, Some("f/00003.jpg".into()));
        let gap = missing(&["v1_0.png", "v1_5.png", "v1_15.png"]);
        assert_eq!(gap, Some("f/v1_10.png".into()));
        for whole in [
            &["1.jpg"][..],
            &["7.jpg", "8.jpg", "9.jpg", "10.jpg"],
            &["0.jpg", "5.jpg", "10.jpg"],
            &["a.jpg", "b.jpg", "d.jpg"],
            &["a1.jpg", "b3.jpg", "b4.jpg"],
            &["1.jpg", "2.png", "4.jpg"],
        ] {
            assert_eq!(missing(whole), None, "{whole:?}");
        }
    }
}
