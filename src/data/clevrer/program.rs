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
    /// Of objects or events.
    Count(usize),
    /// A frame of the clip.
    Frame(usize),
    /// Yes or no.
    Truth(bool),
    /// By its `object_id`.
    Object(u32),
    /// Several objects.
    Objects(Vec<u32>),
    /// One that a clip shows, or its beginning or end.
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
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ProgramError {
    /// A word that is no module and means nothing.
    #[error("unknown word {word:?} at position {position}")]
    UnknownWord {
        word: String,
        /// Its index, an option's program counted first.
        position: usize,
    },
    /// A module does not find what it takes.
    #[error("{module} at position {position} needs {needs}")]
    Arguments {
        module: String,
        position: usize,
        needs: &'static str,
    },
    /// `unique` met none or several.
    #[error("unique at position {position} finds {found} instead of one")]
    NotUnique {
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
mod tests;
