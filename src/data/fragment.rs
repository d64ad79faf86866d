//! What a clip's path says besides its file, as a media fragment (W3C Media Fragments URI 1.0): `clip.mp4#t=3.5,9` is a
//! part of a clip (`#t=3.5` from there on), `frames#fps=3` a folder of images shown at 3 a second, `frames#t=3.5,9&fps=3` a part of that.

use std::fmt;
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
    /// Without a start from the beginning, without an end to the clip's.
    fn new(start: Option<f64>, end: Option<f64>) -> Result<Self, String> {
        let (start, end) = (start.unwrap_or(0.0), end.unwrap_or(f64::INFINITY));
        if !(start.is_finite() && start >= 0.0) || end.is_nan() {
            return Err("names no time: a time is a number of seconds from 0 on".into());
        }
        if end <= start {
            return Err(format!(
                "ends at {end} s and begins at {start} s: the end comes after the start"
            ));
        }
        Ok(Self { start, end })
    }

    /// `3.5,9`, `3.5` (to the clip's end), `,9` (from its beginning); also `1:00,1:10`.
    fn parse(times: &str) -> Result<Self, String> {
        let times = times.strip_prefix("npt:").unwrap_or(times);
        let (start, end) = times.split_once(',').unwrap_or((times, ""));
        if start.is_empty() && end.is_empty() {
            return Err("names no time: write `#t=FROM,TO` in seconds".into());
        }
        let time = |text: &str| {
            match text {
            "" => Ok(None),
            text => seconds(text).map(Some).ok_or_else(|| {
                format!("has `{text}` where a time belongs: write seconds, such as `#t=3.5,9`, or `#t=1:00,1:10`")
            }),
        }
        };
        Self::new(time(start)?, time(end)?)
    }

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

/// As it stands behind `t=`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.end.is_finite() {
            write!(f, "{},{}", self.start, self.end)
        } else {
            write!(f, "{}", self.start)
        }
    }
}

/// The seconds of `83.5` or `1:23.5`; none where it is no time.
pub(super) fn seconds(text: &str) -> Option<f64> {
    let plain = |text: &str| {
        let is_plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
        text.parse::<f64>().ok().filter(|_| is_plain)
    };
    let mut parts = text.split(':');
    let mut total = plain(parts.next()?)?;
    for part in parts {
        total = total * 60.0 + plain(part).filter(|part| *part < 60.0)?;
    }
    Some(total)
}

/// What media fragments begin with: ours, and those that would name an area, a track or a chapter.
const KNOWN: [&str; 5] = ["t=", "fps=", "xywh=", "track=", "id="];

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
        let span = self.span.map(|span| format!("t={span}"));
        let fps = self.fps.map(|fps| format!("fps={fps}"));
        let parts: Vec<String> = span.into_iter().chain(fps).collect();
        if parts.is_empty() {
            return PathBuf::from(clip);
        }
        PathBuf::from(format!("{clip}#{}", parts.join("&")))
    }

    /// The file (or folder) that a path names, and what stands behind it. A file whose own name ends like a fragment is
    /// taken whole, and so is a path with [`Fragment::problem`].
    pub(crate) fn split(path: &Path) -> (PathBuf, Self) {
        match Self::read(path) {
            Some((file, Ok(fragment))) if !path.exists() => (file, fragment),
            _ => (path.to_owned(), Self::default()),
        }
    }

    /// What is wrong with what stands behind a path's file, and what to do; `None` where nothing is wrong or nothing
    /// stands there.
    pub(crate) fn problem(path: &Path) -> Option<String> {
        let (_, read) = Self::read(path)?;
        read.err().filter(|_| !path.exists())
    }

    /// The file, and the fragment as it is written; `None` where what follows a `#` belongs to the file's name.
    fn read(path: &Path) -> Option<(PathBuf, Result<Self, String>)> {
        let (file, text) = path.to_str()?.rsplit_once('#')?;
        let is_known = |part: &str| KNOWN.iter().any(|name| part.starts_with(name));
        // `a#fps=2.mp4` is the name of a file.
        let ends_as_a_file = Path::new(text)
            .extension()
            .and_then(|end| end.to_str())
            .is_some_and(|end| end.starts_with(|c: char| c.is_ascii_alphabetic()));
        (text.split('&').any(is_known) && !ends_as_a_file)
            .then(|| (PathBuf::from(file), Self::parse(text)))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut fragment = Self::default();
        for part in text.split('&') {
            let name = part.split_once('=').map(|(name, _)| name);
            let is_there = match name {
                Some("t") => fragment.span.is_some(),
                _ => name == Some("fps") && fragment.fps.is_some(),
            };
            if is_there {
                return Err(format!(
                    "`#{text}` says `{part}` beside another: keep one of them"
                ));
            }
            match part.split_once('=') {
                Some(("t", times)) => {
                    let span = Span::parse(times).map_err(|why| format!("`#{part}` {why}"))?;
                    fragment.span = Some(span);
                }
                Some(("fps", rate)) => {
                    let rate = rate.parse().ok();
                    let rate = rate.filter(|fps: &f64| fps.is_finite() && *fps > 0.0);
                    let rate = rate.ok_or_else(|| {
                        format!("`#{part}` is no frame rate: write frames a second, `#fps=3`")
                    })?;
                    fragment.fps = Some(rate);
                }
                _ => {
                    return Err(format!(
                        "`{part}` behind # means nothing here: `#t=FROM,TO` is a part of a clip, `#fps=N` the rate of a folder's images"
                    ));
                }
            }
        }
        Ok(fragment)
    }
}

/// The part of the clip `path` from `start` to `end`, fields of a record that name it.
///
/// # Errors
/// They are no times, or the path names another part.
pub(super) fn part_of(path: &str, start: Option<f64>, end: Option<f64>) -> Result<String, String> {
    let span = Span::new(start, end)?;
    let named = match Fragment::read(Path::new(path)) {
        Some((_, Ok(named))) if named.span == Some(span) => return Ok(path.to_owned()),
        Some((file, Ok(named))) => {
            if let Some(other) = named.span {
                return Err(format!(
                    "names the part {span} beside the path {path}, which names {other}: keep one of them"
                ));
            }
            let fragment = Fragment {
                span: Some(span),
                ..named
            };
            fragment.of(&file.to_string_lossy())
        }
        _ => Fragment {
            span: Some(span),
            fps: None,
        }
        .of(path),
    };
    Ok(named.to_string_lossy().into_owned())
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
            "a#fps=2.mp4",
            "a#take=2",
            "a#fps=0",
            "a#fps=inf",
            "a.mp4#t=0,1&t=1,2",
            "a#fps=3&x=1",
        ] {
            let expected = (PathBuf::from(whole), Fragment::default());
            assert_eq!(Fragment::split(Path::new(whole)), expected);
        }
    }

    #[test]
    fn times_may_be_open_and_clocks() {
        for (text, start, end) in [
            ("a.mp4#t=1", 1.0, f64::INFINITY),
            ("a.mp4#t=1,", 1.0, f64::INFINITY),
            ("a.mp4#t=,2.5", 0.0, 2.5),
            ("a.mp4#t=npt:1,2", 1.0, 2.0),
            ("a.mp4#t=1:00,1:10.5", 60.0, 70.5),
            ("a.mp4#t=1:00:00", 3600.0, f64::INFINITY),
        ] {
            let span = Some(Span { start, end });
            let (file, fragment) = Fragment::split(Path::new(text));
            assert_eq!((file, fragment.span), ("a.mp4".into(), span), "{text}");
        }
        let open = Span {
            start: 1.0,
            end: f64::INFINITY,
        };
        assert_eq!(open.frames(100, 10.0), Some((10, 99)));
        assert_eq!(open.nearest_frames(100, 10.0, 1), Some((9, 99)));
    }

    #[test]
    fn what_is_no_part_is_said_and_names_are_names() {
        for (text, said) in [
            ("a.mp4#t=5,2", "ends at 2 s and begins at 5 s"),
            ("a.mp4#t=2,2", "the end comes after the start"),
            ("a.mp4#t=nan", "`nan` where a time belongs"),
            ("a.mp4#t=1,inf", "`inf` where a time belongs"),
            ("a.mp4#t=-1,2", "`-1` where a time belongs"),
            ("a.mp4#t=1:75", "`1:75` where a time belongs"),
            ("a.mp4#t=", "names no time"),
            ("a.mp4#t=,", "names no time"),
            ("a#fps=0", "is no frame rate"),
            ("a#fps=3&x=1", "`x=1` behind # means nothing"),
            (
                "a.mp4#xywh=0,0,9,9",
                "`xywh=0,0,9,9` behind # means nothing",
            ),
            (
                "a.mp4#t=1,2&track=video",
                "`track=video` behind # means nothing",
            ),
        ] {
            let problem = Fragment::problem(Path::new(text)).unwrap();
            assert!(problem.contains(said), "{text}: {problem}");
        }
        for name in [
            "a.mp4",
            "a#fps=2.mp4",
            "a#1.mp4",
            "a.mp4#t=1,2",
            "a#take=1,2",
        ] {
            assert_eq!(Fragment::problem(Path::new(name)), None, "{name}");
        }
    }

    #[test]
    fn fields_name_parts_as_paths_do() {
        for (path, start, end, expected) in [
            ("a.mp4", Some(1.5), Some(3.0), "a.mp4#t=1.5,3"),
            ("a.mp4", Some(1.5), None, "a.mp4#t=1.5"),
            ("a.mp4", None, Some(3.0), "a.mp4#t=0,3"),
            ("a.mp4#t=1,3", Some(1.0), Some(3.0), "a.mp4#t=1,3"),
            ("frames#fps=3", Some(1.0), Some(3.0), "frames#t=1,3&fps=3"),
            ("a#1.mp4", Some(1.0), Some(3.0), "a#1.mp4#t=1,3"),
        ] {
            assert_eq!(part_of(path, start, end).as_deref(), Ok(expected));
        }
        for (path, start, end, said) in [
            (
                "a.mp4",
                Some(5.0),
                Some(2.0),
                "the end comes after the start",
            ),
            ("a.mp4", Some(-5.0), None, "names no time"),
            ("a.mp4#t=1,3", Some(1.0), Some(4.0), "keep one of them"),
        ] {
            let error = part_of(path, start, end).unwrap_err();
            assert!(error.contains(said), "{error}");
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
