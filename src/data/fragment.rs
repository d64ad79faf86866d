//! What a clip's path says besides its file, as a media fragment (W3C Media Fragments URI 1.0): `clip.mp4#t=3.5,9` is a
//! part of a clip, `frames#fps=3` a folder of images shown at 3 a second, `frames#t=3.5,9&fps=3` a part of that.

use std::path::Path;
use std::path::PathBuf;

/// From `start` to `end`, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    /// Where the part begins.
    pub(crate) start: f64,
    /// Where it ends.
    pub(crate) end: f64,
}

impl Span {
    /// The first and last of `total` frames at `fps` frames per second that lie in the part, as qwen-vl-utils counts them
    /// (`calculate_video_frame_range`): `ceil(start · fps)` to `floor(end · fps)`. `None` when there is none.
    pub(crate) fn frames(self, total: usize, fps: f64) -> Option<(usize, usize)> {
        let last = ((self.end * fps).floor() as usize).min(total.checked_sub(1)?);
        let first = (self.start * fps).ceil() as usize;
        (first <= last).then_some((first, last))
    }

    /// The same as MVBench's evaluator counts them (`get_index` of `mvbench.ipynb`): the nearest frames to `start` and `end`,
    /// the first frame having the number `first_number` (1 in a folder of images).
    pub(crate) fn nearest_frames(
        self,
        total: usize,
        fps: f64,
        first_number: usize,
    ) -> Option<(usize, usize)> {
        let last_index = total.checked_sub(1)?;
        let nearest = |seconds: f64| (seconds * fps).round_ties_even() as usize;
        let first = nearest(self.start).max(first_number) - first_number;
        let last = nearest(self.end).checked_sub(first_number)?.min(last_index);
        (first <= last).then_some((first, last))
    }
}

/// What stands behind the file in a clip's path.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Fragment {
    /// The part of the clip that is meant; absent: all of it.
    pub(crate) span: Option<Span>,
    /// Frames per second, in place of what the file says; a folder of images says nothing.
    pub(crate) fps: Option<f64>,
}

impl Fragment {
    /// The path of `clip` with this behind it.
    pub(crate) fn of(self, clip: &str) -> PathBuf {
        let span = self
            .span
            .map(|Span { start, end }| format!("t={start},{end}"));
        let fps = self.fps.map(|fps| format!("fps={fps}"));
        let parts: Vec<String> = span.into_iter().chain(fps).collect();
        if parts.is_empty() {
            return PathBuf::from(clip);
        }
        PathBuf::from(format!("{clip}#{}", parts.join("&")))
    }

    /// The file (or folder) that a path names, and what stands behind it. A file whose own name ends like a fragment is
    /// taken whole.
    pub(crate) fn split(path: &Path) -> (PathBuf, Self) {
        let parts = || {
            let (file, text) = path.to_str()?.rsplit_once('#')?;
            Some((PathBuf::from(file), Self::parse(text)?))
        };
        match parts() {
            Some(parts) if !path.exists() => parts,
            _ => (path.to_owned(), Self::default()),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fragment = Self::default();
        for part in text.split('&') {
            match part.split_once('=')? {
                ("t", times) => {
                    let (start, end) = times.split_once(',')?;
                    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
                    fragment.span = Some(Span { start, end });
                }
                ("fps", rate) => {
                    let rate = rate.parse().ok();
                    fragment.fps = Some(rate.filter(|fps: &f64| fps.is_finite() && *fps > 0.0)?);
                }
                _ => return None,
            }
        }
        Some(fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_rates_are_written_and_read_back() {
        let span = Some(Span {
            start: 3.5,
            end: 9.0,
        });
        for (span, fps, text) in [
            (span, None, "star/a.mp4#t=3.5,9"),
            (None, Some(3.0), "star/a.mp4#fps=3"),
            (span, Some(2.5), "star/a.mp4#t=3.5,9&fps=2.5"),
            (None, None, "star/a.mp4"),
        ] {
            let fragment = Fragment { span, fps };
            let path = fragment.of("star/a.mp4");
            assert_eq!(path, Path::new(text));
            let file = PathBuf::from("star/a.mp4");
            assert_eq!(Fragment::split(&path), (file, fragment));
        }
        for whole in [
            "a.mp4",
            "a#b.mp4",
            "a.mp4#t=x,3",
            "a.mp4#t=3",
            "a#fps=0",
            "a#fps=inf",
            "a#fps=3&x=1",
        ] {
            let expected = (PathBuf::from(whole), Fragment::default());
            assert_eq!(Fragment::split(Path::new(whole)), expected);
        }
    }

    #[test]
    fn a_file_with_such_a_name_is_taken_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mp4#t=1,2");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(Fragment::split(&path), (path, Fragment::default()));
    }

    #[test]
    fn nearest_frames_are_rounded_and_folders_count_from_one() {
        let nearest = |start, end, first| Span { start, end }.nearest_frames(100, 10.0, first);
        assert_eq!(nearest(0.0, 1.0, 0), Some((0, 10)));
        // Halves go to the even number, as Python rounds.
        assert_eq!(nearest(0.05, 0.15, 0), Some((0, 2)));
        assert_eq!(nearest(0.0, 1.0, 1), Some((0, 9)));
        assert_eq!(nearest(5.0, 60.0, 1), Some((49, 99)));
        assert_eq!(nearest(20.0, 30.0, 0), None);
        assert_eq!(nearest(0.0, 0.0, 1), None);
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
