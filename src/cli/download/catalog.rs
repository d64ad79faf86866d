//! What can be downloaded: from where, under which licence, into which layout.
//!
//! The layouts are those that `configs/eval/` and `configs/clevrer/` read.

use super::unpack::stays_inside;
use crate::model::hub::HubSettings;
use crate::model::hub::dataset;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use clap::ValueEnum;
use serde::Serialize;

/// A dataset that the program knows where to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(super) enum Name {
    Clevrer,
    Mmvu,
    #[value(alias = "video-holmes")]
    VideoHolmes,
    Mvbench,
    Tempcompass,
    #[value(alias = "video_mme", alias = "video-mme")]
    Videomme,
    Protocols,
}

/// What is to be known of a dataset before it is downloaded.
#[derive(Debug, Clone, Serialize)]
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// What the program uses it for.
    pub(super) used_for: &'static str,
    pub(super) licence: &'static str,
    /// About how many bytes all of it has.
    pub(super) bytes: u64,
    /// Where it is described, and where consent is given if its owners ask for it.
    pub(super) page: &'static str,
    /// Whether `--i-agree` has to be said.
    pub(super) needs_agreement: bool,
    /// What to do with it once it is there.
    pub(super) next: &'static str,
}

/// A file to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) url: String,
    /// Below the dataset's folder, with `/` between names.
    pub(super) path: String,
    /// Where it is known.
    pub(super) bytes: Option<u64>,
    /// Where it is published.
    pub(super) sha256: Option<String>,
    /// The folder, below the dataset's, into which this archive is unpacked.
    pub(super) unpack_into: Option<&'static str>,
}

/// A part of a dataset on the hub: paths that match a pattern.
struct Part {
    /// With at most one `*`, which stands for anything.
    pattern: &'static str,
    /// Questions and what belongs to them, as opposed to clips.
    is_annotation: bool,
    /// Where archives of the part are unpacked.
    unpack_into: Option<&'static str>,
}

const fn annotations(pattern: &'static str) -> Part {
    Part {
        pattern,
        is_annotation: true,
        unpack_into: None,
    }
}

const fn clips(pattern: &'static str, unpack_into: Option<&'static str>) -> Part {
    Part {
        pattern,
        is_annotation: false,
        unpack_into,
    }
}

impl Name {
    pub(super) const ALL: [Self; 7] = [
        Self::Clevrer,
        Self::Mmvu,
        Self::VideoHolmes,
        Self::Mvbench,
        Self::Tempcompass,
        Self::Videomme,
        Self::Protocols,
    ];

    pub(super) fn about(self) -> About {
        match self {
            Self::Clevrer => About {
                name: "clevrer",
                title: "CLEVRER",
                used_for: "training (both stages) and evaluation",
                licence: "CC0",
                bytes: 19_000_000_000,
                page: "http://clevrer.csail.mit.edu",
                needs_agreement: false,
                next: "videothinker data clevrer (data/README.md has its lines)",
            },
            Self::Mmvu => About {
                name: "mmvu",
                title: "MMVU",
                used_for: "evaluation: expert questions on 27 subjects",
                licence: "for research; the videos belong to their owners",
                bytes: 1_000_000_000,
                page: "https://huggingface.co/datasets/yale-nlp/MMVU",
                needs_agreement: false,
                next: "videothinker eval run --config configs/eval/mmvu.toml",
            },
            Self::VideoHolmes => About {
                name: "video_holmes",
                title: "Video-Holmes",
                used_for: "evaluation: reasoning about suspense films",
                licence: "Apache 2.0, academic purposes; the films belong to their owners",
                bytes: 5_000_000_000,
                page: "https://huggingface.co/datasets/TencentARC/Video-Holmes",
                needs_agreement: false,
                next: "videothinker eval run --config configs/eval/video_holmes.toml",
            },
            Self::Mvbench => About {
                name: "mvbench",
                title: "MVBench",
                used_for: "evaluation: 20 tasks about time",
                licence: "MIT, consent on its page and HF_TOKEN; the videos belong to their owners; the clips of \
                          NTU RGB+D have a licence of their own and are not in it",
                bytes: 16_000_000_000,
                page: "https://huggingface.co/datasets/OpenGVLab/MVBench",
                needs_agreement: false,
                next: "videothinker eval run --config configs/eval/mvbench.toml",
            },
            Self::Tempcompass => About {
                name: "tempcompass",
                title: "TempCompass",
                used_for: "evaluation: five aspects of time",
                licence: "the videos belong to their owners",
                bytes: 400_000_000,
                page: "https://huggingface.co/datasets/lmms-lab/TempCompass",
                needs_agreement: false,
                next: "videothinker eval run --config configs/eval/tempcompass.toml",
            },
            Self::Videomme => About {
                name: "videomme",
                title: "Video-MME",
                used_for: "evaluation: short, medium and long videos",
                licence: "academic research only, no commercial use, no distribution \
                          (https://github.com/BradyFU/Video-MME)",
                bytes: 101_000_000_000,
                page: "https://huggingface.co/datasets/lmms-lab/Video-MME",
                needs_agreement: true,
                next: "videothinker eval run --config configs/eval/videomme.toml",
            },
            Self::Protocols => About {
                name: "protocols",
                title: "evaluation protocols",
                used_for: "the words in which evaluations ask (eval.protocol_from)",
                licence: "each file under its repository's own",
                bytes: 1_000_000,
                page: "https://github.com/falonss703/VideoThinker",
                needs_agreement: false,
                next: "videothinker eval run --set eval.protocol_from=data/protocols/NAME …",
            },
        }
    }

    /// The files of the dataset; with `annotations_only` those without clips.
    pub(super) fn items(self, web: &Web, annotations_only: bool) -> Result<Vec<Item>, ListError> {
        let mut items = match self {
            Self::Clevrer => clevrer(annotations_only),
            Self::Protocols => protocols(),
            Self::Tempcompass => tempcompass_questions(),
            Self::Mmvu | Self::VideoHolmes | Self::Mvbench | Self::Videomme => Vec::new(),
        };
        if let Some((dataset, parts)) = self.parts() {
            let wanted: Vec<&Part> = parts
                .iter()
                .filter(|part| part.is_annotation || !annotations_only)
                .collect();
            if !wanted.is_empty() {
                items.extend(of_hub(web, dataset, &wanted)?);
            }
        }
        Ok(items)
    }

    /// The dataset on the hub that it is in, and what is wanted of that.
    fn parts(self) -> Option<(&'static str, &'static [Part])> {
        match self {
            Self::Clevrer | Self::Protocols => None,
            Self::Mmvu => Some((
                "yale-nlp/MMVU",
                &const { [annotations("validation.json"), clips("videos/*", None)] },
            )),
            // The archive holds videos/ (its README.md and evaluate.py), or videos_cropped/ (lmms-eval:
            // tasks/video_holmes/utils.py): both are read.
            Self::VideoHolmes => Some((
                "TencentARC/Video-Holmes",
                &const {
                    [
                        annotations("test_Video-Holmes.json"),
                        annotations("train_Video-Holmes.json"),
                        clips("videos.zip", Some("")),
                    ]
                },
            )),
            // Each archive holds the folder it is named after (star/, clevrer/, …), as mvbench.ipynb reads them;
            // data0613.zip holds mended clips in data0613/ (lmms-eval: tasks/mvbench/utils.py).
            Self::Mvbench => Some((
                "OpenGVLab/MVBench",
                &const { [annotations("json/*"), clips("video/*", Some("video"))] },
            )),
            // The archive holds videos/<id>.mp4 (lmms-eval: tasks/tempcompass/utils.py).
            Self::Tempcompass => Some((
                "lmms-lab/TempCompass",
                &const { [clips("*.zip", Some(""))] },
            )),
            // The archives hold subtitle/<videoID>.srt and data/<videoID>.mp4 (lmms-eval: tasks/videomme/utils.py).
            Self::Videomme => Some((
                "lmms-lab/Video-MME",
                &const {
                    [
                        annotations("videomme/*.parquet"),
                        Part {
                            unpack_into: Some(""),
                            ..annotations("subtitle.zip")
                        },
                        clips("videos_chunked_*.zip", Some("")),
                    ]
                },
            )),
        }
    }
}

/// Why the files of a dataset cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error(
        "{dataset} holds no file named {pattern}: its layout has changed; data/README.md says what is needed"
    )]
    Layout {
        dataset: &'static str,
        pattern: &'static str,
    },
    #[error("{dataset} lists {path:?}, which is no path below its folder: nothing is downloaded")]
    Outside { dataset: &'static str, path: String },
    #[error(transparent)]
    Web(#[from] WebError),
}

fn of_hub(web: &Web, dataset: &'static str, parts: &[&Part]) -> Result<Vec<Item>, ListError> {
    let files = dataset::files(web, dataset)?;
    let mut items = Vec::new();
    for part in parts {
        let before = items.len();
        let matching = files
            .iter()
            .filter(|file| matches(part.pattern, &file.path));
        if let Some(file) = matching.clone().find(|file| !stays_inside(&file.path)) {
            return Err(ListError::Outside {
                dataset,
                path: file.path.clone(),
            });
        }
        items.extend(matching.map(|file| Item {
            url: dataset::address(web, dataset, &file.path),
            path: file.path.clone(),
            bytes: Some(file.bytes),
            sha256: file.sha256.clone(),
            unpack_into: part.unpack_into.filter(|_| is_zip(&file.path)),
        }));
        if items.len() == before {
            return Err(ListError::Layout {
                dataset,
                pattern: part.pattern,
            });
        }
    }
    Ok(items)
}

fn is_zip(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".zip")
}

/// Whether a path is as a pattern, in which one `*` stands for anything.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => {
            path.len() >= start.len() + end.len() && path.starts_with(start) && path.ends_with(end)
        }
        None => pattern == path,
    }
}

/// A file whose size and hash nobody publishes.
fn plain(url: String, path: impl Into<String>) -> Item {
    Item {
        url,
        path: path.into(),
        bytes: None,
        sha256: None,
        unpack_into: None,
    }
}

/// The address in the environment variable `name`, for mirrors, or the official one.
fn source(name: &str, official: &str) -> String {
    let chosen = HubSettings::variable(name);
    let source = chosen.unwrap_or_else(|| official.to_owned());
    source.trim_end_matches('/').to_owned()
}

/// The archives hold folders of a thousand: annotation_00000-01000/annotation_00000.json, video_00000-01000/video_00000.mp4.
fn clevrer(annotations_only: bool) -> Vec<Item> {
    let source = source("CLEVRER_URL", "http://data.csail.mit.edu/clevrer");
    let mut items = Vec::new();
    for (split, folder) in [
        ("train", "annotations/train"),
        ("validation", "annotations/validation"),
    ] {
        items.push(plain(
            format!("{source}/questions/{split}.json"),
            format!("questions_{split}.json"),
        ));
        let archive = format!("annotation_{split}.zip");
        items.push(Item {
            unpack_into: Some(folder),
            ..plain(format!("{source}/annotations/{split}/{archive}"), archive)
        });
        if !annotations_only {
            let archive = format!("video_{split}.zip");
            items.push(Item {
                unpack_into: Some("videos"),
                ..plain(format!("{source}/videos/{split}/{archive}"), archive)
            });
        }
    }
    items
}

fn tempcompass_questions() -> Vec<Item> {
    let source = source(
        "TEMPCOMPASS_URL",
        "https://raw.githubusercontent.com/llyx97/TempCompass/main",
    );
    let files = [
        "questions/multi-choice.json",
        "questions/yes_no.json",
        "questions/caption_matching.json",
        "questions/captioning.json",
        "meta_info.json",
    ];
    files
        .map(|file| plain(format!("{source}/{file}"), file))
        .into()
}

/// Files that hold the words of the evaluation protocols: below which name, from which repository and branch.
const PROTOCOLS: [(&str, &str, &str); 6] = [
    (
        "authors",
        "falonss703/VideoThinker/main",
        "src/eval/eval_bench.py",
    ),
    (
        "mvbench",
        "OpenGVLab/Ask-Anything/main",
        "video_chat2/mvbench.ipynb",
    ),
    ("tempcompass", "llyx97/TempCompass/main", "run_qwen2_vl.py"),
    (
        "video_holmes",
        "TencentARC/Video-Holmes/main",
        "evaluate.py",
    ),
    ("mmvu", "yale-nlp/MMVU/main", "utils/constant.py"),
    ("videomme", "MME-Benchmarks/Video-MME/main", "README.md"),
];

fn protocols() -> Vec<Item> {
    let source = source("PROTOCOLS_URL", "https://raw.githubusercontent.com");
    PROTOCOLS
        .map(|(name, repository, file)| {
            plain(
                format!("{source}/{repository}/{file}"),
                format!("{name}/{file}"),
            )
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stands_for_anything() {
        assert!(matches("videos/*", "videos/Art/0.mp4"));
        assert!(matches("videos_chunked_*.zip", "videos_chunked_01.zip"));
        assert!(!matches("videos_chunked_*.zip", "videos_chunked_01.tar"));
        assert!(!matches("a*a", "a"));
        assert!(matches("validation.json", "validation.json"));
        assert!(!matches("validation.json", "old/validation.json"));
    }

    #[test]
    fn names_are_the_words_of_the_command_line() {
        for name in Name::ALL {
            let word = name.to_possible_value().unwrap();
            assert_eq!(word.get_name(), name.about().name);
        }
    }
}
