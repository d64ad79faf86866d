//! Rewards, advantages and losses: pure functions, no files, no clocks.
