//! The memory and time a run takes, before it starts: from the sizes of its models, its settings and the rates of its device.

mod duration;
mod flops;
mod gpus;
mod memory;
mod pass;
mod rates;
mod run;
mod step_shape;
mod timing;

pub(crate) use duration::DurationEstimate;
pub(crate) use duration::decoding_step_bytes;
pub(crate) use flops::Flops;
pub(crate) use gpus::GpuKind;
pub(crate) use gpus::PlannedGpu;
pub use memory::MemoryEstimate;
pub(crate) use rates::DeviceRates;
pub(crate) use run::RunEstimate;
pub(crate) use run::RunSizes;
pub(crate) use run::THREE_BILLION;
pub(crate) use run::on_this_machine;
pub use step_shape::StepShape;
pub(crate) use timing::seconds;
pub(crate) use timing::sorted_seconds;

use crate::model::spec::Spec;
use std::num::Saturating;

/// Bytes, values or operations. One that is too large to count stays at the largest number: of absurd sizes an estimate is
/// absurd too, never small.
type Count = Saturating<u64>;

/// Bytes of an f32.
const F32: Count = Saturating(size_of::<f32>() as u64);

/// Weights of a model.
pub(crate) fn num_parameters(spec: &Spec) -> u64 {
    pass::parameters(spec, |_| true).0
}

fn count(number: usize) -> Count {
    Saturating(number as u64)
}
