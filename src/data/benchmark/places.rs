//! Where a benchmark's clips lie below `data.video_root`: the archives unpack into folders of their own, and some are kept
//! in several layouts.
//!
//! Sources: the readers of lmms-eval (`lmms_eval/tasks/{videomme,mvbench,tempcompass,mmvu,video_holmes}/utils.py`) and
//! VLMEvalKit (`vlmeval/dataset/mvbench.py`), MVBench's `mvbench.ipynb`, Video-Holmes' `README.md` and `evaluate.py`, and the
//! authors' `README.md` for CLEVRER.

use crate::config::Benchmark;
use crate::data::Fragment;
use crate::data::Question;
use crate::data::clip_file::exists;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// A message names as many places as this.
const SHOWN_PLACES: usize = 4;

/// Points every question at the clip that is there. A clip that is nowhere keeps its official place, and a warning names
/// places where the first of them was looked for.
pub(crate) fn find_clips(benchmark: Benchmark, questions: &mut [Question], root: &Path) {
    let mut known: BTreeMap<PathBuf, Option<PathBuf>> = BTreeMap::new();
    let mut missing = None;
    for question in questions {
        if question.video.is_absolute() {
            continue;
        }
        let found = known
            .entry(question.video.clone())
            .or_insert_with_key(|clip| {
                let mut places = places(benchmark, clip).into_iter();
                places.find(|place| exists(&root.join(place)))
            });
        match found {
            Some(place) => question.video.clone_from(place),
            None => missing = missing.or_else(|| Some(question.video.clone())),
        }
    }
    let Some(first) = missing else { return };
    let all = places(benchmark, &first);
    let looked: Vec<String> = all
        .iter()
        .take(SHOWN_PLACES)
        .map(|place| place.display().to_string())
        .collect();
    let more = match all.len().saturating_sub(SHOWN_PLACES) {
        0 => String::new(),
        count => format!(" and {count} more places"),
    };
    tracing::warn!(
        "{}: {} of {} clips are not below {} (data.video_root); looked for the first at {}{more}",
        benchmark.as_str(),
        known.values().filter(|found| found.is_none()).count(),
        known.len(),
        root.display(),
        looked.join(", ")
    );
}

/// Where `clip` may lie below the root, its official place first.
fn places(benchmark: Benchmark, clip: &Path) -> Vec<PathBuf> {
    let (file, fragment) = Fragment::split(clip);
    let file = file.to_string_lossy();
    let folders: &[&str] = match benchmark {
        // Clips that were mended in June 2024 come in an archive that holds the folder `data0613`.
        Benchmark::Mvbench => &["", "data0613/", "video/"],
        Benchmark::VideoHolmes => &["videos/", "videos_cropped/", "", "video/"],
        Benchmark::Videomme => &["", "data/", "videos/", "video/"],
        Benchmark::Clevrer => &[
            "",
            "videos/",
            "video_validation/",
            "validation_video/",
            "video_train/",
            "train_video/",
        ],
        Benchmark::Mmvu
        | Benchmark::MmvuOpen
        | Benchmark::Tempcompass
        | Benchmark::TempcompassFlat
        | Benchmark::TempcompassCaptioning => &["", "videos/", "data/", "video/"],
    };
    let mut places = Vec::new();
    for (index, name) in names(benchmark, &file).into_iter().enumerate() {
        // A video made of a folder's images says itself how fast it is shown.
        let fps = fragment.fps.filter(|_| index == 0);
        let fragment = Fragment { fps, ..fragment };
        for folder in folders {
            places.push(fragment.of(&format!("{folder}{name}")));
        }
    }
    places
}

/// What `clip` may be called, its official name first.
fn names(benchmark: Benchmark, clip: &str) -> Vec<String> {
    let with = |extension: &str| {
        let path = Path::new(clip).with_extension(extension);
        path.to_string_lossy().into_owned()
    };
    let mut names = vec![clip.to_owned()];
    match benchmark {
        Benchmark::Mvbench => {
            let (folder, name) = clip.rsplit_once('/').unwrap_or(("", clip));
            // A name without extension is that of a folder of images, and may have dots.
            let converted = match Path::new(clip).extension() {
                Some(extension)
                    if ["webm", "avi", "gif", "mp4"]
                        .iter()
                        .any(|e| extension == *e) =>
                {
                    with("mp4")
                }
                _ => format!("{clip}.mp4"),
            };
            let file = converted.rsplit('/').next().unwrap_or(name).to_owned();
            names.push(converted);
            // The authors', and the hub's branch `video`. That branch has episodes, Charades and its localization cut
            // to the parts that questions name: these are other clips.
            let elsewhere = match folder {
                "tvqa/frames_fps3_hq" => Some("tvqa/frames_fps3"),
                "ssv2_video" => Some("ssv2_video_mp4"),
                "nturgbd" => Some("nturgbd_convert"),
                _ => None,
            };
            names.extend(elsewhere.map(|folder| format!("{folder}/{file}")));
        }
        Benchmark::Clevrer => {
            let file = Path::new(clip).file_name().unwrap_or_default();
            names.push(file.to_string_lossy().into_owned());
        }
        _ => names.extend(["MP4", "mkv", "webm"].map(with)),
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::benchmark::record::question;

    /// What a question about `clip` is pointed at when these files are there.
    fn found(benchmark: Benchmark, clip: &str, files: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let mut asked = [question("?".into(), Vec::new(), "A", PathBuf::from(clip))];
        find_clips(benchmark, &mut asked, folder.path());
        asked[0].video.display().to_string()
    }

    #[test]
    fn every_layout_of_a_benchmark_is_known() {
        use Benchmark::{Clevrer, Mmvu, Mvbench, Tempcompass, VideoHolmes, Videomme};
        let clevrer = "video_10000-11000/video_10009.mp4";
        for (benchmark, clip, file) in [
            (Videomme, "x_1.mp4", "x_1.mp4"),
            (Videomme, "x_1.mp4", "data/x_1.mkv"),
            (VideoHolmes, "f.mp4", "videos/f.mp4"),
            (VideoHolmes, "f.mp4", "videos_cropped/f.mp4"),
            (VideoHolmes, "f.mp4", "f.mp4"),
            (Tempcompass, "12.mp4", "videos/12.mp4"),
            (Mmvu, "Art/0.mp4", "videos/Art/0.mp4"),
            (Clevrer, clevrer, "videos/video_10000-11000/video_10009.mp4"),
            (Clevrer, clevrer, "video_validation/video_10009.mp4"),
            (
                Mvbench,
                "star/Charades_v1_480/A.mp4",
                "data0613/star/Charades_v1_480/A.mp4",
            ),
            (Mvbench, "ssv2_video/1.webm", "ssv2_video/1.mp4"),
            (Mvbench, "ssv2_video/1.webm", "ssv2_video_mp4/1.mp4"),
            (Mvbench, "nturgbd/S1_rgb.avi", "nturgbd_convert/S1_rgb.mp4"),
        ] {
            assert_eq!(found(benchmark, clip, &[file]), file);
        }
        assert_eq!(found(Videomme, "x.mp4", &[]), "x.mp4", "official place");
    }

    #[test]
    fn what_is_official_goes_first_and_what_is_converted_has_its_own_rate() {
        let episode = "tvqa/frames_fps3_hq/show_1.5#t=1,2&fps=3";
        let images = "tvqa/frames_fps3_hq/show_1.5/00001.jpg";
        let converted = "tvqa/frames_fps3/show_1.5.mp4";
        let found = |files: &[&str]| found(Benchmark::Mvbench, episode, files);
        assert_eq!(found(&[images, converted]), episode);
        assert_eq!(found(&[converted]), format!("{converted}#t=1,2"));
    }
}
