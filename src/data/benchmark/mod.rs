//! Benchmarks as they are published: the official files (JSON, JSON lines, parquet, or a folder of them) and the JSON of the
//! Video-R1 family, of which the authors' code is one, become [`Question`]s.
//!
//! Clip paths are relative to `data.video_root`, in the layout of the official archives, whichever file is read;
//! [`find_clips`] knows the other layouts ([`super::locate`] the paths of other machines that CLEVRER's files may have).

use super::DataError;
use super::Question;
use super::answer::option::letter_index;
use super::answer::option::letter_of;
use super::read::with_unique_ids;
use crate::config::Benchmark;
use records::Record;
use std::collections::BTreeMap;
use std::path::Path;
use tempcompass::MultiChoice;
use tempcompass::Tasks;

mod clevrer;
mod mmvu;
mod mvbench;
pub(super) mod parquet;
mod places;
mod record;
pub(super) mod records;
mod table;
mod tempcompass;
mod video_holmes;
mod videomme;

pub(crate) use places::find_clips;

/// Reads every question of a benchmark's file or folder. With `clip_bounds`, a question about a part of a clip names it
/// ([`super::Span`]).
pub fn read(
    benchmark: Benchmark,
    path: &Path,
    clip_bounds: bool,
) -> Result<Vec<Question>, DataError> {
    let mut found = Found::default();
    records::for_each(path, &mut |mut record: Record| {
        let record = &mut record;
        let before = found.questions.len();
        refuse_foreign(benchmark, record)?;
        match benchmark {
            Benchmark::Clevrer => clevrer::read(record, &mut found),
            Benchmark::Mmvu => mmvu::read(record, true, &mut found),
            Benchmark::MmvuOpen => mmvu::read(record, false, &mut found),
            Benchmark::VideoHolmes => video_holmes::read(record, &mut found),
            Benchmark::Mvbench => mvbench::read(record, clip_bounds, &mut found),
            Benchmark::Tempcompass => tempcompass::read(record, Tasks::WithRules, &mut found),
            Benchmark::TempcompassCaptioning => {
                tempcompass::read(record, Tasks::Captioning, &mut found)
            }
            Benchmark::TempcompassFlat => tempcompass::read(record, Tasks::Flat, &mut found),
            Benchmark::Videomme => videomme::read(record, &mut found),
        }
        .map_err(|problem| {
            format!(
                "{problem} (read as the benchmark {}, eval.benchmark)",
                benchmark.as_str()
            )
        })?;
        for question in &found.questions[before..] {
            check(question)?;
        }
        Ok(())
    })?;
    for (reason, count) in &found.left_out {
        tracing::info!("{}: {count} left out: {reason}", benchmark.as_str());
    }
    if found.questions.is_empty() {
        return Err(DataError::Empty {
            path: path.to_owned(),
            problem: format!(
                "holds no question of the benchmark {} (eval.benchmark)",
                benchmark.as_str()
            ),
        });
    }
    let numbered = found.questions.into_iter().enumerate();
    let placed = numbered
        .map(|(index, question)| (format!("question {index} (counted from 0)"), question))
        .collect();
    with_unique_ids(path, placed)
}

/// A question by itself, as an answer to it is scored. `answer` is the right option's letter, its text or both, or words; the
/// options stand in `options`, or as lines of `problem`.
///
/// # Errors
/// The answer is none of the options.
pub(crate) fn question_of(
    problem: String,
    options: Vec<String>,
    answer: &str,
) -> Result<Question, String> {
    let mut question = record::question(problem, options, answer, "".into());
    let choices = question.choices();
    if !choices.is_empty() && !answer.contains("<answer>") {
        let letter = letter_of(answer, &choices)?;
        question.solution = format!("<answer>{letter}</answer>");
    }
    Ok(question)
}

/// What was read so far.
#[derive(Debug, Default)]
struct Found {
    questions: Vec<Question>,
    /// What is not asked, and why.
    left_out: BTreeMap<&'static str, usize>,
    /// The questions that captions are judged by, once they are needed.
    multi_choice: Option<MultiChoice>,
}

impl Found {
    fn leave_out(&mut self, reason: &'static str) {
        *self.left_out.entry(reason).or_default() += 1;
    }
}

/// Folders that a record of the Video-R1 family names when it is of a benchmark.
const FOLDERS: [(Benchmark, &[&str]); 5] = [
    (Benchmark::Mmvu, &["/mmvu/"]),
    (Benchmark::Mvbench, &["/mvbench/"]),
    (
        Benchmark::VideoHolmes,
        &["/video-holmes/", "/video_holmes/"],
    ),
    (Benchmark::Tempcompass, &["/tempcompass/"]),
    (
        Benchmark::Videomme,
        &["/video-mme/", "/videomme/", "/video_mme/"],
    ),
];

/// A record whose clip is another benchmark's is not read as this one's.
fn refuse_foreign(benchmark: Benchmark, record: &Record) -> Result<(), String> {
    if !record.is_family() {
        return Ok(());
    }
    let Some(video) = record.clip()? else {
        return Ok(());
    };
    let path = video.to_lowercase();
    let names = |folders: &&[&str]| folders.iter().any(|folder| path.contains(folder));
    let of = FOLDERS.iter().find(|(_, folders)| names(folders));
    let same = match benchmark {
        Benchmark::MmvuOpen => Benchmark::Mmvu,
        Benchmark::TempcompassFlat | Benchmark::TempcompassCaptioning => Benchmark::Tempcompass,
        other => other,
    };
    match of {
        Some((other, _)) if *other != same => Err(format!(
            "its clip, {video}, is of the benchmark {}, not of {} (eval.benchmark)",
            other.as_str(),
            benchmark.as_str()
        )),
        _ => Ok(()),
    }
}

/// More questions than are published are not that benchmark's.
///
/// # Errors
/// There are more.
pub(crate) fn refuse_too_many(
    benchmark: Benchmark,
    found: usize,
    path: &Path,
) -> Result<(), DataError> {
    let Some(published) = benchmark
        .published_questions()
        .filter(|count| found > *count)
    else {
        return Ok(());
    };
    let flat = if benchmark == Benchmark::Tempcompass {
        ": with captions among them it is tempcompass_flat"
    } else {
        ", or are files in the folder that do not belong to it?"
    };
    Err(DataError::Empty {
        path: path.to_owned(),
        problem: format!(
            "holds {found} questions, the benchmark {} has {published}; is eval.benchmark the right one{flat}",
            benchmark.as_str()
        ),
    })
}

/// A question can be asked and scored.
fn check(question: &Question) -> Result<(), String> {
    if question.problem.trim().is_empty() {
        return Err("the question is empty".into());
    }
    if question.answer().is_empty() {
        return Err("there is no right answer".into());
    }
    if question.video.as_os_str().is_empty() {
        return Err("no clip is named".into());
    }
    let choices = question.choices().len();
    let is_option = |item: &str| letter_index(item).is_some_and(|index| index < choices);
    let answer = question.answer();
    if choices > 0 && question.judge.is_none() && !answer.items().all(is_option) {
        return Err(format!(
            "the answer `{answer}` is none of the {choices} options"
        ));
    }
    if question.lacks_options() {
        return Err(
            "the right answer is an option's letter, but there are no options, neither in a list `options` nor as lines \
             `A. …` of the question: it cannot be asked"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one file of this name and content as a benchmark.
    pub(super) fn read_file(
        benchmark: Benchmark,
        name: &str,
        content: &serde_json::Value,
    ) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        read(benchmark, &path, true).map_err(|error| error.to_string())
    }

    /// Name, value.
    pub(super) fn splits(question: &Question) -> Vec<(&str, &str)> {
        question.splits().collect()
    }

    #[test]
    fn errors_name_file_place_and_field() {
        let bare = serde_json::json!([{"problem_id": 1, "problem": "Who?", "solution": "<answer>A</answer>", "video": "/videos/a/1.mp4"}]);
        let error = read_file(Benchmark::VideoHolmes, "v.json", &bare).unwrap_err();
        assert!(
            error.contains("record 0") && error.contains("no options"),
            "{error}"
        );
        let broken = serde_json::json!([{"question_id": "1-1", "videoID": "x", "question": "Who?", "answer": "A"}]);
        let error = read_file(Benchmark::Videomme, "v.json", &broken).unwrap_err();
        for part in ["v.json", "record 0", "`options`", "benchmark videomme"] {
            assert!(error.contains(part), "{error}");
        }
        let wrong = serde_json::json!([{"question_id": "1-1", "videoID": "x", "question": "Who?", "answer": "C", "options": ["A. me", "B. you"]}]);
        let error = read_file(Benchmark::Videomme, "v.json", &wrong).unwrap_err();
        assert!(
            error.contains("`C`") && error.contains("2 options"),
            "{error}"
        );
        let error = read_file(Benchmark::Videomme, "v.json", &serde_json::json!([])).unwrap_err();
        assert!(
            error.contains("no question of the benchmark videomme"),
            "{error}"
        );
        let error = read_file(Benchmark::Mmvu, "v.json", &serde_json::json!(3)).unwrap_err();
        assert!(error.contains("array"), "{error}");
        let error = read_file(Benchmark::Mmvu, "v.json", &serde_json::json!([3])).unwrap_err();
        assert!(error.contains("record 0"), "{error}");
    }

    #[test]
    fn a_hundred_thousand_questions_take_little_memory() {
        let mut text = String::new();
        for index in 0..100_000 {
            text.push_str(if index == 0 { "[" } else { "," });
            text.push_str(&format!(
                r#"{{"question_id":"{index}","videoID":"clip{}","duration":"short","domain":"Sports","sub_category":"Ball","task_type":"Counting","question":"Who of the people by the window stands up first?","options":["A. nobody","B. the man in the red shirt","C. a dog","D. they all do"],"answer":"B"}}"#,
                index / 3
            ));
        }
        text.push(']');
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("many.json");
        std::fs::write(&path, text).unwrap();
        let questions = read(Benchmark::Videomme, &path, true).unwrap();
        assert_eq!(questions.len(), 100_000);
        // Beside them only the file's text is in memory, and one record.
        let text = std::fs::metadata(&path).unwrap().len() as usize;
        let held: usize = questions.iter().map(held_bytes).sum();
        assert!(text + held < 250 << 20, "{text} and {held} bytes");
    }

    /// Bytes that a question holds, texts, lists and fields counted by their capacity.
    fn held_bytes(question: &Question) -> usize {
        let texts = [&question.id, &question.problem, &question.solution];
        let options = question.options.iter().flatten();
        let value = |value: &serde_json::Value| value.to_string().len() + 64;
        std::mem::size_of::<Question>()
            + texts.iter().map(|text| text.capacity()).sum::<usize>()
            + question.video.capacity()
            + options.map(|option| option.capacity() + 24).sum::<usize>()
            + question
                .extra
                .iter()
                .map(|(name, held)| name.len() + 3 * value(held))
                .sum::<usize>()
    }
}
