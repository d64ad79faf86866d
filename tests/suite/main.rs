//! The integration tests, one binary: candle links slowly.
mod engine;
mod golden_model;
mod optimizer;
mod parity_engine;
mod prompt;
mod generate;
