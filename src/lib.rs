//! videothinker: trains a video-language model to reason instead of taking perceptual shortcuts.

pub mod cli;
pub mod config;
pub mod data;
pub mod eval;
pub mod model;
pub mod policy;
pub mod prompt;
pub mod rl;
pub mod train;
pub mod video;
pub mod world;
