//! The trainable policy (tracked and detached views of one storage) and the frozen model.

pub mod decode;
pub mod generate;
pub mod inputs;
pub mod sampler;
