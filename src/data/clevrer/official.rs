//! CLEVRER's official files: lists of scenes with their questions, and one annotation per clip.
//!
//! The question files are hundreds of megabytes long: they are read scene by scene.
//! Formats: <http://data.csail.mit.edu/clevrer/README.txt> and the readers of `chuangg/CLEVRER`.

use crate::data::DataError;
use crate::data::answer::option::letters;
use crate::util::file;
use crate::util::file::FileError;
use crate::util::json;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// An entry of a question file: everything asked about one clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfficialScene {
    /// Which clip: training from 0, validation from 10000, test from 15000.
    pub scene_index: usize,
    /// `video_00000.mp4`.
    pub(crate) video_filename: String,
    /// Of all types, in the order of the file.
    pub questions: Vec<OfficialQuestion>,
}

/// A question of an official file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfficialQuestion {
    /// Counted within the scene.
    pub(crate) question_id: usize,
    /// The text.
    pub(crate) question: String,
    /// `descriptive`, `explanatory`, `predictive` or `counterfactual`.
    pub(crate) question_type: String,
    /// What a descriptive question asks for: `count`, `exist`, `query_color`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) question_subtype: Option<String>,
    /// Postfix program; absent from test files.
    #[serde(default)]
    pub program: Vec<String>,
    /// The word that answers a descriptive question; absent from others and from test files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<String>,
    /// Options; absent from descriptive questions.
    #[serde(default)]
    pub choices: Vec<OfficialChoice>,
}

impl OfficialQuestion {
    /// The name of the question, which is one of this scene's.
    pub(super) fn id_in(&self, scene_index: usize) -> String {
        format!("clevrer/{scene_index}/{}", self.question_id)
    }

    /// The question with its options as lines `A. …`.
    pub(crate) fn problem(&self) -> String {
        self.problem_asking(&self.question)
    }

    /// The same with another text before the options.
    pub(crate) fn problem_asking(&self, question: &str) -> String {
        let mut problem = question.to_owned();
        for (choice, letter) in self.choices.iter().zip(letters()) {
            problem.push('\n');
            problem.push(letter);
            problem.push_str(". ");
            problem.push_str(&choice.choice);
        }
        problem
    }
}

/// An option of an official question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfficialChoice {
    /// Counted within the question.
    pub(crate) choice_id: usize,
    /// The text.
    pub(crate) choice: String,
    /// Postfix program; absent from test files.
    #[serde(default)]
    pub program: Vec<String>,
    /// `correct` or `wrong`; absent from test files.
    #[serde(default)]
    pub(crate) answer: Option<OfficialAnswer>,
}

/// Whether an option is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfficialAnswer {
    /// Written `correct`.
    Correct,
    /// It is not.
    Wrong,
}

/// What is read of an annotation file: what the clip shows. Of a trajectory, places and turns are passed over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Annotation {
    /// Which clip.
    pub(crate) scene_index: usize,
    pub(crate) object_property: Vec<ObjectProperty>,
    /// The clip, frame by frame.
    pub(crate) motion_trajectory: Vec<TrajectoryFrame>,
    /// The collisions of the unmodified video.
    pub collision: Vec<Collision>,
}

/// One object of an annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectProperty {
    /// Its number.
    pub(crate) object_id: u32,
    /// Its colour.
    pub(crate) color: String,
    /// `metal` or `rubber`.
    pub(crate) material: String,
    /// `cube`, `sphere` or `cylinder`.
    pub(crate) shape: String,
}

/// One collision of an annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collision {
    /// The two that touch, by their `object_id`.
    pub object_ids: [u32; 2],
    /// When, as a frame of the clip.
    pub(crate) frame_id: usize,
    /// Where.
    pub(crate) location: [f64; 3],
}

/// One frame of an annotation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TrajectoryFrame {
    /// Counted from 0.
    pub(crate) frame_id: usize,
    /// Every object, seen or not.
    pub(crate) objects: Vec<TrajectoryObject>,
}

/// One object in one frame.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TrajectoryObject {
    /// Its number.
    pub(crate) object_id: u32,
    /// Units of the simulated world per frame.
    pub(crate) velocity: [f64; 3],
    /// Whether the camera sees it.
    pub(crate) inside_camera_view: bool,
}

/// Where a clip lies below its root: official archives hold folders of a thousand.
pub fn video_path(scene_index: usize) -> PathBuf {
    let from = scene_index / 1000 * 1000;
    PathBuf::from(format!("video_{from:05}-{:05}", from + 1000))
        .join(format!("video_{scene_index:05}.mp4"))
}

/// The scene that a clip shows, from its name `video_00000.mp4`.
pub fn scene_of_clip(clip: &Path) -> Option<usize> {
    // Backslashes part the folders of a path that was written on Windows.
    let name = clip.to_str()?.rsplit(['/', '\\']).next()?;
    // A fragment may stand behind the name.
    let digits = name.strip_prefix("video_")?.split_once(".mp4")?.0;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Reads the annotation of one scene.
pub fn read_annotation(folder: &Path, scene_index: usize) -> Result<Annotation, DataError> {
    let name = format!("annotation_{scene_index:05}.json");
    let from = scene_index / 1000 * 1000;
    let flat = folder.join(&name);
    let nested = folder
        .join(format!("annotation_{from:05}-{:05}", from + 1000))
        .join(&name);
    let path = if nested.is_file() { nested } else { flat };
    let text = file::read(&path)?;
    let annotation: Annotation = json::read(&text).map_err(|error| DataError::Content {
        path: path.clone(),
        place: error.place(),
        problem: format!("not an official CLEVRER annotation: {}", error.problem),
    })?;
    if annotation.scene_index != scene_index {
        return Err(DataError::Content {
            path,
            place: "scene_index".into(),
            problem: format!(
                "is {} where the file name says {scene_index}: the annotations belong to another split",
                annotation.scene_index
            ),
        });
    }
    Ok(annotation)
}

/// Hands the scenes of a question file over, one at a time.
pub fn for_each_scene(
    path: &Path,
    mut handle: impl FnMut(OfficialScene) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let file = std::fs::File::open(path).map_err(|error| FileError::reading(path, error))?;
    let mut failure = None;
    let mut reader = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, file));
    let result = SceneStream {
        handle: &mut handle,
        failure: &mut failure,
    }
    .deserialize(&mut reader);
    match (failure, result) {
        (Some(failure), _) => Err(failure),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(DataError::Content {
            path: path.to_owned(),
            place: format!("line {}, column {}", error.line(), error.column()),
            problem: format!("not an official CLEVRER question file (a list of scenes): {error}"),
        }),
    }
}

/// Visits a list of scenes without keeping it. serde can only say that something failed, so the
/// handler's own error is put aside.
struct SceneStream<'a, F> {
    handle: &'a mut F,
    failure: &'a mut Option<DataError>,
}

impl<'de, F: FnMut(OfficialScene) -> Result<(), DataError>> DeserializeSeed<'de>
    for SceneStream<'_, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(OfficialScene) -> Result<(), DataError>> Visitor<'de> for SceneStream<'_, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of scenes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut scenes: A) -> Result<(), A::Error> {
        while let Some(scene) = scenes.next_element()? {
            if let Err(failure) = (self.handle)(scene) {
                *self.failure = Some(failure);
                while scenes.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(())
    }
}
