//! What every other module may need of the operating system: files that survive a kill, locks, hashes, the terminal, signals.

pub mod atomic;
pub mod console;
pub mod file;
pub mod hash;
pub mod json_lines;
pub mod lock;
pub mod signals;
