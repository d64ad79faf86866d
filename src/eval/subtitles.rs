//! What is said in a clip while its sampled frames are seen, from SubRip files (`.srt`).

use super::error::EvalError;
use crate::util::file::FileError;
use crate::video::Clip;
use std::path::Path;
use std::path::PathBuf;

/// A folder of `.srt` files, named as their clips.
#[derive(Debug, Clone)]
pub(crate) struct Subtitles {
    folder: PathBuf,
}

/// A line of speech with its time in seconds.
#[derive(Debug, Clone, PartialEq)]
struct Cue {
    start: f64,
    end: f64,
    text: String,
}

impl Subtitles {
    /// The subtitles in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// What is said at the moments of the frames taken from a clip, one cue a line, each once. Nothing where the folder
    /// has no file for the clip: some clips are silent.
    pub(crate) fn at(&self, video: &Path, clip: &Clip) -> Result<String, EvalError> {
        let Some(name) = video.file_stem() else {
            return Ok(String::new());
        };
        let path = self.folder.join(name).with_extension("srt");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            read => read.map_err(|error| FileError::reading(&path, error))?,
        };
        let cues = parse(&text).map_err(|line| EvalError::Subtitles { path, line })?;
        let times: Vec<f64> = clip
            .indices
            .iter()
            .map(|&index| index as f64 / clip.fps)
            .collect();
        let is_seen = |cue: &&Cue| times.iter().any(|time| (cue.start..cue.end).contains(time));
        let said: Vec<&str> = cues
            .iter()
            .filter(is_seen)
            .map(|cue| cue.text.as_str())
            .collect();
        Ok(said.join("\n"))
    }
}

/// The cues of a file; the number of the first line that should be a time and is none, otherwise.
fn parse(text: &str) -> Result<Vec<Cue>, usize> {
    let mut cues: Vec<Cue> = Vec::new();
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        // A cue is its number, its time, its text, and an empty line.
        let (number, times) = lines.next().unwrap_or((number + 1, ""));
        let (start, end) = times
            .split_once("-->")
            .and_then(|(start, end)| Some((seconds(start)?, seconds(end)?)))
            .ok_or(number + 1)?;
        let words: Vec<String> = lines
            .by_ref()
            .map(|(_, line)| line.trim())
            .take_while(|line| !line.is_empty())
            .map(without_tags)
            .collect();
        cues.push(Cue {
            start,
            end,
            text: words.join(" "),
        });
    }
    Ok(cues)
}

/// `01:02:03,456` in seconds.
fn seconds(text: &str) -> Option<f64> {
    let time = text.split_whitespace().next()?.replace(',', ".");
    let mut parts = time.split(':');
    let mut number = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (number()?, number()?, number()?);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}

/// Without markup such as `<font color=…>`.
fn without_tags(line: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for c in line.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if !in_tag => text.push(c),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\n<font color=\"white\">Hello\r\nthere</font>\r\n\r\n\
        2\n00:00:05,000 --> 00:00:06,000\nlater\n\n3\n01:00:00,000 --> 01:00:01,000\nmuch later\n";

    fn clip(indices: &[usize]) -> Clip {
        Clip {
            total_frames: 100_000,
            fps: 10.0,
            indices: indices.to_vec(),
            sample_fps: 1.0,
            source_size: [28, 28],
            resized: [28, 28],
            grid_thw: [1, 2, 2],
            video_tokens: 1,
            second_per_grid: 2.0,
        }
    }

    #[test]
    fn what_is_said_at_the_frames_is_shown_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("v.srt"), FILE).unwrap();
        let subtitles = Subtitles::new(folder.path());
        let at =
            |name: &str, indices: &[usize]| subtitles.at(Path::new(name), &clip(indices)).unwrap();
        assert_eq!(
            at("clips/v.mp4", &[11, 20, 36_005]),
            "Hello there\nmuch later"
        );
        assert_eq!(at("clips/v.mp4", &[0, 25, 40]), "");
        assert_eq!(at("clips/silent.mp4", &[11]), "");
    }

    #[test]
    fn a_broken_time_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.srt");
        for (text, line) in [
            ("1\n00:00:01 -> 00:00:02\nx\n", ":2:"),
            ("1\n00:00:01,0 --> 00:00:02,0\nx\n\n2\nno time\n", ":6:"),
            ("1\n", ":2:"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Subtitles::new(folder.path())
                .at(Path::new("v.mp4"), &clip(&[1]))
                .unwrap_err()
                .to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
