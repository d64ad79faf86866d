//! Stub.

use super::Outcome;
use anyhow::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct SetupArgs {}

pub(super) fn run(_args: &SetupArgs) -> Result<Outcome> {
    Ok(Outcome::Done)
}
