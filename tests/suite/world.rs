//! The miniature world on disk: deterministic, true, and readable as a CLEVRER.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use videothinker::config::DataConfig;
use videothinker::config::QuestionKind;
use videothinker::config::VideoConfig;
use videothinker::data::Answer;
use videothinker::data::Dataset;
use videothinker::data::Question;
use videothinker::data::clevrer;
use videothinker::data::clevrer::history::Event;
use videothinker::data::clevrer::history::History;
use videothinker::data::clevrer::program;
use videothinker::data::clevrer::program::Unseen;
use videothinker::data::read_questions;
use videothinker::synthetic::WorkedStyle;
use videothinker::synthetic::WorldOptions;
use videothinker::synthetic::physics::Motion;
use videothinker::synthetic::physics::NUM_OBJECTS;
use videothinker::synthetic::physics::PAIRS;
use videothinker::synthetic::physics::Simulation;
use videothinker::synthetic::physics::simulate;
use videothinker::synthetic::render::render;
use videothinker::synthetic::scene::sample_scene;
use videothinker::synthetic::scene::scene_rng;
use videothinker::synthetic::spec::MINI;
use videothinker::synthetic::write_world;
use videothinker::video;

const SMALL: WorldOptions = WorldOptions {
    train: 12,
    validation: 8,
    sft: 6,
    seed: 9,
    ..WorldOptions::DEFAULT
};

fn small_world() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_world(&SMALL, folder.path(), &|| ()).unwrap();
    folder
}

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let make = |threads: usize, seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let options = WorldOptions { seed, ..SMALL };
        let summary = pool
            .install(|| write_world(&options, folder.path(), &|| ()))
            .unwrap();
        (summary, files(folder.path()))
    };
    let (summary, one) = make(1, 9);
    let (_, three) = make(3, 9);
    assert_eq!(one.len(), 12 + 8 + 6 + 12 + 8 + 5);
    let changed: Vec<&PathBuf> = one
        .keys()
        .filter(|name| one.get(*name) != three.get(*name))
        .collect();
    assert!(
        changed.is_empty(),
        "the number of threads changes {changed:?}"
    );
    assert_eq!(summary.clips, 26);
    let clips: usize = one
        .iter()
        .filter(|(name, _)| name.starts_with("videos"))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert_eq!(summary.clip_bytes, clips as u64);
    // About 11 kB; with macroblock trees it was 7, but not the same bytes in every run.
    assert!(clips / 26 < 12_000, "{} bytes a clip", clips / 26);
    let (_, other) = make(2, 10);
    assert!(other["train.json".as_ref() as &Path] != one["train.json".as_ref() as &Path]);
}

/// Runs the world again from nothing but the official files.
#[test]
fn answers_and_kinds_follow_from_simulating_the_annotated_start() {
    let folder = small_world();
    let questions = read_questions(&folder.path().join("train_questions.json")).unwrap();
    assert_eq!(questions.len(), SMALL.train);
    let by_other_rule = folder.path().join("by_other_rule.jsonl");
    let conversion = clevrer::Conversion {
        rule: clevrer::KindRule::RemovedObjectUninvolved,
        ..clevrer::Conversion::default()
    };
    let counts = conversion
        .convert(
            &folder.path().join("train.json"),
            &folder.path().join("annotations/train"),
            Path::new(""),
            &by_other_rule,
        )
        .unwrap();
    let by_other_rule = read_questions(&by_other_rule).unwrap();
    let mut position = 0;
    clevrer::for_each_scene(&folder.path().join("train.json"), |scene| {
        let annotations = folder.path().join("annotations/train");
        let annotation = clevrer::read_annotation(&annotations, scene.scene_index)?;
        let name = format!("annotation_{:05}.json", scene.scene_index);
        let start = start_of(&json(&annotations.join(name)));
        let factual = simulate(&start, None);
        let annotated: Vec<[u32; 2]> = annotation
            .collision
            .iter()
            .map(|event| event.object_ids)
            .collect();
        let simulated: Vec<[u32; 2]> = factual
            .collisions
            .iter()
            .map(|event| [event.agent as u32, event.target as u32])
            .collect();
        assert_eq!(annotated, simulated);

        let official = &scene.questions[0];
        let question = &questions[position];
        let history = History::new(&annotation);
        let events = |simulation: &Simulation| -> Vec<Event> {
            let pairs = simulation.collisions.iter();
            let pairs = pairs.map(|event| (event.agent as u32, event.target as u32));
            pairs
                .map(|(agent, target)| Event::collision(agent, target, None))
                .collect()
        };
        let removed = std::cell::Cell::new(None);
        let simulated = |unseen| match unseen {
            Unseen::Without(object) => {
                removed.set(Some(object as usize));
                events(&simulate(&start, Some(object as usize)))
            }
            Unseen::Future => Vec::new(),
        };
        let as_seen = |_| events(&factual);
        let (mut right, mut seen) = (Vec::new(), Vec::new());
        for (choice, letter) in official.choices.iter().zip('A'..) {
            let holds = |unseen: &dyn Fn(Unseen) -> Vec<Event>| {
                let program = choice.program.iter().chain(&official.program);
                program::run(program, &history, unseen).unwrap() == program::Value::Truth(true)
            };
            if holds(&simulated) {
                right.push(letter.to_string());
            }
            if holds(&as_seen) {
                seen.push(letter.to_string());
            }
        }
        assert_eq!(question.answer(), Answer::parse(&right.join(",")));
        let kind = |observational: bool| {
            Some(if observational {
                QuestionKind::Observational
            } else {
                QuestionKind::Inferential
            })
        };
        assert_eq!(question.kind, kind(right == seen));
        assert_eq!(question.id, format!("clevrer/{}/0", scene.scene_index));
        let removed = removed.get().unwrap();
        let involved = (factual.collisions.iter())
            .any(|event| event.agent == removed || event.target == removed);
        assert_eq!(by_other_rule[position].kind, kind(!involved));
        position += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(position, SMALL.train);
    let inferential = questions
        .iter()
        .filter(|question| question.kind == Some(QuestionKind::Inferential));
    assert_eq!(inferential.count(), 3);
    assert_eq!(counts.answers_as_seen, SMALL.train - 3);
    assert_eq!(counts.removed_object_uninvolved, counts.observational);
}

/// Where the objects are in the first frame of an annotation, and how they move then.
fn start_of(annotation: &Value) -> [Motion; NUM_OBJECTS] {
    std::array::from_fn(|object| {
        let object = &annotation["motion_trajectory"][0]["objects"][object];
        let plane = |name: &str| [0, 1].map(|axis| object[name][axis].as_f64().unwrap());
        Motion {
            position: plane("location"),
            velocity: plane("velocity").map(|part| part * MINI.frames_per_sample as f64),
        }
    })
}

#[test]
fn the_official_files_have_the_official_fields() {
    let folder = small_world();
    let scenes = json(&folder.path().join("validation.json"));
    let scene = &scenes[0];
    assert_eq!(scene["scene_index"], 10_000);
    assert_eq!(scene["video_filename"], "video_10000.mp4");
    let question = &scene["questions"][0];
    assert_eq!(question["question_type"], "counterfactual");
    for field in ["question_id", "question", "program", "choices"] {
        assert!(!question[field].is_null(), "{field}");
    }
    for field in ["choice_id", "choice", "program", "answer"] {
        assert!(!question["choices"][2][field].is_null(), "{field}");
    }
    let annotation = json(
        &folder
            .path()
            .join("annotations/validation/annotation_10000.json"),
    );
    assert_eq!(
        annotation["motion_trajectory"].as_array().unwrap().len(),
        15
    );
    let object = &annotation["motion_trajectory"][14]["objects"][3];
    for field in [
        "object_id",
        "location",
        "orientation",
        "velocity",
        "angular_velocity",
        "inside_camera_view",
    ] {
        assert!(!object[field].is_null(), "{field}");
    }
    assert_eq!(annotation["object_property"].as_array().unwrap().len(), 4);
    assert!(annotation["collision"][0]["frame_id"].as_u64().unwrap() < 15);
}

#[test]
fn a_clip_shows_what_was_rendered() {
    let folder = small_world();
    let topics = MINI.topics(SMALL.train, 0.25);
    let side = MINI.side();
    let config = VideoConfig {
        min_pixels: side * side,
        max_pixels: side * side,
        ..VideoConfig::default()
    };
    for (index, topic) in topics.into_iter().enumerate().take(4) {
        let path = folder
            .path()
            .join("videos")
            .join(clevrer::video_path(index));
        let (clip, frames) = video::load(&path, &config).unwrap();
        // The paper's two frames per second take exactly the frames that the world counts time in.
        assert_eq!(clip.indices, [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(
            (clip.total_frames, clip.sample_fps, clip.second_per_grid),
            (15, 2.0, 1.0)
        );
        assert_eq!(clip.resized, [side, side]);
        let scene = sample_scene(&mut scene_rng(SMALL.seed, index), topic);
        let pictures = render(&scene.looks, &scene.factual);
        let pixels = side * side;
        for (sample, frame) in clip.indices.iter().enumerate() {
            let mut total = 0;
            for (position, expected) in pictures[*frame].iter().enumerate() {
                let (pixel, channel) = (position / 3, position % 3);
                let shown = frames.values[(sample * 3 + channel) * pixels + pixel];
                total += usize::from(shown.abs_diff(*expected));
            }
            let mean = total as f64 / (3 * pixels) as f64;
            assert!(
                mean < 5.0,
                "clip {index}, frame {frame}: mean difference {mean}"
            );
        }
    }
}

#[test]
fn worked_answers_come_by_clip_with_what_every_token_shows() {
    let folder = small_world();
    let config = DataConfig {
        questions: folder.path().join("sft.jsonl"),
        video_root: folder.path().join("videos"),
        ..DataConfig::default()
    };
    let dataset = Dataset::load(&config, 0).unwrap();
    let lines: Vec<&[Question]> = dataset
        .questions()
        .chunk_by(|a, b| a.video == b.video)
        .collect();
    assert_eq!(lines.len(), SMALL.sft);
    let mut styles = BTreeMap::new();
    for clip in lines {
        assert_eq!(
            clip.len(),
            4 * MINI.worked_questions + 2 + NUM_OBJECTS + PAIRS.len()
        );
        let grounding = clip[0].grounding.as_ref().unwrap();
        assert!(!grounding.is_empty() && grounding.iter().all(|(token, _)| *token < 64));
        assert!(
            clip[1..]
                .iter()
                .all(|question| question.grounding.is_none())
        );
        for question in &clip[..MINI.worked_questions] {
            let style = question.problem_type.clone().unwrap();
            let response = question.response.as_deref().unwrap();
            let is_right = Answer::parse(response) == question.answer();
            let observational = question.kind == Some(QuestionKind::Observational);
            assert_eq!(is_right, observational || style == "thinker", "{response}");
            *styles.entry(style).or_insert(0) += 1;
        }
    }
    assert_eq!(styles.len(), 2, "{styles:?}");
}

#[test]
fn worked_answers_are_counted_by_kind_and_style() {
    let folder = tempfile::tempdir().unwrap();
    let worked = |share: &str| {
        let command = "data mini --out s --train 0 --validation 0 --sft 8 --thinker-noise 0.4";
        let style = ["--thinker-share", share];
        let arguments: Vec<&str> = command.split(' ').chain(style).collect();
        let output = crate::videothinker(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let questions = read_questions(&folder.path().join("s/sft.jsonl")).unwrap();
        let of_kind = questions
            .iter()
            .filter(|one| one.kind == Some(QuestionKind::Inferential));
        let is_right =
            |one: &&Question| Answer::parse(one.response.as_deref().unwrap()) == one.answer();
        (
            stdout,
            of_kind.clone().count(),
            of_kind.filter(is_right).count(),
        )
    };
    let (said, all, right) = worked("1");
    let line = format!(
        "{all} to inferential questions, of which {all} think (100.0 %), {right} of these right"
    );
    assert!(said.contains(&line) && 0 < right && right < all, "{said}");
    let (said, ..) = worked("0");
    assert!(
        said.contains("of which 0 think (0.0 %), 0 of these right"),
        "{said}"
    );
}

#[test]
fn the_commands_print_counts_and_name_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = crate::videothinker(folder.path(), arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let mini = [
        "data",
        "mini",
        "--out",
        "w",
        "--train",
        "4",
        "--validation",
        "4",
        "--seed",
        "3",
        "--json",
    ];
    let (code, stdout, stderr) = run(&mini);
    assert_eq!(code, Some(0), "{stderr}");
    let counts: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(counts["train"]["inferential"], 1);
    assert_eq!(counts["validation"]["observational"], 3);

    let clevrer = [
        "data",
        "clevrer",
        "--questions",
        "w/train.json",
        "--annotations",
        "w/annotations/train",
        "--video-prefix",
        "train",
        "--out",
    ];
    let (code, stdout, _) = run(&[&clevrer[..], &["again.jsonl"]].concat());
    assert_eq!(code, Some(0));
    assert!(
        stdout.contains("13674 of 18473")
            && stdout.contains("4 questions, 3 observational (75.0 %)"),
        "{stdout}"
    );
    let again = read_questions(&folder.path().join("again.jsonl")).unwrap();
    let first = read_questions(&folder.path().join("w/train_questions.json")).unwrap();
    assert_eq!(again[2].problem, first[2].problem);
    assert_eq!(again[2].video, Path::new("train").join(&first[2].video));

    let wrong = [
        "data",
        "clevrer",
        "--questions",
        "w/train.json",
        "--annotations",
        "w/annotations/validation",
        "--out",
        "x.json",
    ];
    let (code, stdout, stderr) = run(&wrong);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("annotation_00000.json"), "{stderr}");
    for (option, value, said) in [
        ("--train", "20000", "train: 20000 scenes are too many"),
        (
            "--inferential-share",
            "1.5",
            "inferential questions must be between 0 and 1, not 1.5",
        ),
        (
            "--thinker-share",
            "-0.1",
            "thinkers must be between 0 and 1, not -0.1",
        ),
        (
            "--thinker-noise",
            "0.6",
            "noise must be between 0 and 0.5, not 0.6",
        ),
        ("--questions-per-scene", "9", "between 1 and 4"),
    ] {
        let option = format!("{option}={value}");
        let (code, _, stderr) = run(&["data", "mini", "--out", "y", "--sft", "2", &option]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// The words of stage 1's questions are learnt before stage 1 asks them.
#[test]
fn worked_answers_know_the_form_of_stripped_questions() {
    let folder = tempfile::tempdir().unwrap();
    let options = WorldOptions {
        inferential_share: 0.2,
        worked: WorkedStyle {
            thinker_share: Some(0.5),
            thinker_noise: 0.25,
            strip_condition: true,
        },
        ..SMALL
    };
    write_world(&options, folder.path(), &|| ()).unwrap();
    let path = |name: &str| folder.path().join(name);
    let conversion = clevrer::Conversion {
        strip_condition: true,
        ..clevrer::Conversion::default()
    };
    conversion
        .convert(
            &path("train.json"),
            &path("annotations/train"),
            Path::new(""),
            &path("stripped.json"),
        )
        .unwrap();
    let asks = |question: &Question| question.problem.lines().next().unwrap().to_owned();
    let stage_1 = read_questions(&path("stripped.json")).unwrap();
    let of_stage_1 = stage_1
        .iter()
        .find(|question| question.kind == Some(QuestionKind::Observational));
    let form = asks(of_stage_1.unwrap());
    let worked = read_questions(&path("sft.jsonl")).unwrap();
    let (mut stripped, mut thinkers) = (0, 0);
    for question in worked.iter().filter(|question| question.kind.is_some()) {
        if asks(question) == form {
            assert_eq!(question.kind, Some(QuestionKind::Observational));
            stripped += 1;
            let response = question.response.as_deref().unwrap();
            thinkers += usize::from(response.contains("Without the"));
        } else {
            assert!(
                asks(question).contains("without the"),
                "{}",
                question.problem
            );
        }
    }
    assert!(
        stripped > 2 && thinkers > 0 && thinkers < stripped,
        "{stripped} {thinkers}"
    );
    // Two of twelve scenes: 0.2 of the questions.
    let inferential = stage_1
        .iter()
        .filter(|question| question.kind == Some(QuestionKind::Inferential));
    assert_eq!(inferential.count(), 2);
}
