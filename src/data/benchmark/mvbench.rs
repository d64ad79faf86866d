//! MVBench (`json/TASK.json`): 20 tasks of 200 questions about clips of eleven sources, a quarter of them CLEVRER's.
//!
//! The clips of episodic reasoning are folders of frames (`tvqa/frames_fps3_hq/NAME/%05d.jpg`), three of which make a
//! second.

use super::Found;
use super::record::question;
use super::record::with_splits;
use super::records::Record;
use crate::data::Fragment;
use crate::data::Question;
use crate::data::Span;
use crate::data::answer::option::letter_of;
use crate::data::answer::option::letters;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

/// Tasks and the folders of their clips in the official archives (`mvbench.ipynb`).
const TASKS: [(&str, &str); 20] = [
    ("action_antonym", "ssv2_video"),
    ("action_count", "perception/videos"),
    ("action_localization", "sta/sta_video"),
    ("action_prediction", "star/Charades_v1_480"),
    ("action_sequence", "star/Charades_v1_480"),
    ("character_order", "perception/videos"),
    ("counterfactual_inference", "clevrer/video_validation"),
    ("egocentric_navigation", "vlnqa"),
    ("episodic_reasoning", FRAME_FOLDERS.0),
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

/// Every task has as many questions.
const QUESTIONS_PER_TASK: usize = 200;

/// Folders of frames lie here, and this many of their frames make a second.
const FRAME_FOLDERS: (&str, f64) = ("tvqa/frames_fps3_hq", 3.0);

pub(super) fn read(record: &Record, clip_bounds: bool, found: &mut Found) -> Result<(), String> {
    let (read, task, id) = if record.is_family() {
        let task = record.optional_text("task").or_else(|| family_task(record));
        let id = record.optional_text("problem_id");
        let clip = |path: &str| family_clip(record, path, clip_bounds);
        check_bounds(record)?;
        (record.family(clip)?, task, id)
    } else {
        check_bounds(record)?;
        let (read, task) = read_official(record, clip_bounds)?;
        let id = format!("{task}/{}", record.index);
        (read, Some(task), Some(id))
    };
    // A model trained on CLEVRER has seen the like of these clips.
    let source = if read.video.starts_with("clevrer") {
        "clevrer"
    } else {
        "other"
    };
    let splits = [("task", task), ("clips", Some(source.to_owned()))];
    found.questions.push(Question {
        id: id.unwrap_or_default(),
        ..with_splits(read, splits)
    });
    Ok(())
}

fn read_official(record: &Record, clip_bounds: bool) -> Result<(Question, String), String> {
    let task = record
        .optional_text("task")
        .unwrap_or_else(|| record.stem());
    let (_, folder) = TASKS
        .iter()
        .find(|(name, _)| *name == task)
        .ok_or_else(|| format!("`{task}` is no task of MVBench: keep the official file names"))?;
    let clip = format!("{folder}/{}", record.text("video")?);
    let candidates = record.options("candidates")?;
    let answer = record.text("answer")?;
    // The answer is the text of a candidate, which may itself be a letter.
    let same = candidates
        .iter()
        .zip(letters())
        .find(|(text, _)| **text == answer);
    let letter = match same {
        Some((_, letter)) => letter.to_string(),
        None => letter_of(&answer, &candidates)?,
    };
    let marked = candidates.iter().zip(letters());
    let options = marked
        .map(|(text, letter)| format!("({letter}) {text}"))
        .collect();
    Ok((
        question(
            record.text("question")?,
            options,
            &letter,
            part(record, &clip, clip_bounds),
        ),
        task,
    ))
}

/// The task of a record of the authors' file, which names none: its questions are numbered from 1, task after task. A number
/// whose clip lies elsewhere than the task's says nothing.
fn family_task(record: &Record) -> Option<String> {
    let number: usize = record.optional_text("problem_id")?.parse().ok()?;
    let (task, folder) = TASKS.get(number.checked_sub(1)? / QUESTIONS_PER_TASK)?;
    let source = folder.split('/').next()?;
    let is_there = record
        .optional_text("video")?
        .contains(&format!("/{source}/"));
    is_there.then(|| (*task).to_owned())
}

/// The clip in the official archive. The authors' file names 600 clips by what they were converted to, `.mp4`; `ori_video`
/// is what the official file calls them (`.webm`, `.avi`, a folder of frames).
fn family_clip(record: &Record, path: &str, clip_bounds: bool) -> PathBuf {
    let rooted = format!("/{}", path.trim_start_matches('/'));
    let sources = TASKS.iter().filter_map(|(_, folder)| {
        let source = folder.split('/').next().unwrap_or(folder);
        let start = rooted.rfind(&format!("/{source}/"))? + 1;
        Some((start, *folder))
    });
    let clip = match (sources.max(), record.optional_text("ori_video")) {
        (Some((_, folder)), Some(original)) => format!("{folder}/{original}"),
        (Some((start, _)), None) => rooted[start..].to_owned(),
        (None, _) => path.to_owned(),
    };
    part(record, &clip, clip_bounds)
}

/// A part has a beginning and an end, in seconds.
fn check_bounds(record: &Record) -> Result<(), String> {
    let bound = |name: &str| record.fields.get(name).filter(|value| !value.is_null());
    let seconds = |value: &Value| value.as_f64().filter(|seconds| *seconds >= 0.0);
    match (bound("start"), bound("end")) {
        (None, None) => Ok(()),
        (Some(start), Some(end)) if seconds(start) < seconds(end) && seconds(start).is_some() => {
            Ok(())
        }
        (start, end) => {
            let shown = |value: Option<&Value>| value.map_or("absent".into(), Value::to_string);
            Err(format!(
                "`start` ({}) and `end` ({}) are no part of a clip in seconds",
                shown(start),
                shown(end)
            ))
        }
    }
}

/// The clip, or with `clip_bounds` the part of it that the question names.
fn part(record: &Record, clip: &str, clip_bounds: bool) -> PathBuf {
    let seconds = |name: &str| record.fields.get(name).and_then(Value::as_f64);
    let span = seconds("start").zip(seconds("end"));
    let span = span.filter(|_| clip_bounds);
    Fragment {
        span: span.map(|(start, end)| Span { start, end }),
        fps: frame_rate(clip),
    }
    .of(clip)
}

/// Frames per second of a folder of frames; `None` for a clip that is a file.
fn frame_rate(clip: &str) -> Option<f64> {
    let (folders, fps) = FRAME_FOLDERS;
    let is_folder = Path::new(clip).extension().is_none();
    (is_folder && clip.starts_with(folders)).then_some(fps)
}

#[cfg(test)]
mod tests {
    use super::super::read as read_benchmark;
    use super::super::tests::{read_file, splits};
    use super::*;
    use crate::config::Benchmark;
    use serde_json::json;

    fn localization() -> Value {
        json!([{"video": "a.mp4", "question": "When does it open?", "candidates": ["At the end.", "At the start.", "Never."],
                "answer": "At the start.", "start": 3.5, "end": 9, "accurate_start": 4.0, "accurate_end": 5.0}])
    }

    #[test]
    fn official_items_have_a_task_a_letter_and_bounds() {
        let questions = read_file(
            Benchmark::Mvbench,
            "action_localization.json",
            &localization(),
        )
        .unwrap();
        let question = &questions[0];
        assert_eq!(question.id, "action_localization/0");
        assert_eq!(
            question.text(),
            "When does it open?\n(A) At the end.\n(B) At the start.\n(C) Never."
        );
        assert_eq!(question.solution, "<answer>B</answer>");
        assert_eq!(question.video, Path::new("sta/sta_video/a.mp4#t=3.5,9"));
        assert_eq!(
            splits(question),
            [("task", "action_localization"), ("clips", "other")]
        );
    }

    #[test]
    fn bounds_can_be_ignored_and_folders_hold_all_tasks() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: Value| {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        };
        write("action_localization.json", localization());
        write(
            "episodic_reasoning.json",
            json!([{"video": "show_1", "question": "Who?", "candidates": ["a", "b"], "answer": "a",
            "start": 0.0, "end": 5.0, "fps": 3, "show_name": "show"}]),
        );
        write(
            "moving_count.json",
            json!([{"video": "video_10009.mp4", "question": "How many?", "candidates": ["1", "2"], "answer": "2"}]),
        );
        let questions = read_benchmark(Benchmark::Mvbench, folder.path(), false).unwrap();
        let videos: Vec<String> = questions
            .iter()
            .map(|question| question.video.display().to_string())
            .collect();
        assert_eq!(
            videos,
            [
                "sta/sta_video/a.mp4",
                "tvqa/frames_fps3_hq/show_1#fps=3",
                "clevrer/video_validation/video_10009.mp4"
            ]
        );
        assert_eq!(
            splits(&questions[2]),
            [("task", "moving_count"), ("clips", "clevrer")]
        );
        write("other.json", localization());
        let error = read_benchmark(Benchmark::Mvbench, folder.path(), false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`other` is no task"), "{error}");
    }

    #[test]
    fn candidates_may_be_letters() {
        let letters = json!([{"video": "a.mp4", "question": "Which letter was written first?", "candidates": ["C", "A", "B"], "answer": "A"}]);
        let questions = read_file(Benchmark::Mvbench, "character_order.json", &letters).unwrap();
        assert_eq!(questions[0].solution, "<answer>B</answer>");
    }

    #[test]
    fn the_family_drops_tasks_and_bounds_but_not_the_source() {
        let family = json!([{"problem_id": 3, "problem": "How many?", "options": ["A. 1", "B. 2"], "solution": "<answer>B</answer>",
            "problem_type": "multiple choice", "video": "/mnt/authors/mvbench/clevrer/video_validation/video_10009.mp4"}]);
        let questions = read_file(Benchmark::Mvbench, "eval_mvbench.json", &family).unwrap();
        assert_eq!(
            questions[0].video,
            Path::new("clevrer/video_validation/video_10009.mp4")
        );
        assert_eq!(splits(&questions[0]), [("clips", "clevrer")]);
        assert_eq!(questions[0].id, "3");
    }
    #[test]
    fn converted_clips_are_looked_for_under_their_official_names() {
        let record = |video: &str, original: &str, bounds: bool| {
            let mut record = json!({"problem_id": 1, "problem": "Which?", "options": ["A. one", "B. two"], "solution": "<answer>A</answer>",
                "problem_type": "multiple choice", "video": video, "ori_video": original, "data_type": "video"});
            if bounds {
                record["start"] = 3.5.into();
                record["end"] = 9.into();
            }
            json!([record])
        };
        for (video, original, bounds, clip) in [
            (
                "/MVBench/ssv2_video/1.mp4",
                "1.webm",
                false,
                "ssv2_video/1.webm",
            ),
            (
                "/MVBench/nturgbd/S1_rgb.mp4",
                "S1_rgb.avi",
                false,
                "nturgbd/S1_rgb.avi",
            ),
            (
                "/data/clevrer/MVBench/vlnqa/left/4_frame5.mp4",
                "left/4_frame5.mp4",
                false,
                "vlnqa/left/4_frame5.mp4",
            ),
            (
                "/MVBench/star/Charades_v1_480/A.mp4",
                "A.mp4",
                true,
                "star/Charades_v1_480/A.mp4#t=3.5,9",
            ),
            (
                "/MVBench/tvqa/frames_fps3/show_1.mp4",
                "show_1",
                true,
                "tvqa/frames_fps3_hq/show_1#t=3.5,9&fps=3",
            ),
        ] {
            let file = record(video, original, bounds);
            let read = read_file(Benchmark::Mvbench, "eval_mvbench.json", &file).unwrap();
            assert_eq!(read[0].video, Path::new(clip));
        }
    }
}
