//! Stub.

use super::Outcome;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {}

pub(super) fn run(_args: &DoctorArgs) -> Result<Outcome> {
    Ok(Outcome::Done)
}
