//! The files of a dataset on the hub.

use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use crate::model::hub::web::encoded;
use crate::model::hub::web::joined;
use crate::model::hub::web::strange;
use serde::Deserialize;
use std::collections::BTreeSet;
use ureq::http::HeaderMap;
use ureq::http::header;

/// Pages of a list, at most; the hub's hold a thousand entries each.
const MOST_PAGES: usize = 1000;

/// A file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatasetFile {
    /// Its path in the dataset.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// Of its content; published for large files only.
    pub(crate) sha256: Option<String>,
}

#[derive(Deserialize)]
struct TreeEntry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// All files of the dataset `name` (`owner/name`).
pub(crate) fn files(web: &Web, name: &str) -> Result<Vec<DatasetFile>, WebError> {
    let mut url = format!(
        "{}/api/datasets/{name}/tree/main?recursive=true",
        web.endpoint()
    );
    let mut files = Vec::new();
    let mut asked = BTreeSet::new();
    loop {
        let (entries, headers) = web.get_json::<Vec<TreeEntry>>(&url)?;
        let is_empty = entries.is_empty();
        let of_files = entries.into_iter().filter(|entry| entry.r#type == "file");
        files.extend(of_files.map(|entry| DatasetFile {
            bytes: entry.lfs.as_ref().map_or(entry.size, |lfs| lfs.size),
            sha256: entry.lfs.map(|lfs| lfs.oid.to_ascii_lowercase()),
            path: entry.path,
        }));
        let Some(next) = next_page(&headers).and_then(|next| joined(&url, &next)) else {
            return Ok(files);
        };
        asked.insert(std::mem::replace(&mut url, next));
        // A list that leads back, or goes on with nothing, has no end.
        if is_empty || asked.contains(&url) || asked.len() == MOST_PAGES {
            return Err(strange(&url, "its list of files does not end"));
        }
    }
}

/// Where a file of the dataset `name` is.
pub(crate) fn address(web: &Web, name: &str, path: &str) -> String {
    let endpoint = web.endpoint();
    format!("{endpoint}/datasets/{name}/resolve/main/{}", encoded(path))
}

fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    let next = links
        .split(',')
        .find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}
