//! `export`: a run's model as a clean folder, with a model card, and to the hub.

mod card;
mod curve;
mod facts;

use super::BadArgument;
use super::Outcome;
use super::output;
use crate::config::TrainedWith;
use crate::config::is_hub_id;
use crate::model::export::SHARD_BYTES;
use crate::model::export::rewrite_folder;
use crate::model::export::write_training;
use crate::model::hub;
use crate::model::hub::HubSettings;
use crate::model::hub::publish::LocalFile;
use crate::model::hub::publish::PublishError;
use crate::model::hub::publish::Published;
use crate::model::hub::publish::Publisher;
use crate::model::hub::publish::files_of;
use crate::model::hub::web::Web;
use crate::model::spec::Spec;
use crate::model::weights::stored_bytes;
use crate::util::atomic;
use crate::util::console::ByteBar;
use crate::util::file;
use crate::util::signals::StopRequest;
use anyhow::Result;
use candle_core::DType;
use clap::Args;
use clap::ValueEnum;
use facts::Facts;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A number format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Bf16,
    F32,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct ExportArgs {
    /// A run directory (its last checkpoint), a checkpoint, or a model folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// New folder for the model, as transformers and vLLM load it
    #[arg(long, value_name = "DIR", required_unless_present = "push")]
    out: Option<PathBuf>,
    /// Put all weights into one model.safetensors [default: files of at most 5 GB]
    #[arg(long, requires = "out")]
    merge: bool,
    /// Number format of the weights [default: as they are]
    #[arg(long, value_enum, requires = "out")]
    dtype: Option<Format>,
    /// Write a model card, README.md, from what the run has left
    #[arg(long, requires = "out")]
    card: bool,
    /// With --card: the model's licence by the hub's name for it, such as apache-2.0
    #[arg(long, value_name = "NAME", requires = "card", value_parser = licence)]
    license: Option<String>,
    /// With --card: a finished evaluation of this model, a folder with scores.json (repeatable)
    #[arg(long, value_name = "DIR", requires = "card")]
    eval: Vec<PathBuf>,
    /// Upload the folder to this repository on the hub, with the token of HF_TOKEN or `hf auth login`
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository)]
    push: Option<String>,
    /// With --push: a repository that is made is private
    #[arg(long, requires = "push")]
    private: bool,
    /// Say what would be written and uploaded; do neither
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn licence(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return Ok(name.to_owned());
    }
    Err("expected a name such as apache-2.0, mit or other".to_owned())
}

fn repository(name: &str) -> Result<String, String> {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with(['.', '-'])
            && !word.contains("..")
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match name.split_once('/') {
        Some((owner, model)) if is_word(owner) && is_word(model) => Ok(name.to_owned()),
        _ => Err("expected OWNER/NAME, of letters, digits, - _ and .".to_owned()),
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Where the weights came from.
    from: &'a Path,
    folder: &'a Path,
    files: Vec<FileReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    /// Bytes of large files that were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    /// Large files that the hub had already.
    #[serde(skip_serializing_if = "Option::is_none")]
    there_before: Option<usize>,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct FileReport {
    path: String,
    bytes: u64,
}

/// Runs `export`.
pub(super) fn run(args: &ExportArgs) -> Result<Outcome> {
    let source = source(&args.run)?;
    let settings = HubSettings::from_env();
    if let Some(repository) = &args.push {
        check_push(repository, &settings, args.dry_run)?;
    }
    let Some(out) = &args.out else {
        if source.join("trainer").exists() {
            return Err(BadArgument(format!(
                "{}: holds a training's state; give --out DIR, and what is written there is uploaded",
                source.display()
            ))
            .into());
        }
        return finish(args, &source, &source, files_of(&source)?, &settings);
    };
    refuse_existing(out, args.push.as_deref())?;
    let spec = Spec::load(&source)?;
    let facts = Facts::gather(&source, &args.eval)?;
    if args.dry_run {
        let planned = vec![
            planned("config.json, tokenizer and processor files", 0),
            planned("weights", weight_bytes(args, &source, &spec)?),
        ];
        return report(args, &source, out, planned, None);
    }
    let name = args.push.clone().unwrap_or_else(|| {
        let name = out.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    atomic::write_folder(out, |folder| {
        write(args, &source, &spec, &facts, &name, folder)
    })?;
    finish(args, &source, out, files_of(out)?, &settings)
}

/// The model folder that is meant.
fn source(run: &Path) -> Result<PathBuf> {
    let latest = run.join("checkpoints/latest");
    for folder in [run, latest.as_path()] {
        if folder.join("config.json").is_file() {
            return Ok(folder.canonicalize()?);
        }
    }
    if let Some(name) = run.to_str().filter(|name| is_hub_id(name)) {
        return Ok(hub::resolve(name)?);
    }
    let what = if run.join("checkpoints").is_dir() {
        "the run has no checkpoint yet"
    } else if run.is_dir() {
        "neither a model folder (config.json) nor a run directory (checkpoints/latest)"
    } else {
        "there is no such folder"
    };
    Err(BadArgument(format!("{}: {what}", run.display())).into())
}

/// What would be found out late otherwise.
fn check_push(repository: &str, settings: &HubSettings, dry_run: bool) -> Result<()> {
    if settings.offline && !dry_run {
        let problem = format!("--push {repository}: HF_HUB_OFFLINE is set");
        return Err(BadArgument(problem).into());
    }
    if settings.token.is_none() && !dry_run {
        let problem = format!(
            "--push {repository}: there is no token: set HF_TOKEN to one with write access, or store one with `hf auth login`"
        );
        return Err(BadArgument(problem).into());
    }
    Ok(())
}

fn refuse_existing(out: &Path, push: Option<&str>) -> Result<()> {
    let is_used = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => out.exists(),
    };
    if !is_used {
        return Ok(());
    }
    let hint = push.map_or_else(String::new, |repository| {
        format!(
            "; what was exported there is uploaded by `videothinker export {} --push {repository}`",
            out.display()
        )
    });
    let problem = format!("--out {}: there is something already{hint}", out.display());
    Err(BadArgument(problem).into())
}

fn write(
    args: &ExportArgs,
    source: &Path,
    spec: &Spec,
    facts: &Facts,
    name: &str,
    folder: &Path,
) -> Result<()> {
    let dtype = args.dtype.map(|format| match format {
        Format::Bf16 => DType::BF16,
        Format::F32 => DType::F32,
    });
    let shard_bytes = if args.merge { u64::MAX } else { SHARD_BYTES };
    rewrite_folder(source, spec, folder, dtype, shard_bytes)?;
    if let Some(training) = &facts.training
        && !file::exists(&folder.join(TrainedWith::FILE))?
    {
        write_training(folder, &training.config, training.steps)?;
    }
    if args.card {
        let picture = curve::picture(&facts.metrics);
        if let Some(picture) = &picture {
            let path = folder.join(curve::PICTURE);
            atomic::write(&path, picture.file().as_bytes())?;
        }
        let card = card::Card {
            name,
            license: args.license.as_deref(),
            facts,
            has_picture: picture.is_some(),
        };
        atomic::write(&folder.join("README.md"), card.text()?.as_bytes())?;
    }
    Ok(())
}

fn weight_bytes(args: &ExportArgs, source: &Path, spec: &Spec) -> Result<u64> {
    let stored = stored_bytes(source, spec)?;
    let Some(format) = args.dtype else {
        return Ok(stored);
    };
    let shapes = crate::model::weights::expected_shapes(spec);
    let values: usize = shapes.values().map(candle_core::Shape::elem_count).sum();
    let size = match format {
        Format::Bf16 => 2,
        Format::F32 => 4,
    };
    Ok((values * size) as u64)
}

fn planned(path: &str, bytes: u64) -> FileReport {
    FileReport {
        path: path.to_owned(),
        bytes,
    }
}

/// Uploads the folder if that is asked for, and says what was done.
fn finish(
    args: &ExportArgs,
    source: &Path,
    folder: &Path,
    files: Vec<LocalFile>,
    settings: &HubSettings,
) -> Result<Outcome> {
    let published = match &args.push {
        Some(repository) if !args.dry_run => {
            match push(repository, args.private, &files, settings) {
                Ok(published) => Some(published),
                Err(error) if error.downcast_ref().is_some_and(PublishError::is_stop) => {
                    return Ok(Outcome::Stopped);
                }
                Err(error) if args.out.is_some() => {
                    return Err(error.context(format!(
                        "{} is written, and not uploaded; `videothinker export {} --push {repository}` tries it again",
                        folder.display(),
                        folder.display()
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        _ => None,
    };
    let files = files
        .into_iter()
        .map(|file| FileReport {
            path: file.path,
            bytes: file.bytes,
        })
        .collect();
    report(args, source, folder, files, published)
}

fn push(
    repository: &str,
    private: bool,
    files: &[LocalFile],
    settings: &HubSettings,
) -> Result<Published> {
    let stop = StopRequest::listen_and_say("stopping the upload; what was sent is not sent again")?;
    let web = Web::for_uploads(settings, stop);
    let sent = AtomicU64::new(0);
    let publisher = Publisher {
        web: &web,
        repository,
        private,
        sent: &sent,
    };
    let total = files.iter().map(|file| file.bytes).sum();
    let bar = ByteBar::start(0, total);
    let done = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                bar.show(sent.load(Ordering::Relaxed), format!("to {repository}"));
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let published = publisher.publish(files, "Upload with videothinker");
        done.store(true, Ordering::SeqCst);
        published
    });
    Ok(published?)
}

fn report(
    args: &ExportArgs,
    from: &Path,
    folder: &Path,
    files: Vec<FileReport>,
    published: Option<Published>,
) -> Result<Outcome> {
    let report = Report {
        from,
        folder,
        files,
        repository: args.push.as_deref(),
        page: published.as_ref().map(|published| published.page.clone()),
        sent: published.as_ref().map(|published| published.sent),
        there_before: published.map(|published| published.there_before),
        dry_run: args.dry_run,
    };
    if args.json {
        output::json(&report)?;
        return Ok(Outcome::Done);
    }
    let mut text = String::new();
    if args.out.is_some() {
        let verb = if args.dry_run {
            "would be written to"
        } else {
            "written to"
        };
        writeln!(text, "{} {verb} {}", from.display(), folder.display())?;
    }
    for file in &report.files {
        writeln!(text, "{:>15} bytes  {}", file.bytes, file.path)?;
    }
    match (&report.repository, &report.page) {
        (Some(_), Some(page)) => writeln!(
            text,
            "uploaded: {page} ({} bytes sent, {} large files were there before)",
            report.sent.unwrap_or_default(),
            report.there_before.unwrap_or_default()
        )?,
        (Some(repository), None) => writeln!(text, "would be uploaded to {repository}")?,
        _ => {}
    }
    output::text(&text)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_address_are_refused() {
        for name in ["a/b", "Owner-1/model_2.5"] {
            assert!(repository(name).is_ok(), "{name}");
        }
        for name in ["a", "a/b/c", "a/..", "/b", "a/", "a b/c", "a/b?x"] {
            assert!(repository(name).is_err(), "{name}");
        }
        assert!(licence("apache-2.0").is_ok() && licence("a: b").is_err());
    }
}
