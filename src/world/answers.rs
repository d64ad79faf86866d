//! Worked answers to learn from, in two styles, and questions about single objects that teach to see.
//!
//! The *observer* tells what happens in the video and answers from that; the *thinker* then tells what
//! happens without the object. Both are right on observational questions, only the thinker on
//! inferential ones.

use super::physics::{Collision, Vector};
use super::questions::{Choice, Counterfactual, shuffled_choices};
use super::scene::{Look, Scene};
use super::spec::MINI;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// How a worked answer argues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Takes what is seen for the answer.
    Observer,
    /// Thinks the object away first.
    Thinker,
}

impl Style {
    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Thinker => "thinker",
        }
    }
}

/// The worked answer to a question. Every event that an option names is followed by that option's letter.
pub fn worked_answer(scene: &Scene, question: &Counterfactual, style: Style) -> String {
    let seen = tell(scene, question, &scene.factual.collisions);
    let (thought, letters) = match style {
        Style::Observer => (String::new(), question.letters(|choice| choice.is_seen)),
        Style::Thinker => {
            let removed = scene.looks[question.removed].name();
            let imagined = &scene.without[question.removed].collisions;
            (
                format!(
                    " Without the {removed} {}.",
                    tell(scene, question, imagined)
                ),
                question.letters(|choice| choice.is_right),
            )
        }
    };
    let letters: Vec<String> = letters.iter().map(char::to_string).collect();
    format!(
        "<think>In the video {seen}.{thought}</think><answer>{}</answer>",
        letters.join(", ")
    )
}

/// `the red cube and the blue sphere collide (B), then …`, named as an option would name it.
fn tell(scene: &Scene, question: &Counterfactual, collisions: &[Collision]) -> String {
    if collisions.is_empty() {
        return "nothing collides".into();
    }
    let name = |object: usize| scene.looks[object].name();
    let events: Vec<String> = collisions
        .iter()
        .map(|event| {
            let options = question.letters(|choice| choice.is_between(event.agent, event.target));
            let option = options
                .first()
                .map_or(String::new(), |letter| format!(" ({letter})"));
            let (first, second) = scene.in_color_order(event.agent, event.target);
            format!(
                "the {} and the {} collide{option}",
                name(first),
                name(second)
            )
        })
        .collect();
    events.join(", then ")
}

/// Practice in finding options: three options, and some of the same pairs with their letters. Pairs are drawn again
/// and again, so that no letter follows from those before it.
pub fn lookup(scene: &Scene, removed: usize, rng: &mut ChaCha8Rng) -> (String, String) {
    let pair = |choice: &Choice| {
        let (first, second) = choice.pair;
        let name = |object: usize| scene.looks[object].name();
        format!("the {} and the {} collide", name(first), name(second))
    };
    let named: Vec<(char, String)> = shuffled_choices(scene, removed, rng)
        .iter()
        .zip('A'..)
        .map(|(choice, letter)| (letter, pair(choice)))
        .collect();
    let mut problem = LOOKUP_QUESTION.to_owned();
    for (letter, pair) in &named {
        problem += &format!("\n{letter}. T{}", &pair[1..]);
    }
    let found: Vec<String> = (0..LOOKUP_DRAWS)
        .filter_map(|_| named.choose(rng))
        .map(|(letter, pair)| format!("{pair} ({letter})"))
        .collect();
    (problem, found.join(", then "))
}

/// Pairs that the answer of a [`lookup`] names.
const LOOKUP_DRAWS: usize = 4;
/// The question of [`lookup`].
const LOOKUP_QUESTION: &str = "Which is which?";

/// The question how one object moves.
pub fn motion_question(scene: &Scene, object: usize) -> String {
    format!("How does the {} move?", scene.looks[object].name())
}

/// Its answer: a word for each pair of sampled frames that the model sees as one.
pub fn motion_answer(scene: &Scene, object: usize) -> String {
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
pub const INVENTORY_QUESTION: &str = "What is there?";

/// Its answer, in CLEVRER's order of colours.
pub fn inventory_answer(scene: &Scene) -> String {
    let mut looks = scene.looks;
    looks.sort_by_key(|look| look.color);
    looks.map(Look::name).join("; ")
}

/// What each video token shows: its index (grids, rows, columns) and the words for colour, shape and
/// motion of the objects whose centre lies in it. Tokens that are not named show nothing.
pub fn grounding(scene: &Scene) -> Vec<(usize, String)> {
    let side = MINI.cells_per_side;
    let mut tokens: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for grid in 0..MINI.num_grids() {
        for (object, look) in scene.looks.iter().enumerate() {
            let [from, to] = seen_in(scene, grid, object);
            let cell = [0, 1].map(|axis| (f64::midpoint(from[axis], to[axis]) / MINI.cell).floor());
            if cell.iter().all(|place| (0.0..side as f64).contains(place)) {
                let token = (grid * side + cell[1] as usize) * side + cell[0] as usize;
                let words = format!("{} {}", look.name(), direction(from, to));
                tokens.entry(token).or_default().push(words);
            }
        }
    }
    let joined = |(token, words): (usize, Vec<String>)| (token, words.join(" "));
    tokens.into_iter().map(joined).collect()
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
    use super::super::questions::sample_questions;
    use super::super::scene::{sample_scene, scene_rng};
    use super::super::spec::Topic;
    use super::*;
    use crate::data::Answer;

    #[test]
    fn only_the_thinker_is_right_on_inferential_questions() {
        for (index, wanted) in MINI.topics(30, 1).into_iter().enumerate() {
            let mut rng = scene_rng(2, index);
            let scene = sample_scene(&mut rng, wanted);
            let question = &sample_questions(&scene, wanted, 1, &mut rng)[0];
            let truth: Vec<String> = question
                .letters(|choice| choice.is_right)
                .iter()
                .map(char::to_string)
                .collect();
            let truth = Answer::parse(&truth.join(","));
            let thinker = worked_answer(&scene, question, Style::Thinker);
            let observer = worked_answer(&scene, question, Style::Observer);
            assert_eq!(Answer::parse(&thinker), truth, "{thinker}");
            assert_eq!(
                Answer::parse(&observer) == truth,
                wanted != Topic::Inferential,
                "{observer}"
            );
            let shared = observer.split("</think>").next().unwrap();
            assert!(thinker.starts_with(shared) && thinker.contains(" Without the "));
            assert_eq!(
                shared.matches(" collide").count(),
                scene.factual.collisions.len()
            );
        }
    }

    #[test]
    fn a_lookup_names_each_option_by_its_letter() {
        let mut rng = scene_rng(4, 0);
        let scene = sample_scene(&mut rng, Topic::InvolvedOfTwo);
        let (problem, found) = lookup(&scene, 2, &mut rng);
        assert_eq!(found.matches(" collide (").count(), LOOKUP_DRAWS);
        for part in found.split(", then ") {
            let (pair, letter) = part.trim_end_matches(')').split_once(" (").unwrap();
            let option = format!("\n{letter}. T{}", &pair[1..]);
            assert!(problem.contains(&option), "{option} is not in {problem}");
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
