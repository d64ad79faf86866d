//! What can be wrong with a clip, said so that a person can act on it.

use crate::util::words::counted;
use std::path::PathBuf;

/// A clip that cannot be used. Every message names the file, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum VideoError {
    /// There is nothing at the path.
    #[error("{}: no such video file; check the path and `video_root`", path.display())]
    NotFound { path: PathBuf },
    /// It lies elsewhere.
    #[error("{}: is an address, no file: download the clip, and name the file", path.display())]
    Address { path: PathBuf },
    /// Another file lies in the clip's place.
    #[error("{}: {what}", path.display())]
    OtherFile {
        path: PathBuf,
        /// What it is, and what to do.
        what: &'static str,
    },
    /// A pipe or a device.
    #[error("{}: not a regular file; a video must be a plain file, or a folder of images", path.display())]
    NotAFile { path: PathBuf },
    /// The file has no bytes.
    #[error("{}: the file is empty (0 bytes); download or copy it again", path.display())]
    Empty { path: PathBuf },
    /// The operating system refuses to read it.
    #[error("{}: cannot be read: {reason}; check its permissions", path.display())]
    Unreadable { path: PathBuf, reason: String },
    /// A folder, and nothing in it that could be a frame.
    #[error("{}: a folder without images; as a clip it must hold its frames as .jpg or .png", path.display())]
    NoImages { path: PathBuf },
    /// Nothing says how fast the images of a folder follow each other.
    #[error(
        "{path}: a folder of images has no frame rate of its own; name it behind the path, as in `{path}#fps=3`",
        path = path.display()
    )]
    NoFolderRate { path: PathBuf },
    /// An image between two others of a folder is not there.
    #[error(
        "{}: {} is missing between the other images; fetch the folder again, or number its images without gaps",
        path.display(),
        image.display()
    )]
    MissingImage { path: PathBuf, image: PathBuf },
    /// An image of a folder that cannot be used.
    #[error("{}: {}: {reason}; fetch or make this image again", path.display(), image.display())]
    Image {
        path: PathBuf,
        image: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The images of a folder are not of one size.
    #[error(
        "{}: {} has {width}x{height} pixels, the first image {}x{}; make all images of one size",
        path.display(),
        image.display(),
        first[0],
        first[1]
    )]
    ImageSize {
        path: PathBuf,
        image: PathBuf,
        width: usize,
        height: usize,
        /// Width and height of the first image.
        first: [usize; 2],
    },
    /// No supported container recognises the bytes.
    #[error(
        "{}: not a video file, or cut off before its index ({reason}); \
         download it again or convert it with `ffmpeg -i IN OUT.mp4`",
        path.display()
    )]
    NotAVideo { path: PathBuf, reason: String },
    /// A container with sound or cover art only.
    #[error("{}: has no video track (only {found}); use a file with moving pictures", path.display())]
    NoVideoTrack {
        path: PathBuf,
        /// What the file has instead.
        found: String,
    },
    /// The model takes pairs of frames.
    #[error(
        "{}: {}has {}, at least {needed} are needed; {}",
        path.display(),
        part.as_ref().map(|part| format!("the part #t={part} ")).unwrap_or_default(),
        counted(*total, "frame"),
        if part.is_some() { "name a longer part (times in seconds)" } else { "use a longer clip" }
    )]
    TooFewFrames {
        path: PathBuf,
        /// The part as it stands behind the path.
        part: Option<String>,
        /// Frames in the clip.
        total: usize,
        /// The smallest usable number.
        needed: usize,
    },
    /// What stands behind the file's name names no part of a clip.
    #[error("{}: {problem}", path.display())]
    Part {
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A part in which no frame lies.
    #[error(
        "{}: no frame lies in #t={part}: the clip has {seconds:.2} s; mend the times of this part (in seconds)",
        path.display()
    )]
    NothingThere {
        path: PathBuf,
        /// The part as it stands behind the path.
        part: String,
        /// The clip's length.
        seconds: f64,
    },
    /// Frames beyond the decoder's limit.
    #[error(
        "{}: frames of {width}x{height} pixels are beyond the limit of {limit} pixels; \
         scale it down with `ffmpeg -i IN -vf scale=1280:-2 OUT.mp4`",
        path.display()
    )]
    TooLarge {
        path: PathBuf,
        width: usize,
        height: usize,
        /// Pixels allowed per frame.
        limit: usize,
    },
    /// More packets than any sensible clip has.
    #[error("{}: has more than {limit} frames; cut it into shorter clips", path.display())]
    TooLong { path: PathBuf, limit: usize },
    /// A frame so narrow that no patch grid fits it.
    #[error(
        "{}: {width}x{height} pixels: one side is more than {limit} times the other; crop the clip",
        path.display()
    )]
    AspectRatio {
        path: PathBuf,
        width: usize,
        height: usize,
        limit: usize,
    },
    /// No frame rate in the file and none computable from its time stamps.
    #[error(
        "{}: no usable frame rate; rewrite it with `ffmpeg -i IN -r 25 OUT.mp4`",
        path.display()
    )]
    NoFrameRate { path: PathBuf },
    /// A recognised clip whose frames do not come out.
    #[error(
        "{}: cannot be decoded: {reason}; the file is damaged or its codec is not in this FFmpeg",
        path.display()
    )]
    Undecodable { path: PathBuf, reason: String },
    /// Decoding took too long.
    #[error("{}: not decoded within {seconds} s; the file is damaged or far too long", path.display())]
    TimedOut { path: PathBuf, seconds: u64 },
    /// The reader was asked to stop (the run is ending).
    #[error("{}: decoding was stopped", path.display())]
    Stopped { path: PathBuf },
    /// The settings contradict each other.
    #[error(
        "{}: video.min_pixels = {min_pixels} is larger than the {max_pixels} pixels allowed per frame; \
         lower video.min_pixels or raise video.max_pixels",
        path.display()
    )]
    PixelBudget {
        path: PathBuf,
        min_pixels: usize,
        /// The bound that holds for this clip.
        max_pixels: usize,
    },
}

impl VideoError {
    /// The clip that the error is about.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::NotFound { path }
            | Self::Address { path }
            | Self::OtherFile { path, .. }
            | Self::NotAFile { path }
            | Self::Empty { path }
            | Self::NoImages { path }
            | Self::NoFolderRate { path }
            | Self::MissingImage { path, .. }
            | Self::Image { path, .. }
            | Self::ImageSize { path, .. }
            | Self::Unreadable { path, .. }
            | Self::NotAVideo { path, .. }
            | Self::NoVideoTrack { path, .. }
            | Self::Part { path, .. }
            | Self::NothingThere { path, .. }
            | Self::TooFewFrames { path, .. }
            | Self::TooLarge { path, .. }
            | Self::TooLong { path, .. }
            | Self::AspectRatio { path, .. }
            | Self::NoFrameRate { path }
            | Self::Undecodable { path, .. }
            | Self::TimedOut { path, .. }
            | Self::Stopped { path }
            | Self::PixelBudget { path, .. } => path,
        }
    }
}
