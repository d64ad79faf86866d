//! Every module of CLEVRER's programs on one small scene.

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
    let at =
        |object: &str, event: &str| answer(&format!("{object} {event} get_frame query_direction"));
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
