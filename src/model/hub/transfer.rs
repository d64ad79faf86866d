//! One file from a server onto the disk, continued where it broke off.

use crate::model::hub::web::ATTEMPTS;
use crate::model::hub::web::FIRST_PAUSE;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use crate::model::hub::web::broken;
use crate::util::file::FileError;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use ureq::Body;
use ureq::http::Response;
use ureq::http::header;

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 18;

/// What is to be had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) url: &'a str,
    /// As published, where that is known.
    pub(crate) bytes: Option<u64>,
    /// Whether the content can be checked when all of it is there.
    pub(crate) has_hash: bool,
}

/// One who is told how a transfer goes.
pub(crate) trait Watch {
    /// So many bytes have come.
    fn came(&self, bytes: u64);
    /// So many, of before, are thrown away.
    fn forget(&self, bytes: u64);
    /// Whether the transfer is to end, although not all is there.
    fn is_over(&self) -> bool;
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    #[error(transparent)]
    Web(#[from] WebError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Fills the file `part` until all of the source is there.
pub(crate) fn fill(
    web: &Web,
    source: Source,
    part: &Path,
    watch: &dyn Watch,
) -> Result<(), TransferError> {
    let (mut failures, mut pause) = (0, FIRST_PAUSE);
    loop {
        let before = bytes_of(part);
        let error = match attempt(web, source, part, watch) {
            Ok(()) => return Ok(()),
            Err(TransferError::Web(error)) if error.may_pass() => error,
            Err(error) => return Err(error),
        };
        if bytes_of(part) > before {
            (failures, pause) = (0, FIRST_PAUSE);
        }
        failures += 1;
        if failures == ATTEMPTS {
            return Err(error.into());
        }
        web.pause(&error, pause)?;
        pause *= 2;
    }
}

/// Asks for what `part` lacks, and appends what comes.
fn attempt(web: &Web, source: Source, part: &Path, watch: &dyn Watch) -> Result<(), TransferError> {
    let url = source.url;
    let start = bytes_of(part);
    if source.bytes == Some(start) && part.exists() {
        return Ok(());
    }
    let response = match web.get(url, start) {
        Ok(response) => response,
        // The part is as long as the file, or longer. Where neither size nor hash is published, that proves nothing.
        Err(error) if error.status() == Some(416) && start > 0 => {
            if source.has_hash && source.bytes.is_none() {
                return Ok(());
            }
            remove(part, start, watch)?;
            return attempt(web, source, part, watch);
        }
        Err(error) => return Err(error.into()),
    };
    let from = begins_at(&response);
    if from != start {
        // The server sends all of it, whatever it is asked for.
        if start > 0 {
            remove(part, start, watch)?;
        }
        if from > 0 {
            let reason = format!("it was asked from byte {start} and answers from {from}");
            return Err(broken(url, &reason).into());
        }
    }
    append(source, response, part, watch)
}

/// Removes a part that cannot be continued.
pub(crate) fn remove(part: &Path, bytes: u64, watch: &dyn Watch) -> Result<(), FileError> {
    watch.forget(bytes);
    std::fs::remove_file(part).map_err(|error| FileError::new("remove", part, error))
}

fn append(
    source: Source,
    response: Response<Body>,
    part: &Path,
    watch: &dyn Watch,
) -> Result<(), TransferError> {
    let opened = OpenOptions::new().create(true).append(true).open(part);
    let mut file = opened.map_err(|error| FileError::writing(part, error))?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER];
    let mut left = source
        .bytes
        .map(|bytes| bytes.saturating_sub(bytes_of(part)));
    loop {
        if watch.is_over() {
            return Err(WebError::Stopped.into());
        }
        let read = body.read(&mut buffer);
        let count = read.map_err(|error| broken(source.url, &error))?;
        let is_too_long = left.is_some_and(|left| count as u64 > left);
        if count == 0 {
            return file
                .sync_all()
                .map_err(|error| FileError::writing(part, error).into());
        }
        file.write_all(&buffer[..count])
            .map_err(|error| FileError::writing(part, error))?;
        watch.came(count as u64);
        left = left.map(|left| left.saturating_sub(count as u64));
        // It is another size than published: the caller sees it, and the disk does not fill up.
        if is_too_long {
            return Ok(());
        }
    }
}

/// Bytes of a file; 0 if it is not there.
pub(crate) fn bytes_of(path: &Path) -> u64 {
    File::open(path)
        .and_then(|file| file.metadata())
        .map_or(0, |metadata| metadata.len())
}

/// The first byte of an answer.
fn begins_at(response: &Response<Body>) -> u64 {
    let range = response.headers().get(header::CONTENT_RANGE);
    let start = range.and_then(|range| {
        let range = range.to_str().ok()?.strip_prefix("bytes ")?;
        range.split('-').next()?.parse().ok()
    });
    start.unwrap_or(0)
}
