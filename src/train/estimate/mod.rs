//! The memory and time a run takes, before it starts: from the sizes of its models, its settings and the rates of its device.

mod duration;
mod flops;
mod gpus;
mod memory;
mod pass;
mod plan;
mod rates;
mod timing;

pub use duration::Duration;
pub use duration::decoding_step_bytes;
pub use flops::Flops;
pub use gpus::Card;
pub use memory::Load;
pub use memory::Memory;
pub use plan::Plan;
pub use rates::Rates;
pub use timing::seconds;
pub use timing::sorted_seconds;
