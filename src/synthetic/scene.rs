//! Sampling a scene from a seed: what stands where, what moves, and what happens with and without
//! each object.

use super::physics::{Motion, NUM_OBJECTS, PAIRS, Simulation, Vector, simulate};
use super::spec::{MINI, Topic};
use crate::config::QuestionKind;
use rand::Rng;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// CLEVRER's colours with the red, green and blue they are drawn in.
pub(crate) const COLORS: [(&str, [u8; 3]); 8] = [
    ("gray", [110, 110, 110]),
    ("red", [220, 30, 30]),
    ("blue", [30, 60, 230]),
    ("green", [20, 150, 40]),
    ("brown", [130, 70, 20]),
    ("cyan", [40, 220, 230]),
    ("purple", [160, 40, 200]),
    ("yellow", [240, 220, 30]),
];

/// CLEVRER's shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Drawn as a plain square.
    Cube,
    /// Drawn as a disc with a highlight.
    Sphere,
    /// Drawn as an upright rectangle with a light lid.
    Cylinder,
}

impl Shape {
    const ALL: [Self; 3] = [Self::Cube, Self::Sphere, Self::Cylinder];

    /// CLEVRER's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cube => "cube",
            Self::Sphere => "sphere",
            Self::Cylinder => "cylinder",
        }
    }
}

/// How an object looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Index into [`COLORS`]; different for every object of a scene.
    pub(crate) color: usize,
    pub(crate) shape: Shape,
}

impl Look {
    /// CLEVRER's word for the material: everything is dull.
    pub(crate) const MATERIAL: &'static str = "rubber";

    /// CLEVRER's word for the colour.
    pub(crate) fn color_name(self) -> &'static str {
        COLORS[self.color].0
    }

    /// The name that questions and answers use, such as `red cube`.
    pub(crate) fn name(self) -> String {
        format!("{} {}", self.color_name(), self.shape.name())
    }
}

/// A scene and the truth about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// How the objects look.
    pub looks: [Look; NUM_OBJECTS],
    /// Where they start and how they move then.
    pub(crate) start: [Motion; NUM_OBJECTS],
    /// What the clip shows.
    pub factual: Simulation,
    /// What happens when the object of that index is removed.
    pub(crate) without: Vec<Simulation>,
}

impl Scene {
    /// Two objects in CLEVRER's order of their colours.
    pub(crate) fn in_color_order(&self, first: usize, second: usize) -> (usize, usize) {
        if self.looks[first].color <= self.looks[second].color {
            (first, second)
        } else {
            (second, first)
        }
    }

    /// The pairs of objects that are left when one is removed.
    pub(crate) fn pairs_without(removed: usize) -> [(usize, usize); 3] {
        let mut pairs = [(0, 0); 3];
        let left = PAIRS
            .iter()
            .filter(|pair| pair.0 != removed && pair.1 != removed);
        for (slot, pair) in pairs.iter_mut().zip(left) {
            *slot = *pair;
        }
        pairs
    }

    /// The kind of the question about this object's removal; none when some simulation has no right or
    /// no wrong option, seen or true.
    pub(crate) fn question_kind(&self, removed: usize) -> Option<QuestionKind> {
        let pairs = Self::pairs_without(removed);
        let seen = pairs.map(|pair| self.factual.collide(pair));
        let truth = pairs.map(|pair| self.without[removed].collide(pair));
        let is_open = |options: [bool; 3]| options.contains(&true) && options.contains(&false);
        if !is_open(seen) || !is_open(truth) {
            None
        } else if seen == truth {
            Some(QuestionKind::Observational)
        } else {
            Some(QuestionKind::Inferential)
        }
    }

    /// The topic of the question about this object's removal; none when it is not fair or not among
    /// those that are asked first.
    pub(crate) fn topic(&self, removed: usize) -> Option<Topic> {
        if self.question_kind(removed)? == QuestionKind::Inferential {
            return Some(Topic::Inferential);
        }
        let collisions = &self.factual.collisions;
        let is_involved = collisions
            .iter()
            .any(|event| event.agent == removed || event.target == removed);
        match (is_involved, collisions.len()) {
            (true, 2) => Some(Topic::InvolvedOfTwo),
            (true, 3..) => Some(Topic::InvolvedOfMore),
            (false, 1) => Some(Topic::BystanderOfOne),
            (false, 2) => Some(Topic::BystanderOfTwo),
            _ => None,
        }
    }

    /// The objects whose removal gives a question of this topic.
    pub(crate) fn removals(&self, topic: Topic) -> Vec<usize> {
        (0..NUM_OBJECTS)
            .filter(|removed| self.topic(*removed) == Some(topic))
            .collect()
    }
}

/// The random numbers of one scene: they depend on the world's seed and the scene's index alone.
pub fn scene_rng(seed: u64, scene_index: usize) -> ChaCha8Rng {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(scene_index as u64).to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// Draws scenes until one fits: a clear video, and a question of the wanted topic.
pub fn sample_scene(rng: &mut ChaCha8Rng, topic: Topic) -> Scene {
    loop {
        let Some(start) = sample_start(rng) else {
            continue;
        };
        let factual = simulate(&start, None);
        if !is_clear(&factual) {
            continue;
        }
        let scene = Scene {
            looks: sample_looks(rng),
            start,
            factual,
            without: (0..NUM_OBJECTS)
                .map(|removed| simulate(&start, Some(removed)))
                .collect(),
        };
        if !scene.removals(topic).is_empty() {
            return scene;
        }
    }
}

/// Whether every collision and every miss of a factual simulation can be seen.
fn is_clear(simulation: &Simulation) -> bool {
    let events = &simulation.collisions;
    (1..=MINI.max_events).contains(&events.len())
        && events.iter().all(|event| {
            event.impact_speed >= MINI.min_impact_speed
                && event.impact_offset <= MINI.max_impact_offset
                && event.time <= MINI.latest_event
        })
        && events
            .windows(2)
            .all(|pair| pair[1].time - pair[0].time >= MINI.min_event_distance)
        && PAIRS
            .iter()
            .zip(simulation.gaps)
            .all(|(pair, gap)| gap >= MINI.min_gap || simulation.collide(*pair))
}

fn sample_looks(rng: &mut ChaCha8Rng) -> [Look; NUM_OBJECTS] {
    let mut colors: [usize; COLORS.len()] = std::array::from_fn(|color| color);
    colors.shuffle(rng);
    std::array::from_fn(|index| Look {
        color: colors[index],
        shape: Shape::ALL[rng.random_range(0..Shape::ALL.len())],
    })
}

/// Places the objects and starts one or two of them towards another; none when a mover has nothing
/// in its row or column.
fn sample_start(rng: &mut ChaCha8Rng) -> Option<[Motion; NUM_OBJECTS]> {
    let cells = sample_cells(rng);
    let mut start = cells.map(|(column, row)| {
        let mut place = |cell: usize| {
            (cell as f64 + 0.5) * MINI.cell + rng.random_range(-MINI.jitter..=MINI.jitter)
        };
        Motion {
            position: [place(column), place(row)],
            velocity: [0.0; 2],
        }
    });
    let num_movers = 1 + usize::from(rng.random_bool(MINI.two_movers_share));
    let mut movers: [usize; NUM_OBJECTS] = std::array::from_fn(|index| index);
    movers.shuffle(rng);
    for &mover in &movers[..num_movers] {
        let in_line: Vec<usize> = (0..NUM_OBJECTS)
            .filter(|other| {
                *other != mover
                    && (cells[*other].0 == cells[mover].0 || cells[*other].1 == cells[mover].1)
            })
            .collect();
        if in_line.is_empty() {
            return None;
        }
        let target = in_line[rng.random_range(0..in_line.len())];
        let speed = rng.random_range(MINI.min_speed..=MINI.max_speed);
        start[mover].velocity = towards(start[mover].position, start[target].position, speed);
    }
    Some(start)
}

/// Different cells (column, row): mostly three in one row or column and one anywhere.
fn sample_cells(rng: &mut ChaCha8Rng) -> [(usize, usize); NUM_OBJECTS] {
    let side = MINI.cells_per_side;
    let mut all: Vec<(usize, usize)> = (0..side * side)
        .map(|cell| (cell % side, cell / side))
        .collect();
    all.shuffle(rng);
    if rng.random_bool(MINI.line_share) {
        let line = rng.random_range(0..side);
        let left_out = rng.random_range(0..side);
        let is_row = rng.random_bool(0.5);
        let in_line = |(column, row): (usize, usize)| {
            let (across, along) = if is_row { (row, column) } else { (column, row) };
            across == line && along != left_out
        };
        // Stable: the cells of the line first, the others in their shuffled order.
        all.sort_by_key(|cell| !in_line(*cell));
    }
    let mut cells: [(usize, usize); NUM_OBJECTS] = std::array::from_fn(|index| all[index]);
    cells.shuffle(rng);
    cells
}

fn towards(from: Vector, to: Vector, speed: f64) -> Vector {
    let way = [to[0] - from[0], to[1] - from[1]];
    let distance = (way[0] * way[0] + way[1] * way[1]).sqrt();
    way.map(|part| part / distance * speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(topic: Topic, index: usize) -> Scene {
        sample_scene(&mut scene_rng(5, index), topic)
    }

    #[test]
    fn a_scene_depends_on_seed_and_index_only() {
        let scene = sample(Topic::InvolvedOfTwo, 3);
        assert_eq!(scene, sample(Topic::InvolvedOfTwo, 3));
        assert_ne!(scene, sample(Topic::InvolvedOfTwo, 4));
        let other = sample_scene(&mut scene_rng(6, 3), Topic::InvolvedOfTwo);
        assert_ne!(scene.start, other.start);
    }

    #[test]
    fn the_truth_is_what_the_simulation_without_the_object_says() {
        for (index, topic) in MINI
            .topics(25, MINI.inferential_share())
            .into_iter()
            .enumerate()
        {
            let scene = sample(topic, index);
            assert_eq!(scene.factual, simulate(&scene.start, None));
            assert!(is_clear(&scene.factual));
            for removed in 0..NUM_OBJECTS {
                let again = simulate(&scene.start, Some(removed));
                assert_eq!(scene.without[removed], again);
                assert!(
                    again
                        .collisions
                        .iter()
                        .all(|event| event.agent != removed && event.target != removed)
                );
            }
            let changes = |removed: usize| {
                Scene::pairs_without(removed).iter().any(|pair| {
                    scene.factual.collide(*pair) != scene.without[removed].collide(*pair)
                })
            };
            let removals = scene.removals(topic);
            assert!(!removals.is_empty());
            assert!(
                removals
                    .iter()
                    .all(|removed| changes(*removed) == (topic == Topic::Inferential))
            );
        }
    }

    #[test]
    fn objects_differ_in_colour_and_stand_apart() {
        for index in 0..50 {
            let scene = sample(Topic::BystanderOfOne, index);
            for (first, second) in PAIRS {
                assert_ne!(scene.looks[first].color, scene.looks[second].color);
                let (a, b) = (scene.start[first].position, scene.start[second].position);
                let distance = (a[0] - b[0]).hypot(a[1] - b[1]);
                assert!(distance > 2.0 * MINI.radius);
            }
        }
    }
}
