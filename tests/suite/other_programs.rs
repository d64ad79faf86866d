//! What other programs put into question files and clips' names: taken for what they mean, or said, once.

use crate::videothinker;
use serde_json::Value;
use serde_json::json;
use std::path::Path;

const TEXT: &str = "Where does it go?\nA. left\nB. right";

/// A folder with a clip of 64 frames, 25 of which make a second.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/video/clips/h264.mp4");
    std::fs::copy(clip, folder.path().join("a.mp4")).unwrap();
    folder
}

/// A question about the clip, with other fields.
fn question(more: &Value) -> Value {
    let mut record = json!({"problem": TEXT, "solution": "<answer>B</answer>", "video": "a.mp4"});
    let more = more.as_object().unwrap().clone();
    record.as_object_mut().unwrap().extend(more);
    record
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

/// `data check` over a file with this text.
fn check(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> (i32, String, String) {
    std::fs::write(folder.join(name), text).unwrap();
    let check = [
        "data",
        "check",
        "--questions",
        name,
        "--set=video.max_frames=8",
    ];
    run(folder, &check)
}

fn lines(records: &[Value]) -> String {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    lines.join("\n") + "\n"
}

#[test]
fn a_placeholder_is_the_clip_and_two_are_two_clips() {
    let folder = workplace();
    let path = folder.path();
    let asked = |text: &str| question(&json!({"problem": format!("{text}{TEXT}")}));
    let questions = [
        asked("<video>\n"),
        asked("<image>\n"),
        asked("<|vision_start|><|video_pad|><|vision_end|>"),
        asked(""),
    ];
    let (code, stdout, stderr) = check(path, "q.jsonl", lines(&questions));
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("nothing is wrong"), "{stdout}");
    assert!(
        stderr.contains(
            "taken out, placeholders of the clip in the text: 3 questions; the first: line 1"
        ),
        "{stderr}"
    );
    let two = [asked(""), asked("<video> or <video>? ")];
    let (code, _, stderr) = check(path, "q.jsonl", lines(&two));
    assert_eq!(code, 1);
    assert!(
        stderr.contains("q.jsonl, line 2: the text holds 2 placeholders of clips"),
        "{stderr}"
    );
}

#[test]
fn fields_that_change_nothing_here_are_said_once() {
    let folder = workplace();
    let path = folder.path();
    let questions = [
        question(&json!({})),
        question(&json!({"start": 1, "fps": 2, "loss": false, "difficulty": 3, "duration": 9})),
        question(&json!({"start": 2, "system": "Be brief.", "audios": [], "fps": null})),
    ];
    let (code, stdout, stderr) = check(path, "q.jsonl", lines(&questions));
    assert_eq!(code, 0, "{stdout}{stderr}");
    for said in [
        "`start` is kept and not taken for a part of the clip",
        "2 records; the first: line 2",
        "`fps` does not count",
        "`loss` does not count: every question weighs the same: 1 record; the first: line 2",
        "`system` is not said to the model",
        "1 record; the first: line 3",
    ] {
        assert!(stderr.contains(said), "{stderr} lacks {said:?}");
    }
    assert_eq!(stderr.matches("WARN").count(), 5, "{stderr}");
    let import = ["data", "import", "q.jsonl", "--out", "out.jsonl", "--json"];
    let (code, stdout, stderr) = run(path, &import);
    assert_eq!(code, 0, "{stderr}");
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let remarks = found["remarks"].as_object().unwrap();
    let counted = |words: &str| {
        let mut remarks = remarks.iter();
        let found = remarks.find(|(what, _)| what.contains(words));
        found.map(|(_, counted)| counted["count"].as_u64().unwrap())
    };
    assert_eq!(counted("times beside the clip"), Some(2), "{stdout}");
    assert_eq!(counted("frames or pixels"), Some(1), "{stdout}");
    assert_eq!(counted("weights"), Some(1), "{stdout}");
    assert_eq!(counted("words beside the question"), Some(1), "{stdout}");
}

#[test]
fn parts_of_qwens_fields_are_parts_of_the_clip() {
    let folder = workplace();
    let path = folder.path();
    let part = question(&json!({"video_start": 1.0, "video_end": 2.0, "type": "y"}));
    check(path, "q.jsonl", lines(std::slice::from_ref(&part)));
    let label = [
        "data", "label", "q.jsonl", "--out", "out.json", "--by", "field",
    ];
    let kinds = [
        "--field",
        "type",
        "--observational",
        "x",
        "--keep-unlabelled",
    ];
    let (code, _, stderr) = run(path, &[&label[..], &kinds].concat());
    assert_eq!(code, 0, "{stderr}");
    let written = std::fs::read(path.join("out.json")).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written[0]["video"], "a.mp4#t=1,2");
    assert_eq!(written[0].get("video_start"), None);
    let other = question(&json!({"video": "a.mp4#t=0,1", "video_start": 1.0, "video_end": 2.0}));
    let (code, _, stderr) = check(path, "q.jsonl", lines(&[other]));
    assert_eq!(code, 1);
    assert!(
        stderr.contains("line 1") && stderr.contains("keep one of them"),
        "{stderr}"
    );
}

#[test]
fn what_python_writes_is_read_and_what_is_asked_for_must_be_there() {
    let folder = workplace();
    let path = folder.path();
    let good = question(&json!({"difficulty": 1, "options": null})).to_string();
    let nan = good.replace("\"difficulty\":1", "\"difficulty\":NaN");
    assert_ne!(good, nan);
    for (name, text) in [
        ("q.jsonl", format!("\u{feff}{good}\n{nan}\n")),
        (
            "q.json",
            format!("[{good},\n{}]", nan.replace("null", "NaN")),
        ),
    ] {
        let (code, stdout, stderr) = check(path, name, text);
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert!(
            stderr.contains("which JSON does not have, is read as null")
                && stderr.contains("the first: line 2, `difficulty`"),
            "{stderr}"
        );
    }
    let lacking = nan.replace("\"<answer>B</answer>\"", "NaN");
    let (code, _, stderr) = check(path, "q.jsonl", format!("{good}\n{lacking}\n"));
    assert_eq!(code, 1);
    assert!(
        stderr.contains("q.jsonl, line 2: the field `solution` is missing (NaN in line 2)"),
        "{stderr}"
    );
}

#[test]
fn files_that_are_no_list_of_questions_say_why() {
    let folder = workplace();
    let path = folder.path();
    let good = question(&json!({})).to_string();
    for (name, text, said) in [
        (
            "q.json",
            format!("{{\"data\": [{good}], \"version\": 1}}"),
            "the list stands under `data` in an object",
        ),
        ("q.json", good.clone(), "it is one object, not a list"),
        ("q.json", String::new(), "holds no "),
        (
            "q.jsonl",
            format!("{good}\n\0\0\0\0"),
            "it ends in zero bytes",
        ),
        ("q.json", format!("[{good}]\0"), "it ends in zero bytes"),
        ("q.json", format!("{good}{good}"), "stands behind the end"),
        (
            "q.json",
            format!("[{good},]"),
            "a comma stands before the closing bracket",
        ),
        ("q.json", format!("[{good}, // one\n{good}]"), "a comment"),
        (
            "q.jsonl",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n".into(),
            "it is a Git LFS pointer",
        ),
    ] {
        let (code, _, stderr) = check(path, name, &text);
        assert!(code == 1 && stderr.contains(said), "{text}: {stderr}");
        let (code, _, stderr) = run(path, &["data", "import", name, "--out", "out.jsonl"]);
        assert!(code == 1 && stderr.contains(said), "{text}: {stderr}");
    }
    let (code, _, stderr) = check(path, "q.jsonl.gz", b"\x1f\x8b");
    assert!(code != 0 && stderr.contains(": unpack it"), "{stderr}");
}

#[test]
fn addresses_are_no_files_and_urls_of_files_are() {
    let folder = workplace();
    let path = folder.path();
    let here = path.canonicalize().unwrap().join("my clip.mp4");
    std::fs::copy(path.join("a.mp4"), &here).unwrap();
    let url = |host: &str| format!("file://{host}{}", here.display()).replace(' ', "%20");
    for clip in [url(""), url("localhost"), url("") + "#t=1,2"] {
        let (code, stdout, stderr) = run(path, &["inspect", "video", &clip]);
        assert_eq!(code, 0, "{clip}: {stdout}{stderr}");
        let asked = question(&json!({"video": clip}));
        let (code, stdout, stderr) = check(path, "q.jsonl", lines(&[asked]));
        assert_eq!(code, 0, "{clip}: {stdout}{stderr}");
    }
    for clip in [
        "https://example.org/a.mp4",
        "http://example.org/a.mp4",
        "s3://bucket/a.mp4",
        "hf://datasets/x/a.mp4",
    ] {
        let (code, _, stderr) = run(path, &["inspect", "video", clip]);
        assert!(
            code == 2 && stderr.contains("is an address, no file: download the clip"),
            "{stderr}"
        );
        let asked = question(&json!({"video": clip}));
        let (code, _, stderr) = check(path, "q.jsonl", lines(&[asked]));
        assert_eq!(code, 1);
        assert!(
            stderr.contains("line 1")
                && stderr.contains("is an address, no file: download the clip"),
            "{stderr}"
        );
    }
}

#[test]
fn every_reader_takes_the_names_of_the_clip() {
    let folder = workplace();
    let path = folder.path();
    for name in ["path", "video_path"] {
        let mut asked = question(&json!({}));
        let clip = asked
            .as_object_mut()
            .unwrap()
            .shift_remove("video")
            .unwrap();
        asked[name] = clip;
        asked["kind"] = "observational".into();
        let (code, stdout, stderr) = check(path, "q.jsonl", lines(&[asked.clone()]));
        assert_eq!(code, 0, "{name}: {stdout}{stderr}");
        // As the benchmark CLEVRER too, and imported.
        let benchmark = [
            "data",
            "check",
            "--questions",
            "q.jsonl",
            "--set=eval.benchmark=clevrer",
        ];
        let (code, stdout, stderr) = run(path, &benchmark);
        assert_eq!(code, 0, "{name}: {stdout}{stderr}");
        let import = ["data", "import", "q.jsonl", "--out", "out.jsonl"];
        let (code, _, stderr) = run(path, &import);
        assert_eq!(code, 0, "{name}: {stderr}");
    }
}
