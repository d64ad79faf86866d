//! An official question file → a question file in our format, and what was found on the way.

use super::KindRule;
use super::OfficialQuestion;
use super::QuestionType;
use super::for_each_scene;
use super::history::History;
use super::read_annotation;
use super::scribe::Scribe;
use crate::data::DataError;
use crate::data::QuestionWriter;
use serde::Serialize;
use std::path::Path;

/// What a conversion found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// What the kinds below follow.
    pub(crate) rule: KindRule,
    /// Scenes read.
    pub(crate) scenes: usize,
    /// Counterfactual questions read.
    pub(crate) counterfactual: usize,
    /// Questions of types that were not asked for, passed over.
    pub(crate) other_types: usize,
    /// Written, observational.
    pub observational: usize,
    /// Written, inferential.
    pub(crate) inferential: usize,
    /// Written, of a type without kinds.
    pub(crate) without_kind: usize,
    /// Counterfactual questions written that are observational by `answers-as-seen`.
    pub answers_as_seen: usize,
    /// Counterfactual questions written that are observational by `removed-object-uninvolved`.
    pub removed_object_uninvolved: usize,
    /// Written, with one right option.
    pub(crate) single: usize,
    /// Written, with several right options.
    pub(crate) multiple: usize,
    /// Left out: no option is right, so there is nothing to answer.
    pub(crate) without_right_option: usize,
    /// Left out: a program could not be resolved.
    pub(crate) unresolved: usize,
    /// The first of those, and why.
    pub(crate) first_unresolved: Option<String>,
    /// Observational questions written without their condition.
    pub(crate) stripped: usize,
    /// Left out: the condition could not be taken out.
    pub(crate) unstripped: usize,
    /// The first of those, and why.
    pub(crate) first_unstripped: Option<String>,
    /// Descriptive and explanatory questions whose programs were run on the annotation and gave the official answer.
    pub(crate) confirmed: usize,
    /// Those whose programs gave another answer; the official one is written.
    pub(crate) contradicted: usize,
    /// The first of those.
    pub(crate) first_contradicted: Option<String>,
}

impl Counts {
    /// Questions written.
    pub(crate) fn written(&self) -> usize {
        self.observational + self.inferential + self.without_kind
    }

    /// Percentage of observational questions among those with a kind.
    pub(crate) fn observational_percent(&self) -> f64 {
        let with_kind = self.observational + self.inferential;
        100.0 * self.observational as f64 / with_kind.max(1) as f64
    }
}

/// How official files become questions.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// Questions of other types are left out.
    pub types: Vec<QuestionType>,
    /// How kinds are told apart.
    pub rule: KindRule,
    /// Write observational questions without their condition, as stage 1 of the paper asks them. By `answers-as-seen`
    /// their answers stay right; by the other rule they may not.
    pub strip_condition: bool,
}

impl Default for Conversion {
    /// The paper's: counterfactual questions, observational where the answers are as seen.
    fn default() -> Self {
        Self {
            types: vec![QuestionType::Counterfactual],
            rule: KindRule::default(),
            strip_condition: false,
        }
    }
}

/// As [`Conversion::convert`], as the paper does it.
pub(crate) fn convert(
    questions: &Path,
    annotations: &Path,
    video_prefix: &Path,
    out: &Path,
) -> Result<Counts, DataError> {
    Conversion::default().convert(questions, annotations, video_prefix, out)
}

impl Conversion {
    /// Converts questions of an official file scene by scene and writes them to `out` (`.json` or `.jsonl`). Clip
    /// paths start with `video_prefix`. `annotations` holds `annotation_00000.json` directly or in the official
    /// folders of a thousand.
    pub fn convert(
        &self,
        questions: &Path,
        annotations: &Path,
        video_prefix: &Path,
        out: &Path,
    ) -> Result<Counts, DataError> {
        let mut counts = Counts {
            rule: self.rule,
            ..Counts::default()
        };
        let mut writer = QuestionWriter::create(out)?;
        for_each_scene(questions, |scene| {
            counts.scenes += 1;
            let wanted: Vec<(QuestionType, &OfficialQuestion)> = scene
                .questions
                .iter()
                .filter_map(|question| Some((self.wanted_type(question)?, question)))
                .collect();
            counts.other_types += scene.questions.len() - wanted.len();
            if wanted.is_empty() {
                return Ok(());
            }
            let annotation = read_annotation(annotations, scene.scene_index)?;
            let mut scribe = Scribe {
                path: questions,
                scene_index: scene.scene_index,
                history: History::new(&annotation),
                conversion: self,
                counts: &mut counts,
            };
            for (of_type, question) in wanted {
                if let Some(mut question) = scribe.question(of_type, question)? {
                    question.video = video_prefix.join(&question.video);
                    writer.write(&question)?;
                }
            }
            Ok(())
        })?;
        if writer.written() == 0 {
            return Err(nothing_left(questions, &self.types, &counts));
        }
        if let (0, Some(first)) = (counts.stripped, &counts.first_unstripped) {
            return Err(DataError::Empty {
                path: questions.to_owned(),
                problem: format!(
                    "the condition of no observational question could be taken out; the first: {first}"
                ),
            });
        }
        writer.finish()?;
        Ok(counts)
    }

    fn wanted_type(&self, question: &OfficialQuestion) -> Option<QuestionType> {
        let mut types = self.types.iter();
        types
            .find(|of_type| of_type.as_str() == question.question_type)
            .copied()
    }
}

fn nothing_left(path: &Path, types: &[QuestionType], counts: &Counts) -> DataError {
    let types: Vec<&str> = types.iter().map(|of_type| of_type.as_str()).collect();
    let mut problem = format!(
        "holds no {} question that can be used ({} have no right option, {} could not be resolved",
        types.join(" or "),
        counts.without_right_option,
        counts.unresolved,
    );
    let first = counts.first_unresolved.as_ref();
    if let Some(first) = first.or(counts.first_unstripped.as_ref()) {
        problem.push_str("; the first: ");
        problem.push_str(first);
    }
    problem.push(')');
    DataError::Empty {
        path: path.to_owned(),
        problem,
    }
}
#[cfg(test)]
mod tests {
    use super::super::fixture::choice;
    use super::super::fixture::counterfactual;
    use super::super::fixture::files;
    use super::super::fixture::object;
    use super::*;
    use crate::config::QuestionKind;
    use crate::data::Question;
    use serde_json::Value;
    use serde_json::json;

    fn run(folder: &tempfile::TempDir) -> Result<(Counts, Vec<Question>), DataError> {
        run_as(&Conversion::default(), folder)
    }

    fn run_as(
        conversion: &Conversion,
        folder: &tempfile::TempDir,
    ) -> Result<(Counts, Vec<Question>), DataError> {
        let path = folder.path();
        let out = path.join("out.json");
        let counts = conversion.convert(
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
                answers_as_seen: 1,
                removed_object_uninvolved: 1,
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

    /// The removed object collides, but none of the options depends on it.
    fn involved_without_consequence() -> Value {
        counterfactual(4, "green", &[choice(0, "red", "blue", "correct")])
    }

    #[test]
    fn the_rule_decides_about_kinds_and_both_are_counted() {
        let folder = files(&json!([involved_without_consequence()]));
        for (rule, kind) in [
            (KindRule::AnswersAsSeen, QuestionKind::Observational),
            (KindRule::RemovedObjectUninvolved, QuestionKind::Inferential),
        ] {
            let conversion = Conversion {
                rule,
                ..Conversion::default()
            };
            let (counts, questions) = run_as(&conversion, &folder).unwrap();
            assert_eq!(questions[0].kind, Some(kind));
            assert_eq!(counts.rule, rule);
            let both = (counts.answers_as_seen, counts.removed_object_uninvolved);
            assert_eq!(both, (1, 0));
        }
    }

    #[test]
    fn other_types_are_written_on_request_and_checked_where_the_clip_tells() {
        let mut hit = vec!["events"];
        hit.extend(object("red"));
        hit.extend(["filter_collision", "unique"]);
        let mut effect = vec!["events", "events"];
        effect.extend(object("green"));
        effect.extend(["filter_collision", "unique", "filter_ancestor", "belong_to"]);
        let cause = |answer: &str| json!({"choice_id": 0, "choice": "the first collision", "program": hit, "answer": answer});
        let absent = json!({"choice_id": 1, "choice": "the presence of the gray object", "program": object("gray"), "answer": "wrong"});
        let explanatory = |id: usize, answer: &str| json!({"question_id": id, "question": "Which is responsible?", "question_type": "explanatory", "program": effect, "choices": [cause(answer), absent]});
        let mut next = choice(0, "red", "gray", "correct");
        next["program"][0] = json!("all_events");
        let folder = files(&json!([
            {"question_id": 0, "question": "How many?", "question_type": "descriptive", "question_subtype": "count", "program": ["objects", "count"], "answer": "4"},
            {"question_id": 1, "question": "How many cubes?", "question_type": "descriptive", "question_subtype": "count", "program": ["objects", "cube", "filter_shape", "count"], "answer": "3"},
            explanatory(2, "correct"),
            explanatory(3, "wrong"),
            {"question_id": 4, "question": "What will happen next?", "question_type": "predictive", "program": ["unseen_events", "belong_to"], "choices": [next]},
            involved_without_consequence(),
        ]));
        let conversion = Conversion {
            types: vec![
                QuestionType::Descriptive,
                QuestionType::Explanatory,
                QuestionType::Predictive,
            ],
            ..Conversion::default()
        };
        let (counts, questions) = run_as(&conversion, &folder).unwrap();
        let written: Vec<(&str, String, &str)> = questions
            .iter()
            .map(|question| {
                let of_type = question.extra["question_type"].as_str().unwrap();
                let number = question.problem_type.as_deref().unwrap();
                (of_type, question.answer().to_string(), number)
            })
            .collect();
        assert_eq!(
            written,
            [
                ("descriptive", "4".into(), "descriptive"),
                ("descriptive", "3".into(), "descriptive"),
                ("explanatory", "A".into(), "single"),
                ("predictive", "A".into(), "single"),
            ]
        );
        assert!(questions.iter().all(|question| question.kind.is_none()));
        assert_eq!(questions[0].extra["question_subtype"], "count");
        assert_eq!((counts.written(), counts.other_types), (4, 1));
        // The second descriptive and the second explanatory question contradict the annotation; the latter has no
        // right option either.
        let checked = (counts.confirmed, counts.contradicted);
        assert_eq!((checked, counts.without_right_option), ((2, 2), 1));
        let first = counts.first_contradicted.unwrap();
        assert!(
            first.contains("clevrer/10007/1") && first.contains("\"4\""),
            "{first}"
        );
    }

    #[test]
    fn conditions_are_taken_out_of_observational_questions() {
        let options = [
            choice(0, "red", "blue", "correct"),
            choice(1, "green", "red", "wrong"),
        ];
        let mut odd = counterfactual(2, "gray", &options);
        odd["question"] = json!("Suppose there were no gray object: what would happen?");
        let conversion = Conversion {
            strip_condition: true,
            ..Conversion::default()
        };
        let inferential = counterfactual(3, "blue", &[choice(0, "red", "green", "correct")]);
        let plain = counterfactual(1, "gray", &options);
        let folder = files(&json!([plain, odd, inferential]));
        let (counts, questions) = run_as(&conversion, &folder).unwrap();
        assert_eq!((counts.stripped, counts.unstripped), (1, 1));
        assert_eq!((counts.observational, counts.inferential), (1, 1));
        let first = counts.first_unstripped.unwrap();
        assert!(
            first.contains("clevrer/10007/2") && first.contains("Suppose"),
            "{first}"
        );
        let listed = "\nA. The red object and the blue object collide\nB. The green object and the red object collide";
        assert_eq!(questions[0].id, "clevrer/10007/1");
        assert_eq!(questions[0].problem, format!("What will happen?{listed}"));
        assert_eq!(
            questions[0].extra["original_problem"],
            format!("What will happen without the gray object?{listed}")
        );
        assert!(
            questions[1]
                .problem
                .starts_with("What will happen without the blue object?")
        );
        assert!(!questions[1].extra.contains_key("original_problem"));
        let message = run_as(&conversion, &files(&json!([odd, inferential]))).unwrap_err();
        assert!(message.to_string().contains("Suppose"), "{message}");
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
