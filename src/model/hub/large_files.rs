//! Large files of a model on their way to the hub: Git's LFS protocol, with the hub's own way of sending parts.

use crate::model::hub::publish::AT_ONCE;
use crate::model::hub::publish::BRANCH;
use crate::model::hub::publish::LocalFile;
use crate::model::hub::publish::PublishError;
use crate::model::hub::publish::Publisher;
use crate::model::hub::web::Web;
use crate::model::hub::web::WebError;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use ureq::Body;
use ureq::SendBody;
use ureq::http::Response;
use ureq::http::header;

const LFS_JSON: &str = "application/vnd.git-lfs+json";

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    #[serde(default)]
    actions: Option<Actions>,
    #[serde(default)]
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: Map<String, Value>,
}

/// A large file and the SHA-256 of its content.
pub(super) struct Large<'a> {
    pub(super) file: &'a LocalFile,
    pub(super) oid: String,
}

impl Publisher {
    /// Sends the large files that the hub lacks; how many it had.
    pub(super) fn send_large(&self, files: &[Large]) -> Result<usize, PublishError> {
        let mut there_before = 0;
        for some in files.chunks(AT_ONCE) {
            let objects = self.batch(some)?.objects;
            for Large { file, oid } in some {
                let action = || format!("{} cannot be sent", file.path);
                let protocol = |reason| PublishError::Protocol {
                    action: action(),
                    reason,
                };
                let object = objects.iter().find(|object| object.oid == *oid);
                let object = object.ok_or_else(|| protocol("it leaves the file out".to_owned()))?;
                if let Some(error) = &object.error {
                    return Err(protocol(error.message.clone()));
                }
                let actions = object.actions.as_ref();
                // Git LFS: what the server has comes without an `upload`, whether `actions` is absent or empty.
                let Some(upload) = actions.and_then(|actions| actions.upload.as_ref()) else {
                    tracing::info!("{}: the hub has it already", file.path);
                    there_before += 1;
                    continue;
                };
                self.upload(file, oid, upload)?;
                if let Some(verify) = actions.and_then(|actions| actions.verify.as_ref()) {
                    self.verify(file, oid, verify)
                        .map_err(self.failed(format!("{} was not taken", file.path)))?;
                }
                tracing::info!("{}: sent", file.path);
            }
        }
        Ok(there_before)
    }

    /// What is to be done with each of the files.
    fn batch(&self, files: &[Large]) -> Result<Batch, PublishError> {
        let url = format!(
            "{}/{}.git/info/lfs/objects/batch",
            self.web.endpoint(),
            self.repository
        );
        let objects: Vec<Value> = files
            .iter()
            .map(|large| json!({"oid": large.oid, "size": large.file.bytes}))
            .collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "hash_algo": "sha256",
            "ref": {"name": format!("refs/heads/{BRANCH}")},
            "objects": objects,
        });
        let answer = self.web.send_for_json(&url, |web, place| {
            let mut request = web
                .agent()
                .post(place)
                .header(header::ACCEPT, LFS_JSON)
                .header(header::CONTENT_TYPE, LFS_JSON);
            if let Some(token) = web.authorization(place) {
                request = request.header(header::AUTHORIZATION, token);
            }
            request.send(body.to_string())
        });
        answer.map_err(self.failed(format!("{} takes no large files", self.repository)))
    }

    /// Sends a file to where the hub says: whole, or in parts if it names an address for each.
    fn upload(&self, file: &LocalFile, oid: &str, upload: &Action) -> Result<(), PublishError> {
        let protocol = |reason: &str| PublishError::Protocol {
            action: format!("{} cannot be sent", file.path),
            reason: reason.to_owned(),
        };
        let failed = || self.failed(format!("{} cannot be sent", file.path));
        let Some(part_bytes) = upload.header.get("chunk_size") else {
            let headers = &upload.header;
            self.put(file, &upload.href, headers, 0..file.bytes)
                .map_err(failed())?;
            return Ok(());
        };
        let part_bytes = part_bytes
            .as_u64()
            .or_else(|| part_bytes.as_str()?.parse().ok())
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| protocol("its parts have no size"))?;
        let numbered = upload.header.iter();
        let mut parts: Vec<(u64, &str)> = numbered
            .filter_map(|(number, url)| Some((number.parse().ok()?, url.as_str()?)))
            .collect();
        parts.sort_unstable();
        if parts.len() as u64 != file.bytes.div_ceil(part_bytes) {
            return Err(protocol("it names too many or too few parts"));
        }
        let mut etags = Vec::with_capacity(parts.len());
        for (index, (number, url)) in parts.into_iter().enumerate() {
            let start = index as u64 * part_bytes;
            let range = start..file.bytes.min(start + part_bytes);
            let response = self.put(file, url, &Map::new(), range).map_err(failed())?;
            let etag = response.headers().get(header::ETAG);
            let etag = etag
                .and_then(|etag| etag.to_str().ok())
                .ok_or_else(|| protocol("a part has no ETag"))?;
            etags.push(json!({"partNumber": number, "etag": etag}));
        }
        let body = json!({"oid": oid, "parts": etags}).to_string();
        let url = &upload.href;
        // The address itself says that we may: it is shown no token.
        let done = self.web.send(url, |web, place| {
            let request = web.agent().post(place).header(header::ACCEPT, LFS_JSON);
            request
                .header(header::CONTENT_TYPE, LFS_JSON)
                .send(body.as_str())
        });
        done.map(drop).map_err(failed())
    }

    /// Puts a part of a file where `url` says.
    fn put(
        &self,
        file: &LocalFile,
        url: &str,
        headers: &Map<String, Value>,
        range: std::ops::Range<u64>,
    ) -> Result<Response<Body>, WebError> {
        let bytes = range.end - range.start;
        let before = self.sent.load(Ordering::Relaxed);
        self.web.send(url, |web, place| {
            self.sent.store(before, Ordering::Relaxed);
            let mut source = File::open(&file.place)?;
            source.seek(SeekFrom::Start(range.start))?;
            let mut source = Counted {
                source: source.take(bytes),
                sent: &self.sent,
                web: &self.web,
            };
            let mut request = web.agent().put(place).header(header::CONTENT_LENGTH, bytes);
            for (name, value) in headers {
                // What opens one server is not for another.
                let is_secret = name.eq_ignore_ascii_case("authorization") && place != url;
                if let Some(value) = value.as_str().filter(|_| !is_secret) {
                    request = request.header(name, value);
                }
            }
            request.send(SendBody::from_reader(&mut source))
        })
    }

    /// Tells the hub that a file is where it should be.
    fn verify(&self, file: &LocalFile, oid: &str, verify: &Action) -> Result<(), WebError> {
        let (url, body) = (&verify.href, json!({"oid": oid, "size": file.bytes}));
        let done = self.web.send(url, |web, place| {
            let mut request = web.agent().post(place);
            if let Some(token) = web.authorization(place) {
                request = request.header(header::AUTHORIZATION, token);
            }
            for (name, value) in &verify.header {
                if let Some(value) = value.as_str()
                    && !name.eq_ignore_ascii_case("authorization")
                {
                    request = request.header(name, value);
                }
            }
            request.send_json(&body)
        });
        done.map(drop)
    }
}

/// A file that is being sent.
struct Counted<'a> {
    source: io::Take<File>,
    sent: &'a AtomicU64,
    web: &'a Web,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.web.is_stopped() {
            return Err(io::Error::other("stopped by a signal"));
        }
        let count = self.source.read(buffer)?;
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
