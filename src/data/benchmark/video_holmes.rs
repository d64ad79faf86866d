//! Video-Holmes (`test_Video-Holmes.json`): seven types of question about 270 short films.

use super::Found;
use super::record::path_after;
use super::record::question;
use super::record::with_splits;
use super::records::Record;
use crate::data::Question;
use crate::data::answer::option::letter_of;
use std::path::PathBuf;

pub(super) fn read(record: &Record, found: &mut Found) -> Result<(), String> {
    let (read, kind, id) = if record.is_family() {
        let read = record.family(|clip| path_after(clip, "/videos/"))?;
        let field = |name| record.optional_text(name);
        (read, field("question_type"), field("question_id"))
    } else {
        let options = record.options("Options")?;
        let letter = letter_of(&record.text("Answer")?, &options)?;
        let video = PathBuf::from(record.text("video ID")? + ".mp4");
        let read = question(record.text("Question")?, options, &letter, video);
        let (kind, id) = (record.text("Question Type")?, record.text("Question ID")?);
        (read, Some(kind), Some(id))
    };
    // Together with the film an id is unique even where questions are numbered within a film.
    let film = read.video.file_stem().unwrap_or_default().to_string_lossy();
    let id = id.map(|id| format!("{film}/{id}"));
    found.questions.push(Question {
        id: id.unwrap_or_default(),
        ..with_splits(read, [("type", kind)])
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read_file, splits};
    use crate::config::Benchmark;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn both_shapes_give_the_same_question() {
        let official = json!([{
            "video ID": "abc-1", "Question ID": "7", "Question Type": "SR", "Question": "How are they related?",
            "Options": {"A": "sisters", "B": "friends", "C": "strangers", "D": "rivals", "E": "one person", "F": "neighbours"},
            "Answer": "E", "Explanation": "They never appear together.",
        }]);
        let problem = "How are they related? \nA. sisters\nB. friends\nC. strangers\nD. rivals\nE. one person\nF. neighbours";
        let family = json!([{
            "video": "/Video-Holmes/videos/abc-1.mp4", "question_id": "7", "question_type": "SR", "question": "How are they related?",
            "problem": problem, "solution": "<answer>E</answer>", "source": "video_holmes", "explanation": "",
            "options": ["sisters", "friends", "strangers", "rivals", "one person", "neighbours"],
        }]);
        let official =
            read_file(Benchmark::VideoHolmes, "test_Video-Holmes.json", &official).unwrap();
        let family = read_file(Benchmark::VideoHolmes, "eval_video_holmes.json", &family).unwrap();
        for question in [&official[0], &family[0]] {
            assert_eq!(question.id, "abc-1/7");
            assert_eq!(question.video, Path::new("abc-1.mp4"));
            assert_eq!(question.solution, "<answer>E</answer>");
            assert_eq!(splits(question), [("type", "SR")]);
            assert_eq!(question.choices()[5], "neighbours");
        }
        assert_eq!(family[0].text(), problem);
        assert_eq!(official[0].text(), problem.replace("? \n", "?\n"));
    }
}
