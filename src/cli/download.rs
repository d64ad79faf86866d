//! `data download`: datasets from where they are published, into the layout that the configs read.

mod catalog;
mod crew;
mod fetch;
mod plan;
mod progress;
mod record;
mod unpack;

use super::BadArgument;
use super::Outcome;
use super::output;
use crate::model::hub::HubSettings;
use crate::model::hub::web::Web;
use crate::util::file;
use crate::util::signals::StopRequest;
use anyhow::Result;
use anyhow::bail;
use catalog::About;
use catalog::ListError;
use catalog::Name;
use clap::Args;
use crew::Crew;
use fetch::Fetcher;
use plan::Plan;
use progress::Progress;
use progress::size;
use record::Record;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `data download`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct DownloadArgs {
    /// What to download; HF_TOKEN is shown to the Hugging Face hub and nobody else
    #[arg(value_enum, required_unless_present = "list")]
    names: Vec<Name>,
    /// Show what there is: licence, size, what it is used for
    #[arg(long, conflicts_with = "names")]
    list: bool,
    /// Folder to download into [default: data/NAME, where the configs look]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// You keep to the licence of a dataset that asks for it (Video-MME)
    #[arg(long)]
    i_agree: bool,
    /// Only questions and annotations, no clips
    #[arg(long)]
    annotations_only: bool,
    /// Keep archives once they are unpacked
    #[arg(long)]
    keep_archives: bool,
    /// Say what would be downloaded, how large it is and where it would go; download nothing
    #[arg(long, conflicts_with = "verify")]
    dry_run: bool,
    /// Download nothing: read what is there again, and compare it with what was downloaded
    #[arg(long)]
    verify: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a dataset.
#[derive(Debug, Serialize)]
struct Outcomes<'a> {
    name: &'a str,
    folder: &'a Path,
    files: usize,
    bytes: u64,
    /// Files that were downloaded now, not before.
    downloaded: usize,
}

/// Runs `data download`.
pub(super) fn run(args: &DownloadArgs) -> Result<Outcome> {
    if args.list {
        list(args.json)?;
        return Ok(Outcome::Done);
    }
    if args.out.is_some() && args.names.len() > 1 {
        return Err(BadArgument("--out: name one dataset for one folder".to_owned()).into());
    }
    for name in &args.names {
        let about = name.about();
        if about.needs_agreement && !args.i_agree && !args.dry_run && !args.verify {
            return Err(BadArgument(format!(
                "{}: its licence is: {}. --i-agree says that you keep to it",
                about.title, about.licence
            ))
            .into());
        }
    }
    let stop = StopRequest::listen_and_say(
        "stopping; what is there stays, and the same command goes on from it",
    )?;
    let settings = HubSettings::from_env();
    for name in &args.names {
        let one = Download {
            args,
            name: *name,
            about: name.about(),
            folder: args
                .out
                .clone()
                .unwrap_or_else(|| Path::new("data").join(name.about().name)),
            web: Web::new(&settings, stop.clone()),
            offline: settings.offline,
        };
        let outcome = if args.verify {
            one.verify()?
        } else if args.dry_run {
            one.dry_run()?
        } else {
            one.download()?
        };
        if outcome != Outcome::Done {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Done)
}

fn list(json: bool) -> Result<()> {
    let all = Name::ALL.map(Name::about);
    if json {
        return output::json(&all);
    }
    let mut text = String::new();
    for about in &all {
        writeln!(
            text,
            "{:<13} {:>8}  {}: {}\n{:24}licence: {}\n{:24}{}",
            about.name,
            size(about.bytes),
            about.title,
            about.used_for,
            "",
            about.licence,
            "",
            about.page,
        )?;
    }
    output::text(&text)
}

/// The download of a dataset.
struct Download<'a> {
    args: &'a DownloadArgs,
    name: Name,
    about: About,
    folder: PathBuf,
    web: Web,
    offline: bool,
}

impl Download<'_> {
    fn download(&self) -> Result<Outcome> {
        let about = &self.about;
        file::create_folders(&self.folder)?;
        let mut record = Record::open(&self.folder)?;
        record.claim(about.name)?;
        if record.is_complete(self.args.annotations_only) {
            tracing::info!(
                "{}: everything is there; nothing is downloaded",
                self.folder.display()
            );
            self.print(&record, 0)?;
            return Ok(Outcome::Done);
        }
        tracing::info!(
            "{}: about {}; licence: {} ({})",
            about.title,
            size(about.bytes),
            about.licence,
            about.page
        );
        let progress = Progress::default();
        let Some(plan) = self.plan(Some(&record), &progress)? else {
            return Ok(Outcome::Stopped);
        };
        plan.check_room(&self.folder, self.args.keep_archives)?;
        let crew = Crew {
            fetcher: self.fetcher(&progress),
            keep_archives: self.args.keep_archives,
        };
        let downloaded = plan.missing();
        let Some(mut record) = crew.work(plan, record)? else {
            return Ok(Outcome::Stopped);
        };
        record.add(record::Line::Complete {
            annotations_only: self.args.annotations_only,
        })?;
        self.print(&record, downloaded)?;
        Ok(Outcome::Done)
    }

    fn fetcher(&self, progress: &Progress) -> Fetcher {
        Fetcher {
            web: self.web.clone(),
            folder: self.folder.clone(),
            page: self.about.page,
            progress: progress.clone(),
            halted: Arc::default(),
        }
    }

    /// What is to be done; nothing when a signal has come meanwhile.
    fn plan(&self, record: Option<&Record>, progress: &Progress) -> Result<Option<Plan>> {
        if self.offline {
            bail!(
                "HF_HUB_OFFLINE is set and {} is not complete: unset it to download {}",
                self.folder.display(),
                self.about.title
            );
        }
        let (name, web) = (self.name, self.web.clone());
        let annotations_only = self.args.annotations_only;
        let list = move || name.items(&web, annotations_only);
        let Some(listed) = self.web.stop().unless_stopped(list, || {})? else {
            return Ok(None);
        };
        let items = match listed {
            Ok(items) => items,
            Err(ListError::Web(error)) if self.web.is_stopped() => {
                tracing::debug!("{error}");
                return Ok(None);
            }
            Err(ListError::Web(error)) => {
                let advice = fetch::advice(&error, self.about.page);
                bail!("{} cannot be listed: {error}: {advice}", self.about.title)
            }
            Err(error) => return Err(error.into()),
        };
        match Plan::new(items, record, &self.fetcher(progress)) {
            _ if self.web.is_stopped() => Ok(None),
            plan => Ok(Some(plan?)),
        }
    }

    fn dry_run(&self) -> Result<Outcome> {
        let record = if Record::is_in(&self.folder) {
            let record = Record::open(&self.folder)?;
            record.refuse_another(self.about.name)?;
            Some(record)
        } else {
            None
        };
        let Some(plan) = self.plan(record.as_ref(), &Progress::default())? else {
            return Ok(Outcome::Stopped);
        };
        if self.args.json {
            output::json(&plan.view(self.about.name, &self.folder))?;
        } else {
            output::text(&plan.in_words(&self.about, &self.folder, self.args.keep_archives)?)?;
        }
        Ok(Outcome::Done)
    }

    fn verify(&self) -> Result<Outcome> {
        if !Record::is_in(&self.folder) {
            return Err(BadArgument(format!(
                "{}: nothing was downloaded there by this command",
                self.folder.display()
            ))
            .into());
        }
        let record = Record::open(&self.folder)?;
        record.refuse_another(self.about.name)?;
        let Some(verified) = record.verify(&|| self.web.is_stopped())? else {
            return Ok(Outcome::Stopped);
        };
        if self.args.json {
            output::json(&verified)?;
        } else {
            let mut text = String::new();
            for problem in &verified.problems {
                writeln!(text, "{problem}")?;
            }
            writeln!(
                text,
                "{}: {} files, {}: {} wrong{}",
                self.folder.display(),
                verified.files,
                size(verified.bytes),
                verified.problems.len(),
                if verified.problems.is_empty() {
                    ""
                } else {
                    "; remove what is wrong, then start again without --verify to download it anew"
                }
            )?;
            output::text(&text)?;
        }
        Ok(if verified.problems.is_empty() {
            Outcome::Done
        } else {
            Outcome::Failed
        })
    }

    fn print(&self, record: &Record, downloaded: usize) -> Result<()> {
        let (files, bytes) = record.total();
        if self.args.json {
            return output::json(&Outcomes {
                name: self.about.name,
                folder: &self.folder,
                files,
                bytes,
                downloaded,
            });
        }
        output::text(&format!(
            "{}: {files} files, {}{}\nnext: {}\n",
            self.folder.display(),
            size(bytes),
            if downloaded == 0 {
                ", all there before"
            } else {
                ""
            },
            self.about.next
        ))
    }
}
