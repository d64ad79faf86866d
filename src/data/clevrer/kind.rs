//! Whether a counterfactual question is observational or inferential.

use super::OfficialAnswer;
use super::OfficialQuestion;
use super::history::History;
use super::program;
use super::program::ProgramError;
use super::program::Unseen;
use super::program::Value;
use crate::config::QuestionKind;
use crate::data::answer::option::letters;
use serde::Deserialize;
use serde::Serialize;
use std::cell::Cell;

/// When a counterfactual question counts as observational.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum KindRule {
    /// Taking the options for a report of the unmodified video gives exactly the right ones
    #[default]
    AnswersAsSeen,
    /// The removed object takes part in no collision of the unmodified video
    RemovedObjectUninvolved,
}

impl KindRule {
    /// The rule's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::AnswersAsSeen => "answers-as-seen",
            Self::RemovedObjectUninvolved => "removed-object-uninvolved",
        }
    }

    /// The rule in words, after "observational when".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AnswersAsSeen => {
                "reading the unmodified video's collisions gives exactly the right options"
            }
            Self::RemovedObjectUninvolved => {
                "the removed object takes part in no collision of the unmodified video"
            }
        }
    }
}

/// Whether a counterfactual question is observational, by each rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observational {
    /// By [`KindRule::AnswersAsSeen`].
    pub(super) answers_as_seen: bool,
    /// By [`KindRule::RemovedObjectUninvolved`].
    pub(super) removed_object_uninvolved: bool,
}

impl Observational {
    /// Of a question about the clip of `history`.
    ///
    /// # Errors
    /// The letter of the option whose program cannot be run, and why.
    pub(super) fn of(
        question: &OfficialQuestion,
        history: &History,
    ) -> Result<Self, (char, ProgramError)> {
        let removed = Cell::new(None);
        // The world that the shortcut takes for the answer: the removal changes nothing.
        let unchanged = |unseen| match unseen {
            Unseen::Future => Vec::new(),
            Unseen::Without(object) => {
                removed.set(Some(object));
                history.collisions()
            }
        };
        let mut answers_as_seen = true;
        for (choice, letter) in question.choices.iter().zip(letters()) {
            let program = choice.program.iter().chain(&question.program);
            let holds = match program::run(program, history, &unchanged) {
                Ok(Value::Truth(holds)) => holds,
                Ok(_) => return Err((letter, ProgramError::NoTruth)),
                Err(error) => return Err((letter, error)),
            };
            answers_as_seen &= holds == (choice.answer == Some(OfficialAnswer::Correct));
        }
        let collisions = history.collisions();
        let removed_object_uninvolved = removed
            .get()
            .is_some_and(|object| !collisions.iter().any(|event| event.involves(object)));
        Ok(Self {
            answers_as_seen,
            removed_object_uninvolved,
        })
    }

    /// The question's kind by `rule`.
    pub(super) fn kind(self, rule: KindRule) -> QuestionKind {
        let observational = match rule {
            KindRule::AnswersAsSeen => self.answers_as_seen,
            KindRule::RemovedObjectUninvolved => self.removed_object_uninvolved,
        };
        if observational {
            QuestionKind::Observational
        } else {
            QuestionKind::Inferential
        }
    }
}
