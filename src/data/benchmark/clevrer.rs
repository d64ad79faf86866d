//! CLEVRER: the counterfactual questions of the validation file, from the official scenes (then without the split into
//! observational and inferential, which needs the annotations) or as `data clevrer` and the authors write them.

use super::Found;
use super::records::Record;
use crate::data::Question;
use crate::data::answer::option::letters;
use crate::data::clevrer::OfficialAnswer;
use crate::data::clevrer::OfficialQuestion;
use crate::data::clevrer::OfficialScene;
use crate::data::clevrer::video_path;
use crate::data::shapes;
use crate::util::json;
use serde_json::Value;

pub(super) fn read(record: &mut Record, found: &mut Found) -> Result<(), String> {
    let mut fields = std::mem::take(&mut record.fields);
    let is_scene = fields.contains_key("questions");
    if !is_scene {
        shapes::to_question(&mut fields)?;
    }
    let fields = Value::Object(fields);
    if is_scene {
        let scene: OfficialScene =
            serde_json::from_value(fields).map_err(|error| error.to_string())?;
        for question in &scene.questions {
            read_official(&scene, question, found)?;
        }
        return Ok(());
    }
    // A clip's path may be of the authors' machine: that is for `data::locate` to find out.
    let question: Question =
        serde_json::from_value(fields).map_err(|error| json::in_words(&error))?;
    found.questions.push(question);
    Ok(())
}

fn read_official(
    scene: &OfficialScene,
    question: &OfficialQuestion,
    found: &mut Found,
) -> Result<(), String> {
    if question.question_type != "counterfactual" {
        found.leave_out("not a counterfactual question");
        return Ok(());
    }
    let id = format!("clevrer/{}/{}", scene.scene_index, question.question_id);
    let mut right = Vec::new();
    for (choice, letter) in question.choices.iter().zip(letters()) {
        match choice.answer {
            Some(OfficialAnswer::Correct) => right.push(letter.to_string()),
            Some(OfficialAnswer::Wrong) => {}
            None => {
                return Err(format!(
                    "{id}: a choice has no `answer`, as in the test file"
                ));
            }
        }
    }
    if right.is_empty() {
        found.leave_out("no option is right");
        return Ok(());
    }
    let video = video_path(scene.scene_index);
    let question = super::record::question(question.problem(), Vec::new(), &right.join(","), video);
    found.questions.push(Question { id, ..question });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::read_file;
    use crate::config::Benchmark;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn official_scenes_give_their_counterfactual_questions() {
        let choice = |id: usize, text: &str, answer: &str| json!({"choice_id": id, "choice": text, "answer": answer, "program": []});
        let scenes = json!([{
            "scene_index": 10_009, "video_filename": "video_10009.mp4", "questions": [
                {"question_id": 0, "question": "How many?", "question_type": "descriptive", "answer": "3", "program": []},
                {"question_id": 1, "question": "What happens without the cube?", "question_type": "counterfactual", "program": [],
                 "choices": [choice(0, "x", "correct"), choice(1, "y", "wrong"), choice(2, "z", "correct")]},
                {"question_id": 2, "question": "What else?", "question_type": "counterfactual", "program": [],
                 "choices": [choice(0, "x", "wrong")]},
            ],
        }]);
        let questions = read_file(Benchmark::Clevrer, "validation.json", &scenes).unwrap();
        assert_eq!(questions.len(), 1);
        let question = &questions[0];
        assert_eq!(question.id, "clevrer/10009/1");
        assert_eq!(
            question.text(),
            "What happens without the cube?\nA. x\nB. y\nC. z"
        );
        assert_eq!(question.solution, "<answer>A,C</answer>");
        assert_eq!(
            question.video,
            Path::new("video_10000-11000/video_10009.mp4")
        );
    }

    #[test]
    fn written_questions_keep_their_kind() {
        let file = json!([
            {"id": "a", "problem": "What?\nA. x\nB. y", "solution": "<answer>B</answer>", "video": "videos/1.mp4", "kind": "inferential"},
            {"problem": "What?\nA. x\nB. y", "options": ["A. x", "B. y"], "solution": "<answer>A,B</answer>", "problem_type": "multiple",
             "video": "/mnt/authors/clevrer/video_validation/video_12345.mp4"},
        ]);
        let questions = read_file(Benchmark::Clevrer, "val_clevrer.json", &file).unwrap();
        assert_eq!(questions[0].kind.unwrap().as_str(), "inferential");
        assert_eq!(questions[0].video, Path::new("videos/1.mp4"));
        assert_eq!(
            questions[1].video,
            Path::new("/mnt/authors/clevrer/video_validation/video_12345.mp4")
        );
        assert_eq!(questions[1].id, "val_clevrer/1");
    }
}
