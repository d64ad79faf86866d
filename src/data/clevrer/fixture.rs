//! Official files of one small scene, for tests.

use serde_json::Value;
use serde_json::json;

/// The words that find the object of a colour.
pub(super) fn object(color: &str) -> Vec<&str> {
    vec!["objects", color, "filter_color", "unique"]
}

/// An option: two objects collide.
pub(super) fn choice(id: usize, first: &str, second: &str, answer: &str) -> Value {
    let mut program = vec!["all_events"];
    program.extend(object(first));
    program.push("filter_collision");
    program.extend(object(second));
    program.extend(["filter_collision", "unique"]);
    json!({"choice_id": id, "choice": format!("The {first} object and the {second} object collide"), "program": program, "answer": answer})
}

/// What happens without an object.
pub(super) fn counterfactual(id: usize, removed: &str, choices: &[Value]) -> Value {
    let mut program = vec!["all_events"];
    program.extend(object(removed));
    program.extend(["get_counterfact", "belong_to"]);
    json!({"question_id": id, "question": format!("What will happen without the {removed} object?"), "question_type": "counterfactual", "program": program, "choices": choices})
}

/// Red, blue, green and gray; red hits blue, blue hits green.
pub(super) fn files(questions: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let properties: Vec<Value> = ["red", "blue", "green", "gray"]
        .iter()
        .enumerate()
        .map(|(id, color)| json!({"object_id": id, "color": color, "material": "metal", "shape": "cube"}))
        .collect();
    let annotation = json!({
        "scene_index": 10_007, "video_filename": "video_10007.mp4", "object_property": properties,
        "motion_trajectory": [{"frame_id": 0, "objects": []}],
        "collision": [
            {"object_ids": [0, 1], "frame_id": 30, "location": [0.5, 0.1, 0.2]},
            {"object_ids": [1, 2], "frame_id": 60, "location": [1.5, 0.1, 0.2]},
        ],
    });
    let nested = folder.path().join("annotation_10000-11000");
    std::fs::create_dir(&nested).unwrap();
    std::fs::write(nested.join("annotation_10007.json"), annotation.to_string()).unwrap();
    let scenes = json!([{"scene_index": 10_007, "video_filename": "video_10007.mp4", "questions": questions}]);
    std::fs::write(folder.path().join("validation.json"), scenes.to_string()).unwrap();
    folder
}
