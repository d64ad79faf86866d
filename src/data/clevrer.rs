//! Official CLEVRER files → questions with the observational/inferential split.
//!
//! The question files are lists of scenes, hundreds of megabytes long: they are read scene by scene.
//! Formats: <http://data.csail.mit.edu/clevrer/README.txt> and the readers of `chuangg/CLEVRER`.

use super::{DataError, Question, write_questions};
use crate::config::QuestionKind;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::io::BufReader;
use std::path::{Path, PathBuf};

pub mod program;

/// The rule behind the split, as it is written beside the counts: a question is observational when
/// taking the options for a report of the unmodified video gives exactly the right ones.
pub const RULE: &str = "answers-as-seen";

/// What the paper counts on the official training set: observational, all.
pub const PAPER_COUNTS: (usize, usize) = (13_674, 18_473);

/// An entry of a question file: everything asked about one clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfficialScene {
    /// Which clip: training from 0, validation from 10000, test from 15000.
    pub scene_index: usize,
    /// `video_00000.mp4`.
    pub video_filename: String,
    /// The questions.
    pub questions: Vec<OfficialQuestion>,
}

/// A question of an official file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfficialQuestion {
    /// Counted within the scene.
    pub question_id: usize,
    /// The text.
    pub question: String,
    /// `descriptive`, `explanatory`, `predictive` or `counterfactual`.
    pub question_type: String,
    /// Postfix program; absent from test files.
    #[serde(default)]
    pub program: Vec<String>,
    /// Options; absent from descriptive questions.
    #[serde(default)]
    pub choices: Vec<OfficialChoice>,
}

impl OfficialQuestion {
    /// The question with its options as lines `A. …`.
    pub fn problem(&self) -> String {
        let mut problem = self.question.clone();
        for (choice, letter) in self.choices.iter().zip('A'..='Z') {
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
    pub choice_id: usize,
    /// The text.
    pub choice: String,
    /// Postfix program; absent from test files.
    #[serde(default)]
    pub program: Vec<String>,
    /// `correct` or `wrong`; absent from test files.
    #[serde(default)]
    pub answer: Option<OfficialAnswer>,
}

/// Whether an option is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfficialAnswer {
    /// It is.
    Correct,
    /// It is not.
    Wrong,
}

/// What is read of an annotation file; the trajectories are passed over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Annotation {
    /// Which clip.
    pub scene_index: usize,
    /// The objects.
    pub object_property: Vec<ObjectProperty>,
    /// The collisions of the unmodified video.
    pub collision: Vec<Collision>,
}

/// One object of an annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectProperty {
    /// Its number.
    pub object_id: u32,
    /// Its colour.
    pub color: String,
    /// `metal` or `rubber`.
    pub material: String,
    /// `cube`, `sphere` or `cylinder`.
    pub shape: String,
}

/// One collision of an annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collision {
    /// Which objects.
    pub object_ids: [u32; 2],
    /// When, as a frame of the clip.
    pub frame_id: usize,
    /// Where.
    pub location: [f64; 3],
}

impl Annotation {
    /// Whether these two collide in the unmodified video.
    pub fn collide(&self, pair: (u32, u32)) -> bool {
        self.collision.iter().any(|collision| {
            let [first, second] = collision.object_ids;
            (first, second) == pair || (second, first) == pair
        })
    }
}

/// What a conversion found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Scenes read.
    pub scenes: usize,
    /// Counterfactual questions read.
    pub counterfactual: usize,
    /// Questions of other types, passed over.
    pub other_types: usize,
    /// Written, observational.
    pub observational: usize,
    /// Written, inferential.
    pub inferential: usize,
    /// Written, with one right option.
    pub single: usize,
    /// Written, with several right options.
    pub multiple: usize,
    /// Left out: no option is right, so there is nothing to answer.
    pub without_right_option: usize,
    /// Left out: a program could not be resolved.
    pub unresolved: usize,
    /// The first of those, and why.
    pub first_unresolved: Option<String>,
}

impl Counts {
    /// Questions written.
    pub fn written(&self) -> usize {
        self.observational + self.inferential
    }

    /// Percentage of observational questions among those written.
    pub fn observational_percent(&self) -> f64 {
        100.0 * self.observational as f64 / self.written().max(1) as f64
    }
}

/// Where a clip lies below its root: official archives hold folders of a thousand.
pub fn video_path(scene_index: usize) -> PathBuf {
    let from = scene_index / 1000 * 1000;
    PathBuf::from(format!("video_{from:05}-{:05}", from + 1000))
        .join(format!("video_{scene_index:05}.mp4"))
}

/// Converts the counterfactual questions of an official file, labels them and writes them to `out`
/// (`.json` or `.jsonl`). Clip paths start with `video_prefix`. `annotations` holds
/// `annotation_00000.json` directly or in the official folders of a thousand.
pub fn convert(
    questions: &Path,
    annotations: &Path,
    video_prefix: &Path,
    out: &Path,
) -> Result<Counts, DataError> {
    let mut counts = Counts::default();
    let mut converted = Vec::new();
    for_each_scene(questions, |scene| {
        counts.scenes += 1;
        let is_wanted = |question: &&OfficialQuestion| question.question_type == "counterfactual";
        let wanted: Vec<&OfficialQuestion> = scene.questions.iter().filter(is_wanted).collect();
        counts.other_types += scene.questions.len() - wanted.len();
        if wanted.is_empty() {
            return Ok(());
        }
        let annotation = read_annotation(annotations, scene.scene_index)?;
        for question in wanted {
            counts.counterfactual += 1;
            let labelled = label(questions, &scene, question, &annotation, &mut counts)?;
            converted.extend(labelled.map(|question| Question {
                video: video_prefix.join(&question.video),
                ..question
            }));
        }
        Ok(())
    })?;
    if converted.is_empty() {
        return Err(DataError::Empty {
            path: questions.to_owned(),
            problem: format!(
                "holds no counterfactual question that can be used ({} of {} could not be resolved{})",
                counts.unresolved,
                counts.counterfactual,
                counts
                    .first_unresolved
                    .as_ref()
                    .map(|first| format!("; the first: {first}"))
                    .unwrap_or_default(),
            ),
        });
    }
    write_questions(out, converted)?;
    Ok(counts)
}

/// One question in our format; none, and counted, when it cannot be used.
fn label(
    path: &Path,
    scene: &OfficialScene,
    question: &OfficialQuestion,
    annotation: &Annotation,
    counts: &mut Counts,
) -> Result<Option<Question>, DataError> {
    let id = format!("clevrer/{}/{}", scene.scene_index, question.question_id);
    let mut right = Vec::new();
    let mut as_seen = true;
    for (choice, letter) in question.choices.iter().zip('A'..='Z') {
        let Some(answer) = choice.answer else {
            return Err(DataError::Content {
                path: path.to_owned(),
                place: id,
                problem:
                    "a choice has no `answer`: only the training and validation files have them"
                        .into(),
            });
        };
        let is_right = answer == OfficialAnswer::Correct;
        match program::claim(&choice.program, &question.program, annotation) {
            Ok(claim) => as_seen &= claim.holds_as_seen(annotation) == is_right,
            Err(error) => {
                counts.unresolved += 1;
                counts
                    .first_unresolved
                    .get_or_insert_with(|| format!("{id}, option {letter}: {error}"));
                return Ok(None);
            }
        }
        if is_right {
            right.push(letter.to_string());
        }
    }
    let problem_type = match right.len() {
        0 => {
            counts.without_right_option += 1;
            return Ok(None);
        }
        1 => {
            counts.single += 1;
            "single"
        }
        _ => {
            counts.multiple += 1;
            "multiple"
        }
    };
    let kind = if as_seen {
        counts.observational += 1;
        QuestionKind::Observational
    } else {
        counts.inferential += 1;
        QuestionKind::Inferential
    };
    Ok(Some(Question {
        id,
        problem: question.problem(),
        solution: format!("<answer>{}</answer>", right.join(",")),
        video: video_path(scene.scene_index),
        kind: Some(kind),
        options: None,
        problem_type: Some(problem_type.into()),
        response: None,
        wording: None,
        grounding: None,
        extra: serde_json::Map::new(),
    }))
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
    let text = std::fs::read(&path).map_err(|error| DataError::reading(&path, error))?;
    let annotation: Annotation =
        serde_json::from_slice(&text).map_err(|error| DataError::Content {
            path: path.clone(),
            place: format!("line {}, column {}", error.line(), error.column()),
            problem: format!("not an official CLEVRER annotation: {error}"),
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
    let file = std::fs::File::open(path).map_err(|error| DataError::reading(path, error))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(color: &str) -> Vec<&str> {
        vec!["objects", color, "filter_color", "unique"]
    }

    fn choice(id: usize, first: &str, second: &str, answer: &str) -> Value {
        let mut program = vec!["all_events"];
        program.extend(object(first));
        program.push("filter_collision");
        program.extend(object(second));
        program.extend(["filter_collision", "unique"]);
        json!({"choice_id": id, "choice": format!("The {first} object and the {second} object collide"), "program": program, "answer": answer})
    }

    fn counterfactual(id: usize, removed: &str, choices: &[Value]) -> Value {
        let mut program = vec!["all_events"];
        program.extend(object(removed));
        program.extend(["get_counterfact", "belong_to"]);
        json!({"question_id": id, "question": format!("What will happen without the {removed} object?"), "question_type": "counterfactual", "program": program, "choices": choices})
    }

    /// Red, blue, green and gray; red hits blue, blue hits green.
    fn files(questions: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let properties: Vec<Value> = ["red", "blue", "green", "gray"]
            .iter()
            .enumerate()
            .map(|(id, color)| json!({"object_id": id, "color": color, "material": "metal", "shape": "cube"}))
            .collect();
        let annotation = json!({
            "scene_index": 10_007, "video_filename": "video_10007.mp4", "object_property": properties,
            "motion_trajectory": [{"frame_id": 0, "objects": []}],
            "collision": [
                {"object_ids": [0, 1], "frame_id": 30, "location": [0.5, 0.1, 0.2]},
                {"object_ids": [1, 2], "frame_id": 60, "location": [1.5, 0.1, 0.2]},
            ],
        });
        let nested = folder.path().join("annotation_10000-11000");
        std::fs::create_dir(&nested).unwrap();
        std::fs::write(nested.join("annotation_10007.json"), annotation.to_string()).unwrap();
        let scenes = json!([{"scene_index": 10_007, "video_filename": "video_10007.mp4", "questions": questions}]);
        std::fs::write(folder.path().join("validation.json"), scenes.to_string()).unwrap();
        folder
    }

    fn run(folder: &tempfile::TempDir) -> Result<(Counts, Vec<Question>), DataError> {
        let path = folder.path();
        let out = path.join("out.json");
        let counts = convert(
            &path.join("validation.json"),
            path,
            Path::new("video_validation"),
            &out,
        )?;
        Ok((counts, crate::data::read_questions(&out)?))
    }

    #[test]
    fn labels_by_what_is_seen() {
        let folder = files(&json!([
            {"question_id": 0, "question": "How many?", "question_type": "descriptive", "question_subtype": "count", "program": ["objects", "count"], "answer": "4"},
            counterfactual(1, "gray", &[choice(0, "red", "blue", "correct"), choice(1, "green", "red", "wrong"), choice(2, "blue", "green", "correct")]),
            counterfactual(2, "blue", &[choice(0, "red", "green", "correct"), choice(1, "red", "gray", "wrong")]),
            counterfactual(3, "red", &[choice(0, "blue", "green", "wrong"), choice(1, "blue", "gray", "wrong")]),
        ]));
        let (counts, questions) = run(&folder).unwrap();
        assert_eq!(
            counts,
            Counts {
                scenes: 1,
                counterfactual: 3,
                other_types: 1,
                observational: 1,
                inferential: 1,
                single: 1,
                multiple: 1,
                without_right_option: 1,
                ..Counts::default()
            }
        );
        assert_eq!(questions[0].id, "clevrer/10007/1");
        assert_eq!(questions[0].solution, "<answer>A,C</answer>");
        assert_eq!(questions[0].kind, Some(QuestionKind::Observational));
        assert_eq!(questions[0].problem_type.as_deref(), Some("multiple"));
        assert_eq!(
            questions[0].video,
            Path::new("video_validation/video_10000-11000/video_10007.mp4")
        );
        assert_eq!(questions[1].kind, Some(QuestionKind::Inferential));
        assert_eq!(
            questions[1].problem,
            "What will happen without the blue object?\nA. The red object and the green object collide\nB. The red object and the gray object collide"
        );
    }

    #[test]
    fn unresolved_programs_are_counted_and_named() {
        let good = counterfactual(0, "gray", &[choice(0, "red", "blue", "correct")]);
        let mut bad = counterfactual(1, "gray", &[choice(0, "red", "blue", "correct")]);
        bad["choices"][0]["program"][1] = json!("ghosts");
        let (counts, questions) = run(&files(&json!([good, bad]))).unwrap();
        assert_eq!((counts.unresolved, questions.len()), (1, 1));
        let first = counts.first_unresolved.unwrap();
        assert!(
            first.contains("clevrer/10007/1, option A") && first.contains("ghosts"),
            "{first}"
        );
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let question = counterfactual(0, "gray", &[choice(0, "red", "blue", "correct")]);
        let message = |folder: &tempfile::TempDir| run(folder).unwrap_err().to_string();

        let folder = files(&json!([question]));
        std::fs::remove_file(
            folder
                .path()
                .join("annotation_10000-11000/annotation_10007.json"),
        )
        .unwrap();
        assert!(message(&folder).contains("annotation_10007.json"));

        let mut untold = question.clone();
        untold["choices"][0]
            .as_object_mut()
            .unwrap()
            .remove("answer");
        assert!(
            message(&files(&json!([untold]))).contains("clevrer/10007/0: a choice has no `answer`")
        );

        let folder = files(&json!([question]));
        std::fs::write(folder.path().join("validation.json"), "{}").unwrap();
        assert!(message(&folder).contains("list of scenes"));

        assert!(message(&files(&json!([]))).contains("no counterfactual question"));
    }
}
