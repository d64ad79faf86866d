//! The miniature world: physics, renderer, questions, encoder; writes official CLEVRER file formats.
