//! CLEVRER's functional programs, as far as counterfactual questions use them: postfix lists of words
//! that select the removed object, select each option's event, and ask whether the event remains.
//!
//! The official executor runs an option's program followed by the question's on one stack. So does this
//! one, but its result is a [`Claim`] to be judged later, because official files hold no counterfactual
//! simulation. `get_…` are the names in the annotation files, `filter_…` those of the executor.

use super::Annotation;
use super::ObjectProperty;
use thiserror::Error;

/// What an option claims: that two objects collide (or not, if `negated`) when one is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The removed object.
    pub removed: u32,
    /// The two objects of the option's event.
    pub pair: (u32, u32),
    /// Whether the question asks what will *not* happen.
    pub negated: bool,
}

impl Claim {
    /// Whether the unmodified video makes the claim true.
    pub fn holds_as_seen(&self, annotation: &Annotation) -> bool {
        annotation.collide(self.pair) != self.negated
    }
}

/// Why a program gives no claim.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// A word that counterfactual questions do not use.
    #[error("unknown word {word:?} at position {position}")]
    UnknownWord {
        /// The word.
        word: String,
        /// Its index, the option's program counted first.
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
    /// The program ends without a claim.
    #[error("the programs do not end in belong_to")]
    NoClaim,
}

#[derive(Debug, Clone)]
enum Value {
    Word(String),
    Objects(Vec<u32>),
    Object(u32),
    Events(Vec<(u32, u32)>),
    Event((u32, u32)),
    /// The events that remain without this object.
    Remaining(u32),
    Claim(Claim),
}

/// Runs an option's program and then the question's.
pub fn claim(
    choice: &[String],
    question: &[String],
    annotation: &Annotation,
) -> Result<Claim, ProgramError> {
    let mut stack = Vec::new();
    for (position, word) in choice.iter().chain(question).enumerate() {
        let mut machine = Machine {
            stack: &mut stack,
            annotation,
            module: word,
            position,
        };
        let value = machine.run()?;
        stack.push(value);
    }
    match stack.pop() {
        Some(Value::Claim(claim)) => Ok(claim),
        _ => Err(ProgramError::NoClaim),
    }
}

/// One word of a program about to be run.
struct Machine<'a> {
    stack: &'a mut Vec<Value>,
    annotation: &'a Annotation,
    module: &'a str,
    position: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, ProgramError> {
        match self.module {
            "objects" => Ok(Value::Objects(self.all_objects())),
            "events" => Ok(Value::Events(
                self.annotation
                    .collision
                    .iter()
                    .map(|collision| (collision.object_ids[0], collision.object_ids[1]))
                    .collect(),
            )),
            "all_events" => {
                let objects = self.all_objects();
                let pairs = objects.iter().enumerate().flat_map(|(index, first)| {
                    objects[index + 1..]
                        .iter()
                        .map(move |second| (*first, *second))
                });
                Ok(Value::Events(pairs.collect()))
            }
            "filter_color" => self.filter_objects(|object| &object.color),
            "filter_material" => self.filter_objects(|object| &object.material),
            "filter_shape" => self.filter_objects(|object| &object.shape),
            "unique" => match self.stack.pop() {
                Some(Value::Objects(objects)) => self.only(&objects).map(Value::Object),
                Some(Value::Events(events)) => self.only(&events).map(Value::Event),
                _ => Err(self.needs("a list of objects or events")),
            },
            "filter_collision" => match (self.stack.pop(), self.stack.pop()) {
                (Some(Value::Object(object)), Some(Value::Events(mut events))) => {
                    events.retain(|pair| pair.0 == object || pair.1 == object);
                    Ok(Value::Events(events))
                }
                _ => Err(self.needs("events and an object")),
            },
            "get_counterfact" | "filter_counterfact" => {
                match (self.stack.pop(), self.stack.pop()) {
                    (Some(Value::Object(removed)), Some(Value::Events(_))) => {
                        Ok(Value::Remaining(removed))
                    }
                    _ => Err(self.needs("events and an object")),
                }
            }
            "belong_to" => match (self.stack.pop(), self.stack.pop()) {
                (Some(Value::Remaining(removed)), Some(Value::Event(pair))) => {
                    Ok(Value::Claim(Claim {
                        removed,
                        pair,
                        negated: false,
                    }))
                }
                _ => Err(self.needs("an event and the events that remain")),
            },
            "negate" => match self.stack.pop() {
                Some(Value::Claim(claim)) => Ok(Value::Claim(Claim {
                    negated: !claim.negated,
                    ..claim
                })),
                _ => Err(self.needs("the result of belong_to")),
            },
            word if is_attribute(word) => Ok(Value::Word(word.to_owned())),
            word => Err(ProgramError::UnknownWord {
                word: word.to_owned(),
                position: self.position,
            }),
        }
    }

    fn all_objects(&self) -> Vec<u32> {
        self.annotation
            .object_property
            .iter()
            .map(|object| object.object_id)
            .collect()
    }

    /// Keeps the objects whose attribute is the word on top of the stack.
    fn filter_objects(
        &mut self,
        attribute: impl Fn(&ObjectProperty) -> &str,
    ) -> Result<Value, ProgramError> {
        let (Some(Value::Word(word)), Some(Value::Objects(objects))) =
            (self.stack.pop(), self.stack.pop())
        else {
            return Err(self.needs("objects and a word"));
        };
        let kept = self
            .annotation
            .object_property
            .iter()
            .filter(|object| objects.contains(&object.object_id) && attribute(object) == word)
            .map(|object| object.object_id)
            .collect();
        Ok(Value::Objects(kept))
    }

    fn only<T: Copy>(&self, items: &[T]) -> Result<T, ProgramError> {
        match items {
            [item] => Ok(*item),
            _ => Err(ProgramError::NotUnique {
                position: self.position,
                found: items.len(),
            }),
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

/// CLEVRER's colours, materials and shapes.
fn is_attribute(word: &str) -> bool {
    const WORDS: [&str; 13] = [
        "gray", "red", "blue", "green", "brown", "cyan", "purple", "yellow", "metal", "rubber",
        "cube", "sphere", "cylinder",
    ];
    WORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A red metal cube (0), a red rubber sphere (2), a blue rubber cube (5); the cubes collide.
    fn scene() -> Annotation {
        serde_json::from_value(serde_json::json!({
            "scene_index": 0, "video_filename": "video_00000.mp4",
            "object_property": [
                {"object_id": 0, "color": "red", "material": "metal", "shape": "cube"},
                {"object_id": 2, "color": "red", "material": "rubber", "shape": "sphere"},
                {"object_id": 5, "color": "blue", "material": "rubber", "shape": "cube"},
            ],
            "motion_trajectory": [],
            "collision": [{"object_ids": [5, 0], "frame_id": 40, "location": [0, 0, 0]}],
        }))
        .unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn run(choice: &str, question: &str) -> Result<Claim, ProgramError> {
        claim(&words(choice), &words(question), &scene())
    }

    const CUBES: &str = "all_events objects red filter_color cube filter_shape unique filter_collision objects blue filter_color unique filter_collision unique";
    const WITHOUT_SPHERE: &str =
        "all_events objects sphere filter_shape unique get_counterfact belong_to";

    #[test]
    fn selects_the_removed_object_and_the_event() {
        let claim = run(CUBES, WITHOUT_SPHERE).unwrap();
        assert_eq!(
            claim,
            Claim {
                removed: 2,
                pair: (0, 5),
                negated: false
            }
        );
        assert!(claim.holds_as_seen(&scene()));
        let executor_names = WITHOUT_SPHERE.replace("get_counterfact", "filter_counterfact");
        assert_eq!(run(CUBES, &executor_names).unwrap(), claim);
    }

    #[test]
    fn what_will_not_happen_is_judged_the_other_way_round() {
        let claim = run(CUBES, &format!("{WITHOUT_SPHERE} negate")).unwrap();
        assert!(claim.negated && !claim.holds_as_seen(&scene()));
    }

    #[test]
    fn attributes_narrow_down_together() {
        let spheres = CUBES.replace("cube filter_shape", "rubber filter_material");
        assert_eq!(run(&spheres, WITHOUT_SPHERE).unwrap().pair, (2, 5));
    }

    #[test]
    fn what_cannot_be_resolved_is_named() {
        let error = |choice: &str, question: &str| run(choice, question).unwrap_err();
        let ambiguous = CUBES.replace(" cube filter_shape", "");
        assert_eq!(
            error(&ambiguous, WITHOUT_SPHERE),
            ProgramError::NotUnique {
                position: 4,
                found: 2
            }
        );
        let unknown = WITHOUT_SPHERE.replace("sphere", "cone");
        assert!(
            matches!(error(CUBES, &unknown), ProgramError::UnknownWord { word, .. } if word == "cone")
        );
        let broken = WITHOUT_SPHERE.replace(" unique", "");
        assert!(
            matches!(error(CUBES, &broken), ProgramError::Arguments { module, .. } if module == "get_counterfact")
        );
        assert_eq!(error(CUBES, "objects"), ProgramError::NoClaim);
        assert!(
            error(CUBES, "events belong_to")
                .to_string()
                .contains("belong_to")
        );
    }
}
