//! Discs that slide over a floor and collide: a scene goes in, what happens comes out.

use super::spec::MINI;

/// Objects in a scene.
pub const NUM_OBJECTS: usize = 4;

/// Unordered pairs of objects, in the order in which contacts are resolved.
pub const PAIRS: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];

/// A point or a velocity in the plane.
pub(crate) type Vector = [f64; 2];

/// Where an object is and how it moves. x grows to the right, y grows downwards.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Motion {
    /// Centre.
    pub position: Vector,
    /// Change of position per sampled frame.
    pub velocity: Vector,
}

/// The first contact of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collision {
    /// The one that hits: the faster along the contact normal.
    pub agent: usize,
    /// The one that is hit.
    pub target: usize,
    /// In sampled frames from the start.
    pub(crate) time: f64,
    /// Where they touch.
    pub(crate) location: Vector,
    /// Relative speed along the contact normal.
    pub(crate) impact_speed: f64,
    /// Sine of the angle between relative velocity and contact normal.
    pub(crate) impact_offset: f64,
}

impl Collision {
    /// Whether these two collide here, in either order.
    pub(crate) fn is_between(&self, pair: (usize, usize)) -> bool {
        (self.agent, self.target) == pair || (self.target, self.agent) == pair
    }
}

/// What happens in one simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// Per clip frame, per object.
    pub(crate) frames: Vec<[Motion; NUM_OBJECTS]>,
    /// First contacts, in order of time.
    pub collisions: Vec<Collision>,
    /// Least distance between the surfaces of each pair of `PAIRS`.
    pub(crate) gaps: [f64; PAIRS.len()],
}

impl Simulation {
    /// Whether these two objects collide.
    pub(crate) fn collide(&self, pair: (usize, usize)) -> bool {
        self.collisions.iter().any(|event| event.is_between(pair))
    }
}

/// Lets the scene run, without one object if `removed` names it. A removed object touches nothing.
pub fn simulate(start: &[Motion; NUM_OBJECTS], removed: Option<usize>) -> Simulation {
    let step = 1.0 / MINI.substeps as f64;
    let steps_per_frame = MINI.substeps / MINI.frames_per_sample;
    let mut objects = *start;
    let mut simulation = Simulation {
        frames: vec![objects],
        collisions: Vec::new(),
        gaps: [f64::INFINITY; PAIRS.len()],
    };
    for substep in 1..=(MINI.sampled_frames - 1) * MINI.substeps {
        for object in &mut objects {
            slide(object, step);
        }
        let time = substep as f64 * step;
        for (pair, gap) in PAIRS.iter().zip(&mut simulation.gaps) {
            if removed.is_some_and(|removed| pair.0 == removed || pair.1 == removed) {
                continue;
            }
            let distance = length(difference(
                objects[pair.1].position,
                objects[pair.0].position,
            ));
            *gap = gap.min(distance - 2.0 * MINI.radius);
            if distance >= 2.0 * MINI.radius {
                continue;
            }
            if let Some(collision) = collide(&mut objects, *pair, time)
                && !simulation
                    .collisions
                    .iter()
                    .any(|event| event.is_between(*pair))
            {
                simulation.collisions.push(collision);
            }
        }
        if substep % steps_per_frame == 0 {
            simulation.frames.push(objects);
        }
    }
    simulation
}

/// One substep of sliding with Coulomb friction.
fn slide(object: &mut Motion, step: f64) {
    for axis in 0..2 {
        object.position[axis] += object.velocity[axis] * step;
    }
    let speed = length(object.velocity).max(1e-9);
    let kept = (1.0 - MINI.friction * step / speed).max(0.0);
    for axis in 0..2 {
        object.velocity[axis] *= kept;
    }
}

/// Exchanges the impulse of two overlapping equal masses, unless they already move apart.
fn collide(
    objects: &mut [Motion; NUM_OBJECTS],
    (first, second): (usize, usize),
    time: f64,
) -> Option<Collision> {
    let between = difference(objects[second].position, objects[first].position);
    let distance = length(between).max(1e-9);
    let normal = [between[0] / distance, between[1] / distance];
    let along = |velocity: Vector| velocity[0] * normal[0] + velocity[1] * normal[1];
    let first_speed = along(objects[first].velocity);
    let second_speed = along(objects[second].velocity);
    let approach = first_speed - second_speed;
    if approach <= 0.0 {
        return None;
    }
    let relative = difference(objects[first].velocity, objects[second].velocity);
    let across = (relative[0] * normal[1] - relative[1] * normal[0]).abs();
    let (agent, target) = if first_speed.abs() >= second_speed.abs() {
        (first, second)
    } else {
        (second, first)
    };
    let collision = Collision {
        agent,
        target,
        time,
        location: [
            objects[first].position[0] + between[0] / 2.0,
            objects[first].position[1] + between[1] / 2.0,
        ],
        impact_speed: approach,
        impact_offset: across / length(relative).max(1e-9),
    };
    let impulse = approach * f64::midpoint(1.0, MINI.restitution);
    for (axis, part) in normal.into_iter().enumerate() {
        objects[first].velocity[axis] -= impulse * part;
        objects[second].velocity[axis] += impulse * part;
    }
    Some(collision)
}

fn difference(left: Vector, right: Vector) -> Vector {
    [left[0] - right[0], left[1] - right[1]]
}

fn length(vector: Vector) -> f64 {
    (vector[0] * vector[0] + vector[1] * vector[1]).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f64, y: f64, velocity: Vector) -> Motion {
        Motion {
            position: [x, y],
            velocity,
        }
    }

    /// A pushes B into C; D rests far away.
    fn row() -> [Motion; NUM_OBJECTS] {
        [
            at(14.0, 14.0, [14.0, 0.0]),
            at(42.0, 14.0, [0.0; 2]),
            at(70.0, 14.0, [0.0; 2]),
            at(98.0, 98.0, [0.0; 2]),
        ]
    }

    #[test]
    fn a_push_goes_down_the_row() {
        let simulation = simulate(&row(), None);
        let events: Vec<_> = simulation
            .collisions
            .iter()
            .map(|event| (event.agent, event.target))
            .collect();
        assert_eq!(events, [(0, 1), (1, 2)]);
        assert_eq!(simulation.frames.len(), MINI.clip_frames());
        // Seven pixels of free way at about fourteen pixels per sampled frame.
        assert!((simulation.collisions[0].time - 0.5).abs() < 0.06);
        assert!((simulation.collisions[0].impact_speed - 14.0 + MINI.friction / 2.0).abs() < 0.05);
        assert!(simulation.collisions[0].impact_offset < 1e-9);
    }

    #[test]
    fn without_the_first_nothing_moves_and_without_the_second_the_third_is_hit() {
        assert!(simulate(&row(), Some(0)).collisions.is_empty());
        let simulation = simulate(&row(), Some(1));
        assert!(simulation.collide((2, 0)) && simulation.collisions.len() == 1);
    }

    #[test]
    fn friction_stops_and_an_impact_keeps_momentum() {
        let mut object = at(0.0, 0.0, [MINI.friction, 0.0]);
        for _ in 0..=MINI.substeps {
            slide(&mut object, 1.0 / MINI.substeps as f64);
        }
        assert!(object.velocity.iter().all(|speed| speed.abs() < 1e-12));
        let mut objects = row();
        objects[1].position[0] = 34.0;
        collide(&mut objects, (0, 1), 0.0).unwrap();
        let total = objects[0].velocity[0] + objects[1].velocity[0];
        assert!((total - 14.0).abs() < 1e-12);
        let restitution = (objects[1].velocity[0] - objects[0].velocity[0]) / 14.0;
        assert!((restitution - MINI.restitution).abs() < 1e-12);
    }
}
