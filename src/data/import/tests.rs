//! Records of every project, converted: what becomes a question, and why what is none is none.

use super::*;
use serde_json::Value;
use serde_json::json;

/// What becomes of these records, read as lines.
fn convert(
    records: &[Value],
    change: impl Fn(&mut Import),
) -> Result<(Imported, Vec<Question>), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.jsonl");
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let files = [file];
    let mut options = Import {
        files: &files,
        source: Source::Auto,
        columns: &[],
        first_option: None,
        keep_instructions: false,
        video_dir: None,
    };
    change(&mut options);
    let out = folder.path().join("out.jsonl");
    let summary = import(&options, &out).map_err(|error| error.to_string())?;
    let read = crate::data::read_questions(&out).map_err(|error| error.to_string())?;
    assert_eq!(read.len(), summary.questions);
    assert_eq!(crate::data::impossible_answers(&read), []);
    Ok((summary, read))
}

fn one(record: Value) -> Question {
    let (_, mut questions) = convert(&[record], |_| ()).unwrap();
    assert_eq!(questions.len(), 1);
    questions.remove(0)
}

fn why(record: Value) -> String {
    convert(&[record], |_| ()).unwrap_err()
}

#[test]
fn llava_turns_become_questions() {
    let record = json!({"id": "v7", "video": "x/a.mp4", "image": null, "duration": 3, "conversations": [
        {"from": "human", "value": "<image>\nWhere?\nA. left\nB. right\nAnswer with the letter."},
        {"from": "gpt", "value": "B."},
        {"from": "human", "value": "What is it?"},
        {"from": "gpt", "value": "A red cube, at rest."},
    ]});
    let convert_it = |keep| {
        let change = |import: &mut Import| {
            import.source = Source::Llava;
            import.keep_instructions = keep;
        };
        convert(std::slice::from_ref(&record), change).unwrap()
    };
    let (summary, questions) = convert_it(false);
    assert_eq!((summary.multiple_choice, summary.questions), (1, 2));
    assert_eq!(questions[0].id, "v7/1");
    assert_eq!(questions[0].solution, "<answer>B</answer>");
    assert_eq!(questions[0].problem, "Where?\nA. left\nB. right");
    let (what, counted) = summary.remarks.first_key_value().unwrap();
    assert!(what.contains("--keep-instructions") && counted.count == 1);
    let (summary, kept) = convert_it(true);
    assert_eq!(
        kept[0].problem,
        "Where?\nA. left\nB. right\nAnswer with the letter."
    );
    assert_eq!(summary.remarks.len(), 1);
    assert_eq!(questions[1].solution, "A red cube, at rest.");
    assert_eq!(questions[1].response, None);
    assert_eq!(questions[1].extra["duration"], 3);
}

#[test]
fn every_project_gives_the_same_question() {
    let text = "Where?\nA. left\nB. right";
    let thought = "<think>It goes right.</think>\n<answer>B</answer>";
    for record in [
        json!({"messages": [{"role": "user", "content": format!("<video>{text}")}], "videos": ["a.mp4"], "solution": "<answer>B</answer>"}),
        json!({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": thought}], "videos": ["a.mp4"]}),
        json!({"conversations": [{"from": "user", "value": text}, {"from": "assistant", "value": "(B)"}], "videos": [{"path": "a.mp4", "bytes": null}]}),
        json!({"prompt": [{"role": "user", "content": [{"type": "video", "video": "file:///a.mp4"}, {"type": "text", "text": text}]}], "answer": "right"}),
        json!({"prompt": text, "completion": [{"role": "assistant", "content": "\\boxed{B}"}], "video": "a.mp4"}),
        json!({"prompt": [{"role": "user", "content": format!("<video>{text}")}], "videos": ["a.mp4"], "data_source": "x", "reward_model": {"style": "rule", "ground_truth": "B"}}),
        json!({"problem": "Where?", "options": ["A. left", "B. right"], "solution": "<answer>B. right</answer>", "path": "./a.mp4", "process": "<think>It goes right.</think>"}),
        json!({"problem": format!("<video>{text}"), "answer": "b", "videos": ["a.mp4"]}),
        json!({"question": "Where?", "choices": {"A": "left", "B": "right"}, "ground_truth": "B", "video": "a.mp4"}),
    ] {
        let question = one(record.clone());
        assert_eq!(question.text(), text, "{record}");
        assert_eq!(question.solution, "<answer>B</answer>", "{record}");
        assert!(question.video.ends_with("a.mp4"), "{record}");
        assert_eq!(question.id, "in/0");
        let is_worked = record.to_string().contains("<think>");
        assert_eq!(
            question.response.as_deref(),
            is_worked.then_some(thought),
            "{record}"
        );
    }
}

#[test]
fn what_is_left_out_says_why() {
    let question = |more: Value| {
        let mut record = json!({"problem": "Where?", "options": ["left", "right"], "solution": "B", "video": "a.mp4"});
        record
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        record
    };
    for (record, reason) in [
        (
            question(json!({"video": null})),
            "not about exactly one clip",
        ),
        (
            question(json!({"video": ["a.mp4", "b.mp4"]})),
            "names 2 files",
        ),
        (
            question(json!({"video": null, "images": ["a.png"]})),
            "about images",
        ),
        (question(json!({"data_type": "image"})), "about images"),
        (
            question(json!({"video": "https://x.org/a.mp4"})),
            "no file here",
        ),
        (
            question(json!({"solution": "C"})),
            "none of the options: 1 (",
        ),
        (question(json!({"solution": "yellow"})), "\"yellow\""),
        (question(json!({"solution": null})), "no answer"),
        (question(json!({"solution": "<think>hm"})), "breaks off"),
        (
            question(json!({"options": null})),
            "multiple choice without options",
        ),
        (question(json!({"problem": "<video>"})), "no text"),
        (
            question(json!({"problem": "Why?<|im_end|>"})),
            "chat tokens",
        ),
        (
            question(json!({"choices": ["up", "down"]})),
            "different options",
        ),
        (
            json!({"text": "?", "video": "a.mp4"}),
            "its fields: text, video",
        ),
        (
            question(json!({"video": "a.mp4#t=5,2"})),
            "a.mp4#t=5,2: `#t=5,2` ends at 2 s and begins at 5 s",
        ),
        (
            question(json!({"video": "a.mp4#t=nan"})),
            "`nan` where a time belongs",
        ),
        (
            question(json!({"video": {"path": "a.mp4", "start": 5, "end": 2}})),
            "`start`, `end`: ends at 2 s",
        ),
        (
            question(json!({"solution": "A", "answer": "right"})),
            "`solution` says \"A\" and `answer` says \"right\"",
        ),
        (
            question(json!({"solution": "A", "reward_model": {"ground_truth": "B"}})),
            "`reward_model.ground_truth` says \"B\"",
        ),
        (
            question(json!({"options": "left or right"})),
            "`options` is one text, \"left or right\"",
        ),
        (
            question(json!({"options": [["A", "left"], ["B", "right"]]})),
            "option A in `options` is no text but [\"A\",\"left\"]",
        ),
        (
            question(json!({"solution": ["yellow", "blue"]})),
            "`solution` is the list [\"yellow\",\"blue\"]",
        ),
    ] {
        let error = why(record.clone());
        assert!(error.contains(reason), "{record}: {error}");
    }
    let differ = json!({"video": "a.mp4", "solution": "A", "messages": [
        {"role": "user", "content": "Where?\nA. left\nB. right"}, {"role": "assistant", "content": "B"}]});
    assert!(why(differ).contains("two answers that differ"));
    let open = |said: &str| {
        json!({"video": "a.mp4", "solution": "red", "messages": [
            {"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": said}]})
    };
    assert!(why(open("blue")).contains("two answers that differ: 1 ("));
    assert_eq!(one(open("It is Red.")).solution, "red");
    let text = json!({"video": "a.mp4", "answer": "left", "messages": [{"role": "user", "content": "Where?\nA. left\nB. right"}], "solution": "B"});
    assert!(why(text).contains("`solution` says \"B\" and `answer` says \"left\""));
}

#[test]
fn parts_of_clips_are_taken_along() {
    for (record, expected) in [
        (
            json!({"video": {"path": "a.mp4", "start": 1, "end": 2.5}}),
            "a.mp4#t=1,2.5",
        ),
        (json!({"video": "a.mp4", "video_start": 1}), "a.mp4#t=1"),
        (json!({"video": "a.mp4#t=1"}), "a.mp4#t=1"),
        (json!({"video": "a#fps=2.mp4"}), "a#fps=2.mp4"),
    ] {
        let mut fields = json!({"problem": "Which colour?", "solution": "red"});
        fields
            .as_object_mut()
            .unwrap()
            .extend(record.as_object().unwrap().clone());
        assert_eq!(one(fields).video.to_str(), Some(expected), "{record}");
    }
    let of_turns = json!({"video_end": 2, "solution": "red", "messages": [
        {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Which colour?"}]}]});
    assert_eq!(one(of_turns).video.to_str(), Some("a.mp4#t=0,2"));
    let beside = json!({"problem": "Which colour?", "solution": "red", "video": "a.mp4", "start": 1, "end": 2});
    let (summary, questions) = convert(std::slice::from_ref(&beside), |_| ()).unwrap();
    assert_eq!(questions[0].video.to_str(), Some("a.mp4"));
    assert!(
        summary
            .remarks
            .keys()
            .any(|what| what.contains("times beside the clip"))
    );
    let columns: Vec<Column> = ["video_start=start", "video_end=end"]
        .map(|text| text.parse().unwrap())
        .into();
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("in.jsonl")];
    std::fs::write(&files[0], beside.to_string()).unwrap();
    let options = Import {
        files: &files,
        source: Source::Auto,
        columns: &columns,
        first_option: None,
        keep_instructions: false,
        video_dir: None,
    };
    let sample = import(&options, &folder.path().join("out.jsonl"))
        .unwrap()
        .sample;
    assert_eq!(sample.unwrap().video.to_str(), Some("a.mp4#t=1,2"));
}

#[test]
fn nothing_is_dropped_in_silence() {
    let good = json!({"id": 1, "problem": "Where?", "options": ["left", "right"], "solution": "The ball ends on the right.", "video": "a.mp4", "kind": "spatial"});
    let bad = json!({"id": 2, "problem": "Where?", "options": ["left", "right"], "solution": "yellow", "video": "a.mp4"});
    let (summary, questions) = convert(&[good.clone(), bad.clone(), bad, good], |_| ()).unwrap();
    assert_eq!((summary.records, summary.questions), (4, 2));
    let left = &summary.left_out["an answer that is none of the options"];
    assert_eq!(left.count, 2);
    assert!(
        left.first.contains("record 1 (counted from 0): \"yellow\""),
        "{}",
        left.first
    );
    assert_eq!(summary.remarks["an option named in a sentence"].count, 2);
    assert_eq!(
        summary.remarks["ids that stood twice, now numbered"].count,
        1
    );
    let ids: Vec<&str> = questions
        .iter()
        .map(|question| question.id.as_str())
        .collect();
    assert_eq!(ids, ["1", "1#2"]);
    assert_eq!(
        (questions[0].kind, &questions[0].extra["source_kind"]),
        (None, &json!("spatial"))
    );
}

#[test]
fn numbers_of_options_need_their_first() {
    let record =
        json!({"question": "Where?", "a0": "left", "a1": "right", "answer": 1, "video": "a.mp4"});
    let columns: Vec<Column> = ["options=a0+a1"].map(|text| text.parse().unwrap()).into();
    let solution = |first| {
        convert(std::slice::from_ref(&record), |import| {
            import.first_option = first;
        })
    };
    let lost = solution(None).unwrap_err();
    assert!(
        lost.contains("--columns options=a0+a1; where answers are numbers"),
        "{lost}"
    );
    let convert = |first: Option<usize>| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("in.jsonl");
        std::fs::write(&file, record.to_string()).unwrap();
        let files = [file];
        let options = Import {
            files: &files,
            source: Source::Auto,
            columns: &columns,
            first_option: first,
            keep_instructions: false,
            video_dir: None,
        };
        let summary = import(&options, &folder.path().join("out.json"));
        summary
            .map(|summary| summary.sample.unwrap().solution)
            .map_err(|error| error.to_string())
    };
    assert_eq!(convert(Some(0)).unwrap(), "<answer>B</answer>");
    assert_eq!(convert(Some(1)).unwrap(), "<answer>A</answer>");
    assert!(convert(None).unwrap_err().contains("--first-option"));
    assert!(convert(Some(2)).unwrap_err().contains("not there"));
}

/// Records as LLaMA-Factory, ms-swift and TRL document them, with a clip each.
#[test]
fn a_bad_answer_and_an_image_beside_the_clip_are_left_out() {
    let asked = |content: &str| json!({"role": "user", "content": content});
    let said = json!({"role": "assistant", "content": "I don't know"});
    for (record, reason) in [
        (
            json!({"messages": [asked("<video>Tell me tomorrow's weather"), said], "label": false, "videos": ["02.mp4"]}),
            "marked as a bad one: 1 (",
        ),
        (
            json!({"messages": [asked("Why?"), said], "kto_tag": false, "videos": ["02.mp4"]}),
            "kto_tag = false",
        ),
        (
            json!({"messages": [asked("<image>What is in the image, <video>What is in the video?"), said], "images": ["x.jpg"], "videos": ["01.mp4"]}),
            "`images` names images beside the clip 01.mp4",
        ),
        (
            json!({"messages": [asked("<image>What is in the image, <video>What is in the video?"), said], "videos": ["01.mp4"]}),
            "an image stands beside the clip",
        ),
        (
            json!({"problem": "<image> vs <video>?", "answer": "x", "videos": ["a.mp4"], "images": ["a.jpg"]}),
            "`images` names images",
        ),
        (
            json!({"video": "a.mp4", "image": "a.jpg", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}),
            "`image` names images",
        ),
        (
            json!({"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]}], "solution": "x"}),
            "an image stands beside the clip",
        ),
        (
            json!({"messages": [asked("Why?")], "chosen": {"role": "assistant", "content": "x"}, "videos": ["a.mp4"]}),
            "no answer: 1 (",
        ),
        (
            json!({"problem": "Why?", "correct_answer": "x", "video": "a.mp4"}),
            "its other fields: correct_answer",
        ),
        (
            json!({"problem": "Why?", "solution": "x", "video": true}),
            "`video` is true",
        ),
        (
            json!({"problem": "Which?", "options": ["left", "right"], "answer": 4, "video": "a.mp4"}),
            "--first-option 0 or 1",
        ),
        (
            json!({"problem": "Which?\nA. x\nC. y", "answer": "C", "video": "a.mp4"}),
            "multiple choice without options",
        ),
    ] {
        let error = why(record.clone());
        assert!(error.contains(reason), "{record}: {error}");
    }
    let good = json!({"messages": [asked("Why?"), said], "label": true, "images": [], "videos": ["02.mp4"]});
    assert_eq!(one(good).solution, "I don't know");
}

#[test]
fn a_clip_as_verl_writes_it_is_read_and_its_frames_are_remarked() {
    let clip = json!({"type": "video", "video": "file:///path/to/video.mp4", "fps": 2, "min_frames": 1, "max_frames": 32});
    let asked = json!([{"role": "user", "content": "<video>How many?"}]);
    let truth = json!({"style": "rule", "ground_truth": "3"});
    let inside =
        json!([{"role": "user", "content": [clip, {"type": "text", "text": "How many?"}]}]);
    for record in [
        json!({"prompt": asked, "videos": [clip], "reward_model": truth}),
        json!({"prompt": asked, "video": clip, "reward_model": truth}),
        json!({"prompt": inside, "reward_model": truth}),
    ] {
        let (summary, questions) = convert(std::slice::from_ref(&record), |_| ()).unwrap();
        assert_eq!(questions[0].video.to_str(), Some("/path/to/video.mp4"));
        assert_eq!(questions[0].solution, "3");
        let (what, counted) = summary.remarks.first_key_value().unwrap();
        assert!(what.contains("frames or pixels"), "{what}");
        assert!(counted.first.ends_with(": fps"), "{}", counted.first);
    }
}

#[test]
fn an_open_answer_stands_as_it_is_written() {
    for (solution, expected) in [
        (
            "<answer>The person cracks an egg.</answer>",
            "The person cracks an egg.",
        ),
        ("<answer>e.g. U.S.</answer>", "e.g. U.S."),
        ("<think>so</think> It stops.", "It stops."),
        ("It stops.", "It stops."),
        ("\\boxed{7}", "7"),
        ("<think>so</think><answer>7</answer>", "7"),
    ] {
        let record = json!({"problem": "What?", "solution": solution, "video": "a.mp4"});
        assert_eq!(one(record).solution, expected, "{solution}");
    }
    let number = json!({"problem": "What?", "solution": "x", "video": 4_010_069_381_u64});
    assert_eq!(one(number).video.to_str(), Some("4010069381"));
    let path = json!({"problem": "What?", "solution": "x", "video_path": "./a.mp4"});
    assert_eq!(one(path).video.to_str(), Some("a.mp4"));
}
