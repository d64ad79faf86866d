//! Asking a chat model over HTTP.

use crate::eval::error::EvalError;
use serde::Deserialize;
use serde_json::json;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::http::{HeaderValue, StatusCode, Uri, header};

/// Longest wait for one reply.
const PATIENCE: Duration = Duration::from_mins(5);
/// Attempts at one request: a busy or restarting server gets about a minute.
const ATTEMPTS: u32 = 7;

/// An OpenAI-compatible endpoint and the model to ask there.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    pub(super) model: String,
    key: Option<String>,
    /// Wait before the second attempt; it doubles.
    pause: Duration,
}

#[derive(Deserialize)]
struct ChatCompletion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

/// What the judge has made of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JudgeResponse {
    /// It replied.
    Reply(String),
    /// It does not take this one (too long, say), or answers it with something else than a reply.
    Refused(String),
}

/// What one attempt came to.
enum Attempt {
    Done(JudgeResponse),
    Retry(Retry),
    /// No question will be answered.
    Never(String),
}

/// Why an attempt may go well next time.
struct Retry {
    reason: String,
    /// How long the server wants to be left alone.
    wait: Option<Duration>,
    /// Nothing is wrong with other questions.
    only_this: bool,
}

impl Retry {
    fn all(reason: String) -> Self {
        Self {
            reason,
            wait: None,
            only_this: false,
        }
    }

    fn only_this(reason: String) -> Self {
        Self {
            only_this: true,
            ..Self::all(reason)
        }
    }
}

impl Client {
    /// Of the endpoint at `url` (`http://host:8000/v1`). `key` goes with each request and nowhere else.
    ///
    /// # Errors
    /// A `url` that is none.
    pub(crate) fn new(url: &str, model: &str, key: Option<String>) -> Result<Self, EvalError> {
        let url = url.trim_end_matches('/');
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(not_an_address(behind_name(url)));
        }
        if url.parse::<Uri>().is_err() {
            return Err(not_an_address(&without_secrets(url)));
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build();
        Ok(Self {
            agent: agent.into(),
            url: url.to_owned(),
            model: model.to_owned(),
            key,
            pause: Duration::from_secs(1),
        })
    }

    /// The address without what may be secret in it.
    pub(super) fn shown_url(&self) -> String {
        without_secrets(&self.url)
    }

    /// The model's reply to `prompt`. Refusals that may pass are tried again, with longer and longer pauses, unless `stop`
    /// says that nobody waits for it.
    ///
    /// # Errors
    /// [`EvalError::Judge`] where other questions would fare no better.
    pub(super) fn ask(&self, prompt: &str, stop: &AtomicBool) -> Result<JudgeResponse, EvalError> {
        let mut pause = self.pause;
        let mut attempts = 1;
        loop {
            let retry = match self.attempt(prompt) {
                Attempt::Done(asked) => return Ok(asked),
                Attempt::Never(reason) => return Err(self.failed(reason)),
                Attempt::Retry(retry) => retry,
            };
            let reason = retry.reason;
            if attempts == ATTEMPTS || stop.load(Ordering::Relaxed) {
                return if retry.only_this {
                    Ok(JudgeResponse::Refused(reason))
                } else {
                    Err(self.failed(format!("{reason} (attempt {attempts})")))
                };
            }
            let wait = retry.wait.map_or(pause, |wait| wait.min(PATIENCE));
            tracing::debug!("{}: {reason}; again in {wait:?}", self.shown_url());
            sleep(wait, stop);
            pause *= 2;
            attempts += 1;
        }
    }

    fn failed(&self, reason: String) -> EvalError {
        EvalError::Judge {
            url: self.shown_url(),
            reason,
        }
    }

    fn attempt(&self, prompt: &str) -> Attempt {
        let body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
        });
        let mut request = self.agent.post(format!("{}/chat/completions", self.url));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = match request.send_json(&body) {
            Ok(response) => response,
            Err(error @ ureq::Error::HostNotFound) => return Attempt::Never(error.to_string()),
            Err(error) => return Attempt::Retry(Retry::all(error.to_string())),
        };
        let status = response.status();
        if status == StatusCode::OK {
            return match response.body_mut().read_json::<ChatCompletion>() {
                Ok(ChatCompletion { choices }) => read(choices),
                Err(error) => {
                    let reason = format!("not a chat completion: {error}");
                    Attempt::Retry(Retry::only_this(reason))
                }
            };
        }
        let wait = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(seconds);
        let said = response
            .body_mut()
            .read_to_string()
            .unwrap_or_else(|error| format!("its reason cannot be read: {error}"));
        let said: String = said.trim().chars().take(200).collect();
        // Some servers repeat what they were sent.
        let said = match &self.key {
            Some(key) => said.replace(key, "…"),
            None => said,
        };
        self.refused(status, &said, wait)
    }

    fn refused(&self, status: StatusCode, said: &str, wait: Option<Duration>) -> Attempt {
        let model = &self.model;
        match status.as_u16() {
            401 | 403 => Attempt::Never(format!(
                "{status}: set OPENAI_API_KEY to a key that may use {model} ({said})"
            )),
            404 => Attempt::Never(format!(
                "{status}: no /chat/completions there, or no model {model}; the address mostly ends with /v1 ({said})"
            )),
            408 | 429 | 500.. => Attempt::Retry(Retry {
                wait,
                ..Retry::all(format!("{status} ({said})"))
            }),
            _ => Attempt::Done(JudgeResponse::Refused(format!("{status} ({said})"))),
        }
    }
}

fn read(choices: Vec<Choice>) -> Attempt {
    match choices.into_iter().next() {
        Some(choice) => Attempt::Done(match choice.message.content {
            Some(reply) => JudgeResponse::Reply(reply),
            None => JudgeResponse::Refused("a chat completion without content".into()),
        }),
        None => Attempt::Retry(Retry::only_this(
            "a chat completion without a choice".into(),
        )),
    }
}

/// A header that says how many seconds to wait; the other form that HTTP has for it, a date, is not read.
fn seconds(header: &HeaderValue) -> Option<Duration> {
    let seconds = header.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Sleeps until `wait` is over or `stop` says that nobody waits for it.
fn sleep(wait: Duration, stop: &AtomicBool) {
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

fn not_an_address(shown: &str) -> EvalError {
    EvalError::Judge {
        url: shown.to_owned(),
        reason: "not an address such as http://localhost:8000/v1".into(),
    }
}

/// An address without name, password and query.
fn without_secrets(url: &str) -> String {
    let url = url.split_once(['?', '#']).map_or(url, |(url, _)| url);
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", behind_name(host))
}

/// Without the name and password that an address may begin with.
fn behind_name(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn credentials_are_not_shown() {
        let shown = |url: &str| Client::new(url, "m", None).unwrap().shown_url();
        assert_eq!(
            shown("http://me:secret@host:8000/v1/"),
            "http://host:8000/v1"
        );
        assert_eq!(
            shown("https://api.example.org/v1"),
            "https://api.example.org/v1"
        );
        assert_eq!(shown("http://host"), "http://host");
        assert_eq!(shown("http://host/v1?api-key=secret"), "http://host/v1");
        for bad in ["me:secret@host:8000", "http://me:secret@ho st/v1"] {
            let error = Client::new(bad, "m", None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let error = Client::new("host:8000", "m", None).unwrap_err();
        assert!(
            error.to_string().contains("http://localhost:8000/v1"),
            "{error}"
        );
    }

    #[test]
    fn a_server_that_is_gone_is_tried_several_times() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        drop(listener);
        let mut client = Client::new(&url, "m", None).unwrap();
        client.pause = Duration::from_millis(1);
        let said = client
            .ask("?", &AtomicBool::new(false))
            .unwrap_err()
            .to_string();
        assert!(said.contains(&format!("attempt {ATTEMPTS}")), "{said}");
        // Once another request has failed for good, nobody waits for this one.
        let said = client
            .ask("?", &AtomicBool::new(true))
            .unwrap_err()
            .to_string();
        assert!(said.contains("attempt 1"), "{said}");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let client = Client::new("http://host", "m", None).unwrap();
        for (status, again) in [
            (429, true),
            (503, true),
            (400, false),
            (401, false),
            (404, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let attempt = client.refused(status, "", None);
            assert_eq!(matches!(attempt, Attempt::Retry(_)), again, "{status}");
        }
    }

    /// The wait that a server asks for with this header.
    fn wait_for(header: &str) -> Option<Duration> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // Closed with something unread, the answer could be lost.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let client = Client::new(&url, "m", None).unwrap();
        let Attempt::Retry(retry) = client.attempt("?") else {
            panic!("429 may pass");
        };
        server.join().unwrap();
        assert!(!retry.only_this && retry.reason.contains("429"));
        retry.wait
    }

    #[test]
    fn a_server_says_how_long_to_wait() {
        let minute = Some(Duration::from_mins(1));
        assert_eq!(wait_for("Retry-After: 60\r\n"), minute);
        assert_eq!(wait_for(""), None);
        let date = "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n";
        assert_eq!(wait_for(date), None);
    }

    #[test]
    fn a_completion_without_content_is_no_reply() {
        let said = |content: Option<&str>| {
            let content = content.map(str::to_owned);
            let message = Message { content };
            match read(vec![Choice { message }]) {
                Attempt::Done(response) => response,
                Attempt::Retry(_) | Attempt::Never(_) => panic!("it is a completion"),
            }
        };
        assert_eq!(said(Some("A")), JudgeResponse::Reply("A".into()));
        assert!(matches!(said(None), JudgeResponse::Refused(_)));
    }

    #[test]
    fn a_wait_ends_when_nobody_waits() {
        let started = Instant::now();
        sleep(PATIENCE, &AtomicBool::new(true));
        sleep(Duration::from_millis(1), &AtomicBool::new(false));
        assert!(started.elapsed() < PATIENCE / 2);
    }
}
