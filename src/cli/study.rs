//! `study`: many runs of one experiment, compared over their seeds.

use super::output;
use crate::cli::BadArgument;
use crate::eval::table::TableStyle;
use crate::report::Picture;
use crate::study::Study;
use crate::study::StudyFile;
use crate::util::atomic;
use crate::util::file;
use anyhow::Result;
use clap::Args;
use std::path::Path;
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
        && is_same_place(out, &args.file)
    {
        let problem = format!("--out {}: that is the study's own file", out.display());
        return Err(BadArgument(problem).into());
    }
    let study = Study::read(&plan, &args.runs)?;
    if let Some(folder) = args.out.as_ref().and_then(|path| path.parent()) {
        file::create_folders(folder)?;
    }
    let mut pictures: Vec<(PathBuf, Picture)> = Vec::new();
    if let Some(folder) = &args.pictures {
        file::create_folders(folder)?;
        for picture in study.pictures() {
            let path = folder.join(format!("{}.svg", picture.id()));
            let mut others = [Some(&args.file), args.out.as_ref()].into_iter().flatten();
            if let Some(other) = others.find(|other| is_same_place(other, &path)) {
                let (folder, other) = (folder.display(), other.display());
                let problem = format!("--pictures {folder}: a picture of it would be {other}");
                return Err(BadArgument(problem).into());
            }
            pictures.push((path, picture));
        }
    }
    if let Some(path) = &args.out {
        atomic::write(path, study.page(&plan)?.as_bytes())?;
        tracing::info!("page: {}", path.display());
    }
    for (path, picture) in &pictures {
        atomic::write(path, picture.file().as_bytes())?;
        tracing::info!("picture: {}", path.display());
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

/// Whether both name the same file, which may not be there yet.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        if path.exists() {
            return path.canonicalize().ok();
        }
        let path = std::path::absolute(path).ok()?;
        let folder = path.parent()?.canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    place(one).is_some_and(|one| place(other) == Some(one))
}
