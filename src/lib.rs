//! videothinker: trains a video-language model to reason instead of taking perceptual shortcuts.
//!
//! The README says what the program does, and the book in `docs/` how to use it; this is where to start reading the
//! code. Modules import only from modules earlier in this list:
//!
//! - [`util`]: files, locks, hashes, the terminal. [`config`]: every setting. [`data`]: [`data::Question`] and the order a run takes them in.
//! - [`video`]: a clip becomes [`video::VideoPatches`]. [`synthetic`]: the miniature world.
//! - [`prompt`]: a question and its clip become a [`prompt::Prompt`].
//! - [`model`]: the network; [`model::ops`]: what it computes, on CPUs and by CUDA kernels. [`policy`]: [`policy::Policy`] is trained, [`policy::FrozenModel`] is only read; both write
//!   [`policy::generate::Completion`]s.
//! - [`rl`]: a completion with its reward and advantage is a [`rl::Rollout`], those of one question are a [`rl::Group`].
//! - [`dist`]: several processes that train together. [`eval`]: answers and scores. [`train`]: one step, and everything around it.
//! - [`report`]: pictures. [`study`]: many runs of one experiment, compared over their seeds.
//! - [`selfcheck`]: what this machine computes and how fast. [`cli`]: one file per command.
//!
//! How they fit together is in `docs/architecture.md`, what the words mean in `docs/glossary.md`.

pub mod cli;
pub mod config;
pub mod data;
pub mod dist;
pub mod eval;
pub mod model;
pub mod policy;
pub mod prompt;
pub(crate) mod report;
pub mod rl;
pub(crate) mod selfcheck;
pub(crate) mod study;
pub mod synthetic;
pub mod train;
pub(crate) mod util;
pub mod video;
