//! A scene's annotation as an official CLEVRER file has it.

use super::physics::Vector;
use super::scene::Look;
use super::scene::Scene;
use super::spec::MINI;
use crate::data::clevrer::{Collision, ObjectProperty};
use serde_json::{Value, json};

/// `annotation_00000.json`: properties, trajectory and collisions of the unmodified clip. Places are in
/// pixels with z = 0; velocities per clip frame; nothing turns.
pub(crate) fn annotation(scene_index: usize, scene: &Scene) -> Value {
    let properties: Vec<ObjectProperty> = scene
        .looks
        .iter()
        .zip(0..)
        .map(|(look, object_id)| ObjectProperty {
            object_id,
            color: look.color_name().into(),
            material: Look::MATERIAL.into(),
            shape: look.shape.name().into(),
        })
        .collect();
    let flat = |vector: Vector| [vector[0], vector[1], 0.0];
    let inside = -MINI.radius..MINI.side() as f64 + MINI.radius;
    let trajectory: Vec<Value> = scene
        .factual
        .frames
        .iter()
        .enumerate()
        .map(|(frame_id, objects)| {
            let objects: Vec<Value> = objects
                .iter()
                .enumerate()
                .map(|(object_id, object)| {
                    let velocity = object.velocity.map(|part| part / MINI.frames_per_sample as f64);
                    json!({
                        "object_id": object_id,
                        "location": flat(object.position),
                        "orientation": [0.0, 0.0, 0.0],
                        "velocity": flat(velocity),
                        "angular_velocity": [0.0, 0.0, 0.0],
                        "inside_camera_view": object.position.iter().all(|value| inside.contains(value)),
                    })
                })
                .collect();
            json!({"frame_id": frame_id, "objects": objects})
        })
        .collect();
    let collisions: Vec<Collision> = scene
        .factual
        .collisions
        .iter()
        .map(|event| Collision {
            object_ids: [event.agent as u32, event.target as u32],
            frame_id: (event.time * MINI.frames_per_sample as f64).round() as usize,
            location: flat(event.location),
        })
        .collect();
    json!({
        "scene_index": scene_index,
        "video_filename": format!("video_{scene_index:05}.mp4"),
        "object_property": properties,
        "motion_trajectory": trajectory,
        "collision": collisions,
    })
}
