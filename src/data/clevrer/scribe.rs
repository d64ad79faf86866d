//! The questions of one official scene in our format.

use super::Conversion;
use super::Counts;
use super::OfficialAnswer;
use super::OfficialChoice;
use super::OfficialQuestion;
use super::QuestionType;
use super::history::History;
use super::kind::Observational;
use super::program;
use super::program::Value;
use super::video_path;
use super::without_condition;
use crate::config::QuestionKind;
use crate::data::DataError;
use crate::data::Question;
use crate::data::answer::option::letters;
use std::path::Path;

/// Writes down the questions of one scene in our format, and counts them.
pub(super) struct Scribe<'a> {
    /// The official file, for messages.
    pub(super) path: &'a Path,
    pub(super) scene_index: usize,
    pub(super) history: History<'a>,
    pub(super) conversion: &'a Conversion,
    pub(super) counts: &'a mut Counts,
}

impl Scribe<'_> {
    /// One question in our format; none, and counted, when it cannot be used.
    pub(super) fn question(
        &mut self,
        of_type: QuestionType,
        question: &OfficialQuestion,
    ) -> Result<Option<Question>, DataError> {
        let mut written = self.unanswered(of_type, question);
        if of_type == QuestionType::Descriptive {
            let answer = question.answer.as_deref();
            let answer = answer.ok_or_else(|| self.untold(&written.id, "the question"))?;
            self.check_descriptive(&written.id, question, answer);
            written.solution = format!("<answer>{answer}</answer>");
            written.problem_type = Some("descriptive".into());
            self.counts.without_kind += 1;
            return Ok(Some(written));
        }
        let mut right = Vec::new();
        for (choice, letter) in question.choices.iter().zip(letters()) {
            let answer = choice.answer;
            let answer = answer.ok_or_else(|| self.untold(&written.id, "a choice"))?;
            if answer == OfficialAnswer::Correct {
                right.push(letter.to_string());
            }
        }
        if of_type == QuestionType::Counterfactual {
            self.counts.counterfactual += 1;
            written.kind = match Observational::of(question, &self.history) {
                Ok(found) => {
                    if !right.is_empty() {
                        self.counts.answers_as_seen += usize::from(found.answers_as_seen);
                        self.counts.removed_object_uninvolved +=
                            usize::from(found.removed_object_uninvolved);
                    }
                    Some(found.kind(self.conversion.rule))
                }
                Err((letter, error)) => {
                    self.counts.unresolved += 1;
                    let first = &mut self.counts.first_unresolved;
                    first
                        .get_or_insert_with(|| format!("{}, option {letter}: {error}", written.id));
                    return Ok(None);
                }
            };
        } else if of_type == QuestionType::Explanatory {
            self.check_explanatory(&written.id, question);
        }
        if right.is_empty() {
            self.counts.without_right_option += 1;
            return Ok(None);
        }
        if self.conversion.strip_condition
            && written.kind == Some(QuestionKind::Observational)
            && !self.strip_condition(question, &mut written)
        {
            return Ok(None);
        }
        match written.kind {
            Some(QuestionKind::Observational) => self.counts.observational += 1,
            Some(QuestionKind::Inferential) => self.counts.inferential += 1,
            None => self.counts.without_kind += 1,
        }
        let (number, count) = if right.len() == 1 {
            ("single", &mut self.counts.single)
        } else {
            ("multiple", &mut self.counts.multiple)
        };
        *count += 1;
        written.problem_type = Some(number.into());
        written.solution = format!("<answer>{}</answer>", right.join(","));
        Ok(Some(written))
    }

    /// Takes the condition out of a question and keeps the original beside it; false, and counted, when it cannot.
    fn strip_condition(&mut self, question: &OfficialQuestion, written: &mut Question) -> bool {
        match without_condition(question) {
            Ok(asked) => {
                let stripped = question.problem_asking(&asked);
                let original = std::mem::replace(&mut written.problem, stripped);
                written
                    .extra
                    .insert("original_problem".into(), original.into());
                self.counts.stripped += 1;
                true
            }
            Err(error) => {
                self.counts.unstripped += 1;
                let first = &mut self.counts.first_unstripped;
                first.get_or_insert_with(|| format!("{}: {error}", written.id));
                false
            }
        }
    }

    /// The question without what depends on its answer.
    fn unanswered(&self, of_type: QuestionType, question: &OfficialQuestion) -> Question {
        let mut extra = serde_json::Map::new();
        extra.insert("question_type".into(), of_type.as_str().into());
        if let Some(subtype) = &question.question_subtype {
            extra.insert("question_subtype".into(), subtype.as_str().into());
        }
        Question {
            id: question.id_in(self.scene_index),
            problem: question.problem(),
            solution: String::new(),
            video: video_path(self.scene_index),
            kind: None,
            options: None,
            problem_type: None,
            response: None,
            wording: None,
            grounding: None,
            judge: None,
            extra,
        }
    }

    fn untold(&self, id: &str, what: &str) -> DataError {
        DataError::Content {
            path: self.path.to_owned(),
            place: id.to_owned(),
            problem: format!(
                "{what} has no `answer`: only the training and validation files have them"
            ),
        }
    }

    /// Compares what a program says of the annotation with the official answer.
    fn check_descriptive(&mut self, id: &str, question: &OfficialQuestion, answer: &str) {
        let found = program::run(&question.program, &self.history, &|_| Vec::new());
        let found = found.map(|value| value.answer().unwrap_or_default());
        self.compare(id, found.as_deref() == Ok(answer), || match &found {
            Ok(found) => format!("program gives {found:?}, official answer {answer:?}"),
            Err(error) => error.to_string(),
        });
    }

    fn check_explanatory(&mut self, id: &str, question: &OfficialQuestion) {
        let says = |choice: &OfficialChoice| {
            let program = choice.program.iter().chain(&question.program);
            program::run(program, &self.history, &|_| Vec::new())
        };
        let differs = |choice: &&OfficialChoice| {
            let is_right = choice.answer == Some(OfficialAnswer::Correct);
            says(choice) != Ok(Value::Truth(is_right))
        };
        let first = question.choices.iter().find(differs);
        let found = first.map(|choice| (choice.choice_id, says(choice)));
        self.compare(id, found.is_none(), || match &found {
            Some((choice, Ok(value))) => format!("choice {choice}: program gives {value:?}"),
            Some((choice, Err(error))) => format!("choice {choice}: {error}"),
            None => String::new(),
        });
    }

    fn compare(&mut self, id: &str, agrees: bool, found: impl Fn() -> String) {
        if agrees {
            self.counts.confirmed += 1;
        } else {
            self.counts.contradicted += 1;
            let first = &mut self.counts.first_contradicted;
            first.get_or_insert_with(|| format!("{id}: {}", found()));
        }
    }
}
