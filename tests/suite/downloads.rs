//! `data download` of every dataset from a server that holds it in the layout in which it is published, and then the
//! benchmark's own config: each question's clip has to be found. Questions and clips are invented. The server can also
//! break connections, refuse, and wait.

use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(repository("tests/golden").join(name)).unwrap()
}

fn clip() -> Vec<u8> {
    golden("video/clips/h264.mp4")
}

/// A zip archive of files that are stored as they are.
fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let start = archive.len() as u32;
        // Version 2.0, no flags, stored, no time; then hash and sizes.
        let mut head = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0x50];
        head.extend(crc32(content).to_le_bytes());
        head.extend((content.len() as u32).to_le_bytes());
        head.extend((content.len() as u32).to_le_bytes());
        head.extend((name.len() as u16).to_le_bytes());
        head.extend([0, 0]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&head);
        archive.extend(name.as_bytes());
        archive.extend(content);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&head);
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = archive.len() as u32;
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend((files.len() as u16).to_le_bytes());
    archive.extend((files.len() as u16).to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// What a server holds: a path behind its address, and what is there.
type Files = BTreeMap<String, Vec<u8>>;

/// A dataset on the hub: `owner/name` and its files. Those of archives and clips are stored as large files, with hashes.
fn hub(name: &str, files: Vec<(String, Vec<u8>)>) -> Files {
    let entry = |(path, content): &(String, Vec<u8>)| {
        let mut entry = json!({"type": "file", "oid": "0123", "size": content.len(), "path": path});
        let kind = Path::new(path).extension().unwrap_or_default();
        if kind != "json" {
            entry["lfs"] =
                json!({"oid": sha256(content), "size": content.len(), "pointerSize": 130});
        }
        entry
    };
    let folder = json!({"type": "directory", "oid": "01", "size": 0, "path": "videos"});
    let entries: Vec<Value> = [folder]
        .into_iter()
        .chain(files.iter().map(entry))
        .collect();
    let list = Value::from(entries).to_string().into_bytes();
    let tree = format!("/api/datasets/{name}/tree/main");
    let held = files.into_iter();
    held.map(|(path, content)| (format!("/datasets/{name}/resolve/main/{path}"), content))
        .chain([(tree, list)])
        .collect()
}

fn sha256(content: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(content))
}

/// What the server does with a request for a file, in their order; then all goes well.
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
    files: Files,
    mishaps: VecDeque<Mishap>,
    /// Files that were asked for: path, first byte, whether a token came with it.
    asked: Vec<(String, usize, bool)>,
    /// The server that archives are redirected to.
    elsewhere: Option<String>,
    /// Lists lead to themselves.
    endless: bool,
    /// Nothing is said of lists for as long as the test lasts.
    silent: bool,
}

struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(files: Files) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            files,
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

    fn mishaps(&self, mishaps: &[Mishap]) {
        self.state.lock().unwrap().mishaps = mishaps.iter().copied().collect();
    }

    /// The files that were asked for since the last call.
    fn asked(&self) -> Vec<(String, usize, bool)> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// `data download` with these arguments in `folder`.
    fn command(&self, folder: &Path, arguments: &[&str]) -> std::process::Command {
        let mut command = crate::program();
        command
            .current_dir(folder)
            .args(["data", "download"])
            .args(arguments)
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HOME", folder.join("hub"))
            .env("CLEVRER_URL", format!("{}/clevrer", self.address))
            .env("TEMPCOMPASS_URL", format!("{}/tempcompass", self.address))
            .env("PROTOCOLS_URL", &self.address)
            .env_remove("HF_TOKEN")
            .env_remove("HF_HUB_OFFLINE");
        command
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Output {
        self.command(folder, arguments).output().unwrap()
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut first = String::new();
    lines.read_line(&mut first)?;
    let (mut start, mut has_token, mut host) = (0, false, String::new());
    let mut line = String::from("…");
    while !line.trim().is_empty() {
        line.clear();
        lines.read_line(&mut line)?;
        let lower = line.to_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            start = range.split('-').next().unwrap().parse().unwrap();
        }
        if let Some(value) = lower.strip_prefix("host: ") {
            value.trim().clone_into(&mut host);
        }
        has_token |= lower.starts_with("authorization: bearer ");
    }
    let mut words = first.split(' ');
    let is_head = words.next() == Some("HEAD");
    let path = words.next().unwrap_or_default();
    let is_next_page = path.ends_with("&cursor=2");
    let path = path
        .split('?')
        .next()
        .unwrap_or_default()
        .replace("%20", " ");
    let (content, mishap) = {
        let mut state = state.lock().unwrap();
        let content = state.files.get(&path).cloned();
        let is_file = !path.starts_with("/api/") && !is_head;
        let mut mishap = Mishap::Nothing;
        if is_file {
            state.asked.push((path.clone(), start, has_token));
            mishap = state.mishaps.pop_front().unwrap_or(Mishap::Nothing);
        }
        (content, mishap)
    };
    // A hub's list comes in two pages.
    let (mut content, mut link) = (content, String::new());
    if path.starts_with("/api/datasets/")
        && let Some(list) = &mut content
    {
        let mut entries: Vec<Value> = serde_json::from_slice(list).unwrap();
        let rest = entries.split_off(2);
        link = format!("Link: <http://{host}{path}?recursive=true&cursor=2>; rel=\"next\"\r\n");
        if is_next_page {
            (entries, link) = (rest, String::new());
        }
        *list = Value::from(entries).to_string().into_bytes();
    }
    let (elsewhere, endless, silent) = {
        let state = state.lock().unwrap();
        (state.elsewhere.clone(), state.endless, state.silent)
    };
    if endless && !link.is_empty() {
        link = format!("Link: <{path}?recursive=true>; rel=\"next\"\r\n");
    }
    if silent && path.starts_with("/api/") {
        std::thread::sleep(Duration::from_mins(10));
    }
    let mut stream = lines.into_inner();
    if let Some(elsewhere) =
        elsewhere.filter(|_| Path::new(&path).extension() == Some("zip".as_ref()))
    {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {elsewhere}{path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let status = match (&content, mishap) {
        (None, _) => 404,
        (_, Mishap::Status(status)) => status,
        (Some(content), _) if start > 0 && start >= content.len() => 416,
        _ if start > 0 => 206,
        _ => 200,
    };
    let content = content.filter(|_| status < 300).unwrap_or_default();
    let (length, part) = (content.len(), &content[start.min(content.len())..]);
    write!(
        stream,
        "HTTP/1.1 {status} So\r\nContent-Length: {}\r\n{link}Connection: close\r\n",
        part.len()
    )?;
    if status == 206 {
        write!(
            stream,
            "Content-Range: bytes {start}-{}/{length}\r\n",
            length - 1
        )?;
    }
    stream.write_all(b"\r\n")?;
    match mishap {
        _ if is_head => {}
        Mishap::Cut(bytes) => stream.write_all(&part[..bytes.min(part.len())])?,
        Mishap::Hang(bytes) => {
            stream.write_all(&part[..bytes.min(part.len())])?;
            std::thread::sleep(Duration::from_mins(10));
        }
        Mishap::Nothing | Mishap::Status(_) => stream.write_all(part)?,
    }
    Ok(())
}

/// A folder with the configs of the repository, and nothing else.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["configs/clevrer", "configs/eval"] {
        let to = folder.path().join(part);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(repository(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    folder
}

/// Downloads a dataset from a server of these files, and once more, when nothing is left to do.
fn download(folder: &Path, name: &str, files: Files) {
    let server = Server::start(files);
    let output = server.run(folder, &[name, "--i-agree"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    assert!(!server.asked().is_empty());
    drop(std::mem::take(&mut server.state.lock().unwrap().files));
    let again = server.run(folder, &[name, "--i-agree"]);
    let errors = String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && server.asked().is_empty(),
        "{name}: {errors}"
    );
    assert!(errors.contains("everything is there"), "{errors}");
    let left = walk(&folder.join("data").join(name));
    let is_double = |path: &&String| {
        let kind = Path::new(path).extension().unwrap_or_default();
        kind == "zip" || kind == "part"
    };
    let doubles = left.iter().filter(is_double);
    assert_eq!(doubles.count(), 0, "{left:?}");
}

/// The files below a folder.
fn walk(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path.to_str().unwrap().to_owned());
        }
    }
    files
}

fn videothinker(folder: &Path, arguments: &[&str]) -> (Value, String) {
    let output = crate::videothinker(folder, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    let json = serde_json::from_slice(&output.stdout);
    (json.unwrap_or_default(), errors)
}

/// Every clip of the benchmark decodes, from the folder in which the scripts were run and by its own config.
fn check(folder: &Path, config: &str, more: &[&str], questions: usize, clips: usize) {
    let model = repository("data/mini");
    let config = format!("configs/{config}.toml");
    let arguments = ["data", "check", "--json", "--config", &config, "--model"];
    let arguments = [&arguments[..], &[model.to_str().unwrap()], more].concat();
    let (report, errors) = videothinker(folder, &arguments);
    assert_eq!(report["findings"], json!([]), "{config}");
    assert_eq!(
        (&report["questions"], &report["clips"]),
        (&json!(questions), &json!(clips)),
        "{config}"
    );
    assert!(!errors.contains("WARN"), "{config}: {errors}");
    if config.contains("eval/") {
        let arguments = ["eval", "run", "--dry-run", "--json", "--config", &config];
        let (shown, errors) = videothinker(folder, &[&arguments[..], more].concat());
        assert_eq!(shown["questions"], questions, "{config}: {shown}");
        assert!(!errors.contains("WARN"), "{config}: {errors}");
    }
}

fn named(name: impl Into<String>, content: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.into(), content.into())
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[test]
fn mmvu() {
    let item = |index: usize, subject: &str| {
        json!({"id": format!("validation_{index}"), "video": format!("https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/{subject}/{index}.mp4"),
            "youtube_url": "u", "question_type": "multiple-choice", "metadata": {"subject": subject, "textbook": "t", "knowledge": ["k"], "rationale": "r"},
            "question": "Which tool is used?", "choices": {"A": "a", "B": "b", "C": "c", "D": "d", "E": "e"}, "answer": "D"})
    };
    let items = json!([item(0, "Art"), item(1, "Modern_Physics")]);
    let folder = workplace();
    let files = vec![
        named("README.md", "…"),
        named("validation.json", text(&items)),
        named("videos/Art/0.mp4", clip()),
        named("videos/Modern_Physics/1.mp4", clip()),
    ];
    download(folder.path(), "mmvu", hub("yale-nlp/MMVU", files));
    check(folder.path(), "eval/mmvu", &[], 2, 2);
}

#[test]
fn video_holmes() {
    let item = |film: &str| {
        json!({"video ID": film, "Question ID": "1", "Question Type": "SR", "Question": "Who are they?",
            "Options": {"A": "a", "B": "b", "C": "c", "D": "d", "E": "e", "F": "f"}, "Answer": "E", "Explanation": "…"})
    };
    for films in ["videos", "videos_cropped"] {
        let folder = workplace();
        let archive = zip(&[
            named(format!("{films}/a-1.mp4"), clip()),
            named(format!("{films}/b_2.mp4"), clip()),
        ]);
        let files = vec![
            named(
                "test_Video-Holmes.json",
                text(&json!([item("a-1"), item("b_2")])),
            ),
            named("train_Video-Holmes.json", text(&json!([item("a-1")]))),
            named("videos.zip", archive),
        ];
        let files = hub("TencentARC/Video-Holmes", files);
        download(folder.path(), "video_holmes", files);
        check(folder.path(), "eval/video_holmes", &[], 2, 2);
    }
}

#[test]
fn tempcompass() {
    let questions = json!({"12": {"direction": [{"question": "Where?\nA. left\nB. right", "answer": "B. right"}]}});
    let yes_no = json!({"12": {"speed": [{"question": "Is it fast?", "answer": "yes"}]}});
    let matching = json!({"7": {"order": [
        {"question": "Which caption fits?\nCaption A: first red\nCaption B: first blue", "answer": "Caption A: first red"}]}});
    let captioning = json!({"12": {"direction": [{"question": "Say what is right.\nInformation A: {'subject': 'ball', 'direction': 'left'}\nInformation B: {'subject': 'ball', 'direction': 'right'}\nGenerated Caption:",
        "answer": "B. right"}]}});
    let archive = zip(&[
        named("videos/12.mp4", clip()),
        named("videos/7.mp4", clip()),
    ]);
    let mut files = hub(
        "lmms-lab/TempCompass",
        vec![named("tempcompass_videos.zip", archive)],
    );
    for (task, content) in [
        ("multi-choice", &questions),
        ("yes_no", &yes_no),
        ("caption_matching", &matching),
        ("captioning", &captioning),
    ] {
        files.insert(format!("/tempcompass/questions/{task}.json"), text(content));
    }
    files.insert("/tempcompass/meta_info.json".into(), b"{}".to_vec());
    let folder = workplace();
    download(folder.path(), "tempcompass", files);
    check(folder.path(), "eval/tempcompass", &[], 3, 2);
    check(folder.path(), "eval/tempcompass_captioning", &[], 1, 1);
    check(folder.path(), "eval/tempcompass_flat", &[], 4, 2);
}

/// The words of the protocols are found in the files as they are downloaded.
#[test]
fn protocols() {
    let notebook = json!({"cells": [{"cell_type": "code", "source": ["ask(system=\"Look.\", question_prompt=\"Well?\")\n"]}]});
    let files = [
        (
            "falonss703/VideoThinker/main/src/eval/eval_bench.py",
            "QUESTION_TEMPLATE = \"{Question} Well?\"\nTYPE_TEMPLATE = {\"multiple choice\": \"a\", \"numerical\": \"b\", \"free-form\": \"c\"}\n",
        ),
        (
            "OpenGVLab/Ask-Anything/main/video_chat2/mvbench.ipynb",
            &notebook.to_string(),
        ),
        (
            "llyx97/TempCompass/main/run_qwen2_vl.py",
            "answer_prompt = {\"multi-choice\": \"a\", \"yes_no\": \"b\", \"caption_matching\": \"c\", \"captioning\": \"\"}\n",
        ),
        (
            "TencentARC/Video-Holmes/main/evaluate.py",
            "question_prompt = f\"{question} {options}\"\n",
        ),
        (
            "yale-nlp/MMVU/main/utils/constant.py",
            "MULTI_CHOICE_COT_PROMPT = Template(\"\"\"$question $optionized_str\"\"\")\nOPEN_ENDED_COT_PROMPT = Template(\"\"\"$question\"\"\")\n",
        ),
        (
            "MME-Benchmarks/Video-MME/main/README.md",
            "```\nIt is said:\n[Subtitles]\nPick.\n[Question]\nIt is:\n```\n",
        ),
    ];
    let files = files.map(|(path, content)| named(format!("/{path}"), content));
    let folder = workplace();
    download(folder.path(), "protocols", files.into());
    std::fs::write(
        folder.path().join("q.json"),
        json!([{"problem": "Which?", "options": ["A. a", "B. b"], "solution": "<answer>A</answer>", "video": "a/b.mp4"}]).to_string(),
    )
    .unwrap();
    for name in [
        "authors",
        "mvbench",
        "tempcompass",
        "video_holmes",
        "mmvu",
        "videomme",
    ] {
        let (protocol, benchmark) = match name {
            "authors" => ("authors", "mmvu"),
            name => ("official", name),
        };
        let settings = [
            format!("eval.protocol={protocol}"),
            format!("eval.benchmark={benchmark}"),
            format!("eval.protocol_from=data/protocols/{name}"),
            "data.questions=q.json".to_owned(),
            "data.on_bad_video=skip".to_owned(),
        ];
        let mut arguments = vec!["eval", "run", "--dry-run", "--json"];
        for setting in &settings {
            arguments.extend(["--set", setting]);
        }
        let (shown, _) = videothinker(folder.path(), &arguments);
        let wording = shown["wording"].as_str().unwrap();
        assert!(wording.ends_with("(its own words)"), "{name}: {wording}");
    }
}

#[test]
fn video_mme() {
    let files = vec![
        named(
            "videomme/test-00000-of-00001.parquet",
            golden("benchmark/videomme.parquet"),
        ),
        named(
            "subtitle.zip",
            zip(&[named(
                "subtitle/clip0.srt",
                "1\n00:00:00,000 --> 00:00:01,000\nHello\n",
            )]),
        ),
        named(
            "videos_chunked_01.zip",
            zip(&[named("data/clip0.mp4", clip())]),
        ),
        named(
            "videos_chunked_02.zip",
            zip(&[
                named("data/clip1.mp4", clip()),
                named("data/clip2.mp4", clip()),
            ]),
        ),
    ];
    let folder = workplace();
    let files = hub("lmms-lab/Video-MME", files);
    download(folder.path(), "videomme", files);
    check(folder.path(), "eval/videomme", &[], 9, 3);
    // The folder that the config names for `eval.subtitles`.
    let config = std::fs::read_to_string(folder.path().join("configs/eval/videomme.toml")).unwrap();
    let (_, subtitles) = config.split_once("eval.subtitles=").unwrap();
    let subtitles = subtitles.split('`').next().unwrap();
    assert!(folder.path().join(subtitles).join("clip0.srt").is_file());
    // A clip that is gone is looked for everywhere, and it is said where.
    std::fs::remove_file(folder.path().join("data/videomme/data/clip1.mp4")).unwrap();
    let output = crate::program()
        .current_dir(folder.path())
        .args(["data", "check", "--config", "configs/eval/videomme.toml"])
        .args(["--model", repository("data/mini").to_str().unwrap()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let places = "1 of 3 clips are not below data/videomme/data (data.video_root); looked for the first at clip1.mp4, \
                  data/clip1.mp4, videos/clip1.mp4";
    assert!(errors.contains(places), "{errors}");
}

/// Sources of MVBench's clips: task, what the official file calls the clip, where the archive has it, whether it has
/// bounds, and what the authors' file calls it.
const MVBENCH: [(&str, &str, &str, bool, &str); 6] = [
    (
        "action_antonym",
        "17.webm",
        "ssv2_video/17.webm",
        false,
        "/MVBench/ssv2_video/17.mp4",
    ),
    (
        "action_sequence",
        "ABCDE.mp4",
        "data0613/star/Charades_v1_480/ABCDE.mp4",
        true,
        "/MVBench/star/Charades_v1_480/ABCDE.mp4",
    ),
    (
        "episodic_reasoning",
        "show_s01e01_clip_1",
        "tvqa/frames_fps3_hq/show_s01e01_clip_1",
        true,
        "/MVBench/tvqa/frames_fps3/show_s01e01_clip_1.mp4",
    ),
    (
        "fine_grained_pose",
        "S001_rgb.avi",
        "nturgbd/S001_rgb.avi",
        false,
        "/MVBench/nturgbd/S001_rgb.mp4",
    ),
    (
        "moving_count",
        "video_10009.mp4",
        "clevrer/video_validation/video_10009.mp4",
        false,
        "/MVBench/clevrer/video_validation/video_10009.mp4",
    ),
    (
        "unexpected_action",
        "test_magic/M_1.mp4",
        "FunQA_test/test/test_magic/M_1.mp4",
        false,
        "/MVBench/FunQA_test/test/test_magic/M_1.mp4",
    ),
];

#[test]
fn mvbench_and_the_authors_file_about_it() {
    let mut archives: BTreeMap<&str, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    let (mut files, mut shared) = (Vec::new(), Vec::new());
    for (index, (task, video, place, bounds, authors)) in MVBENCH.into_iter().enumerate() {
        let held = archives
            .entry(place.split('/').next().unwrap())
            .or_default();
        match Path::new(place).extension().and_then(|name| name.to_str()) {
            Some("webm") => held.push(named(place, golden("video/clips/vp9.webm"))),
            Some("avi") => held.push(named(place, golden("video/clips/mpeg4.avi"))),
            Some(_) => held.push(named(place, clip())),
            None => held.extend((1..=9).map(|image| {
                let image = format!("{image:05}.jpg");
                named(
                    format!("{place}/{image}"),
                    golden(&format!("video/clips/frames/{image}")),
                )
            })),
        }
        let mut official = json!({"video": video, "question": "Which?", "candidates": ["one", "two"], "answer": "two"});
        let mut family = json!({"ori_video": video, "question": "Which?", "options": ["A. one", "B. two"], "answer": "two", "problem": "Which?",
            "data_type": "video", "problem_type": "multiple choice", "original_question_type": "", "solution": "<answer>B</answer>",
            "video": authors, "subtitle": "", "problem_id": index + 1});
        if bounds {
            for record in [&mut official, &mut family] {
                record["start"] = 0.0.into();
                record["end"] = 2.5.into();
            }
        }
        files.push(named(format!("json/{task}.json"), text(&json!([official]))));
        shared.push(family);
    }
    let archives = archives.into_iter();
    files.extend(archives.map(|(name, held)| named(format!("video/{name}.zip"), zip(&held))));
    files.push(named("video/MVBench_videos_ntu.txt", "…"));
    let folder = workplace();
    let files = hub("OpenGVLab/MVBench", files);
    download(folder.path(), "mvbench", files);
    std::fs::write(
        folder.path().join("eval_mvbench.json"),
        text(&shared.into()),
    )
    .unwrap();
    let count = MVBENCH.len();
    let official = "--set=eval.protocol=official";
    let authors = "--set=data.questions=eval_mvbench.json";
    for more in [&[][..], &[official], &[authors], &[authors, official]] {
        check(folder.path(), "eval/mvbench", more, count, count);
    }
}

#[test]
fn clevrer() {
    let folder = workplace();
    let world = [
        "data",
        "mini",
        "--out",
        "world",
        "--train",
        "2",
        "--validation",
        "2",
    ];
    videothinker(folder.path(), &world);
    let world = folder.path().join("world");
    let read = |name: &str| std::fs::read(world.join(name)).unwrap();
    let mut files = Files::new();
    for split in ["train", "validation"] {
        files.insert(
            format!("/clevrer/questions/{split}.json"),
            read(&format!("{split}.json")),
        );
        let (mut annotations, mut clips) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(world.join("annotations").join(split)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let number: usize = name["annotation_".len()..name.len() - ".json".len()]
                .parse()
                .unwrap();
            let from = number / 1000 * 1000;
            let thousand = format!("{from:05}-{:05}", from + 1000);
            annotations.push(named(
                format!("annotation_{thousand}/{name}"),
                read(&format!("annotations/{split}/{name}")),
            ));
            let clip = format!("video_{thousand}/video_{number:05}.mp4");
            clips.push(named(clip.clone(), read(&format!("videos/{clip}"))));
        }
        files.insert(
            format!("/clevrer/annotations/{split}/annotation_{split}.zip"),
            zip(&annotations),
        );
        files.insert(
            format!("/clevrer/videos/{split}/video_{split}.zip"),
            zip(&clips),
        );
    }
    download(folder.path(), "clevrer", files);
    for split in ["train", "validation"] {
        let questions = format!("data/clevrer/questions_{split}.json");
        let annotations = format!("data/clevrer/annotations/{split}");
        let out = format!("data/clevrer/{split}.json");
        let arguments = ["data", "clevrer", "--questions", &questions];
        let more = ["--annotations", &annotations, "--out", &out];
        videothinker(folder.path(), &[arguments, more].concat()[..]);
    }
    let count = |split: &str| {
        let text = std::fs::read(folder.path().join(format!("data/clevrer/{split}.json")));
        let questions: Vec<Value> = serde_json::from_slice(&text.unwrap()).unwrap();
        let clips = questions.iter().map(|question| &question["video"]);
        let clips: std::collections::BTreeSet<String> = clips.map(Value::to_string).collect();
        (questions.len(), clips.len())
    };
    let (questions, clips) = count("validation");
    check(folder.path(), "eval/clevrer", &[], questions, clips);
    let official = "--set=data.questions=data/clevrer/questions_validation.json";
    check(folder.path(), "eval/clevrer", &[official], questions, clips);
    let (questions, clips) = count("train");
    check(folder.path(), "clevrer/cdpo", &[], questions, clips);
}

/// A dataset of two clips that are larger than what is read at a time, and its questions.
fn mmvu_files() -> Vec<(String, Vec<u8>)> {
    let clip =
        |seed: u32| -> Vec<u8> { (0..900_000_u32).map(|at| (at * seed % 251) as u8).collect() };
    vec![
        named("validation.json", "[]"),
        named("videos/Art/0.mp4", clip(7)),
        named("videos/Art/1 b.mp4", clip(11)),
    ]
}

fn clips_are_whole(folder: &Path) {
    for (name, content) in mmvu_files() {
        let found = std::fs::read(folder.join("data/mmvu").join(&name)).unwrap();
        assert!(found == content, "{name}: {} bytes", found.len());
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn broken_connections_and_busy_servers_are_asked_again() {
    let server = Server::start(hub("yale-nlp/MMVU", mmvu_files()));
    server.mishaps(&[
        Mishap::Status(503),
        Mishap::Cut(400_000),
        Mishap::Cut(300_000),
        Mishap::Status(429),
        Mishap::Cut(0),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let output = server.run(folder.path(), &["mmvu", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    clips_are_whole(folder.path());
    let asked = server.asked();
    assert!(
        asked.iter().any(|(_, start, _)| *start >= 300_000),
        "{asked:?}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["files"], 3);
    assert_eq!(report["downloaded"], 3);
    let log = std::fs::read_to_string(folder.path().join("data/mmvu/.download/log.txt")).unwrap();
    assert_eq!(log.lines().count(), 3, "{log}");
    assert!(log.contains("videos/Art/0.mp4: 900 kB in "), "{log}");
}

#[cfg(unix)]
#[test]
fn a_signal_stops_it_and_the_same_command_goes_on() {
    let server = Server::start(hub("yale-nlp/MMVU", mmvu_files()));
    server.mishaps(&[Mishap::Hang(500_000); 3]);
    let folder = tempfile::tempdir().unwrap();
    let mut command = server.command(folder.path(), &["mmvu"]);
    let child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let parts = ["0.mp4.part", "1 b.mp4.part"]
        .map(|name| folder.path().join("data/mmvu/videos/Art").join(name));
    let bytes = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let started = std::time::Instant::now();
    while parts.iter().map(bytes).sum::<u64>() < 900_000 {
        assert!(
            started.elapsed() < Duration::from_mins(1),
            "{:?}",
            parts.each_ref().map(bytes)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    assert!(
        errors(&output).contains("the same command goes on"),
        "{}",
        errors(&output)
    );
    server.asked();
    let output = server.run(folder.path(), &["mmvu"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    clips_are_whole(folder.path());
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .filter(|(_, start, _)| *start > 400_000)
            .count()
            == 2,
        "{asked:?}"
    );
}

#[test]
fn what_is_not_as_published_is_not_kept() {
    let mut files = hub("yale-nlp/MMVU", mmvu_files());
    let path = "/datasets/yale-nlp/MMVU/resolve/main/videos/Art/0.mp4";
    files.get_mut(path).unwrap()[5] ^= 1;
    let server = Server::start(files);
    let folder = tempfile::tempdir().unwrap();
    let output = server.run(folder.path(), &["mmvu"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors(&output).contains("another SHA-256 than is published"),
        "{}",
        errors(&output)
    );
    let left = walk(&folder.path().join("data/mmvu"));
    assert!(!left.iter().any(|path| path.contains("0.mp4")), "{left:?}");
    server.state.lock().unwrap().files.get_mut(path).unwrap()[5] ^= 1;
    // A file that someone else has put there is not replaced.
    let clip = folder.path().join("data/mmvu/videos/Art/0.mp4");
    std::fs::create_dir_all(clip.parent().unwrap()).unwrap();
    std::fs::write(&clip, "mine").unwrap();
    let output = server.run(folder.path(), &["mmvu"]);
    assert!(
        errors(&output).contains("0.mp4: there is a file of 4 bytes, published are 900000"),
        "{}",
        errors(&output)
    );
    assert_eq!(std::fs::read(&clip).unwrap(), b"mine");
    std::fs::remove_file(&clip).unwrap();
    let output = server.run(folder.path(), &["mmvu"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    clips_are_whole(folder.path());
    // The same of one that has the size of what is published.
    std::fs::remove_dir_all(folder.path().join("data/mmvu/.download")).unwrap();
    let mine = vec![1; 900_000];
    std::fs::write(&clip, &mine).unwrap();
    let output = server.run(folder.path(), &["mmvu"]);
    assert!(
        errors(&output).contains("0.mp4: there is a file with another SHA-256 than is published"),
        "{}",
        errors(&output)
    );
    assert!(std::fs::read(&clip).unwrap() == mine);
    std::fs::remove_file(&clip).unwrap();
    let output = server.run(folder.path(), &["mmvu"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    // What is damaged later is found, and fetched again once it is removed.
    let verify = || server.run(folder.path(), &["mmvu", "--verify"]);
    assert_eq!(verify().status.code(), Some(0));
    let mut damaged = std::fs::read(&clip).unwrap();
    damaged[9] ^= 1;
    std::fs::write(&clip, damaged).unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("0.mp4 has another content") && text.contains("1 wrong"),
        "{text}"
    );
    std::fs::remove_file(&clip).unwrap();
    server.asked();
    assert!(server.run(folder.path(), &["mmvu"]).status.success());
    clips_are_whole(folder.path());
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(hub("yale-nlp/MMVU", mmvu_files()));
    let refused = |server: &Server, arguments: &[&str], code: i32| {
        let output = server.run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        errors(&output)
    };
    let text = refused(&server, &["videomme"], 2);
    assert!(
        text.contains("academic research only") && text.contains("--i-agree"),
        "{text}"
    );
    let text = refused(&server, &["imagenet"], 2);
    assert!(
        text.contains("possible values") && text.contains("tempcompass"),
        "{text}"
    );
    let text = refused(&server, &["mmvu", "mvbench", "--out", "x"], 2);
    assert!(text.contains("one dataset"), "{text}");
    let text = refused(&server, &["mvbench"], 1);
    assert!(
        text.contains("HTTP 404") && text.contains("the source has moved"),
        "{text}"
    );
    server.mishaps(&[Mishap::Status(403); 3]);
    let text = refused(&server, &["mmvu"], 1);
    assert!(
        text.contains("give your consent on https://huggingface.co/datasets/yale-nlp/MMVU"),
        "{text}"
    );
    let text = refused(&server, &["clevrer", "--verify"], 2);
    assert!(text.contains("nothing was downloaded there"), "{text}");
    let empty = Server::start(hub("yale-nlp/MMVU", vec![named("validation.json", "[]")]));
    let text = refused(&empty, &["mmvu"], 1);
    assert!(
        text.contains("yale-nlp/MMVU holds no file named videos/*"),
        "{text}"
    );
    let output = server
        .command(folder.path(), &["mmvu"])
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(
        errors(&output).contains("HF_HUB_OFFLINE is set"),
        "{}",
        errors(&output)
    );
    let list = server.run(folder.path(), &["--list"]);
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(
        text.contains("clevrer") && text.contains("CC0") && text.contains("101 GB"),
        "{text}"
    );
}

#[test]
fn only_the_hub_is_shown_the_token() {
    let mut files = hub(
        "lmms-lab/TempCompass",
        vec![named("clips.zip", zip(&[named("videos/1.mp4", "clip")]))],
    );
    for task in ["multi-choice", "yes_no", "caption_matching", "captioning"] {
        files.insert(
            format!("/tempcompass/questions/{task}.json"),
            b"{}".to_vec(),
        );
    }
    files.insert("/tempcompass/meta_info.json".into(), b"{}".to_vec());
    let hub = Server::start(files.clone());
    let elsewhere = Server::start(files);
    hub.state.lock().unwrap().elsewhere = Some(elsewhere.address.clone());
    let folder = tempfile::tempdir().unwrap();
    let output = hub
        .command(folder.path(), &["tempcompass"])
        .env(
            "TEMPCOMPASS_URL",
            format!("{}/tempcompass", elsewhere.address),
        )
        .env("HF_TOKEN", "secret-token")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert!(hub.asked().iter().all(|(_, _, token)| *token));
    let asked = elsewhere.asked();
    assert!(
        asked.len() == 6 && asked.iter().all(|(_, _, token)| !token),
        "{asked:?}"
    );
    for path in walk(folder.path()) {
        let content = std::fs::read(&path).unwrap();
        assert!(
            !String::from_utf8_lossy(&content).contains("secret-token"),
            "{path}"
        );
    }
}

/// CLEVRER as small as can be: which files there are in the archive of its training clips is up to the test.
fn clevrer_files(entries: &[(String, Vec<u8>)]) -> Files {
    let mut files = Files::new();
    for split in ["train", "validation"] {
        files.insert(format!("/clevrer/questions/{split}.json"), b"[]".to_vec());
        let annotation = named(format!("annotation_0/{split}.json"), "{}");
        files.insert(
            format!("/clevrer/annotations/{split}/annotation_{split}.zip"),
            zip(&[annotation]),
        );
        let other = [named("video_1/v.mp4", "another clip")];
        let clips = if split == "train" { entries } else { &other };
        files.insert(
            format!("/clevrer/videos/{split}/video_{split}.zip"),
            zip(clips),
        );
    }
    files
}

#[test]
fn annotations_come_first_and_archives_are_kept_if_asked() {
    let server = Server::start(clevrer_files(&[named("video_0/a.mp4", "clip")]));
    let folder = tempfile::tempdir().unwrap();
    let shown = server.run(folder.path(), &["clevrer", "--dry-run", "--json"]);
    let plan: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(plan["files"].as_array().unwrap().len(), 6, "{plan}");
    assert!(plan["bytes_to_download"].as_u64().unwrap() > 100, "{plan}");
    assert!(server.asked().is_empty() && !folder.path().join("data").exists());
    let text = server.run(
        folder.path(),
        &["clevrer", "--dry-run", "--out", "big/disk"],
    );
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("big/disk/video_train.zip, unpacked into big/disk/videos"),
        "{text}"
    );
    assert!(text.contains("are free"), "{text}");

    let run = |arguments: &[&str]| {
        let output = server.run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        server.asked().len()
    };
    let clevrer = folder.path().join("data/clevrer");
    assert_eq!(run(&["clevrer", "--annotations-only"]), 4);
    assert!(
        clevrer
            .join("annotations/train/annotation_0/train.json")
            .is_file()
    );
    assert!(!clevrer.join("videos").exists() && !clevrer.join("annotation_train.zip").exists());
    assert_eq!(run(&["clevrer", "--annotations-only"]), 0);
    assert_eq!(run(&["clevrer", "--keep-archives"]), 2);
    assert!(
        clevrer.join("videos/video_0/a.mp4").is_file() && clevrer.join("video_train.zip").is_file()
    );
    assert_eq!(run(&["clevrer"]), 0);
}

#[test]
fn an_archive_writes_nothing_outside_its_folder() {
    for (entry, problem) in [
        ("../../../outside.txt", "outside the folder"),
        ("/tmp/outside.txt", "outside the folder"),
        ("videos/../../outside.txt", "outside the folder"),
    ] {
        let entries = [named("video_0/a.mp4", "clip"), named(entry, "x")];
        let server = Server::start(clevrer_files(&entries));
        let folder = tempfile::tempdir().unwrap();
        let output = server.run(folder.path(), &["clevrer"]);
        assert_eq!(output.status.code(), Some(1));
        let text = errors(&output);
        assert!(
            text.contains(problem)
                && text.contains(entry)
                && text.contains("nothing of it is unpacked"),
            "{text}"
        );
        assert!(!folder.path().join("data/clevrer/videos/video_0").exists());
        let left = walk(folder.path());
        assert!(
            !left.iter().any(|path| path.contains("outside")),
            "{left:?}"
        );
    }
}

#[test]
fn unpacking_goes_on_where_it_ended() {
    let good = [
        named("video_0/a.mp4", "clip a"),
        named("video_0/b.mp4", "clip b"),
    ];
    let mut files = clevrer_files(&good);
    let path = "/clevrer/videos/train/video_train.zip";
    let whole = files[path].clone();
    let damaged = files.get_mut(path).unwrap();
    let at = damaged
        .windows(6)
        .position(|window| window == b"clip b")
        .unwrap();
    damaged[at] = b'C';
    let server = Server::start(files);
    let folder = tempfile::tempdir().unwrap();
    let output = server.run(folder.path(), &["clevrer"]);
    assert_eq!(output.status.code(), Some(1));
    let text = errors(&output);
    assert!(
        text.contains("video_train.zip: not a zip archive that can be read")
            && text.contains("b.mp4"),
        "{text}"
    );
    let clevrer = folder.path().join("data/clevrer");
    let first = clevrer.join("videos/video_0/a.mp4");
    let before = first.metadata().unwrap().modified().unwrap();
    assert!(!clevrer.join("videos/video_0/b.mp4").exists());
    std::fs::remove_file(clevrer.join("video_train.zip")).unwrap();
    server
        .state
        .lock()
        .unwrap()
        .files
        .insert(path.to_owned(), whole);
    let output = server.run(folder.path(), &["clevrer"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(
        std::fs::read(clevrer.join("videos/video_0/b.mp4")).unwrap(),
        b"clip b"
    );
    assert_eq!(first.metadata().unwrap().modified().unwrap(), before);
    // A clip that is lost later comes again, with its archive.
    std::fs::remove_file(&first).unwrap();
    server.asked();
    let output = server.run(folder.path(), &["clevrer"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(first.is_file());
    assert!(server.asked().iter().any(|(asked, _, _)| asked == path));
}

#[test]
fn a_folder_is_of_one_dataset() {
    let server = Server::start(hub("yale-nlp/MMVU", mmvu_files()));
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| server.run(folder.path(), arguments);
    assert_eq!(run(&["mmvu", "--out", "x"]).status.code(), Some(0));
    for more in [&[][..], &["--dry-run"], &["--verify"]] {
        let output = run(&[&["clevrer", "--out", "x"], more].concat());
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(
            errors(&output).contains("the folder is that of mmvu: name another one for clevrer"),
            "{}",
            errors(&output)
        );
    }
    let again = run(&["mmvu", "--out", "x"]);
    assert_eq!(again.status.code(), Some(0), "{}", errors(&again));
}

#[test]
fn an_archive_that_was_there_before_stays() {
    let files = clevrer_files(&[named("video_0/a.mp4", "clip")]);
    let content = files["/clevrer/videos/train/video_train.zip"].clone();
    let server = Server::start(files);
    let folder = tempfile::tempdir().unwrap();
    let clevrer = folder.path().join("data/clevrer");
    std::fs::create_dir_all(&clevrer).unwrap();
    std::fs::write(clevrer.join("video_train.zip"), &content).unwrap();
    let output = server.run(folder.path(), &["clevrer"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(clevrer.join("videos/video_0/a.mp4").is_file());
    assert!(std::fs::read(clevrer.join("video_train.zip")).unwrap() == content);
    assert!(!clevrer.join("video_validation.zip").exists());
}

#[test]
fn a_list_without_end_is_not_followed() {
    let server = Server::start(hub("yale-nlp/MMVU", mmvu_files()));
    server.state.lock().unwrap().endless = true;
    let folder = tempfile::tempdir().unwrap();
    let output = server.run(folder.path(), &["mmvu"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors(&output).contains("its list of files does not end"),
        "{}",
        errors(&output)
    );
}

#[cfg(unix)]
#[test]
fn a_signal_does_not_wait_for_a_list() {
    let server = Server::start(hub("yale-nlp/MMVU", mmvu_files()));
    server.state.lock().unwrap().silent = true;
    let folder = tempfile::tempdir().unwrap();
    let child = server
        .command(folder.path(), &["mmvu"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once the record is there, the list is asked for.
    let record = folder.path().join("data/mmvu/.download/files.jsonl");
    let started = std::time::Instant::now();
    while record.metadata().map_or(0, |metadata| metadata.len()) == 0 {
        assert!(started.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(20));
    }
    let asked = std::time::Instant::now();
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    assert!(asked.elapsed() < Duration::from_secs(10));
}
