//! Would a right answer be right? Each question's solution, written as a model is asked to write it, goes through the tokenizer
//! and the chat template and back, and must earn the whole reward. What does not, never can: a run would go on for hours at an
//! accuracy of 0.

use super::Reward;
use super::Truth;
use crate::config::RewardConfig;
use crate::data::Question;
use crate::data::answer::answer_text;
use crate::data::unanswerable;
use crate::prompt::Processor;
use crate::prompt::PromptError;
use rayon::iter::Either;
use rayon::iter::IntoParallelIterator;
use rayon::iter::IntoParallelRefIterator;
use rayon::iter::ParallelIterator;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

/// What keeps a right answer from its reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Obstacle {
    /// The solution itself.
    Solution,
    /// What the tokenizer makes of the answer's text.
    Tokenizer,
    /// What the chat template writes around it.
    Template,
}

/// Right answers that earn less than they should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("a right answer to {questions} of {asked} questions would not earn the full reward: the {} is in the way; {reason}", obstacle.as_str())]
pub(crate) struct Hindrance {
    /// What is in the way.
    pub(crate) obstacle: Obstacle,
    /// How many questions are concerned.
    pub(crate) questions: usize,
    /// Of how many.
    pub(crate) asked: usize,
    /// The first of them, what happens to its answer, and what to do.
    pub(crate) reason: String,
}

impl Obstacle {
    /// The word in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Solution => "solution",
            Self::Tokenizer => "tokenizer",
            Self::Template => "chat template",
        }
    }
}

/// The thinking in an honest completion.
const THOUGHT: &str = "I watched the clip.";

/// At most so many different plain answers go through the tokenizer; those with other letters than ASCII's all do.
const PLAIN_ANSWERS: usize = 2_000;

/// What a model would write that knows the answer, behind the words with which the template begins its turn.
fn honest_completion(begun: &str, solution: &str) -> String {
    let answer = format!("<answer>{}</answer>", answer_text(solution));
    if begun.contains("</think>") {
        answer
    } else if begun.contains("<think>") {
        format!("{THOUGHT}\n</think>\n{answer}")
    } else {
        format!("<think>\n{THOUGHT}\n</think>\n{answer}")
    }
}

/// The questions whose right answer does not earn its reward: their ids, and what happens to it.
type Found<'a> = Vec<(&'a str, String)>;

/// Looks for what keeps right answers from the whole reward; `model` is the model's processor and the folder it was read from.
/// Without one only the solutions are looked at.
///
/// # Errors
/// A tokenizer or template that fails.
pub(crate) fn hindrances(
    questions: &[Question],
    reward: &RewardConfig,
    model: Option<(&Processor, &Path)>,
) -> Result<Vec<Hindrance>, PromptError> {
    let hindrance = |obstacle, found: &Found| {
        let (question, reason) = found.first()?;
        Some(Hindrance {
            obstacle,
            questions: found.len(),
            asked: questions.len(),
            reason: format!("the first, question {question}: {reason}"),
        })
    };
    let (sound, by_solution) = by_solution(questions, reward);
    let mut found = Vec::from_iter(hindrance(Obstacle::Solution, &by_solution));
    let Some((processor, folder)) = model else {
        return Ok(found);
    };
    let begun = match processor.begun() {
        Ok(begun) => begun,
        Err(error @ PromptError::NoTurn) => {
            found.push(Hindrance {
                obstacle: Obstacle::Template,
                questions: questions.len(),
                asked: questions.len(),
                reason: format!("{}: {error}", folder.display()),
            });
            return Ok(found);
        }
        Err(other) => return Err(other),
    };
    let read_back = read_back(&sound, processor, &begun)?;
    let (mut by_tokenizer, mut by_template) = (Found::new(), Found::new());
    for (question, truth) in &sound {
        let rest = honest_completion(&begun, &question.solution);
        let Some(back) = read_back.get(&rest) else {
            continue;
        };
        let id = question.id.as_str();
        if earns(truth, &format!("{begun}{back}"), reward) {
            continue;
        }
        let folder = folder.display();
        if earns(truth, &format!("{begun}{rest}"), reward) {
            let reason = format!("the tokenizer in {folder} gives {rest:?} back as {back:?}");
            by_tokenizer.push((id, reason));
        } else {
            let reason = format!(
                "the template in {folder} begins the model's turn with {begun:?}, and no completion of that has the format; take the \
                 template of the model that this one was made from"
            );
            by_template.push((id, reason));
        }
    }
    found.extend(hindrance(Obstacle::Tokenizer, &by_tokenizer));
    found.extend(hindrance(Obstacle::Template, &by_template));
    Ok(found)
}

fn earns(truth: &Truth, text: &str, reward: &RewardConfig) -> bool {
    Reward::score(text, truth, reward).total(reward)
        >= reward.accuracy_weight + reward.format_weight
}

/// The questions whose solution is right by itself, and those whose is not. What a judge scores is neither.
fn by_solution<'a>(
    questions: &'a [Question],
    reward: &RewardConfig,
) -> (Vec<(&'a Question, Truth)>, Found<'a>) {
    let scored = questions
        .par_iter()
        .filter(|question| question.judge.is_none());
    let scored = scored.map(|question| {
        let truth = Truth::of(question);
        let text = honest_completion("", &question.solution);
        let reason = unanswerable(question).map(|flaw| flaw.reason).or_else(|| {
            (!earns(&truth, &text, reward)).then(|| {
                let solution = &question.solution;
                format!("the solution {solution:?}, written as an answer, is not right by the reward's own rule")
            })
        });
        match reason {
            None => Either::Left((question, truth)),
            Some(reason) => Either::Right((question.id.as_str(), reason)),
        }
    });
    scored.partition_map(|one| one)
}

/// What comes back from the tokenizer for the different completions of some questions.
fn read_back(
    questions: &[(&Question, Truth)],
    processor: &Processor,
    begun: &str,
) -> Result<BTreeMap<String, String>, PromptError> {
    let mut texts: BTreeSet<String> = BTreeSet::new();
    let mut plain = 0;
    for (question, _) in questions {
        let text = honest_completion(begun, &question.solution);
        if texts.contains(&text) || text.is_ascii() && plain == PLAIN_ANSWERS {
            continue;
        }
        plain += usize::from(text.is_ascii());
        texts.insert(text);
    }
    texts
        .into_par_iter()
        .map(|text| {
            let back = processor.decode(&processor.encode(&text)?)?;
            Ok((text, back))
        })
        .collect()
}

/// Refuses a run in which no right answer can earn the full reward, and warns of one in which some cannot.
///
/// # Errors
/// What is in the way of all; a tokenizer or template that fails.
pub(crate) fn refuse_hopeless(
    questions: &[Question],
    reward: &RewardConfig,
    processor: &Processor,
    folder: &Path,
) -> anyhow::Result<()> {
    if let Ok(begun) = processor.begun()
        && !begun.trim().is_empty()
    {
        tracing::info!(
            "the chat template begins every completion with {begun:?}, which counts as written by the model"
        );
    }
    for one in hindrances(questions, reward, Some((processor, folder)))? {
        if one.questions == one.asked {
            return Err(one.into());
        }
        tracing::warn!("{one}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RewardedAnswer;
    use serde_json::json;

    fn questions(solutions: &[&str]) -> Vec<Question> {
        let question = |(index, solution): (usize, &&str)| {
            serde_json::from_value(json!({
                "id": index.to_string(), "problem": "Where?\nA. left\nB. right", "solution": solution, "video": "a.mp4",
            }))
            .unwrap()
        };
        solutions.iter().enumerate().map(question).collect()
    }

    #[test]
    fn an_honest_completion_goes_on_where_the_template_has_begun() {
        let whole = honest_completion("", "<answer>B</answer>");
        assert_eq!(
            whole,
            "<think>\nI watched the clip.\n</think>\n<answer>B</answer>"
        );
        let rest = honest_completion("<think>\n", "B");
        assert_eq!(format!("<think>\n{rest}"), whole);
        assert_eq!(
            honest_completion("<think>\n\n</think>\n\n", "B"),
            "<answer>B</answer>"
        );
    }

    #[test]
    fn solutions_that_no_answer_can_equal_are_counted() {
        for answer in [RewardedAnswer::Training, RewardedAnswer::Strict] {
            let reward = RewardConfig {
                answer,
                ..RewardConfig::default()
            };
            let fine = questions(&["A", "<answer>B</answer>", "A,B", "B,"]);
            assert_eq!(hindrances(&fine, &reward, None).unwrap(), []);
            let found = hindrances(&questions(&["A", "F", "A or B"]), &reward, None).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].questions, found[0].asked), (2, 3));
            let said = found[0].to_string();
            assert!(
                said.contains("2 of 3 questions") && said.contains("the solution is in the way"),
                "{said}"
            );
            assert!(said.contains("question 1: the solution \"F\""), "{said}");
        }
    }
}
