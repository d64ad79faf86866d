//! Kinds for questions that have none: from a field that says it, or from whether a model answers without what a question is
//! about. This is what needs no model.

use super::Question;
use crate::config::QuestionKind;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Which values of a field mean which kind.
#[derive(Debug)]
pub(crate) struct FieldRule<'a> {
    /// The field, `metadata.type` for one inside another.
    pub(crate) field: &'a str,
    pub(crate) observational: &'a [String],
    pub(crate) inferential: &'a [String],
}

/// How many questions have which kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct KindCounts {
    pub(crate) observational: usize,
    pub(crate) inferential: usize,
    pub(crate) without: usize,
}

impl KindCounts {
    /// Of these questions.
    pub(crate) fn of(questions: &[Question]) -> Self {
        let mut counts = Self::default();
        for question in questions {
            *match question.kind {
                Some(QuestionKind::Observational) => &mut counts.observational,
                Some(QuestionKind::Inferential) => &mut counts.inferential,
                None => &mut counts.without,
            } += 1;
        }
        counts
    }

    /// All questions.
    pub(crate) fn total(&self) -> usize {
        self.observational + self.inferential + self.without
    }

    /// The share of observational ones among those that have a kind.
    pub(crate) fn observational_share(&self) -> Option<f64> {
        let with = self.observational + self.inferential;
        (with > 0).then(|| self.observational as f64 / with as f64)
    }
}

impl FieldRule<'_> {
    /// Labels the questions without a kind. Returns the values that mean none, how often each stands, and whether any question
    /// has the field at all.
    pub(crate) fn label(&self, questions: &mut [Question]) -> (BTreeMap<String, usize>, bool) {
        let mut others = BTreeMap::new();
        let mut is_there = false;
        for question in questions.iter_mut() {
            let value = field_of(question, self.field);
            is_there |= value.is_some();
            if question.kind.is_some() {
                continue;
            }
            let means =
                |values: &[String]| value.as_ref().is_some_and(|value| values.contains(value));
            if means(self.observational) {
                question.kind = Some(QuestionKind::Observational);
            } else if means(self.inferential) {
                question.kind = Some(QuestionKind::Inferential);
            } else {
                let value = value.unwrap_or_else(|| "(no value)".into());
                *others.entry(value).or_default() += 1;
            }
        }
        (others, is_there)
    }
}

/// A field of a question as text.
fn field_of(question: &Question, name: &str) -> Option<String> {
    let fields = serde_json::to_value(question).ok()?;
    let mut value = fields.get(name);
    if value.is_none() && name.contains('.') {
        value = name
            .split('.')
            .try_fold(&fields, |value, part| value.get(part));
    }
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.trim().to_owned()),
        other => Some(other.to_string()),
    }
}

/// The names of all fields that the questions have, for messages.
pub(crate) fn field_names(questions: &[Question]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for question in questions {
        let known = question.problem_type.is_some().then_some("problem_type");
        for name in known
            .into_iter()
            .chain(question.extra.keys().map(String::as_str))
        {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// The kind of a question that a model has answered without its clip, or without the order of its frames: the shortcut works
/// where it was right.
pub(crate) fn kind_of_answer(right: bool) -> QuestionKind {
    if right {
        QuestionKind::Observational
    } else {
        QuestionKind::Inferential
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_says_the_kind() {
        let question = |more: Value| -> Question {
            let mut record =
                json!({"id": "q", "problem": "Why?", "solution": "A", "video": "a.mp4"});
            record
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            serde_json::from_value(record).unwrap()
        };
        let mut questions = vec![
            question(json!({"type": "seen"})),
            question(json!({"type": "thought"})),
            question(json!({"type": 3})),
            question(json!({})),
            question(json!({"type": "seen", "kind": "inferential"})),
        ];
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (observational, inferential) = (texts(&["seen"]), texts(&["thought", "3"]));
        let mut rule = FieldRule {
            field: "type",
            observational: &observational,
            inferential: &inferential,
        };
        let (others, is_there) = rule.label(&mut questions);
        assert!(is_there);
        assert_eq!(others, [("(no value)".to_owned(), 1)].into());
        let counts = KindCounts::of(&questions);
        assert_eq!(
            (counts.observational, counts.inferential, counts.without),
            (1, 3, 1)
        );
        assert_eq!(counts.observational_share(), Some(0.25));
        rule.field = "splits.task";
        let mut nested = [question(json!({"splits": {"task": "seen"}}))];
        assert!(rule.label(&mut nested).1);
        assert_eq!(nested[0].kind, Some(QuestionKind::Observational));
        rule.field = "tpye";
        assert!(!rule.label(&mut questions).1);
        assert_eq!(field_names(&questions), ["type"]);
    }
}
