//! Video-MME: 2,700 questions about 900 clips of three durations, as rows or nested by clip (the official result template).

use super::Found;
use super::record::question;
use super::record::with_splits;
use super::records::Record;
use crate::data::Question;
use crate::data::answer::option::letter_of;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;

pub(super) fn read(record: &mut Record, found: &mut Found) -> Result<(), String> {
    let Some(nested) = record.fields.remove("questions") else {
        found.questions.push(read_row(record)?);
        return Ok(());
    };
    let Value::Array(items) = nested else {
        return Err("`questions` is no list".into());
    };
    for item in items {
        let Value::Object(item) = item else {
            return Err("`questions` holds something that is no question".into());
        };
        // The clip's fields hold for each of its questions.
        let mut fields = record.fields.clone();
        fields.extend(item);
        let row = Record {
            path: record.path,
            index: record.index,
            key: None,
            fields,
            blobs: Vec::new(),
        };
        found.questions.push(read_row(&row)?);
    }
    Ok(())
}

fn read_row(record: &Record) -> Result<Question, String> {
    let field = |name| record.optional_text(name);
    let read = if record.is_family() {
        record.family(|clip| PathBuf::from(Path::new(clip).file_name().unwrap_or_default()))?
    } else {
        let clip = field("videoID").map_or_else(|| record.text("video_id"), Ok)?;
        let options = record.options("options")?;
        let letter = letter_of(&record.text("answer")?, &options)?;
        question(
            record.text("question")?,
            options,
            &letter,
            PathBuf::from(clip + ".mp4"),
        )
    };
    let splits = [
        ("duration", field("duration")),
        ("domain", field("domain")),
        ("sub_category", field("sub_category")),
        ("task", field("task_type")),
    ];
    let id = field("question_id").or_else(|| field("problem_id"));
    Ok(Question {
        id: id.unwrap_or_default(),
        ..with_splits(read, splits)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_file, splits};
    use crate::config::Benchmark;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn rows_nested_clips_and_the_family_give_the_same_question() {
        let row = json!([{"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Biology", "url": "u",
            "videoID": "xyz_1", "question_id": "001-1", "task_type": "Counting", "question": "How many cells?",
            "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C"}]);
        let nested = json!([{"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Biology", "videoID": "xyz_1",
            "questions": [{"question_id": "001-1", "task_type": "Counting", "question": "How many cells?",
                "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C", "response": ""}]}]);
        let family = json!([{"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Biology", "url": "u",
            "videoID": "xyz_1", "question_id": "001-1", "task_type": "Counting", "question": "How many cells?",
            "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C", "problem_id": 0, "problem": "How many cells?",
            "data_type": "video", "problem_type": "multiple choice", "original_question_type": "Counting",
            "solution": "<answer>C</answer>", "video": "/mnt/authors/Video-MME/data/xyz_1.mp4", "subtitle": ""}]);
        for (name, file) in [
            ("test.json", row),
            ("template.json", nested),
            ("eval_videomme.json", family),
        ] {
            let questions = read_file(Benchmark::Videomme, name, &file).unwrap();
            assert_eq!(questions.len(), 1);
            let question = &questions[0];
            assert_eq!(question.id, "001-1");
            assert_eq!(question.video, Path::new("xyz_1.mp4"));
            assert_eq!(question.solution, "<answer>C</answer>");
            assert_eq!(
                question.text(),
                "How many cells?\nA. 1.\nB. 2.\nC. 3.\nD. 4."
            );
            assert_eq!(
                splits(question),
                [
                    ("duration", "short"),
                    ("domain", "Knowledge"),
                    ("sub_category", "Biology"),
                    ("task", "Counting")
                ]
            );
        }
    }

    #[test]
    fn the_template_without_file_stems_names_clips_by_number() {
        let nested = json!([{"video_id": "001", "questions": [{"question_id": "001-1", "question": "Q?", "options": ["A. x", "B. y"], "answer": "A"}]}]);
        let questions = read_file(Benchmark::Videomme, "template.json", &nested).unwrap();
        assert_eq!(questions[0].video, Path::new("001.mp4"));
    }
}
