//! MMVU (`yale-nlp/MMVU`, `data/validation.json`): 625 multiple-choice and 375 open-ended questions, never mixed.

use super::Found;
use super::record::question;
use super::record::with_splits;
use super::records::Record;
use crate::data::JudgeTask;
use crate::data::Question;
use crate::data::answer::option::letter_of;
use std::path::Path;
use std::path::PathBuf;

/// The 27 subjects by discipline, as lmms-eval sorts them.
const DISCIPLINES: [(&str, &[&str]); 4] = [
    (
        "Science",
        &[
            "Astronomy",
            "Biology",
            "Chemistry",
            "Electromagnetism",
            "Geography",
            "Materials_Science",
            "Mechanics",
            "Modern_Physics",
            "Neurobiology",
            "Thermodynamics",
        ],
    ),
    (
        "Engineering",
        &[
            "Biomedical_Engineering",
            "Civil_Engineering",
            "Computer_Science",
            "Electrical_Engineering",
            "Electronics_and_Communication",
            "Mechanical_Engineering",
        ],
    ),
    (
        "Healthcare",
        &[
            "Basic_Medicine",
            "Clinical_Medicine",
            "Dentistry",
            "Pharmacy",
            "Preventive_Medicine",
        ],
    ),
    (
        "Humanities_and_Social_Science",
        &[
            "Art",
            "Economics",
            "History",
            "Law",
            "Literature",
            "Management",
        ],
    ),
];

/// Takes the multiple-choice questions, or the open-ended ones.
pub(super) fn read(
    record: &Record,
    multiple_choice: bool,
    found: &mut Found,
) -> Result<(), String> {
    let read = if record.is_family() {
        record.family(subject_clip)?
    } else {
        read_official(record)?
    };
    let types = ["problem_type", "original_question_type", "question_type"];
    let is_choice = |name| {
        let kind = record.optional_text(name).unwrap_or_default();
        kind.replace('-', " ")
            .eq_ignore_ascii_case("multiple choice")
    };
    let is_choice = read.options.is_some() || types.into_iter().any(is_choice);
    if is_choice != multiple_choice {
        found.leave_out(if multiple_choice {
            "open-ended (eval.benchmark = \"mmvu_open\")"
        } else {
            "multiple choice (eval.benchmark = \"mmvu\")"
        });
        return Ok(());
    }
    // Clips lie in a folder per subject.
    let folder = read.video.parent().and_then(Path::file_name);
    let subject = folder.map(|name| name.to_string_lossy().into_owned());
    let discipline = DISCIPLINES
        .iter()
        .find(|(_, subjects)| {
            subject
                .as_deref()
                .is_some_and(|name| subjects.contains(&name))
        })
        .map(|(name, _)| (*name).to_owned());
    let id = record
        .optional_text("id")
        .or_else(|| record.optional_text("problem_id"));
    let splits = [("discipline", discipline), ("subject", subject)];
    let mut read = Question {
        id: id.unwrap_or_default(),
        ..with_splits(read, splits)
    };
    if !multiple_choice {
        read.judge = Some(JudgeTask::Open(read.problem.clone()));
    }
    found.questions.push(read);
    Ok(())
}

fn read_official(record: &Record) -> Result<Question, String> {
    let video = record
        .text("video")
        .or_else(|_| record.text("video_path"))?;
    let video = subject_clip(&video);
    let (problem, answer) = (record.text("question")?, record.text("answer")?);
    if record.text("question_type")? != "multiple-choice" {
        return Ok(question(problem, Vec::new(), &answer, video));
    }
    let options = record.options("choices")?;
    let letter = letter_of(&answer, &options)?;
    Ok(question(problem, options, &letter, video))
}

/// `<Subject>/<n>.mp4`, the end of a path or address however far it reaches.
fn subject_clip(path: &str) -> PathBuf {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
    let (clip, subject) = (parts.next().unwrap_or_default(), parts.next());
    Path::new(subject.unwrap_or_default()).join(clip)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_file, splits};
    use super::*;
    use crate::config::Benchmark;
    use serde_json::json;

    fn official() -> serde_json::Value {
        json!([
            {"id": "validation_0", "video": "https://example.org/MMVU/resolve/main/videos/Modern_Physics/7.mp4", "youtube_url": "u",
             "question_type": "multiple-choice", "metadata": {"subject": "Modern Physics", "textbook": "t", "knowledge": ["k"], "rationale": "r"},
             "question": "Which law is shown?", "choices": {"A": "one", "B": "two", "C": "three", "D": "four", "E": "five"}, "answer": "D"},
            {"id": "validation_1", "video": "https://example.org/MMVU/resolve/main/videos/Art/1.mp4", "youtube_url": "u",
             "question_type": "open-ended", "metadata": {}, "question": "Which style?",
             "choices": {"A": "", "B": "", "C": "", "D": "", "E": ""}, "answer": "Late Gothic"},
        ])
    }

    #[test]
    fn the_two_kinds_of_question_are_never_mixed() {
        let multiple = read_file(Benchmark::Mmvu, "validation.json", &official()).unwrap();
        assert_eq!(multiple.len(), 1);
        assert_eq!(multiple[0].id, "validation_0");
        assert_eq!(multiple[0].video, Path::new("Modern_Physics/7.mp4"));
        assert_eq!(multiple[0].solution, "<answer>D</answer>");
        assert!(multiple[0].text().ends_with("\nE. five"));
        assert_eq!(
            splits(&multiple[0]),
            [("discipline", "Science"), ("subject", "Modern_Physics")]
        );
        let open = read_file(Benchmark::MmvuOpen, "validation.json", &official()).unwrap();
        assert_eq!(open.len(), 1);
        assert_eq!(
            (open[0].text().as_str(), open[0].solution.as_str()),
            ("Which style?", "<answer>Late Gothic</answer>")
        );
        let asked = JudgeTask::Open("Which style?".into());
        assert_eq!(open[0].judge, Some(asked));
        assert_eq!(multiple[0].judge, None);
    }

    #[test]
    fn the_family_gives_the_same_question() {
        let family = json!([{
            "problem_id": 0, "problem": "Which law is shown?", "data_type": "video", "problem_type": "multiple choice",
            "original_question_type": "multiple-choice", "options": ["A. one", "B. two", "C. three", "D. four", "E. five"],
            "process": "", "solution": "<answer>D</answer>", "video": "/mnt/authors/MMVU/videos/Modern_Physics/7.mp4", "data_source": "u",
        }]);
        let official = read_file(Benchmark::Mmvu, "validation.json", &official()).unwrap();
        let family = read_file(Benchmark::Mmvu, "eval_mmvu.json", &family).unwrap();
        let parts = |question: &Question| {
            (
                question.text(),
                question.solution.clone(),
                question.video.clone(),
                question.extra.clone(),
            )
        };
        assert_eq!(parts(&official[0]), parts(&family[0]));
        assert_eq!(family[0].id, "0");
    }

    #[test]
    fn a_clip_is_its_subject_and_number_however_it_is_named() {
        for path in [
            "Art/0.mp4",
            "videos/Art/0.mp4",
            "/yale-nlp/MMVU/videos/Art/0.mp4",
            "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/0.mp4",
            "https://example.org/videos/Art/0.mp4?download=true",
        ] {
            assert_eq!(subject_clip(path), Path::new("Art/0.mp4"), "{path}");
        }
    }

    #[test]
    fn there_are_27_subjects() {
        let count: usize = DISCIPLINES.iter().map(|(_, subjects)| subjects.len()).sum();
        assert_eq!(count, 27);
    }
}
