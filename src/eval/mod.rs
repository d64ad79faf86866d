//! Benchmarks: questions in, `outputs.jsonl` and `scores.json` out.

pub mod score;
