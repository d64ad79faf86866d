//! `eval judge` through the binary, with a server that plays the judge.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

const KEY: &str = "a-key-that-nobody-may-see";

#[derive(Default)]
struct State {
    /// Statuses of the next requests; then all are answered.
    refusals: VecDeque<u16>,
    /// Bodies and Authorization headers of the requests that were answered.
    answered: Vec<(Value, String)>,
}

/// An OpenAI-compatible endpoint whose replies follow from the words in a prompt.
struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start(replies: &'static [(&str, &str)], refusals: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://me:{KEY}@{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            refusals: refusals.iter().copied().collect(),
            answered: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may go away at any time.
                let _ = answer(stream, replies, &shared);
            }
        });
        Self { url, state }
    }

    /// What was asked so far; the count starts again.
    fn asked(&self) -> Vec<(Value, String)> {
        std::mem::take(&mut self.state.lock().unwrap().answered)
    }
}

fn answer(
    stream: TcpStream,
    replies: &[(&str, &str)],
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut key, mut path) = (0, String::new(), String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("POST ") {
            rest.split(' ').next().unwrap().clone_into(&mut path);
        }
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => value.clone_into(&mut key),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut stream = reader.into_inner();
    let mut state = state.lock().unwrap();
    let status = match state.refusals.pop_front() {
        Some(status) => status,
        None if path == "/v1/chat/completions" => 200,
        None => 404,
    };
    let mut content = json!({"error": {"message": "not now"}}).to_string();
    if status == 200 {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        let reply = replies.iter().find(|(word, _)| prompt.contains(word));
        let reply = reply.map_or("a prompt that nobody expected", |(_, reply)| *reply);
        content =
            json!({"choices": [{"message": {"role": "assistant", "content": reply}}]}).to_string();
        state.answered.push((body, key));
    }
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{content}",
        content.len()
    )
}

fn videothinker(folder: &Path, args: &[&str]) -> Output {
    let mut command = crate::program();
    command.current_dir(folder).args(args);
    command.env("OPENAI_API_KEY", KEY);
    command.output().unwrap()
}

#[track_caller]
fn run(folder: &Path, args: &[&str]) -> String {
    let output = videothinker(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails with exit code 1, or 2 for what is wrong in the arguments; returns what it says.
#[track_caller]
fn fails(folder: &Path, code: i32, args: &[&str]) -> String {
    let output = videothinker(folder, args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A folder with an evaluation of `benchmark` in `out`, whose questions `write` makes for a clip's name, and whose answers are
/// then `said`.
fn evaluated(benchmark: &str, write: impl Fn(&Path, &str), said: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let world = [
        "--train",
        "0",
        "--validation",
        "1",
        "--sft",
        "4",
        "--model",
        "model",
    ];
    run(
        path,
        &[&["data", "mini", "--out", "world"], &world[..]].concat(),
    );
    let questions = std::fs::read(path.join("world/validation_questions.json")).unwrap();
    let questions: Value = serde_json::from_slice(&questions).unwrap();
    let clip = questions[0]["video"].as_str().unwrap();
    write(path, clip.strip_suffix(".mp4").unwrap());
    let config = format!(
        "[model]\ndtype = \"f32\"\ndevice = \"cpu\"\n[data]\nquestions = \"questions\"\nvideo_root = \"world/videos\"\n\
         [video]\nmin_frames = 4\nmax_frames = 4\nmin_pixels = 12544\nmax_pixels = 12544\n[sampling]\nmax_new_tokens = 2\n\
         [eval]\nwording = \"none\"\nbenchmark = \"{benchmark}\"\n"
    );
    std::fs::write(path.join("eval.toml"), config).unwrap();
    run(
        path,
        &[
            "eval",
            "run",
            "--config",
            "eval.toml",
            "--model",
            "model",
            "--out",
            "out",
        ],
    );
    say(path, said);
    folder
}

fn copy(folder: &Path, from: &str, to: &str) {
    std::fs::create_dir(folder.join(to)).unwrap();
    for entry in std::fs::read_dir(folder.join(from)).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.join(to).join(entry.file_name())).unwrap();
    }
}

/// Replaces what the model wrote.
fn say(folder: &Path, said: &[&str]) {
    let file = folder.join("out/outputs.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<String> = text
        .lines()
        .zip(said)
        .map(|(line, said)| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            line["samples"][0]["completion"] = (*said).into();
            line.to_string() + "\n"
        })
        .collect();
    assert_eq!(lines.len(), said.len());
    std::fs::write(&file, lines.concat()).unwrap();
    run(folder, &["eval", "rescore", "out"]);
}

fn scores(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("out/scores.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

const CAPTIONS: [&str; 6] = [
    "<think>hm</think>The ball goes <b>left</b>.",
    "It moves to the right-hand side.",
    "Something is blue.",
    "Mumbling.",
    "<think>it never ends",
    "Leftwards it goes, to the left.",
];

/// Captions of one clip about two aspects; the right option is `A. left`.
fn captions() -> tempfile::TempDir {
    let write = |folder: &Path, clip: &str| {
        let item = json!({"question": "Describe how it moves.", "answer": "",
            "mc_question": "Where does it go?\nA. left\nB. right", "mc_answer": "A. left"});
        let items = json!({clip: {"direction": vec![&item; 4], "speed": vec![&item; 2]}});
        std::fs::create_dir(folder.join("questions")).unwrap();
        std::fs::write(folder.join("questions/captioning.json"), items.to_string()).unwrap();
    };
    evaluated("tempcompass_captioning", write, &CAPTIONS)
}

const REPLIES: &[(&str, &str)] = &[
    ("<b>left</b>", "A"),
    ("right-hand", "(B)"),
    ("blue", "None."),
    ("Mumbling", "It is hard to say"),
    ("Leftwards", "<think>both?</think>A. left"),
];

fn judging<'a>(server: &'a Server, model: &'a str) -> Vec<&'a str> {
    vec![
        "eval",
        "judge",
        "out",
        "--url",
        &server.url,
        "--model",
        model,
    ]
}

#[test]
fn captions_are_scored_by_a_judge_and_not_before() {
    let folder = captions();
    let path = folder.path();
    let waiting = scores(path);
    let all = &waiting["splits"]["all"];
    // The thinking that never ends is no caption.
    assert_eq!(
        (&all["unjudged"], &all["questions"]),
        (&json!(5), &json!(6))
    );
    assert!(all["exact"]["mean"].is_null() && all["soft"]["mean"].is_null());
    let shown = run(path, &["eval", "rescore", "out"]);
    assert!(
        shown.contains("unjudged") && shown.contains("--url"),
        "{shown}"
    );
    let table = run(path, &["eval", "table", "base=out"]);
    assert!(table.contains("unjudged"), "{table}");
    let said = fails(path, 1, &["eval", "compare", "out", "out"]);
    assert!(
        said.contains("not judged") && said.contains("eval judge "),
        "{said}"
    );

    let server = Server::start(REPLIES, &[429, 503]);
    let shown = run(path, &judging(&server, "judge-1"));
    for part in ["judged by judge-1", "nothing clear of 1 answers", "33.3"] {
        assert!(shown.contains(part), "{shown}");
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 5);
    for (body, key) in &asked {
        assert_eq!(
            (&body["model"], &body["temperature"]),
            (&json!("judge-1"), &json!(0))
        );
        assert_eq!(key, &format!("Bearer {KEY}"));
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        assert!(
            prompt.contains("A. left\nB. right") && !prompt.contains("hm"),
            "{prompt}"
        );
    }
    let judged = scores(path);
    let split = |name: &str| &judged["splits"][name];
    assert_eq!(split("all")["exact"]["mean"], 2.0 / 6.0);
    assert_eq!(split("all")["unjudged"], 1);
    assert_eq!(split("aspect/speed")["exact"]["mean"], 0.5);
    assert_eq!(judged["judge"]["model"], "judge-1");
    assert!(judged["judge"]["wording_hash"].is_string());
    assert!(judged["judge_url"].as_str().unwrap().ends_with("/v1"));
    for name in [
        "scores.json",
        "judgements.jsonl",
        "outputs.jsonl",
        "settings.json",
    ] {
        let text = std::fs::read_to_string(path.join("out").join(name)).unwrap();
        assert!(!text.contains(KEY), "{name}");
    }

    // Replies to other words say nothing.
    let file = path.join("out/scores.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let hash = judged["judge"]["wording_hash"].as_str().unwrap();
    std::fs::write(&file, text.replace(hash, "0123456789abcdef")).unwrap();
    let said = fails(path, 1, &["eval", "rescore", "out"]);
    assert!(said.contains("judge them again"), "{said}");
    std::fs::write(&file, text).unwrap();
    let lock = std::fs::File::create(path.join("out/judge.lock")).unwrap();
    lock.lock().unwrap();
    let said = fails(path, 1, &judging(&server, "judge-1"));
    assert!(said.contains("another process"), "{said}");
    drop(lock);

    // Nothing is asked twice, and scoring again needs no judge.
    run(path, &judging(&server, "judge-1"));
    let flags = ["eval", "--judge", "out", "--judge-url", &server.url];
    run(path, &[&flags[..], &["--judge-model", "judge-1"]].concat());
    assert!(server.asked().is_empty());
    run(path, &["eval", "rescore", "out"]);
    assert_eq!(scores(path), judged);
    // A caption that is new is read anew.
    say(
        path,
        &[&["The ball goes <b>left</b>, slowly."], &CAPTIONS[1..]].concat(),
    );
    run(path, &judging(&server, "judge-1"));
    assert_eq!(server.asked().len(), 1);
    assert_eq!(scores(path)["splits"], judged["splits"]);
}

#[test]
fn a_judging_that_was_killed_goes_on() {
    let folder = captions();
    let path = folder.path();
    let server = Server::start(REPLIES, &[]);
    run(path, &judging(&server, "judge-1"));
    let (whole, log) = (scores(path), path.join("out/judgements.jsonl"));
    let lines = std::fs::read_to_string(&log).unwrap();
    let second = lines.match_indices('\n').nth(1).unwrap().0;
    std::fs::write(&log, &lines[..second + 30]).unwrap();
    server.asked();
    run(path, &judging(&server, "judge-1"));
    assert_eq!(server.asked().len(), 3);
    assert_eq!(scores(path), whole);
}

#[test]
fn a_judge_that_refuses_is_explained_and_what_came_is_kept() {
    let folder = captions();
    let path = folder.path();
    let before = scores(path);
    let server = Server::start(REPLIES, &[]);
    let with = |status: u16, words: &[&str]| {
        server.state.lock().unwrap().refusals = vec![status; 8].into();
        let said = fails(path, 1, &judging(&server, "judge-1"));
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains(KEY), "{said}");
        server.state.lock().unwrap().refusals.clear();
    };
    with(401, &["401", "OPENAI_API_KEY", "judge-1"]);
    with(404, &["404", "no model judge-1", "/v1"]);
    with(400, &["400", "not now"]);
    assert_eq!(scores(path), before);

    // One that is too long, say, is left unjudged and asked again the next time.
    // Asked one after the other, so that it is not the one whose reply says nothing clear anyway.
    let one = ["--at-once", "1"];
    server.state.lock().unwrap().refusals = VecDeque::from([413]);
    let shown = run(path, &[&judging(&server, "judge-2")[..], &one[..]].concat());
    assert!(shown.contains("nothing clear of 2 answers"), "{shown}");
    server.asked();
    server.state.lock().unwrap().refusals = VecDeque::from([413]);
    run(path, &judging(&server, "judge-2"));
    assert!(server.asked().is_empty());
    run(path, &judging(&server, "judge-2"));
    assert_eq!(server.asked().len(), 1);

    // One of five is refused for good.
    server.state.lock().unwrap().refusals = VecDeque::from([403]);
    let said = fails(
        path,
        1,
        &[&judging(&server, "judge-1")[..], &one[..]].concat(),
    );
    assert!(said.contains("the same command goes on"), "{said}");
    run(path, &judging(&server, "judge-1"));
    assert_eq!(scores(path)["splits"]["all"]["exact"]["mean"], 2.0 / 6.0);

    let url = ["--url", "localhost", "--model", "m"];
    let said = fails(path, 1, &[&["eval", "judge", "out"], &url[..]].concat());
    assert!(said.contains("http://localhost:8000/v1"), "{said}");
    let said = fails(path, 2, &["eval", "judge", "out"]);
    assert!(said.contains("--url"), "{said}");
    let said = fails(path, 2, &[&["eval", "judge", "absent"], &url[..]].concat());
    assert!(said.contains("there is no folder absent"), "{said}");
}

#[test]
fn open_answers_are_compared_by_word_or_judged_and_never_both() {
    let write = |folder: &Path, clip: &str| {
        let item = |id: usize| {
            json!({"id": format!("validation_{id}"), "video": format!("x/videos/{clip}.mp4"), "question_type": "open-ended",
                "metadata": {}, "question": "Which style?", "choices": {}, "answer": "Late Gothic"})
        };
        let items: Vec<Value> = (0..3).map(item).collect();
        std::fs::create_dir(folder.join("questions")).unwrap();
        std::fs::write(
            folder.join("questions/validation.json"),
            json!(items).to_string(),
        )
        .unwrap();
    };
    let said = [
        "<answer>late gothic</answer>",
        "<answer>Gothic, its late phase</answer>",
        "<answer>Baroque</answer>",
    ];
    let folder = evaluated("mmvu_open", write, &said);
    let path = folder.path();
    let by_word = scores(path);
    assert_eq!(by_word["splits"]["all"]["exact"]["mean"], 1.0 / 3.0);
    assert!(by_word["splits"]["all"]["unjudged"].is_null());

    copy(path, "out", "other");
    let server = Server::start(
        &[
            ("late gothic\n", "Correct."),
            ("late phase", "correct"),
            ("Baroque", "**incorrect**"),
        ],
        &[],
    );
    run(path, &judging(&server, "judge-1"));
    assert_eq!(scores(path)["splits"]["all"]["exact"]["mean"], 2.0 / 3.0);
    let prompt = server.asked()[0].0["messages"][0]["content"].to_string();
    assert!(
        prompt.contains("Which style?") && prompt.contains("Late Gothic"),
        "{prompt}"
    );

    let said = fails(path, 1, &["eval", "compare", "other", "out"]);
    assert!(said.contains("judge (none / "), "{said}");
    let across = [
        "eval",
        "compare",
        "other",
        "out",
        "--across-protocols",
        "--json",
    ];
    let pair: Value = serde_json::from_str(&run(path, &across)).unwrap();
    assert_eq!(pair["splits"]["all"]["only_second_right"], 1);
    copy(path, "out", "second");
    let other_judge = [
        "judge",
        "second",
        "--url",
        &server.url,
        "--model",
        "judge-2",
    ];
    run(path, &[&["eval"], &other_judge[..]].concat());
    let said = fails(path, 1, &["eval", "compare", "out", "second"]);
    assert!(said.contains("judge.model (judge-1 / judge-2)"), "{said}");
    let table = run(path, &["eval", "table", "a=out", "b=second", "c=other"]);
    assert!(table.contains("a (judged by judge-1)"), "{table}");
    assert!(table.contains("b (judged by judge-2)"), "{table}");

    // By another rule the judge's word does not count.
    run(path, &["eval", "rescore", "out", "--extraction", "authors"]);
    let text = std::fs::read_to_string(path.join("out/scores-authors.json")).unwrap();
    let authors: Value = serde_json::from_str(&text).unwrap();
    assert!(authors["judge"].is_null() && authors["judge_url"].is_null());
    assert_eq!(authors["splits"]["all"]["exact"]["mean"], 0.0);
}

#[test]
fn questions_with_rules_need_no_judge() {
    let write = |folder: &Path, clip: &str| {
        let items = json!({clip: {"speed": [{"question": "Is it fast?", "answer": "yes"}]}});
        std::fs::create_dir(folder.join("questions")).unwrap();
        std::fs::write(folder.join("questions/yes_no.json"), items.to_string()).unwrap();
    };
    let folder = evaluated("tempcompass", write, &["yes"]);
    let server = Server::start(&[], &[]);
    let said = fails(folder.path(), 1, &judging(&server, "judge-1"));
    assert!(said.contains("scored by rule"), "{said}");
    let said = fails(
        folder.path(),
        2,
        &[
            "eval",
            "run",
            "--config",
            "eval.toml",
            "--model",
            "model",
            "--set",
            "eval.benchmark=tempcompass_captioning",
            "--set",
            "eval.samples=3",
            "--set",
            "eval.temperature=1.0",
            "--out",
            "x",
        ],
    );
    assert!(said.contains("captions cannot be voted on"), "{said}");
}

#[test]
fn what_the_benchmarks_own_rule_leaves_open_is_judged() {
    let write = |folder: &Path, clip: &str| {
        let ask = |answer: &str| json!({"question": "What does it do?\nA. rise\nB. sink", "answer": answer});
        let items =
            json!({clip: {"action": vec![ask("A. rise"); 3], "speed": vec![ask("B. sink"); 2]}});
        std::fs::create_dir(folder.join("questions")).unwrap();
        std::fs::write(
            folder.join("questions/multi-choice.json"),
            items.to_string(),
        )
        .unwrap();
    };
    let said = ["A. rise", "I see it rise.", "It sinks down", "B", ""];
    let folder = evaluated("tempcompass", write, &said);
    let path = folder.path();
    let strict = scores(path);
    assert_eq!(strict["splits"]["all"]["exact"]["mean"], 0.6);
    assert_eq!(
        strict["splits"]["all"]["read_by"],
        json!({"whole": 2, "prose": 1, "nobody": 2})
    );
    // A prose answer counts as the rule of the evaluation says; the benchmark's own leaves it to a judge.
    let shown = run(
        path,
        &["eval", "rescore", "out", "--extraction", "official"],
    );
    for part in [
        "2 answers to be judged",
        "40.0 if all that wait were wrong, 80.0 if all were right",
        "by the benchmark's rule 40.0 %",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let text = std::fs::read_to_string(path.join("out/scores-official.json")).unwrap();
    let official: Value = serde_json::from_str(&text).unwrap();
    let all = &official["splits"]["all"];
    assert_eq!(
        (&all["unjudged"], &all["bounds"]),
        (&json!(2), &json!([0.4, 0.8]))
    );
    assert_eq!(all["read_by"], json!({"benchmark_rule": 2, "nobody": 3}));

    // An evaluation by that rule can be judged.
    for name in ["settings.json", "scores.json"] {
        let file = path.join("out").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"strict\"", "\"official\"")).unwrap();
    }
    // Taken up again, or put together from shards, it waits as before.
    let evaluate = [
        "eval",
        "run",
        "--config",
        "eval.toml",
        "--model",
        "model",
        "--set",
        "eval.extraction=official",
    ];
    run(path, &[&evaluate[..], &["--out", "out"]].concat());
    assert_eq!(scores(path)["splits"]["all"]["bounds"], json!([0.4, 0.8]));
    for shard in ["1/2", "2/2"] {
        run(
            path,
            &[&evaluate[..], &["--out", "parts", "--shard", shard]].concat(),
        );
    }
    let shown = |verb: &str| -> Value {
        serde_json::from_str(&run(path, &["eval", verb, "parts", "--json"])).unwrap()
    };
    assert_eq!(shown("merge")["splits"], shown("rescore")["splits"]);

    let server = Server::start(
        &[("I see it rise", "Correct"), ("It sinks down", "incorrect")],
        &[],
    );
    run(path, &judging(&server, "judge-1"));
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    let prompt = asked[0].0["messages"][0]["content"].as_str().unwrap();
    assert!(
        prompt.contains("What does it do?") && prompt.contains("A. rise"),
        "{prompt}"
    );
    let judged = scores(path);
    let all = &judged["splits"]["all"];
    assert_eq!(all["exact"]["mean"], 0.6);
    assert_eq!(
        all["read_by"],
        json!({"benchmark_rule": 2, "judge": 2, "nobody": 1})
    );
    assert!(all["unjudged"].is_null() && all["bounds"].is_null());
}
