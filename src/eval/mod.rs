//! Answers a benchmark, resumes by question id, summarises.
