//! Official CLEVRER files → questions with the observational/inferential split.
