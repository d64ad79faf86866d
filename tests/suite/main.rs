//! The integration tests, one binary: candle links slowly.
mod optimizer;
mod prompt;
