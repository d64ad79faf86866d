//! How fast a model decodes and learns here, against what the device's own rates allow.

use serde::Serialize;

mod decode;
mod learning;
mod record;

pub(crate) use decode::DecodeSpeed;
pub(crate) use decode::decode_speed;
pub(crate) use learning::LearningSpeed;
pub(crate) use learning::learning_speed;

/// A measured number beside what it is held to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "records name it so")]
pub(crate) struct Share {
    /// As measured.
    pub(crate) measured: f64,
    /// What the device's own rates allow.
    pub(crate) possible: f64,
    /// `measured / possible`.
    pub(crate) share: f64,
}

impl Share {
    pub(crate) fn of(measured: f64, possible: f64) -> Self {
        Self {
            measured,
            possible,
            share: measured / possible,
        }
    }
}
