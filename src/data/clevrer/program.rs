//! CLEVRER's functional programs: postfix lists of words, run on one stack as the official executor does.
//!
//! An option's program followed by its question's says whether the option is right; a descriptive question's program
//! gives its answer. What the annotations do not hold, the future and changed worlds, is asked of the caller.
//! Question files and executor name some modules differently (`get_frame`, `query_frame`): both names are known.

use super::history::{Event, Happening, History};
use thiserror::Error;

/// A part of the world that the clip does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// What happens after the clip's end.
    Future,
    /// What happens when this object is removed.
    Without(u32),
}

/// What a program works with and results in.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`: at any frame.
    Null,
    /// A colour, material, shape, order or direction.
    Word(String),
    /// How many.
    Count(usize),
    /// A frame of the clip.
    Frame(usize),
    /// Yes or no.
    Truth(bool),
    /// One object.
    Object(u32),
    /// Several objects.
    Objects(Vec<u32>),
    /// One event.
    Event(Event),
    /// Several events.
    Events(Vec<Event>),
}

impl Value {
    /// The value as a descriptive question's official answer; none for what is no answer.
    pub(crate) fn answer(&self) -> Option<String> {
        match self {
            Self::Word(word) => Some(word.clone()),
            Self::Count(number) | Self::Frame(number) => Some(number.to_string()),
            Self::Truth(truth) => Some(if *truth { "yes" } else { "no" }.to_owned()),
            _ => None,
        }
    }
}

/// Why a program gives no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// A word that is no module and means nothing.
    #[error("unknown word {word:?} at position {position}")]
    UnknownWord {
        /// The word.
        word: String,
        /// Its index, an option's program counted first.
        position: usize,
    },
    /// A module does not find what it takes.
    #[error("{module} at position {position} needs {needs}")]
    Arguments {
        /// The module.
        module: String,
        /// Its index.
        position: usize,
        /// What it takes.
        needs: &'static str,
    },
    /// `unique` met none or several.
    #[error("unique at position {position} finds {found} instead of one")]
    NotUnique {
        /// Its index.
        position: usize,
        /// How many there are.
        found: usize,
    },
    /// The program holds no word.
    #[error("the program is empty")]
    Empty,
    /// The program of an option ends in something else.
    #[error("the program does not end in yes or no")]
    NoTruth,
}

/// Runs a program. `unseen` gives the events of what the clip does not show.
pub fn run<'p>(
    program: impl IntoIterator<Item = &'p String>,
    history: &History,
    unseen: &dyn Fn(Unseen) -> Vec<Event>,
) -> Result<Value, ProgramError> {
    let mut stack = Vec::new();
    for (position, module) in program.into_iter().enumerate() {
        let mut machine = Machine {
            stack: &mut stack,
            history,
            unseen,
            module,
            position,
        };
        let value = machine.run()?;
        stack.push(value);
    }
    stack.pop().ok_or(ProgramError::Empty)
}

/// One word of a program about to be run.
struct Machine<'a> {
    stack: &'a mut Vec<Value>,
    history: &'a History<'a>,
    unseen: &'a dyn Fn(Unseen) -> Vec<Event>,
    module: &'a str,
    position: usize,
}

type Outcome = Result<Value, ProgramError>;

impl Machine<'_> {
    fn run(&mut self) -> Outcome {
        match self.module {
            "objects" => Ok(Value::Objects(self.all_objects())),
            "events" => Ok(Value::Events(self.history.events().to_vec())),
            "all_events" => Ok(Value::Events(self.possible_events())),
            "unseen_events" => Ok(Value::Events((self.unseen)(Unseen::Future))),
            "counterfact_events" => {
                let removed = self.object()?;
                Ok(Value::Events((self.unseen)(Unseen::Without(removed))))
            }
            "unique" => self.unique(),
            "count" => Ok(Value::Count(self.length()?)),
            "exist" => Ok(Value::Truth(self.length()? > 0)),
            "negate" => match self.stack.pop() {
                Some(Value::Truth(truth)) => Ok(Value::Truth(!truth)),
                _ => Err(self.needs("yes or no")),
            },
            "belong_to" => self.belong_to(),
            "filter_color" | "filter_material" | "filter_shape" => self.filter_attribute(),
            "filter_moving" => self.filter_motion(true),
            "filter_stationary" | "filter_resting" => self.filter_motion(false),
            "filter_in" => self.filter_happening(|what| matches!(what, Happening::In(_))),
            "filter_out" => self.filter_happening(|what| matches!(what, Happening::Out(_))),
            "filter_collision" => {
                self.filter_happening(|what| matches!(what, Happening::Collision(..)))
            }
            "filter_start" => self.find(Happening::Start, "events with the clip's start"),
            "filter_end" => self.find(Happening::End, "events with the clip's end"),
            // In question files the two words stand for the events themselves.
            "start" | "end" => self.boundary(),
            "filter_order" => self.filter_order(),
            "filter_before" | "filter_after" => self.filter_time(),
            "filter_ancestor" => {
                let event = self.event()?;
                let ancestors = self.history.ancestors(&event);
                self.filter_events(|event| ancestors.contains(event))
            }
            "filter_counterfact" | "get_counterfact" => {
                let remaining = (self.unseen)(Unseen::Without(self.object()?));
                self.filter_events(|event| remaining.iter().any(|other| other.is_like(event)))
            }
            "query_color" | "query_material" | "query_shape" => {
                let object = self.object()?;
                self.attribute(object).map(Value::Word)
            }
            "query_direction" => self.query_direction(),
            "query_frame" | "get_frame" => match self.event()?.frame {
                Some(frame) => Ok(Value::Frame(frame)),
                None => Err(self.needs("an event of the clip")),
            },
            "query_object" | "get_object" => match self.event()?.what {
                Happening::In(object) | Happening::Out(object) => Ok(Value::Object(object)),
                _ => Err(self.needs("an object's coming or going")),
            },
            "query_collision_partner" | "get_col_partner" => self.query_partner(),
            "null" => Ok(Value::Null),
            word if is_literal(word) => Ok(Value::Word(word.to_owned())),
            word => Err(ProgramError::UnknownWord {
                word: word.to_owned(),
                position: self.position,
            }),
        }
    }

    fn all_objects(&self) -> Vec<u32> {
        let objects = self.history.objects().iter();
        objects.map(|object| object.object_id).collect()
    }

    /// A collision of every pair.
    fn possible_events(&self) -> Vec<Event> {
        let objects = self.all_objects();
        let pairs = objects.iter().enumerate().flat_map(|(index, first)| {
            objects[index + 1..]
                .iter()
                .map(move |second| Event::collision(*first, *second, None))
        });
        pairs.collect()
    }

    fn unique(&mut self) -> Outcome {
        let position = self.position;
        let not_unique = |found| ProgramError::NotUnique { position, found };
        match self.stack.pop() {
            Some(Value::Objects(objects)) => match objects[..] {
                [object] => Ok(Value::Object(object)),
                _ => Err(not_unique(objects.len())),
            },
            Some(Value::Events(events)) => match events[..] {
                [event] => Ok(Value::Event(event)),
                _ => Err(not_unique(events.len())),
            },
            _ => Err(self.needs("objects or events")),
        }
    }

    /// Whether an event is among others, or any of them concerns an object.
    fn belong_to(&mut self) -> Outcome {
        let events = self.events()?;
        match self.stack.pop() {
            Some(Value::Event(event)) => {
                let is_boundary = matches!(event.what, Happening::Start | Happening::End);
                let found = !is_boundary && events.iter().any(|other| other.is_like(&event));
                Ok(Value::Truth(found))
            }
            Some(Value::Object(object)) => {
                let found = events.iter().any(|event| event.involves(object));
                Ok(Value::Truth(found))
            }
            _ => Err(self.needs("an event or object, and events")),
        }
    }

    fn filter_attribute(&mut self) -> Outcome {
        let word = self.word()?;
        let mut kept = Vec::new();
        for object in self.objects()? {
            if self.attribute(object)? == word {
                kept.push(object);
            }
        }
        Ok(Value::Objects(kept))
    }

    /// Keeps the objects that are seen moving, or seen and never moving, at a frame.
    fn filter_motion(&mut self, moving: bool) -> Outcome {
        let frame = match self.stack.pop() {
            Some(Value::Frame(frame)) => Some(frame),
            Some(Value::Null) => None,
            _ => return Err(self.needs("objects and a frame or null")),
        };
        let mut objects = self.objects()?;
        objects.retain(|object| {
            self.history.is_visible(*object, frame)
                && self.history.is_moving(*object, frame) == moving
        });
        Ok(Value::Objects(objects))
    }

    /// Keeps the events of one kind that concern any of the objects.
    fn filter_happening(&mut self, is_kind: impl Fn(Happening) -> bool) -> Outcome {
        let objects = match self.stack.pop() {
            Some(Value::Object(object)) => vec![object],
            Some(Value::Objects(objects)) => objects,
            _ => return Err(self.needs("events and objects")),
        };
        self.filter_events(|event| {
            is_kind(event.what) && objects.iter().any(|object| event.involves(*object))
        })
    }

    fn find(&mut self, what: Happening, needs: &'static str) -> Outcome {
        let events = self.events()?;
        let found = events.iter().find(|event| event.what == what);
        found
            .map(|event| Value::Event(*event))
            .ok_or_else(|| self.needs(needs))
    }

    /// The clip's start or end.
    fn boundary(&self) -> Outcome {
        let what = if self.module == "start" {
            Happening::Start
        } else {
            Happening::End
        };
        let mut events = self.history.events().iter();
        let found = events.find(|event| event.what == what);
        found
            .map(|event| Value::Event(*event))
            .ok_or_else(|| self.needs("a clip"))
    }

    fn filter_order(&mut self) -> Outcome {
        let order = self.word()?;
        let events = self.events()?;
        let found = match order.as_str() {
            "first" => events.first(),
            "second" => events.get(1),
            "last" => events.last(),
            _ => None,
        };
        found
            .map(|event| Value::Event(*event))
            .ok_or_else(|| self.needs("first, second or last, and as many events"))
    }

    fn filter_time(&mut self) -> Outcome {
        let before = self.module == "filter_before";
        let Some(limit) = self.event()?.frame else {
            return Err(self.needs("events and an event of the clip"));
        };
        self.filter_events(|event| {
            event
                .frame
                .is_some_and(|frame| if before { frame < limit } else { frame > limit })
        })
    }

    fn query_direction(&mut self) -> Outcome {
        let Some(Value::Frame(frame)) = self.stack.pop() else {
            return Err(self.needs("an object and a frame"));
        };
        let object = self.object()?;
        self.history
            .direction(object, frame)
            .map(|direction| Value::Word(direction.to_owned()))
            .ok_or_else(|| self.needs("an object that is seen moving at the frame"))
    }

    /// The other object of a collision.
    fn query_partner(&mut self) -> Outcome {
        let object = self.object()?;
        match self.event()?.what {
            Happening::Collision(first, second) if first == object => Ok(Value::Object(second)),
            Happening::Collision(first, second) if second == object => Ok(Value::Object(first)),
            _ => Err(self.needs("a collision of the object")),
        }
    }

    /// The word for an object's colour, material or shape, by the module's name.
    fn attribute(&self, id: u32) -> Result<String, ProgramError> {
        let mut objects = self.history.objects().iter();
        let Some(object) = objects.find(|object| object.object_id == id) else {
            return Err(self.needs("an object of the annotation"));
        };
        let word = match self.module.rsplit('_').next() {
            Some("color") => &object.color,
            Some("material") => &object.material,
            _ => &object.shape,
        };
        Ok(word.clone())
    }

    /// Keeps those of the events on top of the stack.
    fn filter_events(&mut self, keep: impl Fn(&Event) -> bool) -> Outcome {
        let mut events = self.events()?;
        events.retain(keep);
        Ok(Value::Events(events))
    }

    fn length(&mut self) -> Result<usize, ProgramError> {
        match self.stack.pop() {
            Some(Value::Objects(objects)) => Ok(objects.len()),
            Some(Value::Events(events)) => Ok(events.len()),
            _ => Err(self.needs("objects or events")),
        }
    }

    fn object(&mut self) -> Result<u32, ProgramError> {
        match self.stack.pop() {
            Some(Value::Object(object)) => Ok(object),
            _ => Err(self.needs("an object")),
        }
    }

    fn objects(&mut self) -> Result<Vec<u32>, ProgramError> {
        match self.stack.pop() {
            Some(Value::Objects(objects)) => Ok(objects),
            _ => Err(self.needs("objects")),
        }
    }

    fn event(&mut self) -> Result<Event, ProgramError> {
        match self.stack.pop() {
            Some(Value::Event(event)) => Ok(event),
            _ => Err(self.needs("an event")),
        }
    }

    fn events(&mut self) -> Result<Vec<Event>, ProgramError> {
        match self.stack.pop() {
            Some(Value::Events(events)) => Ok(events),
            _ => Err(self.needs("events")),
        }
    }

    fn word(&mut self) -> Result<String, ProgramError> {
        match self.stack.pop() {
            Some(Value::Word(word)) => Ok(word),
            _ => Err(self.needs("a word")),
        }
    }

    fn needs(&self, needs: &'static str) -> ProgramError {
        ProgramError::Arguments {
            module: self.module.to_owned(),
            position: self.position,
            needs,
        }
    }
}

/// CLEVRER's colours, materials, shapes and orders.
fn is_literal(word: &str) -> bool {
    const WORDS: [&str; 16] = [
        "gray", "red", "blue", "green", "brown", "cyan", "purple", "yellow", "metal", "rubber",
        "cube", "sphere", "cylinder", "first", "second", "last",
    ];
    WORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::clevrer::Annotation;
    use serde_json::json;

    /// Ten frames of a red metal cube (0), a blue rubber sphere (2) and a gray metal cylinder (5). The sphere comes in
    /// at frame 2 and hits the cube at 4; the cube hits the cylinder, at rest until then, at 6 and leaves at 8.
    fn scene() -> Annotation {
        let frame = |frame: usize| {
            let object = |id: u32, seen: bool, velocity: [f64; 2]| {
                json!({
                    "object_id": id, "location": [0, 0, 0], "orientation": [0, 0, 0],
                    "velocity": [velocity[0], velocity[1], 0.0], "angular_velocity": [0, 0, 0],
                    "inside_camera_view": seen,
                })
            };
            let cylinder = if frame < 6 { 0.01 } else { 0.5 };
            let cube = if frame < 4 { 0.0 } else { 1.0 };
            json!({"frame_id": frame, "objects": [
                object(0, frame < 8, [cube, 0.0]),
                object(2, frame >= 2, [0.0, -0.3]),
                object(5, true, [0.0, cylinder]),
            ]})
        };
        serde_json::from_value(json!({
            "scene_index": 0, "video_filename": "video_00000.mp4",
            "object_property": [
                {"object_id": 0, "color": "red", "material": "metal", "shape": "cube"},
                {"object_id": 2, "color": "blue", "material": "rubber", "shape": "sphere"},
                {"object_id": 5, "color": "gray", "material": "metal", "shape": "cylinder"},
            ],
            "motion_trajectory": (0..10).map(frame).collect::<Vec<_>>(),
            "collision": [
                {"object_ids": [5, 0], "frame_id": 6, "location": [0, 0, 0]},
                {"object_ids": [0, 2], "frame_id": 4, "location": [0, 0, 0]},
            ],
        }))
        .unwrap()
    }

    /// After the clip the sphere hits the cylinder. Without the sphere nothing happens; without the cube the sphere
    /// hits the cylinder.
    fn unseen(what: Unseen) -> Vec<Event> {
        match what {
            Unseen::Future | Unseen::Without(0) => vec![Event::collision(2, 5, Some(11))],
            Unseen::Without(5) => vec![Event::collision(2, 0, Some(4))],
            Unseen::Without(_) => Vec::new(),
        }
    }

    fn try_run(program: &str) -> Outcome {
        let words: Vec<String> = program.split(' ').map(str::to_owned).collect();
        let annotation = scene();
        run(&words, &History::new(&annotation), &unseen)
    }

    /// The answer that a program gives.
    fn answer(program: &str) -> String {
        try_run(program).unwrap().answer().unwrap()
    }

    const CUBE: &str = "objects cube filter_shape unique";
    const SPHERE: &str = "objects blue filter_color unique";
    const CYLINDER: &str = "objects gray filter_color unique";

    #[test]
    fn objects_by_attribute() {
        assert_eq!(answer("objects count"), "3");
        assert_eq!(answer("objects metal filter_material count"), "2");
        assert_eq!(
            answer("objects metal filter_material cube filter_shape exist"),
            "yes"
        );
        assert_eq!(
            answer("objects green filter_color exist negate negate"),
            "no"
        );
        assert_eq!(answer(&format!("{CUBE} query_color")), "red");
        assert_eq!(answer(&format!("{SPHERE} query_material")), "rubber");
        assert_eq!(answer(&format!("{CYLINDER} query_shape")), "cylinder");
        assert_eq!(
            try_run(SPHERE),
            Ok(Value::Object(2)),
            "ids are the annotation's"
        );
    }

    #[test]
    fn objects_by_motion() {
        let when = |frame: &str, module: &str| try_run(&format!("objects {frame} {module}"));
        let objects = |ids: &[u32]| Ok(Value::Objects(ids.to_vec()));
        // Slower than the threshold is at rest; what is not seen neither moves nor rests.
        assert_eq!(when("start query_frame", "filter_moving"), objects(&[]));
        assert_eq!(
            when("start get_frame", "filter_stationary"),
            objects(&[0, 5])
        );
        assert_eq!(when("start get_frame", "filter_resting"), objects(&[0, 5]));
        assert_eq!(when("end get_frame", "filter_moving"), objects(&[2, 5]));
        assert_eq!(when("end get_frame", "filter_stationary"), objects(&[]));
        assert_eq!(when("null", "filter_moving"), objects(&[0, 2, 5]));
        assert_eq!(when("null", "filter_stationary"), objects(&[]));
    }

    #[test]
    fn directions_of_motion() {
        let at = |object: &str, event: &str| {
            answer(&format!("{object} {event} get_frame query_direction"))
        };
        let hit = format!("events {SPHERE} filter_collision unique");
        assert_eq!(at(SPHERE, "end"), "left");
        assert_eq!(at(CYLINDER, "end"), "right");
        assert_eq!(at(CUBE, &hit), "down");
        assert!(try_run(&format!("{CUBE} start get_frame query_direction")).is_err());
        let mut annotation = scene();
        for frame in &mut annotation.motion_trajectory {
            frame.objects[0].velocity = [-1.0, 0.1, 0.0];
        }
        assert_eq!(History::new(&annotation).direction(0, 1), Some("up"));
    }

    #[test]
    fn events_by_kind_and_time() {
        assert_eq!(
            answer("events objects filter_in unique query_frame"),
            "2",
            "the first frame in which it is seen"
        );
        assert_eq!(answer("events objects filter_out unique get_frame"), "8");
        assert_eq!(answer("events filter_start query_frame"), "0");
        assert_eq!(answer("events filter_end query_frame"), "9");
        let collisions = format!("events {CUBE} filter_collision");
        assert_eq!(answer(&format!("{collisions} count")), "2");
        for (order, frame) in [("first", "4"), ("second", "6"), ("last", "6")] {
            assert_eq!(
                answer(&format!("{collisions} {order} filter_order get_frame")),
                frame
            );
        }
        let entry = "events objects sphere filter_shape filter_in unique";
        assert_eq!(answer(&format!("events {entry} filter_after count")), "4");
        assert_eq!(answer(&format!("events {entry} filter_before count")), "1");
    }

    #[test]
    fn objects_of_events() {
        for module in ["query_object", "get_object"] {
            let program = format!("events objects filter_out unique {module} query_shape");
            assert_eq!(answer(&program), "cube");
        }
        for module in ["query_collision_partner", "get_col_partner"] {
            let first = format!("events {CUBE} filter_collision first filter_order");
            let program = format!("{first} {CUBE} {module} query_color");
            assert_eq!(answer(&program), "blue");
            assert!(try_run(&format!("{first} {CYLINDER} {module}")).is_err());
        }
    }

    #[test]
    fn causes_are_events_and_their_objects() {
        let question = format!(
            "events events {CUBE} filter_collision {CYLINDER} filter_collision unique filter_ancestor belong_to"
        );
        let is_cause = |option: &str| answer(&format!("{option} {question}"));
        assert_eq!(
            is_cause(&format!("events {SPHERE} filter_collision unique")),
            "yes"
        );
        assert_eq!(
            is_cause(&format!("events {SPHERE} filter_in unique")),
            "yes"
        );
        assert_eq!(is_cause(SPHERE), "yes");
        assert_eq!(is_cause(CYLINDER), "no");
        assert_eq!(
            is_cause(&format!("events {CUBE} filter_out unique")),
            "no",
            "it comes later"
        );
        assert_eq!(answer(&format!("{CYLINDER} {question} negate")), "yes");
    }

    #[test]
    fn the_future_and_changed_worlds_are_asked_for() {
        let pair = |first: &str, second: &str| {
            format!("all_events {first} filter_collision {second} filter_collision unique")
        };
        let next = "unseen_events belong_to";
        assert_eq!(answer(&format!("{} {next}", pair(SPHERE, CYLINDER))), "yes");
        assert_eq!(answer(&format!("{} {next}", pair(SPHERE, CUBE))), "no");
        for module in ["get_counterfact", "filter_counterfact"] {
            let without = |removed: &str| format!("all_events {removed} {module} belong_to");
            let remains = |pair: &str, removed: &str| answer(&format!("{pair} {removed}"));
            // The order of the two objects means nothing.
            assert_eq!(remains(&pair(CUBE, SPHERE), &without(CYLINDER)), "yes");
            assert_eq!(remains(&pair(SPHERE, CYLINDER), &without(CUBE)), "yes");
            assert_eq!(
                remains(
                    &pair(CUBE, CYLINDER),
                    &format!("{} negate", without(SPHERE))
                ),
                "yes"
            );
        }
        let listed = try_run(&format!("{CUBE} counterfact_events")).unwrap();
        assert_eq!(listed, Value::Events(unseen(Unseen::Without(0))));
        assert_eq!(answer("all_events count"), "3");
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        assert_eq!(
            try_run("objects metal filter_material unique"),
            Err(ProgramError::NotUnique {
                position: 3,
                found: 2
            })
        );
        assert_eq!(
            try_run("objects cone filter_shape"),
            Err(ProgramError::UnknownWord {
                word: "cone".into(),
                position: 1
            })
        );
        assert_eq!(
            run([], &History::new(&scene()), &unseen),
            Err(ProgramError::Empty)
        );
        let modules = [
            "unique",
            "count",
            "exist",
            "negate",
            "belong_to",
            "filter_color",
            "filter_moving",
            "filter_resting",
            "filter_stationary",
            "filter_start",
            "filter_end",
            "filter_in",
            "filter_out",
            "filter_collision",
            "filter_order",
            "filter_before",
            "filter_after",
            "filter_ancestor",
            "filter_counterfact",
            "counterfact_events",
            "query_color",
            "query_material",
            "query_shape",
            "query_direction",
            "query_frame",
            "query_object",
            "query_collision_partner",
        ];
        for module in modules {
            for arguments in ["", "null ", "red null "] {
                let error = try_run(&format!("{arguments}{module}")).unwrap_err();
                assert!(
                    error.to_string().contains(module),
                    "{arguments}{module}: {error}"
                );
            }
        }
    }
}
