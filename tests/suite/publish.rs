//! `export`: a run of the miniature as a clean folder with its card, and to a hub of our own that speaks the real one's
//! requests, checks token, hashes and parts, breaks connections and refuses.

use crate::run::Run;
use crate::run::assert_code;
use crate::run::stderr;
use crate::run::world;
use serde_json::Value;
use serde_json::json;
use sha2::Digest;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;

const TOKEN: &str = "hf_secret";

/// A finished run of a few steps.
fn trained() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let mut run = Run::cdpo();
        run.set("train.steps", "3");
        assert_code(&run.run(), 0);
        run
    })
}

fn export(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = crate::program();
    command
        .current_dir(folder)
        .arg("export")
        .args(arguments)
        .env("HF_HOME", folder.join("hub"))
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_OFFLINE");
    command
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The log-probabilities of an answer, as a model folder gives them.
fn logprobs(model: &Path) -> Value {
    let clip = world().join("world/videos/video_00000-01000/video_00000.mp4");
    let output = crate::program()
        .args(["inspect", "logprobs", "--model", model.to_str().unwrap()])
        .args(["--video", clip.to_str().unwrap()])
        .args(["--question", "What will happen?"])
        .args(["--completion", "<think>red</think><answer>A</answer>"])
        .args(["--set", "model.device=cpu", "--set", "model.dtype=f32"])
        .args([
            "--set",
            "video.max_pixels=12544",
            "--set",
            "video.min_pixels=12544",
        ])
        .output()
        .unwrap();
    assert_code(&output, 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_exported_run_answers_as_its_checkpoint() {
    let run = trained();
    let folder = tempfile::tempdir().unwrap();
    let output = run.output().display().to_string();
    assert_code(
        &export(folder.path(), &[&output, "--out", "model", "--merge"])
            .output()
            .unwrap(),
        0,
    );
    let model = folder.path().join("model");
    let checkpoint = run.output().join("checkpoints/latest");
    let mut wanted = names(&checkpoint);
    wanted.retain(|name| name != "trainer");
    assert_eq!(names(&model), wanted);
    assert_eq!(logprobs(&model), logprobs(&checkpoint));
    assert!(
        std::fs::read(model.join("model.safetensors")).unwrap()
            == std::fs::read(checkpoint.join("model.safetensors")).unwrap()
    );
    // A dry run says the same files and sizes, and writes nothing.
    let planned = ["--out", "planned", "--merge", "--card", "--dry-run"];
    let planned = export(folder.path(), &[&[&output[..]], &planned[..]].concat())
        .output()
        .unwrap();
    assert_code(&planned, 0);
    assert!(!folder.path().join("planned").exists());
    let planned = String::from_utf8(planned.stdout).unwrap();
    let (mut total, mut listed) = (0, 0);
    for line in planned.lines().skip(1) {
        let (bytes, name) = line.trim().split_once(" bytes  ").unwrap();
        let bytes: u64 = bytes.parse().unwrap();
        if name == "in all" {
            listed = bytes;
            continue;
        }
        total += bytes;
        // The card and its picture are asked for here alone; config.json is written anew.
        let is_same = !["README.md", "config.json"].contains(&name) && !name.contains("svg");
        let written = model.join(name).metadata().ok();
        if let Some(written) = written.filter(|_| is_same) {
            // A file of weights begins with their names.
            let slack = if name == "model.safetensors" {
                1 << 17
            } else {
                0
            };
            assert!(
                written.len().abs_diff(bytes) <= slack,
                "{line}: {}",
                written.len()
            );
        }
        assert!(
            bytes > 0 && (!is_same || model.join(name).exists()),
            "{line}"
        );
    }
    assert!(total > 0 && listed == total, "{planned}");
    for name in names(&model) {
        assert!(planned.contains(&name), "{planned} lacks {name}");
    }
    // A checkpoint and a model folder may be named, too, and the format changed.
    let bf16 = ["--out", "half", "--dtype", "bf16"];
    let arguments = [&[checkpoint.to_str().unwrap()], &bf16[..]].concat();
    assert_code(&export(folder.path(), &arguments).output().unwrap(), 0);
    let config = std::fs::read(folder.path().join("half/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let dtype = config.get("dtype").or_else(|| config.get("torch_dtype"));
    assert_eq!(dtype.unwrap(), "bfloat16");
    let bytes = |name: &str| {
        let file = folder.path().join(name).join("model.safetensors");
        file.metadata().unwrap().len()
    };
    assert!(bytes("half") < bytes("model") * 6 / 10);
    let arguments = ["half", "--out", "again", "--dtype", "f32"];
    assert_code(&export(folder.path(), &arguments).output().unwrap(), 0);
    assert!(logprobs(&folder.path().join("again")).is_object());
    // What is there is not written over.
    let again = export(folder.path(), &["half", "--out", "again"])
        .output()
        .unwrap();
    assert_code(&again, 2);
    assert!(stderr(&again).contains("there is something already"));
    let nothing = export(folder.path(), &["runs/none/checkpoints", "--out", "x"])
        .output()
        .unwrap();
    assert_code(&nothing, 2);
    assert!(stderr(&nothing).contains("there is no such folder"));
}

#[test]
fn a_card_tells_how_the_model_was_made() {
    let run = trained();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = run.output().join("checkpoints/latest");
    let evaluated = crate::program()
        .args(["eval", "run", "--model", checkpoint.to_str().unwrap()])
        .args(["--out", folder.path().join("scores").to_str().unwrap()])
        .args([
            "--set",
            &format!(
                "data.questions={}",
                world().join("world/validation_questions.json").display()
            ),
        ])
        .args([
            "--set",
            &format!("data.video_root={}", world().join("world/videos").display()),
        ])
        .args([
            "--set",
            "model.device=cpu",
            "--set",
            "model.dtype=f32",
            "--set",
            "sampling.max_new_tokens=6",
        ])
        .args([
            "--set",
            "video.max_pixels=12544",
            "--set",
            "video.min_pixels=12544",
            "--set",
            "video.max_frames=8",
            "--set",
            "video.min_frames=4",
        ])
        .output()
        .unwrap();
    assert_code(&evaluated, 0);
    let output = run.output().display().to_string();
    let arguments = [
        &output,
        "--out",
        "model: a \"name\"",
        "--card",
        "--license",
        "mit",
        "--eval",
        "scores",
    ];
    assert_code(&export(folder.path(), &arguments).output().unwrap(), 0);
    let model = folder.path().join("model: a \"name\"");
    let card = std::fs::read_to_string(model.join("README.md")).unwrap();
    for part in [
        "license: \"mit\"",
        "- name: \"model: a \\\"name\\\"\"",
        "type: \"validation_questions.json\"",
        "Repel: raise 0.01",
        "| questions | train\\_questions.json, ",
        "| steps | 3 |",
        "| completions a question | 2 |",
        "| KL direction | repel |",
        "![Rewards over the steps](reward.svg)",
        "| 1–1 |",
        "## Scores",
        "videothinker ask --model",
        "arXiv:2605.01324",
        "| videothinker | 0.1.0",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let here = world().display().to_string();
    assert!(!card.contains(&here) && !card.contains(&output), "{card}");
    let picture = std::fs::read_to_string(model.join("reward.svg")).unwrap();
    assert!(picture.starts_with("<svg"));
    // The scores of another model are not this one's.
    let other = world().join("untrained").display().to_string();
    let refused = export(
        folder.path(),
        &[&other, "--out", "y", "--card", "--eval", "scores"],
    )
    .output()
    .unwrap();
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("it is of other weights"));
}

/// What the hub does with a request whose address has this in it, once.
#[derive(Debug, Clone, Copy)]
enum Mishap {
    Status(u16),
    /// Reads this many bytes of the content, then breaks the connection.
    Cut(usize),
    /// Redirects with this status to another address of this server.
    Moved(u16),
    /// Redirects to the storage server.
    ToStorage,
    /// Says nothing for as long as the test lasts.
    Silence,
}

#[derive(Debug, Default)]
struct State {
    mishaps: VecDeque<(&'static str, Mishap)>,
    /// Method and path of each request, and whether the right token came with it.
    asked: Vec<(String, bool)>,
    exists: bool,
    private: Option<bool>,
    /// Large files by their hash, and parts that have come: number → content.
    objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<String, BTreeMap<u64, Vec<u8>>>,
    verified: Vec<String>,
    /// Files of the last commit.
    committed: BTreeMap<String, Vec<u8>>,
}

/// A hub, and a storage server that large files are sent to; files above the limit go in parts.
struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

/// Bytes of a part, and of the largest file that is sent whole.
const PART: usize = 700_000;

impl Hub {
    fn start(mishaps: &[(&'static str, Mishap)]) -> Self {
        let state = Arc::new(Mutex::new(State {
            mishaps: mishaps.iter().copied().collect(),
            ..State::default()
        }));
        let storage = listen(Arc::clone(&state), String::new());
        let address = listen(Arc::clone(&state), storage);
        Self { address, state }
    }

    fn push(&self, folder: &Path, arguments: &[&str]) -> Output {
        export(folder, arguments)
            .env("HF_ENDPOINT", &self.address)
            .env("HF_TOKEN", TOKEN)
            .output()
            .unwrap()
    }

    /// Requests since the last call, those for content as `PUT`.
    fn asked(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

/// Serves the hub, or with an empty `storage` the storage server.
fn listen(state: Arc<Mutex<State>>, storage: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let own = address.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, storage, own) = (Arc::clone(&state), storage.clone(), own.clone());
            // A client may go away at any time.
            std::thread::spawn(move || answer(stream, &state, &storage, &own));
        }
    });
    address
}

struct Request {
    method: String,
    path: String,
    has_token: bool,
    body: Vec<u8>,
}

fn answer(
    stream: TcpStream,
    state: &Mutex<State>,
    storage: &str,
    own: &str,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        has_token: false,
        body: Vec::new(),
    };
    let mut length = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = Some(value.trim().parse::<usize>().unwrap());
        }
        request.has_token |= line.trim().ends_with(&format!("Bearer {TOKEN}"));
    }
    let mishap = {
        let mut state = state.lock().unwrap();
        let place = format!("{} {}", request.method, request.path);
        state.asked.push((place.clone(), request.has_token));
        let found = state
            .mishaps
            .iter()
            .position(|(part, _)| place.contains(part));
        found.and_then(|index| state.mishaps.remove(index))
    };
    // Storage servers refuse content whose length is not said.
    request.body = vec![0; length.unwrap_or(0)];
    if let Some((_, Mishap::Cut(bytes))) = mishap {
        let bytes = bytes.min(request.body.len());
        return reader.read_exact(&mut request.body[..bytes]);
    }
    if matches!(mishap, Some((_, Mishap::Silence))) {
        std::thread::sleep(std::time::Duration::from_mins(10));
    }
    reader.read_exact(&mut request.body)?;
    let asked = request.path.clone();
    if let Some(path) = asked.strip_prefix("/moved") {
        path.clone_into(&mut request.path);
    }
    let moved = |status, before: &str| {
        let location = format!("Location: {before}{asked}\r\n");
        (status, location, String::new())
    };
    let (status, headers, body) = match mishap {
        Some((_, Mishap::Moved(status))) => moved(status, "/moved"),
        Some((_, Mishap::ToStorage)) => moved(307, storage),
        Some((_, Mishap::Status(status))) => {
            let said = json!({"error": format!("\u{1b}[31mno, Bearer {TOKEN}")});
            (status, String::new(), said.to_string())
        }
        _ if storage.is_empty() => stored(&request, length, &mut state.lock().unwrap()),
        _ if !request.has_token => (401, String::new(), String::new()),
        _ => {
            let mut state = state.lock().unwrap();
            let (status, body) = answer_of_hub(&request, &mut state, storage, own);
            (status, String::new(), body.to_string())
        }
    };
    let mut stream = reader.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status} So\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", sha2::Sha256::digest(bytes))
}

/// The storage server: `PUT /whole/OID`, `PUT /part/OID/N`, `POST /complete/OID`, each with a signature.
fn stored(request: &Request, length: Option<usize>, state: &mut State) -> (u16, String, String) {
    let none = String::new;
    let Some(path) = request.path.strip_suffix("?signature=1") else {
        return (403, none(), none());
    };
    if length.is_none() || request.has_token {
        return (400, none(), none());
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("PUT", ["whole", oid]) if sha256(&request.body) == *oid => {
            state
                .objects
                .insert((*oid).to_owned(), request.body.clone());
            (200, none(), none())
        }
        ("PUT", ["part", oid, number]) => {
            let held = state.parts.entry((*oid).to_owned()).or_default();
            held.insert(number.parse().unwrap(), request.body.clone());
            let etag = format!("ETag: \"{}\"\r\n", sha256(&request.body));
            (200, etag, none())
        }
        ("POST", ["complete", oid]) => {
            let done: Value = serde_json::from_slice(&request.body).unwrap();
            let held = &state.parts[*oid];
            assert_eq!(done["oid"], *oid);
            for (named, (number, content)) in done["parts"].as_array().unwrap().iter().zip(held) {
                assert_eq!(named["partNumber"], *number);
                assert_eq!(named["etag"], format!("\"{}\"", sha256(content)));
            }
            let whole = held.values().flatten().copied().collect::<Vec<u8>>();
            if sha256(&whole) != *oid {
                return (400, none(), none());
            }
            state.objects.insert((*oid).to_owned(), whole);
            (200, none(), none())
        }
        _ => (400, none(), none()),
    }
}

fn answer_of_hub(request: &Request, state: &mut State, storage: &str, own: &str) -> (u16, Value) {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let place = format!("{} {}", request.method, request.path);
    match place.as_str() {
        "POST /api/repos/create" => {
            assert_eq!(body["name"], "model");
            if body["organization"] != "me" {
                return (403, json!({"error": "not yours"}));
            }
            if state.exists {
                return (409, json!({"error": "You already created this model repo"}));
            }
            state.exists = true;
            state.private = body["private"].as_bool();
            (200, json!({"url": "…"}))
        }
        "POST /api/models/me/model/preupload/main" => {
            let mode = |file: &Value| {
                let path = file["path"].as_str().unwrap();
                assert!(file["sample"].as_str().unwrap().len() <= 684);
                let mode = if path.ends_with(".safetensors") || path == "tokenizer.json" {
                    "lfs"
                } else {
                    "regular"
                };
                json!({"path": path, "uploadMode": mode, "shouldIgnore": false})
            };
            let files: Vec<Value> = body["files"].as_array().unwrap().iter().map(mode).collect();
            (200, json!({"files": files}))
        }
        "POST /me/model.git/info/lfs/objects/batch" => {
            assert_eq!(body["operation"], "upload");
            let object = |object: &Value| {
                let (oid, size) = (
                    object["oid"].as_str().unwrap(),
                    object["size"].as_u64().unwrap(),
                );
                if state.objects.contains_key(oid) {
                    // Servers say either.
                    return if size as usize <= PART {
                        json!({"oid": oid, "size": size, "actions": {}})
                    } else {
                        json!({"oid": oid, "size": size})
                    };
                }
                let upload = if size as usize <= PART {
                    json!({"href": format!("{storage}/whole/{oid}?signature=1")})
                } else {
                    let mut header = json!({"chunk_size": PART.to_string()});
                    for number in 1..=(size as usize).div_ceil(PART) {
                        header[format!("{number:05}")] =
                            format!("{storage}/part/{oid}/{number}?signature=1").into();
                    }
                    json!({"href": format!("{storage}/complete/{oid}?signature=1"), "header": header})
                };
                let verify = json!({"href": format!("{own}/me/model.git/info/lfs/verify")});
                json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
            };
            let objects: Vec<Value> = body["objects"]
                .as_array()
                .unwrap()
                .iter()
                .map(object)
                .collect();
            (200, json!({"transfer": "multipart", "objects": objects}))
        }
        "POST /me/model.git/info/lfs/verify" => {
            let oid = body["oid"].as_str().unwrap();
            let size = state.objects.get(oid).map(Vec::len);
            if size.map(|size| size as u64) != body["size"].as_u64() {
                return (404, json!({}));
            }
            state.verified.push(oid.to_owned());
            (200, json!({}))
        }
        "POST /api/models/me/model/commit/main" => commit(&request.body, state),
        _ => (404, json!({"error": "Repository not found"})),
    }
}

fn commit(body: &[u8], state: &mut State) -> (u16, Value) {
    let text = std::str::from_utf8(body).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["key"], "header");
    assert!(
        lines[0]["value"]["summary"]
            .as_str()
            .unwrap()
            .contains("videothinker")
    );
    state.committed.clear();
    for line in &lines[1..] {
        let value = &line["value"];
        let path = value["path"].as_str().unwrap().to_owned();
        let content = match line["key"].as_str().unwrap() {
            "file" => {
                assert_eq!(value["encoding"], "base64");
                decoded(value["content"].as_str().unwrap())
            }
            "lfsFile" => {
                assert_eq!(value["algo"], "sha256");
                match state.objects.get(value["oid"].as_str().unwrap()) {
                    Some(content) => content.clone(),
                    None => return (400, json!({"error": "no such object"})),
                }
            }
            other => panic!("{other}"),
        };
        state.committed.insert(path, content);
    }
    (
        200,
        json!({"success": true, "commitUrl": "https://hub/me/model/commit/abc", "commitOid": "abc"}),
    )
}

fn decoded(text: &str) -> Vec<u8> {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let value = |byte: &u8| letters.find(char::from(*byte)).unwrap_or(0) as u32;
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | value(byte));
        let letters = four.iter().take_while(|byte| **byte != b'=').count();
        bytes.extend(&bits.to_be_bytes()[1..letters]);
    }
    bytes
}

fn assert_published(hub: &Hub, folder: &Path) {
    let state = hub.state.lock().unwrap();
    let there: Vec<&String> = state.committed.keys().collect();
    assert_eq!(there, names(folder).iter().collect::<Vec<_>>());
    for (name, content) in &state.committed {
        assert!(
            *content == std::fs::read(folder.join(name)).unwrap(),
            "{name}"
        );
    }
}

fn assert_secret(output: &Output, folder: &Path) {
    let text = format!(
        "{}{}",
        stderr(output),
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(!text.contains(TOKEN), "{text}");
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                let found = content
                    .windows(TOKEN.len())
                    .any(|window| window == TOKEN.as_bytes());
                assert!(!found, "{}", path.display());
            }
        }
    }
}

#[test]
fn a_run_is_published_and_what_is_there_is_not_sent_again() {
    let run = trained().output().display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[
        ("preupload", Mishap::Status(503)),
        ("PUT /part", Mishap::Cut(300_000)),
        ("PUT /part", Mishap::Status(500)),
        ("verify", Mishap::Status(429)),
    ]);
    let arguments = [
        &run,
        "--out",
        "model",
        "--card",
        "--push",
        "me/model",
        "--private",
        "--json",
    ];
    let planned = hub.push(folder.path(), &[&arguments[..], &["--dry-run"]].concat());
    assert_code(&planned, 0);
    assert!(hub.asked().is_empty() && !folder.path().join("model").exists());
    let output = hub.push(folder.path(), &arguments);
    assert_code(&output, 0);
    let model = folder.path().join("model");
    assert_published(&hub, &model);
    assert_secret(&output, folder.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["page"], "https://hub/me/model/commit/abc");
    let bytes = |name: &str| model.join(name).metadata().unwrap().len();
    let sent = bytes("model.safetensors") + bytes("tokenizer.json");
    assert_eq!(report["sent"], sent);
    {
        let state = hub.state.lock().unwrap();
        assert_eq!((state.private, state.verified.len()), (Some(true), 2));
        assert!(
            state.parts.values().all(|parts| parts.len() > 2),
            "the weights come in parts"
        );
    }
    for (request, has_token) in hub.asked() {
        let to_storage = ["/whole/", "/part/", "/complete/"]
            .iter()
            .any(|part| request.contains(part));
        assert_ne!(has_token, to_storage, "{request}");
    }
    // The folder alone, again: the hub has its large files.
    let again = hub.push(folder.path(), &["model", "--push", "me/model"]);
    assert_code(&again, 0);
    assert_published(&hub, &model);
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(
        text.contains("(0 bytes sent, 2 large files were there before)"),
        "{text}"
    );
    assert!(
        !hub.asked()
            .iter()
            .any(|(request, _)| request.starts_with("PUT"))
    );
}

#[test]
fn a_broken_upload_goes_on_with_what_is_missing() {
    let run = trained().output().display().to_string();
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&[("commit", Mishap::Status(413))]);
    let output = hub.push(
        folder.path(),
        &[&run, "--out", "my model", "--push", "me/model"],
    );
    assert_code(&output, 1);
    let text = stderr(&output);
    assert!(
        text.contains("my model is written, and not uploaded") && text.contains("too large"),
        "{text}"
    );
    assert!(
        text.contains("`videothinker export 'my model' --push me/model`"),
        "{text}"
    );
    // A server's words give a terminal no orders.
    assert!(
        !text.contains('\u{1b}') && text.contains("\\u{1b}[31mno"),
        "{text}"
    );
    assert_secret(&output, folder.path());
    hub.asked();
    let again = hub.push(folder.path(), &["my model", "--push", "me/model"]);
    assert_code(&again, 0);
    assert_published(&hub, &folder.path().join("my model"));
    assert!(
        !hub.asked()
            .iter()
            .any(|(request, _)| request.starts_with("PUT"))
    );
}

#[test]
fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let model = world().join("untrained").display().to_string();
    for (place, status, wanted) in [
        ("create", 401, "does not accept the token"),
        ("create", 404, "check OWNER/NAME"),
        ("preupload", 403, "may not write there"),
        ("batch", 413, "too large"),
        ("commit", 409, "changed meanwhile"),
    ] {
        let hub = Hub::start(&[(place, Mishap::Status(status))]);
        let output = hub.push(folder.path(), &[&model, "--push", "me/model"]);
        assert_code(&output, 1);
        let text = stderr(&output);
        assert!(
            text.contains(wanted) && text.contains(&status.to_string()),
            "{place}: {text}"
        );
        assert_secret(&output, folder.path());
    }
    let hub = Hub::start(&[]);
    let output = hub.push(folder.path(), &[&model, "--push", "other/model"]);
    assert_code(&output, 1);
    assert!(
        stderr(&output).contains("other/model cannot be created"),
        "{}",
        stderr(&output)
    );
    let without = export(folder.path(), &[&model, "--push", "me/model"])
        .output()
        .unwrap();
    assert_code(&without, 2);
    assert!(
        stderr(&without).contains("there is no token"),
        "{}",
        stderr(&without)
    );
    // A checkpoint's training state is not for others.
    let checkpoint = trained().output().join("checkpoints/latest");
    let output = hub.push(
        folder.path(),
        &[checkpoint.to_str().unwrap(), "--push", "me/model"],
    );
    assert_code(&output, 2);
    assert!(
        stderr(&output).contains("give --out"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn redirects_are_followed_with_what_is_sent_and_without_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let model = world().join("untrained");
    let arguments = [model.to_str().unwrap(), "--push", "me/model"];
    let hub = Hub::start(&[
        ("preupload", Mishap::Moved(307)),
        ("batch", Mishap::Moved(308)),
        ("PUT /part", Mishap::Moved(307)),
        ("commit", Mishap::Moved(307)),
    ]);
    // As it is pasted.
    let output = export(folder.path(), &arguments)
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_TOKEN", format!(" '{TOKEN}'\n"))
        .output()
        .unwrap();
    assert_code(&output, 0);
    assert_published(&hub, &model);
    let asked = hub.asked();
    let moved = asked.iter().filter(|(place, _)| place.contains(" /moved"));
    assert_eq!(moved.count(), 4, "{asked:?}");

    let hub = Hub::start(&[("preupload", Mishap::ToStorage)]);
    let output = hub.push(folder.path(), &arguments);
    assert_code(&output, 1);
    let asked = hub.asked();
    let prepared: Vec<bool> = asked
        .iter()
        .filter(|(place, _)| place.contains("preupload"))
        .map(|(_, has_token)| *has_token)
        .collect();
    assert_eq!(prepared, [true, false], "{asked:?}");

    let broken = export(folder.path(), &arguments)
        .env("HF_TOKEN", "hf secret")
        .output()
        .unwrap();
    assert_code(&broken, 2);
    assert!(
        stderr(&broken).contains("characters that no token has"),
        "{}",
        stderr(&broken)
    );
}

#[cfg(unix)]
#[test]
fn a_signal_ends_an_upload_to_a_silent_server() {
    let folder = tempfile::tempdir().unwrap();
    let model = world().join("untrained").display().to_string();
    let hub = Hub::start(&[("PUT /part", Mishap::Silence)]);
    let child = export(folder.path(), &[&model, "--push", "me/model"])
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_TOKEN", TOKEN)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    let is_sending = || {
        let state = hub.state.lock().unwrap();
        state
            .asked
            .iter()
            .any(|(place, _)| place.starts_with("PUT /part"))
    };
    while !is_sending() {
        assert!(started.elapsed() < std::time::Duration::from_mins(1));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let asked = std::time::Instant::now();
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_code(&output, 3);
    assert!(asked.elapsed() < std::time::Duration::from_secs(10));
}

#[cfg(unix)]
#[test]
fn one_export_at_a_time_writes_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let model = world().join("untrained").display().to_string();
    let lock = folder.path().join(".exporting-model");
    std::fs::write(&lock, "process 12\n").unwrap();
    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let run = || {
        export(folder.path(), &[&model, "--out", "model"])
            .output()
            .unwrap()
    };
    let output = run();
    assert_code(&output, 1);
    assert!(
        stderr(&output).contains("it is being written by process 12: wait for it"),
        "{}",
        stderr(&output)
    );
    assert!(!folder.path().join("model").exists());
    // That process is killed; what it wrote is removed, and what is somebody else's stays.
    drop(held);
    let left = folder.path().join(".writing-model-12-0");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("model.safetensors"), "half").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
    let opened = std::fs::File::open(&left).unwrap();
    opened.set_modified(long_ago).unwrap();
    drop(opened);
    std::fs::write(folder.path().join(".writing-notes"), "mine").unwrap();
    assert_code(&run(), 0);
    assert_eq!(names(folder.path()), [".writing-notes", "model"]);
    for nameless in [".", "model/..", "../."] {
        let output = export(folder.path(), &[&model, "--out", nameless])
            .output()
            .unwrap();
        assert_code(&output, 2);
    }
    let here = tempfile::tempdir().unwrap();
    let output = export(here.path(), &[&model, "--out", "."])
        .output()
        .unwrap();
    assert_code(&output, 2);
    assert!(
        stderr(&output).contains("--out .: name a new folder"),
        "{}",
        stderr(&output)
    );
}

#[cfg(unix)]
#[test]
fn what_is_of_the_machine_does_not_leave_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("base");
    std::fs::create_dir(&model).unwrap();
    for name in names(&world().join("untrained")) {
        std::fs::copy(world().join("untrained").join(&name), model.join(&name)).unwrap();
    }
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["_name_or_path"] = "/home/somebody/base".into();
    config["use_auth_token"] = "hf_of_somebody".into();
    std::fs::write(&path, config.to_string()).unwrap();
    let hub = Hub::start(&[]);
    let output = hub.push(folder.path(), &["base", "--push", "me/model"]);
    assert_code(&output, 2);
    let text = stderr(&output);
    assert!(
        text.contains("_name_or_path, use_auth_token") && text.contains("give --out DIR"),
        "{text}"
    );
    assert!(hub.asked().is_empty());
    let output = hub.push(
        folder.path(),
        &["base", "--out", "model", "--push", "me/model"],
    );
    assert_code(&output, 0);
    for (name, content) in &hub.state.lock().unwrap().committed {
        let text = String::from_utf8_lossy(content);
        assert!(!text.contains("somebody"), "{name}");
    }
    // A link leads to what is elsewhere.
    let outside = world().join("world/train_questions.json");
    let link = folder.path().join("model/notes.json");
    std::os::unix::fs::symlink(outside, &link).unwrap();
    hub.asked();
    let output = hub.push(folder.path(), &["model", "--push", "me/model"]);
    assert_code(&output, 1);
    assert!(
        stderr(&output).contains("notes.json: a link to something outside the folder"),
        "{}",
        stderr(&output)
    );
    assert!(hub.asked().is_empty());
}
