//! What a clip shows, as CLEVRER's programs see it: objects, whether they are seen and move, and the events.
//!
//! The official executor reads predicted trajectories; this one reads the annotations, which need two numbers of
//! their own: the speed above which an object moves, and the end of the clip, which is its last annotated frame.

use super::{Annotation, ObjectProperty};

/// Speed in the ground plane, in units per frame, above which an object moves (the executor's 0.1 is for predicted
/// pixels). How many official answers follow from it, `data clevrer` counts; on the official files nobody has yet.
const MOVING: f64 = 0.02;
/// Half of the angle, in degrees, that belongs to a direction.
const DIRECTION: f64 = 40.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    /// The clip begins.
    Start,
    /// The clip ends.
    End,
    /// An object enters the view.
    In(u32),
    /// An object leaves the view.
    Out(u32),
    /// Two objects collide; their order means nothing.
    Collision(u32, u32),
}

/// Something that happens, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub(crate) what: Happening,
    /// The frame; none for what is only possible.
    pub(crate) frame: Option<usize>,
}

impl Event {
    /// A collision of two objects.
    pub fn collision(first: u32, second: u32, frame: Option<usize>) -> Self {
        Self {
            what: Happening::Collision(first, second),
            frame,
        }
    }

    /// Whether it concerns this object.
    pub(crate) fn involves(&self, object: u32) -> bool {
        match self.what {
            Happening::Start | Happening::End => false,
            Happening::In(one) | Happening::Out(one) => one == object,
            Happening::Collision(first, second) => first == object || second == object,
        }
    }

    /// Whether the same happens to the same objects, at any time.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self.what, other.what) {
            (Happening::Collision(a, b), Happening::Collision(c, d)) => {
                (a, b) == (c, d) || (a, b) == (d, c)
            }
            (one, another) => one == another,
        }
    }
}

/// The clip of one annotation.
#[derive(Debug)]
pub struct History<'a> {
    annotation: &'a Annotation,
    events: Vec<Event>,
}

impl<'a> History<'a> {
    /// Finds the events of a clip. An object that is seen after a frame without it has come in at that frame; one
    /// that is not seen after a frame with it has gone out at that frame.
    pub fn new(annotation: &'a Annotation) -> Self {
        let frames = &annotation.motion_trajectory;
        let event = |what, frame| Event {
            what,
            frame: Some(frame),
        };
        let last = frames.last().map_or(0, |frame| frame.frame_id);
        let mut events = vec![event(Happening::Start, 0), event(Happening::End, last)];
        for pair in frames.windows(2) {
            let seen = |frame: usize, id: u32| {
                let mut objects = pair[frame].objects.iter();
                objects.any(|object| object.object_id == id && object.inside_camera_view)
            };
            let frame = pair[1].frame_id;
            for object in &annotation.object_property {
                match (seen(0, object.object_id), seen(1, object.object_id)) {
                    (true, false) => events.push(event(Happening::Out(object.object_id), frame)),
                    (false, true) => events.push(event(Happening::In(object.object_id), frame)),
                    _ => {}
                }
            }
        }
        events.extend(annotation.collision.iter().map(|collision| {
            let [first, second] = collision.object_ids;
            Event::collision(first, second, Some(collision.frame_id))
        }));
        events.sort_by_key(|event| event.frame);
        Self { annotation, events }
    }

    /// The objects, in the annotation's order.
    pub(crate) fn objects(&self) -> &'a [ObjectProperty] {
        &self.annotation.object_property
    }

    /// Everything that happens, in the order of time, start and end of the clip included.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The collisions, in the order of time.
    pub(crate) fn collisions(&self) -> Vec<Event> {
        let is_collision = |event: &&Event| matches!(event.what, Happening::Collision(..));
        self.events.iter().filter(is_collision).copied().collect()
    }

    /// Whether an object is seen at a frame (`None`: at any).
    pub(crate) fn is_visible(&self, object: u32, frame: Option<usize>) -> bool {
        self.states(object, frame).next().is_some()
    }

    /// Whether an object is seen moving at a frame (`None`: at any).
    pub(crate) fn is_moving(&self, object: u32, frame: Option<usize>) -> bool {
        self.states(object, frame)
            .any(|[x, y, _]| x.hypot(y) > MOVING)
    }

    /// Where an object goes at a frame: `left`, `right`, `up` or `down`, when it is clear enough.
    ///
    /// As in the official executor, whose first axis points down the picture and whose second to the right.
    pub(crate) fn direction(&self, object: u32, frame: usize) -> Option<&'static str> {
        let [down, right, _] = self.states(object, Some(frame)).next()?;
        let angle = right.atan2(down).to_degrees();
        if down == 0.0 && right == 0.0 {
            None
        } else if angle.abs() < DIRECTION {
            Some("down")
        } else if angle.abs() > 180.0 - DIRECTION {
            Some("up")
        } else if (angle - 90.0).abs() < DIRECTION {
            Some("right")
        } else if (angle + 90.0).abs() < DIRECTION {
            Some("left")
        } else {
            None
        }
    }

    /// The events that led to this one: those that came just before it for an object that it concerns, those that
    /// led to them, and so on.
    pub fn ancestors(&self, event: &Event) -> Vec<Event> {
        let mut ancestors: Vec<Event> = Vec::new();
        // What is only possible has no causes.
        let mut open: Vec<Event> = self
            .events
            .iter()
            .filter(|e| *e == event)
            .copied()
            .collect();
        while let Some(event) = open.pop() {
            for object in self.objects() {
                let id = object.object_id;
                if !event.involves(id) {
                    continue;
                }
                let before = self
                    .events
                    .iter()
                    .take_while(|other| **other != event)
                    .filter(|other| other.involves(id))
                    .last();
                if let Some(before) = before
                    && !ancestors.contains(before)
                {
                    ancestors.push(*before);
                    open.push(*before);
                }
            }
        }
        ancestors
    }

    /// An object's velocities where it is seen, at a frame or (`None`) at all frames.
    fn states(&self, object: u32, frame: Option<usize>) -> impl Iterator<Item = [f64; 3]> {
        self.annotation
            .motion_trajectory
            .iter()
            .filter(move |state| frame.is_none_or(|frame| state.frame_id == frame))
            .flat_map(|state| &state.objects)
            .filter(move |state| state.object_id == object && state.inside_camera_view)
            .map(|state| state.velocity)
    }
}
