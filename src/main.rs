//! Arguments → run → exit code; the only place that prints an error.

fn main() {}
