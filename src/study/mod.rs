//! A study: many runs of one experiment, each row once for each seed, compared over the seeds.

mod comparison;
mod curves;
mod error;
mod file;
mod interval;
mod page;
mod runs;
mod summary;
mod table;
mod tokens;
mod training;
mod words;

pub(crate) use error::StudyError;
pub(crate) use file::StudyFile;

use crate::eval::table::TableStyle;
use crate::report::Picture;
use comparison::Comparison;
use curves::CurveFigure;
use curves::RatioFigure;
use curves::Sweep;
use runs::Runs;
use serde::Serialize;
use std::path::Path;
use summary::RowSummary;

/// What a study comes to. Accuracies are shares, from 0 to 1.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Study {
    pub(crate) title: String,
    /// What the primary test says, in words.
    pub(crate) summary: String,
    pub(crate) window: usize,
    /// The seeds that there is a folder of.
    pub(crate) seeds: Vec<u64>,
    pub(crate) rows: Vec<RowSummary>,
    /// The primary test first.
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) curves: Vec<CurveFigure>,
    pub(crate) sweeps: Vec<Sweep>,
    pub(crate) ratios: Option<RatioFigure>,
    /// What is missing or unfinished.
    pub(crate) missing: Vec<String>,
    /// What else readers should know.
    pub(crate) notes: Vec<String>,
}

impl Study {
    /// Reads the runs in the folder `path` and compares them as `file` says.
    ///
    /// # Errors
    /// [`StudyError`] where a run's records are broken; what is missing is none.
    pub(crate) fn read(file: &StudyFile, path: &Path) -> Result<Self, StudyError> {
        let runs = Runs::read(file, path)?;
        let mut notes = Vec::new();
        let rows = summary::rows(file, &runs);
        let comparisons = comparison::comparisons(file, &runs, &mut notes)?;
        notes.extend(runs.equal_questions());
        notes.extend(runs.notes(file));
        let ratios = file.ratios.as_ref();
        let sweeps = curves::sweeps(file, &rows, &mut notes);
        Ok(Self {
            title: file.title.clone(),
            summary: words::primary(comparisons.first(), &rows, file.planned_seeds()),
            window: file.window(),
            seeds: runs.seeds.iter().map(|(seed, _)| *seed).collect(),
            curves: curves::curves(file, &runs),
            sweeps,
            ratios: ratios.and_then(|plan| curves::ratios(file, plan, &runs, &mut notes)),
            rows,
            comparisons,
            missing: runs.missing,
            notes,
        })
    }

    /// It as a page of its own: HTML without scripts or other files. `file` is what it was read by.
    ///
    /// # Errors
    /// [`StudyError::Page`] when the template cannot be filled.
    pub(crate) fn page(&self, file: &StudyFile) -> Result<String, StudyError> {
        page::html(self, file)
    }

    /// The pictures of its page.
    pub(crate) fn pictures(&self) -> Vec<Picture> {
        page::pictures(self)
    }

    /// Its tables, and what is missing.
    pub(crate) fn tables(&self, style: TableStyle) -> String {
        table::text(self, style)
    }
}
