//! Why a study cannot be read.

use crate::eval::EvalError;
use crate::util::file::FileError;
use crate::util::json_lines::LinesError;
use std::path::PathBuf;

/// Why a study cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StudyError {
    /// An evaluation cannot be read.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A training's records cannot be read.
    #[error(transparent)]
    Lines(#[from] LinesError),
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing to compare.
    #[error("{} holds no folder seed-1, seed-2, …: name the folder that holds a study's seeds with --runs", path.display())]
    NoSeeds { path: PathBuf },
    /// Two evaluations of one seed have no question in common.
    #[error(
        "{} and {} have no question in common: a seed's rows are evaluated on the same questions; evaluate one of them again",
        first.display(),
        second.display()
    )]
    OtherQuestions { first: PathBuf, second: PathBuf },
    /// A token without its log-ratio.
    #[error(
        "{}:{line}: {tokens} tokens and {ratios} log-ratios; a line has as many of one as of the other: mend it, or train again",
        path.display()
    )]
    Ratios {
        path: PathBuf,
        line: usize,
        tokens: usize,
        ratios: usize,
    },
    /// The page cannot be put together.
    #[error("the page cannot be written: {0}")]
    Page(#[from] minijinja::Error),
}
