//! Kinds for question files that have none, such as the authors', from the official question that each record is.

use super::Conversion;
use super::KindRule;
use super::OfficialAnswer;
use super::OfficialQuestion;
use super::OfficialScene;
use super::for_each_scene;
use super::history::History;
use super::kind::Observational;
use super::read_annotation;
use super::scene_of_clip;
use crate::config::QuestionKind;
use crate::data::Answer;
use crate::data::DataError;
use crate::data::Question;
use crate::data::answer::option::letters;
use crate::data::read_questions;
use crate::data::write_questions;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What labelling found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Labels {
    /// Records read and written.
    pub(crate) records: usize,
    /// Found among the official questions, observational.
    pub(crate) observational: usize,
    /// Found among the official questions, inferential.
    pub(crate) inferential: usize,
    /// Left as they were, for they have a kind.
    pub(crate) with_kind: usize,
    /// Written without a kind, by what is wrong.
    pub(crate) unmatched: BTreeMap<&'static str, usize>,
    /// The first of those.
    pub(crate) first_unmatched: Option<String>,
    /// Records whose solution is not the official answer; they are kept as they are.
    pub(crate) other_answers: usize,
    /// The first of those.
    pub(crate) first_other_answer: Option<String>,
}

impl Labels {
    /// Records found among the official questions.
    pub(crate) fn matched(&self) -> usize {
        self.observational + self.inferential
    }

    fn leave(&mut self, question: &Question, reason: &'static str) {
        *self.unmatched.entry(reason).or_default() += 1;
        let first = &mut self.first_unmatched;
        first.get_or_insert_with(|| format!("{}: {reason}", question.id));
    }
}

const NO_NUMBER: &str = "the clip's name is no video_00000.mp4";
const NO_SCENE: &str = "the official file has no such scene";
const NO_QUESTION: &str = "no counterfactual question of its scene has this text and these options";
const NO_KIND: &str = "the official question's program cannot be run";

impl Conversion {
    /// Finds each question of `file` among the counterfactual ones of the official file `questions`, by its clip's number,
    /// text and options, and writes it to `out` with that question's kind and id. What is not found keeps its place and has
    /// no kind.
    ///
    /// # Errors
    /// A file cannot be read or written, or no question is found.
    pub(crate) fn label(
        &self,
        file: &Path,
        questions: &Path,
        annotations: &Path,
        out: &Path,
    ) -> Result<Labels, DataError> {
        let mut records = read_questions(file)?;
        let mut labels = Labels {
            records: records.len(),
            ..Labels::default()
        };
        let mut by_scene: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            if record.kind.is_some() {
                labels.with_kind += 1;
                continue;
            }
            match scene_of_clip(&record.video) {
                Some(scene) => by_scene.entry(scene).or_default().push(index),
                None => labels.leave(record, NO_NUMBER),
            }
        }
        for_each_scene(questions, |scene| {
            let Some(indices) = by_scene.remove(&scene.scene_index) else {
                return Ok(());
            };
            let annotation = read_annotation(annotations, scene.scene_index)?;
            let history = History::new(&annotation);
            for index in indices {
                let record = &mut records[index];
                label_one(record, &scene, &history, self.rule, &mut labels);
            }
            Ok(())
        })?;
        for index in by_scene.into_values().flatten() {
            labels.leave(&records[index], NO_SCENE);
        }
        if labels.matched() + labels.with_kind == 0 {
            return Err(DataError::Empty {
                path: file.to_owned(),
                problem: format!(
                    "none of its {} questions is found in {}; the first: {}. Are both of one split?",
                    labels.records,
                    questions.display(),
                    labels.first_unmatched.unwrap_or_default()
                ),
            });
        }
        number_repeated(&mut records);
        write_questions(out, records)?;
        Ok(labels)
    }
}

fn label_one(
    record: &mut Question,
    scene: &OfficialScene,
    history: &History,
    rule: KindRule,
    labels: &mut Labels,
) {
    let words = words_of(&record.text());
    let mut asked = scene.questions.iter();
    let found = asked.find_map(|question| {
        let is_asked = question.question_type == "counterfactual";
        let order = is_asked.then(|| order_in(&words, question)).flatten()?;
        Some((question, order))
    });
    let Some((question, order)) = found else {
        labels.leave(record, NO_QUESTION);
        return;
    };
    let Ok(observational) = Observational::of(question, history) else {
        labels.leave(record, NO_KIND);
        return;
    };
    let kind = observational.kind(rule);
    let right = order
        .iter()
        .zip(letters())
        .filter(|(choice, _)| question.choices[**choice].answer == Some(OfficialAnswer::Correct));
    let right: Vec<String> = right.map(|(_, letter)| letter.to_string()).collect();
    let right = Answer::parse(&right.join(","));
    if record.answer() != right {
        labels.other_answers += 1;
        labels.first_other_answer.get_or_insert_with(|| {
            format!(
                "{} has {}, the official file {right}",
                record.id,
                record.answer()
            )
        });
    }
    match kind {
        QuestionKind::Observational => labels.observational += 1,
        QuestionKind::Inferential => labels.inferential += 1,
    }
    record.kind = Some(kind);
    record.id = question.id_in(scene.scene_index);
}

/// Words that may stand around a question and its options and mean nothing.
const AROUND: [&str; 4] = ["question", "options", "option", "choices"];

/// The words of a text, in lower case, without marks.
fn words_of(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// The choices of a question in the order in which a record of these words lists them; none where the record says
/// anything else than the question and all its choices, however they are laid out.
fn order_in(words: &[String], question: &OfficialQuestion) -> Option<Vec<usize>> {
    let is_around = |word: &String| word.len() == 1 || AROUND.contains(&word.as_str());
    let start = words.iter().position(|word| !is_around(word))?;
    let rest = words[start..].strip_prefix(words_of(&question.question).as_slice())?;
    let mut places = Vec::new();
    let mut free = vec![true; rest.len()];
    for (choice, official) in question.choices.iter().enumerate() {
        let wanted = words_of(&official.choice);
        let mut windows = rest.windows(wanted.len().max(1)).enumerate();
        let (place, _) = windows.find(|(place, found)| {
            **found == *wanted && free[*place..*place + wanted.len()].iter().all(|free| *free)
        })?;
        free[place..place + wanted.len()].fill(false);
        places.push((place, choice));
    }
    let mut left = rest.iter().zip(&free).filter(|(_, free)| **free);
    if !left.all(|(word, _)| is_around(word)) {
        return None;
    }
    places.sort_unstable();
    Some(places.into_iter().map(|(_, choice)| choice).collect())
}

/// A question that stands in a file several times has one id there each time.
fn number_repeated(records: &mut [Question]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let times = seen.entry(record.id.clone()).or_default();
        *times += 1;
        if *times > 1 {
            record.id = format!("{}/{times}", record.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::choice;
    use super::super::fixture::counterfactual;
    use super::super::fixture::files;
    use super::*;
    use serde_json::{Value, json};

    fn official() -> tempfile::TempDir {
        files(&json!([
            counterfactual(
                1,
                "gray",
                &[
                    choice(0, "red", "blue", "correct"),
                    choice(1, "green", "red", "wrong")
                ]
            ),
            counterfactual(
                2,
                "blue",
                &[
                    choice(0, "red", "green", "correct"),
                    choice(1, "red", "gray", "wrong")
                ]
            ),
        ]))
    }

    fn label(records: &Value) -> Result<(Labels, Vec<Question>), String> {
        let folder = official();
        let path = folder.path();
        let (file, out) = (path.join("theirs.json"), path.join("labelled.json"));
        std::fs::write(&file, records.to_string()).unwrap();
        let labels = Conversion::default()
            .label(&file, &path.join("validation.json"), path, &out)
            .map_err(|error| error.to_string())?;
        Ok((labels, read_questions(&out).unwrap()))
    }

    fn record(problem: &str, solution: &str, video: &str) -> Value {
        json!({"problem": problem, "solution": solution, "video": video, "problem_type": "single"})
    }

    const CLIP: &str = "/CLEVRER/validation_video/video_10007.mp4";
    const FIRST: &str = "What will happen without the gray object?\nA. The red object and the blue object collide\nB. The green object and the red object collide";

    #[test]
    fn records_are_found_in_any_layout() {
        let one_line = "Question: What will happen without the gray object? Options: (A) the red object and the blue object collide. (B) the green object and the red object collide.";
        let turned = "What will happen without the gray object?\nA. The green object and the red object collide\nB. The red object and the blue object collide";
        let mut apart = record("What will happen without the blue object?", "A", CLIP);
        apart["options"] = json!([
            "The red object and the green object collide",
            "The red object and the gray object collide"
        ]);
        let (labels, questions) = label(&json!([
            record(FIRST, "<answer>A</answer>", CLIP),
            record(one_line, "A", CLIP),
            record(turned, "A", CLIP),
            apart,
        ]))
        .unwrap();
        assert_eq!((labels.observational, labels.inferential), (3, 1));
        assert_eq!(labels.unmatched.len(), 0);
        let ids: Vec<&str> = questions
            .iter()
            .map(|question| question.id.as_str())
            .collect();
        assert_eq!(
            ids,
            [
                "clevrer/10007/1",
                "clevrer/10007/1/2",
                "clevrer/10007/1/3",
                "clevrer/10007/2"
            ]
        );
        assert_eq!(questions[0].kind, Some(QuestionKind::Observational));
        assert_eq!(questions[3].kind, Some(QuestionKind::Inferential));
        assert_eq!(
            questions[0].video,
            Path::new(CLIP),
            "paths are the run's affair"
        );
        // The options stand the other way round, so the official answer is B.
        assert_eq!(labels.other_answers, 1);
        let first = labels.first_other_answer.unwrap();
        assert!(
            first.contains("theirs/2 has A, the official file B"),
            "{first}"
        );
    }

    #[test]
    fn what_is_not_found_is_counted_and_kept() {
        let mut known = record("Is it?", "A", "x.mp4");
        known["kind"] = json!("inferential");
        let (labels, questions) = label(&json!([
            record(FIRST, "A", CLIP),
            record(
                "What will happen?\nA. The red object and the blue object collide",
                "A",
                CLIP
            ),
            record(
                &format!("{FIRST}\nC. The red object and the gray object collide"),
                "A",
                CLIP
            ),
            record(FIRST, "A", "/x/clip.mp4"),
            record(FIRST, "A", "/x/video_10008.mp4"),
            known,
        ]))
        .unwrap();
        assert_eq!((labels.matched(), labels.with_kind), (1, 1));
        assert_eq!(
            labels.unmatched,
            [(NO_NUMBER, 1), (NO_SCENE, 1), (NO_QUESTION, 2)].into()
        );
        assert_eq!(questions.len(), 6);
        assert_eq!(questions[1].kind, None);
        assert_eq!(questions[5].kind, Some(QuestionKind::Inferential));
        let message = label(&json!([record(FIRST, "A", "/x/video_10008.mp4")])).unwrap_err();
        for part in ["theirs.json", "none of its 1", NO_SCENE, "one split"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}
