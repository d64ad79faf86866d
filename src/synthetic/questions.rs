//! Counterfactual questions about a scene, in CLEVRER's words and programs.

use super::physics::NUM_OBJECTS;
use super::scene::{Look, Scene};
use super::spec::Topic;
use crate::config::QuestionKind;
use crate::data::clevrer::{OfficialAnswer, OfficialChoice, OfficialQuestion};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One option: two objects collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    /// In the order in which they are named: that of CLEVRER's colours, so that a pair has one name.
    pub(crate) pair: (usize, usize),
    /// Whether they collide without the removed object.
    pub(crate) is_right: bool,
    /// Whether they collide in the video.
    pub(crate) is_seen: bool,
}

/// What happens without one object? Every pair of the others is an option; at least one is right, at
/// least one is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counterfactual {
    /// The removed object.
    pub(crate) removed: usize,
    /// The options, in the order in which they are listed.
    pub(crate) choices: Vec<Choice>,
    /// Whether the video already shows the right ones.
    pub(crate) kind: QuestionKind,
}

impl Counterfactual {
    /// The question about one removal, with its options shuffled; none where it would not be fair.
    pub(crate) fn sample(scene: &Scene, removed: usize, rng: &mut ChaCha8Rng) -> Option<Self> {
        Some(Self {
            removed,
            choices: shuffled_choices(scene, removed, rng),
            kind: scene.question_kind(removed)?,
        })
    }

    /// Letters of the options of which `holds` is true.
    pub(crate) fn letters(&self, holds: impl Fn(&Choice) -> bool) -> Vec<char> {
        self.choices
            .iter()
            .zip('A'..)
            .filter(|(choice, _)| holds(choice))
            .map(|(_, letter)| letter)
            .collect()
    }

    /// The question as an entry of an official file.
    pub(crate) fn official(&self, scene: &Scene, question_id: usize) -> OfficialQuestion {
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
            question_subtype: None,
            program,
            answer: None,
            choices: self.choices.iter().enumerate().map(choice).collect(),
        }
    }
}

/// The pairs that are left when one object is removed, as options in a random order.
pub(crate) fn shuffled_choices(scene: &Scene, removed: usize, rng: &mut ChaCha8Rng) -> Vec<Choice> {
    let mut pairs = Scene::pairs_without(removed);
    pairs.shuffle(rng);
    let choice = |&(first, second): &(usize, usize)| Choice {
        pair: scene.in_color_order(first, second),
        is_right: scene.without[removed].collide((first, second)),
        is_seen: scene.factual.collide((first, second)),
    };
    pairs.iter().map(choice).collect()
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

/// Up to `count` questions about a scene: one of this topic, then observational ones, then the rest.
pub(crate) fn sample_questions(
    scene: &Scene,
    topic: Topic,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Counterfactual> {
    let mut order: Vec<usize> = (0..NUM_OBJECTS).collect();
    order.shuffle(rng);
    if let Some(first) = order
        .iter()
        .position(|removed| scene.topic(*removed) == Some(topic))
    {
        order.swap(0, first);
    }
    order[1..].sort_by_key(|removed| scene.question_kind(*removed));
    order
        .into_iter()
        .filter_map(|removed| Counterfactual::sample(scene, removed, rng))
        .take(count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::scene::{sample_scene, scene_rng};
    use super::super::spec::MINI;
    use super::*;

    #[test]
    fn every_question_is_fair_and_its_kind_is_what_its_options_say() {
        for (index, topic) in MINI
            .topics(40, MINI.inferential_share())
            .into_iter()
            .enumerate()
        {
            let mut rng = scene_rng(11, index);
            let scene = sample_scene(&mut rng, topic);
            let questions = sample_questions(&scene, topic, 3, &mut rng);
            assert_eq!(scene.topic(questions[0].removed), Some(topic));
            for question in &questions {
                let right = question.letters(|choice| choice.is_right);
                let seen = question.letters(|choice| choice.is_seen);
                assert!((1..3).contains(&right.len()) && (1..3).contains(&seen.len()));
                assert_eq!(question.kind == QuestionKind::Observational, right == seen);
                let removed = question.removed;
                assert!(
                    question
                        .choices
                        .iter()
                        .all(|choice| choice.pair.0 != removed && choice.pair.1 != removed)
                );
            }
        }
    }

    #[test]
    fn no_constant_answer_is_good() {
        let mut answers = std::collections::BTreeMap::new();
        let topics = MINI.topics(600, MINI.inferential_share());
        for (index, topic) in topics.iter().enumerate() {
            let mut rng = scene_rng(12, index);
            let scene = sample_scene(&mut rng, *topic);
            let question = &sample_questions(&scene, *topic, 1, &mut rng)[0];
            *answers
                .entry(question.letters(|choice| choice.is_right))
                .or_insert(0) += 1;
        }
        let best = answers.values().max().unwrap();
        assert!(*best < 600 * 3 / 10, "{answers:?}");
        let with_letter = |letter: char| -> usize {
            answers
                .iter()
                .filter(|(letters, _)| letters.contains(&letter))
                .map(|(_, count)| count)
                .sum()
        };
        let counts = ['A', 'B', 'C'].map(with_letter);
        assert!(
            counts.iter().max().unwrap() - counts.iter().min().unwrap() < 75,
            "{counts:?}"
        );
    }

    #[test]
    fn official_questions_read_like_clevrer() {
        let mut rng = scene_rng(1, 0);
        let scene = sample_scene(&mut rng, Topic::InvolvedOfTwo);
        let question = &sample_questions(&scene, Topic::InvolvedOfTwo, 1, &mut rng)[0];
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
