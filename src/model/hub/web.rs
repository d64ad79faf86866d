//! Requests to the hub and to the servers that it sends us to: who is shown the token, what is tried again, what is said
//! of a refusal.

use crate::model::hub::HubSettings;
use crate::util::signals::StopRequest;
use serde::de::DeserializeOwned;
use std::time::Duration;
use std::time::Instant;
use ureq::Agent;
use ureq::Body;
use ureq::http::HeaderMap;
use ureq::http::Response;
use ureq::http::header;

/// How often a request is made, and the first pause between; each next one is twice as long.
pub(crate) const ATTEMPTS: u32 = 5;
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// A connection over which nothing has come for so long is taken for broken.
const SILENCE: Duration = Duration::from_mins(1);
/// The same where the server may work for long before it answers: on large files that it puts together.
const LONG_SILENCE: Duration = Duration::from_mins(15);
/// Redirects of one request, at most.
const MOST_REDIRECTS: usize = 10;
/// Redirects that are followed where something is read, and where something is sent: with the others what was sent would be lost.
const READS: [u16; 5] = [301, 302, 303, 307, 308];
const WRITES: [u16; 2] = [307, 308];
/// Bytes of an answer that is read whole, at most.
const LONGEST_ANSWER: u64 = 256 << 20;

/// Why a server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    /// It answered so.
    #[error("{url} answers with HTTP {status}{}", in_brackets(said))]
    Refused {
        /// What was asked, without what may be secret in it.
        url: String,
        status: u16,
        /// Its own words, if any.
        said: String,
        /// How long it wants to be left alone.
        wait: Option<Duration>,
    },
    /// There was no answer, or it broke off.
    #[error("{url} cannot be reached, or the connection broke: {reason}")]
    Broken { url: String, reason: String },
    /// The answer is not understood.
    #[error("{url} answers with something unexpected: {reason}")]
    Strange { url: String, reason: String },
    /// No request can carry the token.
    #[error("the token has characters that no token has, such as a space or a line break in it")]
    Token,
    /// A signal came.
    #[error("stopped by a signal")]
    Stopped,
}

fn in_brackets(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!(" ({said})")
    }
}

impl WebError {
    /// The status of a refusal.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same may go well later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500 || [408, 429].contains(status),
            Self::Broken { .. } => true,
            Self::Strange { .. } | Self::Token | Self::Stopped => false,
        }
    }

    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Refused { wait, .. } => *wait,
            _ => None,
        }
    }
}

/// One who asks.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    stop: StopRequest,
}

impl Web {
    /// Asks the hub of `settings`, and others without a token, until `stop`.
    pub(crate) fn new(settings: &HubSettings, stop: StopRequest) -> Self {
        Self::with_patience(settings, stop, SILENCE)
    }

    /// As [`Self::new`], for uploads: their servers take their time.
    pub(crate) fn for_uploads(settings: &HubSettings, stop: StopRequest) -> Self {
        Self::with_patience(settings, stop, LONG_SILENCE)
    }

    fn with_patience(settings: &HubSettings, stop: StopRequest, patience: Duration) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(SILENCE))
            .user_agent(concat!("videothinker/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: agent.into(),
            endpoint: settings.endpoint.trim_end_matches('/').to_owned(),
            token: settings.token.clone(),
            stop,
        }
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The hub's address, without a slash at its end.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether there is a token to show.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// What ends its work.
    pub(crate) fn stop(&self) -> &StopRequest {
        &self.stop
    }

    /// Whether a signal has come.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_set()
    }

    /// The value of `Authorization` for a request to `url`: nobody but the hub sees the token.
    pub(crate) fn authorization(&self, url: &str) -> Option<String> {
        let token = self.token.as_ref().filter(|_| self.is_hub(url))?;
        Some(format!("Bearer {token}"))
    }

    /// Whether `url` is one of the hub's own.
    fn is_hub(&self, url: &str) -> bool {
        let rest = url.strip_prefix(&self.endpoint);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }

    /// What lies at `url`, from the byte `start` on, asked once. An answer that is none of success is an error.
    pub(crate) fn get(&self, url: &str, start: u64) -> Result<Response<Body>, WebError> {
        self.follow(url, &READS, &mut |place| {
            let mut request = self.agent.get(place);
            if let Some(token) = self.authorization(place) {
                request = request.header(header::AUTHORIZATION, token);
            }
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            request.call()
        })
    }

    /// The JSON at `url`.
    pub(crate) fn get_json<T: DeserializeOwned>(
        &self,
        url: &str,
    ) -> Result<(T, HeaderMap), WebError> {
        self.again_and_again(|| json_of(url, self.get(url, 0)?))
    }

    /// What is said of `url` without its content.
    pub(crate) fn head(&self, url: &str) -> Result<Response<Body>, WebError> {
        self.again_and_again(|| self.follow(url, &READS, &mut |place| self.head_once(place)))
    }

    /// What the hub itself says of a file of its own: another server that holds the content is not asked.
    pub(crate) fn head_at_hub(&self, url: &str) -> Result<HeaderMap, WebError> {
        self.again_and_again(|| {
            let mut place = url.to_owned();
            for _ in 0..MOST_REDIRECTS {
                self.check(&place)?;
                let response = self.head_once(&place);
                let response = response.map_err(|error| broken(&place, &error))?;
                match redirected(&place, &response, &READS) {
                    Some(next) if self.is_hub(&next) => place = next,
                    None if !response.status().is_success() => {
                        return Err(self.refusal(&place, response));
                    }
                    _ => return Ok(response.into_parts().0.headers),
                }
            }
            Err(too_many_redirects(url))
        })
    }

    fn head_once(&self, place: &str) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.head(place);
        // Else the length that is said is that of compressed content.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        match self.authorization(place) {
            Some(token) => request.header(header::AUTHORIZATION, token).call(),
            None => request.call(),
        }
    }

    /// Sends something to `url` until it is taken, or waiting does not help. `request` makes one request to an address: that
    /// of `url`, and those that it is redirected to.
    pub(crate) fn send(
        &self,
        url: &str,
        mut request: impl FnMut(&Self, &str) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, WebError> {
        self.again_and_again(|| self.follow(url, &WRITES, &mut |place| request(self, place)))
    }

    /// As [`Self::send`], and reads the answer as JSON.
    pub(crate) fn send_for_json<T: DeserializeOwned>(
        &self,
        url: &str,
        mut request: impl FnMut(&Self, &str) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<T, WebError> {
        self.again_and_again(|| {
            let response = self.follow(url, &WRITES, &mut |place| request(self, place))?;
            Ok(json_of(url, response)?.0)
        })
    }

    /// Makes a request once, and again wherever it is redirected to: each time it is decided anew who sees the token, which the
    /// library would show to another port of the same machine.
    fn follow(
        &self,
        url: &str,
        redirects: &[u16],
        request: &mut dyn FnMut(&str) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Response<Body>, WebError> {
        let mut place = url.to_owned();
        for _ in 0..MOST_REDIRECTS {
            self.check(&place)?;
            let response = request(&place).map_err(|error| broken(&place, &error))?;
            if response.status().is_success() {
                return Ok(response);
            }
            match redirected(&place, &response, redirects) {
                Some(next) => place = next,
                None => return Err(self.refusal(&place, response)),
            }
        }
        Err(too_many_redirects(url))
    }

    /// What can be known before a request to `url` is made.
    fn check(&self, url: &str) -> Result<(), WebError> {
        if self.is_stopped() {
            return Err(WebError::Stopped);
        }
        match &self.token {
            Some(token) if self.is_hub(url) && !is_token(token) => Err(WebError::Token),
            _ => Ok(()),
        }
    }

    fn refusal(&self, url: &str, mut response: Response<Body>) -> WebError {
        let after = response.headers().get(header::RETRY_AFTER);
        let wait = after
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(1 << 16);
        let said = body.lossy_utf8(true).read_to_string().unwrap_or_default();
        let said = said_in(&said);
        WebError::Refused {
            url: shown(url),
            status: response.status().as_u16(),
            // Some servers repeat what they were sent.
            said: match &self.token {
                Some(token) => said.replace(token.as_str(), "…"),
                None => said,
            },
            wait,
        }
    }

    fn again_and_again<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, WebError>,
    ) -> Result<T, WebError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match attempt() {
                Err(error) if error.may_pass() => {
                    self.pause(&error, pause)?;
                    pause *= 2;
                }
                ended => return ended,
            }
        }
        attempt()
    }

    /// Waits before what failed with `error` is tried again: `pause`, or what the server asks for.
    pub(crate) fn pause(&self, error: &WebError, pause: Duration) -> Result<(), WebError> {
        let pause = error.wait().map_or(pause, |wait| wait.min(LONGEST_PAUSE));
        tracing::warn!("{error}; trying again in {pause:.1?}");
        let started = Instant::now();
        while started.elapsed() < pause {
            if self.is_stopped() {
                return Err(WebError::Stopped);
            }
            let left = pause.saturating_sub(started.elapsed());
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// Whether a header can carry the token.
pub(crate) fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn json_of<T: DeserializeOwned>(
    url: &str,
    response: Response<Body>,
) -> Result<(T, HeaderMap), WebError> {
    let (parts, mut body) = response.into_parts();
    let text = body.with_config().limit(LONGEST_ANSWER).read_to_vec();
    let text = text.map_err(|error| broken(url, &error))?;
    let value = serde_json::from_slice(&text).map_err(|error| strange(url, error.to_string()))?;
    Ok((value, parts.headers))
}

/// Where an answer sends what was asked of `place`, if it has one of `followed` for its status.
fn redirected(place: &str, response: &Response<Body>, followed: &[u16]) -> Option<String> {
    if !followed.contains(&response.status().as_u16()) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    joined(place, location)
}

/// The address that `link` means in an answer from `place`.
pub(crate) fn joined(place: &str, link: &str) -> Option<String> {
    let link = link.split('#').next().unwrap_or_default();
    if link.starts_with("http://") || link.starts_with("https://") {
        return Some(link.to_owned());
    }
    let (scheme, rest) = place.split_once("://")?;
    if link.starts_with("//") {
        return Some(format!("{scheme}:{link}"));
    }
    let path_end = rest.find('?').unwrap_or(rest.len());
    let host_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let before = match link.chars().next()? {
        '/' => rest[..host_end].to_owned(),
        '?' => rest[..path_end].to_owned(),
        _ => match rest[host_end..path_end].rfind('/') {
            Some(at) => rest[..=host_end + at].to_owned(),
            None => format!("{}/", &rest[..host_end]),
        },
    };
    // Another scheme.
    let word = link.split(['/', '?']).next().unwrap_or_default();
    (!word.contains(':')).then(|| format!("{scheme}://{before}{link}"))
}

fn too_many_redirects(url: &str) -> WebError {
    strange(url, format!("more than {MOST_REDIRECTS} redirects"))
}

/// An answer that is not understood.
pub(crate) fn strange(url: &str, reason: impl Into<String>) -> WebError {
    WebError::Strange {
        url: shown(url),
        reason: reason.into(),
    }
}

/// A request that got no answer, or not all of it.
pub(crate) fn broken(url: &str, error: &impl ToString) -> WebError {
    WebError::Broken {
        url: shown(url),
        reason: error.to_string(),
    }
}

/// An address without its query, which may hold a signature, and without name and password.
pub(crate) fn shown(url: &str) -> String {
    let url = url.split_once(['?', '#']).map_or(url, |(url, _)| url);
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// A path as it stands in an address.
pub(crate) fn encoded(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The words of a refusal: those of the hub's JSON, or the first of a short text; a page is none.
fn said_in(body: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let text = json
        .as_ref()
        .and_then(|json| json["error"].as_str().or_else(|| json["message"].as_str()))
        .unwrap_or(if body.trim_start().starts_with('<') {
            ""
        } else {
            body
        });
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hub_is_shown_the_token() {
        let settings = HubSettings {
            cache: "cache".into(),
            endpoint: "https://hub.example/".into(),
            token: Some("secret".to_owned()),
            offline: false,
        };
        let web = Web::new(&settings, StopRequest::default());
        for (url, is_shown) in [
            ("https://hub.example/api/models/a/b", true),
            ("https://hub.example.evil.example/api", false),
            ("http://hub.example/api", false),
            ("https://storage.example/part?hub.example/", false),
        ] {
            assert_eq!(web.authorization(url).is_some(), is_shown, "{url}");
        }
    }

    #[test]
    fn links_are_read_as_a_browser_reads_them() {
        let place = "https://host:1/a/b?c=/d";
        for (link, meant) in [
            ("http://other/x#y", Some("http://other/x")),
            ("//other/x", Some("https://other/x")),
            ("/x?y", Some("https://host:1/x?y")),
            ("x", Some("https://host:1/a/x")),
            ("?x", Some("https://host:1/a/b?x")),
            ("file:///etc/passwd", None),
            ("", None),
        ] {
            assert_eq!(joined(place, link).as_deref(), meant, "{link}");
        }
        assert_eq!(joined("http://h", "x").as_deref(), Some("http://h/x"));
    }

    #[test]
    fn addresses_and_refusals_are_said_without_secrets() {
        let url = "https://me:pass@host/a/b.zip?X-Signature=1";
        assert_eq!(shown(url), "https://host/a/b.zip");
        assert_eq!(encoded("a b/c#ü.mp4"), "a%20b/c%23%C3%BC.mp4");
        assert_eq!(said_in("{\"error\": \"no such\\n repo\"}"), "no such repo");
        assert_eq!(said_in("<html>…"), "");
    }
}
