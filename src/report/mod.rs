//! Machine-readable views of a run directory.
