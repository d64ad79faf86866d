//! What this machine computes and how fast: `inspect device`.
//!
//! [`kernels`] compares every operation with its definition, [`step`] a small model's whole step with the CPU's. [`speed`]
//! times decoding and learning of a [`Workload`] against rates measured on the same device just before
//! ([`DeviceRates`](crate::train::estimate::DeviceRates)), never against a data sheet.

pub(crate) mod kernels;
pub(crate) mod speed;
pub(crate) mod step;
mod workload;

pub(crate) use workload::Workload;
