//! Every download script against a server that holds its benchmark in the layout in which it is published, and then the
//! benchmark's own config: each question's clip has to be found. Questions and clips are invented.

use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

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

/// A dataset on the hub: `owner/name` and its files.
fn hub(name: &str, files: Vec<(String, Vec<u8>)>) -> Files {
    let entries: Vec<Value> = files
        .iter()
        .map(|(path, content)| json!({"type": "file", "oid": "0123", "size": content.len(), "path": path}))
        .collect();
    let list = Value::from(entries).to_string().into_bytes();
    let tree = format!("/api/datasets/{name}/tree/main");
    let held = files.into_iter();
    held.map(|(path, content)| (format!("/datasets/{name}/resolve/main/{path}"), content))
        .chain([(tree, list)])
        .collect()
}

fn serve(files: Files) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client may go away at any time.
            let _ = answer(stream, &files);
        }
    });
    address
}

fn answer(stream: TcpStream, files: &Files) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut first = String::new();
    lines.read_line(&mut first)?;
    let mut line = String::from("…");
    while !line.trim().is_empty() {
        line.clear();
        lines.read_line(&mut line)?;
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (status, content) = match files.get(path) {
        Some(content) => ("200 OK", content.as_slice()),
        None => ("404 Not Found", &[][..]),
    };
    let mut stream = lines.into_inner();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    )?;
    stream.write_all(content)
}

/// A folder with the scripts and configs of the repository, and nothing else.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["scripts", "scripts/lib", "configs/clevrer", "configs/eval"] {
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

/// Runs a download script against a server of these files.
fn download(folder: &Path, script: &str, files: Files) {
    let address = serve(files);
    let output = Command::new("bash")
        .args([&format!("scripts/{script}"), "--i-agree"])
        .current_dir(folder)
        .env("HF_ENDPOINT", &address)
        .env("CLEVRER_URL", format!("{address}/clevrer"))
        .env("TEMPCOMPASS_URL", format!("{address}/tempcompass"))
        .env("PROTOCOLS_URL", &address)
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
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
    download(
        folder.path(),
        "download_mmvu.sh",
        hub("yale-nlp/MMVU", files),
    );
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
        download(folder.path(), "download_video_holmes.sh", files);
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
    download(folder.path(), "download_tempcompass.sh", files);
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
    download(folder.path(), "download_protocols.sh", files.into());
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
    download(folder.path(), "download_video_mme.sh", files);
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
    download(folder.path(), "download_mvbench.sh", files);
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
    download(folder.path(), "download_clevrer.sh", files);
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
