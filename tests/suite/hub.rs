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
use std::time::Duration;
use std::time::Instant;
use videothinker::model::hub::HubSettings;
use videothinker::model::hub::resolve_with;

/// What the server does with a request for a file's content.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    /// None, this time.
    Nothing,
    /// Sends this many bytes, then breaks the connection.
    Cut(usize),
    /// Sends this many bytes, then nothing for as long as the test lasts.
    Hang(usize),
    /// Answers with this status.
    Status(u16),
}

#[derive(Debug, Default)]
struct State {
    /// The next mishaps of content requests; then all goes well.
    mishaps: VecDeque<Mishap>,
    /// What was asked: path and first byte.
    asked: Vec<(String, usize)>,
    /// Whether any request came with a token.
    saw_token: bool,
    /// Where the weights are: on another server.
    elsewhere: Option<String>,
    /// What the weights are said to be.
    sha256: Option<String>,
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
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client may go away at any time.
                std::thread::spawn(move || answer(stream, &shared));
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
    is_head: bool,
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
        request.is_head |= line.starts_with("HEAD ");
        let asked = line.strip_prefix("GET ").or(line.strip_prefix("HEAD "));
        if let Some(rest) = asked {
            rest.split(' ')
                .next()
                .unwrap()
                .clone_into(&mut request.path);
        } else if let Some(range) = lower.strip_prefix("range: bytes=") {
            request.start = range.split('-').next().unwrap().parse().unwrap();
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
    let is_weights = path.ends_with("/model.safetensors");
    let (sha256, elsewhere) = {
        let mut state = state.lock().unwrap();
        state.saw_token |= request.token.is_some();
        (state.sha256.clone(), state.elsewhere.clone())
    };
    let etag = path.replace(['/', '.'], "-");
    let etag = sha256.filter(|_| is_weights).unwrap_or(etag);
    if let Some(elsewhere) = elsewhere.filter(|_| is_weights) {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {elsewhere}{path}\r\nX-Linked-ETag: \"{etag}\"\r\n\
             X-Linked-Size: {}\r\nConnection: close\r\n\r\n",
            content.len()
        );
    }
    let mut length = content.len();
    let mut is_silent = false;
    if !request.is_head {
        let mut state = state.lock().unwrap();
        state.asked.push((path.clone(), request.start));
        match state.mishaps.pop_front() {
            Some(Mishap::Status(status)) => return refuse(&mut stream, status),
            Some(Mishap::Cut(bytes)) => length = request.start + bytes,
            Some(Mishap::Hang(bytes)) => {
                length = request.start + bytes;
                is_silent = true;
            }
            Some(Mishap::Nothing) | None => {}
        }
    }
    if request.start >= content.len() {
        return refuse(&mut stream, 416);
    }
    let part = &content[request.start..];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {}-{}/{}\r\n\
         ETag: \"{etag}\"\r\nX-Repo-Commit: abc\r\nConnection: close\r\n\r\n",
        part.len(),
        request.start,
        content.len() - 1,
        content.len(),
    )?;
    if request.is_head {
        return Ok(());
    }
    stream.write_all(&content[request.start..length.min(content.len())])?;
    if is_silent {
        std::thread::sleep(Duration::from_mins(10));
    }
    Ok(())
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
    // After the configuration: a part, and then nothing, as often as nothing is tried again.
    let mut mishaps = vec![Mishap::Nothing, Mishap::Cut(1_400_000)];
    mishaps.extend([Mishap::Cut(0); 4]);
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
    let broken = evaluate(&[("HF_TOKEN", "sec ret")]);
    assert!(broken.contains("set HF_TOKEN to a valid one"), "{broken}");
    // The weights of this hub are no weights, but they come.
    let token = [("HF_TOKEN", " \"secret\"\n")];
    let fetched = evaluate(&token);
    assert!(!fetched.contains("HF_TOKEN"), "{fetched}");
    assert_eq!(hub.weight_requests(), [0]);
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(content))
}

/// A hub whose weights are on another server, which is the second.
fn with_storage(sha256: String) -> (Hub, Hub) {
    let (hub, storage) = (Hub::start(&[]), Hub::start(&[]));
    let mut state = hub.state.lock().unwrap();
    state.elsewhere = Some(storage.address.clone());
    state.sha256 = Some(sha256);
    drop(state);
    (hub, storage)
}

#[test]
fn the_server_that_holds_the_weights_is_not_shown_the_token() {
    let weights = &files()[1].1;
    let (hub, storage) = with_storage(sha256(weights));
    let cache = tempfile::tempdir().unwrap();
    let settings = hub.settings(cache.path(), Some("secret"));
    let folder = resolve_with("owner/open", &settings).unwrap();
    assert!(hub.state.lock().unwrap().saw_token);
    assert_eq!(storage.weight_requests(), [0]);
    assert!(!storage.state.lock().unwrap().saw_token);
    // As huggingface_hub lays it out.
    let model = cache.path().join("models--owner--open");
    assert_eq!(std::fs::read(model.join("refs/main")).unwrap(), b"abc");
    assert_eq!(folder, model.join("snapshots/abc"));
    let blob = model.join("blobs").join(sha256(weights));
    assert!(&std::fs::read(&blob).unwrap() == weights);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(folder.join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(sha256(weights))
    );
    // A name that the hub forgets is filled from what is there.
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    resolve_with("owner/open", &settings).unwrap();
    assert!(folder.join("model.safetensors").is_file());
    assert_eq!(storage.weight_requests(), [0], "not fetched again");
}

#[test]
fn weights_that_are_not_as_published_are_not_used() {
    let (hub, _storage) = with_storage(sha256(b"other weights"));
    let cache = tempfile::tempdir().unwrap();
    let settings = hub.settings(cache.path(), None);
    let error = resolve_with("owner/open", &settings)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.safetensors: the download has another SHA-256"),
        "{error}"
    );
    let blobs = cache.path().join("models--owner--open/blobs");
    // The configuration alone.
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_signal_does_not_wait_for_a_silent_server() {
    let hub = Hub::start(&[Mishap::Nothing, Mishap::Hang(1_000_000)]);
    let cache = tempfile::tempdir().unwrap();
    let child = crate::program()
        .env("HF_HUB_CACHE", cache.path())
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_HOME", cache.path())
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE")
        .args(["ask", "--model", "owner/open", "--question", "What?"])
        .args(["--video", "tests/golden/video/clips/h264.mp4"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let blobs = cache.path().join("models--owner--open/blobs");
    let bytes = || {
        let entries = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        let bytes = entries.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()));
        bytes.max().unwrap_or(0)
    };
    let started = Instant::now();
    while bytes() < 900_000 {
        assert!(started.elapsed() < Duration::from_mins(1), "{}", bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    let asked = Instant::now();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{text}");
    assert!(text.contains("goes on with the download"), "{text}");
    let folder = resolve_with("owner/open", &hub.settings(cache.path(), None)).unwrap();
    assert!(std::fs::read(folder.join("model.safetensors")).unwrap() == files()[1].1);
    let starts = hub.weight_requests();
    assert!(starts.len() == 2 && starts[1] > 800_000, "{starts:?}");
}
