//! Own questions through the binary: read, imported, checked, counted and labelled, with odd input.

use crate::videothinker;
use parquet::basic::ConvertedType;
use parquet::basic::Repetition;
use parquet::basic::Type as PhysicalType;
use parquet::data_type::ByteArray;
use parquet::data_type::ByteArrayType;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::Value;
use serde_json::json;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Exit code, stdout, stderr.
fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = videothinker(folder, args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn result(folder: &Path, args: &[&str]) -> Value {
    let (code, stdout, stderr) = run(folder, &[args, &["--json"]].concat());
    assert_eq!(code, 0, "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn write_lines(path: &Path, records: &[Value]) {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn read_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A folder with a clip whose name has a space.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let clip = repository("tests/golden/video/clips/h264.mp4");
    std::fs::copy(clip, folder.path().join("my clip.mp4")).unwrap();
    folder
}

const TEXT: &str = "Where does it go?\nA. left\nB. right";

#[test]
fn files_of_other_projects_become_questions_that_pass_the_check() {
    let folder = workplace();
    let path = folder.path();
    let url = format!("file://{}/my%20clip.mp4", path.display());
    let llava = json!([
        {"id": "1", "video": "my clip.mp4", "conversations": [
            {"from": "human", "value": format!("<video>\n{TEXT}")}, {"from": "gpt", "value": "B"},
            {"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A test picture."}]},
        {"id": "2", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]},
    ]);
    std::fs::write(path.join("llava.json"), llava.to_string()).unwrap();
    write_lines(
        &path.join("others.jsonl"),
        &[
            json!({"messages": [{"role": "user", "content": format!("<video>{TEXT}")}], "videos": ["my clip.mp4"], "solution": "<answer>B</answer>"}),
            json!({"prompt": [{"role": "user", "content": [{"type": "video", "video": url}, {"type": "text", "text": TEXT}]}], "answer": "(B)"}),
            json!({"problem": "Where?", "options": ["left", "right"], "solution": "up", "path": "my clip.mp4"}),
            json!({"messages": [{"role": "user", "content": "Why?"}], "videos": ["https://example.org/a.mp4"], "solution": "x"}),
        ],
    );
    let args = [
        "data",
        "import",
        "llava.json",
        "others.jsonl",
        "--out",
        "q.jsonl",
    ];
    let (code, stdout, stderr) = run(path, &args);
    assert_eq!(code, 0, "{stderr}");
    for part in [
        "q.jsonl: 4 questions of 6 records",
        "multiple choice: 3",
        "left out, about images: 1; the first: llava.json, record 1",
        "left out, an answer that is none of the options: 1; the first: others.jsonl, record 2 (counted from 0): \"up\"",
        "a clip that is no file here",
        "the first: {",
    ] {
        assert!(stdout.contains(part), "{stdout} lacks {part:?}");
    }
    let questions = read_lines(&path.join("q.jsonl"));
    let ids: Vec<&Value> = questions.iter().map(|question| &question["id"]).collect();
    assert_eq!(ids, ["1/1", "1/2", "others/0", "others/1"]);
    let check = [
        "data",
        "check",
        "--questions",
        "q.jsonl",
        "--set=video.max_frames=8",
    ];
    let (code, stdout, stderr) = run(path, &check);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let stats = result(path, &["data", "stats", "q.jsonl"]);
    assert_eq!(stats["questions"], 4);
    assert_eq!(stats["options"], json!({"0": 1, "2": 3}));
    assert_eq!(stats["best_constant_exact"]["answer"], "B");
    assert_eq!(stats["kinds"]["without"], 4);

    let again = [
        "data",
        "import",
        "q.jsonl",
        "--from",
        "video-r1",
        "--out",
        "again.jsonl",
    ];
    assert_eq!(result(path, &again)["questions"], 4);
    assert_eq!(
        read_lines(&path.join("again.jsonl")),
        questions,
        "nothing is left to change"
    );
    for (args, code, part) in [
        (&["q.jsonl", "--out", "q.jsonl"][..], 2, "name another"),
        (&["absent.json", "--out", "x.jsonl"], 2, "absent.json"),
        (&["q.jsonl", "--out", "x.txt"], 2, ".jsonl"),
        (
            &["q.jsonl", "--out", "x.jsonl", "--columns", "text=q"],
            2,
            "name one of id, problem",
        ),
        (
            &["q.jsonl", "--out", "x.jsonl", "--columns", "video=clip"],
            1,
            "`clip` (--columns video=…)",
        ),
        (
            &["q.jsonl", "--out", "x.jsonl", "--from", "trl"],
            1,
            "its fields: id, problem",
        ),
    ] {
        let (found, _, stderr) = run(path, &[&["data", "import"], args].concat());
        assert!(
            found == code && stderr.contains(part),
            "{args:?}: {found} {stderr}"
        );
        assert!(!path.join("x.jsonl").exists());
    }
}

/// A parquet file of one question whose clip stands in it.
fn write_parquet(path: &Path, clip: &[u8]) {
    let text = |name: &str| {
        let text = Type::primitive_type_builder(name, PhysicalType::BYTE_ARRAY)
            .with_repetition(Repetition::REQUIRED)
            .with_converted_type(ConvertedType::UTF8);
        Arc::new(text.build().unwrap())
    };
    let bytes = Type::primitive_type_builder("bytes", PhysicalType::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED);
    let video = Type::group_type_builder("clip")
        .with_repetition(Repetition::REQUIRED)
        .with_fields(vec![Arc::new(bytes.build().unwrap()), text("path")]);
    let root = Type::group_type_builder("schema").with_fields(vec![
        text("question"),
        text("truth"),
        Arc::new(video.build().unwrap()),
    ]);
    let file = std::fs::File::create(path).unwrap();
    let root = Arc::new(root.build().unwrap());
    let mut writer = SerializedFileWriter::new(file, root, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for value in [TEXT.as_bytes(), b"left", clip, b"clips/a.mp4"] {
        let mut column = group.next_column().unwrap().unwrap();
        let value = ByteArray::from(value.to_vec());
        column
            .typed::<ByteArrayType>()
            .write_batch(&[value], None, None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn clips_inside_a_parquet_file_are_written_out() {
    let folder = workplace();
    let path = folder.path();
    let clip = std::fs::read(path.join("my clip.mp4")).unwrap();
    write_parquet(&path.join("data.parquet"), &clip);
    let import = [
        "data",
        "import",
        "data.parquet",
        "--from",
        "hf-parquet",
        "--out",
        "q.jsonl",
        "--columns",
        "problem=question,solution=truth,video=clip",
    ];
    let (code, _, stderr) = run(path, &import);
    assert!(code == 1 && stderr.contains("--video-dir DIR"), "{stderr}");
    let summary = result(path, &[&import[..], &["--video-dir", "clips"]].concat());
    assert_eq!(summary["clips_written"], 1);
    assert_eq!(std::fs::read(path.join("clips/a.mp4")).unwrap(), clip);
    let question = &read_lines(&path.join("q.jsonl"))[0];
    assert_eq!(
        (&question["video"], &question["solution"]),
        (&json!("a.mp4"), &json!("<answer>A</answer>"))
    );
    let check = [
        "data",
        "check",
        "--questions",
        "q.jsonl",
        "--video-root",
        "clips",
        "--set=video.max_frames=8",
    ];
    assert_eq!(run(path, &check).0, 0);
}

#[test]
fn questions_are_read_under_usual_names_and_others_are_sent_to_the_converter() {
    let folder = workplace();
    let path = folder.path();
    let mark = "\u{feff}";
    let record = json!({"question": "Where?", "choices": {"A": "left", "B": "right"}, "answer": "B", "videos": ["my clip.mp4"]});
    std::fs::write(path.join("q.jsonl"), format!("{mark}{record}\n")).unwrap();
    let check = [
        "data",
        "check",
        "--questions",
        "q.jsonl",
        "--set=video.max_frames=8",
    ];
    let (code, stdout, stderr) = run(path, &check);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(
        stderr.contains("1 question without a `solution`; it is taken from `answer`"),
        "{stderr}"
    );
    for (record, part) in [
        (json!({"messages": [], "videos": ["a.mp4"]}), "data import"),
        (
            json!({"problem": "Why?", "solution": "x", "video": ["a.mp4", "b.mp4"]}),
            "names 2 files",
        ),
        (
            json!({"problem": "Why?", "solution": "x"}),
            "the field `video` is missing",
        ),
        (
            json!({"problem": "Why?", "solution": "x", "video": "a.mp4", "videos": ["b.mp4"]}),
            "keep one of them",
        ),
    ] {
        write_lines(&path.join("q.jsonl"), std::slice::from_ref(&record));
        let (code, _, stderr) = run(path, &check);
        assert!(
            code == 1 && stderr.contains(part) && stderr.contains("line 1"),
            "{record}: {stderr}"
        );
    }
    std::fs::write(path.join("q.jsonl"), r#"{"problem": "Why?", "x": NaN}"#).unwrap();
    let (_, _, stderr) = run(path, &check);
    assert!(
        stderr.contains("is read as null: 1 value; the first: line 1, `x`"),
        "{stderr}"
    );
}

#[test]
fn what_cannot_be_answered_is_found_before_it_is_trained_on() {
    let folder = workplace();
    let path = folder.path();
    let question = |id: &str, solution: &str, options: Value| json!({"id": id, "problem": "Where?", "options": options, "solution": solution, "video": "my clip.mp4"});
    let two = json!(["left", "right"]);
    write_lines(
        &path.join("q.jsonl"),
        &[
            question("a", "<answer>E</answer>", two.clone()),
            question("b", "<answer>left</answer>", two.clone()),
            question("c", "<answer>(B)</answer>", two.clone()),
            question("d", "A", json!(["left", "left"])),
            question("e", "A", two),
        ],
    );
    let check = [
        "data",
        "check",
        "--questions",
        "q.jsonl",
        "--set=video.max_frames=8",
    ];
    let (code, stdout, stderr) = run(path, &check);
    assert_eq!(code, 1);
    for part in [
        "no-option              1  a: the solution \"E\" is not among the 2 options (A to B)",
        "equal-options          1  d: ",
    ] {
        assert!(stdout.contains(part), "{stdout} lacks {part:?}");
    }
    assert!(
        !stdout.contains("nothing is wrong") && stderr.contains("2 things are wrong"),
        "{stderr}"
    );
    assert!(
        stderr.contains("read from another spelling: 2 solutions; the first, of question b"),
        "{stderr}"
    );
    let (_, stdout, _) = run(path, &[&check[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        report["flaws"][1],
        json!({"question": "d", "flaw": "equal-options", "reason": report["flaws"][1]["reason"]})
    );
    assert_eq!(
        (&report["clips"], &report["without_kind"]),
        (&json!(1), &json!(5))
    );

    let kinds = [&check[..], &["--set", "data.kinds=observational"]].concat();
    let (_, stdout, _) = run(path, &kinds);
    for part in [
        "5 of 5 questions have no kind",
        "data label FILE --by",
        "data.assume_kind",
    ] {
        assert!(stdout.contains(part), "{stdout} lacks {part:?}");
    }
    let drawn = [
        &check[..],
        &[
            "--set",
            "data.assume_kind=inferential",
            "--set",
            "data.kinds=inferential",
            "--drawn",
        ],
    ]
    .concat();
    let (_, stdout, stderr) = run(path, &drawn);
    assert!(
        (stdout + &stderr).matches("data label FILE --by").count() <= 1,
        "{stderr}"
    );
    let many: Vec<Value> = (0..30)
        .map(|index| json!({"problem": TEXT, "solution": "A", "video": format!("{index}.mp4")}))
        .collect();
    write_lines(&path.join("q.jsonl"), &many);
    let (code, stdout, _) = run(path, &[&check[..], &["--video-root", "elsewhere"]].concat());
    assert_eq!(code, 1);
    assert!(
        stdout.contains("missing: 30 of 30 clips")
            && stdout.contains("0.mp4")
            && stdout.contains("elsewhere"),
        "{stdout}"
    );
    assert!(stdout.lines().count() < 10, "{stdout}");
}

#[test]
fn parts_of_clips_are_checked_against_their_clips() {
    let folder = workplace();
    let path = folder.path();
    std::fs::copy(path.join("my clip.mp4"), path.join("a#fps=2.mp4")).unwrap();
    let question = |id: &str, video: Value| json!({"id": id, "problem": TEXT, "solution": "A", "video": video});
    let check = |videos: &[(&str, Value)]| {
        let lines: Vec<Value> = videos
            .iter()
            .map(|(id, video)| question(id, video.clone()))
            .collect();
        write_lines(&path.join("q.jsonl"), &lines);
        let check = [
            "data",
            "check",
            "--questions",
            "q.jsonl",
            "--set=video.max_frames=8",
        ];
        run(path, &check)
    };
    let (code, stdout, stderr) = check(&[
        ("whole", json!("a#fps=2.mp4")),
        ("from", json!({"path": "my clip.mp4", "start": 0.5})),
        ("late", json!("my clip.mp4#t=0,900")),
    ]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    for part in [
        "1 part of a clip ends later than the clip does",
        "the first: my clip.mp4#t=0,900: the clip has ",
        "nothing is wrong",
    ] {
        assert!(stdout.contains(part), "{stdout} lacks {part:?}");
    }
    let (code, stdout, _) = check(&[
        ("beyond", json!("my clip.mp4#t=900,901")),
        ("turned", json!("my clip.mp4#t=2,1")),
    ]);
    assert_eq!(code, 1);
    for part in [
        "short       my clip.mp4#t=900,901          1  no frame lies in #t=900,901: the clip has ",
        "part        my clip.mp4#t=2,1              1  `#t=2,1` ends at 1 s and begins at 2 s",
    ] {
        assert!(stdout.contains(part), "{stdout} lacks {part:?}");
    }
    let (code, _, stderr) = check(&[("x", json!({"path": "my clip.mp4", "start": 2, "end": 1}))]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("q.jsonl, line 1: `start`, `end`: ends at 1 s"),
        "{stderr}"
    );
}

#[test]
fn files_that_are_no_questions_say_what_they_are() {
    let folder = workplace();
    let path = folder.path();
    for (name, bytes, said) in [
        (
            "a.csv",
            &b"problem,video\nWhy?,a.mp4\n"[..],
            "no answer: 1 (a.csv, record 0 (counted from 0))",
        ),
        (
            "a.jsonl",
            b"problem,video\nWhy?,a.mp4\n",
            "call the file .csv",
        ),
        ("a.json", b"<!DOCTYPE html><html></html>", "a web page"),
        (
            "a.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid x\n",
            "git lfs pull",
        ),
        ("a.jsonl", b"\x1f\x8b\x08\0\0\0\xff", "gunzip"),
        ("a.jsonl", b"\xff\xfe{\0", "UTF-16"),
        ("a.jsonl", b"{'problem': 'Why?'}", "single quotes"),
        (
            "a.txt",
            b"x",
            "must end in .json, .jsonl, .parquet, .csv or .tsv",
        ),
    ] {
        std::fs::write(path.join(name), bytes).unwrap();
        let import = ["data", "import", name, "--out", "out.jsonl"];
        let (code, _, stderr) = run(path, &import);
        assert!(code > 0 && stderr.contains(said), "{name}: {stderr}");
        assert!(!stderr.contains("data import"), "{stderr}");
        let (code, _, stderr) = run(path, &["data", "stats", name]);
        assert!(code > 0 && stderr.contains(name), "{name}: {stderr}");
        for word in ["expected value", "at line", "stream did not"] {
            assert!(!stderr.contains(word), "{stderr}");
        }
    }
}

#[test]
fn a_file_that_an_argument_names_and_that_is_not_there_is_a_bad_argument() {
    let folder = workplace();
    let path = folder.path();
    write_lines(
        &path.join("q.jsonl"),
        &[json!({"problem": TEXT, "solution": "A", "video": "my clip.mp4"})],
    );
    for line in [
        "data stats no.jsonl",
        "data split no.jsonl --out .",
        "data import no.jsonl --out o.jsonl",
        "data check --questions no.jsonl",
        "data check --questions=no.jsonl",
        "data check --questions q.jsonl --verify no.json",
        "data check --questions q.jsonl --against no.jsonl",
        "data label no.jsonl --by field --field x --observational y --out o.jsonl",
        "data clevrer --questions no.json --annotations no --out o.json",
        "data stats --config no.toml",
        "data stats no.txt",
        "data import q.jsonl --out o.txt",
        "inspect video no.mp4",
        "inspect video no.mp4#t=1,2",
        "inspect reward no.jsonl",
        "inspect answers no.jsonl",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (code, _, stderr) = run(path, &words);
        assert_eq!(code, 2, "{line}: {stderr}");
        assert!(
            stderr.contains("no.") || stderr.contains("o.txt"),
            "{line}: {stderr}"
        );
        assert!(!stderr.contains("os error"), "{line}: {stderr}");
    }
}

#[test]
fn a_field_tells_kinds() {
    let folder = workplace();
    let path = folder.path();
    let question = |id: u32, kind: &str| json!({"id": id, "problem": TEXT, "solution": "A", "video": "my clip.mp4", "task": {"type": kind}});
    write_lines(
        &path.join("q.jsonl"),
        &[
            question(1, "seen"),
            question(2, "thought"),
            question(3, "odd"),
        ],
    );
    let label = |more: &[&str]| {
        let args = [
            "data", "label", "q.jsonl", "--out", "k.jsonl", "--by", "field",
        ];
        run(path, &[&args, more].concat())
    };
    let field = [
        "--field",
        "task.type",
        "--observational",
        "seen",
        "--inferential",
        "thought,other",
    ];
    let (code, stdout, _) = label(&field);
    assert_eq!(code, 1);
    assert!(
        stdout.contains("3 questions, 1 observational (50.0 %), 1 inferential"),
        "{stdout}"
    );
    assert!(stdout.contains("task.type = odd: 1"), "{stdout}");
    let kinds: Vec<Value> = read_lines(&path.join("k.jsonl"))
        .iter()
        .map(|question| question["kind"].clone())
        .collect();
    assert_eq!(
        kinds,
        [json!("observational"), json!("inferential"), Value::Null]
    );
    assert_eq!(label(&[&field[..], &["--keep-unlabelled"]].concat()).0, 0);
    for (more, part) in [
        (
            &["--field", "typo", "--inferential", "x"][..],
            "they have: task",
        ),
        (
            &["--field", "task.type"],
            "--observational or --inferential",
        ),
        (
            &[
                "--field",
                "task.type",
                "--observational",
                "x",
                "--inferential",
                "x",
            ],
            "name it once",
        ),
        (
            &[
                "--field",
                "task.type",
                "--observational",
                "x",
                "--model",
                "m",
            ],
            "asks no model",
        ),
        (&["--out", "q.jsonl"], "cannot be used multiple times"),
    ] {
        let (code, _, stderr) = label(more);
        assert!(code == 2 && stderr.contains(part), "{more:?}: {stderr}");
    }
    let (code, _, stderr) = run(
        path,
        &[
            "data", "label", "q.jsonl", "--out", "k.jsonl", "--by", "blind",
        ],
    );
    assert!(code == 2 && stderr.contains("need --model"), "{stderr}");
}

#[test]
fn a_model_that_does_not_see_tells_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (code, _, stderr) = run(
        path,
        &[
            "data",
            "mini",
            "--out",
            "world",
            "--train",
            "0",
            "--validation",
            "10",
            "--sft",
            "0",
        ],
    );
    assert_eq!(code, 0, "{stderr}");
    let model = repository("data/mini").display().to_string();
    let label = |by: &str, out: &str, more: &[&str]| {
        let args = [
            "data",
            "label",
            "world/validation_questions.json",
            "--by",
            by,
            "--out",
            out,
            "--model",
            &model,
            "--replace",
            "--video-root",
            "world/videos",
            "--json",
            "--set=model.dtype=f32",
            "--set=model.device=cpu",
            "--set=video.min_frames=8",
            "--set=video.max_frames=8",
            "--set=video.min_pixels=12544",
            "--set=video.max_pixels=12544",
            "--set=video.text_after=spatial",
            "--set=sampling.max_new_tokens=128",
            "--set=eval.batch_size=4",
        ];
        run(path, &[&args, more].concat())
    };
    for by in ["blind", "shuffled"] {
        let out = format!("{by}.jsonl");
        let (code, stdout, stderr) = label(by, &out, &[]);
        assert_eq!(code, 0, "{stderr}");
        let whole: Value = serde_json::from_str(&stdout).unwrap();
        let kinds = &whole["kinds"];
        let count = |kind: &str| kinds[kind].as_u64().unwrap();
        assert_eq!(count("observational") + count("inferential"), 10, "{whole}");
        let right = whole["answers"]["accuracy"].as_f64().unwrap() * 10.0;
        assert!(
            (right - count("observational") as f64).abs() < 1e-9,
            "{whole}"
        );
        assert!(!whole["samples"].as_array().unwrap().is_empty());
        let labelled = std::fs::read(path.join(&out)).unwrap();

        // Interrupted in the middle of a line, it goes on; and then asks nothing again.
        let log = path.join(format!("{out}.answers/outputs.jsonl"));
        let text = std::fs::read(&log).unwrap();
        std::fs::write(&log, &text[..text.len() / 2]).unwrap();
        let (_, again, stderr) = label(by, &out, &[]);
        assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), whole);
        assert_eq!(std::fs::read(&log).unwrap(), text);
        assert_eq!(std::fs::read(path.join(&out)).unwrap(), labelled);
        assert!(stderr.contains("10/10"), "{stderr}");
        let (_, again, stderr) = label(by, &out, &[]);
        assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), whole);
        assert!(stderr.contains("all 10 questions are answered"), "{stderr}");
        let (code, _, stderr) = label(by, &out, &["--seed", "7"]);
        assert!(code == 1 && stderr.contains("other conditions"), "{stderr}");
    }
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    assert_ne!(
        read("blind.jsonl.answers/outputs.jsonl"),
        read("shuffled.jsonl.answers/outputs.jsonl"),
        "the frames are seen"
    );
    let (code, stdout, _) = label(
        "blind",
        "voted.jsonl",
        &["--samples", "3", "--wording", "none"],
    );
    assert_eq!(code, 0);
    assert!(stdout.contains("asked without the clip"), "{stdout}");
    assert_eq!(
        read_lines(&path.join("voted.jsonl.answers/outputs.jsonl"))[0]["samples"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

/// Rows as NExT-QA's `val.csv` has them: clips by their numbers, options in five columns, answers from 0.
#[test]
fn a_table_becomes_questions_that_are_checked() {
    let folder = workplace();
    let path = folder.path();
    std::fs::rename(path.join("my clip.mp4"), path.join("4010069381.mp4")).unwrap();
    let table = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n\
                 4010069381,369,640,480,how do the two man play the instrument,0,6,CH,roll the handle,tap their feet,strum the string,hit with sticks,pat with hand\n\
                 4010069381,369,640,480,what did he do,4,7,CH,\"stop, then look\",nod,wave,sit,smile\n";
    std::fs::write(path.join("val.csv"), table).unwrap();
    let import = ["data", "import", "val.csv", "--out", "val.jsonl"];
    let (code, _, stderr) = run(path, &import);
    assert!(code > 0, "{stderr}");
    assert!(
        stderr.contains("--columns options=a0+a1+a2+a3+a4"),
        "{stderr}"
    );
    let named = ["--columns", "options=a0+a1+a2+a3+a4"];
    let (code, _, stderr) = run(path, &[&import[..], &named].concat());
    assert!(code > 0 && stderr.contains("--first-option 0"), "{stderr}");
    let first = ["--first-option", "0"];
    let (code, stdout, stderr) = run(path, &[&import[..], &named, &first].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("2 questions of 2 records"), "{stdout}");
    let lines = std::fs::read_to_string(path.join("val.jsonl")).unwrap();
    let questions: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(questions[0]["solution"], "<answer>A</answer>");
    assert_eq!(questions[1]["solution"], "<answer>E</answer>");
    assert_eq!(questions[1]["options"][0], "stop, then look");
    let check = [
        "data",
        "check",
        "--set",
        "data.questions=val.jsonl",
        "--set",
        "data.video_root=.",
    ];
    let (code, stdout, stderr) = run(path, &check);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("2 questions about 1 clip"), "{stdout}");
    assert!(stderr.contains("4010069381.mp4"), "{stderr}");
}
