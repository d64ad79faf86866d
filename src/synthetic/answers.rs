//! Worked answers to learn from, in two styles, and questions about single objects that teach to see.
//!
//! The *observer* tells what happens in the video and answers from that; the *thinker* then tells what
//! happens without the object. Both are right on observational questions, only the thinker on
//! inferential ones.

use super::physics::Vector;
use super::questions::Counterfactual;
use super::scene::{Look, Scene};
use super::spec::MINI;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// The word for who thinks the object away, in files.
pub(crate) const THINKER: &str = "thinker";

/// How a worked answer argues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Style {
    /// Takes what is seen for the answer.
    Observer,
    /// Thinks the object away first: whether it takes each option to happen then.
    Thinker(Vec<bool>),
}

impl Style {
    /// A thinker whose verdict on an option is wrong with probability `noise`, each by itself. As the observer, it takes
    /// at least one option to happen: verdicts by which none does are drawn again.
    pub(crate) fn thinker(question: &Counterfactual, noise: f64, rng: &mut ChaCha8Rng) -> Self {
        let truth = question.choices.iter().map(|choice| choice.is_right);
        let truth: Vec<bool> = truth.collect();
        if noise <= 0.0 {
            return Self::Thinker(truth);
        }
        loop {
            let verdicts = truth.iter().map(|right| *right != rng.random_bool(noise));
            let verdicts: Vec<bool> = verdicts.collect();
            if verdicts.contains(&true) {
                return Self::Thinker(verdicts);
            }
        }
    }

    /// The word used in files.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Thinker(_) => THINKER,
        }
    }
}

/// The worked answer to a question: option by option, what happens in the video, and for the thinker once more
/// without the object. The letters are those of the last verdicts.
pub(crate) fn worked_answer(scene: &Scene, question: &Counterfactual, style: &Style) -> String {
    let seen = question.choices.iter().map(|choice| choice.is_seen);
    let seen: Vec<bool> = seen.collect();
    let (thought, last) = match style {
        Style::Observer => (String::new(), &seen),
        Style::Thinker(imagined) => {
            let removed = scene.looks[question.removed].name();
            let told = go_through(scene, question, imagined);
            (format!(" Without the {removed} {told}."), imagined)
        }
    };
    let letters = last.iter().zip('A'..).filter(|(happens, _)| **happens);
    let letters: Vec<String> = letters.map(|(_, letter)| letter.to_string()).collect();
    format!(
        "<think>In the video {}.{thought}</think><answer>{}</answer>",
        go_through(scene, question, &seen),
        letters.join(", ")
    )
}

/// `A: the red cube and the blue sphere collide, B: the red cube and the gray sphere do not, …`
fn go_through(scene: &Scene, question: &Counterfactual, happens: &[bool]) -> String {
    let options = question.choices.iter().zip('A'..).zip(happens);
    let options = options.map(|((choice, letter), happens)| {
        let verdict = if *happens { "collide" } else { "do not" };
        format!("{letter}: {} {verdict}", pair(scene, choice.pair))
    });
    options.collect::<Vec<_>>().join(", ")
}

/// `the red cube and the blue sphere`, in CLEVRER's order of colours.
fn pair(scene: &Scene, (first, second): (usize, usize)) -> String {
    let (first, second) = scene.in_color_order(first, second);
    let name = |object: usize| scene.looks[object].name();
    format!("the {} and the {}", name(first), name(second))
}

/// The question what happens in the clip.
pub(crate) const EVENTS_QUESTION: &str = "What happens?";

/// Its answer: every collision of the video in order of time.
pub(crate) fn events_answer(scene: &Scene) -> String {
    let collisions = scene.factual.collisions.iter();
    let told = collisions.map(|event| pair(scene, (event.agent, event.target)) + " collide");
    told.collect::<Vec<_>>().join(", then ")
}

/// The question whether two objects collide in the video, or without an object.
pub(crate) fn pair_question(
    scene: &Scene,
    objects: (usize, usize),
    removed: Option<usize>,
) -> String {
    let without = removed.map_or(String::new(), |removed| {
        format!(" without the {}", scene.looks[removed].name())
    });
    format!("Do {} collide{without}?", pair(scene, objects))
}

pub(crate) fn pair_answer(
    scene: &Scene,
    objects: (usize, usize),
    removed: Option<usize>,
) -> String {
    let outcome = removed.map_or(&scene.factual, |removed| &scene.without[removed]);
    let verdict = if outcome.collide(objects) {
        "yes"
    } else {
        "no"
    };
    verdict.to_owned()
}

/// The question how one object moves.
pub(crate) fn motion_question(scene: &Scene, object: usize) -> String {
    format!("How does the {} move?", scene.looks[object].name())
}

/// Its answer: a word for each pair of sampled frames that the model sees as one.
pub(crate) fn motion_answer(scene: &Scene, object: usize) -> String {
    let inside = -MINI.radius..MINI.side() as f64 + MINI.radius;
    let words: Vec<&str> = (0..MINI.num_grids())
        .map(|grid| {
            let [from, to] = seen_in(scene, grid, object);
            if to.iter().all(|value| inside.contains(value)) {
                direction(from, to)
            } else {
                "gone"
            }
        })
        .collect();
    words.join(" ")
}

/// The question what stands in the picture.
pub(crate) const INVENTORY_QUESTION: &str = "What is there?";

/// Its answer, in CLEVRER's order of colours.
pub(crate) fn inventory_answer(scene: &Scene) -> String {
    let mut looks = scene.looks;
    looks.sort_by_key(|look| look.color);
    looks.map(Look::name).join("; ")
}

/// What each video token shows: its index (grids, rows, columns) and the words for colour, shape and
/// motion of the objects whose centre lies in it, and what they have just run into. Tokens that are not
/// named show nothing.
pub(crate) fn grounding(scene: &Scene) -> Vec<(usize, String)> {
    let side = MINI.cells_per_side;
    let mut tokens: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for grid in 0..MINI.num_grids() {
        for (object, look) in scene.looks.iter().enumerate() {
            let [from, to] = seen_in(scene, grid, object);
            let cell = [0, 1].map(|axis| (f64::midpoint(from[axis], to[axis]) / MINI.cell).floor());
            if cell.iter().all(|place| (0.0..side as f64).contains(place)) {
                let token = (grid * side + cell[1] as usize) * side + cell[0] as usize;
                let mut words = format!("{} {}", look.name(), direction(from, to));
                for other in partners(scene, grid, object) {
                    words += &format!(" collide {}", scene.looks[other].name());
                }
                tokens.entry(token).or_default().push(words);
            }
        }
    }
    let joined = |(token, words): (usize, Vec<String>)| (token, words.join(" "));
    tokens.into_iter().map(joined).collect()
}

/// What an object has run into when a temporal grid shows the next sampled frame.
fn partners(scene: &Scene, grid: usize, object: usize) -> impl Iterator<Item = usize> {
    let collisions = scene.factual.collisions.iter();
    collisions.filter_map(move |event| {
        let partner = match object {
            object if object == event.agent => event.target,
            object if object == event.target => event.agent,
            _ => return None,
        };
        (event.time.ceil() as usize / 2 == grid).then_some(partner)
    })
}

/// Where an object is in the two sampled frames of a temporal grid.
fn seen_in(scene: &Scene, grid: usize, object: usize) -> [Vector; 2] {
    [2 * grid, 2 * grid + 1]
        .map(|sample| scene.factual.frames[sample * MINI.frames_per_sample][object].position)
}

fn direction(from: Vector, to: Vector) -> &'static str {
    let (right, down) = (to[0] - from[0], to[1] - from[1]);
    if right.abs().max(down.abs()) < MINI.still {
        "still"
    } else if right.abs() >= down.abs() {
        if right > 0.0 { "right" } else { "left" }
    } else if down > 0.0 {
        "down"
    } else {
        "up"
    }
}

#[cfg(test)]
mod tests {
    use super::super::physics::{Collision, PAIRS};
    use super::super::questions::sample_questions;
    use super::super::scene::{sample_scene, scene_rng};
    use super::super::spec::Topic;
    use super::*;
    use crate::data::Answer;

    #[test]
    fn only_the_thinker_is_right_on_inferential_questions() {
        let topics = MINI.topics(30, MINI.inferential_share());
        for (index, wanted) in topics.into_iter().enumerate() {
            let mut rng = scene_rng(2, index);
            let scene = sample_scene(&mut rng, wanted);
            let question = &sample_questions(&scene, wanted, 1, &mut rng)[0];
            let truth: Vec<String> = question
                .letters(|choice| choice.is_right)
                .iter()
                .map(char::to_string)
                .collect();
            let truth = Answer::parse(&truth.join(","));
            let thinks = Style::thinker(question, 0.0, &mut rng);
            let thinker = worked_answer(&scene, question, &thinks);
            let observer = worked_answer(&scene, question, &Style::Observer);
            assert_eq!(Answer::parse(&thinker), truth, "{thinker}");
            assert_eq!(
                Answer::parse(&observer) == truth,
                wanted != Topic::Inferential,
                "{observer}"
            );
            let shared = observer.split("</think>").next().unwrap();
            assert!(thinker.starts_with(shared) && thinker.contains(" Without the "));
            for (told, happens) in [
                (shared, question.letters(|choice| choice.is_seen)),
                (
                    thinker.split(" Without ").nth(1).unwrap(),
                    question.letters(|choice| choice.is_right),
                ),
            ] {
                assert_eq!(told.matches(" collide").count(), happens.len(), "{told}");
                assert_eq!(told.matches(" do not").count(), 3 - happens.len());
            }
        }
    }

    #[test]
    fn a_noisy_thinker_answers_what_it_imagines() {
        let (mut wrong, mut verdicts) = (0, 0);
        for (index, topic) in MINI.topics(400, 0.5).into_iter().enumerate() {
            let mut rng = scene_rng(6, index);
            let scene = sample_scene(&mut rng, topic);
            let question = &sample_questions(&scene, topic, 1, &mut rng)[0];
            let style = Style::thinker(question, 0.25, &mut rng);
            let Style::Thinker(imagined) = &style else {
                panic!("{style:?}");
            };
            let told = worked_answer(&scene, question, &style);
            let answer = told.split("<answer>").nth(1).unwrap();
            for ((choice, letter), happens) in question.choices.iter().zip('A'..).zip(imagined) {
                assert_eq!(answer.contains(letter), *happens, "{told}");
                wrong += usize::from(choice.is_right != *happens);
                verdicts += 1;
            }
        }
        let share = f64::from(wrong as u32) / f64::from(verdicts);
        // A quarter, less what is drawn again; four standard errors of 1,200 draws are 5 %.
        assert!((share - 0.25).abs() < 0.05, "{share}");
    }

    #[test]
    fn events_and_pairs_are_told_as_the_simulation_has_them() {
        let scene = sample_scene(&mut scene_rng(4, 0), Topic::InvolvedOfMore);
        let events = events_answer(&scene);
        assert_eq!(
            events.split(", then ").count(),
            scene.factual.collisions.len()
        );
        for objects in PAIRS {
            let question = pair_question(&scene, objects, None);
            let named = &question["Do ".len()..question.len() - 1];
            let happens = pair_answer(&scene, objects, None) == "yes";
            assert_eq!(events.contains(named), happens, "{question} {events}");
            assert_eq!(scene.factual.collide(objects), happens);
        }
        for objects in Scene::pairs_without(3) {
            let question = pair_question(&scene, objects, Some(3));
            let removed = format!("collide without the {}?", scene.looks[3].name());
            assert!(question.ends_with(&removed), "{question}");
            let happens = pair_answer(&scene, objects, Some(3)) == "yes";
            assert_eq!(scene.without[3].collide(objects), happens);
        }
    }

    #[test]
    fn motion_is_told_per_pair_of_sampled_frames() {
        let mut scene = sample_scene(&mut scene_rng(3, 0), Topic::InvolvedOfTwo);
        for (frame, objects) in scene.factual.frames.iter_mut().enumerate() {
            let time = frame as f64 / MINI.frames_per_sample as f64;
            objects[0].position = [20.0, 40.0];
            objects[1].position = [100.0 + 10.0 * time, 40.0];
            objects[2].position = [50.0, 90.0 - 5.0 * time];
        }
        assert_eq!(motion_answer(&scene, 0), "still still still still");
        assert_eq!(motion_answer(&scene, 1), "right gone gone gone");
        assert_eq!(motion_answer(&scene, 2), "up up up up");

        scene.factual.collisions.clear();
        // Object 0 rests in row 1, column 0: token 4 of the first grid of 16.
        let name = scene.looks[0].name();
        let tokens = grounding(&scene);
        for token in [4, 20, 36, 52] {
            assert!(
                tokens.contains(&(token, format!("{name} still"))),
                "{tokens:?}"
            );
        }
        // Object 1 is in column 3 at the start and then out of the picture.
        let leaving = format!("{} right", scene.looks[1].name());
        assert_eq!(
            tokens
                .iter()
                .filter(|(_, words)| words.contains(&leaving))
                .count(),
            1
        );

        // Seen first in the frame after it: the fourth, the second one of the second grid.
        scene.factual.collisions.push(Collision {
            agent: 2,
            target: 0,
            time: 2.3,
            location: [0.0; 2],
            impact_speed: 5.0,
            impact_offset: 0.0,
        });
        let hit = format!("{name} still collide {}", scene.looks[2].name());
        let tokens = grounding(&scene);
        let found: Vec<_> = tokens.iter().filter(|(_, words)| *words == hit).collect();
        assert_eq!(found, [&(20, hit.clone())]);
    }

    #[test]
    fn the_inventory_names_everything_in_the_order_of_colours() {
        let mut scene = sample_scene(&mut scene_rng(3, 0), Topic::InvolvedOfTwo);
        for (look, color) in scene.looks.iter_mut().zip([7, 0, 3, 1]) {
            look.color = color;
        }
        let answer = inventory_answer(&scene);
        let colors: Vec<&str> = answer
            .split("; ")
            .filter_map(|name| name.split(' ').next())
            .collect();
        assert_eq!(colors, ["gray", "red", "green", "yellow"]);
    }
}
