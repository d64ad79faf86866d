//! What the bias model answered to the training questions, where the KL term acts only in completions that answer likewise.

use crate::config::Config;
use crate::config::Extraction;
use crate::config::RewardedAnswer;
use crate::data::Answer;
use crate::data::Question;
use crate::eval::error::EvalError;
use crate::eval::fingerprint;
use crate::eval::prediction::Prediction;
use crate::eval::stored;
use crate::rl::Truth;
use crate::util::hash::Fnv;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

/// Why an evaluation does not say what the bias model answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BiasAnswersError {
    /// The evaluation cannot be read.
    #[error("kl.bias_answers: {0}")]
    Evaluation(#[from] EvalError),
    /// A training question that was not asked, or whose clip was skipped.
    #[error(
        "kl.bias_answers: {} has no answer to question {id} of {} ({missing} of {asked} training questions have none): \
         evaluate the bias model on all of them (eval run --model BIAS --set data.questions={} --out FOLDER), and name that folder",
        path.display(), questions.display(), questions.display()
    )]
    Missing {
        /// The evaluation's answers.
        path: PathBuf,
        /// The first such question.
        id: String,
        /// The training questions.
        questions: PathBuf,
        missing: usize,
        asked: usize,
    },
    /// Another model was evaluated.
    #[error(
        "kl.bias_answers: {} holds the answers of {evaluated}, whose weights are not those of model.bias_model ({bias_model}): \
         evaluate that model on the training questions, and name the folder of that evaluation",
        path.display()
    )]
    OtherModel {
        /// The evaluation.
        path: PathBuf,
        evaluated: String,
        bias_model: String,
    },
    /// The run began with other answers.
    #[error(
        "kl.bias_answers: the answers in {} are not those that {} was trained with: put those back, or start anew in another \
         output_dir",
        path.display(), checkpoint.display()
    )]
    Changed {
        /// The evaluation.
        path: PathBuf,
        checkpoint: PathBuf,
    },
    /// The evaluation asked something else.
    #[error(
        "kl.bias_answers: what {} answers as question {id} is not what {} asks under this id: evaluate the bias model on these \
         questions, and name the folder of that evaluation",
        path.display(), questions.display()
    )]
    OtherQuestion {
        /// The evaluation's answers.
        path: PathBuf,
        id: String,
        /// The training questions.
        questions: PathBuf,
    },
}

/// What a model answered to the training questions.
#[derive(Debug)]
pub(crate) struct BiasAnswers {
    /// By a question's id; `None` where it gave no answer.
    answers: BTreeMap<String, Option<Answer>>,
    /// How the reward reads an answer.
    reading: RewardedAnswer,
    /// The evaluation.
    folder: PathBuf,
    /// The model as it was named there.
    evaluated: String,
    /// The fingerprint of its weights.
    weights: String,
}

impl BiasAnswers {
    /// Reads the evaluation that the config names, if it names one.
    ///
    /// # Errors
    /// An evaluation that is not finished, or does not answer each of `questions`.
    pub(crate) fn load(
        config: &Config,
        questions: &[Question],
    ) -> Result<Option<Self>, BiasAnswersError> {
        let Some(folder) = &config.kl.bias_answers else {
            return Ok(None);
        };
        let (scores, predictions) = stored::read(folder)?;
        let reading = config.reward.answer;
        let asked_in = &config.data.questions;
        let answers = answers(predictions, questions, folder, asked_in, reading)?;
        Ok(Some(Self {
            answers,
            reading,
            folder: folder.clone(),
            evaluated: scores.settings.model,
            weights: scores.settings.weights,
        }))
    }

    /// Refuses answers of another model than the one called `name`, whose files are in `folder`.
    ///
    /// # Errors
    /// [`BiasAnswersError::OtherModel`], or a folder that cannot be read.
    pub(super) fn check_model(&self, name: &str, folder: &Path) -> Result<(), BiasAnswersError> {
        if fingerprint::of_weights(folder)? == self.weights {
            return Ok(());
        }
        Err(BiasAnswersError::OtherModel {
            path: self.folder.clone(),
            evaluated: self.evaluated.clone(),
            bias_model: name.to_owned(),
        })
    }

    /// Refuses to go on from `checkpoint` with other answers than those whose fingerprint was `saved` there.
    ///
    /// # Errors
    /// [`BiasAnswersError::Changed`].
    pub(super) fn check_same(&self, saved: u64, checkpoint: &Path) -> Result<(), BiasAnswersError> {
        if self.fingerprint() == saved {
            return Ok(());
        }
        Err(BiasAnswersError::Changed {
            path: self.folder.clone(),
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// Whether `completion` answers a question as the bias model did. One without an answer agrees with none.
    pub(super) fn agrees(&self, question: &Question, completion: &str) -> bool {
        let answer = self.answers.get(&question.id).and_then(Option::as_ref);
        answer.is_some()
            && answer
                == Truth::of(question)
                    .answer_in(completion, self.reading)
                    .as_ref()
    }

    /// A number that other answers would not give.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::default();
        for (id, answer) in &self.answers {
            let answer = answer.as_ref().map(Answer::to_string);
            for part in [id.as_str(), answer.as_deref().unwrap_or("")] {
                hash.add(&part.len().to_le_bytes());
                hash.add(part.as_bytes());
            }
        }
        hash.value()
    }
}

/// Each training question's answer, by its id.
fn answers(
    predictions: Vec<Prediction>,
    questions: &[Question],
    folder: &Path,
    asked_in: &Path,
    reading: RewardedAnswer,
) -> Result<BTreeMap<String, Option<Answer>>, BiasAnswersError> {
    let path = || folder.join("outputs.jsonl");
    let mut by_id: BTreeMap<String, Prediction> = predictions
        .into_iter()
        .map(|one| (one.id.clone(), one))
        .collect();
    let has_none = |question: &&Question| !by_id.contains_key(&question.id);
    if let Some(first) = questions.iter().find(has_none) {
        return Err(BiasAnswersError::Missing {
            path: path(),
            id: first.id.clone(),
            questions: asked_in.to_owned(),
            missing: questions.iter().filter(has_none).count(),
            asked: questions.len(),
        });
    }
    let mut answers = BTreeMap::new();
    for question in questions {
        let Some(mut one) = by_id.remove(&question.id) else {
            continue;
        };
        if one.question != question.text() {
            return Err(BiasAnswersError::OtherQuestion {
                path: path(),
                id: one.id,
                questions: asked_in.to_owned(),
            });
        }
        // Whatever rule the evaluation has read it by.
        one.score(match reading {
            RewardedAnswer::Training => Extraction::Training.into(),
            RewardedAnswer::Strict => Extraction::Strict.into(),
        });
        let answer = Truth::of(question).answer_in(&one.answer, reading);
        answers.insert(one.id, answer);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(id: &str) -> Question {
        let line = format!(
            r#"{{"id":"{id}","problem":"Why {id}?","solution":"<answer>A</answer>","video":"a.mp4"}}"#
        );
        serde_json::from_str(&line).unwrap()
    }

    fn prediction(id: &str, samples: &[&str]) -> Prediction {
        let samples = samples.iter().map(|completion| {
            serde_json::json!({"completion": completion, "truncated": false, "tokens": 1})
        });
        let line = serde_json::json!({
            "id": id, "video": "a.mp4", "question": format!("Why {id}?"), "solution": "A",
            "samples": samples.collect::<Vec<_>>(), "answer": "none of them",
        });
        serde_json::from_value(line).unwrap()
    }

    fn of(
        predictions: Vec<Prediction>,
        questions: &[&str],
    ) -> Result<BiasAnswers, BiasAnswersError> {
        let questions: Vec<Question> = questions.iter().map(|id| question(id)).collect();
        let (folder, file) = (Path::new("bias-eval"), Path::new("train.json"));
        Ok(BiasAnswers {
            answers: answers(
                predictions,
                &questions,
                folder,
                file,
                RewardedAnswer::Training,
            )?,
            reading: RewardedAnswer::Training,
            folder: folder.to_owned(),
            evaluated: "bias".to_owned(),
            weights: String::new(),
        })
    }

    #[test]
    fn completions_agree_as_the_reward_compares() {
        let set = "<think>B, so</think><answer>C, A</answer>";
        let answers = [
            prediction("1", &[set]),
            prediction("2", &["<answer> </answer>"]),
            prediction("3", &["<answer>B</answer>", set, "<answer>A,C</answer>"]),
        ];
        let answers = of(answers.to_vec(), &["1", "2", "3"]).unwrap();
        for id in ["1", "3"] {
            for same in [
                "<answer>A,C</answer>",
                "x <answer> C ,A </answer>",
                "A, C",
                "<answer>A,C</answer><answer>B</answer>",
            ] {
                assert!(answers.agrees(&question(id), same), "{id} {same}");
            }
            for other in [
                "<answer>A</answer>",
                "<answer>A,B,C</answer>",
                "<answer>a,c</answer>",
                "<answer>A,C",
                "<answer></answer>",
                "",
            ] {
                assert!(!answers.agrees(&question(id), other), "{id} {other}");
            }
        }
        // Nothing is no answer to agree on.
        for nothing in ["<answer></answer>", "", "<answer>,</answer>"] {
            assert!(!answers.agrees(&question("2"), nothing), "{nothing}");
        }
        assert!(!answers.agrees(&question("4"), "A"));
    }

    #[test]
    fn every_training_question_has_its_own_answer() {
        let one = || prediction("1", &["A"]);
        let message =
            |predictions, questions: &[&str]| of(predictions, questions).unwrap_err().to_string();
        let missing = message(vec![one()], &["1", "2", "3"]);
        for part in [
            "outputs.jsonl has no answer to question 2 of train.json",
            "2 of 3",
            "eval run --model BIAS --set data.questions=train.json",
        ] {
            assert!(missing.contains(part), "{missing}");
        }
        let mut other = one();
        other.question.push('?');
        let other = message(vec![other], &["1"]);
        assert!(other.contains("answers as question 1 is not what train.json asks"));
        // More answers than questions do no harm, and count for nothing.
        let of_one = of(vec![one()], &["1"]).unwrap().fingerprint();
        let more = vec![one(), prediction("2", &["A"])];
        assert_eq!(of(more, &["1"]).unwrap().fingerprint(), of_one);
        let changed = of(vec![prediction("1", &["B"])], &["1"]).unwrap();
        assert_ne!(changed.fingerprint(), of_one);
    }
}
