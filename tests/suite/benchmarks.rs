//! The benchmarks at their full size: as many invented items as are published, in the official shapes and in those of the
//! Video-R1 family, load completely and without a warning.

use parquet::data_type::ByteArray;
use parquet::data_type::ByteArrayType;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use tracing_subscriber::fmt::MakeWriter;
use videothinker::config::Benchmark;
use videothinker::data::Question;
use videothinker::data::benchmark;

/// Collects what is logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logged {
    type Writer = Self;
    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Reads a benchmark; no warning may come, and every question must be one that can be asked and scored.
fn read(benchmark: Benchmark, path: &Path) -> Vec<Question> {
    let logged = Logged::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_writer(logged.clone())
        .finish();
    let read = tracing::subscriber::with_default(subscriber, || {
        tracing::warn!("the collector works");
        benchmark::read(benchmark, path, true)
    });
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert_eq!(logged.matches("WARN").count(), 1, "{logged}");
    let questions = read.unwrap_or_else(|error| panic!("{error}"));
    for question in &questions {
        let choices = question.choices();
        let answer = question.answer().to_string();
        let letters = 'A'..(b'A' + choices.len() as u8) as char;
        let known = answer
            .split(',')
            .all(|letter| letters.contains(&letter.chars().next().unwrap()));
        assert!(choices.is_empty() || known, "{question:?}");
    }
    questions
}

fn write(path: &Path, content: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content.to_string()).unwrap();
}

/// Ids, clips, texts and answers, which two shapes of one benchmark have in common.
fn gist(questions: &[Question]) -> Vec<(String, String, String)> {
    let gist = |question: &Question| {
        let text = question.choices().join("|");
        (
            question.video.display().to_string(),
            text,
            question.answer().to_string(),
        )
    };
    questions.iter().map(gist).collect()
}

/// Options and the index of the right one; every number of options occurs.
fn options(index: usize, most: usize) -> (Vec<String>, usize) {
    let count = 2 + index % (most - 1);
    let texts = (0..count).map(|option| format!("thing {} of clip {index}", option + 1));
    (texts.collect(), index * 7 % count)
}

fn letter(index: usize) -> String {
    ('A'..='Z').nth(index).unwrap().to_string()
}

/// `A. …`
fn marked(options: &[String]) -> Vec<String> {
    let numbered = options.iter().enumerate();
    numbered
        .map(|(index, text)| format!("{}. {text}", letter(index)))
        .collect()
}

/// The options in an object with the keys A, B, …
fn lettered(options: &[String]) -> Value {
    let numbered = options.iter().enumerate();
    numbered
        .map(|(index, text)| (letter(index), Value::from(text.as_str())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A record of the Video-R1 family.
fn family(index: usize, problem: &str, options: &[String], right: usize, video: &str) -> Value {
    json!({
        "problem_id": index, "problem": problem, "data_type": "video", "problem_type": "multiple choice",
        "options": marked(options), "process": "", "solution": format!("<answer>{}</answer>", letter(right)),
        "video": video, "data_source": "u",
    })
}

#[test]
fn mmvu_loads_in_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let subjects = ["Art", "Biology", "Dentistry", "Mechanical_Engineering"];
    let clip = |index: usize| format!("{}/{index}.mp4", subjects[index % subjects.len()]);
    let (mut official, mut shared) = (Vec::new(), Vec::new());
    for index in 0..1000 {
        let (texts, right) = options(index, 5);
        let open = index % 8 >= 5;
        let mut choices = lettered(&texts);
        let answer = if open {
            "Gothic".to_owned()
        } else {
            letter(right)
        };
        for unused in if open { 0 } else { texts.len() }..5 {
            choices[letter(unused)] = "".into();
        }
        let kind = if open {
            "open-ended"
        } else {
            "multiple-choice"
        };
        official.push(json!({
            "id": format!("validation_{index}"), "video": format!("https://example.org/MMVU/resolve/main/videos/{}", clip(index)),
            "youtube_url": "u", "question_type": kind, "metadata": {"subject": "s", "textbook": "", "rationale": "r", "knowledge": ["k"]},
            "question": "Which thing is shown?", "choices": choices, "answer": answer,
        }));
        if !open {
            let video = format!("./Evaluation/MMVU/videos/{}", clip(index));
            shared.push(family(
                index,
                "Which thing is shown?",
                &texts,
                right,
                &video,
            ));
        }
    }
    let (whole, reduced) = (
        folder.path().join("validation.json"),
        folder.path().join("eval_mmvu.json"),
    );
    write(&whole, &official.into());
    write(&reduced, &shared.into());
    let questions = read(Benchmark::Mmvu, &whole);
    assert_eq!(Some(questions.len()), Benchmark::Mmvu.published_questions());
    assert_eq!(gist(&read(Benchmark::Mmvu, &reduced)), gist(&questions));
    assert_eq!(read(Benchmark::MmvuOpen, &whole).len(), 375);
}

/// Tasks of MVBench and the folders that their clips are in.
const MVBENCH: [(&str, &str); 20] = [
    ("action_antonym", "ssv2_video"),
    ("action_count", "perception/videos"),
    ("action_localization", "sta/sta_video"),
    ("action_prediction", "star/Charades_v1_480"),
    ("action_sequence", "star/Charades_v1_480"),
    ("character_order", "perception/videos"),
    ("counterfactual_inference", "clevrer/video_validation"),
    ("egocentric_navigation", "vlnqa"),
    ("episodic_reasoning", "tvqa/frames_fps3_hq"),
    ("fine_grained_action", "Moments_in_Time_Raw/videos"),
    ("fine_grained_pose", "nturgbd"),
    ("moving_attribute", "clevrer/video_validation"),
    ("moving_count", "clevrer/video_validation"),
    ("moving_direction", "clevrer/video_validation"),
    ("object_existence", "clevrer/video_validation"),
    ("object_interaction", "star/Charades_v1_480"),
    ("object_shuffle", "perception/videos"),
    ("scene_transition", "scene_qa/video"),
    ("state_change", "perception/videos"),
    ("unexpected_action", "FunQA_test/test"),
];

#[test]
fn mvbench_loads_in_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let bounded = [
        "action_localization",
        "action_prediction",
        "action_sequence",
        "episodic_reasoning",
        "object_interaction",
    ];
    let mut shared = Vec::new();
    for (task, source) in MVBENCH {
        let items: Vec<Value> = (0..200)
            .map(|index| {
                let (texts, right) = options(index, 5);
                let frames = task == "episodic_reasoning";
                let clip = if frames { format!("show_{index}") } else { format!("{index}.mp4") };
                let video = format!("./Evaluation/MVBench/{source}/{clip}");
                shared.push(family(shared.len(), "What happens?", &texts, right, &video));
                let mut item = json!({"video": clip, "question": "What happens?", "candidates": texts, "answer": texts[right]});
                if bounded.contains(&task) {
                    (item["start"], item["end"]) = (json!(index), json!(index as f64 + 7.25));
                }
                item
            })
            .collect();
        write(
            &folder.path().join(format!("json/{task}.json")),
            &items.into(),
        );
    }
    write(&folder.path().join("eval_mvbench.json"), &shared.into());
    let questions = read(Benchmark::Mvbench, &folder.path().join("json"));
    assert_eq!(
        Some(questions.len()),
        Benchmark::Mvbench.published_questions()
    );
    let clipped = questions
        .iter()
        .filter(|one| one.video.to_string_lossy().contains("#t="));
    assert_eq!(clipped.count(), 5 * 200);
    let shared = read(Benchmark::Mvbench, &folder.path().join("eval_mvbench.json"));
    // Episodic reasoning has folders of frames, three to a second.
    for questions in [&questions, &shared] {
        let folders = questions
            .iter()
            .filter(|one| one.video.to_string_lossy().ends_with("fps=3"));
        assert_eq!(folders.count(), 200);
    }
    let of_files = |questions: &[Question]| -> Vec<_> {
        let file = |video: String| video.split('#').next().unwrap().to_owned();
        let gist = gist(questions).into_iter();
        gist.map(|(video, text, answer)| (file(video), text, answer))
            .collect()
    };
    assert_eq!(of_files(&shared), of_files(&questions));
}

#[test]
fn video_holmes_loads_in_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let types = ["SR", "IMC", "TCI", "TA", "MHR", "PAR", "CTI"];
    let (mut official, mut shared) = (Vec::new(), Vec::new());
    for index in 0..1837 {
        let (texts, right) = options(index, 6);
        // Numbered within a film.
        let (film, number, kind) = (
            format!("film-{}", index % 270),
            index / 270,
            types[index % 7],
        );
        official.push(json!({
            "video ID": film, "Question ID": number, "Question Type": kind, "Question": "Who did it?",
            "Options": lettered(&texts), "Answer": letter(right), "Explanation": "e",
        }));
        shared.push(json!({
            "video": format!("/Video-Holmes/videos/{film}.mp4"), "question_id": number, "question_type": kind,
            "problem": format!("Who did it? \n{}", marked(&texts).join("\n")), "question": "Who did it?",
            "options": texts, "solution": format!("<answer>{}</answer>", letter(right)), "source": "video_holmes",
        }));
    }
    let (whole, reduced) = (
        folder.path().join("test_Video-Holmes.json"),
        folder.path().join("eval.json"),
    );
    write(&whole, &official.into());
    write(&reduced, &shared.into());
    let questions = read(Benchmark::VideoHolmes, &whole);
    assert_eq!(
        Some(questions.len()),
        Benchmark::VideoHolmes.published_questions()
    );
    let family = read(Benchmark::VideoHolmes, &reduced);
    assert_eq!(gist(&family), gist(&questions));
    assert!(
        questions
            .iter()
            .zip(&family)
            .all(|(one, other)| one.id == other.id)
    );
}

#[test]
fn tempcompass_loads_in_every_shape() {
    let folder = tempfile::tempdir().unwrap();
    let aspects = ["action", "speed", "direction", "order", "attribute_change"];
    let mut shared = Vec::new();
    for (task, count) in [
        ("multi-choice", 1580),
        ("yes_no", 2453),
        ("caption_matching", 1503),
        ("captioning", 2004),
    ] {
        let mut clips = serde_json::Map::new();
        let mut rows = Vec::new();
        for index in 0..count {
            let (texts, right) = options(index, 4);
            let (clip, aspect) = ((index % 410).to_string(), aspects[index / 410 % 5]);
            let (question, answer) = match task {
                "multi-choice" => (
                    format!("What?\n{}", marked(&texts).join("\n")),
                    marked(&texts)[right].clone(),
                ),
                "caption_matching" => {
                    let lines: Vec<String> = (1..)
                        .zip(&texts)
                        .map(|(number, text)| format!("Option {number}: {text}"))
                        .collect();
                    (
                        format!("Which caption fits?\n{}", lines.join("\n")),
                        lines[right].clone(),
                    )
                }
                "yes_no" => ("Is it so?".to_owned(), ["yes", "no"][index % 2].to_owned()),
                _ => ("Describe it.".to_owned(), "…".to_owned()),
            };
            let mut item = json!({"question": question, "answer": answer});
            let mut row = vec![clip.clone(), question, answer, aspect.to_owned()];
            if task == "captioning" {
                let asked = format!("What?\n{}", marked(&texts).join("\n"));
                let truth = marked(&texts)[right].clone();
                item["mc_question"] = asked.clone().into();
                item["mc_answer"] = truth.clone().into();
                row.extend([asked, truth]);
            }
            let of_clip = clips.entry(clip.clone()).or_insert_with(|| json!({}));
            let of_aspect = of_clip
                .as_object_mut()
                .unwrap()
                .entry(aspect)
                .or_insert_with(|| json!([]));
            of_aspect.as_array_mut().unwrap().push(item);
            if task == "multi-choice" {
                let video = format!("./Evaluation/TempCompass/videos/{clip}.mp4");
                shared.push(family(index, "What?", &texts, right, &video));
            }
            rows.push(row);
        }
        write(
            &folder.path().join(format!("questions/{task}.json")),
            &clips.into(),
        );
        let mut columns = vec!["video_id", "question", "answer", "dim"];
        if task == "captioning" {
            columns.extend(["mc_question", "mc_answer"]);
        }
        write_parquet(
            &folder
                .path()
                .join(format!("copies/{task}/test-00000-of-00001.parquet")),
            &columns,
            &rows,
        );
    }
    let questions = read(Benchmark::Tempcompass, &folder.path().join("questions"));
    assert_eq!(
        Some(questions.len()),
        Benchmark::Tempcompass.published_questions()
    );
    let copies = read(Benchmark::Tempcompass, &folder.path().join("copies"));
    let sorted = |questions: &[Question]| {
        let mut gist = gist(questions);
        gist.sort();
        gist
    };
    assert_eq!(sorted(&copies), sorted(&questions));
    let captioning = Benchmark::TempcompassCaptioning;
    let captions = read(captioning, &folder.path().join("questions"));
    assert_eq!(Some(captions.len()), captioning.published_questions());
    assert!(captions.iter().all(|one| one.judge.is_some()));
    let copies = read(captioning, &folder.path().join("copies"));
    assert_eq!(sorted(&copies), sorted(&captions));
    let path = folder.path().join("eval_tempcompass.json");
    write(&path, &shared.into());
    assert_eq!(read(Benchmark::Tempcompass, &path).len(), 1580);
}

#[test]
fn videomme_loads_in_every_shape() {
    let folder = tempfile::tempdir().unwrap();
    let (mut rows, mut columns, mut nested, mut shared) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let durations = ["short", "medium", "long"];
    for clip in 0..900 {
        let of_clip = json!({
            "video_id": format!("{clip:03}"), "duration": durations[clip / 300], "domain": "Knowledge",
            "sub_category": "Biology", "url": "u", "videoID": format!("clip-{clip}"),
        });
        let mut questions = Vec::new();
        for number in 0..3 {
            let index = 3 * clip + number;
            let (texts, right) = options(3 * index + 2, 4);
            let question = json!({
                "question_id": format!("{clip:03}-{}", number + 1), "task_type": "Counting", "question": "How many cells?",
                "options": marked(&texts), "answer": letter(right),
            });
            let merged = |more: &Value| {
                let mut all = of_clip.as_object().unwrap().clone();
                all.extend(question.as_object().unwrap().clone());
                all.extend(more.as_object().unwrap().clone());
                Value::from(all)
            };
            rows.push(merged(&json!({})));
            let video = format!("./Evaluation/Video-MME/data/clip-{clip}.mp4");
            shared.push(merged(&family(
                index,
                "How many cells?",
                &texts,
                right,
                &video,
            )));
            questions.push(question);
        }
        let mut template = of_clip.clone();
        template["questions"] = questions.into();
        nested.push(template);
    }
    for row in &rows {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let mut cells = VIDEOMME.map(text).to_vec();
        cells.extend(
            row["options"]
                .as_array()
                .unwrap()
                .iter()
                .map(|option| option.as_str().unwrap().to_owned()),
        );
        columns.push(cells);
    }
    let path = |name: &str| folder.path().join(name);
    write(&path("rows.json"), &rows.into());
    write(&path("template.json"), &nested.into());
    write(&path("eval_videomme.json"), &shared.into());
    write_parquet(
        &path("videomme/test-00000-of-00001.parquet"),
        &VIDEOMME,
        &columns,
    );
    let questions = read(Benchmark::Videomme, &path("rows.json"));
    assert_eq!(
        Some(questions.len()),
        Benchmark::Videomme.published_questions()
    );
    for other in ["template.json", "eval_videomme.json", "videomme"] {
        let others = read(Benchmark::Videomme, &path(other));
        assert_eq!(gist(&others), gist(&questions), "{other}");
    }
}

/// Columns of Video-MME's parquet file that hold a text; `options` follows them.
const VIDEOMME: [&str; 10] = [
    "video_id",
    "duration",
    "domain",
    "sub_category",
    "url",
    "videoID",
    "question_id",
    "task_type",
    "question",
    "answer",
];

/// Writes rows of texts; what a row has beyond the columns goes into a list `options`, as Hugging Face's `datasets` writes it.
fn write_parquet(path: &Path, columns: &[&str], rows: &[Vec<String>]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let with_options = rows[0].len() > columns.len();
    let mut schema = "message schema {\n".to_owned();
    for name in columns {
        schema += &format!("optional binary {name} (STRING);\n");
    }
    if with_options {
        schema += "optional group options (LIST) { repeated group list { optional binary element (STRING); } }\n";
    }
    let schema = Arc::new(parse_message_type(&(schema + "}")).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for index in 0..columns.len() + usize::from(with_options) {
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let cells = if index < columns.len() {
                &row[index..=index]
            } else {
                &row[index..]
            };
            for (place, cell) in cells.iter().enumerate() {
                values.push(ByteArray::from(cell.as_str()));
                defined.push(if index < columns.len() { 1 } else { 3 });
                repeated.push(i16::from(place > 0));
            }
        }
        let repeated = (index == columns.len()).then_some(repeated.as_slice());
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&defined), repeated)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}
