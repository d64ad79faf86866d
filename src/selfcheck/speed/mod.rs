//! How fast a model decodes and learns here, against what the device's own rates allow.

use serde::Serialize;

mod decode;
mod learning;
mod record;

pub use decode::DecodeSpeed;
pub use decode::decode_speed;
pub use learning::LearningSpeed;
pub use learning::learning_speed;

/// A measured number beside what it is held to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// As measured.
    pub measured: f64,
    /// What the device's own rates allow.
    pub possible: f64,
    /// `measured / possible`.
    pub share: f64,
}

impl Share {
    /// `measured` of `possible`.
    pub fn of(measured: f64, possible: f64) -> Self {
        Self {
            measured,
            possible,
            share: measured / possible,
        }
    }
}
