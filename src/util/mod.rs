//! What every other module may need of the operating system: files that survive a kill, locks, hashes, the terminal, signals.

pub(crate) mod atomic;
pub(crate) mod console;
pub(crate) mod file;
pub(crate) mod hash;
pub(crate) mod json;
pub(crate) mod json_lines;
pub(crate) mod lock;
pub(crate) mod machine;
pub(crate) mod signals;
pub(crate) mod words;
