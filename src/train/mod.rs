//! Training: one step, and the run around it.

pub mod backward;
mod bias_answers;
pub(crate) mod checkpoint;
pub(crate) mod data_loader;
mod dry_run;
pub mod estimate;
pub(crate) mod gradients;
mod kl_coefficient;
pub mod metrics;
mod micro_batch;
mod objective;
pub mod optimizer;
mod record;
pub(crate) mod replay;
mod reward_watch;
mod run;
pub(crate) mod rundir;
mod sft;
mod starting_point;
mod step;
mod step_stats;
pub(crate) mod tensorboard;
mod trainer;

pub(crate) use dry_run::dry_run;
pub(crate) use objective::objective_in_words;
pub use run::Ending;
pub use run::run;
pub(crate) use starting_point::Resume;
pub use starting_point::RunOptions;
pub(crate) use starting_point::warn_of_impossible_answers;
pub(crate) use trainer::Trainer;
