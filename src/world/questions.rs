//! Counterfactual questions about a scene, in CLEVRER's words and programs.

use super::physics::NUM_OBJECTS;
use super::scene::{Look, Scene};
use crate::config::QuestionKind;
use crate::data::clevrer::{OfficialAnswer, OfficialChoice, OfficialQuestion};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One option: two objects collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// In the order in which they are named.
    pub pair: (usize, usize),
    /// Whether they collide without the removed object.
    pub is_right: bool,
    /// Whether they collide in the video.
    pub is_seen: bool,
}

impl Choice {
    /// Whether the option names these two objects, in either order.
    pub fn is_between(&self, first: usize, second: usize) -> bool {
        self.pair == (first, second) || self.pair == (second, first)
    }
}

/// What happens without one object? Every pair of the others is an option; at least one is right, at
/// least one is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterfactual {
    /// The removed object.
    pub removed: usize,
    /// The options, in the order in which they are listed.
    pub choices: Vec<Choice>,
    /// Whether the video already shows the right ones.
    pub kind: QuestionKind,
}

impl Counterfactual {
    /// The question about one removal, with its options shuffled; none where it would not be fair.
    pub fn sample(scene: &Scene, removed: usize, rng: &mut ChaCha8Rng) -> Option<Self> {
        let kind = scene.question_kind(removed)?;
        let mut pairs = Scene::pairs_without(removed);
        pairs.shuffle(rng);
        let choices = pairs
            .iter()
            .map(|&(first, second)| Choice {
                pair: if rng.random_bool(0.5) {
                    (first, second)
                } else {
                    (second, first)
                },
                is_right: scene.without[removed].collide((first, second)),
                is_seen: scene.factual.collide((first, second)),
            })
            .collect();
        Some(Self {
            removed,
            choices,
            kind,
        })
    }

    /// Letters of the options of which `holds` is true.
    pub fn letters(&self, holds: impl Fn(&Choice) -> bool) -> Vec<char> {
        self.choices
            .iter()
            .zip('A'..)
            .filter(|(choice, _)| holds(choice))
            .map(|(_, letter)| letter)
            .collect()
    }

    /// The question as an entry of an official file.
    pub fn official(&self, scene: &Scene, question_id: usize) -> OfficialQuestion {
        let name = |object: usize| scene.looks[object].name();
        let choice = |(choice_id, choice): (usize, &Choice)| {
            let (first, second) = choice.pair;
            let mut program = vec!["all_events".to_owned()];
            for object in [first, second] {
                select(&mut program, scene.looks[object]);
                program.push("filter_collision".into());
            }
            program.push("unique".into());
            OfficialChoice {
                choice_id,
                choice: format!("The {} and the {} collide", name(first), name(second)),
                program,
                answer: Some(if choice.is_right {
                    OfficialAnswer::Correct
                } else {
                    OfficialAnswer::Wrong
                }),
            }
        };
        let mut program = vec!["all_events".to_owned()];
        select(&mut program, scene.looks[self.removed]);
        program.extend(["get_counterfact".to_owned(), "belong_to".to_owned()]);
        OfficialQuestion {
            question_id,
            question: format!("What will happen without the {}?", name(self.removed)),
            question_type: "counterfactual".into(),
            program,
            choices: self.choices.iter().enumerate().map(choice).collect(),
        }
    }
}

/// The words of a program that select an object by colour and shape.
fn select(program: &mut Vec<String>, look: Look) {
    program.extend(
        [
            "objects",
            look.color_name(),
            "filter_color",
            look.shape.name(),
            "filter_shape",
            "unique",
        ]
        .map(str::to_owned),
    );
}

/// Up to `count` questions about a scene: one of the wanted kind, then observational ones, then the rest.
pub fn sample_questions(
    scene: &Scene,
    wanted: QuestionKind,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Counterfactual> {
    let mut order: Vec<usize> = (0..NUM_OBJECTS).collect();
    order.shuffle(rng);
    let mut questions: Vec<Counterfactual> = order
        .into_iter()
        .filter_map(|removed| Counterfactual::sample(scene, removed, rng))
        .collect();
    if let Some(first) = questions
        .iter()
        .position(|question| question.kind == wanted)
    {
        questions.swap(0, first);
    }
    if let Some(others) = questions.get_mut(1..) {
        others.sort_by_key(|question| question.kind);
    }
    questions.truncate(count);
    questions
}

#[cfg(test)]
mod tests {
    use super::super::scene::{sample_scene, scene_rng};
    use super::*;

    #[test]
    fn every_question_is_fair_and_its_kind_is_what_its_options_say() {
        for index in 0..40 {
            let wanted = if index % 2 == 0 {
                QuestionKind::Inferential
            } else {
                QuestionKind::Observational
            };
            let mut rng = scene_rng(11, index);
            let scene = sample_scene(&mut rng, wanted);
            let questions = sample_questions(&scene, wanted, 3, &mut rng);
            assert_eq!(questions[0].kind, wanted);
            for question in &questions {
                let right = question.letters(|choice| choice.is_right);
                let seen = question.letters(|choice| choice.is_seen);
                assert!((1..3).contains(&right.len()) && (1..3).contains(&seen.len()));
                assert_eq!(question.kind == QuestionKind::Observational, right == seen);
                assert!(
                    question
                        .choices
                        .iter()
                        .all(|choice| choice.pair.0 != question.removed
                            && choice.pair.1 != question.removed)
                );
            }
        }
    }

    #[test]
    fn official_questions_read_like_clevrer() {
        let mut rng = scene_rng(1, 0);
        let scene = sample_scene(&mut rng, QuestionKind::Observational);
        let question = &sample_questions(&scene, QuestionKind::Observational, 1, &mut rng)[0];
        let official = question.official(&scene, 4);
        let removed = scene.looks[question.removed];
        assert_eq!(
            official.question,
            format!("What will happen without the {}?", removed.name())
        );
        assert_eq!(
            official.program.join(" "),
            format!(
                "all_events objects {} filter_color {} filter_shape unique get_counterfact belong_to",
                removed.color_name(),
                removed.shape.name()
            )
        );
        assert_eq!(official.choices.len(), 3);
        assert!(
            official.choices[0].choice.starts_with("The ")
                && official.choices[0].choice.ends_with(" collide")
        );
        let json = serde_json::to_value(&official).unwrap();
        assert!(
            json["choices"][0]["answer"] == "correct" || json["choices"][0]["answer"] == "wrong"
        );
    }
}
