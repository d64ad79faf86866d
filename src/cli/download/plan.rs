//! What is there of a dataset, what is missing, and whether there is room for it.

use super::catalog::About;
use super::catalog::Item;
use super::crew::WORKERS;
use super::fetch::FetchError;
use super::fetch::Fetcher;
use super::fetch::part_of;
use super::progress::size;
use super::record::Record;
use crate::model::hub::transfer::bytes_of;
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

/// How many files a dry run names.
const NAMED: usize = 30;

/// How far an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It is there, and unpacked if it is an archive.
    There,
    /// An archive that is there and not unpacked, or not all of it.
    Packed,
    Missing,
}

/// An item and how far it is.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) item: Item,
    pub(super) state: State,
    /// Bytes of it that are there.
    here: u64,
}

/// All items of a dataset.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) items: Vec<Planned>,
}

/// There is not enough room.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {} are free on its disk, and up to {} more are needed ({} to download{}); make room, or name another folder with --out",
    folder.display(), size(*free), size(*needed), size(*download), packed_in_words(*packed)
)]
struct NoRoom {
    folder: PathBuf,
    free: u64,
    needed: u64,
    download: u64,
    /// Of it archives, which need as much again while they are unpacked.
    packed: u64,
}

fn packed_in_words(packed: u64) -> String {
    if packed == 0 {
        return String::new();
    }
    format!(", of it {} in archives that are unpacked", size(packed))
}

/// A file of a plan, as `--dry-run --json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct ItemView<'a> {
    path: &'a str,
    from: String,
    bytes: Option<u64>,
    sha256: Option<&'a str>,
    state: State,
    unpacked_into: Option<PathBuf>,
}

/// A plan, as `--dry-run --json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct PlanView<'a> {
    name: &'a str,
    folder: &'a Path,
    files: Vec<ItemView<'a>>,
    bytes_to_download: u64,
}

impl Plan {
    /// The plan for `items`, of which `record` has some. Servers are asked for sizes that are not published.
    pub(super) fn new(
        items: Vec<Item>,
        record: Option<&Record>,
        fetcher: &Fetcher,
    ) -> Result<Self, FetchError> {
        let mut planned = Vec::with_capacity(items.len());
        for mut item in items {
            let state = state_of(&item, record);
            let path = fetcher.folder.join(&item.path);
            if state == State::Missing && item.bytes.is_none() && !fetcher.web.is_stopped() {
                item.bytes = fetcher.ask_size(&item)?;
            }
            let here = bytes_of(&path).max(bytes_of(&part_of(&path)));
            let here = match state {
                State::There => item.bytes.unwrap_or(here),
                State::Packed | State::Missing => here,
            };
            fetcher.progress.was_there(here);
            planned.push(Planned { item, state, here });
        }
        Ok(Self { items: planned })
    }

    /// How many files are to be downloaded.
    pub(super) fn missing(&self) -> usize {
        let missing = |planned: &&Planned| planned.state == State::Missing;
        self.items.iter().filter(missing).count()
    }

    /// Bytes of all files, as far as they are known.
    pub(super) fn total(&self) -> u64 {
        let bytes = |planned: &Planned| planned.item.bytes.unwrap_or(planned.here);
        self.items.iter().map(bytes).sum()
    }

    fn to_download(&self) -> u64 {
        let missing = |planned: &&Planned| planned.state == State::Missing;
        let missing = self.items.iter().filter(missing);
        missing
            .map(|planned| {
                let bytes = planned.item.bytes.unwrap_or(planned.here);
                bytes.saturating_sub(planned.here)
            })
            .fold(0, u64::saturating_add)
    }

    /// Bytes of the archives that are still to be unpacked.
    fn packed(&self) -> Vec<u64> {
        let packed = self
            .items
            .iter()
            .filter(|planned| planned.state != State::There && planned.item.unpack_into.is_some());
        packed
            .map(|planned| planned.item.bytes.unwrap_or(planned.here))
            .collect()
    }

    /// The most that is needed at one time, beyond what is there. Clips in archives are compressed already: an archive
    /// comes to about its own size.
    fn needed(&self, keep_archives: bool) -> u64 {
        let mut packed = self.packed();
        packed.sort_unstable_by(|a, b| b.cmp(a));
        let sum = |of: &[u64]| of.iter().copied().fold(0, u64::saturating_add);
        if keep_archives {
            return self.to_download().saturating_add(sum(&packed));
        }
        // Archives go as they are unpacked: only those in work are there twice.
        let twice = sum(&packed[..packed.len().min(WORKERS)]);
        self.to_download().saturating_add(twice)
    }

    /// Refuses to start what cannot end.
    pub(super) fn check_room(&self, folder: &Path, keep_archives: bool) -> Result<()> {
        let needed = self.needed(keep_archives);
        match free_bytes(folder) {
            Some(free) if free < needed => Err(NoRoom {
                folder: folder.to_owned(),
                free,
                needed,
                download: self.to_download(),
                packed: self.packed().into_iter().fold(0, u64::saturating_add),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// What `--dry-run` prints.
    pub(super) fn in_words(
        &self,
        about: &About,
        folder: &Path,
        keep_archives: bool,
    ) -> Result<String> {
        let mut text = format!("{} ({}): {}\n", about.title, about.page, about.licence);
        for planned in self.items.iter().take(NAMED) {
            let item = &planned.item;
            let state = match planned.state {
                State::There => "there",
                State::Packed => "to unpack",
                State::Missing => "missing",
            };
            let bytes = item.bytes.map_or_else(|| "?".to_owned(), size);
            let place = folder.join(&item.path);
            write!(text, "{state:<9} {bytes:>9}  {}", place.display())?;
            if let Some(into) = item.unpack_into {
                let into = folder.join(into);
                write!(text, ", unpacked into {}", into.display())?;
            }
            text.push('\n');
        }
        if let Some(more) = self.items.len().checked_sub(NAMED).filter(|more| *more > 0) {
            writeln!(text, "and {more} files more (--json names all)")?;
        }
        write!(
            text,
            "{} files, {}; to download: {} files, {}; needs up to {} of disk",
            self.items.len(),
            size(self.total()),
            self.missing(),
            size(self.to_download()),
            size(self.needed(keep_archives))
        )?;
        let there = folder.ancestors().find(|folder| folder.exists());
        if let Some(free) = free_bytes(there.unwrap_or(Path::new("."))) {
            write!(text, ", {} are free", size(free))?;
        }
        text.push('\n');
        Ok(text)
    }

    /// The same for programs.
    pub(super) fn view<'a>(&'a self, name: &'a str, folder: &'a Path) -> PlanView<'a> {
        let view = |planned: &'a Planned| ItemView {
            path: &planned.item.path,
            from: planned.item.url.clone(),
            bytes: planned.item.bytes,
            sha256: planned.item.sha256.as_deref(),
            state: planned.state,
            unpacked_into: planned.item.unpack_into.map(|into| folder.join(into)),
        };
        PlanView {
            name,
            folder,
            files: self.items.iter().map(view).collect(),
            bytes_to_download: self.to_download(),
        }
    }
}

fn state_of(item: &Item, record: Option<&Record>) -> State {
    let Some(record) = record else {
        return State::Missing;
    };
    match item.unpack_into {
        Some(_) if record.is_unpacked(&item.path) => State::There,
        Some(_) if record.has(&item.path) => State::Packed,
        None if record.has(&item.path) => State::There,
        _ => State::Missing,
    }
}

/// Free bytes of a folder's disk, where the system says them.
fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::ffi::CString;
        use std::os::unix::ffi::OsStrExt;
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        #[expect(unsafe_code, reason = "only libc tells the room on a disk")]
        // SAFETY: the path ends with a zero, and the structure is read only after statvfs has filled it.
        let found = unsafe {
            if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
                return None;
            }
            found.assume_init()
        };
        #[allow(
            clippy::useless_conversion,
            reason = "the fields are narrower on some systems"
        )]
        Some(u64::from(found.f_bavail) * u64::from(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(bytes: u64, here: u64, state: State, unpack_into: Option<&'static str>) -> Planned {
        let item = Item {
            url: String::new(),
            path: "file".to_owned(),
            bytes: Some(bytes),
            sha256: None,
            unpack_into,
        };
        Planned { item, state, here }
    }

    #[test]
    fn only_archives_in_work_need_their_room_twice() {
        let archive = |bytes| planned(bytes, 0, State::Missing, Some(""));
        let plan = Plan {
            items: vec![
                planned(10, 4, State::Missing, None),
                planned(50, 50, State::There, None),
                planned(70, 70, State::There, Some("")),
                planned(40, 40, State::Packed, Some("")),
                archive(100),
                archive(200),
                archive(300),
            ],
        };
        assert_eq!(plan.to_download(), 606);
        assert_eq!(plan.needed(true), 606 + 640);
        assert_eq!(plan.needed(false), 606 + 600);
        assert_eq!((plan.missing(), plan.total()), (4, 770));
        assert!(plan.check_room(Path::new("."), false).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_disk_that_is_too_small_is_named_with_its_numbers() {
        let plan = Plan {
            items: vec![planned(1 << 60, 0, State::Missing, None)],
        };
        let error = plan.check_room(Path::new("."), false).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("are free on its disk") && text.contains("1152922 TB"),
            "{text}"
        );
    }
}
