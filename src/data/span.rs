//! A part of a clip, written behind its path as a media fragment: `clip.mp4#t=3.5,9` (W3C Media Fragments URI 1.0).

use std::path::Path;
use std::path::PathBuf;

/// From `start` to `end`, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Where the part begins.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
}

impl Span {
    /// The path of this part of `clip`.
    pub fn of(self, clip: &str) -> PathBuf {
        PathBuf::from(format!("{clip}#t={},{}", self.start, self.end))
    }

    /// The first and last of `total` frames at `fps` frames per second that lie in the part, as qwen-vl-utils counts them
    /// (`calculate_video_frame_range`): `ceil(start · fps)` to `floor(end · fps)`. `None` when there is none.
    pub fn frames(self, total: usize, fps: f64) -> Option<(usize, usize)> {
        let last = ((self.end * fps).floor() as usize).min(total.checked_sub(1)?);
        let first = (self.start * fps).ceil() as usize;
        (first <= last).then_some((first, last))
    }
}

/// The file and the part that a path names. A file whose own name ends like a fragment is taken whole.
pub fn split_span(path: &Path) -> (PathBuf, Option<Span>) {
    let parts = || {
        let (file, times) = path.to_str()?.rsplit_once("#t=")?;
        let (start, end) = times.split_once(',')?;
        let (start, end) = (start.parse().ok()?, end.parse().ok()?);
        Some((PathBuf::from(file), Span { start, end }))
    };
    match parts() {
        Some((file, span)) if !path.exists() => (file, Some(span)),
        _ => (path.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_and_read_back() {
        let span = Span {
            start: 3.5,
            end: 9.0,
        };
        let path = span.of("star/a.mp4");
        assert_eq!(path, Path::new("star/a.mp4#t=3.5,9"));
        assert_eq!(split_span(&path), (PathBuf::from("star/a.mp4"), Some(span)));
        for whole in ["a.mp4", "a#b.mp4", "a.mp4#t=x,3", "a.mp4#t=3"] {
            assert_eq!(split_span(Path::new(whole)), (PathBuf::from(whole), None));
        }
    }

    #[test]
    fn a_file_with_such_a_name_is_taken_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4#t=1,2");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(split_span(&path), (path, None));
    }

    #[test]
    fn frames_lie_inside_the_part() {
        let frames = |start, end| Span { start, end }.frames(100, 10.0);
        assert_eq!(frames(0.0, 1.0), Some((0, 10)));
        assert_eq!(frames(0.05, 1.09), Some((1, 10)));
        assert_eq!(frames(5.0, 60.0), Some((50, 99)));
        assert_eq!(frames(20.0, 30.0), None);
        assert_eq!(frames(0.01, 0.02), None);
        assert_eq!(
            Span {
                start: 0.0,
                end: 1.0
            }
            .frames(0, 10.0),
            None
        );
    }
}
