//! Models from the hub: a small server that asks for a token, breaks connections and refuses.

use std::collections::VecDeque;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use videothinker::model::hub::HubSettings;
use videothinker::model::hub::resolve_with;

/// What the server does with a request for a file's content.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    /// None, this time.
    Nothing,
    /// Sends this many bytes, then breaks the connection.
    Cut(usize),
    /// Answers with this status.
    Status(u16),
}

#[derive(Debug, Default)]
struct State {
    /// The next mishaps of content requests; then all goes well.
    mishaps: VecDeque<Mishap>,
    /// What was asked: path and first byte.
    asked: Vec<(String, usize)>,
}

/// A hub with one public name (`owner/open`), one that needs the token `secret` (`owner/model`), and one that even the
/// token may not read (`owner/closed`).
struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

/// Files of each repository: name and content. The weights are longer than any buffer on the way.
fn files() -> [(&'static str, Vec<u8>); 4] {
    let weights = (0..3_000_000_u32)
        .map(|index| (index % 251) as u8)
        .collect();
    [
        ("config.json", b"{\"model_type\": \"qwen2_5_vl\"}".to_vec()),
        ("model.safetensors", weights),
        ("tokenizer.json", b"{}".to_vec()),
        ("pytorch_model.bin", b"not wanted".to_vec()),
    ]
}

impl Hub {
    fn start(mishaps: &[Mishap]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            mishaps: mishaps.iter().copied().collect(),
            asked: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may go away at any time.
                let _ = answer(stream, &shared);
            }
        });
        Self { address, state }
    }

    /// The first bytes of the continuations that the weights were fetched with.
    fn weight_requests(&self) -> Vec<usize> {
        let state = self.state.lock().unwrap();
        let asked = state.asked.iter();
        asked
            .filter(|(path, _)| path.ends_with("/model.safetensors"))
            .map(|(_, start)| *start)
            .collect()
    }

    fn settings(&self, cache: &Path, token: Option<&str>) -> HubSettings {
        HubSettings {
            cache: cache.to_owned(),
            endpoint: self.address.clone(),
            token: token.map(str::to_owned),
            offline: false,
        }
    }
}

/// What a client asked for.
#[derive(Debug, Default)]
struct Request {
    path: String,
    start: usize,
    /// hf-hub asks for the first byte to learn a file's size.
    only_size: bool,
    token: Option<String>,
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut request = Request::default();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim();
        if line.is_empty() {
            return Ok(request);
        }
        let lower = line.to_lowercase();
        if let Some(rest) = line.strip_prefix("GET ") {
            rest.split(' ')
                .next()
                .unwrap()
                .clone_into(&mut request.path);
        } else if let Some(range) = lower.strip_prefix("range: bytes=") {
            request.start = range.split('-').next().unwrap().parse().unwrap();
            request.only_size = range == "0-0";
        } else if lower.starts_with("authorization: bearer ") {
            request.token = Some(line["authorization: bearer ".len()..].to_owned());
        }
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read_request(&mut reader)?;
    let mut stream = reader.into_inner();
    let path = request.path.clone();
    let refusal = match request.token.as_deref() {
        Some("secret") if path.contains("owner/closed") => Some(403),
        Some("secret") | None if path.contains("owner/open") => None,
        Some("secret") if path.contains("owner/model") => None,
        Some("secret") => Some(404),
        _ => Some(401),
    };
    if let Some(status) = refusal {
        return refuse(&mut stream, status);
    }
    let files = files();
    let Some((_, content)) = files.iter().find(|(name, _)| path.ends_with(name)) else {
        return list(&mut stream, &path);
    };
    let mut length = content.len();
    if request.only_size {
        length = 1;
    } else {
        let mut state = state.lock().unwrap();
        state.asked.push((path.clone(), request.start));
        match state.mishaps.pop_front() {
            Some(Mishap::Status(status)) => return refuse(&mut stream, status),
            Some(Mishap::Cut(bytes)) => length = request.start + bytes,
            Some(Mishap::Nothing) | None => {}
        }
    }
    if request.start >= content.len() {
        return refuse(&mut stream, 416);
    }
    let part = &content[request.start..];
    let promised = if request.only_size { 1 } else { part.len() };
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {promised}\r\nContent-Range: bytes {}-{}/{}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: abc\r\nConnection: close\r\n\r\n",
        request.start,
        content.len() - 1,
        content.len(),
        path.replace(['/', '.'], "-"),
    )?;
    stream.write_all(&content[request.start..length.min(content.len())])
}

fn refuse(stream: &mut TcpStream, status: u16) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

/// The list of a model's files.
fn list(stream: &mut TcpStream, path: &str) -> std::io::Result<()> {
    if !path.starts_with("/api/models/") {
        return refuse(stream, 404);
    }
    let names = files().map(|(name, _)| format!("{{\"rfilename\":\"{name}\"}}"));
    let body = format!("{{\"siblings\":[{}],\"sha\":\"abc\"}}", names.join(","));
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[test]
fn a_model_is_downloaded_once_and_then_found_offline() {
    let (hub, cache) = (Hub::start(&[]), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path(), Some("secret"));
    let folder = resolve_with("owner/model", &settings).unwrap();
    for (name, content) in &files()[..3] {
        assert_eq!(&std::fs::read(folder.join(name)).unwrap(), content);
    }
    assert!(!folder.join("pytorch_model.bin").exists());
    assert_eq!(resolve_with("owner/model", &settings).unwrap(), folder);
    assert_eq!(hub.weight_requests(), [0], "fetched once");
    for offline in [true, false] {
        let nowhere = HubSettings {
            endpoint: "http://127.0.0.1:1".into(),
            offline,
            ..settings.clone()
        };
        assert_eq!(resolve_with("owner/model", &nowhere).unwrap(), folder);
    }
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    // The first request for content is the configuration's.
    let mishaps = [
        Mishap::Status(503),
        Mishap::Cut(9),
        Mishap::Nothing,
        Mishap::Cut(1_000_000),
        Mishap::Cut(0),
    ];
    let (hub, cache) = (Hub::start(&mishaps), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path(), Some("secret"));
    let folder = resolve_with("owner/model", &settings).unwrap();
    for (name, content) in &files()[..3] {
        assert_eq!(
            &std::fs::read(folder.join(name)).unwrap(),
            content,
            "{name}"
        );
    }
    let starts = hub.weight_requests();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(
        starts[0] == 0 && starts[1] > 100_000 && starts[1] == starts[2],
        "{starts:?}"
    );
}

#[test]
fn a_later_process_continues_a_download_that_failed() {
    // After the configuration: as often as a file is taken up again, and once more.
    let mut mishaps = vec![Mishap::Nothing];
    mishaps.extend([Mishap::Cut(400_000); 5]);
    // The later process' first attempt gets nothing either.
    mishaps.push(Mishap::Cut(0));
    let (hub, cache) = (Hub::start(&mishaps), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path(), Some("secret"));
    let error = resolve_with("owner/model", &settings)
        .unwrap_err()
        .to_string();
    assert!(error.contains("start again to continue"), "{error}");
    let folder = resolve_with("owner/model", &settings).unwrap();
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights == files()[1].1, "{} bytes", weights.len());
    let starts = hub.weight_requests();
    assert!(starts.len() == 7 && starts[5] > 1_000_000, "{starts:?}");
    assert!(
        starts.windows(2).all(|pair| pair[0] <= pair[1]),
        "{starts:?}"
    );
}

#[test]
fn refusals_say_what_to_do() {
    let (hub, cache) = (Hub::start(&[]), tempfile::tempdir().unwrap());
    let message = |name: &str, token: Option<&str>| {
        let settings = hub.settings(cache.path(), token);
        resolve_with(name, &settings).unwrap_err().to_string()
    };
    for (name, token, wanted) in [
        ("owner/model", None, ["check the spelling", "set HF_TOKEN"]),
        (
            "owner/model",
            Some("old"),
            ["does not accept the token", "401"],
        ),
        ("owner/closed", Some("secret"), ["accept its terms", "403"]),
        (
            "owner/other",
            Some("secret"),
            ["knows no model or revision", "404"],
        ),
        ("runs/base/missing", None, ["not a hub id", "owner/model"]),
        (
            cache.path().to_str().unwrap(),
            None,
            ["no config.json", "model folder"],
        ),
    ] {
        let message = message(name, token);
        for part in wanted.iter().chain([&name]) {
            assert!(message.contains(part), "{name}: {message}");
        }
    }
    let nobody = HubSettings {
        endpoint: "http://127.0.0.1:1".into(),
        ..hub.settings(cache.path(), None)
    };
    let error = resolve_with("owner/open", &nobody).unwrap_err().to_string();
    assert!(
        error.contains("check the network or HF_ENDPOINT"),
        "{error}"
    );
    let offline = HubSettings {
        offline: true,
        ..nobody
    };
    let error = resolve_with("owner/open", &offline)
        .unwrap_err()
        .to_string();
    assert!(error.contains("Unset HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn the_environment_says_how_the_hub_is_reached() {
    let (hub, cache) = (Hub::start(&[]), tempfile::tempdir().unwrap());
    let evaluate = |more: &[(&str, &str)]| {
        let output = crate::program()
            .env("HF_HUB_CACHE", cache.path())
            .env("HF_ENDPOINT", &hub.address)
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_HOME", cache.path())
            .envs(more.iter().copied())
            .args(["ask", "--model", "owner/model", "--question", "What?"])
            .args(["--video", "tests/golden/video/clips/h264.mp4"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let offline = evaluate(&[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.contains("Unset HF_HUB_OFFLINE"), "{offline}");
    assert!(hub.weight_requests().is_empty());
    let refused = evaluate(&[]);
    assert!(refused.contains("set HF_TOKEN"), "{refused}");
    // The weights of this hub are no weights, but they come.
    let token = [("HF_TOKEN", "secret")];
    let fetched = evaluate(&token);
    assert!(!fetched.contains("HF_TOKEN"), "{fetched}");
    assert_eq!(hub.weight_requests(), [0]);
}
