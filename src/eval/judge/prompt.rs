//! What a judge is asked, in our own words for the benchmarks' procedures, and what its reply says.

use crate::data::JudgeTask;
use crate::data::answer::AnswerForm;
use crate::data::answer::ReadBy;
use crate::data::answer::option::choices_in;
use crate::data::answer::strict;
use crate::eval::fingerprint;
use crate::eval::prediction::JudgeVerdict;
use serde::Deserialize;
use serde::Serialize;

/// Which judge, in `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JudgedBy {
    /// Its name at the endpoint.
    pub(crate) model: String,
    /// A fingerprint of the words it is asked in.
    pub(crate) wording_hash: String,
}

impl JudgedBy {
    /// The judge `model`, asked in this version's words.
    pub(in crate::eval) fn of(model: &str) -> Self {
        let tasks = [
            JudgeTask::Caption(String::new()),
            JudgeTask::Open(String::new()),
        ];
        let words = tasks.map(|task| words(&task, "", ""));
        Self {
            model: model.to_owned(),
            wording_hash: fingerprint::of_text(&words.join("\u{0}")),
        }
    }
}

/// What the judge reads; TempCompass's and MMVU's procedures in our own words.
pub(super) fn words(task: &JudgeTask, answer: &str, truth: &str) -> String {
    match task {
        JudgeTask::Caption(question) => format!(
            "Here is what somebody wrote about a video, and a question about that video. Which option agrees with the text? Go by \
                 the text alone. If it says nothing that tells the options apart, the reply is: none\n\n\
                 Text:\n{answer}\n\nQuestion:\n{question}\n\nReply with one option's letter, or none, and with nothing else."
        ),
        JudgeTask::Open(question) => format!(
            "Somebody answered a question about a video. Does the answer mean the same as the right answer? Other words, spellings and \
                 units, or more detail, are no fault; another thing, number or claim is.\n\n\
                 Question:\n{question}\n\nRight answer:\n{truth}\n\nAnswer:\n{answer}\n\nReply with the word correct or incorrect, and with \
                 nothing else."
        ),
    }
}

/// What a reply says. An option other than the right one, and none, are wrong.
pub(super) fn verdict(task: &JudgeTask, reply: &str, truth: &str) -> JudgeVerdict {
    let word = strict::read(reply, AnswerForm::Words).answer;
    match task {
        JudgeTask::Caption(_) if word.eq_ignore_ascii_case("none") => JudgeVerdict::Wrong,
        JudgeTask::Caption(question) => {
            let options = choices_in(question);
            let read = strict::read(reply, AnswerForm::Options(&options));
            match read.answer.as_str() {
                // A judge is to name the option, not to talk of it.
                _ if read.read_by == ReadBy::Prose => JudgeVerdict::Unread,
                "" => JudgeVerdict::Unread,
                letter if letter == truth => JudgeVerdict::Right,
                _ => JudgeVerdict::Wrong,
            }
        }
        JudgeTask::Open(_) if word.eq_ignore_ascii_case("correct") => JudgeVerdict::Right,
        JudgeTask::Open(_) if word.eq_ignore_ascii_case("incorrect") => JudgeVerdict::Wrong,
        JudgeTask::Open(_) => JudgeVerdict::Unread,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_verdict_or_none() {
        let caption = JudgeTask::Caption("Where to?\nA. left\nB. right".into());
        for (reply, want) in [
            ("A", JudgeVerdict::Right),
            (" a. ", JudgeVerdict::Right),
            ("(A) left", JudgeVerdict::Right),
            ("<think>B? no</think>\n\nA", JudgeVerdict::Right),
            ("Answer: left", JudgeVerdict::Right),
            ("B", JudgeVerdict::Wrong),
            ("right.", JudgeVerdict::Wrong),
            ("A, B", JudgeVerdict::Wrong),
            ("None.", JudgeVerdict::Wrong),
            ("C", JudgeVerdict::Unread),
            ("The text says that it goes left", JudgeVerdict::Unread),
            ("<think>A", JudgeVerdict::Unread),
            ("", JudgeVerdict::Unread),
        ] {
            assert_eq!(verdict(&caption, reply, "A"), want, "{reply:?}");
        }
        let open = JudgeTask::Open("Which style?".into());
        for (reply, want) in [
            ("correct", JudgeVerdict::Right),
            ("**Correct.**", JudgeVerdict::Right),
            ("<think>incorrect?</think>correct", JudgeVerdict::Right),
            ("Incorrect", JudgeVerdict::Wrong),
            ("not correct", JudgeVerdict::Unread),
            ("", JudgeVerdict::Unread),
        ] {
            assert_eq!(verdict(&open, reply, "Gothic"), want, "{reply:?}");
        }
    }

    #[test]
    fn the_judge_reads_the_answer_and_for_open_questions_the_truth() {
        let caption = words(
            &JudgeTask::Caption("Where to?\nA. left".into()),
            "It rolls.",
            "A",
        );
        assert!(caption.contains("It rolls.") && caption.contains("A. left"));
        let open = words(
            &JudgeTask::Open("Which style?".into()),
            "Baroque",
            "Late Gothic",
        );
        for part in ["Which style?", "Baroque", "Late Gothic"] {
            assert!(open.contains(part), "{open}");
        }
    }
}
