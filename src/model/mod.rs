//! Qwen2.5-VL: embed, layers, head; the only door to the network.

pub mod layers;
pub mod packed;
pub mod positions;
pub mod spec;
pub mod weights;
