//! `study`: many runs of one experiment, compared over their seeds.

use super::output;
use crate::cli::BadArgument;
use crate::eval::table::TableStyle;
use crate::study::Study;
use crate::study::StudyFile;
use crate::util::atomic;
use crate::util::file;
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `study`.
#[derive(Debug, Args)]
pub(super) struct StudyArgs {
    /// TOML file that says what is compared
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder of the runs: seed-1/NAME, seed-1/eval/NAME, seed-1/sampled/NAME, seed-2/…
    #[arg(long, value_name = "DIR")]
    runs: PathBuf,
    /// Write a page with tables and pictures, one HTML file without scripts
    #[arg(long, value_name = "PAGE.html")]
    out: Option<PathBuf>,
    /// Write the page's pictures here, an SVG file each, to stand in other documents
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// Write tables as Markdown
    #[arg(long)]
    markdown: bool,
    /// Print everything as JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
}

pub(super) fn run(args: &StudyArgs) -> Result<super::Outcome> {
    let plan = StudyFile::read(&args.file)?;
    let runs = args.runs.display();
    if !file::exists(&args.runs)? {
        return Err(BadArgument(format!("--runs {runs}: there is no such folder")).into());
    }
    if args.runs.is_file() {
        return Err(BadArgument(format!("--runs {runs}: that is a file, not a folder")).into());
    }
    if let Some(out) = &args.out
        && out.canonicalize().ok() == args.file.canonicalize().ok()
        && out.exists()
    {
        let problem = format!("--out {}: that is the study's own file", out.display());
        return Err(BadArgument(problem).into());
    }
    let study = Study::read(&plan, &args.runs)?;
    if let Some(path) = &args.out {
        if let Some(folder) = path.parent() {
            file::create_folders(folder)?;
        }
        atomic::write(path, study.page(&plan)?.as_bytes())?;
        tracing::info!("page: {}", path.display());
    }
    if let Some(folder) = &args.pictures {
        file::create_folders(folder)?;
        for picture in study.pictures() {
            let path = folder.join(format!("{}.svg", picture.id()));
            atomic::write(&path, picture.file().as_bytes())?;
        }
        tracing::info!("pictures: {}", folder.display());
    }
    if args.json {
        output::json(&study)?;
    } else {
        let style = if args.markdown {
            TableStyle::Markdown
        } else {
            TableStyle::Text
        };
        output::text(&study.tables(style))?;
    }
    Ok(super::Outcome::Done)
}
