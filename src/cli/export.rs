//! `export`: a run's model as a clean folder, with a model card, and to the hub.

mod card;
mod curve;
mod facts;
mod uploadable;

use super::BadArgument;
use super::Outcome;
use super::output;
use super::setup::shell_path;
use crate::config::TrainedWith;
use crate::config::is_hub_id;
use crate::model::export::COMPANIONS;
use crate::model::export::SHARD_BYTES;
use crate::model::export::rewrite_folder;
use crate::model::export::write_training;
use crate::model::hub;
use crate::model::hub::HubSettings;
use crate::model::hub::publish::LocalFile;
use crate::model::hub::publish::Published;
use crate::model::hub::publish::Publisher;
use crate::model::hub::publish::files_of;
use crate::model::hub::web::Web;
use crate::model::hub::web::is_token;
use crate::model::spec::Spec;
use crate::model::weights::Depth;
use crate::model::weights::inspect;
use crate::util::atomic;
use crate::util::console::ByteBar;
use crate::util::file;
use crate::util::lock::Lock;
use crate::util::lock::LockError;
use crate::util::signals::StopRequest;
use anyhow::Result;
use candle_core::DType;
use clap::Args;
use clap::ValueEnum;
use facts::Facts;
use serde::Serialize;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

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
        uploadable::check(&source)?;
        return finish(args, &source, &source, files_of(&source)?, &settings);
    };
    refuse_nameless(out)?;
    refuse_existing(out, args.push.as_deref())?;
    let spec = Spec::load(&source)?;
    let facts = Facts::gather(&source, &args.eval)?;
    if args.dry_run {
        let planned = planned(args, &source, &spec, &facts)?;
        return report(args, &source, out, planned, None);
    }
    let lock = lock(out)?;
    // Another process may have had it since.
    refuse_existing(out, args.push.as_deref())?;
    atomic::remove_abandoned(atomic::folder_of(out));
    atomic::write_folder(out, |folder| write(args, &source, &spec, &facts, folder))?;
    drop(lock);
    finish(args, &source, out, files_of(out)?, &settings)
}

/// Keeps other exports to the folder `out` away.
fn lock(out: &Path) -> Result<Lock> {
    let folder = atomic::folder_of(out);
    file::create_folders(folder)?;
    let mut name = OsString::from(".exporting-");
    name.push(out.file_name().unwrap_or_default());
    let own = format!("process {}", std::process::id());
    match Lock::take_passing(&folder.join(name), &own, "this folder") {
        Err(LockError::Held { holder }) => anyhow::bail!(
            "--out {}: it is being written by {holder}: wait for it, or name another folder",
            out.display()
        ),
        taken => Ok(taken?),
    }
}

/// Refuses a folder that has no name to be given, such as the one the command runs in: what is written takes the place of what
/// has the name, and a shell would be left in a folder that is gone.
fn refuse_nameless(out: &Path) -> Result<()> {
    let here = std::env::current_dir().ok();
    if out.file_name().is_some() && (here.is_none() || out.canonicalize().ok() != here) {
        return Ok(());
    }
    let problem = format!("--out {}: name a new folder, such as model", out.display());
    Err(BadArgument(problem).into())
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
    if !dry_run
        && settings
            .token
            .as_deref()
            .is_some_and(|token| !is_token(token))
    {
        let problem = format!(
            "--push {repository}: the token has characters that no token has, such as a space or a line break in it: set HF_TOKEN to \
             a valid one"
        );
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
            shell_path(out)
        )
    });
    let problem = format!(
        "--out {}: there is something already: name another folder, or remove it{hint}",
        out.display()
    );
    Err(BadArgument(problem).into())
}

fn write(
    args: &ExportArgs,
    source: &Path,
    spec: &Spec,
    facts: &Facts,
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
        write_training(folder, &training.config, training.verb, training.steps)?;
    }
    for (name, text) in card_files(args, facts)? {
        atomic::write(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// The model card and its picture, where they are asked for.
fn card_files(args: &ExportArgs, facts: &Facts) -> Result<Vec<(&'static str, String)>> {
    if !args.card {
        return Ok(Vec::new());
    }
    let folder = args.out.as_deref().and_then(Path::file_name);
    let folder = folder.unwrap_or_default().to_string_lossy();
    let picture = curve::picture(&facts.metrics);
    let card = card::Card {
        name: args.push.as_deref().unwrap_or(&folder),
        license: args.license.as_deref(),
        facts,
        has_picture: picture.is_some(),
    };
    let picture = picture.map(|picture| (curve::PICTURE, picture.file()));
    Ok(picture
        .into_iter()
        .chain([("README.md", card.text()?)])
        .collect())
}

/// What would be written, and how large it is.
fn planned(
    args: &ExportArgs,
    source: &Path,
    spec: &Spec,
    facts: &Facts,
) -> Result<Vec<FileReport>> {
    let copied = ["config.json", TrainedWith::FILE]
        .into_iter()
        .chain(COMPANIONS);
    let copied = copied.filter_map(|name| {
        let bytes = source.join(name).metadata().ok()?.len();
        Some((name.to_owned(), bytes))
    });
    let card = card_files(args, facts)?;
    let card = card
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.len() as u64));
    let weights = if args.merge {
        "model.safetensors"
    } else {
        "weights, in files of at most 5 GB"
    };
    let weights = (weights.to_owned(), weight_bytes(args, source, spec)?);
    let all = copied.chain(card).chain([weights]);
    Ok(all
        .map(|(path, bytes)| FileReport { path, bytes })
        .collect())
}

fn weight_bytes(args: &ExportArgs, source: &Path, spec: &Spec) -> Result<u64> {
    let stored = inspect(source, spec, Depth::Headers)?;
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
                Ok(Some(published)) => Some(published),
                Ok(None) => return Ok(Outcome::Stopped),
                Err(error) if args.out.is_some() => {
                    return Err(error.context(format!(
                        "{} is written, and not uploaded; `videothinker export {} --push {repository}` tries it again",
                        folder.display(),
                        shell_path(folder)
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
) -> Result<Option<Published>> {
    let stop = StopRequest::listen_and_say("stopping the upload; what was sent is not sent again")?;
    let web = Web::for_uploads(settings, stop.clone());
    let sent = Arc::new(AtomicU64::new(0));
    let publisher = Publisher {
        web,
        repository: repository.to_owned(),
        private,
        sent: Arc::clone(&sent),
    };
    let total = files.iter().map(|file| file.bytes).sum();
    let bar = ByteBar::start(0, total);
    let files = files.to_vec();
    let publish = move || publisher.publish(&files, "Upload with videothinker");
    let published = stop.unless_stopped(publish, || {
        bar.show(sent.load(Ordering::Relaxed), format!("to {repository}"));
    })?;
    match published {
        Some(Err(error)) if error.is_stop() => Ok(None),
        published => Ok(published.transpose()?),
    }
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
    let total: u64 = report.files.iter().map(|file| file.bytes).sum();
    writeln!(text, "{total:>15} bytes  in all")?;
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
