//! Which of a file's questions a run is about: those of the wanted kinds, and of them as many as are drawn.

use super::Question;
use super::read::DataError;
use super::shuffle::permutation;
use crate::config::DataConfig;
use crate::config::QuestionOrder;
use crate::util::words::counted;

/// What to do where questions have no kind, which stage 1 chooses by.
pub(crate) const WITHOUT_KIND: &str = "`videothinker data label FILE --by blind --model BASE --out NEW.jsonl` gives them one (CLEVRER's: \
    `data clevrer --label`), data.assume_kind = \"observational\" says that all are so, and `train-grpo` needs no kinds";

/// Gives questions without a kind the one of `data.assume_kind`, keeps the wanted kinds and draws `data.samples` questions
/// in the order of Hugging Face `datasets.shuffle(seed).select(range(samples))`. Where there are not more than that, all are
/// taken, as the log says; with `data.order = "trainer"` in the order of the file, for the authors shuffle only what they draw
/// from.
///
/// # Errors
/// No question is of a kind in `data.kinds`.
pub fn draw(
    mut questions: Vec<Question>,
    config: &DataConfig,
    seed: u64,
) -> Result<Vec<Question>, DataError> {
    let path = &config.questions;
    assume_kind(&mut questions, config);
    keep_kinds(&mut questions, config)?;
    if questions.is_empty() {
        return Err(DataError::Empty {
            path: path.clone(),
            problem: "holds no question".into(),
        });
    }
    if let Some(samples) = config.samples {
        if samples == 0 {
            return Err(DataError::Empty {
                path: path.clone(),
                problem: "data.samples = 0 draws none: set it to 1 or more, or leave it out".into(),
            });
        }
        let available = questions.len();
        if let Some(message) = too_few(samples, available) {
            tracing::warn!("{}: {message}", path.display());
        }
        if config.order == QuestionOrder::Trainer && samples >= available {
            return Ok(questions);
        }
        let mut slots: Vec<Option<Question>> = questions.into_iter().map(Some).collect();
        questions = permutation(&[seed], available)
            .into_iter()
            .take(samples)
            .filter_map(|row| slots[row].take())
            .collect();
    }
    Ok(questions)
}

/// What to say when there are fewer than `samples` questions to draw from.
pub fn too_few(samples: usize, available: usize) -> Option<String> {
    (available < samples).then(|| {
        format!(
            "data.samples = {samples}, but there is a total of {} to draw from: all are taken",
            counted(available, "question")
        )
    })
}

/// Gives the questions without a kind the one that `data.assume_kind` names, and says how many.
fn assume_kind(questions: &mut [Question], config: &DataConfig) {
    let Some(kind) = config.assume_kind else {
        return;
    };
    let total = questions.len();
    let unlabelled = questions
        .iter_mut()
        .filter(|question| question.kind.is_none());
    let assumed = unlabelled
        .map(|question| question.kind = Some(kind))
        .count();
    if assumed > 0 {
        tracing::info!(
            "{assumed} of {total} questions have no kind: taken for {} (data.assume_kind)",
            kind.as_str()
        );
    }
}

/// Keeps the questions of the kinds in `data.kinds`.
fn keep_kinds(questions: &mut Vec<Question>, config: &DataConfig) -> Result<(), DataError> {
    if config.kinds.is_empty() {
        return Ok(());
    }
    let total = questions.len();
    let unlabelled = questions
        .iter()
        .filter(|question| question.kind.is_none())
        .count();
    questions.retain(|question| {
        question
            .kind
            .is_some_and(|kind| config.kinds.contains(&kind))
    });
    let kinds: Vec<&str> = config.kinds.iter().map(|kind| kind.as_str()).collect();
    let kinds = kinds.join(" or ");
    if questions.is_empty() {
        let problem = if unlabelled == 0 {
            format!(
                "none of its {total} questions is of kind {kinds}: take another file, or train on questions of every kind with \
                 `videothinker train-grpo`; for train-cdpo and eval, change data.kinds"
            )
        } else {
            format!(
                "none of its {total} questions is of kind {kinds}, {unlabelled} have no kind. {WITHOUT_KIND}"
            )
        };
        return Err(DataError::Empty {
            path: config.questions.clone(),
            problem,
        });
    }
    if unlabelled > 0 {
        tracing::warn!(
            "{}: {unlabelled} of {total} questions have no kind and are left out. {WITHOUT_KIND}",
            config.questions.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::QuestionKind;
    use serde_json::json;

    /// Ten questions, every third inferential.
    fn questions() -> Vec<Question> {
        let question = |index: usize| {
            let kind = if index.is_multiple_of(3) {
                "inferential"
            } else {
                "observational"
            };
            let question = json!({
                "id": format!("q{index}"), "problem": "Q?", "solution": "A", "video": format!("{index}.mp4"), "kind": kind,
            });
            serde_json::from_value(question).unwrap()
        };
        (0..10).map(question).collect()
    }

    /// The ids of what is drawn of [`questions`].
    fn drawn(config: &DataConfig) -> Vec<String> {
        ids(draw(questions(), config, 42).unwrap())
    }

    fn ids(questions: Vec<Question>) -> Vec<String> {
        questions.into_iter().map(|question| question.id).collect()
    }

    #[test]
    fn draws_like_hugging_face() {
        let mut config = DataConfig {
            samples: Some(4),
            ..DataConfig::default()
        };
        let expected: Vec<String> = permutation(&[42], 10)[..4]
            .iter()
            .map(|row| format!("q{row}"))
            .collect();
        assert_eq!(drawn(&config), expected);
        config.order = QuestionOrder::Trainer;
        assert_eq!(drawn(&config), expected);
        config.samples = Some(0);
        let message = draw(questions(), &config, 42).unwrap_err().to_string();
        assert!(message.contains("data.samples = 0"), "{message}");
    }

    #[test]
    fn where_there_are_not_more_all_are_taken() {
        let mut config = DataConfig::default();
        let in_file: Vec<String> = (0..10).map(|row| format!("q{row}")).collect();
        for samples in [10, 11] {
            config.samples = Some(samples);
            config.order = QuestionOrder::Drawn;
            assert_eq!(drawn(&config).len(), 10);
            config.order = QuestionOrder::Trainer;
            assert_eq!(drawn(&config), in_file);
        }
        assert_eq!(too_few(10, 10), None);
        let message = too_few(11, 10).unwrap();
        assert!(
            message.contains("data.samples = 11") && message.contains("10 questions"),
            "{message}"
        );
    }

    #[test]
    fn filters_kinds_before_drawing() {
        let config = DataConfig {
            kinds: vec![QuestionKind::Inferential],
            ..DataConfig::default()
        };
        assert_eq!(drawn(&config), ["q0", "q3", "q6", "q9"]);
    }

    #[test]
    fn questions_without_a_kind_take_the_assumed_one() {
        let mut bare = questions();
        for question in &mut bare {
            question
                .kind
                .take_if(|kind| *kind == QuestionKind::Observational);
        }
        let draw = |questions: &[Question], config: &DataConfig| {
            draw(questions.to_vec(), config, 1).map_err(|error| error.to_string())
        };
        let mut config = DataConfig {
            kinds: vec![QuestionKind::Observational],
            ..DataConfig::default()
        };
        let message = draw(&bare, &config).unwrap_err();
        for part in [
            "6 have no kind",
            "data label FILE --by",
            "data.assume_kind",
            "data clevrer --label",
            "train-grpo",
        ] {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        config.assume_kind = Some(QuestionKind::Observational);
        let drawn = draw(&bare, &config).unwrap();
        assert_eq!(ids(drawn), ["q1", "q2", "q4", "q5", "q7", "q8"]);
        config.kinds = vec![QuestionKind::Inferential];
        let drawn = draw(&bare, &config).unwrap();
        assert_eq!(ids(drawn), ["q0", "q3", "q6", "q9"], "a kind is kept");
        config.assume_kind = None;
        assert_eq!(draw(&bare, &config).unwrap().len(), 4);
        config.kinds = vec![QuestionKind::Observational];
        let mut inferential = questions();
        for question in &mut inferential {
            question.kind = Some(QuestionKind::Inferential);
        }
        let message = draw(&inferential, &config).unwrap_err();
        assert!(message.contains("change data.kinds"), "{message}");
    }
}
