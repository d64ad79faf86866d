//! Training: one step, and the run around it.

pub mod backward;
pub mod checkpoint;
pub mod data_loader;
mod dry_run;
pub mod estimate;
pub mod gradients;
pub mod metrics;
mod micro_batch;
mod objective;
pub mod optimizer;
mod record;
pub mod replay;
mod run;
pub mod rundir;
mod sft;
mod starting_point;
mod step;
mod step_stats;
pub mod tensorboard;
mod trainer;

pub use dry_run::dry_run;
pub use objective::Objective;
pub use objective::objective_in_words;
pub use run::Ending;
pub use run::run;
pub use starting_point::Resume;
pub use starting_point::RunOptions;
pub use trainer::Trainer;
