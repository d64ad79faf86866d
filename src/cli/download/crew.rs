//! Several files at once.

use super::fetch::FetchError;
use super::fetch::Fetcher;
use super::plan::Plan;
use super::plan::Planned;
use super::plan::State;
use super::progress::Display;
use super::progress::size;
use super::record::FOLDER;
use super::record::Record;
use super::unpack::Archive;
use crate::model::hub::transfer::Watch;
use crate::model::hub::transfer::bytes_of;
use crate::model::hub::web::WebError;
use crate::util::file::FileError;
use anyhow::Result;
use anyhow::bail;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

/// Files that are downloaded and unpacked at once.
pub(super) const WORKERS: usize = 3;
/// How long a worker that waits for its server is waited for, once a signal has come.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// Those who download and unpack.
#[derive(Debug, Clone)]
pub(super) struct Crew {
    pub(super) fetcher: Fetcher,
    pub(super) keep_archives: bool,
}

/// What the workers share.
struct Shared {
    waiting: Mutex<VecDeque<Planned>>,
    record: Mutex<Record>,
}

/// What a worker says.
enum Said {
    Downloaded(String),
    Unpacked(String),
    Failed(anyhow::Error),
    /// It has nothing left to do.
    Idle,
}

impl Crew {
    /// Does what `plan` lacks; the record afterwards, or nothing when a signal has come.
    pub(super) fn work(self, plan: Plan, record: Record) -> Result<Option<Record>> {
        let log = self.fetcher.folder.join(FOLDER).join("log.txt");
        let (missing, total) = (plan.missing(), plan.total());
        let mut display = Display::start(self.fetcher.progress.clone(), missing, total, &log)?;
        let open = plan.items.into_iter();
        let open = open.filter(|planned| planned.state != State::There);
        let shared = Arc::new(Shared {
            waiting: Mutex::new(open.collect()),
            record: Mutex::new(record),
        });
        let (sender, said) = mpsc::channel();
        let mut workers = Vec::with_capacity(WORKERS);
        for index in 0..WORKERS {
            let (crew, shared, sender) = (self.clone(), Arc::clone(&shared), sender.clone());
            let named = std::thread::Builder::new().name(format!("download {index}"));
            workers.push(named.spawn(move || crew.run(&shared, &sender))?);
        }
        drop(sender);
        let mut failure = None;
        let mut working = WORKERS;
        let mut over_since = None;
        while working > 0 {
            match said.recv_timeout(TICK) {
                Ok(Said::Downloaded(words)) => display.finished(&words, true),
                Ok(Said::Unpacked(words)) => display.finished(&words, false),
                Ok(Said::Failed(error)) => failure = failure.or(Some(error)),
                Ok(Said::Idle) => working -= 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            display.refresh();
            if self.fetcher.is_over() {
                let since = over_since.get_or_insert_with(Instant::now);
                // One that waits for its server ends with the process; what it has written is whole as far as it goes.
                if since.elapsed() > PATIENCE {
                    break;
                }
            }
        }
        drop(display);
        if let Some(error) = failure {
            return Err(error);
        }
        if self.fetcher.web.is_stopped() {
            return Ok(None);
        }
        let all_ended = workers.into_iter().all(|worker| worker.join().is_ok());
        match Arc::try_unwrap(shared) {
            Ok(shared) if all_ended => {
                let record = shared.record.into_inner();
                Ok(Some(record.unwrap_or_else(PoisonError::into_inner)))
            }
            _ => bail!("a thread of the download has ended unexpectedly: start again to continue"),
        }
    }

    fn run(self, shared: &Arc<Shared>, sender: &mpsc::Sender<Said>) {
        let say = |said| {
            // Nobody listens once a signal has come.
            let _ = sender.send(said);
        };
        while !self.fetcher.is_over() {
            let next = shared
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(planned) = next else {
                break;
            };
            if let Err(error) = self.one(&planned, shared, &say) {
                self.fetcher.halted.store(true, Ordering::SeqCst);
                if !is_stop(&error) {
                    say(Said::Failed(error));
                }
            }
        }
        say(Said::Idle);
    }

    fn one(&self, planned: &Planned, shared: &Shared, say: &impl Fn(Said)) -> Result<()> {
        let item = &planned.item;
        if planned.state == State::Missing {
            let started = Instant::now();
            let line = self.fetcher.fetch(item)?;
            let bytes = bytes_of(&self.fetcher.folder.join(&item.path));
            let mut record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.add(line)?;
            drop(record);
            say(Said::Downloaded(format!(
                "{}: {} in {:.1} s",
                item.path,
                size(bytes),
                started.elapsed().as_secs_f64()
            )));
        }
        let Some(into) = item.unpack_into else {
            return Ok(());
        };
        let archive = Archive {
            folder: &self.fetcher.folder,
            path: &item.path,
            into,
        };
        let stopped = || self.fetcher.is_over();
        let Some((files, bytes)) = archive.unpack(&shared.record, &stopped)? else {
            return Ok(());
        };
        let was_found = {
            let record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.was_found(&item.path)
        };
        // What somebody else has put there is not ours to remove.
        if !self.keep_archives && !was_found {
            let path = self.fetcher.folder.join(&item.path);
            std::fs::remove_file(&path).map_err(|error| FileError::new("remove", &path, error))?;
        }
        let words = format!("{}: {files} files unpacked, {}", item.path, size(bytes));
        say(Said::Unpacked(words));
        Ok(())
    }
}

fn is_stop(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(FetchError::Web {
            source: WebError::Stopped,
            ..
        })
    )
}
