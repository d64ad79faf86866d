//! Qwen2.5-VL: embed, layers, head; the only door to the network.

pub mod attention;
pub mod cache;
pub mod head;
pub mod layers;
pub mod packed;
pub mod positions;
pub mod spec;
pub mod text;
pub mod weights;
