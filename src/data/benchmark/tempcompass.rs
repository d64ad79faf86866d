//! TempCompass (`questions/TASK.json`): four tasks about five temporal aspects of 410 clips.
//!
//! Captioning, whose captions a language model judges, is a benchmark of its own (`tempcompass_captioning`): a caption is
//! asked for, and the judge answers a question with options from it. That question is the first of the clip's aspect in
//! `multi-choice.json` (`eval_captioning.py`), or a field beside the caption's in the parquet copy. In `tempcompass_flat` a
//! caption's question is one with options, the pieces of information in it.

use super::Found;
use super::record::path_after;
use super::record::question;
use super::record::with_splits;
use super::records::Record;
use crate::data::JudgeTask;
use crate::data::Question;
use crate::data::answer::option::choices_in;
use crate::data::answer::option::letter_of;
use crate::util::file;
use crate::util::json;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

const CAPTIONING: &str = "captioning";
const MULTI_CHOICE: &str = "multi-choice";
const TASKS: [&str; 4] = [MULTI_CHOICE, "yes_no", "caption_matching", CAPTIONING];

/// Which of the four tasks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    /// The three that rules score.
    WithRules,
    /// Captions, for a judge.
    Captioning,
    /// All, captions as questions with options.
    Flat,
}

/// `multi-choice.json`, as it lies beside `captioning.json`.
#[derive(Debug)]
pub(super) struct MultiChoice {
    clips: Value,
    path: PathBuf,
}

impl MultiChoice {
    fn beside(captions: &Path) -> Result<Self, String> {
        let path = captions.with_file_name("multi-choice.json");
        let failed = |reason: String| {
            format!(
                "a caption is judged by a question that is in {} ({reason}): put the official file there",
                path.display()
            )
        };
        let text = file::read(&path).map_err(|error| failed(error.to_string()))?;
        let clips = json::read(&text).map_err(|error| failed(error.to_string()))?;
        Ok(Self { clips, path })
    }

    /// The first question about an aspect of a clip, and its answer.
    fn first(&self, clip: &str, aspect: &str) -> Result<(String, String), String> {
        let item = self
            .clips
            .get(clip)
            .and_then(|clip| clip.get(aspect)?.get(0));
        let text = |name: &str| Some(item?.get(name)?.as_str()?.to_owned());
        text("question").zip(text("answer")).ok_or_else(|| {
            format!(
                "{} has no question about `{aspect}` of clip {clip}",
                self.path.display()
            )
        })
    }
}

/// Takes the captions, the three other tasks, or all. A file of the Video-R1 family has no captions to judge.
pub(super) fn read(record: &Record, tasks: Tasks, found: &mut Found) -> Result<(), String> {
    if record.is_family() {
        if tasks == Tasks::Captioning {
            found
                .leave_out("no question for a judge beside it (read the official captioning.json)");
            return Ok(());
        }
        let read = record.family(|clip| path_after(clip, "/videos/"))?;
        let field = |name| record.optional_text(name);
        let splits = [("task", field("task")), ("aspect", field("dim"))];
        found.questions.push(Question {
            id: field("problem_id").unwrap_or_default(),
            ..with_splits(read, splits)
        });
        return Ok(());
    }
    let task = task_of(record)?;
    if tasks != Tasks::Flat && (task == CAPTIONING) != (tasks == Tasks::Captioning) {
        found.leave_out(if tasks == Tasks::Captioning {
            "not captioning (eval.benchmark = \"tempcompass\")"
        } else {
            "captioning, which a language model judges (eval.benchmark = \"tempcompass_captioning\")"
        });
        return Ok(());
    }
    // The official files hold an object per clip, their parquet copies a row per question.
    let Some(clip) = &record.key else {
        let (clip, aspect) = (record.text("video_id")?, record.text("dim")?);
        let id = format!("{task}/{}", record.index);
        let place = Provenance {
            id,
            clip: &clip,
            task,
            aspect: &aspect,
        };
        return push(record, place, tasks, found);
    };
    for (aspect, items) in &record.fields {
        let items = items
            .as_array()
            .ok_or_else(|| format!("`{aspect}` is no list of questions"))?;
        for (index, item) in items.iter().enumerate() {
            let Value::Object(fields) = item else {
                return Err(format!("`{aspect}` holds something that is no question"));
            };
            let item = Record {
                path: record.path,
                index,
                key: None,
                fields: fields.clone(),
                blobs: Vec::new(),
            };
            let id = format!("{task}/{clip}/{aspect}/{index}");
            let place = Provenance {
                id,
                clip,
                task,
                aspect,
            };
            push(&item, place, tasks, found)?;
        }
    }
    Ok(())
}

/// Where a question belongs.
struct Provenance<'a> {
    id: String,
    clip: &'a str,
    task: &'static str,
    aspect: &'a str,
}

fn push(item: &Record, place: Provenance, tasks: Tasks, found: &mut Found) -> Result<(), String> {
    let Provenance {
        id,
        clip,
        task,
        aspect,
    } = place;
    let video = PathBuf::from(format!("{clip}.mp4"));
    let mut read = question(
        item.text("question")?,
        Vec::new(),
        &item.text("answer")?,
        video,
    );
    if tasks == Tasks::Captioning {
        let (asked, answer) = match item
            .optional_text("mc_question")
            .zip(item.optional_text("mc_answer"))
        {
            Some(beside) => beside,
            None => found.judged_by(item.path, clip, aspect)?,
        };
        let letter = letter_of(&answer, &choices_in(&asked))?;
        read.solution = format!("<answer>{letter}</answer>");
        read.judge = Some(JudgeTask::Caption(asked));
    } else if task == "yes_no" {
        let answer = item.text("answer")?;
        if !["yes", "no"].contains(&answer.trim().to_lowercase().as_str()) {
            return Err(format!("the answer `{answer}` is neither yes nor no"));
        }
    } else {
        let letter = letter_of(&item.text("answer")?, &read.choices())?;
        read.solution = format!("<answer>{letter}</answer>");
    }
    let splits = [
        ("task", Some(task.to_owned())),
        ("aspect", Some(aspect.to_owned())),
        ("task and aspect", Some(format!("{task} {aspect}"))),
    ];
    found.questions.push(Question {
        id,
        ..with_splits(read, splits)
    });
    Ok(())
}

impl Found {
    /// The question and answer that a caption is judged by, from the file beside `captions`.
    fn judged_by(
        &mut self,
        captions: &Path,
        clip: &str,
        aspect: &str,
    ) -> Result<(String, String), String> {
        let file = match self.multi_choice.take() {
            Some(file) => file,
            None => MultiChoice::beside(captions)?,
        };
        self.multi_choice.insert(file).first(clip, aspect)
    }
}

/// The task that the file or its folder is named after.
fn task_of(record: &Record) -> Result<&'static str, String> {
    let folder = record.path.parent().and_then(std::path::Path::file_name);
    let names = [record.path.file_stem(), folder];
    names
        .into_iter()
        .flatten()
        .find_map(|name| TASKS.into_iter().find(|task| name == *task))
        .ok_or_else(|| {
            format!(
                "neither file nor folder is named after a task: {}",
                TASKS.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::super::read as read_benchmark;
    use super::super::tests::{read_file, splits};
    use super::*;
    use crate::config::Benchmark;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn official_files_hold_clips_with_aspects() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: Value| {
            std::fs::write(folder.path().join(name), content.to_string()).unwrap();
        };
        write(
            "multi-choice.json",
            json!({"123": {"direction": [
            {"question": "Where does it go?\nA. left\nB. right", "answer": "B. right"},
            {"question": "And then?\nA. up\nB. down", "answer": "A. up"}]}}),
        );
        write(
            "yes_no.json",
            json!({"123": {"speed": [{"question": "Is it fast?", "answer": "yes"}]}}),
        );
        write(
            "caption_matching.json",
            json!({"456": {"order": [
            {"question": "Which fits better?\nCaption A: first red\nCaption B: first blue", "answer": "Caption B: first blue"},
            {"question": "Which fits better?\nOption 1: red\nOption 2: blue", "answer": "Option 1: red"}]}}),
        );
        write(
            "captioning.json",
            json!({"123": {"direction": [
                {"question": "Say what is right.\nInformation A: {'subject': 'ball', 'direction': 'right'}\nInformation B: {'subject': 'ball', 'direction': 'left'}\nGenerated Caption:",
                 "answer": "A. right"}]}}),
        );
        let questions = read_benchmark(Benchmark::Tempcompass, folder.path(), true).unwrap();
        let shown: Vec<(&str, &str)> = questions
            .iter()
            .map(|question| (question.id.as_str(), question.solution.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("caption_matching/456/order/0", "<answer>B</answer>"),
                ("caption_matching/456/order/1", "<answer>A</answer>"),
                ("multi-choice/123/direction/0", "<answer>B</answer>"),
                ("multi-choice/123/direction/1", "<answer>A</answer>"),
                ("yes_no/123/speed/0", "<answer>yes</answer>"),
            ]
        );
        assert_eq!(questions[0].text().lines().count(), 3);
        assert_eq!(questions[0].choices(), ["first red", "first blue"]);
        assert_eq!(questions[0].video, Path::new("456.mp4"));
        let captions = read_benchmark(Benchmark::TempcompassCaptioning, folder.path(), true);
        let captions = captions.unwrap();
        assert_eq!(captions.len(), 1);
        assert_eq!(captions[0].id, "captioning/123/direction/0");
        assert!(captions[0].text().ends_with("Generated Caption:"));
        // Judged by the first question about the aspect, whose order of options is another.
        assert_eq!(captions[0].solution, "<answer>B</answer>");
        let asked = "Where does it go?\nA. left\nB. right".to_owned();
        assert_eq!(captions[0].judge, Some(JudgeTask::Caption(asked)));
        assert_eq!(
            splits(&captions[0])[2],
            ("task and aspect", "captioning direction")
        );
        let flat = read_benchmark(Benchmark::TempcompassFlat, folder.path(), true).unwrap();
        assert_eq!(flat.len(), 6);
        let caption = flat
            .iter()
            .find(|one| one.id.starts_with("captioning"))
            .unwrap();
        assert_eq!(caption.solution, "<answer>A</answer>");
        assert_eq!(caption.choices().len(), 2);
        assert_eq!(caption.judge, None);
        std::fs::remove_file(folder.path().join("multi-choice.json")).unwrap();
        let error = read_benchmark(Benchmark::TempcompassCaptioning, folder.path(), true);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("multi-choice.json") && error.contains("put the official file"),
            "{error}"
        );
        assert_eq!(
            splits(&questions[4]),
            [
                ("task", "yes_no"),
                ("aspect", "speed"),
                ("task and aspect", "yes_no speed")
            ]
        );
    }

    #[test]
    fn rows_and_the_family_are_read_too() {
        let rows =
            json!([{"video_id": "123", "question": "Is it fast?", "answer": "no", "dim": "speed"}]);
        let questions = read_file(Benchmark::Tempcompass, "yes_no.json", &rows).unwrap();
        assert_eq!(
            (questions[0].id.as_str(), questions[0].video.as_path()),
            ("yes_no/0", Path::new("123.mp4"))
        );
        let error = read_file(Benchmark::Tempcompass, "questions.json", &rows).unwrap_err();
        assert!(error.contains("multi-choice"), "{error}");
        let family = json!([{"problem_id": 5, "problem": "Where?\nA. left\nB. right", "solution": "<answer>A</answer>",
            "problem_type": "multiple choice", "options": ["A. left", "B. right"], "video": "/mnt/authors/TempCompass/videos/9.mp4"}]);
        let questions =
            read_file(Benchmark::Tempcompass, "eval_tempcompass.json", &family).unwrap();
        assert_eq!(
            (questions[0].id.as_str(), questions[0].video.as_path()),
            ("5", Path::new("9.mp4"))
        );
    }
}
