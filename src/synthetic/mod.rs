//! The miniature world: simulated collisions of coloured shapes, written as a small CLEVRER.
//!
//! The files have the official formats (questions, annotations, folders of clips), so that everything
//! downstream treats them alike. Everything follows from a seed; the number of threads changes nothing.

use crate::config::{QuestionKind, Wording};
use crate::data::answer::Answer;
use crate::data::clevrer::{self, Counts, OfficialScene};
use crate::data::{DataError, Question, write_questions};
use crate::util::atomic;
use crate::util::file;
use crate::util::file::FileError;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use serde::Serialize;
use std::path::Path;
use thiserror::Error;

pub(crate) mod annotation;
pub(crate) mod answers;
pub(crate) mod encoder;
pub mod physics;
pub(crate) mod questions;
pub mod render;
pub mod scene;
pub mod spec;

use answers::{EVENTS_QUESTION, INVENTORY_QUESTION, Style, events_answer, grounding};
use answers::{inventory_answer, motion_answer, motion_question, worked_answer};
use answers::{pair_answer, pair_question};
use encoder::{ClipFormat, EncodeError, write_clip};
use physics::{NUM_OBJECTS, PAIRS};
use questions::{Counterfactual, sample_questions};
use scene::{Scene, sample_scene, scene_rng};
use spec::{MINI, Topic};

/// How large a world to make, and of what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorldOptions {
    /// Scenes to train on by reinforcement; numbered from 0 as in CLEVRER.
    pub train: usize,
    /// Scenes to validate on; numbered from 10000.
    pub validation: usize,
    /// Scenes with worked answers; numbered from 20000.
    pub sft: usize,
    /// Questions asked about a training or validation scene, where it has as many.
    pub questions_per_scene: usize,
    /// Share of inferential questions where a scene has one question; the others are observational.
    pub inferential_share: f64,
    /// How worked answers argue.
    pub worked: WorkedStyle,
    /// Seed of everything.
    pub seed: u64,
}

impl WorldOptions {
    /// What `data mini` makes unless it is told otherwise.
    pub const DEFAULT: Self = Self {
        train: 2000,
        validation: 2000,
        sft: 0,
        questions_per_scene: 1,
        inferential_share: MINI.inferential_share(),
        worked: WorkedStyle::DEFAULT,
        seed: 1,
    };
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How worked answers argue: who thinks, and how well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkedStyle {
    /// Share of answers that think the object away, whatever the kind of question; the others observe. Absent: 35 % on
    /// observational and 80 % on inferential questions, as if who answers knew the kind.
    pub thinker_share: Option<f64>,
    /// Probability with which each imagined verdict is wrong; the answer follows it. Thinking is then at first worse than
    /// observing where the shortcut holds, and better only once it is learnt.
    pub thinker_noise: f64,
    /// Ask the second question of a scene, where it is observational, without its condition ("What will happen?"), the
    /// answer as it is.
    pub strip_condition: bool,
}

impl WorkedStyle {
    /// Thinkers know the kind of question, and what they imagine is true.
    pub const DEFAULT: Self = Self {
        thinker_share: None,
        thinker_noise: 0.0,
        strip_condition: false,
    };

    /// How the answer to `question` argues.
    fn draw(&self, question: &Counterfactual, rng: &mut ChaCha8Rng) -> Style {
        let inferential = question.kind == QuestionKind::Inferential;
        let share = self
            .thinker_share
            .unwrap_or(MINI.thinker_shares[usize::from(inferential)]);
        if rng.random_bool(share) {
            Style::thinker(question, self.thinker_noise, rng)
        } else {
            Style::Observer
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Questions to train on.
    pub(crate) train: Counts,
    /// Questions to validate on.
    pub(crate) validation: Counts,
    /// Worked answers of every kind, those to single objects and pairs among them.
    pub(crate) worked_answers: usize,
    pub(crate) worked_observational: WorkedCounts,
    pub(crate) worked_inferential: WorkedCounts,
    /// Clips of all three parts.
    pub clips: usize,
    /// Their size together.
    pub clip_bytes: u64,
}

/// Worked answers to one kind of question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WorkedCounts {
    pub(crate) answers: usize,
    /// Those that think the object away.
    pub(crate) thinkers: usize,
    /// Those of them that are right; who observes is right on observational questions alone.
    pub(crate) thinkers_right: usize,
}

impl WorkedCounts {
    fn of(questions: &[Question], kind: QuestionKind) -> Self {
        let mut counts = Self::default();
        for question in questions.iter().filter(|one| one.kind == Some(kind)) {
            counts.answers += 1;
            if question.problem_type.as_deref() == Some(answers::THINKER) {
                let answer = question.response.as_deref().map(Answer::parse);
                counts.thinkers += 1;
                counts.thinkers_right += usize::from(answer == Some(question.answer()));
            }
        }
        counts
    }
}

/// What can go wrong when a world is made.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum WorldError {
    /// The numbers of scenes overlap.
    #[error("{part}: {wanted} scenes are too many, the numbering has room for {room}")]
    TooMany {
        part: &'static str,
        /// How many were asked for.
        wanted: usize,
        /// How many are possible.
        room: usize,
    },
    /// There is nothing to ask.
    #[error("questions per scene must be between 1 and {NUM_OBJECTS}")]
    QuestionsPerScene,
    /// It is no share.
    #[error("{name} must be between 0 and {most}, not {value}")]
    Share {
        name: &'static str,
        most: f64,
        value: f64,
    },
    /// A clip.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An annotation or other file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A question file.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// A split of the world.
#[derive(Debug, Clone, Copy)]
struct WorldSplit {
    name: &'static str,
    first_index: usize,
    num_scenes: usize,
    questions_per_scene: usize,
    /// Among scenes: those whose first question is inferential.
    inferential_share: f64,
}

/// Makes a world below `out`:
///
/// - `train.json`, `validation.json`: official question files; `annotations/<part>/`: official annotations;
/// - `videos/video_00000-01000/video_00000.mp4`: the clips, the root that question paths start from;
/// - `train_questions.json`, `validation_questions.json`: what `data clevrer` makes of these;
/// - `sft.jsonl`: worked answers, the lines of one clip together.
///
/// `progress` is told each finished scene.
pub fn write_world(
    options: &WorldOptions,
    out: &Path,
    progress: &(dyn Fn() + Sync),
) -> Result<Summary, WorldError> {
    if !(1..=NUM_OBJECTS).contains(&options.questions_per_scene) {
        return Err(WorldError::QuestionsPerScene);
    }
    check_shares(options)?;
    let asked = |name, first_index, num_scenes, room| {
        if num_scenes > room {
            return Err(WorldError::TooMany {
                part: name,
                wanted: num_scenes,
                room,
            });
        }
        Ok(WorldSplit {
            name,
            first_index,
            num_scenes,
            questions_per_scene: options.questions_per_scene,
            inferential_share: options.inferential_share * options.questions_per_scene as f64,
        })
    };
    let train = asked("train", 0, options.train, 10_000)?;
    let validation = asked("validation", 10_000, options.validation, 5_000)?;
    let sft = WorldSplit {
        questions_per_scene: MINI.worked_questions,
        // As if for three questions: three quarters of the first ones are inferential, which take the most practice.
        inferential_share: 3.0 * options.inferential_share,
        ..asked("sft", 20_000, options.sft, 80_000)?
    };
    make_folders(out, &[train, validation, sft])?;

    let mut clip_bytes = 0;
    let mut official = |part: WorldSplit| -> Result<Counts, WorldError> {
        let (counts, bytes) = write_official(part, options.seed, out, progress)?;
        clip_bytes += bytes;
        Ok(counts)
    };
    let (train, validation) = (official(train)?, official(validation)?);
    let (worked, bytes) = write_worked(sft, options, out, progress)?;
    Ok(Summary {
        train,
        validation,
        worked_answers: worked.len(),
        worked_observational: WorkedCounts::of(&worked, QuestionKind::Observational),
        worked_inferential: WorkedCounts::of(&worked, QuestionKind::Inferential),
        clips: options.train + options.validation + options.sft,
        clip_bytes: clip_bytes + bytes,
    })
}

fn check_shares(options: &WorldOptions) -> Result<(), WorldError> {
    let worked = &options.worked;
    // From one half on a verdict would say the opposite; at 1 those of a question with all options right never end.
    let shares = [
        (
            "the share of inferential questions",
            options.inferential_share,
            1.0,
        ),
        (
            "the share of thinkers",
            worked.thinker_share.unwrap_or(0.0),
            1.0,
        ),
        ("the thinkers' noise", worked.thinker_noise, 0.5),
    ];
    for (name, value, most) in shares {
        if !(0.0..=most).contains(&value) {
            return Err(WorldError::Share { name, most, value });
        }
    }
    Ok(())
}

/// Makes the folders of the clips, without what an interrupted run has left in them.
fn make_folders(out: &Path, parts: &[WorldSplit]) -> Result<(), FileError> {
    let videos = out.join("videos");
    file::create_folders(&videos)?;
    atomic::remove_unfinished(out)?;
    for part in parts {
        for index in (part.first_index..part.first_index + part.num_scenes).step_by(1000) {
            if let Some(folder) = videos.join(clevrer::video_path(index)).parent() {
                file::create_folders(folder)?;
                atomic::remove_unfinished(folder)?;
            }
        }
    }
    Ok(())
}

/// A scene with its questions, and the size of its clip.
struct Made {
    scene_index: usize,
    scene: Scene,
    questions: Vec<Counterfactual>,
    clip_bytes: u64,
}

/// Makes one scene of a part, writes its clip and hands it to `finish` with its random numbers.
fn make_scene<T>(
    part: WorldSplit,
    (position, topic): (usize, Topic),
    seed: u64,
    out: &Path,
    finish: impl Fn(&Made, &mut ChaCha8Rng) -> Result<T, WorldError>,
) -> Result<(T, u64), WorldError> {
    let scene_index = part.first_index + position;
    let mut rng = scene_rng(seed, scene_index);
    let scene = sample_scene(&mut rng, topic);
    let questions = sample_questions(&scene, topic, part.questions_per_scene, &mut rng);
    let path = out.join("videos").join(clevrer::video_path(scene_index));
    let clip = ClipFormat {
        side: MINI.side(),
        rate: MINI.clip_rate(),
    };
    write_clip(&path, &render::render(&scene.looks, &scene.factual), clip)?;
    let metadata = std::fs::metadata(&path).map_err(|error| FileError::reading(&path, error))?;
    let made = Made {
        scene_index,
        scene,
        questions,
        clip_bytes: metadata.len(),
    };
    Ok((finish(&made, &mut rng)?, made.clip_bytes))
}

/// Writes a part in the official formats and converts it as any official file. Returns the counts and
/// the size of the clips.
fn write_official(
    part: WorldSplit,
    seed: u64,
    out: &Path,
    progress: &(dyn Fn() + Sync),
) -> Result<(Counts, u64), WorldError> {
    if part.num_scenes == 0 {
        return Ok((Counts::default(), 0));
    }
    let annotations = out.join("annotations").join(part.name);
    file::create_folders(&annotations)?;
    atomic::remove_unfinished(&annotations)?;
    let topics = MINI.topics(part.num_scenes, part.inferential_share);
    let made: Vec<(OfficialScene, u64)> = topics
        .into_par_iter()
        .enumerate()
        .map(|place| {
            let made = make_scene(part, place, seed, out, |made, _| {
                let path = annotations.join(format!("annotation_{:05}.json", made.scene_index));
                let text = annotation::annotation(made.scene_index, &made.scene).to_string();
                file::write(&path, text.as_bytes())?;
                Ok(official_scene(made))
            })?;
            progress();
            Ok(made)
        })
        .collect::<Result<_, WorldError>>()?;
    let (scenes, sizes): (Vec<OfficialScene>, Vec<u64>) = made.into_iter().unzip();
    let questions = out.join(format!("{}.json", part.name));
    let text = serde_json::to_vec(&scenes)
        .map_err(|error| FileError::writing(&questions, error.into()))?;
    atomic::write(&questions, &text)?;
    let counts = clevrer::convert(
        &questions,
        &annotations,
        Path::new(""),
        &out.join(format!("{}_questions.json", part.name)),
    )?;
    Ok((counts, sizes.iter().sum()))
}

fn official_scene(made: &Made) -> OfficialScene {
    OfficialScene {
        scene_index: made.scene_index,
        video_filename: format!("video_{:05}.mp4", made.scene_index),
        questions: made
            .questions
            .iter()
            .enumerate()
            .map(|(id, question)| question.official(&made.scene, id))
            .collect(),
    }
}

/// Writes the worked answers. Returns their number and the size of the clips.
fn write_worked(
    part: WorldSplit,
    options: &WorldOptions,
    out: &Path,
    progress: &(dyn Fn() + Sync),
) -> Result<(Vec<Question>, u64), WorldError> {
    if part.num_scenes == 0 {
        return Ok((Vec::new(), 0));
    }
    let made: Vec<(Vec<Question>, u64)> = MINI
        .topics(part.num_scenes, part.inferential_share)
        .into_par_iter()
        .enumerate()
        .map(|place| {
            let made = make_scene(part, place, options.seed, out, |made, rng| {
                Ok(worked_questions(made, &options.worked, rng))
            })?;
            progress();
            Ok(made)
        })
        .collect::<Result<_, WorldError>>()?;
    let (questions, sizes): (Vec<Vec<Question>>, Vec<u64>) = made.into_iter().unzip();
    let questions: Vec<Question> = questions.into_iter().flatten().collect();
    write_questions(&out.join("sft.jsonl"), &questions)?;
    Ok((questions, sizes.iter().sum()))
}

/// What is left of a question without its condition, as `data clevrer --strip-condition` has it.
const WITHOUT_CONDITION: &str = "What will happen?";

/// A clip's lines of `sft.jsonl`: counterfactual questions with worked answers, then what is there, what happens, how
/// each object moves and which collide, with and without the removed object. The first line says what each video token shows.
fn worked_questions(made: &Made, worked: &WorkedStyle, rng: &mut ChaCha8Rng) -> Vec<Question> {
    let scene = &made.scene;
    let (mut lines, mut removed) = (Vec::new(), Vec::new());
    for id in 0..MINI.worked_questions {
        // A scene with fewer questions is asked again, with options in another order.
        let again = &made.questions[id % made.questions.len()];
        let question = match made.questions.get(id) {
            Some(question) => Some(question.clone()),
            None => Counterfactual::sample(scene, again.removed, rng),
        };
        removed.extend(question.as_ref().map(|question| question.removed));
        lines.extend(question.map(|question| {
            let style = worked.draw(&question, rng);
            let right = question.letters(|choice| choice.is_right);
            let right: Vec<String> = right.iter().map(char::to_string).collect();
            let official = question.official(scene, id);
            let strip = worked.strip_condition && id > 0;
            let problem = if strip && question.kind == QuestionKind::Observational {
                official.problem_asking(WITHOUT_CONDITION)
            } else {
                official.problem()
            };
            let answer = worked_answer(scene, &question, &style);
            Question {
                kind: Some(question.kind),
                ..worked_line(
                    made.scene_index,
                    &id.to_string(),
                    style.as_str(),
                    problem,
                    (right.join(","), answer),
                )
            }
        }));
    }
    let mut plain = |id: &str, problem_type, problem, answer: String| {
        let answers = (answer.clone(), answer);
        lines.push(Question {
            wording: Some(Wording::None),
            ..worked_line(made.scene_index, id, problem_type, problem, answers)
        });
    };
    let (inventory, events) = (INVENTORY_QUESTION.to_owned(), EVENTS_QUESTION.to_owned());
    plain("inventory", "inventory", inventory, inventory_answer(scene));
    plain("events", "events", events, events_answer(scene));
    for object in 0..NUM_OBJECTS {
        let (problem, answer) = (motion_question(scene, object), motion_answer(scene, object));
        plain(&format!("motion-{object}"), "motion", problem, answer);
    }
    let seen = PAIRS.map(|pair| (pair, None));
    // What the removal leaves as it is needs no thought: practise on what it changes, where there is such a thing.
    let changes = |object: &usize| scene.question_kind(*object) == Some(QuestionKind::Inferential);
    let telling: Vec<usize> = (0..NUM_OBJECTS).filter(changes).collect();
    if !telling.is_empty() {
        let again = telling.iter().copied().cycle();
        removed = again.take(MINI.worked_questions).collect();
    }
    let imagined = removed
        .into_iter()
        .flat_map(|object| Scene::pairs_without(object).map(|pair| (pair, Some(object))));
    for (number, (pair, without)) in seen.into_iter().chain(imagined).enumerate() {
        let problem = pair_question(scene, pair, without);
        let answer = pair_answer(scene, pair, without);
        plain(&format!("pair-{number}"), "pair", problem, answer);
    }
    if let Some(first) = lines.first_mut() {
        first.grounding = Some(grounding(scene));
    }
    lines
}

/// One line of `sft.jsonl` from the right answer and the worked one.
fn worked_line(
    scene_index: usize,
    id: &str,
    problem_type: &str,
    problem: String,
    (answer, response): (String, String),
) -> Question {
    Question {
        id: format!("mini/{scene_index}/{id}"),
        problem,
        solution: format!("<answer>{answer}</answer>"),
        video: clevrer::video_path(scene_index),
        kind: None,
        options: None,
        problem_type: Some(problem_type.to_owned()),
        response: Some(response),
        wording: None,
        grounding: None,
        judge: None,
        extra: serde_json::Map::new(),
    }
}
