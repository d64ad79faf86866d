//! Where the clips of questions lie that name them by paths of another machine.
//!
//! The authors' files say `/CLEVRER/train_video/…/video_00042.mp4`, which exists nowhere else. `data.video_strip` names
//! what to cut; without it, the longest end of such a path that exists below `data.video_root` is taken. Only folders
//! are tried end by end, once each: 20,000 questions about 10,000 clips ask the disk about as often as there are clips.

use super::DataError;
use super::Fragment;
use super::Question;
use super::clevrer;
use super::clip_file::exists;
use crate::config::DataConfig;
use crate::util::words::counted;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

/// Makes paths of other machines relative to `data.video_root`, and says so. A path under which nothing is found stays as
/// it is.
///
/// # Errors
/// [`DataError::Content`] when two clips of different paths would be the same file below the root.
pub(crate) fn locate(questions: &mut [Question], config: &DataConfig) -> Result<(), DataError> {
    let mut search = Search {
        root: &config.video_root,
        folders: BTreeMap::new(),
    };
    // As plain bytes: comparing paths part by part shows in profiles.
    let mut known: BTreeMap<OsString, Option<PathBuf>> = BTreeMap::new();
    let (mut cut, mut found, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for question in questions {
        let named = question.video.as_os_str().to_owned();
        if !known.contains_key(&named) {
            let path = named.to_string_lossy();
            let strip = config.video_strip.as_deref();
            let stripped = strip.and_then(|text| after(&path, text));
            let place = if let Some(rest) = stripped {
                cut.push((path.into_owned(), rest.clone()));
                Some(rest)
            } else {
                let place = search.below_root(&path);
                if let Some(place) = &place {
                    found.push((path.clone().into_owned(), place.clone()));
                }
                place.or_else(|| search.with_slashes(&path)).or_else(|| {
                    let place = with_ending(search.root, Path::new(&named))?;
                    ended.push((path.into_owned(), place.clone()));
                    Some(place)
                })
            };
            known.insert(named.clone(), place);
        }
        if let Some(Some(place)) = known.get(&named) {
            question.video.clone_from(place);
        }
    }
    refuse_two_in_one(cut.iter().chain(&found), config)?;
    let root = &config.video_root;
    if let Some((path, place)) = cut.first() {
        tracing::info!(
            "taken from below video_root, their paths cut by data.video_strip: {}: {path} → {}",
            counted(cut.len(), "clip"),
            root.join(place).display()
        );
    }
    if let Some(text) = config.video_strip.as_deref().filter(|_| cut.is_empty()) {
        tracing::warn!("data.video_strip = {text:?} stands in no clip's path: nothing is cut");
    }
    if let Some((path, place)) = found.first() {
        tracing::info!(
            "named by absolute paths and taken from below video_root: {}: {path} → {}",
            counted(found.len(), "clip"),
            root.join(place).display()
        );
    }
    if let Some((name, place)) = ended.first() {
        tracing::info!(
            "named without the ending of their file: {}: {name} → {}",
            counted(ended.len(), "clip"),
            root.join(place).display()
        );
    }
    Ok(())
}

/// The part of a path behind `text`, which must end where a name ends.
fn after(path: &str, text: &str) -> Option<PathBuf> {
    let path = path.replace('\\', "/");
    let text = text.replace('\\', "/");
    let text = text.trim_end_matches('/');
    let starts = |start: usize| start == 0 || text.starts_with('/') || path[..start].ends_with('/');
    let rest = path
        .match_indices(text)
        .filter(|(start, _)| starts(*start))
        .find_map(|(start, _)| path[start + text.len()..].strip_prefix('/'))?;
    let rest = rest.trim_start_matches('/');
    (!rest.is_empty()).then(|| PathBuf::from(rest))
}

/// Different clips must not come to one file because their folders are not here.
fn refuse_two_in_one<'a>(
    found: impl Iterator<Item = &'a (String, PathBuf)>,
    config: &DataConfig,
) -> Result<(), DataError> {
    let file = |path: &Path| Fragment::split(path).0;
    let mut taken: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (path, place) in found {
        let named = file(Path::new(path));
        let place = file(place);
        match taken.get(&place) {
            Some(other) if *other != named => {
                return Err(DataError::Content {
                    path: config.questions.clone(),
                    place: format!("clip {path}"),
                    problem: format!(
                        "is not here, and below data.video_root both it and {} come to {}: set data.video_strip to what is to be \
                         cut from the paths, and keep the folders below it",
                        other.display(),
                        place.display()
                    ),
                });
            }
            Some(_) => {}
            None => {
                taken.insert(place, named);
            }
        }
    }
    Ok(())
}

/// Looks below a root for the ends of paths.
struct Search<'a> {
    root: &'a Path,
    /// For each folder of another machine: whether it exists here, and its ends that exist below the root, the longest
    /// first, the root itself last.
    folders: BTreeMap<String, (bool, Vec<PathBuf>)>,
}

impl Search<'_> {
    /// The place below the root of a clip named by an absolute path that does not exist; none for any other path, and
    /// where nothing is found.
    fn below_root(&mut self, path: &str) -> Option<PathBuf> {
        // Elsewhere a backslash may be part of a name.
        let path = if is_windows(path) {
            path.replace('\\', "/")
        } else if path.starts_with('/') {
            path.to_owned()
        } else {
            return None;
        };
        let (folder, name) = path.rsplit_once('/')?;
        let root = self.root;
        let (is_here, ends) = self
            .folders
            .entry(folder.to_owned())
            .or_insert_with(|| (Path::new(folder).is_dir(), ends_below(root, folder)));
        if *is_here && exists(Path::new(&path)) {
            return None;
        }
        let by_end = ends.iter().map(|end| end.join(name));
        // CLEVRER's clips are named by their numbers, the official folders follow from these.
        let by_number = clevrer::scene_of_clip(Path::new(name)).map(clevrer::video_path);
        by_end
            .chain(by_number)
            .find(|place| exists(&root.join(place)))
            .or_else(|| {
                let mut by_end = ends.iter().map(|end| end.join(name));
                by_end.find_map(|place| with_ending(root, &place))
            })
    }

    /// A relative path with slashes where it was written with backslashes and so exists only with slashes.
    fn with_slashes(&self, path: &str) -> Option<PathBuf> {
        if !path.contains('\\') || path.contains('/') || exists(&self.root.join(path)) {
            return None;
        }
        let place = PathBuf::from(path.replace('\\', "/"));
        exists(&self.root.join(&place)).then_some(place)
    }
}

/// Endings of clips that are tried where a name has none: in many data sets a clip's id stands for its file.
const ENDINGS: [&str; 11] = [
    "mp4", "webm", "mkv", "avi", "mov", "gif", "m4v", "mpg", "mpeg", "flv", "wmv",
];

/// A clip's path without such an ending.
pub(super) fn without_ending(clip: &Path) -> PathBuf {
    if has_ending(clip) {
        clip.with_extension("")
    } else {
        clip.to_owned()
    }
}

fn has_ending(clip: &Path) -> bool {
    let ending = clip.extension().unwrap_or_default().to_ascii_lowercase();
    ENDINGS.iter().any(|known| ending == *known)
}

/// The one file below `root` that has this name and an ending of clips behind it.
fn with_ending(root: &Path, path: &Path) -> Option<PathBuf> {
    let (clip, part) = Fragment::split(path);
    if has_ending(&clip) || exists(&root.join(&clip)) {
        return None;
    }
    let clip = clip.to_str().filter(|clip| !clip.ends_with(['/', '\\']))?;
    let endings = ENDINGS
        .iter()
        .flat_map(|ending| [(*ending).to_owned(), ending.to_ascii_uppercase()]);
    let named = endings.map(|ending| format!("{clip}.{ending}"));
    let mut files = named.filter(|clip| root.join(clip).is_file());
    let file = files.next()?;
    files.next().is_none().then(|| part.of(&file))
}

/// `C:\…`, `C:/…` and `\\server\…`.
fn is_windows(path: &str) -> bool {
    let bytes = path.as_bytes();
    let drive = bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
    path.starts_with("\\\\") || (drive && matches!(bytes[2], b'\\' | b'/'))
}

/// The ends of a folder's path that are folders below `root`, the longest first, and `root` itself, as an empty path.
fn ends_below(root: &Path, folder: &str) -> Vec<PathBuf> {
    let names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    // What goes up again is no place below the root.
    let first = names
        .iter()
        .rposition(|name| matches!(*name, "." | ".."))
        .map_or(0, |last| last + 1);
    let ends = (first..names.len()).map(|start| names[start..].iter().collect::<PathBuf>());
    let mut ends: Vec<PathBuf> = ends.filter(|end| root.join(end).is_dir()).collect();
    ends.push(PathBuf::new());
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these clips, and where the paths come to.
    fn located(clips: &[&str], strip: Option<&str>, paths: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        for clip in clips {
            let path = folder.path().join(clip);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let config = DataConfig {
            questions: "q.json".into(),
            video_root: folder.path().to_owned(),
            video_strip: strip.map(str::to_owned),
            ..DataConfig::default()
        };
        let mut questions: Vec<Question> = paths
            .iter()
            .map(|path| {
                let path = path.replace("ROOT", folder.path().to_str().unwrap());
                let question = serde_json::json!({"problem": "Q?", "solution": "A", "video": path});
                serde_json::from_value(question).unwrap()
            })
            .collect();
        locate(&mut questions, &config).map_err(|error| error.to_string())?;
        let root = folder.path().to_str().unwrap();
        let places = questions.iter();
        Ok(places
            .map(|question| question.video.to_str().unwrap().replace(root, "ROOT"))
            .collect())
    }

    #[test]
    fn the_longest_end_below_the_root_is_taken() {
        let clips = ["a/b/1.mp4", "b/1.mp4", "1.mp4", "b/2.mp4", "3.mp4"];
        let paths = [
            "/x/a/b/1.mp4",
            "/x/c/b/2.mp4#t=1,2",
            "/x/a/b/3.mp4",
            "/x/absent.mp4",
            "a/b/1.mp4",
            "C:\\x\\b\\1.mp4",
            "\\\\server\\x\\1.mp4",
            "a\\b\\1.mp4",
        ];
        assert_eq!(
            located(&clips, None, &paths).unwrap(),
            [
                "a/b/1.mp4",
                "b/2.mp4#t=1,2",
                "3.mp4",
                "/x/absent.mp4",
                "a/b/1.mp4",
                "b/1.mp4",
                "1.mp4",
                "a/b/1.mp4",
            ]
        );
    }

    #[test]
    fn a_path_that_exists_stays() {
        let clips = ["a/1.mp4", "1.mp4", "back\\slash.mp4"];
        let paths = ["ROOT/a/1.mp4", "ROOT/a/../1.mp4", "back\\slash.mp4"];
        assert_eq!(located(&clips, None, &paths).unwrap(), paths);
        // What goes up is not followed below the root.
        let up = ["/x/a/../1.mp4"];
        assert_eq!(located(&clips, None, &up).unwrap(), ["1.mp4"]);
    }

    #[test]
    fn a_clip_of_clevrer_is_found_by_its_number() {
        let clips = ["video_00000-01000/video_00042.mp4"];
        let paths = ["/CLEVRER/train_video/video_00042.mp4"];
        assert_eq!(located(&clips, None, &paths).unwrap(), clips);
    }

    #[test]
    fn a_clip_named_by_its_id_is_found_with_its_ending() {
        let clips = [
            "v/7010.mp4",
            "video.12.webm",
            "two.mp4",
            "two.avi",
            "folder/1.jpg",
            "UP.MP4",
        ];
        let paths = [
            "v/7010",
            "v/7010#t=1,2",
            "video.12",
            "two",
            "folder",
            "absent",
            "7010",
            "ROOT/v/7010",
            "UP",
        ];
        let places = [
            "v/7010.mp4",
            "v/7010.mp4#t=1,2",
            "video.12.webm",
            "two",
            "folder",
            "absent",
            "7010",
            "v/7010.mp4",
            "UP.MP4",
        ];
        assert_eq!(located(&clips, None, &paths).unwrap(), places);
        for path in ["/data/v/7010#t=1,2", "C:\\data\\v\\7010#t=1,2"] {
            assert_eq!(
                located(&clips, None, &[path]).unwrap(),
                ["v/7010.mp4#t=1,2"]
            );
        }
    }

    #[test]
    fn different_clips_never_come_to_one_file() {
        let error = located(&["1.mp4"], None, &["/x/a/1.mp4", "/x/b/1.mp4"]).unwrap_err();
        for part in ["q.json", "/x/a/1.mp4", "/x/b/1.mp4", "data.video_strip"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let parts = ["/x/a/1.mp4#t=0,1", "/x/a/1.mp4#t=1,2", "/x/a/1.mp4"];
        let places = located(&["1.mp4"], None, &parts).unwrap();
        assert_eq!(places, ["1.mp4#t=0,1", "1.mp4#t=1,2", "1.mp4"]);
    }

    #[test]
    fn what_is_to_be_stripped_is_cut_as_whole_names() {
        let strip = |text, path| located(&[], Some(text), &[path]).unwrap().remove(0);
        for (text, path, place) in [
            (
                "/CLEVRER",
                "/CLEVRER/train_video/1.mp4",
                "train_video/1.mp4",
            ),
            ("/CLEVRER/", "/data/CLEVRER/1.mp4#t=1,2", "1.mp4#t=1,2"),
            ("CLEVRER", "/data/CLEVRER/1.mp4", "1.mp4"),
            ("/CLEVRER", "/CLEVRER2/CLEVRER/1.mp4", "1.mp4"),
            ("/CLEVRER", "/data/CLEVRER2/1.mp4", "/data/CLEVRER2/1.mp4"),
            ("VRER", "/data/CLEVRER/1.mp4", "/data/CLEVRER/1.mp4"),
            ("/CLEVRER", "C:\\data\\CLEVRER\\a\\1.mp4", "a/1.mp4"),
            ("./LLaVA", "./LLaVA/a/1.mp4", "a/1.mp4"),
            ("/CLEVRER", "a/1.mp4", "a/1.mp4"),
        ] {
            assert_eq!(strip(text, path), place, "{text} {path}");
        }
    }
}
