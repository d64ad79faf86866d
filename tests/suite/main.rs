//! The integration tests, one binary: candle links slowly.
mod docs;
mod layers;
mod optimizer;
mod prompt;
