//! The training loop and the one enum in which the stages differ.
